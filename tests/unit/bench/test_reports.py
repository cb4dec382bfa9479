from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.chart import draw
from tests.bench.main import main
from tests.bench.measure import Sample
from tests.bench.results import Report, WorkResult, from_json, to_json
from tests.bench.tables import figures_table, targets_table
from tests.bench.tools import HINTS

MIB = 1 << 20
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def report() -> Report:
    """Give a run with a target met, one missed, and gaps."""
    small = {
        "s3pool": [(1, Sample(1.0, 0.5, 40 * MIB)), (2, Sample(1.2, 0.5, 40 * MIB))],
        "s5cmd": [(1, Sample(4.0, 1.0, 20 * MIB)), (2, Sample(4.8, 1.0, 20 * MIB))],
    }
    proxied = {
        "s3pool": [(1, Sample(5.0, 1.0, 60 * MIB, 2500.0))],
        "haproxy": [(1, Sample(5.0, 0.1, 8 * MIB, 9000.0))],
    }
    works = [
        WorkResult("small-put", "5,000 x 4 KiB <upload>", "", small, {"aws": "not installed (pip install awscli)"}),
        WorkResult("proxy-small", "proxy: 4 KiB GET", "requests/s", proxied),
        WorkResult("delete", "10,000 deletes, RGW", "", {}, {"s3pool": "radosgw is not installed"}),
    ]
    return Report({"cpus": 2}, {"s5cmd": "v2.3.0"}, {"aws": "pip install awscli"}, False, works)


def test_result_comes_back_from_json(report: Report) -> None:
    """A table made again later says the same."""
    again = from_json(json.loads(json.dumps(to_json(report))))

    assert targets_table(report) == targets_table(again)
    assert figures_table(report) == figures_table(again)
    assert draw(report) == draw(again)


def test_json_of_another_format_is_refused() -> None:
    """Its figures may mean something else."""
    with pytest.raises(ValueError, match="format 0, not 1"):
        from_json({"format": 0})


def test_figures_stand_beside_their_ratios(report: Report) -> None:
    """The ratio says s3pool's part of the peer's."""
    lines = [line.split() for line in figures_table(report)]

    assert ["small-put", "s3pool", "2", "1.10", "s", "18%", "0.500", "40.0", "-", "-", "-"] in lines
    assert ["small-put", "s5cmd", "2", "4.40", "s", "18%", "1.000", "20.0", "0.25", "0.50", "2.00"] in lines
    assert [
        "proxy-small",
        "haproxy",
        "1",
        "9,000",
        "requests/s",
        "0%",
        "0.100",
        "8.0",
        "0.28",
        "10.00",
        "7.50",
    ] in lines


def test_tool_without_rounds_keeps_its_line(report: Report) -> None:
    """What is missing must be seen to be missing."""
    lines = [line.split() for line in figures_table(report)]

    assert ["small-put", "aws", "0", *"-------"] in lines
    assert [
        "small-put, aws: not installed (pip install awscli)",
        "delete, s3pool: radosgw is not installed",
    ] == report.gaps


def test_targets_are_judged_one_by_one(report: Report) -> None:
    """Met, missed and not measured are three things."""
    text = targets_table(report)
    lines = [line.split() for line in text]

    assert ["small-put", "s5cmd", "time", "<=", "0.333", "0.25", "met"] in lines
    assert ["small-put", "s5cmd", "CPU", "<=", "0.333", "0.50", "MISSED"] in lines
    assert ["small-put", "s5cmd", "memory", "<=", "1", "or", "45", "MiB", "2.00", "met"] in lines
    assert ["small-put", "aws", "time", "<=", "1", "-", "not", "measured"] in lines
    assert "targets: 3 met, 1 missed, 6 not measured" == text[-1]


def test_chart_has_a_bar_for_each_tool(report: Report) -> None:
    """The longest fills its row, and the others are in proportion."""
    root = ElementTree.fromstring(draw(report))

    bars = [(bar.get("class"), float(bar.get("width", ""))) for bar in root.iter(f"{SVG}rect")]
    assert ["ours", "peer", "ours", "peer"] == [kind for kind, _ in bars]
    assert pytest.approx(1.1 / 4.4, abs=0.01) == bars[0][1] / bars[1][1]
    assert pytest.approx(2500 / 9000, abs=0.01) == bars[2][1] / bars[3][1]


def test_chart_is_readable_on_dark_pages(report: Report) -> None:
    """Its text has no background of its own."""
    assert "prefers-color-scheme: dark" in draw(report)


def test_workload_that_failed_is_not_drawn(report: Report) -> None:
    """There is nothing to compare."""
    assert "deletes" not in draw(report)


def test_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Measuring everything instead would take half an hour."""
    with pytest.raises(SystemExit):
        main(["--only", "small-putt"])

    assert "no workload small-putt; there are small-put, " in capsys.readouterr().err


def test_redrawing_measures_nothing(report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The status still tells that something is missing, and what."""
    (tmp_path / "result.json").write_text(json.dumps(to_json(report)))

    code = main(["--redraw", str(tmp_path / "result.json"), "--out", str(tmp_path / "new")])

    captured = capsys.readouterr()
    assert 1 == code
    assert "bench: incomplete: 2 of the comparisons are missing\n" == captured.err.splitlines(keepends=True)[-1]
    assert captured.out == (tmp_path / "new" / "table.txt").read_text() + "\n"
    assert draw(report) == (tmp_path / "new" / "chart.svg").read_text()


def test_missing_server_is_a_gap_not_a_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without root nothing of Debian's can be installed here, and the result has to say so."""
    monkeypatch.setattr("tests.bench.main.find_tools", lambda: ({}, dict(HINTS)))

    code = main(["--only", "proxy-small", "--out", str(tmp_path)])

    reason = "nginx is not installed (apt-get install nginx-light); wrk is not installed (apt-get install wrk)"
    assert 1 == code
    assert f"bench: not measured: proxy-small, s3pool: {reason}\n" in capsys.readouterr().err
    result = json.loads((tmp_path / "result.json").read_text())
    assert {"s3pool": reason} == result["workloads"][0]["errors"]
    assert "apt-get install haproxy" == result["missing"]["haproxy"]

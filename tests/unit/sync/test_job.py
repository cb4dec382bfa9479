"""What a sync is asked, what holds deletes back, and what it tells Prometheus."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3pool.errors import LocalFileError, UsageError
from s3pool.record import replace
from s3pool.sync.job import (
    HALF,
    LAST_SUCCESS,
    Gauge,
    MaxDelete,
    Situation,
    format_metrics,
    last_success,
    parse_max_delete,
    why_hold_back,
    write_atomically,
)

CLEAN = Situation(
    scans_ended=True,
    out_of_time=False,
    failed=0,
    refused=0,
    not_started=0,
    source_names=500,
    target_names=600,
    to_delete=100,
)


def judge(situation: Situation, max_delete: MaxDelete = HALF, *, allow_empty_source: bool = False) -> str:
    """Ask the guard."""
    return why_hold_back(situation, max_delete=max_delete, allow_empty_source=allow_empty_source)


def test_a_clean_run_may_delete() -> None:
    """The guard is for accidents."""
    assert judge(CLEAN) == ""


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"scans_ended": False}, "listings"),
        ({"out_of_time": True}, "time was up"),
        ({"failed": 1}, "1 failed"),
        ({"refused": 2}, "2 skipped"),
        ({"not_started": 3}, "3 not finished"),
        ({"source_names": 0}, "empty"),
        ({"to_delete": 301}, "301 of 600"),
    ],
)
def test_each_accident_holds_deletes_back(change: dict[str, int], word: str) -> None:
    """One reason is enough, and it is named."""
    assert word in judge(replace(CLEAN, **change))  # type: ignore[arg-type]


def test_an_empty_source_may_be_meant() -> None:
    """With the word for it, a target can be emptied."""
    assert judge(replace(CLEAN, source_names=0), allow_empty_source=True) == ""


@pytest.mark.parametrize(
    ("text", "to_delete", "present", "refused"),
    [
        ("50%", 100, 100, False),  # so few may go in any case
        ("50%", 101, 101, True),
        ("50%", 101, 202, False),
        ("50%", 102, 203, True),
        ("0%", 101, 10**6, True),
        ("100%", 5000, 5000, False),
        ("none", 5000, 5000, False),
        ("10", 10, 20, False),
        ("10", 11, 10**6, True),
        ("0", 1, 10**6, True),
    ],
)
def test_limits_count_or_weigh(text: str, to_delete: int, present: int, refused: bool) -> None:
    """A number counts from the first object on, a share only beyond a hundred."""
    assert refused == parse_max_delete(text).refuses(to_delete, present)


@pytest.mark.parametrize("text", ["50%", "12.5%", "10", "none"])
def test_a_limit_is_shown_as_it_was_written(text: str) -> None:
    """The message names the flag's value."""
    assert text == parse_max_delete(text).text


@pytest.mark.parametrize("text", ["", "x", "-1", "101%", "1.5", "nan%", "inf%", "%"])
def test_a_limit_that_makes_no_sense_is_refused(text: str) -> None:
    """A limit that is misread is no limit."""
    with pytest.raises(UsageError, match="bad limit"):
        parse_max_delete(text)


LABELS = {"source": 'a"b\\c\nd', "target": "s3/b/p/"}


def test_labels_are_escaped() -> None:
    """One name with a quote must not make the whole file unreadable."""
    text = format_metrics([Gauge("m", "Meaning.", [(LABELS, 1.5)]), Gauge("none", "Not there.", [])])

    assert text == '# HELP m Meaning.\n# TYPE m gauge\nm{source="a\\"b\\\\c\\nd",target="s3/b/p/"} 1.500\n'


def test_the_last_success_is_found_again(tmp_path: Path) -> None:
    """A run that fails must not make the last success unknown; other pairs' are not meant."""
    path = tmp_path / "m.prom"
    gauge = Gauge(LAST_SUCCESS, "When.", [({"source": "x"}, 1.0), (LABELS, 1700000000.25)])

    write_atomically(str(path), format_metrics([gauge]))

    assert 1700000000.25 == last_success(str(path), LABELS)
    assert last_success(str(path), {"source": "y"}) is None
    assert last_success(str(tmp_path / "missing"), LABELS) is None


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """A collector that reads at the wrong moment gets the old one."""
    path = tmp_path / "m.prom"
    old = "# HELP s3pool_sync_exit_code of the last run\n"
    path.write_text(old)
    reader = path.open()

    write_atomically(str(path), "new\n")

    assert (old, "new\n") == (reader.read(), path.read_text())
    assert ["m.prom"] == [found.name for found in tmp_path.iterdir()]
    reader.close()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The command says so."""
    with pytest.raises(LocalFileError, match="cannot write"):
        write_atomically(str(tmp_path / "missing" / "m.prom"), "x")

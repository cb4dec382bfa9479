from __future__ import annotations

from pathlib import Path

import pytest

from s3pool.errors import LocalFileError
from s3pool.sync.textfile import LAST_SUCCESS, Gauge, format_metrics, last_success, write_atomically

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

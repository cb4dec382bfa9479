from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.checks import CHUNK_BYTES, check_lines, check_same_bytes, check_same_tree, write_random, write_tree
from tests.bench.measure import WorkError


def test_same_tree_passes(tmp_path: Path) -> None:
    """Or no work would ever count."""
    write_tree(tmp_path / "a", ["f", "d/g"], size=10)
    (tmp_path / "b/d").mkdir(parents=True)
    for name in ("f", "d/g"):
        (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())

    check_same_tree(tmp_path / "a", tmp_path / "b")


def test_missing_file_is_told(tmp_path: Path) -> None:
    """A client that stops early is fast."""
    write_tree(tmp_path / "a", ["f", "g"], size=1)
    write_tree(tmp_path / "b", ["f"], size=1)

    with pytest.raises(WorkError, match=r"1 files instead of 2; for example \['g'\]"):
        check_same_tree(tmp_path / "a", tmp_path / "b")


def test_other_bytes_are_told(tmp_path: Path) -> None:
    """Of the right size, but not what was asked for."""
    (tmp_path / "a").write_bytes(b"right")
    (tmp_path / "b").write_bytes(b"wrong")

    with pytest.raises(WorkError, match="other bytes than were asked for in b"):
        check_same_bytes([tmp_path / "a"], [tmp_path / "b"])


@pytest.mark.parametrize("cut", [1, CHUNK_BYTES, CHUNK_BYTES + 7])
def test_parts_are_compared_as_a_whole(tmp_path: Path, cut: int) -> None:
    """Each client cuts at sizes of its own."""
    whole = tmp_path / "whole"
    write_random(whole, 3 * CHUNK_BYTES + 5)
    (tmp_path / "1").write_bytes(whole.read_bytes()[:cut])
    (tmp_path / "2").write_bytes(whole.read_bytes()[cut:])

    check_same_bytes([whole], [tmp_path / "1", tmp_path / "2"])
    with pytest.raises(WorkError, match="other bytes"):
        check_same_bytes([whole], [tmp_path / "2", tmp_path / "1"])


def test_lost_part_is_told(tmp_path: Path) -> None:
    """Nothing was stored at all: that is 0 bytes, not an error of ours."""
    (tmp_path / "a").write_bytes(b"content")

    with pytest.raises(WorkError, match="0 bytes instead of 7 in b"):
        check_same_bytes([tmp_path / "a"], [tmp_path / "b"])


@pytest.mark.parametrize(
    "line",
    [
        "[2026-01-22 20:44:33 UTC]   4.6KiB STANDARD data/000/object-000001",
        "2026/01/22 20:44:33              4711  data/000/object-000001",
        "2026-01-22 20:44:33       4711 s3://listed/data/000/object-000001",
        "2026-01-22 20:44:33;4711;data/000/object-000001",
    ],
)
def test_lines_of_every_client_are_understood(tmp_path: Path, line: str) -> None:
    """They differ in all but the key at the end."""
    (tmp_path / "out").write_text(f"{line}\n")

    check_lines(tmp_path / "out", ["data/000/object-000001"])
    with pytest.raises(WorkError, match="in the place of 'data/000/object-000002'"):
        check_lines(tmp_path / "out", ["data/000/object-000002"])


def test_short_listing_is_told(tmp_path: Path) -> None:
    """A lost page must not look like speed."""
    (tmp_path / "out").write_text("a k1\n")

    with pytest.raises(WorkError, match="1 lines instead of 2"):
        check_lines(tmp_path / "out", ["k1", "k2"])

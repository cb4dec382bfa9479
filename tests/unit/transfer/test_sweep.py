"""Which temporary files a download removes from its directory, and which it leaves."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from s3pool.transfer import part_file, resume
from s3pool.transfer.part_file import PartFile, PartRegistry
from s3pool.transfer.resume import make_sweep

if TYPE_CHECKING:
    import pytest

LARGEST = 100


def registry(is_known: Callable[[str], bool] = lambda _: False) -> PartRegistry:
    """Give a registry that sweeps."""
    made = PartRegistry()
    made.sweep = make_sweep(is_known, largest=LARGEST)
    return made


def leave(directory: Path, name: str = "0123456789ab", *, size: int = 10) -> Path:
    """Leave a temporary file, as one that was killed does."""
    directory.mkdir(exist_ok=True)
    path = directory / f".s3pool-{name}.part"
    path.write_bytes(bytes(size))
    return path


def write(root: Path, relative: str, parts: PartRegistry) -> None:
    """Write one file."""
    part = PartFile(str(root), relative, registry=parts)
    part.commit()
    part.close()


def test_leftovers_go_from_where_a_file_is_written(tmp_path: Path) -> None:
    """And from nowhere else: the rest of the tree is not this command's."""
    here, elsewhere = leave(tmp_path / "d"), leave(tmp_path / "e")

    write(tmp_path, "d/f", registry())

    assert (False, True) == (here.exists(), elsewhere.exists())
    assert ["f"] == os.listdir(tmp_path / "d")


def test_what_somebody_is_at_work_on_stays(tmp_path: Path) -> None:
    """Another command may write into the same directory now."""
    path = leave(tmp_path)

    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        write(tmp_path, "f", registry())

    assert path.exists()


def test_what_may_be_gone_on_with_stays(tmp_path: Path) -> None:
    """Remembered ones, and large ones: they may be a sync's."""
    known, large = leave(tmp_path, "aaaaaaaaaaaa"), leave(tmp_path, "bbbbbbbbbbbb", size=LARGEST + 1)

    write(tmp_path, "f", registry(lambda name: name == known.name))

    assert (True, True) == (known.exists(), large.exists())


def test_other_files_and_links_stay(tmp_path: Path) -> None:
    """The name alone does not make a file ours."""
    target = tmp_path / "target"
    target.write_bytes(b"x")
    for name in ("a.part", ".s3pool-a", ".s3pool-notes.part", "s3pool-b.part"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".s3pool-00000000000a.part").symlink_to(target)
    (tmp_path / ".s3pool-00000000000b.part").mkdir()
    before = set(os.listdir(tmp_path))

    write(tmp_path, "f", registry())

    assert before | {"f"} == set(os.listdir(tmp_path))


def test_directory_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it for every file would be slower than the files."""
    seen: list[int] = []
    parts = PartRegistry()
    parts.sweep = seen.append
    monkeypatch.setattr(part_file, "MAX_ENTERED", 2)

    for name in ("d/a", "d/b", "e/a", "d/c", "g/a", "g/b"):
        write(tmp_path, name, parts)

    assert 3 == len(seen)


def test_huge_directory_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file must not wait for a million."""
    monkeypatch.setattr(resume, "MAX_ENTRIES", 3)
    for number in range(10):
        leave(tmp_path, f"{number:012x}")

    write(tmp_path, "f", registry())

    assert 7 + 1 == len(os.listdir(tmp_path))

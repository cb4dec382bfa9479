"""Whether the work was really done: the same names, the same bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.measure import WorkError

CHUNK_BYTES = 1 << 20
NAMES_SHOWN = 3


def write_random(path: Path, size: int) -> None:
    """Write bytes that nothing can compress or mistake for others."""
    with path.open("wb") as file:
        while size:
            size -= file.write(os.urandom(min(size, CHUNK_BYTES)))


def write_tree(directory: Path, names: Sequence[str], *, size: int) -> None:
    """Write a file of random bytes for each name, which may have directories."""
    for parent in {os.path.dirname(name) for name in names}:
        (directory / parent).mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_bytes(os.urandom(size))


def check_same_tree(wanted: Path, found: Path) -> None:
    """Raise WorkError unless both directories hold the same files with the same bytes."""
    names, others = set(_iter_names(wanted)), set(_iter_names(found))
    if names != others:
        apart = sorted(names ^ others)
        raise WorkError(f"{len(others)} files instead of {len(names)}; for example {apart[:NAMES_SHOWN]}")
    for name in names:
        check_same_bytes([wanted / name], [found / name])


def check_same_bytes(wanted: Sequence[Path], found: Sequence[Path]) -> None:
    """Raise WorkError unless the files, put together, hold the same bytes."""
    sizes = [sum(path.stat().st_size for path in paths if path.exists()) for paths in (wanted, found)]
    if sizes[0] != sizes[1]:
        raise WorkError(f"{sizes[1]} bytes instead of {sizes[0]} in {_names(found)}")
    if any(one != other for one, other in zip(_iter_chunks(wanted), _iter_chunks(found), strict=True)):
        raise WorkError(f"other bytes than were asked for in {_names(found)}")


def check_lines(path: Path, keys: Sequence[str]) -> None:
    """Raise WorkError unless a listing has one line for each key, in any order, that ends in it."""
    with path.open() as file:
        found = sorted(line.split()[-1].rpartition(";")[2].rpartition("://")[2] for line in file if line.strip())
    if len(found) != len(keys):
        raise WorkError(f"{len(found)} lines instead of {len(keys)}")
    for key, line in zip(sorted(keys), found, strict=True):
        if not line.endswith(key):
            raise WorkError(f"the listing has {line!r} in the place of {key!r}")


def _iter_names(directory: Path) -> Iterator[str]:
    for parent, _, names in os.walk(directory):
        for name in names:
            yield os.path.relpath(os.path.join(parent, name), directory)


def _iter_chunks(paths: Sequence[Path]) -> Iterator[bytes]:
    """Give the bytes of all files in pieces of one length, whatever the files' own lengths."""
    rest = b""
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES - len(rest)):
                rest += piece
                if len(rest) == CHUNK_BYTES:
                    yield rest
                    rest = b""
    if rest:
        yield rest


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:NAMES_SHOWN]) or "nothing"

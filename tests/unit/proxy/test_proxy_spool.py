"""Bodies that are read whole before they are sent."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from s3pool.body import BytesBody, FileSlice
from s3pool.proxy.bodies import MEMORY_BYTES, Spool
from s3pool.proxy.errors import S3ErrorResponse
from s3pool.proxy.limits import ByteBudget


def spool(memory: int = 8 << 20, disk: int = 8 << 20, directory: str = "") -> tuple[Spool, ByteBudget, ByteBudget]:
    """Give a spool and its two rooms."""
    rooms = ByteBudget(memory), ByteBudget(disk)
    return Spool(*rooms, directory=directory), *rooms


@pytest.mark.parametrize("memory", [0, 8 << 20])
@pytest.mark.parametrize("size", [0, 1, MEMORY_BYTES, MEMORY_BYTES + 1, 3 * MEMORY_BYTES])
def test_body_is_kept_whole_and_leaves_nothing_behind(memory: int, size: int, tmp_path: Path) -> None:
    """In memory while it is small and there is room, else on the disk."""
    content = bytes(range(256)) * (size // 256 + 1)
    collector, kept, disk = spool(memory, directory=str(tmp_path))

    spooled = collector.collect(io.BytesIO(content[:size]).readinto)  # type: ignore[arg-type]
    body = spooled.body
    found = body.content if isinstance(body, BytesBody) else read(body)
    spooled.close()
    spooled.close()

    assert content[:size] == found
    assert (size <= MEMORY_BYTES and memory > 0) or not size or isinstance(body, FileSlice)
    assert (0, 0, []) == (kept.used, disk.used, list(tmp_path.iterdir()))


def read(body: object) -> bytes:
    """Give the bytes of a file's slice."""
    assert isinstance(body, FileSlice)
    pieces: list[bytes] = []
    body.feed(lambda block: pieces.append(bytes(block)))
    return b"".join(pieces)


@pytest.mark.parametrize(
    ("disk", "others", "limit", "status"),
    [(2 << 20, 0, None, 411), (4 << 20, 3 << 20, None, 503), (8 << 20, 0, 1000, 400)],
    ids=["too large", "no room now", "more than is wanted"],
)
def test_body_without_room_is_refused(disk: int, others: int, limit: int | None, status: int) -> None:
    """And what it took is given back."""
    collector, kept, room = spool(disk=disk)
    room.take(others)

    with pytest.raises(S3ErrorResponse) as caught:
        collector.collect(io.BytesIO(bytes(3 << 20)).readinto, limit=limit)  # type: ignore[arg-type]

    assert (status, 0, others) == (caught.value.status, kept.used, room.used)


def test_full_disk_is_said_so(tmp_path: Path) -> None:
    """A directory that cannot be written to stands for it."""
    collector, _, room = spool(directory=str(tmp_path / "absent"))

    with pytest.raises(S3ErrorResponse) as caught:
        collector.collect(io.BytesIO(bytes(3 << 20)).readinto)  # type: ignore[arg-type]

    assert (503, 0) == (caught.value.status, room.used)

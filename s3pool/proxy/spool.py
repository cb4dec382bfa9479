"""Bodies whose length nobody said, read whole before they are sent: nodes must be told.

A little stays in memory, more goes to a file without a name. A body that ends early is
never sent at all, so no node can take a part of it for the whole.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from typing import BinaryIO

from s3pool.body import Body, BytesBody, FileSlice
from s3pool.proxy.budget import Budget
from s3pool.proxy.denial import Denial, slow_down

MEMORY_BYTES = 1 << 20  # what stays in memory of each
BLOCK_BYTES = 256 * 1024
FIRST_BLOCK_BYTES = 8 * 1024  # doubled whenever it comes full

Read = Callable[[memoryview], int]


class Spool:
    """Where such bodies are kept; one for all requests of a process."""

    def __init__(self, memory: Budget, disk: Budget, *, directory: str = "") -> None:
        self._memory = memory
        self._disk = disk
        self._directory = directory or None

    def collect(self, read: Read, *, limit: int | None = None, too_large: Denial | None = None) -> Spooled:
        """Read a body to its end, when ``read`` gives 0; the caller closes what comes back.

        ``limit`` is the most that is wanted, beside what the spool itself can hold, and
        ``too_large`` the answer to more than that.

        Raises:
            Denial: it is too large, or there is no room now. ClientGoneError: it broke off.
        """
        detail = f"a body of more than {self._disk.size} bytes needs a Content-Length"
        refusal = too_large or Denial(411, "MissingContentLength", detail, closes=True)
        spooled = Spooled(self._memory, self._disk, directory=self._directory, limit=limit, too_large=refusal)
        try:
            block = memoryview(bytearray(FIRST_BLOCK_BYTES))
            while count := read(block):
                spooled.add(block[:count])
                if count == len(block) < BLOCK_BYTES:
                    block = memoryview(bytearray(2 * count))
        except BaseException:
            spooled.close()
            raise
        return spooled


class Spooled:
    """One body, and the room that it takes until it is closed."""

    def __init__(
        self, memory: Budget, disk: Budget, *, directory: str | None, limit: int | None, too_large: Denial
    ) -> None:
        self._memory = memory
        self._disk = disk
        self._directory = directory
        self._limit = limit
        self._too_large = too_large
        self._kept = bytearray()
        self._in_memory = 0
        self._on_disk = 0
        self._file: BinaryIO | None = None
        self.length = 0

    def add(self, block: memoryview) -> None:
        """Take more bytes.

        Raises:
            Denial: they are too many, or the disk is full.
        """
        self.length += len(block)
        if self._limit is not None and self.length > self._limit:
            detail = "Your proposed upload exceeds the maximum allowed size"
            raise Denial(400, "EntityTooLarge", detail, closes=True)
        if self._file is None and self._has_memory():
            self._kept += block
            return
        self._reserve(self.length)
        try:
            self._write(block)
        except OSError as exc:
            raise slow_down(f"there is no room for this body: {exc.strerror}", closes=True) from exc

    def _has_memory(self) -> bool:
        """Return whether memory has room for what has arrived."""
        more = max(self.length - self._in_memory, 0)
        if self.length > MEMORY_BYTES or not self._memory.take(more):
            return False
        self._in_memory += more
        return True

    def _reserve(self, size: int) -> None:
        if size > self._disk.size:
            raise self._too_large
        if not self._disk.take(size - self._on_disk):
            raise slow_down("there is no room for this body now; try again", closes=True)
        self._on_disk = size

    def _write(self, block: memoryview) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 closed by close()
            _write_all(self._file, memoryview(self._kept))
            self._kept = bytearray()
        _write_all(self._file, block)

    @property
    def body(self) -> Body:
        """Give the body, good until this is closed."""
        if self._file is None:
            return BytesBody(bytes(self._kept))
        return FileSlice(self._file.fileno(), length=self.length)

    def close(self) -> None:
        """Give the room back; harmless when called twice."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._memory.give_back(self._in_memory)
        self._disk.give_back(self._on_disk)
        self._in_memory = self._on_disk = 0


def _write_all(file: BinaryIO, block: memoryview) -> None:
    left = block
    while left:
        left = left[os.write(file.fileno(), left) :]

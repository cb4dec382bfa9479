"""A body that comes from another pool while it is sent: nothing of it is kept."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from s3pool.errors import IntegrityError, ReplacedError, S3Error, S3PoolError, TransportError
from s3pool.hashing import new_hasher
from s3pool.transfer.context import NULL_METER
from s3pool.transfer.fetch import fetch_range

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3pool.body import Sink
    from s3pool.model import ByteRange
    from s3pool.transfer.context import Meter, TransferContext
    from s3pool.transfer.fetch import Facts, Source


class SourceError(S3PoolError):
    """The source failed while a request to the target was under way; ``error`` says how.

    It is no error of transport, so that the target's node is not blamed for it, and the
    request is not tried again elsewhere: the source was asked often enough.
    """

    def __init__(self, message: str, *, error: S3PoolError | None = None) -> None:
        super().__init__(message)
        self.error = error


class _SinkError(Exception):
    """The target failed; it must not be taken for a cut of the source's answer."""

    def __init__(self, error: TransportError) -> None:
        super().__init__(error.message)
        self.error = error


class SourceBody:
    """A range of an object, bound to its ETag, read through the worker's one buffer.

    To rewind it is to ask the source for the range again. A source that is cut is asked for the rest. ``md5`` is that
    of the bytes which passed by. With ``wanted_md5`` the last bytes are held back unless all have that digest: the
    target then stores nothing. ``digest`` is made as ``checksum`` says, the name of one of S3's. ``before`` is a hash
    of what goes before the range, for ``whole`` to go on with.
    """

    __slots__ = (
        "_before",
        "_checksum",
        "_context",
        "_known",
        "_meter",
        "_place",
        "_sent",
        "_source",
        "_wanted_md5",
        "digest",
        "md5",
        "whole",
    )

    rewindable = True

    def __init__(
        self,
        source: Source,
        place: ByteRange,
        known: Facts,
        *,
        context: TransferContext,
        meter: Meter,
        wanted_md5: str = "",
        before: hashlib._Hash | None = None,
        checksum: str = "",
    ) -> None:
        self._source = source
        self._place = place
        self._known = known
        self._context = context
        self._meter = meter
        self._wanted_md5 = wanted_md5
        self._before = before
        self._sent = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.whole = before
        self._checksum = checksum
        self.digest = new_hasher(checksum) if checksum else None

    @property
    def length(self) -> int:
        """The number of bytes of the range."""
        return self._place.length

    def rewind(self) -> None:
        """Begin anew: take back what was counted and hashed."""
        self._meter.advance(-self._sent)
        self._sent = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.whole = self._before.copy() if self._before is not None else None
        self.digest = new_hasher(self._checksum) if self._checksum else None

    def send(self, sink: Sink) -> None:
        """Pass the range on as it arrives.

        Raises:
            SourceError: the source does not give it. IntegrityError: it gives other bytes.
        """
        try:
            self._read(lambda block: self._pass_on(block, sink))
        except _SinkError as failed:
            raise failed.error from failed

    def feed(self, update: Callable[[memoryview], object]) -> None:
        """Hand the range to a hasher, and send nothing; raises SourceError as send() does."""

        def take(block: memoryview) -> None:
            self._hash(block)
            update(block)

        self._read(take)

    def _read(self, write: Callable[[memoryview], object]) -> None:
        self.rewind()
        try:
            fetch_range(
                self._source,
                self._place,
                total=self._known.size or 0,
                etag=self._known.etag,
                write=write,
                context=self._context,
                meter=NULL_METER,
            )
        except (TransportError, S3Error, ReplacedError) as exc:
            raise SourceError(exc.message, error=exc) from exc

    def _pass_on(self, block: memoryview, sink: Sink) -> None:
        self._hash(block)
        if self._wanted_md5 and self._sent + len(block) == self.length:
            self._check()
        try:
            sink.write(block)
        except TransportError as exc:
            raise _SinkError(exc) from exc
        self._sent += len(block)
        self._meter.advance(len(block))

    def _hash(self, block: memoryview) -> None:
        self.md5.update(block)
        if self.whole is not None:
            self.whole.update(block)
        if self.digest is not None:
            self.digest.update(block)

    def _check(self) -> None:
        found = self.md5.hexdigest()
        if found != self._wanted_md5:
            raise IntegrityError(
                f"{self._source}: the bytes that arrived have the MD5 {found}, the object has {self._wanted_md5}"
            )

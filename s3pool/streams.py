"""Objects as Python files: a reader that seeks and reads ahead, and a writer that uploads while it is written to."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable
from typing import Any

from s3pool.errors import IntegrityError, PreconditionError, ReplacedError, S3Error, StoppedError
from s3pool.location import S3Path
from s3pool.model import ByteRange, Response
from s3pool.s3.responses import PARTIAL, UNKNOWN, Known, etag_of, range_of, total_of
from s3pool.transfer.context import TransferContext
from s3pool.transfer.digests import StreamCheck
from s3pool.transfer.upload import StreamUpload

logger = logging.getLogger(__name__)

BLOCK_BYTES = 4 << 20
MAX_AHEAD = 4  # blocks that are on their way beside the one that is read
PARTS_IN_FLIGHT = 4
PEEK_BYTES = 8192  # that readline() looks at; it asks for one
EMPTY_STATUS = 416  # no range of an empty object exists


class _Block:
    """One range of an object, there or on its way; whoever is first gets it, a worker or the reader."""

    def __init__(self, fetch: Callable[[], bytes]) -> None:
        self._fetch = fetch
        self._turn = threading.Lock()  # held for ever by who gets it
        self._done = threading.Event()
        self._content = b""
        self._error: BaseException | None = None

    def run(self) -> None:
        """Get it, unless another thread does; never raises, for a worker."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            self._content = self._fetch()
        except BaseException as exc:  # noqa: BLE001 - raised again where the block is read
            self._error = exc
        self._done.set()

    def content(self) -> bytes:
        """Wait for the bytes, or get them where no worker has begun."""
        self.run()
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._content


def content_of_range(response: Response, path: S3Path, start: int, end: int) -> bytes:
    """Return the bytes of an answer to a range, which end with the object; a server may send it whole.

    Raises IntegrityError: it is another range, or only a part of it.
    """
    content = response.preload()
    if response.status != PARTIAL:
        return content[start:end]
    end = min(end, total_of(response) or 0)
    if range_of(response, path) != (start, end) or len(content) != end - start:
        raise IntegrityError(f"{path}: {response.endpoint} sent another range than was asked for")
    return content


class ReadStream(io.BufferedIOBase):
    """An object that is open for reading; for one thread at a time.

    Bytes come in blocks, each by a request of its own that goes to another node when one dies. Who reads on is
    read ahead of. All blocks are of one object: when it is replaced meanwhile, reading fails. What is read from
    the first to the last byte is checked like a download, before the last block is given.
    """

    def __init__(
        self, context: TransferContext, path: S3Path, *, version_id: str = "", block_size: int = BLOCK_BYTES
    ) -> None:
        super().__init__()
        self._context = context
        self._path = path
        self._version_id = version_id
        self._block_size = block_size
        self._blocks: dict[int, _Block] = {}
        self._position = 0
        self._last_block = -1
        self._ahead = 0
        self._known = UNKNOWN
        self._check: StreamCheck | None = None
        self._checked_blocks = 0  # in order from the first
        self._open_first()

    # -- what io expects -------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Return the path."""
        return self._path.text

    @property
    def size(self) -> int:
        """Return the size of the object."""
        return self._known.size or 0

    @property
    def etag(self) -> str:
        """Return the ETag of the object, without quotes."""
        return self._known.etag

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        self._check_open()
        return self._position

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on a closed file")

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another position; costs no request."""
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}.get(whence)
        if base is None:
            raise ValueError(f"whence is 0, 1 or 2, not {whence}")
        if base + offset < 0:
            raise ValueError("a position before the beginning")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Read so many bytes, or all that are left."""
        self._check_open()
        left = max(0, self.size - self._position)
        size = left if size is None or size < 0 else min(size, left)
        pieces = []
        while size > 0:
            piece = self._piece(size)
            pieces.append(piece)
            self._position += len(piece)
            size -= len(piece)
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def read1(self, size: int = -1, /) -> bytes:
        """Read what is there of one block, at most so many bytes."""
        piece = bytes(self._piece(self._block_size if size < 0 else size))
        self._position += len(piece)
        return piece

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer as far as the object goes."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and (piece := self._piece(len(view) - done)):
            view[done : done + len(piece)] = piece
            self._position += len(piece)
            done += len(piece)
        return done

    def peek(self, size: int = 0, /) -> bytes:
        """Return what is there of the current block without moving on; readline() lives by it."""
        return bytes(self._piece(max(size, PEEK_BYTES)))

    # -- blocks ----------------------------------------------------------------------------

    def _piece(self, size: int) -> memoryview:
        self._check_open()
        if self._position >= self.size:
            return memoryview(b"")
        index, offset = divmod(self._position, self._block_size)
        return memoryview(self._block(index))[offset : offset + size]

    def _block(self, index: int) -> bytes:
        if index != self._last_block:
            is_next = index == self._last_block + 1
            self._ahead = min(MAX_AHEAD, 2 * self._ahead or 1) if is_next and self._last_block >= 0 else 0
            self._last_block = index
            self._ask_for(index)
        content = self._blocks[index].content()
        if self._check is not None and index == self._checked_blocks:
            self._checked_blocks += 1
            self._check.update(memoryview(content))
            if self._checked_blocks * self._block_size >= self.size:
                self._check.check(self._path)
        return content

    def _ask_for(self, index: int) -> None:
        """Have a block and those after it fetched; forget the others."""
        end = min(index + self._ahead, (self.size - 1) // self._block_size)
        self._blocks = {number: block for number, block in self._blocks.items() if index <= number <= end}
        for number in range(index, end + 1):
            if number not in self._blocks:
                self._blocks[number] = block = _Block(lambda number=number: self._fetch(number))  # type: ignore[misc]
                if number > index:
                    self._context.executor.submit(block.run)

    def _fetch(self, number: int) -> bytes:
        first = number * self._block_size
        place = ByteRange(first, min(first + self._block_size, self.size) - 1)
        try:
            with self._get(place, if_match=self._known.etag, known=self._known) as response:
                return content_of_range(response, self._path, place.first, place.last + 1)
        except PreconditionError as exc:
            raise ReplacedError(f"{self._path}: the object was replaced while it was read") from exc

    def _get(self, place: ByteRange | None, *, if_match: str = "", known: Known = UNKNOWN) -> Response:
        return self._context.client.get_object(
            self._path.bucket,
            self._path.key,
            byte_range=place,
            range_header="" if place is not None else f"bytes=0-{self._block_size - 1}",
            if_match=if_match,
            version_id=self._version_id,
            checksums=True,
            known=known,
            read_bytes=self._block_size,
        )

    def _open_first(self) -> None:
        """Get the first block, which tells size and ETag of the whole."""
        try:
            response = self._get(None)
        except S3Error as exc:
            if exc.status != EMPTY_STATUS:
                raise
            head = self._context.client.head_object(self._path.bucket, self._path.key, version_id=self._version_id)
            self._known = Known(head.size, head.etag)
            return
        with response:
            if response.status == PARTIAL:
                content = content_of_range(response, self._path, 0, self._block_size)
                size = total_of(response) or 0
            else:  # a server without ranges; or the object is empty
                content = response.preload()
                size = len(content)
                self._block_size = max(size, self._block_size)
        self._known = Known(size, etag_of(response.headers))
        if self._context.options.verify:
            self._check = StreamCheck(size, self._known.etag, response.headers)
        self._blocks[0] = block = _Block(lambda: content)
        block.run()

    def close(self) -> None:
        """Let go of all blocks."""
        self._blocks = {}
        super().close()


class WriteStream(io.BufferedIOBase):
    """An object that is being written; it is there when close() has returned, and not before.

    A short one is stored in one piece, a long one in parts while it is written. Where the ``with`` block ends by an
    exception, or nobody closes it, nothing is stored.
    """

    def __init__(self, context: TransferContext, path: S3Path) -> None:
        super().__init__()
        self._path = path
        self._upload = StreamUpload(context, path.bucket, path.key, limit=PARTS_IN_FLIGHT)
        self._buffer = bytearray()
        self._written = 0
        self.etag = ""  # of the object, once it is closed
        self.waits = False  # close() stores nothing: commit() does
        self._is_waiting = False

    @property
    def name(self) -> str:
        """Return the path."""
        return self._path.text

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._written

    def write(self, content: Any, /) -> int:
        """Take bytes; whole parts leave at once, and an error of an earlier one is raised here."""
        if self.closed or self._is_waiting:
            raise ValueError("write to a closed file")
        view = memoryview(content).cast("B")
        self._buffer += view
        self._written += len(view)
        try:
            while len(self._buffer) > (size := self._upload.part_size):
                part = self._buffer[:size]
                del self._buffer[:size]
                self._upload.send(part)
        except BaseException as exc:
            self._drop(exc)
            raise
        return len(view)

    def close(self) -> None:
        """Store what was written, unless that ``waits`` for commit().

        Raises S3PoolError: it could not be stored; nothing is left of it.
        """
        self._is_waiting = self.waits
        if not self.waits:
            self.commit()

    def commit(self) -> None:
        """Store what was written, whether close() has been called or not. Errors: as close()."""
        if self.closed:
            return
        try:
            self.etag = self._upload.complete(self._buffer).etag
        except BaseException as exc:
            self._drop(exc)
            raise
        super().close()

    def discard(self) -> None:
        """Store nothing, and abort what has begun."""
        self._drop(StoppedError("nothing is to be stored"))

    def _drop(self, reason: BaseException) -> None:
        self._buffer = bytearray()
        if not self.closed:
            super().close()
            self._upload.abort(reason)

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        if not self.closed:
            logger.warning("%s was written to and never closed: nothing was stored", self._path)
            self.discard()

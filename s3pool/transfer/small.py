"""Small transfers, one request each, in steps: so one thread can have many under way.

They are the same transfers as upload.py and download.py make, without what only large or
unusual ones need. Whatever is unusual is not tried here: prepare() gives None, and the task
is done the general way.
"""

from __future__ import annotations

import os
import stat
import time
from binascii import b2a_base64
from collections.abc import Mapping
from hashlib import md5, sha256
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from s3pool.errors import ProtocolError, S3PoolError
from s3pool.model import UNSIGNED_PAYLOAD, Response
from s3pool.record import replace
from s3pool.s3.documents import PutResult
from s3pool.s3.exchange import Pending
from s3pool.s3.requests import attribute_headers
from s3pool.s3.responses import etag_of, put_result, stranger_in
from s3pool.transfer import attributes as stored
from s3pool.transfer.checksums import COMPARED_BYTES, Seal, check_stored, has_md5
from s3pool.transfer.smallfiles import SmallFiles
from s3pool.transfer.sourcefiles import SourceFiles
from s3pool.transfer.tasks import Done, DownloadTask, FileStamp, UploadTask
from s3pool.transfer.verify import check_small

if TYPE_CHECKING:
    from s3pool.transfer.engine import Engine, TransferOptions
    from s3pool.transfer.tasks import Item

SMALL_BYTES = 64 * 1024  # bodies up to this leave in one piece with their head, and come in one or two

KNOWN_EXTENSIONS = 256

R = TypeVar("R")


class GeneralWayError(Exception):
    """Something about a transfer is unusual: it is to be done the general way, from the start."""


def has_steps(options: TransferOptions) -> bool:
    """Say whether a run with these options may do small transfers in steps."""
    return not (options.no_clobber or options.update or options.checksum or options.remove_source or options.preserve)


def is_small(task: Item, engine: Engine) -> bool:
    """Say whether a task may be done in steps, as far as can be told without touching anything."""
    if not (isinstance(task, (UploadTask, DownloadTask)) and 0 <= task.size <= SMALL_BYTES):
        return False
    if not has_steps(engine.options):
        return False
    if isinstance(task, DownloadTask) and (task.version_id or not task.relative or task.relative.endswith("/")):
        return False
    return engine.in_question is None or not engine.in_question(task)


def is_hindered(task: Item, engine: Engine) -> bool:
    """Say whether something local is in the way of a small download, which the general way has words for."""
    if engine.why_not is None or not isinstance(task, DownloadTask):
        return False
    try:
        return engine.why_not(task) != ""
    except Exception:  # noqa: BLE001 - the general way meets it again, as the failure of this one task
        return True


class SmallTransfers:
    """Prepares small transfers; belongs to one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._files = SmallFiles(engine.parts)
        self._sources = SourceFiles(engine.options.links)
        # By the extension of the name: all that uploads of a run store alike.
        self._headers: dict[str, Mapping[str, str]] = {}

    def prepare(self, task: Item) -> SmallUpload | SmallDownload | None:
        """Give a transfer that is ready to begin; None when it needs the general way."""
        if isinstance(task, UploadTask):
            return self._prepare_upload(task)
        if not isinstance(task, DownloadTask) or is_hindered(task, self._engine):
            return None
        return SmallDownload(task, self._engine, self._files)

    def close(self) -> None:
        """Let go of what is open."""
        self._files.close()
        self._sources.close()

    def _prepare_upload(self, task: UploadTask) -> SmallUpload | None:
        found = _read(task, self._sources)
        if found is None:
            return None
        content, facts = found
        stem, _, extension = task.path.rpartition("/")[2].rpartition(".")
        # As with os.path.splitext: dots at the beginning make no extension.
        headers = self._headers_for(extension if stem.strip(".") else "")
        return SmallUpload(task, self._engine, content, facts=facts, headers=headers)

    def _headers_for(self, extension: str) -> Mapping[str, str]:
        headers = self._headers.get(extension)
        if headers is None:
            given = self._engine.options.attributes
            content_type = given.content_type or stored.guess_content_type(f"x.{extension}")
            headers = attribute_headers(replace(given, content_type=content_type))
            if len(self._headers) >= KNOWN_EXTENSIONS:  # where each name ends in a number of its own
                self._headers.clear()
            self._headers[extension] = headers
        return headers


def _read(task: UploadTask, sources: SourceFiles) -> tuple[bytes, os.stat_result] | None:
    """Read a small file whole, and give its facts; None for everything that is not plain."""
    try:
        fd = sources.open(task)
    except (OSError, S3PoolError):
        return None
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode) or before.st_size > SMALL_BYTES:
            return None
        content = os.read(fd, before.st_size + 1)
        after = os.fstat(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    # Also a read that gave less than there is: the general way goes on where it ended.
    is_whole = len(content) == after.st_size == before.st_size and before.st_mtime_ns == after.st_mtime_ns
    return (content, after) if is_whole else None


class _Small(Pending[R]):
    """One small transfer: sent as one of many; then done, or first_done, and finish where that gives None."""

    __slots__ = ("engine", "started", "task")

    # Everything is set by the subclasses' constructors, of which one runs for each object.
    task: Item
    engine: Engine
    started: float

    def done(self) -> Done:
        """Make of the answer, which has landed, what the task was for.

        Raises:
            GeneralWayError: the task is to be done in the general way.
        """
        raise NotImplementedError

    def first_done(self) -> Done | None:
        """Wait for the rest of the answer; None when finish() has to go on, which may take its time.

        Raises:
            GeneralWayError: the task is to be done in the general way.
        """
        return self.done() if self.has_result() else None

    def finish_done(self) -> Done:
        """Go on after a first failure."""
        self.finish()
        return self.done()


class SmallUpload(_Small[PutResult]):
    """One file that is in memory already, on its way to S3."""

    __slots__ = ("_facts", "_md5", "_size")

    def __init__(
        self, task: UploadTask, engine: Engine, content: bytes, *, facts: os.stat_result, headers: Mapping[str, str]
    ) -> None:
        self.task = task
        self.engine = engine
        self.started = time.monotonic()
        self._facts = facts
        self._size = len(content)
        headers = dict(headers)
        if stored.MTIME_HEADER not in headers:
            headers[stored.MTIME_HEADER] = stored.format_mtime(facts.st_mtime_ns)
        if engine.options.sign_payload:
            is_compared = self._size <= COMPARED_BYTES and has_md5()
            self._md5 = md5(content, usedforsecurity=False).hexdigest() if is_compared else ""
            payload_hash = sha256(content).hexdigest()
        else:
            digest = md5(content, usedforsecurity=False).digest()
            self._md5 = digest.hex()
            headers["content-md5"] = b2a_base64(digest, newline=False).decode()
            payload_hash = UNSIGNED_PAYLOAD
        client = engine.client
        request = client.small_put(task.bucket, task.key, content, payload_hash=payload_hash, headers=headers)
        super().__init__(client.sender, request, put_result, is_content=False)

    def done(self) -> Done:
        """Compare what the server tells of the object with what was sent."""
        result = self.result
        if self._md5 and result.etag != self._md5:
            check_stored(self.task.target, result, Seal(UNSIGNED_PAYLOAD, md5_hex=self._md5))
        self.engine.progress.whole(self._size)
        return Done(self._size, result.etag, self._facts.st_mtime_ns, result.version_id, sent=FileStamp.of(self._facts))


class _Got(NamedTuple):
    """A small object as it came."""

    content: bytes
    headers: Mapping[str, str]


class SmallDownload(_Small[_Got]):
    """One small object on its way to a file."""

    __slots__ = ("_files", "_place")

    def __init__(self, task: DownloadTask, engine: Engine, files: SmallFiles) -> None:
        self.task = self._place = task
        self.engine = engine
        self.started = time.monotonic()
        self._files = files
        client = engine.client
        super().__init__(client.sender, client.small_get(task.bucket, task.key), _take, is_content=True)

    def done(self) -> Done:
        """Check what came, and put it into its file."""
        engine, task = self.engine, self._place
        engine.check_stop()
        content, headers = self.result
        etag = etag_of(headers)
        if len(content) != task.size or (task.etag and etag != task.etag):
            raise GeneralWayError  # not what was listed, which is to be found out about
        if engine.options.verify and not check_small(content, task.source, etag=etag, headers=headers):
            raise GeneralWayError  # such as an ETag made of parts, the sizes of which must be found out
        mtime_ns = stored.mtime_of_answer(headers)
        if not self._files.write(task.root, task.relative, content, mtime_ns=mtime_ns):
            raise GeneralWayError
        engine.progress.whole(len(content))
        return Done(len(content), etag, self._files.mtime_ns)


def _take(response: Response) -> _Got:
    fault = stranger_in(response)
    if fault:
        raise ProtocolError(fault)
    if response.length is None or response.length > SMALL_BYTES:
        raise GeneralWayError  # it grew since it was listed
    return _Got(response.preload(), response.headers)

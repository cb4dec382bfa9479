"""What is to be moved, what became of it, and the count of it all."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from s3pool.errors import NotFoundError, RefusedError, S3PoolError, StoppedError, TargetTakenError
from s3pool.location import S3Path
from s3pool.record import dataclass, field

if TYPE_CHECKING:
    from s3pool.model import ObjectHead, ObjectInfo

logger = logging.getLogger(__name__)

UNKNOWN_SIZE = -1
IN_WINDOW_BYTES = 64 * 1024  # such bodies leave in one piece with their head, and come in one or two

DONE = "done"
SKIPPED = "skipped"  # by a rule the user asked for: it exists, it is not newer
REFUSED = "refused"  # for safety's sake: exit code 6
FAILED = "failed"
NOT_STARTED = "not started"  # the run was told to stop before its turn came
ARCHIVED = "it is archived"  # why it was skipped


class FileStamp(NamedTuple):
    """Which file it is, and in which state: no write leaves the last field as it was."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, facts: os.stat_result) -> FileStamp:
        """Return the stamp of a file's facts."""
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


class ObjectStamp(NamedTuple):
    """Which object it is: what was read, for a later look to be held against."""

    etag: str
    last_modified: str  # ISO 8601 in UTC
    version_id: str = ""

    @classmethod
    def of(cls, head: ObjectHead) -> ObjectStamp:
        """Return the stamp of what HEAD, or the head of GET, told."""
        return cls(head.etag, head.last_modified, head.version_id)


class UploadTask(NamedTuple):
    """Send one local file to a key. The path holds surrogate escapes for foreign bytes.

    ``root`` is the user's own directory where the file lies below one: links in it are followed.
    """

    path: str
    bucket: str
    key: str
    size: int = UNKNOWN_SIZE
    reason: str = ""
    root: str = ""

    @property
    def op(self) -> str:
        """The word for what is done."""
        return "upload"

    @property
    def source(self) -> str:
        """The local path."""
        return self.path

    @property
    def target(self) -> str:
        """The place in S3."""
        return S3Path(self.bucket, self.key).text


class DownloadTask(NamedTuple):
    """Bring one object below a local directory.

    ``root`` is the user's own directory, "" for the working directory; links in it are
    followed. ``relative`` comes from a key: nothing in it may lead out of the root.
    """

    bucket: str
    key: str
    root: str
    relative: str
    size: int = UNKNOWN_SIZE
    etag: str = ""
    last_modified: str = ""
    version_id: str = ""
    reason: str = ""

    @property
    def op(self) -> str:
        """The word for what is done."""
        return "download"

    @property
    def source(self) -> str:
        """The place in S3."""
        return S3Path(self.bucket, self.key).text

    @property
    def target(self) -> str:
        """The local path, for people; it is not opened by this name."""
        return os.path.join(self.root, self.relative.lstrip("/"))


def download_of(bucket: str, info: ObjectInfo, root: str, relative: str) -> DownloadTask:
    """Return the download of an object as it was listed."""
    size, etag, modified = info.size, info.etag, info.last_modified
    return DownloadTask(bucket, info.key, root, relative, size, etag, modified, info.version_id)


@dataclass(frozen=True, slots=True)
class CopyTask:
    """Copy one object to another key without moving its bytes through this machine."""

    source_bucket: str
    source_key: str
    bucket: str
    key: str
    size: int = UNKNOWN_SIZE
    etag: str = ""
    last_modified: str = ""
    version_id: str = ""
    reason: str = ""

    op = "copy"

    @property
    def source(self) -> str:
        """The place the bytes come from."""
        return S3Path(self.source_bucket, self.source_key).text

    @property
    def target(self) -> str:
        """The place they go to."""
        return S3Path(self.bucket, self.key).text


def copy_of(bucket: str, info: ObjectInfo, place: S3Path) -> CopyTask:
    """Return the copy of an object as it was listed."""
    facts = info.size, info.etag, info.last_modified, info.version_id
    return CopyTask(bucket, info.key, place.bucket, place.key, *facts)


@dataclass(frozen=True, slots=True)
class DeleteTask:
    """Delete one key, or one version of it, or abort one unfinished upload of it.

    One that is ``named`` on the command line must not be the name of a tree.
    """

    bucket: str
    key: str
    version_id: str = ""
    upload_id: str = ""
    size: int = 0
    reason: str = ""
    named: bool = False

    op = "delete"
    target = ""

    @property
    def source(self) -> str:
        """The place in S3."""
        return S3Path(self.bucket, self.key).text


@dataclass(frozen=True, slots=True)
class RemoveTask:
    """Remove one local file below a directory, never through a link."""

    root: str
    relative: str
    size: int = 0
    reason: str = ""

    op = "delete"
    target = ""

    @property
    def source(self) -> str:
        """The local path."""
        return os.path.join(self.root, self.relative)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot become a task; it takes its place in the stream of tasks."""

    source: str
    error: S3PoolError
    target: str = ""
    op: str = "copy"

    size = 0


Task = UploadTask | DownloadTask | CopyTask | DeleteTask | RemoveTask
Item = Task | Problem


class Done(NamedTuple):
    """What a transfer tells of its success.

    ``mtime_ns`` is the modification time of the local side as it was left, None where there is no local side.
    ``skipped`` says why nothing had to be done. ``sent`` tells which file was read. For a source that is to be
    removed ``read`` tells which object it was, ``written`` the new file.
    """

    size: int = 0
    etag: str = ""
    mtime_ns: int | None = None
    version_id: str = ""
    skipped: str = ""

    sent: FileStamp | None = None
    read: ObjectStamp | None = None
    written: FileStamp | None = None


class Outcome(NamedTuple):
    """One task and what became of it."""

    task: Item
    state: str
    done: Done = Done()
    error: Exception | None = None
    seconds: float = 0.0


COUNTS = ("checked", "copied", "deleted", "skipped", "refused", "failed", "not_started", "bytes")


@dataclass(slots=True)
class Summary:
    """The count of a run; only the thread that collects the outcomes writes it.

    ``stopped_by`` is the error that ended the stream of tasks before its end: a listing that
    failed, or a failure that every further task would meet as well.
    """

    checked: int = 0
    copied: int = 0
    deleted: int = 0
    skipped: int = 0
    refused: int = 0
    failed: int = 0
    not_started: int = 0
    bytes: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    stopped_by: Exception | None = None
    # The first of each class and code: memory must not grow with failures.
    errors: list[Exception] = field(default_factory=list)
    source_errors: list[Exception] = field(default_factory=list)  # of what could not become a task
    not_kept: Mapping[str, int] | None = None  # what no object can hold, where it was looked for

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.checked += 1
        task, error = outcome.task, outcome.error
        if outcome.state == DONE:
            if task.op == "delete":
                self.deleted += 1
            else:
                self.copied += 1
                self.bytes += outcome.done.size
        else:
            name = outcome.state.replace(" ", "_")
            setattr(self, name, getattr(self, name) + 1)
        if error is not None:
            is_of_source = isinstance(task, Problem)
            if isinstance(task, DeleteTask):
                is_of_source = task.named and isinstance(error, NotFoundError)
            known = self.source_errors if is_of_source else self.errors
            if all(kind_of(error) != kind_of(other) for other in known):
                known.append(error)

    @property
    def counts(self) -> dict[str, Any]:
        """The counts alone, for another process."""
        return {name: getattr(self, name) for name in (*COUNTS, "seconds", "not_kept")}

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """Add what another process has done for this run."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + counts[name])
        self.seconds = max(self.seconds, counts["seconds"])
        if counts["not_kept"] is not None:
            known = self.not_kept or {}
            self.not_kept = {kind: count + known.get(kind, 0) for kind, count in counts["not_kept"].items()}

    def as_record(self) -> dict[str, object]:
        """Return the counts of the summary as JSON tells them."""
        counts = {name: getattr(self, name) for name in ("checked", "copied", "deleted", "skipped", "failed", "bytes")}
        counts["skipped"] += self.refused
        kept = {} if self.not_kept is None else {"not_kept": dict(self.not_kept)}
        return {**counts, "seconds": round(self.seconds, 3), **kept}


def kind_of(error: Exception) -> tuple[type[Exception], str]:
    """Return what errors have in common that speak of one cause: the class, and S3's code."""
    return type(error), getattr(error, "code", "")


def state_of(error: Exception) -> str:
    """Return whether an error means refused or failed."""
    return REFUSED if isinstance(error, RefusedError) and not isinstance(error, TargetTakenError) else FAILED


def done_outcome(task: Item, done: Done, started: float) -> Outcome:
    """Return the outcome of a task that has come to its end."""
    return Outcome(task, SKIPPED if done.skipped else DONE, done, None, time.monotonic() - started)


def failed_outcome(task: Item, error: Exception, started: float) -> Outcome:
    """Return the outcome of an error; of one that is none of ours the debug log tells where it came from."""
    if isinstance(error, StoppedError):
        return Outcome(task, NOT_STARTED)
    seconds = time.monotonic() - started
    if isinstance(error, S3PoolError):
        return Outcome(task, state_of(error), error=error, seconds=seconds)
    logger.debug("%s -> %s: this should not have happened", task.source, task.target, exc_info=error)
    return Outcome(task, FAILED, error=error, seconds=seconds)

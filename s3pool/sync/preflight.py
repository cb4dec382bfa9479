"""What workers look at before a transfer: whether the target has it already, or something is in its way."""

from __future__ import annotations

import math
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from s3pool.body import FileSlice
from s3pool.errors import IntegrityError, LocalFileError, RefusedError
from s3pool.hashing import new_hasher
from s3pool.model import ObjectHead
from s3pool.record import dataclass, field
from s3pool.s3.requests import iter_ranges
from s3pool.sync.compare import (
    DOWNLOAD,
    LEAVE,
    NOTHING,
    TOLERANCE_NS,
    UPLOAD,
    Entry,
    Record,
    Rules,
    decide,
    may_change_unseen,
)
from s3pool.sync.journal import AS_IT_IS, Identity
from s3pool.sync.pair import SyncPair
from s3pool.transfer import metadata as stored
from s3pool.transfer.digests import (
    ServerChecksum,
    certain_part_size,
    composite_etag,
    etag_tells_content,
    is_md5_etag,
    likely_part_sizes,
    part_count_of,
    whole_checksum,
)
from s3pool.transfer.safe_path import directory_below, read_file, split_relative
from s3pool.transfer.tasks import DownloadTask, FileStamp, Item, Task
from s3pool.units import NANO

if TYPE_CHECKING:
    from s3pool.transfer.context import TransferContext

IN_SYNC = "the target has it already"
WAITS = "what is in its way is to be deleted first"
MAX_WAITING = 10_000  # tasks that are kept; what is beyond them fails
COARSEST_MTIME_NS = 2 * NANO  # of file systems in use (FAT)
NO_PARTS = 0  # the part size of an object that was stored in one piece


@dataclass(frozen=True, slots=True)
class Look:
    """One pair to look at; ``hashes`` are the ETags of the local file that are known, by part size.

    Without a target it is one that was not listed so far; ``record`` is what is known of the pair.
    """

    source: Entry
    target: Entry | None
    by_content: bool = False
    hashes: dict[int, str] = field(default_factory=dict)
    record: Record | None = None


class ContentComparer:
    """Looks at the pairs it was given, each when its task's turn comes.

    The thread that plans adds and takes away, workers look; ``new_hashes`` is filled by the workers, for the planning
    thread to empty.
    """

    def __init__(self, context: TransferContext, route: SyncPair, rules: Rules) -> None:
        self._client, self._source = context.client, context.source.client
        self._rules = rules
        self._route = route
        self._looks: dict[Task, Look] = {}
        self.new_hashes: deque[tuple[Identity, int, str]] = deque()

    def add(self, task: Task, look: Look) -> None:
        """Have a pair looked at before its task is done."""
        self._looks[task] = look

    def take(self, task: Task) -> Look | None:
        """Remove the pair of a finished task, and return it."""
        return self._looks.pop(task, None)

    def holds(self, task: Task) -> bool:
        """Return whether a task has a pair that must be compared first."""
        return task in self._looks

    def why_not(self, task: Task) -> str:
        """Return why a task is not needed; "" when it is needed."""
        look = self._looks.get(task)
        if look is None:
            return ""
        if look.target is not None:
            same = self._has_same_content if look.by_content else self._has_same_time
            return IN_SYNC if same(look, look.target) else ""
        # A listing without order may show it later: it is not to be replaced unless it is another one.
        found = self._route.find_target(look.source.name, self._client)
        if found is None:
            return ""
        decision = decide(look.source, found, look.record, self._rules)
        return IN_SYNC if decision.act == NOTHING else decision.reason if decision.act == LEAVE else ""

    # -- content ---------------------------------------------------------------------------

    def _has_same_content(self, look: Look, target: Entry) -> bool:
        up = self._route.direction == UPLOAD
        local, remote = (look.source, target) if up else (target, look.source)
        if look.hashes.get(AS_IT_IS) == remote.etag:
            return True
        sizes = self._part_sizes(remote)
        if any(look.hashes.get(size) == remote.etag for size in sizes):
            return True
        missing = [size for size in sizes if size not in look.hashes]
        if remote.etag in self._etags_of(local, lambda fd, size: {n: _etag_of(fd, size, n) for n in missing}):
            return True
        # A server may tell a checksum beside an ETag that is no digest.
        head = self._head_of(remote, checksums=True)
        if head is None or head.etag != remote.etag or etag_tells_content(remote.etag, head.headers):
            return False
        told = whole_checksum(head.headers)
        return told is not None and bool(self._etags_of(local, lambda fd, size: _as_told(fd, size, told, remote.etag)))

    def _part_sizes(self, remote: Entry) -> list[int]:
        """Return the part sizes that may have made the ETag; none if the ETag is no digest."""
        if is_md5_etag(remote.etag):
            return [NO_PARTS]
        count = part_count_of(remote.etag)
        head = self._head_of(remote) if count else None
        if head is None or not etag_tells_content(remote.etag, head.headers):
            return []
        certain = certain_part_size(remote.size, remote.etag, head.headers)
        return [certain] if certain else list(likely_part_sizes(remote.size, count))

    def _etags_of(self, local: Entry, compute: Callable[[int, int], dict[int, str]]) -> set[str]:
        """Return what ``compute`` makes of a file's descriptor and size, and have it remembered."""

        def computed(fd: int) -> tuple[Identity, dict[int, str]]:
            before = FileStamp.of(os.fstat(fd))
            etags = compute(fd, before.size)
            return before, etags if before == FileStamp.of(os.fstat(fd)) else {}

        try:
            identity, etags = read_file(local.path, computed)
        except IntegrityError:  # it became shorter
            return set()
        if is_settled(identity):
            self.new_hashes.extend((identity, size, etag) for size, etag in etags.items())
        return set(etags.values())

    # -- times -----------------------------------------------------------------------------

    def _has_same_time(self, look: Look, target: Entry) -> bool:
        if self._route.direction == UPLOAD:
            head = self._head_of(look.source)
            return head is not None and _is_close(stored.stored_time(head), look.source.mtime_ns)
        place = self._route.source.join(look.source.name)
        source = self._source.head_object(place.bucket, place.key, version_id=look.source.version_id)
        ours = stored.stored_time(source)
        if self._route.direction == DOWNLOAD:
            if ours is None and not math.isnan(source.mtime):
                ours = round(source.mtime) * NANO  # as a download sets it
            return _has_local_time(target, ours)
        other = self._head_of(target, of_target=True)
        if other is None:
            return False
        theirs = stored.stored_time(other)
        if ours is None and theirs is None:
            return source.mtime * NANO <= other.mtime * NANO + TOLERANCE_NS
        return _is_close(ours, theirs)

    def _head_of(self, entry: Entry, *, checksums: bool = False, of_target: bool = False) -> ObjectHead | None:
        at_target = of_target or self._route.direction == UPLOAD
        place = (self._route.target if at_target else self._route.source).join(entry.name)
        client, version_id = self._client if at_target else self._source, entry.version_id
        return client.find_object(place.bucket, place.key, checksums=checksums, version_id=version_id)


def identity_of(path: str) -> Identity | None:
    """Return the identity of a local file's content; None if the file is gone."""
    try:
        return FileStamp.of(os.stat(path))
    except OSError:
        return None


def is_settled(identity: Identity) -> bool:
    """Return whether every edit from now on makes it another identity."""
    return not may_change_unseen(identity[-1], time.time_ns())


def _etag_of(fd: int, size: int, part_size: int) -> str:
    if part_size == NO_PARTS:
        return FileSlice(fd, length=size).digest("md5").hex()
    parts = (FileSlice(fd, offset=part.first, length=part.length) for part in iter_ranges(size, part_size))
    return composite_etag(part.digest("md5").hex() for part in parts)


def _as_told(fd: int, size: int, told: ServerChecksum, etag: str) -> dict[int, str]:
    hasher = new_hasher(told.algorithm)
    FileSlice(fd, length=size).feed(hasher.update)
    return {AS_IT_IS: etag} if hasher.digest() == told.digest else {}


def _has_local_time(local: Entry, time_ns: int | None) -> bool:
    """Return whether a file has the time of its object, as well as its file system can keep that."""
    if time_ns is None or local.mtime_ns is None or _is_close(time_ns, local.mtime_ns):
        return time_ns is not None and local.mtime_ns is not None
    try:
        fd = os.open(os.path.dirname(local.path) or ".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError:  # there are no such files here: whole seconds are what most coarse file systems keep
        return 0 <= time_ns - local.mtime_ns <= COARSEST_MTIME_NS and local.mtime_ns % NANO == 0
    try:
        return stored.set_mtime(fd, time_ns) == local.mtime_ns
    finally:
        os.close(fd)


def _is_close(time_ns: int | None, other_ns: int | None) -> bool:
    return time_ns is not None and other_ns is not None and abs(time_ns - other_ns) <= stored.STORED_TOLERANCE_NS


# -- what is in the way --------------------------------------------------------------------


class Conflicts:
    """The downloads of one run that wait for its deletes.

    Where the source has a key ``x`` and the target a directory ``x``, or the other way round, one has to go before the
    other can come. Deletes come last, so such a download waits for them; without ``deletes`` nothing would come of
    waiting. Workers ask, the thread of the run keeps.
    """

    def __init__(self, *, deletes: bool) -> None:
        self._deletes = deletes
        self._may_wait = deletes
        self.waiting: list[DownloadTask] = []

    def why_wait(self, task: Task) -> str:
        """Return why a task has to wait; "" when nothing is in its way.

        Raises LocalFileError: something is, and waiting would not help.
        """
        obstacle = conflict_of(task) if isinstance(task, DownloadTask) else None
        if obstacle is None:
            return ""
        if self._may_wait and len(self.waiting) < MAX_WAITING:
            return WAITS
        advice = "" if self._deletes else ", or give --delete, which takes away what the source does not have"
        raise LocalFileError(f"{obstacle.message}{advice}")

    def keep(self, task: Item) -> None:
        """Keep a task for the end."""
        if isinstance(task, DownloadTask):
            self.waiting.append(task)

    def clear(self) -> None:
        """Let the time of waiting be over, and remove the directories in the way that hold no file."""
        self._may_wait = False
        remove_empty_trees(task for task in self.waiting if conflict_of(task) is not None)


def conflict_of(task: DownloadTask) -> LocalFileError | None:
    """Return the error of a download whose place is taken by something else; None if it is free."""
    if not task.relative or task.relative.endswith("/"):
        return None
    path = os.path.join(task.root, task.relative)
    try:
        mode = os.lstat(path).st_mode
    except NotADirectoryError:
        return LocalFileError(f"cannot write {path}: a file is where a directory has to be; remove or rename it")
    except (OSError, ValueError):  # it is not there, or can have no file: the download will say so
        return None
    if not stat.S_ISDIR(mode):
        return None
    return LocalFileError(f"cannot write {path}: a directory has that name; remove or rename it")


def remove_empty_trees(tasks: Iterable[DownloadTask]) -> None:
    """Remove directories at the places of downloads, with what is below them, if that is directories alone."""
    for task in tasks:
        # Where somebody is at work the download will say so; a link ends it, as would a new file.
        with suppress(LocalFileError, RefusedError, OSError):
            parents, name = split_relative(task.relative)
            with directory_below(task.root, parents) as above:
                walk = partial(os.fwalk, name, follow_symlinks=False, dir_fd=above)
                if any(files for _, _, files, _ in walk()):
                    continue
                for _, directories, _, here in walk(topdown=False):
                    for directory in directories:
                        os.rmdir(directory, dir_fd=here)
                os.rmdir(name, dir_fd=above)


def prune_empty_dirs(root: str, directories: Iterable[str]) -> None:
    """Remove directories below root, and those above them, as far as they are empty; never root."""
    for directory in sorted(directories, reverse=True):
        parents, name = split_relative(directory)
        steps = [*parents, name] if name else parents
        with suppress(LocalFileError, RefusedError, OSError):
            while steps:
                with directory_below(root, steps[:-1]) as above:
                    os.rmdir(steps[-1], dir_fd=above)
                steps.pop()

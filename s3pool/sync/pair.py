"""The pair of trees that a sync makes alike: the tasks of its names, what is in their way, its state and its lock."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import stat
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING

from s3pool.errors import JournalError, JournalLockedError, LocalFileError, RefusedError, UsageError
from s3pool.filters import Shard
from s3pool.location import LocalPath, Location, S3Path, StdStream, has_glob
from s3pool.record import dataclass
from s3pool.sync.compare import COPY, DOWNLOAD, UPLOAD, Entry
from s3pool.transfer.safe_path import directory_below, split_relative, stat_below
from s3pool.transfer.tasks import CopyTask, DeleteTask, DownloadTask, Item, RemoveTask, Task, UploadTask

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client

logger = logging.getLogger(__name__)

WAITS = "what is in its way is to be deleted first"
MAX_WAITING = 10_000  # tasks that are kept; what is beyond them fails
NAME_DIGITS = 32
NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
MAX_WORD_BYTES = 64
WORD = "s3pool-lock"  # what such a file begins with; the number of a process follows
OWN = re.compile(rb"s3pool-lock ([0-9]{1,10})\n")
OPEN_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
NOWHERE = S3Path("")


@dataclass(frozen=True, slots=True)
class SyncPair:
    """Source and target of a sync; one of them at least is in S3. Both are trees.

    ``root`` is the local side, where there is one; ``source`` and ``target`` are the sides in S3.
    """

    direction: str
    root: str = ""
    source: S3Path = NOWHERE
    target: S3Path = NOWHERE

    @property
    def source_text(self) -> str:
        """The source as messages name it."""
        return self.root if self.direction == UPLOAD else _tree_text(self.source)

    @property
    def target_text(self) -> str:
        """The target as messages name it."""
        return self.root if self.direction == DOWNLOAD else _tree_text(self.target)

    def target_of(self, name: str) -> str:
        """Return the target of one name as messages write it."""
        return os.path.join(self.root, name) if self.direction == DOWNLOAD else self.target.join(name).text

    def source_of(self, name: str) -> str:
        """Return the source of one name as messages write it."""
        return os.path.join(self.root, name) if self.direction == UPLOAD else self.source.join(name).text

    def transfer(self, entry: Entry, reason: str) -> Task:
        """Return the task that transfers one entry of the source."""
        if self.direction == UPLOAD:
            place = self.target.join(entry.name)
            return UploadTask(entry.path, place.bucket, place.key, entry.size, reason=reason, root=self.root)
        key = self.source.join(entry.name).key
        facts = entry.size, entry.etag, entry.last_modified, entry.version_id, reason
        if self.direction == DOWNLOAD:
            return DownloadTask(self.source.bucket, key, self.root, entry.name, *facts)
        place = self.target.join(entry.name)
        return CopyTask(self.source.bucket, key, place.bucket, place.key, *facts)

    def removal(self, name: str, size: int) -> DeleteTask | RemoveTask:
        """Return the task that deletes one name from the target."""
        if self.direction == DOWNLOAD:
            return RemoveTask(self.root, name, size)
        place = self.target.join(name)
        return DeleteTask(place.bucket, place.key, size=size)

    def name_of(self, task: Item) -> str | None:
        """Return the name that a task transfers or deletes; None for a Problem."""
        if isinstance(task, (DownloadTask, RemoveTask)):
            return task.relative
        if isinstance(task, (UploadTask, CopyTask, DeleteTask)):
            return task.key[len(self.target.tree_prefix) :]
        return None

    def find_target(self, name: str, client: S3Client) -> Entry | None:
        """Look for one name at the target, where its listing does not serve.

        Raises RefusedError: the local way leads through a link. S3Error: the request failed.
        """
        if self.direction == DOWNLOAD:
            facts = stat_below(self.root, name)
            if facts is None or not stat.S_ISREG(facts.st_mode):
                return None
            return Entry(name, facts.st_size, facts.st_mtime_ns, path=os.path.join(self.root, name))
        place = self.target.join(name)
        head = client.find_object(place.bucket, place.key)
        return head and Entry(name, head.size, etag=head.etag, last_modified=head.last_modified)

    def has_local_directory(self, name: str) -> bool:
        """Return whether the local side has a directory of this name, not through a link."""
        facts = stat_below(self.root, name)
        return facts is not None and stat.S_ISDIR(facts.st_mode)


def _tree_text(path: S3Path) -> str:
    return S3Path(path.bucket, path.tree_prefix).text


def choose_pair(source: Location, target: Location, *, glob: bool = True) -> SyncPair:
    """Return the pair of trees that two operands name.

    Raises UsageError: they make no sense together, or one of them is no tree.
    """
    for side in (source, target):
        if isinstance(side, StdStream):
            raise UsageError("sync takes trees, no streams; cp and pipe take -")
        if isinstance(side, S3Path) and not side.bucket:
            raise UsageError(f"{side.text} names no bucket; write s3/BUCKET/PREFIX")
        if isinstance(side, LocalPath) and os.path.exists(side.path) and not os.path.isdir(side.path):
            raise UsageError(f"{side.text} is no directory: sync takes trees, cp takes files")
    if isinstance(source, S3Path) and glob and has_glob(source.key):
        raise UsageError(f"{source.text} has wildcards: sync takes a whole tree; choose with --include and --exclude")
    if isinstance(source, LocalPath) and isinstance(target, S3Path):
        return SyncPair(UPLOAD, source.path, target=target)
    if isinstance(source, S3Path) and isinstance(target, LocalPath):
        return SyncPair(DOWNLOAD, target.path, source=source)
    if isinstance(source, S3Path) and isinstance(target, S3Path):
        return SyncPair(COPY, source=source, target=target)
    raise UsageError(f"{source.text} and {target.text} are both local: one side must be s3/BUCKET/PREFIX")


def check_apart(route: SyncPair, source_client: S3Client, target_client: S3Client) -> None:
    """Refuse trees that lie inside each other: one would grow or vanish by the other.

    Raises UsageError: they do, by whatever names, or are the same.
    """
    from s3pool.transfer.proofs import target_of_tree

    source, target = route.source, route.target
    is_one_bucket = source_client is target_client and source.bucket == target.bucket
    is_one_tree = is_one_bucket and source.tree_prefix == target.tree_prefix
    if is_one_tree or target_of_tree(source_client, source, target_client, target) is not None:
        both = f"{route.source_text} and {route.target_text}"
        raise UsageError(f"{both} are the same tree, or one lies inside the other")


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


# -- its state -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StatePaths:
    """The files of one pair, and its pool; "" where no state is kept."""

    journal: str = ""
    unfinished: str = ""
    lock: str = ""
    pool: str = ""


NO_STATE = StatePaths()


def paths_for(route: SyncPair, *, directory: str, shard: Shard, pool: str) -> StatePaths:
    """Return the state files of a pair.

    Both directions between a local directory and S3 share them: what one has left in sync the other finds in sync.
    ``pool`` names the pool of the target, and that of the source where it is another one: the same names in another
    pool are another pair.
    """
    if not directory:
        return NO_STATE
    if route.direction == COPY:
        sides = ["", route.source_text, route.target_text]
    else:
        remote = route.source_text if route.source.bucket else route.target_text
        sides = [os.uname().nodename, os.path.realpath(route.root or "."), remote]
    text = "\0".join((*sides, "" if shard.is_whole else shard.text, pool))
    name = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:NAME_DIGITS]
    return StatePaths(
        journal=os.path.join(directory, "sync", f"{name}.sqlite"),
        unfinished=os.path.join(directory, "sync", f"{name}.unfinished.sqlite"),
        lock=os.path.join(directory, "locks", f"{name}.lock"),
        pool=pool,
    )


class PairLock:
    """A lock on a file, which the system lets go when the process ends, however it ends.

    ``optional`` is for a place that s3pool chose itself: where no file can be made there, the run goes on with a
    warning. A place that the user chose is refused when it is there and no lock of s3pool's, for it may be data.

    Raises JournalLockedError: another run has it. JournalError: the file cannot be made. UsageError: what is there is
    no lock file.
    """

    def __init__(self, path: str, *, optional: bool = False) -> None:
        self.path = path
        self._fd = -1
        try:
            self._fd, is_new = _open(path)
            content, facts = os.pread(self._fd, MAX_WORD_BYTES, 0), os.fstat(self._fd)
            is_own = stat.S_ISREG(facts.st_mode) and (not facts.st_size or OWN.fullmatch(content))
            if not (is_new or optional or is_own):
                raise UsageError(f"--lock {path}: it is no lock file of s3pool's, and may be data; name another one")
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_new or os.fstat(self._fd).st_size:
                with suppress(OSError):  # the number is for people only
                    os.ftruncate(self._fd, 0)
                    os.pwrite(self._fd, f"{WORD} {os.getpid()}\n".encode(), 0)
        except UsageError:
            self.release()
            raise
        except BlockingIOError as exc:
            holder = OWN.fullmatch(os.pread(self._fd, MAX_WORD_BYTES, 0))
            self.release()
            by = f" by process {holder[1].decode()}" if holder else ""
            raise JournalLockedError(f"another run works on this source and target: {path} is locked{by}") from exc
        except OSError as exc:
            self.release()
            if not optional and exc.errno not in NO_LOCKS_HERE:
                raise JournalError(f"cannot lock {path}: {exc.strerror}") from exc
            logger.warning("cannot lock %s (%s): nothing keeps a second run from starting", path, exc.strerror)

    def release(self) -> None:
        """Let go; the file stays, because removing it would let two runs in."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> PairLock:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()


def lock_pair(own: str, state: StatePaths, *, dry_run: bool) -> AbstractContextManager[object]:
    """Lock a pair of source and target by the user's ``own`` file, else by that of its state.

    Raises JournalLockedError: another run is at work.
    """
    path = own or state.lock
    return PairLock(path, optional=not own) if path and not dry_run else nullcontext()


def _open(path: str) -> tuple[int, bool]:
    """Open the file, or make it; return whether it is new."""
    directory = os.path.dirname(path)
    if directory:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    try:
        return os.open(path, OPEN_FLAGS | os.O_CREAT | os.O_EXCL, 0o600), True
    except FileExistsError:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # opening alone may do something to a device
            raise UsageError(f"--lock {path}: it is no regular file; name another one") from None
    return os.open(path, OPEN_FLAGS), False

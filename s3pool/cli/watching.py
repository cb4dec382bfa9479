"""sync and mirror with --watch: a whole pass, then one over what has changed, until a signal ends it.

What changes below a directory the system tells (Linux; inotify by way of libc).
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import select
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from s3pool.cli.context import Context
from s3pool.errors import LOOK_FOR_SIGNALS_S, LocalFileError, LocalNotFoundError, S3PoolError, UsageError
from s3pool.record import replace
from s3pool.sync.compare import UPLOAD
from s3pool.sync.job import ChangedNames, Report, Situation, SyncOptions
from s3pool.sync.pair import SyncPair, lock_pair
from s3pool.transfer.tasks import Outcome
from s3pool.transfer.walk import LINKS_FOLLOW, LocalFiles, Walk

FIRST_RETRY_S, LONGEST_RETRY_S = 2.0, 60.0
GUARDED_S = 600.0  # deletes of so long are judged together, as those of one run
FOREIGN_FLAGS = ("shard", "plan", "files_from", "max_duration", "dry_run")  # they are of runs that end


def check_watchable(args: argparse.Namespace, route: SyncPair) -> None:
    """Refuse --watch for a source in S3, and beside flags of runs that end."""
    if route.direction != UPLOAD:
        raise UsageError(
            f"--watch is for local sources: no server tells of changes in {route.source_text}; start sync by a timer"
        )
    flags = [name for name in FOREIGN_FLAGS if getattr(args, name, None)] + ["processes"] * (args.processes > 1)
    if flags:
        raise UsageError(f"--watch goes on until it is stopped: it does not go with --{flags[0].replace('_', '-')}")


class TreeWatcher:
    """Keeps a target like a local tree.

    ``sync(options, report, changed, self)`` makes one pass, ``tell`` says what stopped it; ``total``
    is the report of all of them. A pass after which something is left to do is repeated, with what
    has changed meanwhile. Its guard judges by the whole tree, and by the deletes of ten minutes.
    """

    def __init__(
        self,
        route: SyncPair,
        options: SyncOptions,
        ctx: Context,
        *,
        sync: Callable[[SyncOptions, Report, ChangedNames | None, TreeWatcher], None],
        tell: Callable[[Report], None],
        total: Report,
    ) -> None:
        self._route, self._options = route, replace(options, takes_lock=False)
        self._sync, self._tell, self._total, self._ctx = sync, tell, total, ctx
        self._lock = lock_pair(options.lock, options.state, dry_run=False)
        self._deleted: deque[tuple[float, int]] = deque()
        self._target_names = 0  # of the whole target
        self._troubles: set[tuple[str, str]] = set()

    def run(self) -> None:
        """Watch until an interrupt; return when the first pass was stopped by an error."""
        options = self._options
        watch = TreeWatch(self._route.root, links=options.links, may_contain=options.names.may_contain)
        changed: set[str] | None = None
        delay_s = 0.0
        try:
            with self._lock:
                is_settled = self._pass(None, self._total)
                while self._total.summary.stopped_by is None:
                    delay_s = 0.0 if is_settled else min(2 * delay_s or FIRST_RETRY_S, LONGEST_RETRY_S)
                    more = watch.wait(delay_s or None)
                    if is_settled or more is None:
                        changed = more
                    elif changed is not None:
                        changed |= more
                    is_settled = self._pass(changed, Report())
        finally:
            watch.close()

    def _pass(self, changed: set[str] | None, report: Report) -> bool:
        """Sync what has changed, or everything; return whether nothing of it is left to do."""
        names = None if changed is None else ChangedNames(changed, self._options.names)
        options = self._options if names is None else replace(self._options, names=names)
        summary, is_first = report.summary, report is self._total
        try:
            self._sync(options, report, names, self)
        except S3PoolError as exc:
            if is_first or isinstance(exc, LocalNotFoundError):
                raise
            summary.stopped_by = exc
        finally:
            if not is_first:
                self._total.add_counts(report.counts)
        self._ctx.out.flush()
        if is_first and summary.stopped_by is not None:
            return False
        # While something is skipped nothing is deleted, as in one run: it is compared again until that is over.
        is_left = summary.stopped_by or report.held_back or summary.failed or summary.not_started
        is_settled = not is_left and not (options.deletes and summary.refused)
        self._count(report, is_settled=is_settled, is_whole=changed is None)
        trouble = (report.held_back, str(summary.stopped_by))
        if is_settled:
            self._troubles.clear()
        elif trouble not in self._troubles:
            self._troubles.add(trouble)
            self._tell(report)
        if is_first:
            self._ctx.out.remark(f"watching {self._route.source_text}")
        return is_settled

    def is_new(self, outcome: Outcome) -> bool:
        """Return whether an outcome is to be told: a failure is, once, until all is well again."""
        trouble = (outcome.task.source, str(outcome.error))
        if outcome.error is None or trouble not in self._troubles:
            self._troubles |= {trouble} if outcome.error else set()
            return True
        return False

    def _count(self, report: Report, *, is_settled: bool, is_whole: bool) -> None:
        """Remember how many names the target has, and how many were deleted of late."""
        deleted, tally, now = report.summary.deleted, report.tally, time.monotonic()
        if is_settled:
            self._target_names = tally.source_names + (0 if is_whole else self._target_names - tally.target_names)
        else:
            self._target_names -= deleted
        self._deleted.append((now, deleted))
        while is_settled and self._deleted[0][0] < now - GUARDED_S:
            self._deleted.popleft()

    def agree(self, situation: Situation) -> Situation:
        """Return the situation of the whole tree, for one of a part of it."""
        before = sum(count for _, count in self._deleted)
        walk = Walk(self._route.root, names=self._options.names, links=self._options.links)
        return replace(
            situation,
            source_names=situation.source_names or int(any(isinstance(found, LocalFiles) for found in walk)),
            target_names=max(situation.target_names, self._target_names) + before,
            to_delete=situation.to_delete + before * bool(situation.to_delete),
        )

    def wait_for_deletes(self) -> None:
        """Go on: there is nobody to wait for."""


# -- what the system tells ------------------------------------------------------------------

# Source: inotify(7), <sys/inotify.h>.
CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE, MOVE_SELF = 0x8, 0x40, 0x80, 0x100, 0x200, 0x800
Q_OVERFLOW, IGNORED, ONLYDIR, IS_DIRECTORY = 0x4000, 0x8000, 0x1000000, 0x40000000
WATCHED = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | MOVE_SELF | ONLYDIR
EVENT = struct.Struct("iIII")
READ_BYTES = 256 * 1024
QUIET_S, LONGEST_S = 0.1, 0.5  # changes are told when none came for so long, or after so long
HINTS = {errno.ENOSPC: "; raise fs.inotify.max_user_watches", errno.EMFILE: "; raise fs.inotify.max_user_instances"}
MOST_CHANGES = 5000  # of more than these nobody asks one by one


class TreeWatch:
    """Watches a tree from the moment it is made; directories that come later are watched as well.

    A file has changed when who wrote it closes it. ``may_contain`` tells which directories matter.
    """

    def __init__(self, root: str, *, links: str, may_contain: Callable[[str], bool]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._libc, "inotify_init1"):
            raise UsageError("--watch needs inotify, which this system does not have; start sync again by a timer")
        self._root = os.fsencode(root or ".")
        self._follows = links == LINKS_FOLLOW
        self._may_contain = may_contain
        self._fd = -1
        self._begin()

    def close(self) -> None:
        """End watching."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def wait(self, timeout_s: float | None) -> set[str] | None:
        """Return the names that changed, those of directories with a slash for all that is in them.

        None is everything: the system forgot some, they are too many, or a file of several names was written. Nothing
        changed when the set is empty, after ``timeout_s``.

        Raises LocalNotFoundError: the tree itself is gone.
        """
        changed: set[str] = set()
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        while not changed:
            if not self._wait_for_event(LOOK_FOR_SIGNALS_S if ends is None else ends - time.monotonic()):
                if ends is not None and time.monotonic() >= ends:
                    break
                continue
            longest = time.monotonic() + LONGEST_S
            while self._wait_for_event(QUIET_S) and time.monotonic() < longest:
                if not all(self._take(event, changed) for event in self._events()):
                    self._begin()
                    return None
        return changed if len(changed) <= MOST_CHANGES else None

    def _wait_for_event(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(1000 * min(max(seconds, 0.0), LOOK_FOR_SIGNALS_S)))

    def _begin(self) -> None:
        self.close()
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise LocalFileError(f"cannot watch {os.fsdecode(self._root)}: {_reason()}")
        self._directories: dict[int, set[bytes]] = {}  # of each watch, below the root; more than one by links
        self._add(b"")
        if not self._directories:
            raise LocalNotFoundError(f"{os.fsdecode(self._root)} is no directory, or gone: there is nothing to watch")

    def _add(self, directory: bytes) -> None:
        """Watch a directory and those in it; each is read after its watch began, so that nothing slips through."""
        waiting = [directory]
        for relative in waiting:
            path = os.path.join(self._root, relative)
            watch = self._libc.inotify_add_watch(self._fd, path, WATCHED)
            if watch < 0:
                if ctypes.get_errno() in (errno.ENOSPC, errno.ENOMEM):
                    raise LocalFileError(f"cannot watch {os.fsdecode(path)}: {_reason()}")
                continue  # gone already; what cannot be read, the next pass reports
            known = self._directories.setdefault(watch, set())
            leads_back = any(relative.startswith(other) and relative != other for other in known)
            known.add(relative)
            if not leads_back:
                waiting += self._directories_in(path, relative)

    def _directories_in(self, path: bytes, relative: bytes) -> Iterator[bytes]:
        with suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                below = relative + entry.name + b"/"
                if entry.is_dir(follow_symlinks=self._follows) and self._may_contain(_text(below)):
                    yield below

    def _forget(self, directory: bytes) -> None:
        """End the watches of a directory that has moved: what happens in it has other names now."""
        for watch, known in list(self._directories.items()):
            known -= {relative for relative in known if relative.startswith(directory)}
            if not known:
                del self._directories[watch]
                self._libc.inotify_rm_watch(self._fd, watch)

    def _events(self) -> Iterator[tuple[int, int, bytes]]:
        block, place = os.read(self._fd, READ_BYTES), 0
        while place < len(block):
            watch, mask, _, length = EVENT.unpack_from(block, place)
            place += EVENT.size + length
            yield watch, mask, block[place - length : place].rstrip(b"\0")

    def _take(self, event: tuple[int, int, bytes], changed: set[str]) -> bool:
        """Add what one event tells; return whether everything is known as before."""
        watch, mask, name = event
        known = self._directories.get(watch, set())
        if mask & Q_OVERFLOW or (mask & (IGNORED | MOVE_SELF) and b"" in known):
            return False
        if mask & IGNORED:
            self._directories.pop(watch, None)
        for relative in [directory + name for directory in known if name]:
            if mask & IS_DIRECTORY:
                self._take_directory(relative + b"/", mask, changed)
            elif not self._take_file(relative, mask, changed):
                return False
        return True

    def _take_directory(self, relative: bytes, mask: int, changed: set[str]) -> None:
        if not self._may_contain(_text(relative)):
            return
        changed.add(_text(relative))
        if mask & MOVED_FROM:
            self._forget(relative)
        elif mask & (CREATE | MOVED_TO):
            self._add(relative)

    def _take_file(self, relative: bytes, mask: int, changed: set[str]) -> bool:
        path = os.path.join(self._root, relative)
        if mask & (CREATE | CLOSE_WRITE):
            with suppress(OSError):
                links = os.lstat(path).st_nlink
                if mask & CREATE and links == 1 and not os.path.islink(path):
                    return True  # who writes it has yet to close it
                if mask & CLOSE_WRITE and links > 1:
                    return False  # the other names of the file are told by no event
        changed.add(_text(relative))
        if self._follows and (os.path.isdir(path) or mask & (MOVED_FROM | DELETE)):  # a link to a directory
            self._take_directory(relative + b"/", mask if mask & CREATE else mask & ~DELETE | MOVED_FROM, changed)
        return True


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _reason() -> str:
    number = ctypes.get_errno()
    return os.strerror(number) + HINTS.get(number, "")

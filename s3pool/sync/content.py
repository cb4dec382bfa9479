"""Whether two files or objects have the same content, and what tells it; nothing is copied.

``PairComparer`` answers for diff, ``ContentComparer`` for the pairs of a sync, each when its task's turn comes.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from s3pool.body import new_hasher
from s3pool.errors import IntegrityError, LocalFileError
from s3pool.location import LocalPath, S3Path
from s3pool.model import ByteRange, ObjectHead
from s3pool.record import dataclass, field
from s3pool.s3.requests import iter_ranges
from s3pool.s3.responses import Known
from s3pool.sync.compare import (
    DOWNLOAD,
    LEAVE,
    NOTHING,
    TOLERANCE_NS,
    UPLOAD,
    Batch,
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
    certain_part_size,
    check_file,
    composite_etag,
    digest_of,
    etag_tells_content,
    is_md5_etag,
    likely_part_sizes,
    part_count_of,
    server_checksum,
    whole_checksum,
)
from s3pool.transfer.object_reader import ObjectReader, Source
from s3pool.transfer.safe_path import read_file
from s3pool.transfer.tasks import FileStamp, Task
from s3pool.units import NANO

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client
    from s3pool.transfer.context import TransferContext

T = TypeVar("T")
SAME, DIFFERENT, ONLY_FIRST, ONLY_SECOND, UNKNOWN = "=", "!", "<", ">", "?"
BYTES_BY = "sha256"  # what stands for the bytes of both sides where they are read
IN_SYNC = "the target has it already"
COARSEST_MTIME_NS = 2 * NANO  # of file systems in use (FAT)
NO_PARTS = 0  # the part size of an object that was stored in one piece


class Verdict(NamedTuple):
    """What a comparison has found; ``by`` is what told it, or why nothing could."""

    sign: str
    by: str


SAME_SIZE = Verdict(SAME, "size")
SAME_ETAG = Verdict(SAME, "etag")
OTHER_ETAG = Verdict(DIFFERENT, "etag")
OTHER_SIZE = Verdict(DIFFERENT, "size")
NOTHING_TELLS = Verdict(UNKNOWN, "neither ETag nor checksum tells the content")


@dataclass(frozen=True, slots=True)
class Side:
    """A tree, or with ``is_one`` a single file or object; ``client`` is of the pool that it is in."""

    place: S3Path | LocalPath
    client: S3Client
    is_one: bool = False

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return isinstance(self.place, LocalPath)

    def text(self, name: str) -> str:
        """Return one name of the side as messages write it."""
        return self.place.text if self.is_one else self.place.join(name).text

    def object(self, name: str) -> S3Path:
        """Return the path of one name of a side in S3."""
        place = self.place if self.is_one else self.place.join(name)
        assert isinstance(place, S3Path)
        return place


def is_digest(etag: str) -> bool:
    """Return whether an ETag has the form of an MD5, or of one of parts: two equal ones are of equal bytes."""
    return is_md5_etag(etag) or part_count_of(etag) > 0


class PairComparer:
    """Compares pairs of one name; safe in any thread.

    Without ``by_content`` a file on this machine is compared by its size alone. With ``downloads``
    the bytes of both sides are read, whatever the servers tell.
    """

    def __init__(self, first: Side, second: Side, *, by_content: bool, downloads: bool, retries: int) -> None:
        self._first, self._second = first, second
        self._has_local = first.is_local or second.is_local
        self._by_content, self._downloads, self._retries = by_content, downloads, retries

    def at_first_sight(self, first: Entry, second: Entry) -> Verdict | None:
        """Return what the listings tell; None when only a closer look can."""
        if first.size != second.size:
            return OTHER_SIZE
        if self._downloads:
            return None
        if self._has_local:
            return None if self._by_content else SAME_SIZE
        return SAME_ETAG if first.etag == second.etag and is_digest(first.etag) else None

    def at_one_sight(self, first: Batch, second: Batch) -> Verdict | None:
        """Return the one verdict on all pairs of two batches; None when they must be looked at one by one."""
        if self._downloads or first.sizes != second.sizes:
            return None
        if self._has_local:
            return None if self._by_content else SAME_SIZE
        return SAME_ETAG if first.etags == second.etags and all(map(is_digest, first.etags)) else None

    def look(self, first: Entry, second: Entry) -> Verdict:
        """Compare by what requests, or the bytes, tell.

        Raises S3PoolError: one of them cannot be read, or changes meanwhile.
        """
        if self._downloads:
            is_same = self._digest(self._first, first) == self._digest(self._second, second)
            return Verdict(SAME if is_same else DIFFERENT, "bytes")
        if self._first.is_local:
            return _compare_file(first, second, lambda: self._head(self._second, second))
        if self._second.is_local:
            return _compare_file(second, first, lambda: self._head(self._first, first))
        return compare_heads(self._head(self._first, first), self._head(self._second, second))

    def _head(self, side: Side, entry: Entry) -> ObjectHead:
        path = side.object(entry.name)
        return side.client.head_object(path.bucket, path.key, checksums=True)

    def _digest(self, side: Side, entry: Entry) -> bytes:
        if side.is_local:
            return _with_file(entry, lambda fd: digest_of(fd, ByteRange(0, entry.size - 1), BYTES_BY))
        hasher, known, path = new_hasher(BYTES_BY), Known(entry.size, entry.etag), side.object(entry.name)
        source = Source(path.bucket, path.key)
        ObjectReader(side.client, source, retries=self._retries, known=known).copy_to(hasher.update)
        return hasher.digest()


def compare_heads(first: ObjectHead, second: ObjectHead) -> Verdict:
    """Compare two objects by what HEAD tells of them."""
    if first.size != second.size:
        return OTHER_SIZE
    ours, theirs = server_checksum(first.headers), server_checksum(second.headers)
    if ours is not None and theirs is not None and ours[::2] == theirs[::2]:
        if ours.digest == theirs.digest:
            return Verdict(SAME, ours.algorithm)
        if not ours.parts:
            return Verdict(DIFFERENT, ours.algorithm)
    if first.etag == second.etag and is_digest(first.etag):
        return SAME_ETAG
    is_told = all(etag_tells_content(head.etag, head.headers) for head in (first, second))
    return _compare_etags(first, second) if is_told else NOTHING_TELLS


def _compare_etags(first: ObjectHead, second: ObjectHead) -> Verdict:
    """Compare different ETags that are both made of the content, by the arithmetic of parts."""
    counts = [part_count_of(head.etag) for head in (first, second)]
    if counts == [0, 0]:
        return OTHER_ETAG
    if max(counts) == 1:  # the one part is the whole content
        as_one_part = [
            head.etag if count else composite_etag([head.etag])
            for head, count in zip((first, second), counts, strict=True)
        ]
        return Verdict(SAME if as_one_part[0] == as_one_part[1] else DIFFERENT, "etag")
    sizes = {certain_part_size(head.size, head.etag, head.headers) for head in (first, second)}
    return OTHER_ETAG if counts[0] == counts[1] and len(sizes) == 1 and 0 not in sizes else NOTHING_TELLS


def _compare_file(local: Entry, remote: Entry, ask: Callable[[], ObjectHead]) -> Verdict:
    """Compare a file with an object: an MD5 that fits needs no request."""

    def compare(fd: int) -> Verdict:
        if is_md5_etag(remote.etag) and _etag_of(fd, local.size, NO_PARTS) == remote.etag:
            return SAME_ETAG
        head = ask()
        if head.size != local.size:
            return OTHER_SIZE
        told = server_checksum(head.headers)
        by = told.algorithm if told is not None else "etag"
        try:
            is_proved = check_file(fd, local.size, what=local.path, etag=head.etag, headers=head.headers)
        except IntegrityError:
            return Verdict(DIFFERENT, by)
        return Verdict(SAME, by) if is_proved else NOTHING_TELLS

    return _with_file(local, compare)


def _with_file(entry: Entry, act: Callable[[int], T]) -> T:
    def checked(fd: int) -> T:
        _check_unchanged(fd, entry)
        try:
            return act(fd)
        finally:
            _check_unchanged(fd, entry)

    return read_file(entry.path, checked)


def _check_unchanged(fd: int, entry: Entry) -> None:
    facts = os.fstat(fd)
    if (facts.st_size, facts.st_mtime_ns) != (entry.size, entry.mtime_ns):
        raise LocalFileError(f"{entry.path} changed while it was compared; compare again")


# -- the pairs of a sync --------------------------------------------------------------------


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
        self._rules, self._route = rules, route
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

        def as_told(fd: int, size: int) -> dict[int, str]:
            is_same = told is not None and digest_of(fd, ByteRange(0, size - 1), told.algorithm) == told.digest
            return {AS_IT_IS: remote.etag} if is_same else {}

        return told is not None and bool(self._etags_of(local, as_told))

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
        return digest_of(fd, ByteRange(0, size - 1), "md5").hex()
    return composite_etag(digest_of(fd, part, "md5").hex() for part in iter_ranges(size, part_size))


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

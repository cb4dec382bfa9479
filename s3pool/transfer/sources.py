"""What the sources of a command line mean: one stream of tasks, read while it is worked on."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from s3pool.errors import LocalFileError, NotFoundError, RefusedError, TargetTakenError, UsageError
from s3pool.filters import ANY_FACTS, WHOLE, Names, ObjectFilter, Shard, ShardNames
from s3pool.location import LocalPath, Location, S3Path, StdStream, compile_glob, dest_for, glob_prefix, has_glob
from s3pool.model import SEQUENTIAL, ListMode, ObjectInfo
from s3pool.record import dataclass
from s3pool.s3.list_all import list_objects
from s3pool.transfer.safe_path import KeyMapper, local_error, split_relative
from s3pool.transfer.tasks import CopyTask, DownloadTask, Item, Problem, UploadTask, copy_of, download_of
from s3pool.transfer.walk import EVERYTHING, LINKS_FILES, LINKS_FOLLOW, NO_FILTER, Unusable, Walk, path_opener
from s3pool.units import NANO

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from s3pool.s3.client import S3Client
    from s3pool.transfer.walk import NotKept


Place = S3Path | LocalPath


@dataclass(frozen=True, slots=True)
class SourceRules:
    """How sources are read: with what is below them, by wildcard, which names, which links."""

    recursive: bool = False
    glob: bool = True
    names: Names = NO_FILTER
    facts: ObjectFilter = ANY_FACTS
    shard: Shard = WHOLE
    links: str = LINKS_FILES
    version_id: str = ""
    at: float | None = None  # a moment: the objects as they were then
    is_moved: bool = False
    listed: Iterable[str] | None = None  # names below the one source, instead of all there are
    listing: ListMode = SEQUENTIAL
    not_kept: NotKept | None = None  # what a walk leaves out is told there


class SourceTasks:
    """The tasks of some sources and one target, neither of them a stream.

    ``client`` is of the pool that sources in S3 are in, ``target_client`` of another one's that the target is in; that
    is only asked whether a tree lies inside the other.

    Iterating lists and walks as it goes. A source that is missing or unusable takes its place in the stream as a
    Problem, and the others go on.

    Raises UsageError: at once, when the words make no sense together.
    """

    def __init__(
        self,
        client: S3Client,
        sources: Iterable[Location],
        target: Location,
        *,
        rules: SourceRules,
        target_client: S3Client | None = None,
    ) -> None:
        self._client = client
        self._target_client = target_client or client
        self._source_trees: dict[str, str] = {}  # where sources lie below the target, and how they are called
        self._target_trees: dict[str, str] = {}  # where the target lies below a wildcard's directory
        ends = (*sources, target)
        places = [end for end in ends if not isinstance(end, StdStream)]
        if len(places) < len(ends):
            raise UsageError("- stands for one stream; it goes with one source and one target, without -r")
        *self._sources, self._target = places
        if len(self._sources) > 1:
            self._target = self._target.join("")  # a directory
        self._rules = rules
        self._names = rules.names if rules.shard.is_whole else ShardNames(rules.names, rules.shard)
        self._mapper = KeyMapper(client.exists)
        # Names of one tree are targets of their own, but for a key that has the tree's name.
        self._may_share = len(self._sources) > 1 or rules.listed is not None
        for source in self._sources:
            self._check(source)

    def __iter__(self) -> Iterator[Item]:
        targets = Targets()
        if self._may_share and self._client is self._target_client:
            for source in self._sources:  # what is to be copied itself must not become another one before
                targets.owner(source.text, source.text)
        for item in self._items():
            found = apart(item, targets) if self._may_share else item
            if found is not None:
                yield found

    def _items(self) -> Iterator[Item]:
        rules, target = self._rules, self._target
        if rules.listed is not None:
            yield from self._expand_listed(self._sources[0], rules.listed)
            return
        for source in self._sources:
            self._mapper.restart()
            try:
                if isinstance(source, LocalPath):
                    yield from self._expand_local(source)
                else:
                    tree = self._expand_tree if rules.recursive else self._expand_single
                    yield from (self._expand_glob if self._is_glob(source) else tree)(source)
            except (LocalFileError, NotFoundError, RefusedError) as exc:
                yield Problem(source.text, exc, target.text, op=_op(source, target))

    # -- what makes no sense ---------------------------------------------------------------

    def _check(self, source: Place) -> None:
        target = self._target
        if isinstance(source, LocalPath) and isinstance(target, LocalPath):
            raise UsageError(f"{source.text} and {target.text} are both local: one side must be s3/BUCKET/KEY")
        if isinstance(target, S3Path) and not target.bucket:
            raise UsageError(f"{target.text} names no bucket; write s3/BUCKET/KEY")
        if self._rules.listed is not None:
            if len(self._sources) > 1 or self._rules.recursive or self._rules.version_id:
                raise UsageError("--files-from goes with one source, without -r and --version-id")
            if isinstance(source, S3Path) and not source.bucket:
                raise UsageError(f"{source.text} names no bucket; write s3/BUCKET/PREFIX")
        elif isinstance(source, S3Path):
            self._check_s3(source)
        elif os.path.isdir(source.path) and not self._rules.recursive:
            raise UsageError(f"{source.text} is a directory: -r copies what is in it")
        elif self._rules.version_id:
            raise UsageError("--version-id is for one source in S3")

    def _check_s3(self, source: S3Path) -> None:
        many = self._is_glob(source) or self._rules.recursive or len(self._sources) > 1
        if not source.bucket:
            raise UsageError(f"{source.text} names no bucket; write s3/BUCKET/KEY")
        if not source.key and not self._rules.recursive:
            raise UsageError(f"{source.text} is a bucket: -r copies what is in it")
        if self._rules.version_id and many:
            raise UsageError("--version-id is for one source in S3, without -r and wildcards")
        if isinstance(self._target, S3Path) and (self._rules.recursive or self._is_glob(source)):
            self._check_not_inside(source, self._target)

    def _check_not_inside(self, source: S3Path, target: S3Path) -> None:
        """Refuse a copy into its own source: it would copy its copies without end."""
        from s3pool.transfer.proofs import target_of_tree

        is_glob = self._is_glob(source)
        start = glob_prefix(source.key) if is_glob else source.tree_prefix
        is_one_bucket = self._client is self._target_client and source.bucket == target.bucket
        if is_one_bucket and not is_glob and target.tree_prefix == start:
            raise UsageError(f"{source.text} and {target.text} are the same")
        tree = S3Path(source.bucket, start[: start.rfind("/") + 1])
        place = target_of_tree(self._client, tree, self._target_client, target)
        if place is None:
            return
        if place.startswith(target.tree_prefix):
            self._source_trees[place] = tree.text
        elif not self._rules.recursive:
            self._target_trees[source.text] = tree.key + target.tree_prefix[len(place) :]
        elif target.tree_prefix.startswith(place + start[len(tree.key) :]):
            raise UsageError(f"{target.text} lies inside {source.text}: the copy would copy itself")

    def _is_glob(self, source: S3Path) -> bool:
        return self._rules.glob and has_glob(source.key)

    # -- from a list of names --------------------------------------------------------------

    def _expand_listed(self, source: Place, listed: Iterable[str]) -> Iterator[Item]:
        for name in filter(self._names.admits, listed):
            try:
                if (item := self._listed(source, name)) is not None:
                    yield item
            except (LocalFileError, NotFoundError, RefusedError) as exc:
                source_text, target_text = (place.join(name).text for place in (source, self._target))
                yield Problem(source_text, exc, target_text, op=_op(source, self._target))

    def _listed(self, source: Place, name: str) -> Item | None:
        if isinstance(source, S3Path):
            return self._listed_object(source.join(name), name)
        assert isinstance(self._target, S3Path)
        split_relative(name)  # the key must not become another one than the name says
        path = os.path.join(source.text, name)
        try:
            facts = os.stat(path)
        except OSError as exc:
            raise local_error("read", path, exc) from exc
        if stat.S_ISDIR(facts.st_mode):
            raise RefusedError(f"{path} is a directory, and a list names files: skipped")
        is_wanted = self._rules.facts.admits(facts.st_size, facts.st_mtime)
        return task_for_file(LocalPath(path), self._target.join(name), facts.st_size) if is_wanted else None

    def _listed_object(self, source: S3Path, name: str) -> Item | None:
        version_id, facts = "", self._rules.facts
        if self._rules.at is not None or facts.active:
            info = self._facts(source)
            if not facts.admits_object(info):
                return None
            version_id = info.version_id
        if isinstance(self._target, S3Path):
            place = self._target.join(name)
            return CopyTask(source.bucket, source.key, place.bucket, place.key, version_id=version_id)
        split_relative(name)
        return DownloadTask(source.bucket, source.key, self._target.text, name, version_id=version_id)

    # -- from disk -------------------------------------------------------------------------

    def _expand_local(self, source: LocalPath) -> Iterator[Item]:
        assert isinstance(self._target, S3Path)
        try:
            facts = os.stat(source.path)
        except OSError as exc:
            raise local_error("read", source.path, exc) from exc
        if os.path.isdir(source.path):
            yield from self._expand_directory(source.path, self._target)
        elif self._admits_named(source.base_name) and self._rules.facts.admits(facts.st_size, facts.st_mtime):
            place = dest_for(source, self._target)
            assert isinstance(place, S3Path)
            yield task_for_file(source, place, facts.st_size)

    def _expand_directory(self, path: str, target: S3Path) -> Iterator[Item]:
        rules, bucket, prefix = self._rules, target.bucket, target.tree_prefix
        # Where links to directories are followed, the way to a file may lead through them.
        root = "" if rules.links == LINKS_FOLLOW else path
        names = self._names if rules.shard.range is None else rules.names
        on_left = None if rules.not_kept is None else rules.not_kept.teller(path, target)
        for found in Walk(
            path, names=names, links=rules.links, within=rules.shard.range or EVERYTHING, on_left=on_left
        ):
            if isinstance(found, Unusable):
                yield Problem(found.path, found.error, f"s3/{bucket}/{prefix}{found.relative}", op="upload")
                continue
            path_of = path_opener(found.below)
            for name, size, time_ns in zip(found.names, found.sizes, found.times_ns, strict=True):
                if rules.facts.admits(size, time_ns / NANO):
                    yield UploadTask(path_of(name), bucket, prefix + name, size, root=root)

    def _admits_named(self, name: str) -> bool:
        return self._rules.names.admits(name) and self._rules.shard.holds_named(name)

    # -- from S3 ---------------------------------------------------------------------------

    def _expand_glob(self, source: S3Path) -> Iterator[Item]:
        start = glob_prefix(source.key)
        base = start[: start.rfind("/") + 1]
        matches = compile_glob(source.key)
        below = compile_glob(f"{source.key.rstrip('/')}/*") if self._rules.recursive else matches
        found = False
        target_tree = self._target_trees.get(source.text)

        def is_meant(info: ObjectInfo) -> bool:
            if target_tree is not None and info.key.startswith(target_tree):
                return False  # a copy that was just made, or what such copies lie beside
            return matches(info.key) or below(info.key)

        for info in filter(is_meant, self._objects(source.bucket, start, base)):
            found = True
            yield from self._admitted(source.bucket, info, info.key[len(base) :], base)
        if not found and self._is_missing(source.bucket, start, is_meant):
            raise _nothing_found(source)

    def _expand_tree(self, source: S3Path) -> Iterator[Item]:
        found = source.is_bucket
        if not source.is_prefix:
            with suppress(NotFoundError):  # the key that has exactly the tree's name, if there is one
                info = self._facts(source)
                self._may_share = True
                base = source.key[: -len(source.base_name)]
                for item in self._admitted(source.bucket, info, source.base_name, base):
                    found = True
                    yield item
        bucket, prefix = source.bucket, source.tree_prefix
        for info in self._objects(bucket, prefix, prefix):
            found = True
            yield from self._admitted(bucket, info, info.key[len(prefix) :], prefix)
        if not found and self._is_missing(bucket, prefix):
            raise _nothing_found(source)

    def _is_missing(self, bucket: str, prefix: str, is_meant: Callable[[ObjectInfo], bool] | None = None) -> bool:
        """Return whether nothing with a prefix is meant, after a listing that has found nothing in this shard."""
        if self._rules.shard.range is None or self._rules.is_moved:
            return self._rules.shard.range is None  # other shards may have moved it all
        if is_meant is None:
            return not self._client.has_keys(bucket, prefix)
        return not any(map(is_meant, list_objects(self._client, bucket, prefix=prefix, mode=self._rules.listing)))

    def _facts(self, source: S3Path) -> ObjectInfo:
        """Return what there is to know of one key, or of the version that the rules mean."""
        if self._rules.at is not None:
            from s3pool.s3.list_all import past_object

            return past_object(self._client, source, self._rules.at)
        version_id = self._rules.version_id
        head = self._client.head_object(source.bucket, source.key, version_id=version_id)
        return ObjectInfo(source.key, head.size, head.last_modified, head.etag, head.storage_class, version_id)

    def _admitted(self, bucket: str, info: ObjectInfo, relative: str, base: str) -> Iterator[Item]:
        if not (self._names.admits(relative) and self._rules.facts.admits_object(info)):
            return
        target = self._target
        if isinstance(target, S3Path):
            place = target.join(relative)
            tree = next((text for start, text in self._source_trees.items() if place.key.startswith(start)), "")
            if tree:
                source = f"s3/{bucket}/{info.key}"
                error = TargetTakenError(f"{source} would become {place.text}, which lies in the source {tree}")
                yield Problem(source, error, place.text)
            else:
                yield copy_of(bucket, info, place)
        else:
            try:
                self._mapper.check(bucket, base, relative)
            except RefusedError as exc:
                path = os.path.join(target.path, relative.lstrip("/"))
                yield Problem(f"s3/{bucket}/{info.key}", exc, path, op="download")
            else:
                yield download_of(bucket, info, target.path, relative)

    def _expand_single(self, source: S3Path) -> Iterator[Item]:
        if not self._admits_named(source.base_name):
            return
        try:
            info = self._facts(source)
        except NotFoundError as exc:
            if exc.code == "NoSuchBucket" or not self._client.has_keys(source.bucket, source.tree_prefix):
                raise
            detail = "there is no such key, but there are keys below it: -r copies them"
            raise NotFoundError(exc.status, exc.code, detail=detail, resource=exc.resource, op=exc.op) from exc
        if self._rules.facts.admits_object(info):
            yield task_for_object(source, dest_for(source, self._target), info)

    def _objects(self, bucket: str, prefix: str, base: str) -> Iterator[ObjectInfo]:
        start, until = self._rules.shard.bounds(base)
        at, mode = self._rules.at, self._rules.listing
        return list_objects(self._client, bucket, prefix=prefix, at=at, mode=mode, start_after=start, until=until)


def task_for_file(source: LocalPath, place: S3Path, size: int) -> Item:
    """Return the task that stores one file."""
    try:
        place.key.encode("utf-8")
    except UnicodeEncodeError:
        error = LocalFileError(f"{place.text}: no key can hold a name that is not UTF-8")
        return Problem(source.path, error, place.text, op="upload")
    return UploadTask(source.path, place.bucket, place.key, size)


def task_for_object(source: S3Path, place: Location, info: ObjectInfo) -> Item:
    """Return the task that brings one object to its place; ``info`` is what is known of it."""
    if isinstance(place, S3Path):
        return copy_of(source.bucket, info._replace(key=source.key), place)
    # A link that the user named is written through; links that keys lead to never are.
    path = os.path.realpath(place.text) if os.path.islink(place.text) else place.text
    root, name = os.path.split(path)
    if source.key.endswith("/"):  # a directory by its name
        root, name = place.text, ""
    return download_of(source.bucket, info, root, name)


def _op(source: Place, target: Place) -> str:
    if not isinstance(source, S3Path):
        return "upload"
    return "copy" if isinstance(target, S3Path) else "download"


def _nothing_found(source: S3Path) -> NotFoundError:
    detail = "nothing has that name or lies below it"
    return NotFoundError(404, "NoSuchKey", detail=detail, resource=source.text, op="ListObjects")


MOST_IN_MEMORY = 20_000
DIGEST_BYTES = 16
CACHE_KIB = 16 * 1024


class Targets:
    """The targets of a run; beyond some thousands they are kept on disk, in a file that has no name."""

    def __init__(self) -> None:
        self._few: dict[str, str] = {}
        self._many: sqlite3.Connection | None = None

    def owner(self, target: str, source: str) -> str | None:
        """Return the source to which a target belongs by now; None when it was free, and is this source's.

        Raises LocalFileError: the disk for temporary files is full.
        """
        if self._many is None and len(self._few) < MOST_IN_MEMORY:
            first = self._few.get(target)
            if first is None:
                self._few[target] = source
            return first
        import sqlite3

        digest = hashlib.blake2b(os.fsencode(target), digest_size=DIGEST_BYTES).digest()
        try:
            many = self._many or self._spill()
            if many.execute("INSERT OR IGNORE INTO taken VALUES (?, ?)", (digest, os.fsencode(source))).rowcount:
                return None
            return os.fsdecode(many.execute("SELECT source FROM taken WHERE target = ?", (digest,)).fetchone()[0])
        except sqlite3.Error as exc:
            raise LocalFileError(f"cannot remember in a temporary file which targets are taken: {exc}") from exc

    def _spill(self) -> sqlite3.Connection:
        import sqlite3

        self._many = many = sqlite3.connect("", isolation_level=None)
        many.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        many.execute("PRAGMA journal_mode = OFF")
        many.execute("CREATE TABLE taken (target BLOB PRIMARY KEY, source BLOB) WITHOUT ROWID")
        many.execute("BEGIN")
        few, self._few = self._few, {}
        for target, source in few.items():
            self.owner(target, source)
        return many


def apart(item: Item, targets: Targets) -> Item | None:
    """Return the item, or the problem that its target is another one's; None for the same pair once more.

    Two moves of one object would meet at their target, and each take the other's file for a stranger's.
    """
    if isinstance(item, Problem):
        return item
    name = item.target
    if isinstance(item, DownloadTask):
        name = os.path.normpath(name) if item.relative and not item.relative.endswith("/") else ""
    elif isinstance(item, CopyTask) and item.key.endswith("/") and item.size == 0:
        name = ""
    if not name:  # a directory, which may be made twice
        return item
    first = targets.owner(name, item.source)
    if first is None or first == item.source == name:
        return item
    if first == item.source:
        return None
    error = TargetTakenError(f"{item.source} and {first} would both be {item.target}: the first one stays")
    return Problem(item.source, error, item.target, op=item.op)

"""Removal: what its operands mean, keys in batches of a thousand, versions, unfinished uploads, local files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from s3pool.errors import AccessDeniedError, NotFoundError, S3Error, S3PoolError, UsageError
from s3pool.filters import ANY_FACTS, Names, ObjectFilter
from s3pool.location import S3Path, compile_glob, glob_prefix, has_glob
from s3pool.model import NO_TIME, SEQUENTIAL, ListMode, ObjectInfo, UploadInfo, parse_iso_time
from s3pool.record import dataclass
from s3pool.s3.exchange import Steps, block_on, in_worker
from s3pool.s3.part_sizes import MAX_KEYS
from s3pool.s3.responses import error_of_failure
from s3pool.shard import WHOLE, Shard
from s3pool.transfer.safe_path import remove_file
from s3pool.transfer.tasks import DONE, FAILED, NOT_STARTED, DeleteTask, Done, Outcome, Problem, RemoveTask
from s3pool.transfer.walk import NO_FILTER

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client
    from s3pool.transfer.context import TransferContext

Batch = tuple[DeleteTask, ...] | RemoveTask | Problem


def iter_batches(tasks: Iterable[DeleteTask | RemoveTask | Problem]) -> Iterator[Batch]:
    """Gather keys of one bucket into batches, in their order; what needs a look stays alone."""
    batch: list[DeleteTask] = []
    for task in tasks:
        if isinstance(task, DeleteTask) and not (task.upload_id or task.named):
            if batch and (batch[0].bucket != task.bucket or len(batch) == MAX_KEYS):
                yield tuple(batch)
                batch = []
            batch.append(task)
        else:
            yield (task,) if isinstance(task, DeleteTask) else task
    if batch:
        yield tuple(batch)


def delete_batch(batch: Batch, context: TransferContext) -> tuple[Outcome, ...]:
    """Remove one batch and tell of each key; never raises S3PoolError."""
    if isinstance(batch, Problem):
        return (Outcome(batch, FAILED, error=batch.error),)
    tasks = batch if isinstance(batch, tuple) else (batch,)
    if context.stop.is_set():
        return tuple(Outcome(task, NOT_STARTED) for task in tasks)
    if len(tasks) > 1:
        return _delete_many(tasks, context)
    try:
        return (Outcome(tasks[0], DONE, block_on(delete(tasks[0], context))),)
    except S3PoolError as exc:
        return (Outcome(tasks[0], FAILED, error=exc),)


def delete(task: DeleteTask | RemoveTask, context: TransferContext) -> Steps[Done]:
    """Remove one key, one version of it, one unfinished upload of it, or one local file."""
    if isinstance(task, RemoveTask):
        remove_file(task.root, task.relative)
        return Done(task.size)
    yield from check_no_tree(task, context.client)
    if task.upload_id:
        yield from in_worker()
        context.client.abort_multipart_upload(task.bucket, task.key, upload_id=task.upload_id)
    else:
        yield from context.client.delete_object.steps(
            task.bucket, task.key, version_id=task.version_id, bypass_governance=context.options.bypass_governance
        )
    return Done(task.size)


def check_no_tree(task: DeleteTask, client: S3Client) -> Steps[None]:
    """See to it that a key that was named is not the name of a tree alone, as far as that may be looked at.

    Raises:
        NotFoundError: there is no such key, and keys lie below it.
    """
    if not task.named:
        return
    try:
        yield from client.head_object.steps(task.bucket, task.key)
    except NotFoundError as exc:
        if exc.code != "NoSuchBucket":
            yield from in_worker()
            refuse_tree(S3Path(task.bucket, task.key), client)
    except S3Error:
        return  # who may delete may be forbidden to read, and some objects cannot be read without a key


def refuse_tree(path: S3Path, client: S3Client, *, act: str = "deletes them") -> None:
    """Refuse a key that is not there when it is the name of a tree.

    Raises:
        NotFoundError: keys lie below it.
    """
    try:
        is_tree = bool(client.list_objects_page(path.bucket, prefix=path.tree_prefix, max_keys=1).objects)
    except AccessDeniedError:
        return
    if is_tree:
        detail = f"there is no such key, but there are keys below it: -r {act}"
        raise NotFoundError(404, "NoSuchKey", detail=detail, resource=path.text, op="DeleteObject")


def _delete_many(batch: tuple[DeleteTask, ...], context: TransferContext) -> tuple[Outcome, ...]:
    bucket = batch[0].bucket
    try:
        keys = [(task.key, task.version_id) for task in batch]
        failures = context.client.delete_objects(bucket, keys, bypass_governance=context.options.bypass_governance)
    except S3PoolError as exc:
        return tuple(Outcome(task, FAILED, error=exc) for task in batch)
    errors = {(failure.key, failure.version_id): error_of_failure(failure, bucket) for failure in failures}
    return tuple(_outcome(task, errors.get((task.key, task.version_id))) for task in batch)


def _outcome(task: DeleteTask, error: S3Error | None) -> Outcome:
    return Outcome(task, FAILED if error else DONE, Done(task.size), error)


@dataclass(frozen=True, slots=True)
class RemovalRules:
    """What belongs to an operand, and what of it goes.

    ``listed`` says that the operands are the names of a list, which a shard divides.
    """

    recursive: bool = False
    raw_prefix: bool = False
    glob: bool = True
    versions: bool = False
    incomplete: bool = False
    names: Names = NO_FILTER
    shard: Shard = WHOLE
    listed: bool = False
    facts: ObjectFilter = ANY_FACTS
    listing: ListMode = SEQUENTIAL


@dataclass(frozen=True, slots=True)
class _Scope:
    """The keys of one operand: those that start with ``prefix`` and that ``holds`` admits."""

    bucket: str
    prefix: str
    base: str
    path: S3Path
    rules: RemovalRules

    @property
    def is_one_key(self) -> bool:
        rules = self.rules
        return not (rules.recursive or rules.raw_prefix or self.is_glob)

    @property
    def is_glob(self) -> bool:
        return self.rules.glob and not self.rules.raw_prefix and has_glob(self.path.key)

    @property
    def is_many(self) -> bool:
        """Whether the operand stands for keys that only a listing can tell."""
        return not self.is_one_key or (self.rules.incomplete and self.path.is_prefix) or not self.path.key

    def relative(self, key: str) -> str:
        return key[len(self.base) :] if key.startswith(self.base) else S3Path(self.bucket, key).base_name

    def admits(self, key: str) -> bool:
        """Return whether filters and shard admit a key."""
        rules, relative = self.rules, self.relative(key)
        return rules.names.admits(relative) and self._is_of_shard(key, relative)

    def _is_of_shard(self, key: str, relative: str) -> bool:
        if self.is_many:
            return self.rules.shard.holds(relative)
        # A list has names of many directories: what they are below is the bucket.
        return self.rules.shard.holds(key) if self.rules.listed else self.rules.shard.holds_named(relative)


class Removal:
    """The removals of some operands, listed while they are worked on.

    A key that is named exactly is taken as it stands: removing what is not there is fine. A
    Problem among the operands keeps its place.

    Raises:
        UsageError: while they are listed, for an operand that must not be removed.
    """

    def __init__(self, client: S3Client, operands: Iterable[S3Path | Problem], *, rules: RemovalRules) -> None:
        self._client = client
        self._operands = operands
        self._rules = rules

    def __iter__(self) -> Iterator[DeleteTask | Problem]:
        for operand in self._operands:
            if isinstance(operand, Problem):
                yield operand
                continue
            try:
                yield from self._expand(scope_of(operand, self._rules))
            except NotFoundError as exc:
                yield Problem(operand.text, exc, op="delete")

    def _expand(self, scope: _Scope) -> Iterator[DeleteTask | Problem]:
        if self._rules.incomplete:
            yield from self._uploads(scope)
        elif self._rules.versions:
            yield from self._versions(scope)
        elif scope.is_one_key:
            yield from self._one_key(scope)
        else:
            yield from self._objects(scope)

    def _one_key(self, scope: _Scope) -> Iterator[DeleteTask]:
        key = scope.path.key
        if not scope.admits(key):
            return
        if self._rules.facts.active:
            yield from self._admitted(scope, self._head(scope.path, may_be_tree=False))
        else:
            yield DeleteTask(scope.bucket, key, named=not self._rules.listed)

    def _objects(self, scope: _Scope) -> Iterator[DeleteTask]:
        from s3pool.s3.list_all import list_objects

        if self._rules.recursive and not scope.is_glob and not self._rules.raw_prefix and not scope.path.is_prefix:
            yield from self._admitted(scope, self._head(scope.path))
        start, until = self._rules.shard.bounds(scope.base)
        objects = list_objects(
            self._client, scope.bucket, prefix=scope.prefix, start_after=start, until=until, mode=self._rules.listing
        )
        yield from self._admitted(scope, objects)

    def _head(self, path: S3Path, *, may_be_tree: bool = True) -> Iterator[ObjectInfo]:
        try:
            head = self._client.head_object(path.bucket, path.key)
        except NotFoundError:
            if not (may_be_tree or self._rules.listed):
                refuse_tree(path, self._client)
            return
        yield ObjectInfo(path.key, head.size, head.last_modified)

    def _versions(self, scope: _Scope) -> Iterator[DeleteTask]:
        is_missing = True
        for task in self._admitted(scope, self._listed_versions(scope)):
            is_missing = False
            yield task
        if is_missing and scope.is_one_key and not self._rules.listed:
            refuse_tree(scope.path, self._client)

    def _listed_versions(self, scope: _Scope) -> Iterator[ObjectInfo]:
        from s3pool.s3.list_all import list_versions

        is_range = self._rules.shard.range is not None and not scope.is_one_key
        start, until = self._rules.shard.bounds(scope.base) if is_range else ("", None)
        prefix = scope.prefix
        if not (scope.is_glob or self._rules.raw_prefix):
            key = scope.path.key
            if not is_range:
                prefix = key  # a tree's own key stands before the tree in the same listing
            elif key and not scope.path.is_prefix:
                versions = list_versions(self._client, scope.bucket, prefix=key)
                yield from takewhile(lambda info: info.key == key, versions)
        yield from list_versions(
            self._client, scope.bucket, prefix=prefix, start_after=start, until=until, mode=self._rules.listing
        )

    def _uploads(self, scope: _Scope) -> Iterator[DeleteTask]:
        from s3pool.s3.list_all import list_uploads

        prefix = scope.prefix if scope.is_glob or self._rules.raw_prefix else scope.path.key
        for upload in list_uploads(self._client, scope.bucket, prefix=prefix):
            if self._holds(scope, upload.key) and self._is_of_age(upload):
                yield DeleteTask(scope.bucket, upload.key, upload_id=upload.upload_id)

    def _is_of_age(self, upload: UploadInfo) -> bool:
        return not self._rules.facts.active or self._rules.facts.admits(0, parse_iso_time(upload.initiated or NO_TIME))

    def _admitted(self, scope: _Scope, infos: Iterable[ObjectInfo]) -> Iterator[DeleteTask]:
        facts = self._rules.facts
        for info in infos:
            if not self._holds(scope, info.key):
                continue
            if facts.active and not facts.admits(info.size, info.mtime):
                continue
            yield DeleteTask(scope.bucket, info.key, info.version_id, size=info.size)

    def _holds(self, scope: _Scope, key: str) -> bool:
        return _belongs(scope, key) and scope.admits(key)


def _belongs(scope: _Scope, key: str) -> bool:
    rules = scope.rules
    if scope.is_glob:
        return _glob_admits(scope.path.key, key, recursive=rules.recursive)
    if rules.raw_prefix or not scope.path.key:
        return True
    if key == scope.path.key:
        return True
    # A directory's unfinished uploads are nobody's data: its name is enough.
    is_tree = rules.recursive or (rules.incomplete and scope.path.is_prefix)
    return is_tree and key.startswith(scope.path.tree_prefix)


def _glob_admits(pattern: str, key: str, *, recursive: bool) -> bool:
    if compile_glob(pattern)(key):
        return True
    return recursive and compile_glob(f"{pattern.rstrip('/')}/*")(key)


def scope_of(path: S3Path, rules: RemovalRules) -> _Scope:
    """Read one operand.

    Raises:
        UsageError: it names no bucket, or a whole bucket without -r.
    """
    if not path.bucket:
        raise UsageError("rm needs a bucket; write s3/BUCKET/KEY")
    if not path.key and not (rules.recursive or rules.raw_prefix or rules.incomplete):
        raise UsageError(f"{path.text} is a bucket: -r removes what is in it, rb the bucket")
    if rules.raw_prefix:
        return _Scope(path.bucket, path.key, path.key[: path.key.rfind("/") + 1], path, rules)
    if rules.glob and has_glob(path.key):
        start = glob_prefix(path.key)
        return _Scope(path.bucket, start, start[: start.rfind("/") + 1], path, rules)
    return _Scope(path.bucket, path.tree_prefix, path.tree_prefix if rules.recursive else _parent(path), path, rules)


def _parent(path: S3Path) -> str:
    return path.key[: len(path.key) - len(path.base_name)]

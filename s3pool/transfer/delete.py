"""Removal: what its operands mean, keys in batches of a thousand, versions, unfinished uploads, local files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from s3pool.errors import AccessDeniedError, NotFoundError, S3Error, S3PoolError, UsageError
from s3pool.filters import ANY_FACTS, WHOLE, Names, ObjectFilter, Shard
from s3pool.location import S3Path, compile_glob, glob_prefix, has_glob
from s3pool.model import NO_TIME, SEQUENTIAL, ListMode, ObjectInfo, parse_iso_time
from s3pool.record import dataclass
from s3pool.s3.operation import Steps, block_on, in_worker
from s3pool.s3.requests import MAX_KEYS
from s3pool.s3.responses import error_of_failure
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

    Raises NotFoundError: there is no such key, and keys lie below it.
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
    """Refuse a key that is not there when it is the name of a tree. Raises NotFoundError: keys lie below it."""
    try:
        is_tree = bool(client.list_objects_page(path.bucket, prefix=path.tree_prefix, max_keys=1).objects)
    except AccessDeniedError:
        return
    if is_tree:
        detail = f"there is no such key, but there are keys below it: -r {act}"
        raise NotFoundError(404, "NoSuchKey", detail=detail, resource=path.text, op="DeleteObject")


def delete_batch(batch: Batch, context: TransferContext) -> tuple[Outcome, ...]:
    """Remove one batch and tell of each key; never raises S3PoolError."""
    if isinstance(batch, Problem):
        return (Outcome(batch, FAILED, error=batch.error),)
    tasks = batch if isinstance(batch, tuple) else (batch,)
    if context.stop.is_set():
        return tuple(Outcome(task, NOT_STARTED) for task in tasks)
    try:
        if isinstance(batch, RemoveTask) or len(batch) == 1:
            return (Outcome(tasks[0], DONE, block_on(delete(tasks[0], context))),)
        bucket, keys = batch[0].bucket, [(task.key, task.version_id) for task in batch]
        failures = context.client.delete_objects(bucket, keys, bypass_governance=context.options.bypass_governance)
    except S3PoolError as exc:
        return tuple(Outcome(task, FAILED, error=exc) for task in tasks)
    errors = {(failure.key, failure.version_id): error_of_failure(failure, bucket) for failure in failures}
    found = [(task, errors.get((task.key, task.version_id))) for task in batch]
    return tuple(Outcome(task, FAILED if error else DONE, Done(task.size), error) for task, error in found)


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

    def relative(self, key: str) -> str:
        return key[len(self.base) :] if key.startswith(self.base) else S3Path(self.bucket, key).base_name

    def admits(self, key: str) -> bool:
        rules, relative = self.rules, self.relative(key)
        if not rules.names.admits(relative):
            return False
        # Keys that only a listing can tell are divided by what they are below the operand.
        if not self.is_one_key or (rules.incomplete and self.path.is_prefix) or not self.path.key:
            return rules.shard.holds(relative)
        # A list has names of many directories: what they are below is the bucket.
        return rules.shard.holds(key) if rules.listed else rules.shard.holds_named(relative)


class Removal:
    """The removals of some operands, listed while they are worked on.

    A key that is named exactly is taken as it stands: removing what is not there is fine. A Problem among the operands
    keeps its place.

    Raises UsageError: while they are listed, for an operand that must not be removed.
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
        key = scope.path.key
        if self._rules.incomplete:
            yield from self._uploads(scope)
        elif self._rules.versions:
            yield from self._versions(scope)
        elif not scope.is_one_key:
            yield from self._objects(scope)
        elif scope.admits(key) and not self._rules.facts.active:
            yield DeleteTask(scope.bucket, key, named=not self._rules.listed)
        elif scope.admits(key):
            yield from self._admitted(scope, self._head(scope.path, may_be_tree=False))

    def _objects(self, scope: _Scope) -> Iterator[DeleteTask]:
        from s3pool.s3.list_all import list_objects

        rules, (start, until) = self._rules, self._rules.shard.bounds(scope.base)
        if rules.recursive and not scope.is_glob and not rules.raw_prefix and not scope.path.is_prefix:
            yield from self._admitted(scope, self._head(scope.path))
        listing = partial(list_objects, self._client, scope.bucket, mode=rules.listing)
        yield from self._admitted(scope, listing(prefix=scope.prefix, start_after=start, until=until))

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

        facts = self._rules.facts
        prefix = scope.prefix if scope.is_glob or self._rules.raw_prefix else scope.path.key
        for upload in list_uploads(self._client, scope.bucket, prefix=prefix):
            is_of_age = not facts.active or facts.admits(0, parse_iso_time(upload.initiated or NO_TIME))
            if is_of_age and _belongs(scope, upload.key) and scope.admits(upload.key):
                yield DeleteTask(scope.bucket, upload.key, upload_id=upload.upload_id)

    def _admitted(self, scope: _Scope, infos: Iterable[ObjectInfo]) -> Iterator[DeleteTask]:
        facts = self._rules.facts
        for info in infos:
            is_meant = _belongs(scope, info.key) and scope.admits(info.key)
            if is_meant and facts.admits_object(info):
                yield DeleteTask(scope.bucket, info.key, info.version_id, size=info.size)


def _belongs(scope: _Scope, key: str) -> bool:
    rules, own = scope.rules, scope.path.key
    if scope.is_glob:
        return compile_glob(own)(key) or (rules.recursive and compile_glob(f"{own.rstrip('/')}/*")(key))
    if rules.raw_prefix or not own or key == own:
        return True
    # A directory's unfinished uploads are nobody's data: its name is enough.
    is_tree = rules.recursive or (rules.incomplete and scope.path.is_prefix)
    return is_tree and key.startswith(scope.path.tree_prefix)


def scope_of(path: S3Path, rules: RemovalRules) -> _Scope:
    """Read one operand. Raises UsageError: it names no bucket, or a whole bucket without -r."""
    key = path.key
    if not path.bucket:
        raise UsageError("rm needs a bucket; write s3/BUCKET/KEY")
    if not key and not (rules.recursive or rules.raw_prefix or rules.incomplete):
        raise UsageError(f"{path.text} is a bucket: -r removes what is in it, rb the bucket")
    start = key if rules.raw_prefix else glob_prefix(key) if rules.glob and has_glob(key) else None
    if start is not None:
        return _Scope(path.bucket, start, start[: start.rfind("/") + 1], path, rules)
    base = path.tree_prefix if rules.recursive else key[: len(key) - len(path.base_name)]
    return _Scope(path.bucket, path.tree_prefix, base, path, rules)

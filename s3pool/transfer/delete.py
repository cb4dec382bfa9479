"""Removal: keys in batches of a thousand, versions, unfinished uploads, local files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from s3pool.errors import AccessDeniedError, NotFoundError, S3Error, S3PoolError
from s3pool.location import S3Path
from s3pool.s3.errors import error_of_failure
from s3pool.s3.exchange import Steps, block_on, in_worker
from s3pool.s3.part_sizes import MAX_KEYS
from s3pool.transfer.safe_path import remove_file
from s3pool.transfer.tasks import DONE, FAILED, NOT_STARTED, DeleteTask, Done, Outcome, Problem, RemoveTask

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client
    from s3pool.transfer.context import Engine


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


def delete_batch(batch: Batch, engine: Engine) -> tuple[Outcome, ...]:
    """Remove one batch and tell of each key; never raises S3PoolError."""
    if isinstance(batch, Problem):
        return (Outcome(batch, FAILED, error=batch.error),)
    tasks = batch if isinstance(batch, tuple) else (batch,)
    if engine.stop.is_set():
        return tuple(Outcome(task, NOT_STARTED) for task in tasks)
    if len(tasks) > 1:
        return _delete_many(tasks, engine)
    try:
        return (Outcome(tasks[0], DONE, block_on(delete(tasks[0], engine))),)
    except S3PoolError as exc:
        return (Outcome(tasks[0], FAILED, error=exc),)


def delete(task: DeleteTask | RemoveTask, engine: Engine) -> Steps[Done]:
    """Remove one key, one version of it, one unfinished upload of it, or one local file."""
    if isinstance(task, RemoveTask):
        remove_file(task.root, task.relative)
        return Done(task.size)
    yield from check_no_tree(task, engine.client)
    if task.upload_id:
        yield from in_worker()
        engine.client.abort_multipart_upload(task.bucket, task.key, upload_id=task.upload_id)
    else:
        yield from engine.client.delete_object.steps(task.bucket, task.key, version_id=task.version_id)
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


def refuse_tree(path: S3Path, client: S3Client) -> None:
    """Refuse a key that is not there when it is the name of a tree.

    Raises:
        NotFoundError: keys lie below it.
    """
    try:
        is_tree = bool(client.list_objects_page(path.bucket, prefix=path.tree_prefix, max_keys=1).objects)
    except AccessDeniedError:
        return
    if is_tree:
        detail = "there is no such key, but there are keys below it: -r deletes them"
        raise NotFoundError(404, "NoSuchKey", detail=detail, resource=path.text, op="DeleteObject")


def _delete_many(batch: tuple[DeleteTask, ...], engine: Engine) -> tuple[Outcome, ...]:
    bucket = batch[0].bucket
    try:
        failures = engine.client.delete_objects(bucket, [(task.key, task.version_id) for task in batch])
    except S3PoolError as exc:
        return tuple(Outcome(task, FAILED, error=exc) for task in batch)
    errors = {(failure.key, failure.version_id): error_of_failure(failure, bucket) for failure in failures}
    return tuple(_outcome(task, errors.get((task.key, task.version_id))) for task in batch)


def _outcome(task: DeleteTask, error: S3Error | None) -> Outcome:
    return Outcome(task, FAILED if error else DONE, Done(task.size), error)

"""Keys that another pool's store may take for one: to some servers ``a//k`` and ``a/./k`` are ``a/k``.

In a pool of its own such keys cannot meet. On their way into another one they would share a
target, and one content would be nowhere.
"""

from __future__ import annotations

import threading
from hashlib import blake2b
from socket import gethostname
from typing import TYPE_CHECKING

from s3pool.body import EMPTY_BODY, EMPTY_SHA256
from s3pool.errors import NotFoundError, S3Error, TargetTakenError
from s3pool.location import S3Path

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client
    from s3pool.transfer.context import Engine
    from s3pool.transfer.tasks import CopyTask

PROBE_NAME_BYTES = 8
UNUSUAL = ("", ".", "..")


class Spellings:
    """What is known of the target's store; for all workers of a run."""

    def __init__(self) -> None:
        # Held while the store is asked, which happens once for each kind of spelling.
        self._lock = threading.Lock()
        self._merges: dict[frozenset[str], bool] = {}
        self._owners: dict[str, str] = {}  # of keys that are usual at the target, and unusual at the source

    def check(self, task: CopyTask, engine: Engine) -> None:
        """Refuse to copy a key that the target's store would take for another source's.

        Raises:
            TargetTakenError: it would.
        """
        twin = plain_key(task.source_key)
        kinds = frozenset(step for step in task.key.split("/")[:-1] if step in UNUSUAL)
        if twin == task.source_key or not kinds:
            return
        with self._lock:
            if kinds not in self._merges:
                self._merges[kinds] = _does_merge(engine.client, task)
            if not self._merges[kinds]:
                return
            first = self._owners.setdefault(plain_key(task.key), task.source)
        if first == task.source and _has_twin(task, engine, twin):
            first = S3Path(task.source_bucket, twin).text
        if first != task.source:
            raise TargetTakenError(f"{task.source} and {first} would both be {task.target}: the other one stays")


def _has_twin(task: CopyTask, engine: Engine, twin: str) -> bool:
    """Return whether the plain spelling is another source, or was one that has moved by now."""
    if _exists(engine.source.client, task.source_bucket, twin):
        return True
    return engine.options.remove_source and _exists(engine.client, task.bucket, plain_key(task.key))


def plain_key(key: str) -> str:
    """Return a key as a store spells it whose keys are names of files."""
    kept: list[str] = []
    *above, name = key.split("/")
    for step in above:
        if step == "..":
            del kept[-1:]
        elif step not in UNUSUAL:
            kept.append(step)
    return "/".join((*kept, name))


def _does_merge(client: S3Client, task: CopyTask) -> bool:
    """Return whether an object that is put by one spelling is there by the plain one."""
    # Named by the machine: the next run here finds what a killed one has left, and no other run's.
    name = blake2b(gethostname().encode(), digest_size=PROBE_NAME_BYTES).hexdigest()
    probe = f"{task.key.rpartition('/')[0]}/.s3pool-{name}.probe"
    _remove_left(client, task.bucket, probe)
    try:
        result = client.put_object(task.bucket, probe, EMPTY_BODY, payload_hash=EMPTY_SHA256)
    except S3Error:  # what it does not take at all the copy itself will be told
        return False
    try:
        return _exists(client, task.bucket, plain_key(probe))
    finally:
        client.delete_object(task.bucket, probe, version_id=result.version_id)


def _remove_left(client: S3Client, bucket: str, probe: str) -> None:
    """Remove the probe of a run that was killed."""
    try:
        left = client.head_object(bucket, probe)
    except S3Error:
        return
    client.delete_object(bucket, probe, version_id=left.version_id)


def _exists(client: S3Client, bucket: str, key: str) -> bool:
    try:
        client.head_object(bucket, key)
    except NotFoundError:
        return False
    return True

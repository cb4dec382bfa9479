"""What brings keys of a bucket with versions back to how they were, from the listing of their versions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter

from s3pool.errors import RefusedError
from s3pool.location import S3Path
from s3pool.model import ObjectInfo
from s3pool.record import dataclass
from s3pool.transfer.tasks import CopyTask, DeleteTask, Problem

NULL_VERSION = "null"

Step = DeleteTask | CopyTask | Problem


@dataclass(slots=True)
class Undo:
    """The tasks that bring keys back to a moment; ``changed`` and ``unchanged`` count keys.

    ``infos`` are all versions, those of a key together and the newest first. Of a key whose version
    of then is listed, and only of such a key, the later versions are removed. With ``keeps_history``
    nothing is removed: that version is copied on top, or a delete marker is put there. A key that
    was not there at all gets a delete marker in any case, and all its versions stay.
    """

    bucket: str
    at: float
    keeps_history: bool = False
    is_suspended: bool = False  # the bucket's versioning: then a new version or marker replaces the null version
    changed: int = 0
    unchanged: int = 0

    def tasks(self, infos: Iterable[ObjectInfo]) -> Iterator[Step]:
        """Yield the tasks, key by key, while the versions are listed."""
        for key, versions in groupby(infos, attrgetter("key")):
            later, then = self._split(versions)
            steps = list(self._steps(key, later, then)) if later else []
            self.changed += bool(steps)
            self.unchanged += not steps
            yield from steps

    def _split(self, versions: Iterable[ObjectInfo]) -> tuple[list[ObjectInfo], ObjectInfo | None]:
        """Return the versions after the moment, and the newest one before it."""
        later: list[ObjectInfo] = []
        for info in versions:
            if info.mtime <= self.at:
                return later, info
            later.append(info)
        return later, None

    def _steps(self, key: str, later: list[ObjectInfo], then: ObjectInfo | None) -> Iterator[Step]:
        if any(math.isnan(info.mtime) for info in later):
            yield self._refusal(key, "the server tells no time of one of its versions")
        elif then is None or (self.keeps_history and then.is_delete_marker):
            yield from self._hide(key, later)
        elif self.keeps_history:
            yield from self._bring_on_top(key, later[0], then)
        else:
            for info in later:
                yield DeleteTask(self.bucket, key, info.version_id, size=info.size)

    def _hide(self, key: str, later: list[ObjectInfo]) -> Iterator[Step]:
        if later[0].is_delete_marker:
            return
        if self.is_suspended and any(info.version_id == NULL_VERSION for info in later):
            yield self._refusal(
                key, "it was not there then, and with versioning suspended a delete would lose its bytes"
            )
        else:
            yield DeleteTask(self.bucket, key)

    def _bring_on_top(self, key: str, newest: ObjectInfo, then: ObjectInfo) -> Iterator[Step]:
        if not newest.is_delete_marker and (newest.size, newest.etag) == (then.size, then.etag):
            return
        yield CopyTask(
            self.bucket,
            key,
            self.bucket,
            key,
            then.size,
            etag=then.etag,
            last_modified=then.last_modified,
            version_id=then.version_id,
        )

    def _refusal(self, key: str, why: str) -> Problem:
        text = S3Path(self.bucket, key).text
        return Problem(text, RefusedError(f"{text} was left as it is: {why}"), op="undo")

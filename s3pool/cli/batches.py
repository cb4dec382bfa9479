"""Delete keys in batches, in the calling thread, and report each one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.cli.exit_codes import combined, exit_code_for
from s3pool.errors import AccessDeniedError, S3Error
from s3pool.location import S3Path

if TYPE_CHECKING:
    from s3pool.cli.output import Output
    from s3pool.s3.client import S3Client
    from s3pool.s3.results import DeleteFailure

BATCH_KEYS = 1000  # S3's own ceiling (DeleteObjects)
FAILURE_STATUS = {"AccessDenied": 403, "InternalError": 500, "SlowDown": 503, "ServiceUnavailable": 503}
OTHER_STATUS = 400


class BatchDeleter:
    """Gathers keys of one bucket and deletes 1000 at a time; close() deletes the rest.

    ``deleted`` counts what is gone; ``exit_code`` speaks of the failures so far. A dry run
    reports and deletes nothing.
    """

    def __init__(self, client: S3Client, bucket: str, out: Output, *, report: bool = True) -> None:
        self._client = client
        self._bucket = bucket
        self._out = out
        self._report = report
        self._waiting: list[tuple[str, str]] = []
        self._codes: set[int] = set()
        self.deleted = 0

    @property
    def exit_code(self) -> int:
        """Give the exit code that the failures call for."""
        return combined(self._codes)

    def add(self, key: str, version_id: str = "") -> None:
        """Take one key, or one version of it."""
        self._waiting.append((key, version_id))
        if len(self._waiting) == BATCH_KEYS:
            self.flush()

    def flush(self) -> None:
        """Delete what waits."""
        if not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        failures = () if self._out.dry_run else self._client.delete_objects(self._bucket, batch)
        failed = {(failure.key, failure.version_id) for failure in failures}
        for failure in failures:
            self._fail(failure)
        for key, version_id in batch:
            if (key, version_id) not in failed:
                self._succeed(key, version_id)
        self._out.flush()

    def _succeed(self, key: str, version_id: str) -> None:
        self.deleted += 1
        if self._report:
            path = S3Path(self._bucket, key).text
            suffix = f" (version {version_id})" if version_id else ""
            fields = {"type": "delete", "url": path} | ({"version_id": version_id} if version_id else {})
            self._out.act(f"Deleted: {self._out.escape(path)}{suffix}", fields)

    def _fail(self, failure: DeleteFailure) -> None:
        path = S3Path(self._bucket, failure.key).text
        kind = AccessDeniedError if failure.code == "AccessDenied" else S3Error
        status = FAILURE_STATUS.get(failure.code, OTHER_STATUS)
        error = kind(status, failure.code, detail=failure.detail, resource=path, op="DeleteObjects")
        self._out.error(error, source=path)
        self._codes.add(exit_code_for(error))

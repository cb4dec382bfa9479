"""Remove what a speed test left, whatever happened to it: all below its own prefix."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from s3pool.errors import S3PoolError
from s3pool.location import S3Path
from s3pool.model import ListPage
from s3pool.record import dataclass
from s3pool.s3.client import S3Client
from s3pool.s3.list_all import list_pages, list_version_pages
from s3pool.speedtest.lanes import Lanes

DELETERS = 4  # batches under way at once

Batch = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class PrefixRemoval:
    """What was removed, and what could not be. ``error`` is the last reason, or nothing.

    ``versioned`` says that the bucket keeps versions, which a plain removal only hides.
    """

    removed: int = 0
    failed: int = 0
    error: str = ""
    versioned: bool = False


def remove_all(client: S3Client, place: S3Path, *, lanes: int = DELETERS) -> PrefixRemoval:
    """Remove every object, version and marker below a place; failures are told, not raised."""
    sweep = _Sweep(client, place)
    crew = Lanes(lanes, sweep.work, name="cleanup")
    crew.start()
    try:
        crew.wait()
    except BaseException:
        sweep.stop.set()
        raise
    return PrefixRemoval(sweep.removed, sweep.failed, sweep.error, sweep.versioned)


class _Sweep:
    """One removal; its lanes take a page each and delete what is on it."""

    def __init__(self, client: S3Client, place: S3Path) -> None:
        self._client = client
        self._place = place
        self._pages = self._iter_batches()
        # Guards the pages and the counts: a page is asked for under it, one at a time.
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self.removed = 0
        self.failed = 0
        self.error = ""
        self.versioned = False

    def work(self, _lane: int) -> None:
        """Delete page after page, until there are none or the listing fails."""
        while not self.stop.is_set():
            try:
                with self._lock:
                    batch = next(self._pages, None)
            except S3PoolError as exc:
                self._note(0, 0, exc.message)
                return
            if batch is None:
                return
            self._delete(batch)

    def _delete(self, batch: Batch) -> None:
        if not batch:
            return
        try:
            failures = self._client.delete_objects(self._place.bucket, batch)
        except S3PoolError as exc:
            self._note(0, len(batch), exc.message)
            return
        error = f"{failures[-1].code} {failures[-1].detail}".strip() if failures else ""
        self._note(len(batch) - len(failures), len(failures), error)

    def _note(self, removed: int, failed: int, error: str) -> None:
        with self._lock:
            self.removed += removed
            self.failed += failed
            self.error = error or self.error

    def _iter_batches(self) -> Iterator[Batch]:
        for page in self._lister()():
            yield [(info.key, info.version_id) for info in page.objects]

    def _lister(self) -> Callable[[], Iterator[ListPage]]:
        bucket, prefix = self._place.bucket, self._place.key
        self.versioned = self._has_versions()
        if self.versioned:
            return lambda: list_version_pages(self._client, bucket, prefix=prefix)
        return lambda: list_pages(self._client, bucket, prefix=prefix)

    def _has_versions(self) -> bool:
        try:
            return bool(self._client.get_versioning(self._place.bucket))
        except S3PoolError:
            # Not every server knows the question, and not every key may ask it.
            return False


def describe(removal: PrefixRemoval, place: S3Path, *, lost: int = 0) -> Sequence[str]:
    """Return what could not be removed and how to remove it; nothing when all is clean."""
    versions = " --versions" if removal.versioned else ""
    advice = f"s3pool rm -r{versions} --force {place.text} removes what is there"
    words = []
    if removal.failed:
        words.append(f"objects of the test that could not be removed: {removal.failed}: {removal.error}; {advice}")
    elif removal.error:
        words.append(f"what the test left could not be listed: {removal.error}; {advice}")
    if lost:
        words.append(f"requests of the test that were not answered and may still store something: {lost}; {advice}")
    return words

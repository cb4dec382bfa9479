"""Hold keys for many threads: renewed before they end, read again when their file changes, one renewal at a time."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from s3pool.config.options import Config
from s3pool.config.values import KeySource
from s3pool.endpoint import Credentials, Keys
from s3pool.errors import CredentialsError, S3PoolError

logger = logging.getLogger(__name__)

LOOK_S = 5.0  # between two looks at a file
EARLY_S = 300.0  # before their end keys are renewed, by one thread while the others go on with them
EARLY_SHARE = 0.25  # of what they had to live, where that is less
LAST_S = 30.0  # before their end nobody uses them any more
LAST_SHARE = 0.05
RETRY_S = 15.0  # after a renewal that failed while the old keys still hold
FAILED_S = 2.0  # so long all threads share one failure, instead of each asking again
FORCED_S = 30.0  # between two renewals because a server refused what should hold
FILES = ("file", "yaml")


def open_keys(config: Config, source: KeySource) -> RenewedKeys:
    """Return the keys of a configuration's source; the first use gets them where they are not there yet."""

    def fetch() -> Keys:
        from s3pool.keys.fetch import get_keys  # most commands end before keys are got anew

        return get_keys(source, config)

    path = source.settings["path"] if source.kind in FILES else ""
    return RenewedKeys(fetch, first=config.credentials, path=path, origin=source.origin)


class RenewedKeys:
    """The keys of one source; calling it returns those that are good now. Safe for many threads."""

    def __init__(
        self,
        fetch: Callable[[], Keys],
        *,
        first: Credentials | None = None,
        path: str = "",
        origin: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fetch = fetch
        self._path = path
        self._origin = origin
        self._clock = clock
        # Guards the renewal. Who needs no new keys does not wait for it.
        self._lock = threading.Lock()
        self._keys = Keys(first) if first is not None else None
        self._next_look = clock() + LOOK_S if first is not None else 0.0
        self._last_use = float("inf")  # of the keys that are held
        self._mark: object = None  # of the file, as it was read
        self._changed_at = float("-inf")  # by the clock of attempts
        self._forced_at = float("-inf")
        self._failure: tuple[float, S3PoolError] | None = None

    def __call__(self) -> Credentials:
        """Return the keys to sign with, got anew where it is time.

        Raises CredentialsError, ConfigError: there are none that are good.
        """
        keys = self._keys
        now = self._clock()
        if keys is not None and now < self._next_look:
            return keys.credentials
        is_good = keys is not None and now < self._last_use
        if not self._lock.acquire(blocking=not is_good):
            assert keys is not None
            return keys.credentials
        try:
            if self._keys is None or (self._keys is keys and self._clock() >= self._next_look):
                return self._renew().credentials
            return self._keys.credentials
        finally:
            self._lock.release()

    def replaced(self, since: float, is_sure: bool) -> bool:
        """Return whether there are other keys than those that were refused; ``since`` is monotonic time.

        Files are looked at. Others are asked only when ``is_sure`` that the keys, not their rights, were refused.
        """
        with self._lock:
            if self._changed_at > since:
                return True
            now = time.monotonic()
            if not self._path and (not is_sure or now < self._forced_at + FORCED_S):
                return False
            self._forced_at = now
            before = self._keys
            try:
                self._renew(is_forced=True)
            except S3PoolError as exc:
                logger.warning("%s", exc)
            return self._keys is not None and before is not None and self._keys.credentials != before.credentials

    def _renew(self, *, is_forced: bool = False) -> Keys:
        """Get and return the keys, with the lock held; a failure counts where the old ones are no good any more."""
        now = self._clock()
        if self._path and (mark := _mark(self._path)) == self._mark and self._keys is not None:
            self._next_look = now + LOOK_S
            return self._keys
        if self._failure is not None and now < self._failure[0] + FAILED_S and not is_forced:
            raise self._failure[1]
        try:
            keys = self._fetch()
            if keys.expires is not None and keys.expires <= now:
                raise CredentialsError(
                    f"the keys that {self._origin} gives have ended already; check this machine's clock"
                )
        except S3PoolError as exc:
            if self._keys is None or now >= self._last_use:
                self._failure = (now, exc)
                raise
            logger.warning("%s; the keys that are there are used on", exc)
            self._next_look = now + (LOOK_S if self._path else min(RETRY_S, max(self._last_use - now, 0.0)))
            return self._keys
        if self._path:
            self._mark = mark
        return self._take(keys, now)

    def _take(self, keys: Keys, now: float) -> Keys:
        if self._keys is None or self._keys.credentials != keys.credentials:
            self._changed_at = time.monotonic()
        else:
            keys = keys._replace(credentials=self._keys.credentials)  # what signs remembers them by identity
        life_s = float("inf") if keys.expires is None else keys.expires - now
        self._last_use = now + life_s - min(LAST_S, LAST_SHARE * life_s)
        self._next_look = now + LOOK_S if self._path else now + life_s - min(EARLY_S, EARLY_SHARE * life_s)
        self._keys = keys
        self._failure = None
        return keys


def _mark(path: str) -> object:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_ino, facts.st_size

"""Which buckets keep versions: asked once in a while, and only where it is wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

TTL_S = 10.0  # somebody may switch versions on by another way
MAX_BUCKETS = 10_000
ABSENT = ""  # what a bucket says that never had versions


class Versioning:
    """Remembers the answers for a short time; safe for many threads."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # Guards the map; nobody is asked while it is held.
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, bool]] = {}

    def is_absent(self, bucket: str, ask: Callable[[], str | None]) -> bool:
        """Say whether a bucket keeps no versions; ``ask`` gives its state, None when that is not told.

        What is not known counts as kept.
        """
        with self._lock:
            until, absent = self._known.get(bucket, (0.0, False))
        if self._now() < until:
            return absent
        absent = ask() == ABSENT
        with self._lock:
            if len(self._known) >= MAX_BUCKETS:
                self._known.clear()
            self._known[bucket] = (self._now() + TTL_S, absent)
        return absent

    def forget(self, bucket: str) -> None:
        """Ask anew next time: somebody changes it."""
        with self._lock:
            self._known.pop(bucket, None)

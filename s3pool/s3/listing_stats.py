"""How many requests the listings of a run took, and how many they would have taken at least."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TypeVar

from s3pool.model import ListPage
from s3pool.s3.part_sizes import MAX_KEYS

T = TypeVar("T")


class ListingStats:
    """The listings of one client; safe in any thread.

    ``requests`` counts requests, each once however often the pool tried it; ``names`` the names
    that the listings yielded; ``needed`` the full pages that these fit on.
    """

    def __init__(self) -> None:
        # Guards all below; held for additions only.
        self._lock = threading.Lock()
        self.requests = 0
        self.names = 0
        self.needed = 0

    @property
    def extra(self) -> int:
        """Count the requests beyond those that were needed."""
        return max(0, self.requests - self.needed)

    def add_request(self) -> None:
        """Count a request that is about to be made."""
        with self._lock:
            self.requests += 1

    def add(self, requests: int, names: int, needed: int) -> None:
        """Count what the listings of another process took."""
        with self._lock:
            self.requests += requests
            self.names += names
            self.needed += needed

    def add_listing(self, names: int) -> None:
        """Count a listing that ended, by the names it gave; one of nothing needs a request, too."""
        with self._lock:
            self.names += names
            self.needed += -(-names // MAX_KEYS) or 1

    def measure_pages(self, pages: Iterator[ListPage]) -> Iterator[ListPage]:
        """Yield the pages of one listing, and count it when it ends or is left."""
        names = 0
        try:
            for page in pages:
                names += len(page.objects) + len(page.prefixes)
                yield page
        finally:
            self.add_listing(names)

    def measure_names(self, entries: Iterator[T]) -> Iterator[T]:
        """Yield the entries of one listing, as ``measure_pages`` yields pages."""
        names = 0
        try:
            for entry in entries:
                names += 1
                yield entry
        finally:
            self.add_listing(names)

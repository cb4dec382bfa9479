"""A lister over keys in memory, with scripted oddities: what S3Client.list_objects_page gives."""

from __future__ import annotations

import base64
import random
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable

from s3pool.errors import S3Error, S3PoolError
from s3pool.model import ListPage, ObjectInfo
from s3pool.s3.buckets import ListingStats

Fault = Callable[["Asked"], S3PoolError | None]
MINIO_TAG = "[minio_cache:v2,return:]"


class Asked:
    """One request as it came."""

    def __init__(self, number: int, prefix: str, start_after: str, token: str) -> None:
        self.number = number
        self.prefix = prefix
        self.start_after = start_after
        self.token = token


class MemoryLister:
    """Lists sorted keys in pages of ``page_size``; thread-safe.

    ``short`` is the share of pages that are cut short, ``empty`` of those that say truncated
    and hold nothing. ``start_after`` is "exclusive", "inclusive", "ignored", "refused", or "skips" what is
    below a directory of that name.
    ``churn`` is called before each page and may write and delete.
    """

    def __init__(
        self,
        keys: Iterable[str],
        *,
        page_size: int = 1000,
        short: float = 0.0,
        empty: float = 0.0,
        start_after: str = "exclusive",
        minio: bool = False,
        tokens: bool = True,
        seed: int = 0,
        fault: Fault | None = None,
        churn: Callable[[MemoryLister], None] | None = None,
    ) -> None:
        self.keys = sorted(set(keys), key=order)
        self.asked: list[Asked] = []
        self.lists = ListingStats()
        self._page_size = page_size
        self._short = short
        self._empty = empty
        self._start_after = start_after
        self._minio = minio
        self._tokens = tokens
        self._random = random.Random(seed)
        self._fault = fault
        self._churn = churn
        # Guards the keys and the record.
        self._lock = threading.Lock()

    def add(self, key: str) -> None:
        """Store a key; for ``churn``, under the lock."""
        insort(self.keys, key, key=order)

    def list_objects_page(
        self,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        start_after: str = "",
        token: str = "",
        max_keys: int = 1000,
    ) -> ListPage:
        """Give one page."""
        with self._lock:
            asked = Asked(len(self.asked) + 1, prefix, start_after, token)
            self.asked.append(asked)
            if self._churn is not None:
                self._churn(self)
            error = self._fault(asked) if self._fault is not None else None
            if error is None and start_after and not token and self._start_after == "refused":
                error = S3Error(400, "InvalidArgument", resource=f"s3/{bucket}")
            if error is not None:
                raise error
            return self._page(prefix, start_after, token)

    def _page(self, prefix: str, start_after: str, token: str) -> ListPage:
        first = bisect_left(self.keys, order(prefix), key=order)
        stop = bisect_left(self.keys, b"\xff" * 1025, lo=first, key=lambda key: _below(key, prefix))
        if token:
            first = max(first, bisect_right(self.keys, order(self._read(token)), key=order))
        elif start_after and self._start_after == "inclusive":
            first = max(first, bisect_left(self.keys, order(start_after), key=order))
        elif start_after and self._start_after != "ignored":
            first = max(first, bisect_right(self.keys, order(start_after), key=order))
            while self._start_after == "skips" and first < stop and self.keys[first].startswith(f"{start_after}/"):
                first += 1
        size = self._page_size
        if self._random.random() < self._short:
            size = self._random.randint(1, size)
        last = min(first + size, stop)
        truncated = last < stop
        if truncated and self._random.random() < self._empty:
            last = first
        names = self.keys[first:last]
        objects = tuple(ObjectInfo(name, 1, "2026-01-22T20:44:33.219Z") for name in names)
        token = self._write(self.keys[last - 1] if last else "") if truncated else ""
        return ListPage(objects, (), truncated=truncated, next_token=token)

    def _write(self, name: str) -> str:
        """Make a token; no two are the same, as those of servers that count on are not."""
        if not self._tokens:
            return ""
        text = f"{name}\0{len(self.asked)}{MINIO_TAG if self._minio else ''}"
        return base64.b64encode(order(text)).decode()

    @staticmethod
    def _read(token: str) -> str:
        return base64.b64decode(token).decode("utf-8", "surrogateescape").rpartition("\0")[0]


def order(name: str) -> bytes:
    """Give what S3 sorts by."""
    return name.encode("utf-8", "surrogateescape")


def _below(key: str, prefix: str) -> bytes:
    """Sort keys with a prefix before what follows them."""
    return b"" if key.startswith(prefix) else b"\xff" * 1025

"""Three ways to list what exists: one connection, a node for each page, many ranges at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from s3pool.errors import TransportError
from s3pool.location import S3Path
from s3pool.model import Endpoint, ListMode, ListPage
from s3pool.record import dataclass, replace
from s3pool.s3.client import S3Client
from s3pool.s3.key_ranges import CAUTIOUS_JOBS
from s3pool.s3.list_all import list_pages, on_one_node

ONE, ROTATION, PARALLEL = "one connection", "rotation", "parallel"


@dataclass(frozen=True, slots=True)
class Way:
    """How one way of listing did. ``complete`` says that it came to the end in time.

    ``factor`` is how many times faster it was than the first way; ``endpoint`` is where one connection went, ``jobs``
    the number of requests at once, 0 when the listing chose; ``requests`` were made for it in all.
    """

    name: str
    objects: int
    pages: int
    seconds: float
    complete: bool
    factor: float = 1.0
    endpoint: str = ""
    jobs: int = 1
    requests: int = 0

    @property
    def objects_per_s(self) -> float:
        """Return objects a second."""
        return self.objects / self.seconds if self.seconds else 0.0


def compare(
    client: S3Client,
    path: S3Path,
    *,
    endpoints: Sequence[Endpoint],
    jobs: Sequence[int],
    limit_s: float,
    drop_idle: Callable[[], None] = lambda: None,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Way]:
    """List a prefix in one way after the other, each for at most ``limit_s`` seconds.

    The ways are one connection to the first node that answers, rotation, and one parallel listing for each of ``jobs``.
    ``drop_idle`` closes kept connections before each: where connections are throttled a way would have to wait for what
    the one before it did.

    Raises S3PoolError: the prefix cannot be listed.
    """
    first = _on_one_node(client, path, endpoints=endpoints, limit_s=limit_s, now=now)
    yield first

    def measured(name: str, pages: Iterable[ListPage], *, jobs: int = 1) -> Way:
        drop_idle()
        before = client.lists.requests
        way = _measure(name, pages, limit_s=limit_s, now=now, jobs=jobs)
        factor = way.objects_per_s / first.objects_per_s if first.objects_per_s else 0.0
        return replace(way, requests=client.lists.requests - before, factor=factor)

    ahead = client.begin_objects_page
    yield measured(ROTATION, list_pages(client, path.bucket, prefix=path.tree_prefix, ahead=ahead))
    for number in jobs:
        mode = ListMode(number, ordered=False, most_jobs=CAUTIOUS_JOBS)
        yield measured(PARALLEL, list_pages(client, path.bucket, prefix=path.tree_prefix, mode=mode), jobs=number)


def _on_one_node(
    client: S3Client, path: S3Path, *, endpoints: Sequence[Endpoint], limit_s: float, now: Callable[[], float]
) -> Way:
    """List on the first node that lives, over the one connection that the pool keeps to it."""
    for endpoint in endpoints:
        pages = list_pages(on_one_node(client, endpoint), path.bucket, prefix=path.tree_prefix)
        try:
            before = client.lists.requests
            way = _measure(ONE, pages, limit_s=limit_s, now=now, endpoint=str(endpoint))
            return replace(way, requests=client.lists.requests - before)
        except TransportError:
            if endpoint is endpoints[-1]:
                raise
    raise ValueError("a pool without endpoints")


def _measure(
    name: str, pages: Iterable[ListPage], *, limit_s: float, now: Callable[[], float], endpoint: str = "", jobs: int = 1
) -> Way:
    started = now()
    objects = count = 0
    complete = True
    for page in pages:
        objects += len(page.objects)
        count += 1
        if page.truncated and now() - started >= limit_s:
            complete = False
            break
    return Way(name, objects, count, now() - started, complete, endpoint=endpoint, jobs=jobs)

"""Leave a node that is much slower than others, where that loses nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from s3pool.body import BodySpeed, BytesBody
from s3pool.model import Endpoint, Request
from s3pool.pool.balancer import BULK_BYTES, CRAWL_TIMES, FAST_BYTES_PER_S, UNKNOWN_BYTES_PER_S, LoadBalancer, longest_s
from s3pool.pool.exchange import Exchange
from s3pool.pool.node import Node
from s3pool.pool.tcp import NodeSilentError
from tests.support.pools import make_node

MOVED = 1_000_000
FAST = 100_000_000.0
LONG_S = 60.0
BODY = BytesBody(b"x" * BULK_BYTES)
PART = Request("PUT", "/b/k", "UploadPart", body=BODY, may_come_late=True)
READ = Request("GET", "/b/k", "GetObject")
LONG_HEAD: Any = SimpleNamespace(length=BULK_BYTES)


@pytest.fixture(name="nodes")
def _nodes() -> tuple[Node, ...]:
    """Return three nodes of one pool, all known to be fast."""
    made = [make_node(Endpoint("http", "127.0.0.1", port)) for port in (1, 2, 3)]
    for node in made:
        node.speed.set(FAST, is_read=True)
        node.speed.set(FAST, is_read=False)
    return LoadBalancer(made).nodes


def begin(node: Node, request: Request, *, waited_s: float, head: Any = None) -> Exchange:
    """Return an exchange that has moved MOVED bytes."""
    connection: Any = SimpleNamespace(moved_at=0.0, bytes_sent=0, bytes_received=0)
    made = Exchange(node, connection, request)
    connection.bytes_sent, connection.waited_s = MOVED, waited_s
    made.head, made.is_sent = head, True
    node.waiting.add(made)
    return made


def test_part_leaves_once_others_would_have_been_done(nodes: tuple[Node, ...]) -> None:
    """Not sooner: a moment's wait is no slowness."""
    limit_s = nodes[0].delays.crawl_s + CRAWL_TIMES * MOVED / FAST

    begin(nodes[0], PART, waited_s=limit_s - 0.01).on_slow()
    with pytest.raises(NodeSilentError, match=r"127.0.0.1:1\S* moved 1000000 bytes in 3.1 s, much slower than others"):
        begin(nodes[0], PART, waited_s=limit_s + 0.01).on_slow()

    assert nodes[0].speed.of(is_read=False) < FAST


def test_silence_counts_as_slowness(nodes: tuple[Node, ...]) -> None:
    """All of a part may stand in buffers of the kernel, from where it crawls."""
    with pytest.raises(NodeSilentError):
        begin(nodes[0], PART, waited_s=0.0).on_quiet(LONG_S)


@pytest.mark.parametrize(
    ("request_", "head"),
    [
        (Request("PUT", "/b/k", "PutObject", body=BODY, is_harmless_twice=True), None),
        (READ, LONG_HEAD),
        (Request("PUT", "/b/k", "UploadPart", body=BytesBody(b"x"), may_come_late=True), None),
    ],
    ids=["stored after what replaced it", "body nobody resumes", "short"],
)
def test_what_another_try_may_spoil_stays(nodes: tuple[Node, ...], request_: Request, head: Any) -> None:
    """A node that works is trusted with what it has got."""
    begin(nodes[0], request_, waited_s=LONG_S, head=head).on_slow()


def test_body_that_has_not_left_whole_goes_elsewhere(nodes: tuple[Node, ...]) -> None:
    """A server can do nothing with the half of it."""
    exchange = begin(nodes[0], Request("PUT", "/b/k", "PutObject", body=BODY), waited_s=LONG_S)
    exchange.is_sent = False

    with pytest.raises(NodeSilentError) as caught:
        exchange.on_slow()

    assert not caught.value.sent


def test_download_that_is_resumed_leaves(nodes: tuple[Node, ...]) -> None:
    """The reader asks another node for the rest."""
    exchange = begin(nodes[0], READ, waited_s=LONG_S, head=LONG_HEAD)
    exchange.is_resumable = True

    with pytest.raises(NodeSilentError):
        exchange.on_slow()


def test_store_that_is_slow_throughout_is_not_asked_twice(nodes: tuple[Node, ...]) -> None:
    """Load that is sent again to other nodes of an overloaded store makes it worse."""
    begin(nodes[1], PART, waited_s=LONG_S)

    begin(nodes[0], PART, waited_s=LONG_S).on_slow()


def test_second_try_is_patient(nodes: tuple[Node, ...]) -> None:
    """A request that moves on and on would never end."""
    exchange = begin(nodes[0], PART, waited_s=LONG_S)
    exchange.is_patient = True

    exchange.on_slow()


def test_unknown_speed_lets_a_download_look_elsewhere_once() -> None:
    """And no upload, of which all would be sent anew."""
    strangers = (BodySpeed(), BodySpeed())

    assert CRAWL_TIMES * MOVED / UNKNOWN_BYTES_PER_S == longest_s(MOVED, strangers, is_read=True)
    assert float("inf") == longest_s(MOVED, strangers, is_read=False)


def test_speed_is_that_of_the_middle_node() -> None:
    """One fast node among slow ones is no measure, nor is a slow one."""
    known = [BodySpeed() for _ in range(3)]
    for speed, rate in zip(known, (1e3, 1e6, 1e9), strict=True):
        speed.note(MOVED, MOVED / rate, is_read=False)

    assert CRAWL_TIMES * MOVED / 1e6 == pytest.approx(longest_s(MOVED, known, is_read=False))


def test_what_a_cache_gave_is_asked_of_no_disk() -> None:
    """A node that reads from disks is sound, whatever another one had in memory."""
    cached = BodySpeed()
    cached.note(MOVED, MOVED / 1e10, is_read=True)

    assert CRAWL_TIMES * MOVED / FAST_BYTES_PER_S == longest_s(MOVED, [cached], is_read=True)

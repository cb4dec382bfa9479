"""Reads of objects, which need no thread while nothing goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_s3 import CutBody, Die, FakeS3, Fault, Reset, internal_error, slow_down
from tests.support.proxying import RunningProxy, arrived, checking_fake, last, parse_answer

LARGE = bytes(range(256)) * 4096


@pytest.fixture
def warm(fake: FakeS3, tmp_path: Path) -> Iterator[RunningProxy]:
    """Give a proxy that has let the pool's key in before, and nodes that forgot about it."""
    fake.store.add("b", "large", LARGE)
    with RunningProxy(fake.endpoints, access_log=str(tmp_path / "log")) as proxy:
        assert 200 == proxy.ask("GET", "/b/there").status
        fake.forget()
        yield proxy


@pytest.mark.parametrize("fault", [CutBody, Die])
@pytest.mark.parametrize(("key", "after"), [("there", 0), ("there", 999), ("large", 100), ("large", 1_000_000)])
def test_download_goes_on_elsewhere(
    fake: FakeS3, warm: RunningProxy, fault: type[CutBody], key: str, after: int
) -> None:
    """A small object is asked for again before anything of it left, a large one in its middle."""
    fake.fault(fault(after), op="GetObject")

    answer = warm.ask("GET", f"/b/{key}")

    whole = LARGE if key == "large" else b"0123456789" * 100
    assert (200, True, b"") == (answer.status, whole == answer.body, answer.rest)
    assert 2 == arrived(fake).count("GetObject")


def test_small_object_that_breaks_off_everywhere_is_an_error(fake: FakeS3, warm: RunningProxy) -> None:
    """Nothing was sent yet, so that the client can be told, and the connection goes on."""
    fake.fault(CutBody(10), op="GetObject", times=3)

    answer = parse_answer(warm.talk(warm.signed("GET", "/b/there"), warm.signed("GET", "/b/there")))

    assert (502, "BadGateway") == (answer.status, answer.code)
    assert b"0123456789" * 100 == parse_answer(answer.rest).body


@pytest.mark.parametrize("fault", [Reset(), internal_error(), slow_down()], ids=str)
def test_reads_go_elsewhere(fake: FakeS3, warm: RunningProxy, fault: Fault) -> None:
    """One node's trouble is not the client's."""
    fake.fault(fault, op="GetObject")

    assert 200 == warm.ask("GET", "/b/there").status


def test_refusal_of_all_nodes_is_passed_on(fake: FakeS3, warm: RunningProxy) -> None:
    """By the node's own words, and after one more node was asked."""
    fake.fault(slow_down(retry_after=7), op="GetObject", times=0)

    answer = warm.ask("GET", "/b/there")

    assert (503, "SlowDown", "7") == (answer.status, answer.code, answer.headers["retry-after"])
    assert 2 == arrived(fake).count("GetObject")


def test_no_node_at_all_is_an_s3_error() -> None:
    """The nodes went away since the key was seen; the connection stays good for later."""
    with checking_fake(1) as fake:
        fake.store.add("b", "there", b"x")
        with RunningProxy(fake.endpoints) as proxy:
            assert 200 == proxy.ask("GET", "/b/there").status
            fake.nodes[0].kill()

            answer = parse_answer(proxy.talk(proxy.signed("GET", "/b/there"), proxy.signed("GET", "/b/there")))

    assert (503, "ServiceUnavailable") == (answer.status, answer.code)
    assert 503 == parse_answer(answer.rest).status


def test_answers_of_every_kind_follow_each_other(fake: FakeS3, warm: RunningProxy) -> None:
    """On one connection: whole, head alone, missing, a range, not modified, and large."""
    etag = warm.ask("HEAD", "/b/there").headers["etag"]
    requests = [
        warm.signed("GET", "/b/there"),
        warm.signed("HEAD", "/b/there"),
        warm.signed("GET", "/b/missing"),
        warm.signed("GET", "/b/there", headers={"Range": "bytes=5-9"}),
        warm.signed("GET", "/b/there", headers={"If-None-Match": etag}),
        warm.signed("GET", "/b/large"),
    ]

    rest, seen = warm.talk(*requests), []
    for method in ("GET", "HEAD", "GET", "GET", "GET", "GET"):
        answer = parse_answer(rest, method)
        rest = answer.rest
        seen.append((answer.status, answer.headers.get("content-length"), answer.code or answer.body[:5]))

    assert (200, "1000", b"01234") == seen[0]
    assert (200, "1000", b"") == seen[1]
    assert (404, "NoSuchKey") == (seen[2][0], seen[2][2])
    assert (206, "5", b"56789") == seen[3]
    assert (304, b"") == (seen[4][0], seen[4][2])
    assert (200, str(len(LARGE)), b"") == (*seen[5][:2], rest)


def test_node_sees_who_asked(fake: FakeS3, warm: RunningProxy) -> None:
    """What a client says of itself and of others goes on, or not, as ever."""
    fields = {"User-Agent": "Tool/1 (x)", "X-Forwarded-For": "203.0.113.9", "x-amz-checksum-mode": "ENABLED"}

    warm.ask("GET", "/b/there", headers=fields)

    sent = last(fake).headers
    assert ("Tool/1 (x)", "127.0.0.1", "ENABLED") == tuple(
        sent[name] for name in ("user-agent", "x-forwarded-for", "x-amz-checksum-mode")
    )
    assert sent["via"].startswith("1.1 s3pool-")


def test_log_tells_what_was_asked(warm: RunningProxy, tmp_path: Path) -> None:
    """The same line whether a thread served the request or not, but for the times."""
    warm.ask("GET", "/b/there")
    thread, loop = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())

    own = {"time", "auth_ms", "first_byte_ms", "total_ms", "request_id", "backend_request_id", "endpoint"}
    assert {name: value for name, value in thread.items() if name not in own} == {
        name: value for name, value in loop.items() if name not in own
    }

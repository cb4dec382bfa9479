"""What each setting of the proxy changes for clients and nodes."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.chunk_signing import checksum, unsigned_stream
from tests.support.fake_s3 import Call, CutBody, Delay, FakeS3, Fault, Hang, Reset, Vanish, internal_error
from tests.support.proxying import RunningProxy, arrived, last, parse_answer, read_to_end, signed_request, stored

CONTENT = os.urandom(3 << 20)
EMPTY_VERSIONS = "GetBucketVersioning"


def chunked(request: bytes, body: bytes, *, step: int = 70_000) -> bytes:
    """Turn a request without a body into one in HTTP's chunked coding."""
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return request.replace(b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n") + framed


# -- bodies that do not say how long they are --------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_body_without_a_length_is_stored_whole(fake: FakeS3, proxy: RunningProxy, size: int) -> None:
    """In memory or on the disk; the node gets a length."""
    body, digest = CONTENT[:size], hashlib.sha256(CONTENT[:size]).hexdigest()

    answer = parse_answer(proxy.talk(chunked(proxy.signed("PUT", "/b/new", payload=digest, close=True), body)))

    assert (200, body) == (answer.status, stored(fake, "b", "new"))
    assert (str(size), None) == (
        last(fake).headers["content-length"],
        last(fake).headers.get("transfer-encoding"),
    )


def test_body_without_a_length_goes_to_another_node(fake: FakeS3, proxy: RunningProxy) -> None:
    """All of it is here, so all of it can be sent again."""
    fake.fault(Reset(after=1 << 20), op="PutObject")

    request = proxy.signed("PUT", "/b/new", payload="UNSIGNED-PAYLOAD", close=True)
    huge = CONTENT * 6  # more than the sockets' buffers hold

    assert 200 == parse_answer(proxy.talk(chunked(request, huge))).status
    assert huge == stored(fake, "b", "new")


def test_body_over_the_limit_of_the_disk_needs_a_length(fake: FakeS3) -> None:
    """A client must not fill it; nothing is stored."""
    with RunningProxy(fake.endpoints, spool_limit=2 << 20) as proxy:
        request = proxy.signed("PUT", "/b/new", payload="UNSIGNED-PAYLOAD", close=True)
        fake.forget()

        answer = parse_answer(proxy.talk(chunked(request, CONTENT)))

        assert (411, "MissingContentLength", []) == (answer.status, answer.code, arrived(fake))
        disk = proxy.proxy.opened.gateway.loader.disk
        assert (0, 0) == (disk.used, proxy.proxy.opened.gateway.loader.budget.used)


def test_client_that_dies_in_a_body_without_a_length_stores_nothing(fake: FakeS3, proxy: RunningProxy) -> None:
    """The last chunk is the only sign that it is whole."""
    request = chunked(proxy.signed("PUT", "/b/new", payload="UNSIGNED-PAYLOAD"), CONTENT)
    fake.forget()

    proxy.talk(request.removesuffix(b"0\r\n\r\n"))

    assert [] == arrived(fake)


def unframed(framed: bytes) -> tuple[bytes, str]:
    """Give the content of an aws-chunked body, and its trailer's line."""
    content = b""
    while True:
        line, _, framed = framed.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            return content, framed.removesuffix(b"\r\n\r\n").decode()
        content, framed = content + framed[:size], framed[size + 2 :]


# -- trailers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_chunked", [False, True])
def test_trailer_passes_to_nodes_that_know_it(is_chunked: bool) -> None:
    """The framing arrives with its checksum, whether or not the client said how long it is."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, trailers="pass") as proxy:
        fake.store.add("b", "k", b"")
        head, framed = unsigned_stream(proxy.host, "/b/new", CONTENT)
        if is_chunked:
            head = head.replace(b"content-length: %d\r\n" % len(framed), b"content-length: 0\r\n")
            sent = chunked(head, framed)
        else:
            sent = head + framed

        answer = parse_answer(proxy.talk(sent))

        headers = last(fake).headers
        assert (200, "STREAMING-UNSIGNED-PAYLOAD-TRAILER") == (answer.status, headers["x-amz-content-sha256"])
        assert ("aws-chunked", "x-amz-checksum-crc32") == (headers["content-encoding"], headers["x-amz-trailer"])
        assert int(headers["content-length"]) == last(fake).body_length
        assert (CONTENT, f"x-amz-checksum-crc32:{checksum('crc32', CONTENT)}") == unframed(
            stored(fake, "b", "new") or b""
        )


def test_reframed_body_is_held_to_its_checksum() -> None:
    """What is put into new chunks is checked on the way, and its end is held back."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, trailers="pass") as proxy:
        fake.store.add("b", "k", b"")
        head, framed = unsigned_stream(proxy.host, "/b/new", CONTENT)
        head = head.replace(b"content-length: %d\r\n" % len(framed), b"content-length: 0\r\n")
        at = framed.index(CONTENT) + 5

        proxy.talk(chunked(head, framed[:at] + bytes([framed[at] ^ 1]) + framed[at + 1 :]))

        assert stored(fake, "b", "new") is None


# -- hashes compared here ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 50_000, 3 << 20])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_body_is_compared_with_its_hash(size: int, is_chunked: bool) -> None:
    """For nodes that take any: the last block stays here until the hash is the signed one."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, verify_body=True, replay_buffer=100_000) as proxy:
        fake.store.add("b", "k", b"")
        body = CONTENT[:size]

        def put(digest: str) -> int:
            if is_chunked:
                request = chunked(proxy.signed("PUT", "/b/new", payload=digest, close=True), body)
            else:
                request = proxy.signed("PUT", "/b/new", body=body, payload=digest, close=True)
            return parse_answer(proxy.talk(request)).status

        bad, after_bad = put(hashlib.sha256(b"other").hexdigest()), stored(fake, "b", "new")

        assert (400, None) == (bad, after_bad)
        assert (200, body) == (put(hashlib.sha256(body).hexdigest()), stored(fake, "b", "new"))


# -- repetitions -------------------------------------------------------------------------------


@pytest.mark.parametrize(("versioning", "tries"), [("", 2), ("Enabled", 1), ("Suspended", 1)])
def test_ambiguous_put_is_repeated_where_no_version_can_be_doubled(fake: FakeS3, versioning: str, tries: int) -> None:
    """The bucket is asked; where versions are kept the old rule holds."""
    fake.store.bucket("b").versioning = versioning
    with RunningProxy(fake.endpoints, retry_ambiguous_put=True) as proxy:
        fake.fault(Vanish(), op="PutObject")

        answer = proxy.ask("PUT", "/b/new", body=b"once")

        assert (tries == 2) == (answer.status == 200)
        assert tries == arrived(fake).count("PutObject")
        assert 1 == arrived(fake).count(EMPTY_VERSIONS)


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_conditional_put_is_never_repeated(fake: FakeS3, header: str) -> None:
    """Its own success would look like somebody else's object."""
    with RunningProxy(fake.endpoints, retry_ambiguous_put=True) as proxy:
        fake.fault(Vanish(), op="PutObject")

        proxy.ask("PUT", "/b/new", body=b"once", headers={header: "*"})

        assert 1 == arrived(fake).count("PutObject")


def test_bucket_that_does_not_say_counts_as_versioned(fake: FakeS3) -> None:
    """A key without that right gets the careful rule."""
    fake.fault(internal_error(), op=EMPTY_VERSIONS, times=0)
    with RunningProxy(fake.endpoints, retry_ambiguous_put=True) as proxy:
        fake.fault(Vanish(), op="PutObject")

        proxy.ask("PUT", "/b/new", body=b"once")

        assert 1 == arrived(fake).count("PutObject")


def test_budget_ends_second_tries(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """When everything fails, trying everything again makes it worse."""
    monkeypatch.setattr("s3pool.proxy.limits.LEAST_RETRIES", 0)
    fake.fault(internal_error(), op="GetObject", times=0)
    with (
        RunningProxy(fake.endpoints, retry_budget="0%") as none,
        RunningProxy(fake.endpoints, retry_budget=False) as all_,
    ):
        first, tries = none.ask("GET", "/b/there").status, arrived(fake).count("GetObject")
        fake.forget()
        second, more = all_.ask("GET", "/b/there").status, arrived(fake).count("GetObject")

    assert (500, 1, 500, 2) == (first, tries, second, more)


def test_unreachable_node_needs_no_budget(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was asked nothing: nobody's load grows."""
    monkeypatch.setattr("s3pool.proxy.limits.LEAST_RETRIES", 0)
    fake.nodes[0].kill()
    with RunningProxy(fake.endpoints, retry_budget="0%") as proxy:
        assert {200} == {proxy.ask("GET", "/b/there").status for _ in range(6)}


@pytest.mark.parametrize("target", ["/b/there", "/b?list-type=2"])
@pytest.mark.parametrize("fault", [Reset(), Vanish()], ids=str)
def test_broken_connection_needs_no_budget(
    fake: FakeS3, monkeypatch: pytest.MonkeyPatch, fault: Fault, target: str
) -> None:
    """A node that dies breaks off all that it works on at once, and must not use up a share for it."""
    monkeypatch.setattr("s3pool.proxy.limits.LEAST_RETRIES", 0)
    fake.fault(fault, op="*Object*")
    with RunningProxy(fake.endpoints, retry_budget="0%") as proxy:
        assert 200 == proxy.ask("GET", target).status


@pytest.mark.parametrize(("fault", "counted"), [(Reset(), 0), (Vanish(), 0), (internal_error(), 1)], ids=str)
def test_budget_counts_only_what_needs_it(fake: FakeS3, fault: Fault, counted: int) -> None:
    """Requests that a dead node left behind must not take the second try from those that are refused."""
    seen: list[int] = []
    with RunningProxy(fake.endpoints) as proxy:
        # Not a read, of which a busy machine may have two under way for other reasons.
        fake.fault(fault, op="UploadPart")
        fake.fault(Call(lambda _: seen.append(proxy.stats()["retrying"])), op="UploadPart", nth=2)

        proxy.ask("PUT", "/b/new?partNumber=1&uploadId=x", body=b"part")
        after = proxy.stats()["retrying"]

    assert ([counted], 0) == (seen, after)


# -- timeouts ----------------------------------------------------------------------------------


def test_slow_operations_get_their_own_timeout(fake: FakeS3) -> None:
    """Completing a large upload takes longer than any read."""
    fake.fault(Delay(0.5), op="PutObject")
    fake.fault(Hang(), op="GetObject", times=0)
    with RunningProxy(fake.endpoints, ttfb_timeout="0.2s", slow_op_timeout="10s") as proxy:
        assert 200 == proxy.ask("PUT", "/b/new", body=b"x").status
        assert 503 == proxy.ask("GET", "/b/there").status


# -- balancers before the proxy ----------------------------------------------------------------


@pytest.mark.parametrize("auth", ["verify", "passthrough"])
def test_hearsay_about_clients_is_dropped(auth: str) -> None:
    """Anybody can claim to be forwarded for the administrator."""
    claims = {
        "X-Forwarded-For": "10.1.1.1",
        "X-Real-IP": "10.1.1.1",
        "Forwarded": "for=x",
        "X-Forwarded-Proto": "https",
    }
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, auth=auth) as proxy:
        fake.store.add("b", "there", b"")

        proxy.ask("GET", "/b/there", headers=claims)

        headers = last(fake).headers
        assert "127.0.0.1" == headers["x-forwarded-for"]
        assert set() == {"x-real-ip", "forwarded", "x-forwarded-proto"} & set(headers)


HEARSAY = ["X-Forwarded-For", "x-forwarded-proto", "X-Forwarded-Host", "x-real-ip", "Forwarded", "True-Client-IP"]


@pytest.mark.parametrize("where", ["query", "lower-case query", "header"])
@pytest.mark.parametrize("field", HEARSAY)
def test_hearsay_that_is_called_signed_is_refused(where: str, field: str) -> None:
    """A kept signature would keep it; the node's rules about source addresses would believe it."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, auth="passthrough") as proxy:
        fake.store.add("b", "there", b"")
        query, signature = "", f"Authorization: AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host;{field}, Signature=b"
        if where != "header":
            name = "X-Amz-SignedHeaders" if where == "query" else "x-amz-signedheaders"
            query, signature = f"?{name}=host%3B{field}&X-Amz-Signature=b", "X-Other: 1"
        lines = [f"GET /b/there{query} HTTP/1.1", f"Host: {proxy.host}", f"{field}: 10.1.1.1", signature]

        answer = parse_answer(proxy.talk(("\r\n".join(lines) + "\r\n\r\n").encode()))

        assert (403, "AccessDenied", []) == (answer.status, answer.code, arrived(fake))


def test_hearsay_that_a_balancer_signed_stays() -> None:
    """Whose word counts may sign it as well."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, auth="passthrough", trust_forwarded=["127.0.0.1"]) as proxy:
        fake.store.add("b", "there", b"")
        lines = [
            "GET /b/there?X-Amz-SignedHeaders=host%3Bx-forwarded-proto HTTP/1.1",
            f"Host: {proxy.host}",
            "X-Forwarded-Proto: https",
        ]

        proxy.talk(("\r\n".join(lines) + "\r\n\r\n").encode())

        assert "https" == last(fake).headers["x-forwarded-proto"]


def test_trusted_balancer_is_believed(fake: FakeS3, tmp_path: Path) -> None:
    """The log names the client behind it, but not what that client claims."""
    log = tmp_path / "log"
    networks = ["127.0.0.0/8", "10.9.0.0/16"]
    with RunningProxy(fake.endpoints, trust_forwarded=networks, access_log=str(log)) as proxy:
        headers = {"X-Forwarded-For": "1.1.1.1, 203.0.113.9, 10.9.0.1", "X-Forwarded-Proto": "https"}

        proxy.ask("GET", "/b/there", headers=headers)

        assert "1.1.1.1, 203.0.113.9, 10.9.0.1, 127.0.0.1" == last(fake).headers["x-forwarded-for"]
        assert "https" == last(fake).headers["x-forwarded-proto"]
    assert "203.0.113.9" == json.loads(log.read_text())["client"]


# -- probes ------------------------------------------------------------------------------------


def probed(fake: FakeS3, **settings: Any) -> Callable[[], set[str]]:
    """Run one round of probes for each setting and give the paths that were asked."""
    with RunningProxy(fake.endpoints, **settings) as proxy:
        proxy.proxy.opened.checker.check_all()
        return lambda: {node.breaker.state for node in proxy.proxy.opened.nodes}


@pytest.mark.parametrize(
    ("how", "state"),
    [("auto", "closed"), ("s3", "closed"), ("tcp", "closed"), ("/nowhere/health", "open"), ("rgw", "closed")],
)
def test_nodes_are_judged_by_the_probe_that_was_chosen(fake: FakeS3, how: str, state: str) -> None:
    """A path that was named for its health must be answered with success."""
    assert {state} == probed(fake, probe=how, fall=1)()


def test_upload_that_is_moved_by_the_kernel_is_the_one_that_was_sent(fake: FakeS3) -> None:
    """With nothing kept, the body goes from socket to socket."""
    with RunningProxy(fake.endpoints, replay_buffer=0) as proxy:
        request = proxy.signed("PUT", "/b/new", body=CONTENT)

        first = parse_answer(proxy.talk(request + proxy.signed("GET", "/b/new", close=True)))

        assert (200, CONTENT) == (first.status, stored(fake, "b", "new"))
        assert CONTENT == parse_answer(first.rest).body


@pytest.mark.parametrize("sent", [1 << 20, (3 << 20) - 1])
def test_client_that_dies_in_a_moved_upload_stores_nothing(fake: FakeS3, sent: int) -> None:
    """The node gets less than was announced, and the end of its connection."""
    with RunningProxy(fake.endpoints, replay_buffer=0) as proxy:
        request = proxy.signed("PUT", "/b/new", body=CONTENT)
        head = len(request) - len(CONTENT)

        proxy.talk(request[: head + sent])

        assert stored(fake, "b", "new") is None


def test_refusal_reaches_a_client_whose_upload_is_moved(fake: FakeS3) -> None:
    """The node answers in the middle of the body, and the client still sends."""
    fake.fault(internal_error(), op="PutObject", times=0)
    with RunningProxy(fake.endpoints, replay_buffer=0) as proxy:
        answer = parse_answer(proxy.talk(proxy.signed("PUT", "/b/new", body=CONTENT * 4)))

        assert 500 == answer.status
        assert 1 == arrived(fake).count("PutObject")


def test_download_and_upload_share_a_connection_in_pieces(fake: FakeS3) -> None:
    """A body whose first bytes came with its head is neither cut nor doubled."""
    fake.fault(CutBody(10), op="GetObject")
    with RunningProxy(fake.endpoints, replay_buffer=0) as proxy:
        request = signed_request("PUT", "/b/new", host=proxy.host, body=CONTENT, close=True)
        with socket.create_connection(("127.0.0.1", proxy.port)) as sock:
            for at in (slice(0, 2000), slice(2000, 1 << 20), slice(1 << 20, None)):
                sock.sendall(request[at])
            answer = parse_answer(read_to_end(sock))

        assert (200, CONTENT) == (answer.status, stored(fake, "b", "new"))


# -- attempts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "settings", "attempts"),
    [("default", {}, 2), ("flag --retries", {}, 1), ("flag --retries", {"tries": 2}, 2)],
)
def test_retries_count_where_the_proxy_has_no_number_of_its_own(
    fake: FakeS3, origin: str, settings: dict[str, Any], attempts: int
) -> None:
    """One flag for clients and proxy; a deployment that set proxy.tries keeps its number."""
    with RunningProxy(fake.endpoints, retry_budget=False, **settings) as proxy:
        proxy.config = proxy.config.replace(retries=0, origins={"retries": origin})
        proxy.proxy.reload()
        fake.fault(internal_error(), op="GetObject", times=9)
        fake.forget()

        answer = parse_answer(proxy.talk(proxy.signed("GET", "/b/there", close=True)))

        assert (500, attempts) == (answer.status, len(arrived(fake)))


def test_connections_are_kept_open_to_every_node(fake: FakeS3) -> None:
    """The first requests after a quiet night need not wait for handshakes; what nodes close is opened again."""

    def await_open(count: int) -> None:
        deadline = time.monotonic() + 30
        while any(node.open_connections < count for node in fake.nodes):
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)

    with RunningProxy(fake.endpoints, options={"min_connections": 3}) as proxy:
        await_open(3)
        for node in fake.nodes:
            node.drop_connections()
        await_open(3)

        assert 200 == proxy.ask("GET", "/b/there").status

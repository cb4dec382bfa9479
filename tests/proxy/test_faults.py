"""Nodes that fail in every way: nothing is lost, doubled, cut or padded."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.support.fake_s3 import Answer as Refusal
from tests.support.fake_s3 import (
    CutBody,
    Die,
    DieReceiving,
    Drip,
    FakeS3,
    Fault,
    Hang,
    Reset,
    Vanish,
    WrongETag,
    error_in_200,
    internal_error,
    slow_down,
)
from tests.support.proxying import RunningProxy, arrived, parse_answer, read_to_end, signed_request, stored

SMALL = os.urandom(50_000)
LARGE = os.urandom(3 << 20)
HUGE = os.urandom(16 << 20)  # more than the sockets' buffers hold


@pytest.fixture
def large(fake: FakeS3) -> bytes:
    """Put an object there that takes many receives."""
    fake.store.add("b", "large", LARGE)
    return LARGE


@pytest.fixture
def streaming(fake: FakeS3) -> Iterator[RunningProxy]:
    """Give a proxy that keeps no body for a second try."""
    with RunningProxy(fake.endpoints, replay_buffer=0) as running:
        yield running


@pytest.fixture
def patient(fake: FakeS3) -> Iterator[RunningProxy]:
    """Give a proxy for bodies that take a busy machine a while."""
    with RunningProxy(fake.endpoints, read_timeout_s=20.0) as running:
        yield running


@pytest.fixture(params=[False, True], ids=["stranger", "known"])
def known(request: pytest.FixtureRequest, fake: FakeS3, proxy: RunningProxy) -> RunningProxy:
    """Give a proxy whose threads serve the client, or that knows it and serves it by the event loop."""
    if request.param:
        assert 200 == proxy.ask("GET", "/b/there").status
        fake.forget()
    return proxy


def versions(fake: FakeS3, key: str) -> int:
    """Count what is stored of a key, delete markers included."""
    return len(fake.store.bucket("b").versions.get(key, []))


@pytest.mark.parametrize(
    ("key", "after"), [*(("large", n) for n in (0, 1, 100_000, (3 << 20) - 1)), ("there", 0), ("there", 999)]
)
@pytest.mark.parametrize("fault", [CutBody, Die])
def test_download_goes_on_elsewhere(
    fake: FakeS3, known: RunningProxy, large: bytes, fault: type[CutBody], key: str, after: int
) -> None:
    """The client sees one answer, whole: a small object is asked for anew, a large one goes on in its middle."""
    fake.fault(fault(after), op="GetObject")

    answer = known.ask("GET", f"/b/{key}")

    whole = large if key == "large" else b"0123456789" * 100
    assert (200, True, b"") == (answer.status, answer.body == whole, answer.rest)
    assert 2 == arrived(fake).count("GetObject")


def test_range_goes_on_elsewhere(fake: FakeS3, proxy: RunningProxy, large: bytes) -> None:
    """What is asked for anew is the rest of the range, not of the object."""
    fake.fault(CutBody(100_000), op="GetObject")

    answer = proxy.ask("GET", "/b/large", headers={"Range": "bytes=1000-2000999"})

    assert (206, "bytes 1000-2000999/3145728") == (answer.status, answer.headers["content-range"])
    assert large[1000:2001000] == answer.body
    assert ["bytes=1000-2000999", "bytes=101000-2000999"] == [
        request.headers["range"] for request in fake.requests if request.op == "GetObject"
    ]


def test_download_is_resumed_twice_and_then_broken_off(fake: FakeS3, proxy: RunningProxy, large: bytes) -> None:
    """A short body on a closed connection says that it is short; it is never padded."""
    fake.fault(CutBody(1000), op="GetObject", times=0)

    answer = parse_answer(proxy.talk(proxy.signed("GET", "/b/large")))

    assert str(len(large)) == answer.headers["content-length"]
    assert large[: len(answer.body)] == answer.body
    assert len(answer.body) <= 3000
    assert 3 == arrived(fake).count("GetObject")


def test_changed_object_is_not_mixed_in(fake: FakeS3, proxy: RunningProxy, large: bytes) -> None:
    """Half of one object and half of another is neither."""
    fake.fault(CutBody(1000), op="GetObject")
    fake.fault(WrongETag(), op="GetObject", nth=2)

    answer = parse_answer(proxy.talk(proxy.signed("GET", "/b/large")))

    assert len(answer.body) <= 1000


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("after", [0, 100, 30_000])
@pytest.mark.parametrize("fault", [CutBody, Die])
def test_listing_that_breaks_off_is_asked_for_anew(
    fake: FakeS3, proxy: RunningProxy, fault: type[CutBody], after: int, is_chunked: bool
) -> None:
    """Two pages may differ, so it is one node's from the first byte to the last."""
    for number in range(200):
        fake.store.add("b", f"{number:03}", b"")
    whole = proxy.ask("GET", "/b?list-type=2").body
    fake.quirks.chunked = is_chunked
    fake.fault(fault(after), op="ListObjectsV2")

    answer = proxy.ask("GET", "/b?list-type=2")

    assert (200, whole) == (answer.status, answer.body)


def test_listing_that_no_node_brings_to_its_end_is_an_error(fake: FakeS3, proxy: RunningProxy) -> None:
    """Half of one must not look like a short one."""
    fake.fault(CutBody(100), op="ListObjectsV2", times=0)

    answer = proxy.ask("GET", "/b?list-type=2")

    assert (502, "BadGateway") == (answer.status, answer.code)


@pytest.mark.parametrize(("target", "status"), [("/b/nowhere", 404), ("/b?versioning", 200)])
def test_broken_document_is_asked_for_anew(fake: FakeS3, proxy: RunningProxy, target: str, status: int) -> None:
    """Whatever is not an object's own bytes is small, and another node says it as well."""
    fake.fault(CutBody(10), op="Get*")

    assert status == proxy.ask("GET", target).status


@pytest.mark.parametrize(
    "fault", [Reset(0), Reset(10_000), DieReceiving(0), DieReceiving(10_000), slow_down()], ids=str
)
def test_kept_upload_is_replayed(fake: FakeS3, patient: RunningProxy, fault: Fault) -> None:
    """A body that was not sent whole cannot have been stored, and it is still here."""
    fake.fault(fault, op="PutObject")

    answer = patient.ask("PUT", "/b/new", body=HUGE)

    assert (200, 1, True) == (answer.status, versions(fake, "new"), stored(fake, "b", "new") == HUGE)


@pytest.mark.parametrize("fault", [Vanish(), internal_error(), internal_error(acted=True), Hang()], ids=str)
def test_upload_with_an_unknown_end_is_not_repeated(fake: FakeS3, proxy: RunningProxy, fault: Fault) -> None:
    """On a versioned bucket a second PUT is a second version; the client decides."""
    fake.store.bucket("b").versioning = "Enabled"
    fake.fault(fault, op="PutObject")

    answer = proxy.ask("PUT", "/b/new", body=SMALL)

    assert answer.status in (500, 502, 504)
    assert 1 == arrived(fake).count("PutObject")
    assert versions(fake, "new") <= 1


def test_upload_that_cannot_be_replayed_is_refused_cleanly(fake: FakeS3, streaming: RunningProxy) -> None:
    """The bytes are gone; a 503 lets every SDK send them again."""
    fake.fault(DieReceiving(10_000), op="PutObject")

    answer = streaming.ask("PUT", "/b/new", body=HUGE)

    assert (503, "ServiceUnavailable", "1") == (answer.status, answer.code, answer.headers["retry-after"])
    assert stored(fake, "b", "new") is None


def test_untouched_upload_goes_elsewhere_without_a_buffer(fake: FakeS3, streaming: RunningProxy) -> None:
    """A node that does not even accept has cost no byte."""
    fake.nodes[0].kill()
    fake.nodes[1].kill()

    answers = [streaming.ask("PUT", f"/b/new{number}", body=LARGE) for number in range(3)]

    assert [200] * 3 == [answer.status for answer in answers]
    assert all(stored(fake, "b", f"new{number}") == LARGE for number in range(3))


@pytest.mark.parametrize("fault", [Vanish(), internal_error(acted=True), Reset(100), slow_down()], ids=str)
def test_part_is_sent_again(fake: FakeS3, proxy: RunningProxy, fault: Fault) -> None:
    """The same number overwrites the same part."""
    created = proxy.ask("POST", "/b/multi?uploads")
    upload_id = created.body.partition(b"<UploadId>")[2].partition(b"<")[0].decode()
    fake.fault(fault, op="UploadPart")

    answer = proxy.ask("PUT", f"/b/multi?partNumber=1&uploadId={upload_id}", body=SMALL)

    assert 200 == answer.status
    assert [1] == list(fake.store.bucket("b").uploads[upload_id].parts)


@pytest.mark.parametrize(
    ("fault", "status"), [(Vanish(), 502), (internal_error(acted=True), 500), (Hang(), 504)], ids=str
)
def test_new_upload_is_never_begun_twice(fake: FakeS3, proxy: RunningProxy, fault: Fault, status: int) -> None:
    """An orphan would be paid for until somebody looks."""
    fake.fault(fault, op="CreateMultipartUpload")

    answer = proxy.ask("POST", "/b/multi?uploads")

    assert status == answer.status
    assert 1 == arrived(fake).count("CreateMultipartUpload")
    assert len(fake.store.bucket("b").uploads) <= 1


@pytest.mark.parametrize("fault", [Vanish(), internal_error(), slow_down()], ids=str)
def test_delete_in_doubt_is_not_repeated(fake: FakeS3, proxy: RunningProxy, fault: Fault) -> None:
    """It would be a second delete marker; only a refusal is safe to ask again."""
    fake.store.bucket("b").versioning = "Enabled"
    fake.fault(fault, op="DeleteObject")

    answer = proxy.ask("DELETE", "/b/there")

    markers = [version for version in fake.store.bucket("b").versions["there"] if version.marker]
    assert answer.status in (204, 500, 502)
    assert len(markers) <= 1
    assert (204 == answer.status) == (len(markers) == 1) or isinstance(fault, Vanish)


def test_error_inside_a_200_passes_as_it_is(fake: FakeS3, proxy: RunningProxy) -> None:
    """Complete answers 200 before it knows; SDKs look inside."""
    fake.fault(error_in_200(), op="CompleteMultipartUpload")

    answer = proxy.ask("POST", "/b/multi?uploadId=x", body=b"<CompleteMultipartUpload/>")

    assert (200, "InternalError") == (answer.status, answer.code)
    assert 1 == arrived(fake).count("CompleteMultipartUpload")


@pytest.mark.parametrize("fault", [Reset(), Vanish(), internal_error(), slow_down()], ids=str)
@pytest.mark.parametrize("target", ["/b/there", "/b?list-type=2"])
def test_reads_go_elsewhere(fake: FakeS3, known: RunningProxy, fault: Fault, target: str) -> None:
    """Reading twice changes nothing."""
    fake.fault(fault, op="*Object*")

    assert 200 == known.ask("GET", target).status


def test_refusal_of_all_nodes_is_passed_on(fake: FakeS3, known: RunningProxy) -> None:
    """Moving load around amplifies it; the client is told to slow down, by the node's own words."""
    fake.fault(slow_down(retry_after=7), op="GetObject", times=0)

    answer = known.ask("GET", "/b/there")

    assert (503, "SlowDown", "7") == (answer.status, answer.code, answer.headers["retry-after"])
    assert 2 == arrived(fake).count("GetObject")


def test_no_node_at_all_is_an_s3_error() -> None:
    """Every SDK understands it, and comes back."""
    with RunningProxy(["http://127.0.0.1:9", "http://127.0.0.1:10"]) as proxy:
        answer = proxy.ask("GET", "/b/k")

    assert (503, "ServiceUnavailable") == (answer.status, answer.code)
    assert "application/xml" == answer.headers["content-type"]


def test_slow_answer_arrives_whole(fake: FakeS3, proxy: RunningProxy) -> None:
    """A drip is no death."""
    fake.fault(Drip(block=100, pause_s=0.001), op="GetObject")

    assert b"0123456789" * 100 == proxy.ask("GET", "/b/there").body


@pytest.mark.parametrize("sent", [0, 1, 20_000, len(SMALL) - 1])
def test_client_that_dies_stores_nothing(fake: FakeS3, proxy: RunningProxy, sent: int) -> None:
    """Half an upload must never become an object."""
    head, _, body = proxy.signed("PUT", "/b/new", body=SMALL).partition(b"\r\n\r\n")

    received = proxy.talk(head + b"\r\n\r\n" + body[:sent])

    assert b" 200 " not in received
    assert stored(fake, "b", "new") is None


def test_client_that_leaves_a_download_frees_the_node(fake: FakeS3, proxy: RunningProxy, large: bytes) -> None:
    """Nothing keeps on reading for somebody who is gone."""
    with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock:
        sock.sendall(proxy.signed("GET", "/b/large"))
        sock.recv(1000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    answer = proxy.ask("GET", "/b/there")

    assert 200 == answer.status


def test_early_refusal_reaches_a_client_that_still_sends(fake: FakeS3, streaming: RunningProxy) -> None:
    """The node has decided; the rest of the body is not wanted."""
    fake.fault(Refusal(403, "AccessDenied", "no", early=True), op="PutObject")

    answer = streaming.ask("PUT", "/b/new", body=LARGE)

    assert (403, "AccessDenied") == (answer.status, answer.code)


def ask_slowly(proxy: RunningProxy, head: bytes) -> bytes:
    """Send part of a head and wait for what comes."""
    with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock:
        sock.sendall(head)
        return read_to_end(sock)


def test_slow_head_is_given_up(fake: FakeS3) -> None:
    """A byte now and then must not hold a thread for ever."""
    with RunningProxy(fake.endpoints, header_timeout=0.2) as proxy:
        answer = parse_answer(ask_slowly(proxy, b"GET /b/k HTTP/1.1\r\nHos"))

    assert (408, "RequestTimeout") == (answer.status, answer.code)


def test_idle_connection_is_closed(fake: FakeS3) -> None:
    """Without a word: there is nothing to answer."""
    with RunningProxy(fake.endpoints, idle_timeout=0.2) as proxy:
        assert b"" == ask_slowly(proxy, b"")


def test_connections_over_the_limit_are_told_so(fake: FakeS3) -> None:
    """And those within it go on working."""
    with RunningProxy(fake.endpoints, max_clients=2) as proxy:
        first = socket.create_connection(("127.0.0.1", proxy.port), 20)
        second = socket.create_connection(("127.0.0.1", proxy.port), 20)
        with first, second:
            upload = proxy.signed("PUT", "/b/key", payload="UNSIGNED-PAYLOAD", headers={"expect": "100-continue"})
            for sock in (first, second):
                sock.sendall(upload.replace(b"content-length: 0", b"content-length: 2"))
                assert b"100 Continue" in sock.recv(1000)
            refused = proxy.ask("GET", "/b/there")
            first.sendall(b"ok")

            assert (503, "ServiceUnavailable") == (refused.status, refused.code)
            assert b"200" in first.recv(1000)


def test_one_client_cannot_take_all_connections(fake: FakeS3) -> None:
    """Its next one is refused while others, from elsewhere, get theirs."""
    with (
        RunningProxy(fake.endpoints, max_per_client=1) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), 20) as first,
        socket.create_connection(("127.0.0.1", proxy.port), 20, source_address=("127.0.0.2", 0)) as other,
    ):
        for sock in (first, other):
            sock.sendall(b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in sock.recv(1000)

        assert 503 == parse_answer(ask_slowly(proxy, b"")).status


def test_proxy_listens_on_ipv6(fake: FakeS3) -> None:
    """The Host has brackets then, and the signature covers them."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with RunningProxy(fake.endpoints, listen="[::1]:0") as proxy:
        request = signed_request("GET", "/b/there", host=f"[::1]:{proxy.port}")
        for _ in range(2):  # the second time the signer is known
            with socket.create_connection(("::1", proxy.port), 20) as sock:
                sock.sendall(request)
                sock.shutdown(socket.SHUT_WR)
                answer = parse_answer(read_to_end(sock))
            assert (200, b"0123456789" * 100) == (answer.status, answer.body)

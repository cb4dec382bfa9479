"""What clients meet at a node they meet at the proxy: each test is a difference that somebody saw."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest

from s3pool.s3.signing import derive_key, signature, string_to_sign
from tests.support.chunk_signing import SignedStream, unsigned_stream
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import POOL_KEY, REGION, RunningProxy, last, parse_answer, stored
from tests.support.scripted import OK, OK_EMPTY, ScriptedServer

PREFLIGHT = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"}
TLS_FILE = str(Path(__file__).parents[1] / "support" / "tls" / "server.pem")


def plain(method: str, target: str, host: str, fields: dict[str, str], body: bytes = b"") -> bytes:
    """Give an unsigned request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode() + body


# -- bodies of nobody --------------------------------------------------------------------------


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("is_signed", [False, True])
def test_anonymous_chunks_are_decoded(is_large: bool, is_signed: bool) -> None:
    """Framing inside an object is a destroyed object; here nobody signed, so lengths and checksums decide."""
    content = b"what is meant" * (100_000 if is_large else 1)
    with FakeS3(2) as fake, RunningProxy(fake.endpoints, anonymous="pass", replay_buffer=1000) as proxy:
        fake.store.add("b", "k", b"")
        if is_signed:
            head, framed = SignedStream(proxy.host, "/b/new", content, chunk=65536, has_trailer=True).request()
        else:
            head, framed = unsigned_stream(proxy.host, "/b/new", content)
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"authorization", b"x-amz-date"))]

        answer = parse_answer(proxy.talk(b"\r\n".join(lines) + framed))

        assert (200, content) == (answer.status, stored(fake, "b", "new"))
        headers = last(fake).headers
        assert not {"authorization", "x-amz-trailer", "x-amz-decoded-content-length"} & headers.keys()
        assert ("x-amz-checksum-crc32" in headers, "content-encoding" in headers) == (True, False)


# -- questions of browsers ---------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/b/k", "/b", "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0"])
def test_preflight_goes_to_the_node(target: str) -> None:
    """A browser cannot sign it, and the bucket's rules are the node's to know."""
    said = b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://app.example\r\nContent-Length: 0\r\n\r\n"
    with ScriptedServer([said]) as node, RunningProxy([str(node.endpoint)]) as proxy:
        answer = parse_answer(proxy.talk(plain("OPTIONS", target, proxy.host, PREFLIGHT)), "OPTIONS")

        assert (200, "https://app.example") == (answer.status, answer.headers["access-control-allow-origin"])
        asked = [head for head, _ in node.requests if head.startswith(b"OPTIONS")]
        assert 1 == len(asked)
        assert b"Authorization" not in asked[0]
        assert b"Access-Control-Request-Method: PUT" in asked[0]


@pytest.mark.parametrize("missing", list(PREFLIGHT))
def test_other_anonymous_options_are_refused(missing: str) -> None:
    """What is no preflight needs a signature like everything else."""
    fields = {name: value for name, value in PREFLIGHT.items() if name != missing}
    with ScriptedServer([OK_EMPTY]) as node, RunningProxy([str(node.endpoint)]) as proxy:
        answer = parse_answer(proxy.talk(plain("OPTIONS", "/b/k", proxy.host, fields)))

        assert (403, "AccessDenied") == (answer.status, answer.code)
        assert not [head for head, _ in node.requests if head.startswith(b"OPTIONS")]


# -- equal names in the query ------------------------------------------------------------------


def signed_in_order(host: str, path: str, pairs: Sequence[str]) -> bytes:
    """Give a GET signed over the query as it stands, as MinIO's clients do."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    query = "&".join(pairs)
    canonical = f"GET\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{stamp}\n\n"
    canonical += "host;x-amz-content-sha256;x-amz-date\nUNSIGNED-PAYLOAD"
    scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
    key = derive_key(POOL_KEY.secret_key, stamp[:8], region=REGION, service="s3")
    made = signature(key, string_to_sign(stamp, scope, canonical.encode()))
    fields = {
        "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
        "x-amz-date": stamp,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={POOL_KEY.access_key}/{scope}, "
        f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={made}",
    }
    return plain("GET", f"{path}?{query}", host, fields)


EVENTS = ["events=s3%3AObjectRemoved%3A%2A", "events=s3%3AObjectCreated%3A%2A", "prefix=", "suffix="]


@pytest.mark.parametrize("order", [EVENTS, sorted(EVENTS)])
def test_equal_names_may_be_signed_in_either_order(order: list[str]) -> None:
    """minio-go sorts by the name alone; what is sent on is the same in both readings."""
    with ScriptedServer([OK]) as node, RunningProxy([str(node.endpoint)]) as proxy:
        answer = parse_answer(proxy.talk(signed_in_order(proxy.host, "/b", order)))

        assert 200 == answer.status
        sent = next(head for head, _ in node.requests if b"events" in head).split(b" ")[1].decode()
        assert "&".join(sorted(EVENTS)) == sent.partition("?")[2]


def test_other_orders_of_equal_names_do_not_hold() -> None:
    """A query signed in one order and sent in another is another query."""
    with ScriptedServer([OK]) as node, RunningProxy([str(node.endpoint)]) as proxy:
        request = signed_in_order(proxy.host, "/b", ["prefix=", *EVENTS[:2]])

        assert (403, "SignatureDoesNotMatch") == (
            parse_answer(proxy.talk(request)).status,
            parse_answer(proxy.talk(request)).code,
        )


# -- TLS in front ------------------------------------------------------------------------------


def told_scheme(fake: FakeS3, method: str = "GetObject") -> str | None:
    """Return what the last such request said of the client's connection."""
    asked = [request for request in fake.requests if request.op == method]
    return asked[-1].headers.get("x-forwarded-proto")


@pytest.mark.parametrize("auth", ["verify", "passthrough", "open"])
def test_node_learns_that_the_client_came_over_tls(fake: FakeS3, auth: str) -> None:
    """Or SSE-C and policies for TLS alone fail; each time."""
    fake.secrets.clear()
    with RunningProxy(fake.endpoints, auth=auth, tls_cert=TLS_FILE, tls_key=TLS_FILE) as proxy:
        told = [(proxy.ask("GET", "/b/there", close=True).status, told_scheme(fake)) for _ in range(3)]

        assert [(200, "https")] * 3 == told


@pytest.mark.parametrize("auth", ["verify", "passthrough"])
def test_client_cannot_claim_tls(fake: FakeS3, auth: str) -> None:
    """Over plain HTTP nothing is told, whatever the client says."""
    fake.secrets.clear()
    with RunningProxy(fake.endpoints, auth=auth) as proxy:
        request = proxy.signed("GET", "/b/there", headers={"X-Forwarded-Proto": "https"}, close=True)

        assert (200, None) == (parse_answer(proxy.talk(request)).status, told_scheme(fake))


@pytest.mark.parametrize("has_tls", [False, True])
@pytest.mark.parametrize("said", [{"X-Forwarded-Proto": "http"}, {"X-Forwarded-Proto": "https"}])
def test_balancer_tells_of_its_own_client(fake: FakeS3, said: dict[str, str], has_tls: bool) -> None:
    """It ended TLS, so it knows; its word stays as it is."""
    fake.secrets.clear()
    tls = {"tls_cert": TLS_FILE, "tls_key": TLS_FILE} if has_tls else {}
    with RunningProxy(fake.endpoints, trust_forwarded="127.0.0.0/8", **tls) as proxy:
        request = proxy.signed("GET", "/b/there", headers=said, close=True)

        assert 200 == parse_answer(proxy.talk(request)).status
        assert said["X-Forwarded-Proto"] == told_scheme(fake)


# -- addresses ---------------------------------------------------------------------------------

COMPLETE = b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>a</ETag></Part></CompleteMultipartUpload>"


def completed(node: str, *, lead: bytes = b"") -> bytes:
    """Return an answer that names the node, after some blanks."""
    document = f"<R><Location>http://{node}/b/k%20%26</Location><Bucket>b</Bucket></R>".encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b%b" % (len(lead + document), lead, document)


@pytest.mark.parametrize("lead", [b"", b" \n" * 5000])
@pytest.mark.parametrize("tls", [{}, {"tls_cert": TLS_FILE, "tls_key": TLS_FILE}])
def test_location_of_an_upload_is_the_proxys(lead: bytes, tls: dict[str, str]) -> None:
    """Clients hand it on, and nobody may reach the node."""

    def answer(sock: socket.socket) -> None:
        sock.sendall(completed(node.endpoint.netloc, lead=lead))

    with ScriptedServer([answer]) as node, RunningProxy([str(node.endpoint)], **tls) as proxy:
        found = proxy.ask("POST", "/b/k%20%26?uploadId=u", body=COMPLETE, close=True)

        scheme = "https" if tls else "http"
        expected = lead + f"<R><Location>{scheme}://{proxy.host}/b/k%20%26</Location><Bucket>b</Bucket></R>".encode()
        assert (200, expected) == (found.status, found.body)


def test_other_locations_stay(fake: FakeS3) -> None:
    """Only the node's own name is the proxy's business."""
    with ScriptedServer([completed("cdn.example")]) as node, RunningProxy([str(node.endpoint)]) as proxy:
        found = proxy.ask("POST", "/b/k?uploadId=u", body=COMPLETE, close=True)

        assert b"<Location>http://cdn.example/b/k%20%26</Location>" in found.body


# -- requests that proxies tend to read otherwise ----------------------------------------------


@pytest.mark.parametrize("is_right", [True, False])
def test_presigned_url_for_one_content_alone(fake: FakeS3, proxy: RunningProxy, is_right: bool) -> None:
    """x-amz-content-sha256 is signed with the URL, and the node compares it."""
    body = b"this and nothing else"
    digest = hashlib.sha256(body).hexdigest()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
    pairs = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": quote(f"{POOL_KEY.access_key}/{scope}", safe=""),
        "X-Amz-Date": stamp,
        "X-Amz-Expires": "600",
        "X-Amz-SignedHeaders": "host%3Bx-amz-content-sha256",
    }
    query = "&".join(f"{name}={value}" for name, value in pairs.items())
    canonical = f"PUT\n/b/new\n{query}\nhost:{proxy.host}\nx-amz-content-sha256:{digest}\n\n"
    canonical += f"host;x-amz-content-sha256\n{digest}"
    key = derive_key(POOL_KEY.secret_key, stamp[:8], region=REGION, service="s3")
    made = signature(key, string_to_sign(stamp, scope, canonical.encode()))
    sent = body if is_right else body[::-1]
    fields = {"x-amz-content-sha256": digest, "Content-Length": str(len(sent))}

    answer = parse_answer(proxy.talk(plain("PUT", f"/b/new?{query}&X-Amz-Signature={made}", proxy.host, fields, sent)))

    expected = (200, "", body) if is_right else (400, "XAmzContentSHA256Mismatch", None)
    assert expected == (answer.status, answer.code, stored(fake, "b", "new"))


@pytest.mark.parametrize("auth", ["verify", "passthrough", "open"])
@pytest.mark.parametrize("target", ["/b/there", "/b/there?partNumber=1&uploadId=u"])
def test_upload_without_a_length_is_refused(fake: FakeS3, auth: str, target: str) -> None:
    """As RGW and AWS do: taken for an empty one it would destroy the object."""
    with RunningProxy(fake.endpoints, auth=auth) as proxy:
        request = proxy.signed("PUT", target, close=True).replace(b"content-length: 0\r\n", b"")

        answer = parse_answer(proxy.talk(request))

        assert (411, "MissingContentLength") == (answer.status, answer.code)
        assert stored(fake, "b", "there")


def test_bucket_and_copy_need_no_length(fake: FakeS3, proxy: RunningProxy) -> None:
    """They have no body to miss."""
    for target, headers in (("/newbucket", {}), ("/b/copy", {"x-amz-copy-source": "b/there"})):
        request = proxy.signed("PUT", target, headers=headers, close=True).replace(b"content-length: 0\r\n", b"")

        assert 200 == parse_answer(proxy.talk(request)).status


@pytest.mark.parametrize("auth", ["verify", "passthrough"])
def test_raw_letters_in_the_path_name_the_same_key(fake: FakeS3, auth: str) -> None:
    """Some clients leave it to the server to encode what is no ASCII."""
    fake.secrets.clear()
    fake.store.add("b", "\u65e5\u672c \u00e4", b"found")
    with RunningProxy(fake.endpoints, auth=auth) as proxy:
        request = proxy.signed("GET", "/b/%E6%97%A5%E6%9C%AC%20%C3%A4", close=True)
        raw = request.replace(b"%E6%97%A5%E6%9C%AC", "\u65e5\u672c".encode()).replace(b"%C3%A4", "\u00e4".encode())

        answer = parse_answer(proxy.talk(raw))

        assert (200, b"found") == (answer.status, answer.body)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA1"),
        ("X-Amz-Algorithm", None),
        ("X-Amz-Credential", "KEY"),
        ("X-Amz-Credential", "KEY/20200101/us-east-1/s3/aws4_request"),
        ("X-Amz-Credential", None),
        ("X-Amz-Date", "yesterday"),
        ("X-Amz-Expires", "604801"),
        ("X-Amz-Expires", "-1"),
        ("X-Amz-Expires", "soon"),
        ("X-Amz-Signature", None),
        ("X-Amz-SignedHeaders", None),
    ],
)
def test_bad_query_credentials_have_the_code_of_aws(proxy: RunningProxy, name: str, value: str | None) -> None:
    """A URL is not an Authorization header, and clients look for its own code."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    pairs: dict[str, str | None] = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"KEY/{stamp[:8]}/us-east-1/s3/aws4_request",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": "600",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": "0" * 64,
        name: value,
    }
    query = "&".join(f"{key}={quote(text, safe='')}" for key, text in pairs.items() if text is not None)

    answer = parse_answer(proxy.talk(plain("GET", f"/b/there?{query}", proxy.host, {})))

    assert (400, "AuthorizationQueryParametersError") == (answer.status, answer.code)


# -- names that are doors elsewhere ------------------------------------------------------------

RGW_ID = "tx000005989100b84d5e842-006b0d34f9-100a-default"
DOORS = {
    "MinIO": {"minio"},
    "VERSITYGW": set(),
    "rgw": {"admin", "swift", "auth"},
    "nginx": {"minio", "admin", "swift", "auth"},
}


@pytest.mark.parametrize("server", DOORS)
def test_bucket_may_have_any_name_that_is_no_door_of_the_nodes(server: str) -> None:
    """What is one server's administration is another's bucket; of an unknown server all doors stay shut."""
    told = f"x-amz-request-id: {RGW_ID}" if server == "rgw" else f"Server: {server}"
    said = f"HTTP/1.1 200 OK\r\n{told}\r\nContent-Length: 2\r\n\r\nok".encode()
    for name in ("minio", "admin", "swift", "auth", "MINIO", "Admin"):
        with ScriptedServer([said]) as node, RunningProxy([str(node.endpoint)]) as proxy:
            status = proxy.ask("GET", f"/{name}/k", close=True).status

            is_shut = name.lower() in DOORS[server]
            assert (name, 403 if is_shut else 200) == (name, status)
            assert is_shut != any(head.startswith(f"GET /{name}/k".encode()) for head, _ in node.requests)

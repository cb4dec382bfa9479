"""Signatures and heads whose parts were seen before, signatures of Version 2, and what is known of buckets."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

import pytest

from s3pool.config.options import Config
from s3pool.model import UNSIGNED_PAYLOAD, Credentials, Endpoint
from s3pool.proxy.auth import HEADER_V4, QUERY_V2, Caller, Verifier
from s3pool.proxy.auth_v2 import verify_v2
from s3pool.proxy.bodies import RequestBody
from s3pool.proxy.clients import Client
from s3pool.proxy.conditions import TTL_S, Versioning
from s3pool.proxy.errors import S3ErrorResponse
from s3pool.proxy.gateway import Gateway
from s3pool.proxy.request import parse_head, read_target
from s3pool.proxy.run import open_gateway
from s3pool.proxy.settings import ProxySettings
from s3pool.s3.signing import Signer

NODE = Endpoint.parse("http://node.test:7480")
POOL = Credentials("POOLKEY", "pool secret")
GUEST = Credentials("GUESTKEY", "guest secret")
READER = {"access_key": "GUESTKEY", "secret_key": "guest secret", "buckets": ["b", "shared-*"], "read_only": True}
PEER = "192.0.2.7"
FIELDS = (
    ("User-Agent", "Boto3/1.44  (linux)"),
    ("Range", "bytes=0-99"),
    ("x-amz-checksum-mode", "ENABLED"),
    ("Connection", "Keep-Alive"),
    ("X-Forwarded-For", "203.0.113.9"),
)
WORD_IN_SIGNED_PART = re.compile(
    rb"(?m)(?:^GET /([a-z/]+) )|(?:^(?:host|x-amz-[a-z0-9-]+|authorization): ([^\r]+)\r?$)", re.IGNORECASE
)


@pytest.fixture
def gateway() -> Gateway:
    """Return a gateway that knows the pool's key and a guest's."""
    config = Config(endpoints=(NODE,), access_key=POOL.access_key, secret_key=POOL.secret_key, region="us-east-1")
    return open_gateway(config, ProxySettings(clients=[READER])).gateway


def signed(
    path: str, fields: Iterable[tuple[str, str]] = (), *, key: Credentials = POOL, skew_s: float = 0.0, at: float = 0.0
) -> bytes:
    """Return a signed request head without its blank line."""
    headers = {"host": "proxy.test:8000", "x-amz-content-sha256": UNSIGNED_PAYLOAD}
    headers |= {name.lower(): value for name, value in fields}
    signed_head = Signer(key, region="us-east-1").signed_head(tuple(headers.items()), (at or time.time()) + skew_s)
    headers |= dict(line.split(": ", 1) for line in signed_head.lines("GET", path, "").splitlines())
    spelled = {name.lower(): name for name, _ in fields}
    lines = [f"{spelled.get(name, name)}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines]).encode()


def forwarded(door: Gateway, block: bytes) -> list[bytes]:
    """Return the lines of the head that goes to a node.

    Raises:
        S3ErrorResponse: the request may not pass.
    """
    admitted = door.admit(parse_head(block), PEER)
    return door.node_request(admitted, RequestBody(), PEER).build(NODE, time.time()).split(b"\r\n")


def test_no_changed_byte_of_what_is_signed_gets_in(gateway: Gateway) -> None:
    """After a good request its parts are cached: none of them may carry another one through."""
    dice = random.Random(11)
    block = signed("/b/key", FIELDS[:3])
    forwarded(gateway, block)
    places = [
        place for found in WORD_IN_SIGNED_PART.finditer(block) for place in range(*found.span(found.lastindex or 0))
    ]
    assert len(places) > 200
    for place in places:
        for byte in {block[place] ^ 0x20, block[place] ^ 1, dice.randrange(0x30, 0x7A)} - {block[place]}:
            changed = block[:place] + bytes((byte,)) + block[place + 1 :]
            if changed.translate(None, b" ,\t") == block.translate(None, b" ,\t"):
                continue  # another separator

            with pytest.raises(S3ErrorResponse):
                forwarded(gateway, changed)


def test_fields_go_on_alike_whether_they_were_seen_before(gateway: Gateway) -> None:
    """Each request has its own values, in its own order; the connection's own fields and claims of others stay here."""
    dice = random.Random(7)
    for number in range(40):
        fields = dice.sample(FIELDS, dice.randrange(len(FIELDS)))
        lines = forwarded(gateway, signed(f"/b/dir//{number}/~x", fields, key=dice.choice((POOL, GUEST))))

        own = [f"{name}: {value}".encode() for name, value in fields if name not in ("Connection", "X-Forwarded-For")]
        assert [f"GET /b/dir//{number}/~x HTTP/1.1".encode(), b"Host: node.test:7480", *own] == lines[: len(own) + 2]
        assert b"X-Forwarded-For: 192.0.2.7" in lines


@pytest.mark.parametrize(
    "block",
    [
        signed("/b/key", key=Credentials("NOBODY", "pool secret")),
        signed("/b/key", key=Credentials("POOLKEY", "another secret")),
        signed("/b/key", skew_s=-4000),
        signed("/b/key", skew_s=4000),
        signed("/other/key", key=GUEST),
        signed("/b/key") + b"\r\nx-amz-acl: public-read",
        signed("/b/key") + b"\r\nHost: proxy.test:8000",
        signed("/b/key").replace(b"GET", b"PUT"),
        signed("/b/key").replace(b"/b/key", b"/b/key?acl"),
        signed("/b/key").replace(b"Signature=", b"Signature=\xc3\xa4"),
        signed("/b/key").replace(b"Signature=", b"Signature=0, Signature="),
    ],
)
def test_what_does_not_hold_is_denied_after_what_does(gateway: Gateway, block: bytes) -> None:
    """The keys are known by then, and most lines."""
    for key in (POOL, GUEST):
        forwarded(gateway, signed("/b/other", key=key))

    with pytest.raises(S3ErrorResponse):
        forwarded(gateway, block)


def test_request_like_an_earlier_one_is_known_while_its_time_holds() -> None:
    """What followed from the same fields follows again, but for the time; what is kept of them has a bound."""
    verifier, now = (
        Verifier({POOL.access_key: Client(POOL.access_key, POOL.secret_key, POOL.session_token, POOL)}),
        time.time(),
    )

    def known(number: int, late_s: float = 0.0) -> Caller | None:
        head = parse_head(signed(f"/b/{number}", at=now))
        return verifier.recognize(head, read_target(head.path, None), now=now + late_s)

    def verify(number: int, fields: Iterable[tuple[str, str]] = ()) -> Caller:
        head = parse_head(signed(f"/b/{number}", fields, at=now))
        return verifier.verify(HEADER_V4, head, read_target(head.path, None), now=now)

    assert known(2) is None
    first = verify(1)
    assert (first, first, None) == (known(2), known(3, 890.0), known(3, 910.0))
    for number in range(1100):
        verify(number, (("x-amz-meta-number", str(number)),))
    assert known(2) is None


@pytest.mark.parametrize(
    ("pool", "settings", "fits"),
    [
        ({}, {}, True),
        ({"endpoints": (NODE, Endpoint.parse("https://node.test:7443"))}, {}, False),
        ({"bwlimit": 1 << 20}, {}, False),
        ({}, {"auth": "open"}, True),
        ({}, {"domains": ("s3.test",)}, False),
    ],
    ids=["plain", "tls", "limited", "open", "domains"],
)
def test_loop_is_for_plain_connections_without_a_limit(
    pool: dict[str, object], settings: dict[str, object], fits: bool
) -> None:
    """TLS may have to read before it writes, and who keeps to a bandwidth waits."""
    values = {"endpoints": (NODE,), "access_key": POOL.access_key, "secret_key": POOL.secret_key, **pool}
    config = Config(**values)  # type: ignore[arg-type]

    assert fits == open_gateway(config, ProxySettings(**settings)).gateway.allows_event_loop  # type: ignore[arg-type]


CLIENTS = {"AKEY": Client("AKEY", "hush")}


def url_by_botocore(method: str, path: str) -> str:
    """Let botocore presign in its own old manner."""
    from botocore.auth import HmacV1QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method=method, url=f"http://host{path}")
    HmacV1QueryAuth(Credentials("AKEY", "hush"), expires=60).add_auth(request)
    parts = urlsplit(request.url)
    return f"{parts.path}?{parts.query}"


def verify(method: str, target: str, *fields: str, now: float = 0.0) -> Caller:
    """Verify a request for a target."""
    head = parse_head("\r\n".join([f"{method} {target} HTTP/1.1", "Host: host", *fields]).encode())
    aim = read_target(head.path, head.query)
    return verify_v2(QUERY_V2, head, aim, clients=CLIENTS, bucket_host="", now=now or time.time())


@pytest.mark.parametrize("path", ["/b/k", "/b/a%20b%2Bc", "/b/k?versionId=v%2B1", "/b/k?uploads", "/b/k?prefix=x"])
def test_url_of_botocore_holds(path: str) -> None:
    """Aws and boto3 make such URLs when nobody tells them otherwise."""
    assert CLIENTS["AKEY"] == verify("GET", url_by_botocore("GET", path)).client


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda url: url.replace("/k", "/l"), "SignatureDoesNotMatch"),
        (lambda url: url.replace("versionId=1", "versionId=2"), "SignatureDoesNotMatch"),
        (lambda url: url.replace("AKEY", "BKEY"), "InvalidAccessKeyId"),
        (lambda url: url + "&acl", "SignatureDoesNotMatch"),
        (lambda url: url + "&versionId=2", "AccessDenied"),
        (lambda url: url + "&attributes", "AccessDenied"),
        (lambda url: url + "&events=a", "AccessDenied"),
        (lambda url: url + "&lambdaArn=a", "AccessDenied"),
        (lambda url: url + "&x-amz-meta-a=b", "AccessDenied"),
        (lambda url: url + "&rgwx-uid=a", "AccessDenied"),
        (lambda url: url.replace("Expires=", "Expires=9"), "SignatureDoesNotMatch"),
        (lambda url: url.replace("Expires=", "Expires=x"), "AccessDenied"),
    ],
)
def test_changed_url_is_denied(change: object, code: str) -> None:
    """Also where the old signature does not cover what was added."""
    url = change(url_by_botocore("GET", "/b/k?versionId=1"))  # type: ignore[operator]

    with pytest.raises(S3ErrorResponse) as denial:
        verify("GET", url)

    assert code == denial.value.code


def test_url_is_denied_for_another_method_header_or_time() -> None:
    """A link to read is no link to write, to copy, or for ever."""
    url = url_by_botocore("PUT", "/b/k")

    for method, fields, now in (
        ("GET", (), 0.0),
        ("PUT", ("x-amz-copy-source: /b/secret",), 0.0),
        ("PUT", (), time.time() + 100),
    ):
        with pytest.raises(S3ErrorResponse):
            verify(method, url, *fields, now=now)


def test_bucket_is_asked_once_in_a_while() -> None:
    """Not for every upload, and not for ever."""
    now, asked = [0.0], []
    versioning = Versioning(now=lambda: now[0])

    def ask() -> str:
        asked.append(now[0])
        return ""

    answers = [versioning.is_absent("b", ask), versioning.is_absent("b", ask)]
    now[0] = TTL_S + 1
    answers.append(versioning.is_absent("b", ask))

    assert ([True] * 3, [0.0, TTL_S + 1]) == (answers, asked)


def test_change_is_noticed_at_once() -> None:
    """Somebody switches versions on through this very proxy."""
    versioning = Versioning(now=lambda: 0.0)
    before = versioning.is_absent("b", lambda: "")

    versioning.forget("b")

    assert (True, False) == (before, versioning.is_absent("b", lambda: "Enabled"))


def test_silence_counts_as_versions() -> None:
    """A second version is worse than an error."""
    assert Versioning().is_absent("b", lambda: None) is False

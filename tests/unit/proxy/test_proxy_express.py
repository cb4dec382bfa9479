"""The short way in: never another answer than the long way's."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from s3pool.body import EMPTY_SHA256
from s3pool.config.options import Config
from s3pool.model import UNSIGNED_PAYLOAD, Credentials, Endpoint
from s3pool.proxy.denial import Denial
from s3pool.proxy.gateway import Gateway
from s3pool.proxy.head import parse_head
from s3pool.proxy.service import open_gateway
from s3pool.proxy.settings import ProxySettings
from s3pool.s3.signing import Signer

NOW = 1_790_000_000.0
HOST = "proxy.test:8000"
NODE = Endpoint.parse("http://node.test:7480")
POOL = Credentials("POOLKEY", "pool secret")
GUEST = Credentials("GUESTKEY", "guest secret")
READER = {"access_key": "GUESTKEY", "secret_key": "guest secret", "buckets": ["b", "shared-*"], "read_only": True}
PEER = "192.0.2.7"
FIELDS = (
    ("User-Agent", "Boto3/1.44  (linux)"),
    ("Range", "bytes=0-99"),
    ("If-None-Match", '"0123"'),
    ("x-amz-checksum-mode", "ENABLED"),
    ("Content-Type", "text/plain;  charset=utf-8"),
    ("Connection", "Keep-Alive"),
    ("X-Forwarded-For", "203.0.113.9"),
    ("Accept-Encoding", "identity"),
    ("amz-sdk-request", "attempt=1"),
    ("X-Empty", ""),
)


def gateway(now: float = NOW, **settings: object) -> Gateway:
    """Give a gateway at a fixed time."""
    config = Config(endpoints=(NODE,), access_key=POOL.access_key, secret_key=POOL.secret_key)
    made = open_gateway(config, ProxySettings(clients=[READER], **settings)).gateway  # type: ignore[arg-type]
    made._now = lambda: now
    return made


def signed(
    path: str,
    fields: Iterable[tuple[str, str]] = (),
    *,
    method: str = "GET",
    key: Credentials = POOL,
    payload: str = UNSIGNED_PAYLOAD,
    now: float = NOW,
) -> bytes:
    """Give a signed request head without its blank line."""
    headers = {"host": HOST, "x-amz-content-sha256": payload, **{name.lower(): value for name, value in fields}}
    Signer(key, region="us-east-1").authorize(headers, method, path=path, query="", now=now)
    spelled = {name.lower(): name for name, _ in fields}
    lines = [f"{spelled.get(name, name)}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines]).encode()


def the_long_way(door: Gateway, block: bytes) -> bytes | None:
    """Give the head that goes to the node when the whole request is looked at; None when it is denied."""
    try:
        admitted = door.admit(parse_head(block), PEER)
    except Denial:
        return None
    return door.outbound(admitted, door.loader.load(admitted, None, list), PEER).build(NODE, NOW)  # type: ignore[arg-type]


def the_short_way(door: Gateway, block: bytes) -> bytes | None:
    """Give the same of the short way; None when it leaves the request alone."""
    passage = door.admit_plain(block, PEER)
    return passage.build(NODE, NOW) if passage is not None else None


def test_head_for_the_node_is_the_same_byte_for_byte() -> None:
    """Whatever fields come along, in whatever order: nobody can tell which way a request went."""
    door, dice = gateway(), random.Random(7)
    taken = 0
    for number in range(60):
        fields = dice.sample(FIELDS, dice.randrange(len(FIELDS)))
        key, method = dice.choice((POOL, GUEST)), dice.choice(("GET", "HEAD"))
        payload = dice.choice((UNSIGNED_PAYLOAD, EMPTY_SHA256))
        block = signed(f"/b/dir//{number}/~x", fields, method=method, key=key, payload=payload)
        whole = the_long_way(door, block)

        short = the_short_way(door, block)

        assert (whole is not None, whole) == (True, short)
        taken += short is not None
    assert 60 == taken


def test_no_changed_byte_gets_in() -> None:
    """After a good request its parts are remembered: none of them may carry another one through."""
    door, dice = gateway(), random.Random(11)
    block = signed("/b/key", FIELDS[:4])
    assert the_long_way(door, block) == the_short_way(door, block)
    for place in range(len(block)):
        for byte in {block[place] ^ 0x20, block[place] ^ 1, dice.randrange(256), 0x0D, 0x3A} - {block[place]}:
            changed = block[:place] + bytes((byte,)) + block[place + 1 :]

            short = the_short_way(door, changed)

            assert short is None or short == the_long_way(gateway_like(door), changed), changed


def gateway_like(door: Gateway) -> Gateway:
    """Give one that remembers nothing, with the same name in Via."""
    fresh = gateway()
    fresh.name = door.name
    return fresh


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/b/%20", ()),
        ("/b/key?versionId=1", ()),
        ("/b/", ()),
        ("/", ()),
        ("//b/key", ()),
        ("/minio/metrics", ()),
        ("/../key", ()),
        ("/-/healthz", ()),
        ("/b/key", (("Expect", "100-continue"),)),
        ("/b/key", (("Content-Length", "0"),)),
        ("/b/key", (("Transfer-Encoding", "chunked"),)),
        ("/b/key", (("Via", "1.1 other"),)),
        ("/b/key", (("Connection", "close"),)),
        ("/b/key", (("Connection", "keep-alive, range"),)),
        ("/b/key", (("Range", "bytes=0-1,3-4"),)),
        ("/b/key", (("x-amz-security-token", "token"),)),
        ("/b/key", (("X-Note", "caf\u00e9"),)),
        ("/b/key", (("X-Long", "x" * 9000),)),
    ],
)
def test_what_is_not_plain_goes_the_long_way(path: str, fields: tuple[tuple[str, str], ...]) -> None:
    """Each of these means something that the short way does not look at."""
    door = gateway()
    the_long_way(door, signed("/b/other"))

    assert the_short_way(door, signed(path, fields)) is None


@pytest.mark.parametrize(
    "block",
    [
        signed("/b/key", key=Credentials("NOBODY", "pool secret")),
        signed("/b/key", key=Credentials("POOLKEY", "another secret")),
        signed("/b/key", now=NOW - 901),
        signed("/b/key", now=NOW + 901),
        signed("/other/key", key=GUEST),
        signed("/b/key", payload="0" * 64),
        signed("/b/key") + b"\r\nx-amz-acl: public-read",
        signed("/b/key") + b"\r\nHost: " + HOST.encode(),
        signed("/b/key").replace(HOST.encode(), b"other.test"),
        signed("/b/key").replace(b"GET", b"PUT"),
        signed("/b/key").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_what_does_not_hold_goes_the_long_way(block: bytes) -> None:
    """There it is told what is wrong with it."""
    door = gateway()
    for key in (POOL, GUEST):
        the_long_way(door, signed("/b/other", key=key))

    assert the_short_way(door, block) is None


def test_first_request_of_a_key_goes_the_long_way() -> None:
    """Nothing is remembered but what was checked in full."""
    assert the_short_way(gateway(), signed("/b/key")) is None


@pytest.mark.parametrize("settings", [{"auth": "passthrough"}, {"auth": "open"}, {"domains": ("s3.test",)}])
def test_other_modes_have_no_short_way(settings: dict[str, object]) -> None:
    """The same bytes mean something else there."""
    door = gateway(**settings)
    the_long_way(door, signed("/b/key"))

    assert the_short_way(door, signed("/b/key")) is None


@pytest.mark.parametrize(
    ("pool", "settings", "fits"),
    [
        ({}, {}, True),
        ({"endpoints": (NODE, Endpoint.parse("https://node.test:7443"))}, {}, False),
        ({"bwlimit": 1 << 20}, {}, False),
        ({}, {"auth": "open"}, False),
        ({}, {"domains": ("s3.test",)}, False),
    ],
    ids=["plain", "tls", "limited", "open", "domains"],
)
def test_loop_is_for_plain_connections_without_a_limit(
    pool: dict[str, object], settings: dict[str, object], fits: bool
) -> None:
    """TLS may have to read before it writes, and who keeps to a bandwidth waits."""
    config = Config(**{"endpoints": (NODE,), "access_key": POOL.access_key, "secret_key": POOL.secret_key, **pool})

    assert fits == open_gateway(config, ProxySettings(**settings)).gateway.is_loopable  # type: ignore[arg-type]

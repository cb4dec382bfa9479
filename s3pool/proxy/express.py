"""The short way in for what most requests are: GET or HEAD of an object, signed by header.

It lets in nothing that the long way would not, and sends the same bytes to the nodes: it only
remembers what follows from parts that repeat - the names of the fields, the credential's
scope, the signing key. Whatever is not plain, or does not hold, is None here, and the long
way says what is wrong with it.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import NamedTuple

from s3pool.body import EMPTY_SHA256
from s3pool.model import UNSIGNED_PAYLOAD, Endpoint
from s3pool.proxy.auth import DECIDING_PREFIXES, DUMMY_SECRET, HEADER_V4, MAX_SKEW_S, read_claim, read_timestamp
from s3pool.proxy.clients import Client
from s3pool.proxy.denial import Denial
from s3pool.proxy.head import HOP_BY_HOP, MAX_FIELDS, NAME_CHARACTERS, VALUE_CHARACTERS
from s3pool.proxy.limits import Rule
from s3pool.proxy.loading import Admitted
from s3pool.proxy.naming import NAMING_HEADERS, is_way
from s3pool.proxy.operations import DECIDING_HEADERS, DIALECTS, Operation, classify
from s3pool.proxy.outbound import PAYLOAD_FIELD, REPLACED, Fields, is_hearsay, is_signed_name
from s3pool.proxy.servers import ADMIN_NAMES
from s3pool.s3.signing import DATE_LENGTH, Mac, Signer, canonical_value, string_to_sign

PLAIN = re.compile(
    rf"(GET|HEAD) /([A-Za-z0-9\-._~]+)/([A-Za-z0-9/\-._~]+) HTTP/1\.1((?:\r\n{NAME_CHARACTERS}+:{VALUE_CHARACTERS}*)*)",
    re.ASCII,
)
MAX_BYTES = 8 * 1024  # longer heads are no everyday ones
MAX_REMEMBERED = 1024
MAX_REMEMBERED_LENGTH = 128  # of a line
SIGNATURE = "Signature="
PAYLOADS = frozenset({UNSIGNED_PAYLOAD, EMPTY_SHA256})
NEEDED = frozenset({"host", "authorization", "x-amz-date", PAYLOAD_FIELD})
# Fields that ask for more than the short way does.
SPECIAL = (
    (HOP_BY_HOP - {"connection"})
    | NAMING_HEADERS
    | DECIDING_HEADERS.keys()
    | {
        "content-encoding",
        "content-length",
        "expect",
        "via",
        "x-amz-decoded-content-length",
        "x-amz-security-token",
        "x-amz-trailer",
    }
)
NOT_SENT = REPLACED | HOP_BY_HOP
OPERATIONS = {method: classify(method, (), bucket="b", key="k", headers=()) for method in ("GET", "HEAD")}

Names = tuple[str, ...]
Places = tuple[tuple[str, int], ...]


class _Shape:
    """What follows from the names of a head's fields; a place is a field's number."""

    __slots__ = ("authorization", "connection", "date", "fits", "host", "payload", "places", "range", "sent", "signed")

    def __init__(self, names: Names) -> None:
        self.places = places = {name.lower(): number for number, name in enumerate(names)}
        self.authorization, self.host = places["authorization"], places["host"]
        self.date, self.payload = places["x-amz-date"], places[PAYLOAD_FIELD]
        self.connection, self.range = places.get("connection"), places.get("range")
        self.sent = tuple(
            (names[number], number) for name, number in places.items() if not (name in NOT_SENT or is_hearsay(name))
        )
        self.signed = tuple((name.lower(), number) for name, number in self.sent if is_signed_name(name.lower()))
        self.fits: dict[Names, Places | None] = {}

    def places_of(self, signed: Names) -> Places | None:
        """Give where the signed fields are; None when one is missing, or x-amz-* or Host is not signed."""
        if signed not in self.fits:
            must = {name for name in self.places if name.startswith(DECIDING_PREFIXES)} | {"host"}
            is_fit = must.issubset(signed) and self.places.keys() >= set(signed)
            if len(self.fits) >= MAX_REMEMBERED:
                self.fits = {}
            self.fits[signed] = tuple((name, self.places[name]) for name in signed) if is_fit else None
        return self.fits[signed]


class _Claim(NamedTuple):
    """An Authorization field up to its signature, which held before with another one."""

    client: Client | None
    signer: Signer | None
    date: str
    scope: str
    signed: Names
    names: str
    mac: Mac
    is_free: bool = False  # the client may do whatever its signature holds for, at any time


class Passage(NamedTuple):
    """A request that may pass, and what its head towards a node is built from."""

    method: str
    path: str
    bucket: str
    key: str
    operation: Operation
    access_key: str
    signer: Signer
    payload: str
    own: str
    signed: tuple[tuple[str, str], ...]
    extra: str
    rules: tuple[Rule, ...] = ()

    @property
    def is_http_1_0(self) -> bool:
        """Say whether the client speaks HTTP/1.0, which nobody does here."""
        return False

    @property
    def signs(self) -> bool:
        """Say whether the head is signed here, which it always is."""
        return True

    @property
    def resource(self) -> str:
        """Give s3/bucket/key, for logs and for nodes that keep to their keys."""
        return f"s3/{self.bucket}/{self.key}"

    def build(self, endpoint: Endpoint, now: float) -> bytes:
        """Give the bytes of the head for an endpoint."""
        added = self._plain_signature(endpoint, now) if not self.signed else None
        lines = "".join([f"{name}: {value}\r\n" for name, value in added or self._signature(endpoint, now)])
        return (
            f"{self.method} {self.path} HTTP/1.1\r\nHost: {endpoint.netloc}\r\n{self.own}{self.extra}"
            f"{PAYLOAD_FIELD}: {self.payload}\r\n{lines}\r\n"
        ).encode("ascii")

    def _plain_signature(self, endpoint: Endpoint, now: float) -> tuple[tuple[str, str], ...] | None:
        return self.signer.authorize_plain(
            self.method, self.path, host=endpoint.netloc, payload_hash=self.payload, now=now
        )

    def _signature(self, endpoint: Endpoint, now: float) -> list[tuple[str, str]]:
        headers = {"host": endpoint.netloc, **dict(self.signed), PAYLOAD_FIELD: self.payload}
        count = len(headers)
        self.signer.authorize(headers, self.method, path=self.path, query="", now=now)
        return [*headers.items()][count:]


class _Lines(dict[str, tuple[str, str]]):
    """Name and value of header lines, of which most come again with the next request."""

    def __missing__(self, line: str) -> tuple[str, str]:
        name, _, value = line.partition(":")
        field = name, value.strip(" \t")
        if len(line) <= MAX_REMEMBERED_LENGTH:
            if len(self) >= MAX_REMEMBERED:
                self.clear()
            self[line] = field
        return field


class Express:
    """Remembers what repeats; shared by all connections of one configuration."""

    def __init__(
        self,
        signer_for: Callable[[Client], Signer],
        *,
        via: str,
        extra: Fields = (),
        rules_for: Callable[[Client, str], tuple[Rule, ...]] = lambda _client, _bucket: (),
    ) -> None:
        self._signer_for = signer_for
        self._rules_for = rules_for
        self._extra = "".join(f"{name}: {value}\r\n" for name, value in (*extra, ("Via", f"1.1 {via}")))
        # Of each a bounded number is kept; threads may overwrite each other's, which are the same.
        self._shapes: dict[Names, _Shape | None] = {}
        self._claims: dict[str, _Claim] = {}
        self._hosts: set[str] = set()
        self._lines = _Lines()
        self._times: dict[str, float] = {}
        # An unknown key must take as long as a known one with a bad signature.
        nobody = ("host", PAYLOAD_FIELD, "x-amz-date")
        self._nobody = _Claim(None, None, "", "", nobody, ";".join(nobody), Mac(DUMMY_SECRET.encode()))

    def admit(self, block: bytes, peer: str, *, now: float) -> Passage | None:
        """Let a request in, or leave it to the long way."""
        if len(block) > MAX_BYTES or not block.isascii():
            return None
        found = PLAIN.fullmatch(block.decode("ascii"))
        if found is None:
            return None
        method, bucket, key, lines = found.groups()
        known = self._lines
        names, values = zip(*[known[line] for line in lines[2:].split("\r\n")], strict=True)
        shape = self._shapes[names] if names in self._shapes else self._look_at(names)
        if shape is None or bucket.lower() in ADMIN_NAMES or bucket in (".", ".."):
            return None
        payload = values[shape.payload]
        if values[shape.host] not in self._hosts or payload not in PAYLOADS or not _is_plain(shape, values):
            return None
        claim = self._verified(method, f"/{bucket}/{key}", shape, values, now)
        if claim is None or claim.client is None or claim.signer is None:
            return None
        operation = OPERATIONS[method]
        if not (claim.is_free or _may_pass(claim.client, operation, bucket, key, now=now)):
            return None
        return Passage(
            method,
            f"/{bucket}/{key}",
            bucket,
            key,
            operation,
            claim.client.access_key,
            claim.signer,
            payload,
            "".join([f"{name}: {values[number]}\r\n" for name, number in shape.sent]),
            tuple([(name, values[number]) for name, number in shape.signed]) if shape.signed else (),
            f"X-Forwarded-For: {peer}\r\n{self._extra}",
            self._rules_for(claim.client, bucket),
        )

    def _look_at(self, names: Names) -> _Shape | None:
        """Judge a set of names that was not seen lately."""
        lowers = [name.lower() for name in names]
        is_plain = (
            len(names) <= MAX_FIELDS
            and len(set(lowers)) == len(names)
            and NEEDED.issubset(lowers)
            and SPECIAL.isdisjoint(lowers)
            and not any(name.startswith(DIALECTS) for name in lowers)
        )
        shape = _Shape(names) if is_plain else None
        if len(self._shapes) >= MAX_REMEMBERED:
            self._shapes = {}
        self._shapes[names] = shape
        return shape

    def _verified(self, method: str, path: str, shape: _Shape, values: Names, now: float) -> _Claim | None:
        """Give whose signature it is, None when it does not hold now."""
        prefix, _, claimed = values[shape.authorization].rpartition(SIGNATURE)
        claim = self._claims.get(prefix, self._nobody)
        places = shape.places_of(claim.signed)
        if places is None and claim is not self._nobody:
            return None
        timestamp = values[shape.date]
        lines = "\n".join([f"{name}:{values[number]}" for name, number in places or ()])
        if " " in lines or "\t" in lines:
            lines = "\n".join([f"{name}:{canonical_value(values[number])}" for name, number in places or ()])
        canonical = f"{method}\n{path}\n\n{lines}\n\n{claim.names}\n{values[shape.payload]}"
        expected = claim.mac.sign(string_to_sign(timestamp, claim.scope, canonical.encode("ascii")))
        holds = hmac.compare_digest(expected, claimed)
        is_now = abs(self._seconds(timestamp) - now) <= MAX_SKEW_S and timestamp[:DATE_LENGTH] == claim.date
        return claim if holds and is_now else None

    def _seconds(self, timestamp: str) -> float:
        seconds = self._times.get(timestamp)
        if seconds is None:
            seconds = read_timestamp(timestamp) or 0.0
            if len(self._times) >= MAX_REMEMBERED:
                self._times = {}
            self._times[timestamp] = seconds
        return seconds

    def learn(self, admitted: Admitted) -> None:
        """Remember the signer of a request that the long way let in."""
        head, caller = admitted.head, admitted.caller
        client, seed = caller.client, caller.seed
        if caller.form != HEADER_V4 or client is None or seed is None or client.session_token:
            return
        prefix, _, claimed = head.value("authorization").rpartition(SIGNATURE)
        if claimed != seed.signature or head.host != head.value("host"):
            return
        if len(self._claims) >= MAX_REMEMBERED:
            self._claims = {}
        if len(self._hosts) >= MAX_REMEMBERED:
            self._hosts = set()
        signed, date = read_claim(head).signed, seed.timestamp[:DATE_LENGTH]
        signer, is_free = self._signer_for(client), not (client.is_limited or client.expires)
        self._claims[prefix] = _Claim(
            client, signer, date, seed.scope, signed, ";".join(signed), Mac(seed.key), is_free
        )
        self._hosts.add(head.host)


def _is_plain(shape: _Shape, values: Names) -> bool:
    """Say whether the two fields whose value decides are everyday ones."""
    is_kept = shape.connection is None or values[shape.connection].lower() == "keep-alive"
    return is_kept and (shape.range is None or "," not in values[shape.range])


def _may_pass(client: Client, operation: Operation, bucket: str, key: str, *, now: float) -> bool:
    """Return whether a client with limits may do this; the long way tells why not."""
    try:
        client.authorize(operation, bucket, source_bucket="", now=now)
    except Denial:
        return False
    return not (client.is_limited and is_way(key))

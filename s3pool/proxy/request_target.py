"""The request target: bucket, key and query in canonical spelling."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from urllib.parse import quote, unquote_to_bytes

from s3pool.proxy.errors import S3ErrorResponse, forbidden
from s3pool.record import dataclass
from s3pool.s3.signing import UNRESERVED, canonical_path

MINIO, VERSITYGW, AMAZON, RGW, UNKNOWN = "minio", "versitygw", "amazons3", "rgw", ""
RGW_REQUEST_ID = re.compile(r"tx[0-9a-f]{21}-[0-9a-f]{10}-[0-9a-f]+-.+")
# Servers that take a checksum behind a body; RGW 16 refuses that, later ones are not told apart.
TRAILER_SERVERS = frozenset({MINIO, VERSITYGW, AMAZON})
# Doors to a server's administration, by the first segment of the path. The pool's key may open them, and a
# client's must not. Where one server has its door another has a bucket.
ADMIN_NAMES = frozenset({"minio", "admin", "swift", "auth", "-"})
RESERVED = {
    MINIO: frozenset({"minio", "-"}),
    VERSITYGW: frozenset({"-"}),
    AMAZON: frozenset({"-"}),
    RGW: frozenset({"admin", "swift", "auth", "-"}),
    UNKNOWN: ADMIN_NAMES,
}


def kind_of(headers: Mapping[str, str]) -> str:
    """Return the kind of server that sent an answer; empty where it does not tell."""
    word = headers.get("server", "").partition("/")[0].lower()
    if word in TRAILER_SERVERS:
        return word
    request_id = headers.get("x-amz-request-id", "")
    is_ceph = word.startswith("ceph") or (bool(request_id) and RGW_REQUEST_ID.fullmatch(request_id) is not None)
    return RGW if is_ceph else UNKNOWN


# All that a list of buckets is asked with. RGW takes a request to / with others for IAM, STS or its usage report.
SERVICE_PARAMETERS = frozenset(
    {"prefix", "max-buckets", "continuation-token", "bucket-region", "x-id", "events", "suffix", "ping"}
    | {"AWSAccessKeyId", "Signature", "Expires"}
)

PLAIN = re.compile(r"/(?!\.{1,2}/)([A-Za-z0-9\-._~]+)/([A-Za-z0-9/\-._~]*)")  # bucket and key, nothing to decode
CONTROL = re.compile("%(?:0[0-8A-F]|1[0-9A-F]|7F)")  # in canonical spelling

NO_NAMES: frozenset[str] = frozenset()


@dataclass(slots=True)  # not frozen: one is made for every request
class Target:
    """A request's aim. ``path`` is path-style and canonical; ``pairs`` are encoded, in order.

    A pair is (name, value, whether there was a ``=``): some sub-resources come bare.
    """

    bucket: str
    key: str
    path: str
    pairs: tuple[tuple[str, str, bool], ...]

    @property
    def names(self) -> frozenset[str]:
        """Return the decoded names of the query."""
        return frozenset([_decode(name) for name, _, _ in self.pairs]) if self.pairs else NO_NAMES

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """Return the query's names and values, decoded, in order."""
        return [(_decode(name), _decode(value)) for name, value, _ in self.pairs]

    @property
    def resource(self) -> str:
        """Return s3/bucket/key, for logs and for nodes that keep to their keys."""
        return f"s3/{self.bucket}/{self.key}" if self.key else f"s3/{self.bucket}" if self.bucket else "s3"

    def value(self, name: str) -> str:
        """Return a parameter's decoded value, or nothing."""
        if not self.pairs:
            return ""
        return next((_decode(value) for other, value, _ in self.pairs if _decode(other) == name), "")

    def query_without(self, dropped: Collection[str]) -> str:
        """Return the query as it goes to a backend, the named parameters left out."""
        return "&".join(
            f"{name}={value}" if has_value else name
            for name, value, has_value in self.pairs
            if _decode(name) not in dropped
        )


def read_target(path: str, query: str | None, *, bucket_host: str = "") -> Target:
    """Read a raw target; ``bucket_host`` is the bucket that the Host field names.

    Raises:
        S3ErrorResponse: the bucket's name hides a slash, or there is none before a key.
    """
    path = f"/{bucket_host}{path}" if bucket_host else path
    plain = PLAIN.fullmatch(path) if query is None else None
    if plain is not None:
        return Target(plain[1], plain[2], path, ())
    raw_bucket = path[1:].partition("/")[0]
    canonical = canonical_path(path)
    bucket, _, raw_key = canonical[1:].partition("/")
    # Whoever checks the bucket must see the one that the backend will see.
    if "/" in _decode(raw_bucket) or (not bucket and len(canonical) > 1) or _decode(bucket) in (".", ".."):
        raise S3ErrorResponse(400, "InvalidBucketName", "the path does not begin with a bucket's name")
    pairs = tuple([_pair(text) for text in query.split("&") if text]) if query else ()
    if any(CONTROL.search(value) and name.lower().startswith("response-") for name, value, _ in pairs):
        # RGW writes it into the answer's head as it stands, which breaks the head.
        raise S3ErrorResponse(400, "InvalidArgument", "a header of the answer may not hold control characters")
    if len({name for name, _, _ in pairs}) < len(pairs):
        # MinIO signs equal names as they come, others by their values: in this order both are the same.
        pairs = tuple(sorted(pairs))
    return Target(_decode(bucket), _decode(raw_key), canonical, pairs)


def _pair(text: str) -> tuple[str, str, bool]:
    name, mark, value = text.partition("=")
    return _component(name), _component(value), bool(mark)


def _component(text: str) -> str:
    """Return one half of a pair in canonical spelling: ``+`` is a blank."""
    return quote(unquote_to_bytes(text.replace("+", "%20")), safe=UNRESERVED)


def _decode(text: str) -> str:
    if "%" not in text:
        return text
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


def guard_admin(target: Target, method: str, reserved: Callable[[], Collection[str]]) -> None:
    """Refuse paths of a node's own administration; ``reserved`` returns their first segments.

    Raises:
        S3ErrorResponse: the path or the query leads to a backend's own administration.
    """
    first = target.bucket.lower()
    if first in ADMIN_NAMES and first in reserved():
        raise forbidden("AccessDenied", "this path is not reachable through the proxy", reason="admin_path")
    if target.bucket:
        return
    others = {name for name in target.names - SERVICE_PARAMETERS if not name.startswith("X-Amz-")}
    if method not in ("GET", "HEAD") or others:
        raise S3ErrorResponse(405, "MethodNotAllowed", "only the list of buckets can be asked of the service")


def virtual_bucket(host: str, domains: Collection[str]) -> str:
    """Return the bucket that a Host names below one of the domains, or nothing."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    for domain in domains:
        if name.lower().endswith(f".{domain}"):
            return name[: -len(domain) - 1]
    return ""

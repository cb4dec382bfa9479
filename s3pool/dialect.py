"""What servers do otherwise than S3: which server, what follows from it, and what is learned at run time.

A client has one Dialect. What its servers refuse is learned from the first refusal that an
attempt without the refused thing proves, and is not sent again. A server's name counts only where
its answers show nothing: behind a proxy it may be another one's. The list of all is tests/support/quirks.py.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from s3pool.body import CHECKSUM_PREFIX, md5_base64
from s3pool.errors import S3Error
from s3pool.model import Request, Response, replace
from s3pool.record import dataclass
from s3pool.units import word_set

logger = logging.getLogger(__name__)

# Headers that a request can do without, by which refusals of them are remembered.
CHECKSUM_MODE = "x-amz-checksum-mode"  # without it S3 keeps a stored checksum to itself
COPY_MATCH = "x-amz-copy-if-match"  # Ceph RGW's name for x-amz-copy-source-if-match, which it ignores
DELETE_MATCH = "if-match"
CHECKSUM_TYPE = "x-amz-checksum-type"
CHECKSUM_ALGORITHM = "x-amz-checksum-algorithm"  # of an upload in parts; a server that keeps checksums repeats it
# Other things that are learned.
LISTS_V1 = "ListObjects"
BATCH_DELETE = "DeleteObjects"
HIDES_BELOW = "keys below the name of an object"
OWN_ETAGS = "etag"  # they have the form of MD5s, and are none

# How servers refuse what they do not know, beside 405 and 501 with any word.
NOT_UNDERSTOOD = ("BadRequest", "InvalidArgument", "InvalidRequest", "NotImplemented")
# How MinIO refuses to list a prefix with an empty or a dot component: no key there has one.
NO_ODD_KEYS = ("XMinioInvalidObjectName", "XMinioInvalidResourceName")
MISSING_MD5 = "MissingContentMD5"
PROOFS = 3  # as often an ETag must have been wrong and the object right before no more is read back for it

MINIO_NAME, SEAWEED_NAME, RGW_NAME = "minio", "seaweedfs", "ceph"  # in their Server headers
OWN_ETAGS_BEFORE = (4, 53)  # of SeaweedFS: 4.44 makes the ETag of an upload from chunks of 8 MiB
SEAWEED_VERSION = re.compile(r"seaweedfs.* (\d{1,9})\.(\d{1,9})")
MAX_SEGMENT_BYTES = 255  # a file's name in every usual file system
# Of an answer, or of the way that it took; not of the object. Others by their beginnings.
TRANSPORT_HEADERS = word_set(
    "accept-ranges age alt-svc connection content-length content-security-policy date keep-alive nel report-to "
    "server server-timing strict-transport-security transfer-encoding vary via x-amz-content-sha256 x-amz-id-2 "
    "x-amz-request-id x-cache x-cache-hits x-content-type-options x-frame-options x-minio-deployment-id "
    "x-openstack-request-id x-powered-by x-request-id x-rgw-object-type x-robots-tag x-served-by x-timer x-trans-id "
    "x-xss-protection"
)
CDN_PREFIXES = ("cf-", "x-amz-cf-", "x-envoy-", "x-fastly-")
TRANSPORT_PREFIXES = (
    "ratelimit",
    "x-ratelimit-",
    "seaweed-",
    "x-seaweedfs-",
    "access-control-",
    "x-amzn-",
    *CDN_PREFIXES,
)


@dataclass(frozen=True, slots=True)
class Habits:
    """What is known of a server by its name. The paths need no signature and touch no disk; "" for none.

    ``set_path`` tells whether a set of servers can work, which it cannot without a quorum. Servers that lock what is
    written hold the locks of a node that died for ``lock_wait_s``.
    """

    health_path: str = ""
    set_path: str = ""
    lock_wait_s: float = 0.0


# MinIO looks once a minute for locks that were not renewed for one, and what waits for one asks every 5 s at most.
HABITS = {
    MINIO_NAME: Habits("/minio/health/live", "/minio/health/cluster", 130.0),
    RGW_NAME: Habits("/swift/healthcheck"),
}
NO_HABITS = Habits()


def habits_of(server: str) -> Habits:
    """Return what is known of the server that a Server header names."""
    name = server.lower()
    return next((habits for word, habits in HABITS.items() if word in name), NO_HABITS)


class Dialect:
    """What was learned of one pool's servers; a race between threads costs one request."""

    __slots__ = ("_known", "_proofs")

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._proofs = 0

    def knows(self, fact: str) -> bool:
        """Return whether this was learned."""
        return fact in self._known

    def learn(self, fact: str) -> None:
        """Remember a fact for the rest of the run."""
        if fact not in self._known:
            logger.debug("learned of the servers: no %s", fact)
            self._known.add(fact)

    def prove_own_etags(self) -> None:
        """Note that an object is right though its ETag is not: the servers make their ETags in a way of their own."""
        self._proofs += 1
        if self._proofs >= PROOFS:
            self.learn(OWN_ETAGS)

    def wants_md5(self, bucket: str, headers: Mapping[str, str]) -> bool:
        """Return whether a body has to go with a digest, as where objects are locked, and has none yet."""
        return bool(self._known) and _lock_of(bucket) in self._known and not _has_digest(headers)

    def learn_lock(self, bucket: str, error: S3Error, headers: Mapping[str, str]) -> bool:
        """Return whether a refusal means that a digest is missing, and remember that for the bucket."""
        detail = error.detail.lower()
        is_missing = error.code == MISSING_MD5 or (error.code == "InvalidRequest" and "content-md5" in detail)
        if error.status != 400 or not is_missing or _has_digest(headers):
            return False
        self.learn(_lock_of(bucket))
        return True


def _lock_of(bucket: str) -> str:
    return f"PUT without Content-MD5 in {bucket}"


def _has_digest(headers: Mapping[str, str]) -> bool:
    return "content-md5" in headers or any(name.startswith(CHECKSUM_PREFIX) for name in headers)


def with_md5(request: Request) -> Request:
    """Return a request whose body goes with its MD5."""
    return replace(request, headers={**request.headers, "content-md5": md5_base64(request.body)})


def without(request: Request, header: str) -> Request:
    """Return a request without one of its headers."""
    return replace(request, headers={name: value for name, value in request.headers.items() if name != header})


def is_refusal(error: S3Error) -> bool:
    """Return whether a server may mean by this that it does not know something of the request."""
    return error.status in (405, 501) or (error.status == 400 and error.code in NOT_UNDERSTOOD)


def is_minio(headers: Mapping[str, str]) -> bool:
    """Return whether an answer is MinIO's, as far as it says so."""
    return MINIO_NAME in headers.get("server", "").lower()


def is_seaweedfs(headers: Mapping[str, str]) -> bool:
    """Return whether an answer is SeaweedFS's, as far as it says so."""
    return SEAWEED_NAME in headers.get("server", "").lower()


def makes_own_etags(headers: Mapping[str, str]) -> bool:
    """Return whether a server is known to make the ETags of uploads of something else than the parts."""
    match = SEAWEED_VERSION.search(headers.get("server", "").lower())
    return match is not None and (int(match[1]), int(match[2])) < OWN_ETAGS_BEFORE


def is_of_transport(header: str) -> bool:
    """Return whether a header of an answer tells of the answer, and not of the object."""
    return header in TRANSPORT_HEADERS or header.startswith(TRANSPORT_PREFIXES)


def name_limit_hint(response: Response, code: str, resource: str) -> str:
    """Return why a node will never store a key that it is "too busy" for, "" when it may be busy."""
    key = resource.removeprefix("s3/").partition("/")[2]
    longest = max((len(name.encode("utf-8", "surrogateescape")) for name in key.split("/")), default=0)
    if not code.startswith("SlowDown") or longest <= MAX_SEGMENT_BYTES or not is_minio(response.headers):
        return ""
    return f"a name between slashes has {longest} bytes, and MinIO stores at most {MAX_SEGMENT_BYTES}"

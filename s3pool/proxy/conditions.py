"""What servers do otherwise: their own doors, conditions that they ignore, and how the proxy checks these itself."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from s3pool.body import EMPTY_SHA256
from s3pool.errors import S3PoolError
from s3pool.model import Response
from s3pool.proxy.auth import HEADER_V4, Admitted
from s3pool.proxy.errors import ClientGoneError, S3ErrorResponse, forbidden, not_implemented, unavailable
from s3pool.proxy.forward import Attempts, Fields, Forwarder, NodeRequest
from s3pool.proxy.operations import COPY_SOURCE, RENAME_SOURCE, V2_PARAMETERS, classify
from s3pool.proxy.request import RequestHead, Target, read_target
from s3pool.s3.documents import parse_versioning
from s3pool.s3.signing import Signer

MINIO, VERSITYGW, AMAZON, RGW, SEAWEED, UNKNOWN = "minio", "versitygw", "amazons3", "rgw", "seaweedfs", ""
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
    SEAWEED: ADMIN_NAMES,
    UNKNOWN: ADMIN_NAMES,
}


def kind_of(headers: Mapping[str, str]) -> str:
    """Return the kind of server that sent an answer; empty where it does not tell."""
    word = headers.get("server", "").partition("/")[0].lower()
    if word in TRAILER_SERVERS or word.startswith(SEAWEED):
        return word.partition(" ")[0]
    request_id = headers.get("x-amz-request-id", "")
    is_ceph = word.startswith("ceph") or (bool(request_id) and RGW_REQUEST_ID.fullmatch(request_id) is not None)
    return RGW if is_ceph else UNKNOWN


# All that a list of buckets is asked with. RGW takes a request to / with others for IAM, STS or its usage report.
SERVICE_PARAMETERS = frozenset(
    {"prefix", "max-buckets", "continuation-token", "bucket-region", "x-id", "events", "suffix", "ping"} | V2_PARAMETERS
)


TTL_S = 10.0  # somebody may switch versions on by another way
MAX_BUCKETS = 10_000
ABSENT = ""  # what a bucket says that never had versions


class Versioning:
    """Remembers which buckets keep versions, for a short time; safe for many threads."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._known: dict[str, tuple[float, bool]] = {}

    def is_absent(self, bucket: str, ask: Callable[[], str | None]) -> bool:
        """Return whether a bucket is known to keep no versions; ``ask`` returns its state, or None if unknown."""
        until, absent = self._known.get(bucket, (0.0, False))
        if self._now() < until:
            return absent
        absent = ask() == ABSENT
        if len(self._known) >= MAX_BUCKETS:
            self._known = {}
        self._known[bucket] = (self._now() + TTL_S, absent)
        return absent

    def forget(self, bucket: str) -> None:
        """Forget the state of a bucket, which is being changed."""
        self._known.pop(bucket, None)


OK, NOT_FOUND, PRECONDITION_FAILED, NOT_MODIFIED = 200, 404, 412, 304
SOURCE_PREFIX = f"{COPY_SOURCE}-"
SOURCE_CONDITIONS = frozenset(
    f"{SOURCE_PREFIX}if-{name}" for name in ("match", "none-match", "modified-since", "unmodified-since")
)
TARGET_CONDITIONS = frozenset({"if-match", "if-none-match"})
MAY_BE_IGNORED = TARGET_CONDITIONS | SOURCE_CONDITIONS
# Conditions that a server takes and passes over, by operation: it would overwrite or delete all the same.
_OF_RGW = {  # 16.2
    "CompleteMultipartUpload": TARGET_CONDITIONS,
    "CopyObject": TARGET_CONDITIONS | SOURCE_CONDITIONS,
    "UploadPartCopy": SOURCE_CONDITIONS,
    "DeleteObject": TARGET_CONDITIONS,
}
IGNORED: Mapping[str, Mapping[str, frozenset[str]]] = {
    RGW: _OF_RGW,
    SEAWEED: _OF_RGW,
    UNKNOWN: _OF_RGW,
    MINIO: {"CopyObject": TARGET_CONDITIONS, "DeleteObject": TARGET_CONDITIONS},
    VERSITYGW: {"CopyObject": TARGET_CONDITIONS},
    AMAZON: {},
}
# What it passes over, and nothing that could be asked before would make up for that.
_DELETE_CONDITIONS = frozenset(
    {"x-amz-if-match-size", "x-amz-if-match-last-modified-time", "x-amz-if-match-initiated-time"}
)
_OFFSET = "x-amz-write-offset-bytes"
UNCHECKED: Mapping[str, frozenset[str]] = {
    RGW: _DELETE_CONDITIONS | {_OFFSET, RENAME_SOURCE},
    SEAWEED: _DELETE_CONDITIONS | {_OFFSET, RENAME_SOURCE},
    MINIO: _DELETE_CONDITIONS | {RENAME_SOURCE},
    VERSITYGW: frozenset({_OFFSET, RENAME_SOURCE}),
    UNKNOWN: frozenset(),
    AMAZON: frozenset(),
}
MAY_BE_UNCHECKED = frozenset().union(*UNCHECKED.values())
# The conditions of one object of a batch, which all of these servers pass over.
BATCH_CONDITION = re.compile(rb"<(?:[\w.-]{1,64}:)?(ETag|LastModifiedTime|Size)[\s>/]")


class NodeFacts:
    """What is known of the nodes: their server, versioned buckets, ignored conditions."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self.versioning = Versioning()
        self.server = UNKNOWN  # the kind of the nodes' server, once an answer told

    def guard_admin(self, head: RequestHead, target: Target) -> None:
        """Refuse paths and queries of a node's own administration. Raises S3ErrorResponse: it is one."""
        first = target.bucket.lower()
        if first in ADMIN_NAMES:
            self._learn_server(head)
            if first in RESERVED[self.server]:
                raise forbidden("AccessDenied", "this path is not reachable through the proxy", reason="admin_path")
        if target.bucket:
            return
        others = {name for name in target.names - SERVICE_PARAMETERS if not name.startswith("X-Amz-")}
        if head.method not in ("GET", "HEAD") or others:
            raise S3ErrorResponse(405, "MethodNotAllowed", "only the list of buckets can be asked of the service")

    def _learn_server(self, head: RequestHead) -> None:
        """Ask a node for its Server header, unless a response has told already."""
        if not self.server:
            try:
                with self._asked(head, "GET", "/", None, signer=Signer(None, region="")) as response:
                    self.server = kind_of(response.headers)
            except ClientGoneError:
                raise
            except S3PoolError:
                return

    def keeps_no_versions(self, admitted: Admitted) -> bool:
        """Return whether a bucket never kept versions; False if that is unknown."""
        return self.versioning.is_absent(admitted.target.bucket, lambda: self._ask_versioning(admitted))

    def _ask_versioning(self, admitted: Admitted) -> str | None:
        path = "/" + admitted.target.path[1:].partition("/")[0]
        try:
            with self._asked(admitted.head, "GET", path, "versioning", signer=admitted.signer) as response:
                return parse_versioning(response.preload()) if response.status == OK else None
        except ClientGoneError:
            raise
        except S3PoolError:
            return None

    # -- conditions that nodes pass over -------------------------------------------------------

    def check_conditions(self, admitted: Admitted) -> None:
        """Check conditions that nodes may ignore. Raises S3ErrorResponse: they do not hold, or nobody can tell."""
        head, op = admitted.head, admitted.operation.name
        may_be_ignored = op in _OF_RGW and not MAY_BE_IGNORED.isdisjoint(head.index)
        if not may_be_ignored and MAY_BE_UNCHECKED.isdisjoint(head.index):
            return
        self._learn_server(head)
        ignored = IGNORED[self.server].get(op, frozenset()).intersection(head.index)
        unchecked = UNCHECKED[self.server].intersection(head.index)
        if not (ignored or unchecked):
            return
        if admitted.signer is None:
            if head.length is None:  # which the node refuses, and the proxy's own length must not change that
                raise S3ErrorResponse(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
            return
        if unchecked:
            raise not_implemented(f"the storage nodes ignore {min(unchecked)}", closes=head.length != 0)
        if TARGET_CONDITIONS & ignored:
            self._check_target(admitted)
        if SOURCE_CONDITIONS & ignored:
            self._check_source(admitted)

    def ignores_batch_conditions(self, admitted: Admitted) -> bool:
        """Return whether the nodes ignore the conditions that stand in the document of a request."""
        if admitted.operation.name != "DeleteObjects" or admitted.signer is None:
            return False
        self._learn_server(admitted.head)
        return self.server in (RGW, MINIO, VERSITYGW, SEAWEED)

    def _check_target(self, admitted: Admitted) -> None:
        head = admitted.head
        with self._asked(head, "HEAD", admitted.target.path, None, signer=admitted.signer) as response:
            status, etag = response.status, response.headers.get("etag", "")
        if status not in (OK, NOT_FOUND):
            raise _unknown(status)
        wanted, unwanted = head.value("if-match"), head.value("if-none-match")
        if status == NOT_FOUND and wanted:
            raise S3ErrorResponse(404, "NoSuchKey", "The specified key does not exist.")
        if status == OK and ((wanted and not _matches(wanted, etag)) or (unwanted and _matches(unwanted, etag))):
            raise _failed()

    def _check_source(self, admitted: Admitted) -> None:
        head = admitted.head
        path, _, query = head.value(COPY_SOURCE).partition("?")
        conditions = [(name.lower(), value) for name, value in head.fields if name.lower() in SOURCE_CONDITIONS]
        fields = tuple((name.removeprefix(SOURCE_PREFIX), value) for name, value in conditions)
        path = path if path.startswith("/") else f"/{path}"
        with self._asked(head, "HEAD", path, query or None, signer=admitted.signer, extra=fields) as response:
            if response.status in (PRECONDITION_FAILED, NOT_MODIFIED):
                raise _failed()
            if response.status not in (OK, NOT_FOUND):
                raise _unknown(response.status)

    @contextmanager
    def _asked(
        self, head: RequestHead, method: str, path: str, query: str | None, *, signer: Signer | None, extra: Fields = ()
    ) -> Iterator[Response]:
        """Send a request with the client's key and user agent, and nothing else of its head."""
        fields = (*((name, value) for name, value in head.fields if name.lower() == "user-agent"), *extra)
        asked = head.with_fields(fields, method=method, path=path, query=query, length=0)
        target = read_target(path, query)
        operation = classify(method, target.names, bucket=target.bucket, key=target.key, headers=())
        node_request = NodeRequest(asked, target, HEADER_V4, signer, EMPTY_SHA256, None)
        with self._forwarder.send(node_request, operation, attempts=Attempts()) as response:
            yield response


def _matches(given: str, etag: str) -> bool:
    words = (word.strip(" \t").removeprefix("W/").strip('"') for word in given.split(","))
    return any(word in ("*", etag.strip('"')) for word in words)


def _failed() -> S3ErrorResponse:
    return S3ErrorResponse(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")


def _unknown(status: int) -> S3ErrorResponse:
    if status >= 500:
        return unavailable("the condition could not be checked; try again")
    detail = f"the storage nodes ignore this condition, and the object could not be looked at (status {status})"
    return not_implemented(detail)


def check_batch(document: bytes) -> None:
    """Refuse a batch with conditions, which the nodes ignore. Raises S3ErrorResponse: an object has one."""
    found = BATCH_CONDITION.search(document)
    if found is not None:
        detail = f"the storage nodes ignore {found[1].decode()} of an object that is to be deleted"
        raise not_implemented(detail)

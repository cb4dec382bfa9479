"""One request, read: which operation it is, on what, and the settings that judge it."""

from __future__ import annotations

import email.utils
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_to_bytes

from tests.support.fake_s3.listings import document, element
from tests.support.fake_s3.store import S3Fault, Store
from tests.support.fake_s3.wire import Exchange, Reply

MIB = 1 << 20
MAX_KEY_BYTES = 1024  # S3's own limit

_BUCKET_PLAIN = {"PUT": "CreateBucket", "DELETE": "DeleteBucket", "HEAD": "HeadBucket"}
_BUCKET_SUB = {
    ("GET", "versioning"): "GetBucketVersioning",
    ("PUT", "versioning"): "PutBucketVersioning",
    ("GET", "location"): "GetBucketLocation",
    ("GET", "versions"): "ListObjectVersions",
    ("GET", "uploads"): "ListMultipartUploads",
    ("POST", "delete"): "DeleteObjects",
}
_OBJECT_PLAIN = {"GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}
_OBJECT_SUB = {
    ("GET", "tagging"): "GetObjectTagging",
    ("PUT", "tagging"): "PutObjectTagging",
    ("DELETE", "tagging"): "DeleteObjectTagging",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("GET", "uploadId"): "ListParts",
}
# A subresource that is not known must not pass for the plain operation: PUT ?acl stores no object.
_SUBRESOURCES = frozenset(
    [
        "acl",
        "cors",
        "lifecycle",
        "location",
        "logging",
        "notification",
        "policy",
        "replication",
        "requestPayment",
        "tagging",
        "torrent",
        "uploadId",
        "uploads",
        "versioning",
        "versions",
        "website",
        "delete",
        "encryption",
        "object-lock",
        "legal-hold",
        "retention",
        "restore",
        "select",
        "accelerate",
    ]
)


@dataclass
class Quirks:
    """How the fake differs from a well-behaved server; the defaults are RGW's better half."""

    style: str = "rgw"  # or "aws": how names are encoded, and how a cursor within a group counts
    v2: bool = True  # False: list-type is not understood, and V1 is answered
    encoding: bool = True  # False: encoding-type is ignored
    start_after: str = "exclusive"  # or "inclusive", or "ignored"
    short_pages: int = 0  # at most so many names on a page
    unsorted: bool = False  # keys of a page come backwards
    tree_order: bool = False  # as a walk over directories goes, a/x before a-b, and a cursor counts in that order
    skips_subtrees: bool = False  # a cursor "a/b" leaves out "a/b/c" too, as on SeaweedFS 4.44
    private_tokens: bool = False  # a continuation token works only where it was given
    opaque_etags: bool = False  # ETags look like an MD5 and are none, as under KMS
    chunked: bool = False  # XML comes in chunks, without Content-Length
    silent_errors: bool = False  # errors have no Message
    empty_complete_etag: bool = False
    repeat_complete: bool = True  # False: a second Complete is NoSuchUpload
    batch_delete: bool = True  # False: refused
    md5_needed: bool = True  # DeleteObjects without Content-MD5 or checksum is refused
    min_part_bytes: int = 5 * MIB
    check_payload: bool = False  # x-amz-content-sha256 must be the body's, where no signature is checked either
    max_skew_s: float = 0.0  # 0: nobody looks at x-amz-date
    region: str = ""  # requests must be signed for this one
    tells_region: str = "element"  # or "header", "message", "minio": how it says so
    health_path: str = "/swift/healthcheck"
    server: str = ""  # what the field Server says
    trailers: bool = False  # bodies with an unsigned trailer are understood
    tenants: bool = False  # ``:b`` is another name of ``b``, as on RGW
    folds_keys: bool = False  # ``a//k`` and ``a/./k`` are other names of ``a/k``, as where keys are files
    delete_if_match: str = "ignored"  # or "honoured", or "refused": what becomes of If-Match with DELETE
    keeps_checksums: bool = True  # False: uploads in parts forget them, as on RGW 16
    refused: frozenset[str] = frozenset()  # headers that no operation is understood with
    refusal: tuple[int, str] = (501, "NotImplemented")  # how headers and batches are refused
    random_etags: bool = False  # as on MinIO with --no-compat: like an MD5, and nothing tells that they are none
    own_multipart_etags: bool = False  # of chunks instead of parts, as on SeaweedFS 4.44
    uploads_by_node: bool = False  # a node lists the uploads that it began, or those of one key, as MinIO does
    bare_uploads: bool = False  # a list of uploads has no IsTruncated, as gofakes3's
    hides_below: bool = False  # listings leave out what is below the name of an object, as MinIO's do
    refuses_odd_prefixes: bool = False  # of empty or dot components, as MinIO does: no key there has any
    markers_apart: bool = False  # a page of versions names its delete markers behind them, as versitygw's do
    lock_wants_md5: bool = False  # bodies go into a bucket with a lock with a digest alone
    has_quorum: bool = True  # False: /minio/health/cluster says that the set cannot work

    def bucket_of(self, name: str) -> str:
        """Give the bucket that a name means."""
        return name.removeprefix(":") if self.tenants else name

    def key_of(self, key: str) -> str:
        """Give the key that a name means."""
        if not self.folds_keys or not key:
            return key
        end = "/" if key.endswith("/") else ""
        return "/".join(part for part in key.split("/") if part not in ("", ".")) + end


@dataclass
class Call:
    """A request on its way to its operation."""

    op: str
    bucket: str
    key: str
    query: dict[str, str]
    exchange: Exchange
    store: Store
    quirks: Quirks
    now: float
    notes: dict[str, str] = field(default_factory=dict)

    def header(self, name: str, default: str = "") -> str:
        """Give a request header."""
        return self.exchange.headers.get(name, default)

    @property
    def body(self) -> bytes:
        """Give the whole body."""
        return self.exchange.body()

    def stored_headers(self) -> dict[str, str]:
        """Give the headers that an object keeps."""
        kept = {
            name: value
            for name, value in self.exchange.headers.items()
            if name in KEPT or name.startswith("x-amz-meta-")
        }
        return {"content-type": "binary/octet-stream", **kept}

    def xml(self, root: str, *children: str) -> Reply:
        """Give an XML answer."""
        return Reply(200, document(root, *children), {"Content-Type": "application/xml"}, chunked=self.quirks.chunked)


KEPT = frozenset(
    [
        "content-type",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "expires",
        "x-amz-website-redirect-location",
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-checksum-crc32",
        "x-amz-checksum-crc32c",
        "x-amz-checksum-sha1",
        "x-amz-checksum-sha256",
        "x-amz-checksum-crc64nvme",
    ]
)
Operation = Callable[[Call], Reply]


def decode(text: str) -> str:
    """Percent-decode; bytes that are not UTF-8 are refused, as RGW does."""
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise S3Fault(400, "InvalidObjectName", "the name is not UTF-8") from None


def split_target(exchange: Exchange) -> tuple[str, str, dict[str, str]]:
    """Split a raw request target into bucket, key and query; nothing is normalised."""
    path, _, query_text = exchange.target.partition("?")
    query = dict(parse_qsl(query_text, keep_blank_values=True, errors="surrogateescape"))
    host = exchange.headers.get("host", "")
    if host.endswith("." + exchange.node.netloc):
        return host[: -len(exchange.node.netloc) - 1], decode(path[1:]), query
    bucket, _, key = path[1:].partition("/")
    return decode(bucket), decode(key), query


def operation_of(exchange: Exchange, bucket: str, key: str, query: dict[str, str]) -> str:
    """Name the operation in S3's words; ``NotImplemented`` for what the fake does not know."""
    method = exchange.method
    subresources = _SUBRESOURCES & query.keys()
    if not bucket:
        return "ListBuckets" if method in ("GET", "HEAD") else "NotImplemented"
    if not key:
        return _bucket_operation(method, subresources, query)
    if method == "PUT" and subresources <= {"uploadId"}:
        copied = "x-amz-copy-source" in exchange.headers
        if "partNumber" in query:
            return "UploadPartCopy" if copied else "UploadPart"
        return "CopyObject" if copied else "PutObject"
    for subresource in subresources:
        return _OBJECT_SUB.get((method, subresource), "NotImplemented")
    return _OBJECT_PLAIN.get(method, "NotImplemented")


def _bucket_operation(method: str, subresources: frozenset[str], query: dict[str, str]) -> str:
    for subresource in subresources:
        return _BUCKET_SUB.get((method, subresource), "NotImplemented")
    if method == "GET":
        return "ListObjectsV2" if query.get("list-type") == "2" else "ListObjects"
    return _BUCKET_PLAIN.get(method, "NotImplemented")


def error_reply(fault: S3Fault, *, bucket: str, request_id: str, silent: bool) -> Reply:
    """Write an error; RGW's silent manner leaves the message out."""
    children = [element("Code", fault.code)]
    if not silent:
        children.append(element("Message", fault.message))
    children += [element("Region", fault.region)] if fault.region else []
    children += [element("BucketName", bucket), element("RequestId", request_id), element("HostId", "fake")]
    body = document("Error", *children).replace(b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', b"")
    if fault.status in (204, 304):
        return Reply(fault.status, headers=dict(fault.headers))
    return Reply(fault.status, body, {"Content-Type": "application/xml", **fault.headers})


def http_time(seconds: float) -> str:
    """Give an HTTP date."""
    return email.utils.formatdate(seconds, usegmt=True)

"""The fake's operations on objects."""

from __future__ import annotations

import base64
import calendar
import email.utils
import re
from urllib.parse import parse_qsl, unquote

from s3pool.body import CHECKSUM_PREFIX, CHECKSUMS, new_hasher
from tests.support.fake_s3.bucket_ops import read_xml
from tests.support.fake_s3.call import MAX_KEY_BYTES, Call, Operation, decode, http_time
from tests.support.fake_s3.listings import element, iso_time
from tests.support.fake_s3.store import Bucket, S3Fault, Version, md5_hex
from tests.support.fake_s3.wire import Reply, flip

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_RESPONSE_OVERRIDES = (
    "content-type",
    "content-disposition",
    "content-encoding",
    "content-language",
    "cache-control",
    "expires",
)


def put_object(call: Call) -> Reply:
    """Answer PUT of an object."""
    bucket = call.store.bucket(call.bucket)
    check_key(call.key)
    check_lock(call, bucket)
    body = receive(call)
    check_write_conditions(call, bucket)
    kept = call.stored_headers()
    version = Version(call.key, call.store.version_id_for(bucket), call.now, body, new_etag(call, body), kept)
    version.tags = read_tagging(call.header("x-amz-tagging"))
    version.storage_class = call.header("x-amz-storage-class", "STANDARD")
    bucket.put(version)
    return Reply(200, headers={"ETag": f'"{version.etag}"', **encryption(call), **version_header(bucket, version)})


def new_etag(call: Call, body: bytes) -> str:
    """Return the ETag of an object in one piece: a digest of its content, or of nothing that anybody knows."""
    is_random = call.quirks.opaque_etags or call.quirks.random_etags
    return md5_hex(call.store.new_id("etag").encode() if is_random else body)


def encryption(call: Call) -> dict[str, str]:
    """Return the header by which a server says that its ETags are no digests."""
    return {"x-amz-server-side-encryption": "aws:kms"} if call.quirks.opaque_etags else {}


def check_lock(call: Call, bucket: Bucket) -> None:
    """Refuse a body without a digest where objects are locked."""
    has_digest = any(name == "content-md5" or name.startswith(CHECKSUM_PREFIX) for name in call.exchange.headers)
    if call.quirks.lock_wants_md5 and bucket.lock and not has_digest:
        call.exchange.body()
        detail = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock"
        raise S3Fault(400, "InvalidRequest", f"{detail} parameters")


def check_key(key: str) -> None:
    """Refuse a key that S3 refuses."""
    if len(key.encode()) > MAX_KEY_BYTES:
        raise S3Fault(400, "KeyTooLongError", "Your key is too long")


def receive(call: Call) -> bytes:
    """Read a body and check it against every digest that came with it."""
    if call.header("transfer-encoding"):
        raise S3Fault(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
    body = unframed(call) if call.quirks.trailers else call.body
    if call.header("content-md5") and base64.b64decode(call.header("content-md5")) != digest_of("md5", body):
        raise S3Fault(400, "BadDigest", "The content-md5 you specified did not match what was received.")
    for name in CHECKSUMS:
        header = CHECKSUM_PREFIX + name
        if call.header(header) and base64.b64decode(call.header(header)) != digest_of(name, body):
            raise S3Fault(400, "BadDigest", f"The {header} you specified did not match what was received.")
    return body if call.exchange.spoil is None else flip(body, call.exchange.spoil)


def unframed(call: Call) -> bytes:
    """Give the content of a body, out of its chunks where it has them; the trailer becomes a header."""
    left = call.body
    if call.header("x-amz-content-sha256") != "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
        return left
    content = b""
    while size := int((line := left.partition(b"\r\n"))[0], 16):
        content, left = content + line[2][:size], line[2][size + 2 :]
    name, _, value = line[2].removesuffix(b"\r\n\r\n").decode().partition(":")
    if name != call.header("x-amz-trailer") or len(content) != int(call.header("x-amz-decoded-content-length")):
        raise S3Fault(400, "MalformedTrailerError", "The request contained trailing data that was not well-formed.")
    call.exchange.trailer = {name: value} if name else {}
    call.exchange.headers.update(call.exchange.trailer)
    call.exchange.headers.pop("content-encoding", None)
    return content


def digest_of(name: str, body: bytes) -> bytes:
    """Give any digest that S3 knows."""
    hasher = new_hasher(name)
    hasher.update(memoryview(body))
    return hasher.digest()


def check_write_conditions(call: Call, bucket: Bucket) -> None:
    """Judge If-None-Match: * and If-Match of a write."""
    current = bucket.current(call.key)
    if call.header("if-none-match") == "*" and current is not None:
        raise S3Fault(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    wanted = call.header("if-match")
    if wanted and (current is None or not _matches(wanted, current.etag)):
        raise S3Fault(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")


def read_tagging(text: str) -> dict[str, str]:
    """Read ``k=v&k2=v2``."""
    return dict(parse_qsl(text, keep_blank_values=True))


def version_header(bucket: Bucket, version: Version) -> dict[str, str]:
    """Give x-amz-version-id, which only buckets with versions have."""
    return {"x-amz-version-id": version.version_id} if bucket.versioning else {}


def find_version(bucket: Bucket, key: str, version_id: str) -> Version:
    """Give the version that is asked for; raises NoSuchKey, NoSuchVersion or 405."""
    versions = bucket.versions.get(key, [])
    if not version_id:
        if versions and not versions[0].marker:
            return versions[0]
        extra = {"x_amz_delete_marker": "true"} if versions else {}
        raise S3Fault(404, "NoSuchKey", "The specified key does not exist.", **extra)
    found = next((version for version in versions if version.version_id == version_id), None)
    if found is None:
        raise S3Fault(404, "NoSuchVersion", "The specified version does not exist.")
    if found.marker:
        raise S3Fault(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
    return found


def get_object(call: Call) -> Reply:
    """Answer GET and HEAD, with ranges and conditions."""
    bucket = call.store.bucket(call.bucket)
    version = find_version(bucket, call.key, call.query.get("versionId", ""))
    check_read_conditions(version, {name: call.header(name) for name in CONDITIONS})
    headers = _object_headers(call, bucket, version)
    span = read_range(call.header("range"), len(version.body))
    if span is None:
        return Reply(200, version.body, headers)
    first, last = span
    headers["Content-Range"] = f"bytes {first}-{last}/{len(version.body)}"
    return Reply(206, version.body[first : last + 1], headers)


def _object_headers(call: Call, bucket: Bucket, version: Version) -> dict[str, str]:
    headers = {
        "ETag": f'"{version.etag}"',
        "Last-Modified": http_time(version.mtime),
        "Accept-Ranges": "bytes",
        **encryption(call),
        **{name: value for name, value in version.headers.items() if not name.startswith(CHECKSUM_PREFIX)},
        **version_header(bucket, version),
    }
    if call.header("x-amz-checksum-mode").upper() == "ENABLED" and not call.header("range"):
        told = {name: value for name, value in version.headers.items() if name.startswith(CHECKSUM_PREFIX)}
        headers.update({"x-amz-checksum-type": "FULL_OBJECT"} | told if told else {})
    if version.storage_class != "STANDARD":
        headers["x-amz-storage-class"] = version.storage_class
    if version.tags:
        headers["x-amz-tagging-count"] = str(len(version.tags))
    for name in _RESPONSE_OVERRIDES:
        if f"response-{name}" in call.query:
            headers[name] = call.query[f"response-{name}"]
    return headers


REDIRECT = "x-amz-website-redirect-location"  # which no copy takes over by itself
CONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")


def check_read_conditions(version: Version, conditions: dict[str, str]) -> None:
    """Judge the conditions of a read; raises 412 or 304."""
    if conditions["if-match"]:
        if not _matches(conditions["if-match"], version.etag):
            raise S3Fault(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    elif conditions["if-unmodified-since"] and int(version.mtime) > _read_http_time(conditions["if-unmodified-since"]):
        raise S3Fault(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    if conditions["if-none-match"]:
        if _matches(conditions["if-none-match"], version.etag):
            raise S3Fault(304, "NotModified", ETag=f'"{version.etag}"')
    elif conditions["if-modified-since"] and int(version.mtime) <= _read_http_time(conditions["if-modified-since"]):
        raise S3Fault(304, "NotModified", ETag=f'"{version.etag}"')


def _matches(given: str, etag: str) -> bool:
    return given.strip() == "*" or etag in (word.strip().strip('"') for word in given.split(","))


def _read_http_time(text: str) -> int:
    parsed = email.utils.parsedate(text)
    if parsed is None:
        raise S3Fault(400, "InvalidArgument", "bad date")
    return calendar.timegm(parsed)


def read_range(text: str, size: int) -> tuple[int, int] | None:
    """Read a Range header; None for the whole, raises InvalidRange."""
    match = _RANGE.fullmatch(text.replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        span = max(0, size - int(last)), size - 1
    else:
        span = int(first), min(int(last) if last else size - 1, size - 1)
    if span[0] >= size or (first and last and int(first) > int(last)):
        raise S3Fault(416, "InvalidRange", "The requested range is not satisfiable", Content_Range=f"bytes */{size}")
    return span


def delete_object(call: Call) -> Reply:
    """Answer DELETE; a missing key is no error."""
    bucket = call.store.bucket(call.bucket)
    _check_delete_condition(call, bucket)
    headers = remove_one(call, bucket, call.key, call.query.get("versionId", ""))
    return Reply(204, headers=headers)


def _check_delete_condition(call: Call, bucket: Bucket) -> None:
    wanted, rule = call.header("if-match"), call.quirks.delete_if_match
    if wanted and rule == "refused":
        raise S3Fault(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
    current = bucket.current(call.key)
    if wanted and rule == "honoured" and current is not None and not _matches(wanted, current.etag):
        raise S3Fault(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")


def remove_one(call: Call, bucket: Bucket, key: str, version_id: str) -> dict[str, str]:
    """Delete one key or version; gives the headers that tell what happened."""
    if version_id:
        found = bucket.remove(key, version_id)
        extra = {"x-amz-delete-marker": "true"} if found is not None and found.marker else {}
        return {"x-amz-version-id": version_id, **extra}
    if not bucket.versioning:
        bucket.remove(key, "null")
        return {}
    marker = Version(key, call.store.version_id_for(bucket), call.now, marker=True)
    bucket.put(marker)
    return {"x-amz-version-id": marker.version_id, "x-amz-delete-marker": "true"}


def copy_source(call: Call) -> Version:
    """Find what a copy copies, and judge its conditions."""
    text, _, version_text = call.header("x-amz-copy-source").partition("?versionId=")
    name, _, key = text.removeprefix("/").partition("/")
    bucket = call.store.bucket(call.quirks.bucket_of(decode(name)))
    version = find_version(bucket, call.quirks.key_of(decode(key)), unquote(version_text))
    conditions = {name: call.header(f"x-amz-copy-source-{name}") for name in CONDITIONS}
    try:
        check_read_conditions(version, conditions)
    except S3Fault as fault:
        raise S3Fault(412, "PreconditionFailed", fault.message) from None
    return version


def copy_object(call: Call) -> Reply:
    """Answer PUT with x-amz-copy-source."""
    bucket = call.store.bucket(call.bucket)
    check_key(call.key)
    source = copy_source(call)
    replaced = call.header("x-amz-metadata-directive").upper() == "REPLACE"
    changes = call.header("x-amz-storage-class") or call.header("x-amz-server-side-encryption-customer-key")
    if source is bucket.current(call.key) and not replaced and not changes:
        raise S3Fault(400, "InvalidRequest", "This copy request is illegal: it copies an object to itself unchanged")
    headers = call.stored_headers() if replaced else dict(source.headers)
    headers.pop(REDIRECT, None)
    headers |= {REDIRECT: call.header(REDIRECT)} if call.header(REDIRECT) else {}
    copied = Version(call.key, call.store.version_id_for(bucket), call.now, source.body, "", headers)
    copied.etag = new_etag(call, source.body)
    new_tags = call.header("x-amz-tagging-directive").upper() == "REPLACE"
    copied.tags = read_tagging(call.header("x-amz-tagging")) if new_tags else dict(source.tags)
    copied.storage_class = call.header("x-amz-storage-class", "STANDARD")
    bucket.put(copied)
    reply = call.xml(
        "CopyObjectResult", element("LastModified", iso_time(copied.mtime)), f"<ETag>&quot;{copied.etag}&quot;</ETag>"
    )
    reply.headers.update(version_header(bucket, copied) | encryption(call))
    return reply


def get_tagging(call: Call) -> Reply:
    """Answer GET ?tagging."""
    version = find_version(call.store.bucket(call.bucket), call.key, call.query.get("versionId", ""))
    rows = (f"<Tag>{element('Key', name)}{element('Value', value)}</Tag>" for name, value in version.tags.items())
    return call.xml("Tagging", f"<TagSet>{''.join(rows)}</TagSet>")


def put_tagging(call: Call) -> Reply:
    """Answer PUT ?tagging."""
    version = find_version(call.store.bucket(call.bucket), call.key, call.query.get("versionId", ""))
    tags = {}
    for node in read_xml(call.body).iter():
        if node.tag.rpartition("}")[2] == "Tag":
            words = {child.tag.rpartition("}")[2]: child.text or "" for child in node}
            tags[words["Key"]] = words.get("Value", "")
    version.tags = tags
    return Reply(200)


def delete_tagging(call: Call) -> Reply:
    """Answer DELETE ?tagging."""
    find_version(call.store.bucket(call.bucket), call.key, call.query.get("versionId", "")).tags = {}
    return Reply(204)


OPERATIONS: dict[str, Operation] = {
    "PutObject": put_object,
    "GetObject": get_object,
    "HeadObject": get_object,
    "DeleteObject": delete_object,
    "CopyObject": copy_object,
    "GetObjectTagging": get_tagging,
    "PutObjectTagging": put_tagging,
    "DeleteObjectTagging": delete_tagging,
}

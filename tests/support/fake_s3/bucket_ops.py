"""The fake's operations on buckets and their listings."""

from __future__ import annotations

import base64
import hashlib
import re
from xml.etree import ElementTree

from tests.support.fake_s3.call import Call, Operation
from tests.support.fake_s3.listings import (
    Page,
    Query,
    Scribe,
    cut_page,
    element,
    iso_time,
    read_number,
    visible_keys,
)
from tests.support.fake_s3.store import Bucket, S3Fault, Version
from tests.support.fake_s3.wire import Reply

_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def list_buckets(call: Call) -> Reply:
    """Answer GET /."""
    rows = (
        f"<Bucket>{element('Name', bucket.name)}{element('CreationDate', iso_time(bucket.created))}</Bucket>"
        for _, bucket in sorted(call.store.buckets.items())
    )
    return call.xml("ListAllMyBucketsResult", "<Owner><ID>fake</ID></Owner>", f"<Buckets>{''.join(rows)}</Buckets>")


def create_bucket(call: Call) -> Reply:
    """Answer PUT /bucket; an own bucket is not created again, which is no error."""
    if not _BUCKET_NAME.fullmatch(call.bucket):
        raise S3Fault(400, "InvalidBucketName", "The specified bucket is not valid")
    if call.bucket not in call.store.buckets:
        bucket = call.store.buckets[call.bucket] = Bucket(call.bucket, call.now)
        bucket.lock = call.header("x-amz-bucket-object-lock-enabled").lower() == "true"
        bucket.versioning = "Enabled" if bucket.lock else ""
    return Reply(200, headers={"Location": f"/{call.bucket}"})


def delete_bucket(call: Call) -> Reply:
    """Answer DELETE /bucket."""
    bucket = call.store.bucket(call.bucket)
    if bucket.versions:
        raise S3Fault(409, "BucketNotEmpty", "The bucket you tried to delete is not empty")
    del call.store.buckets[call.bucket]
    return Reply(204)


def head_bucket(call: Call) -> Reply:
    """Answer HEAD /bucket."""
    call.store.bucket(call.bucket)
    return Reply(200, headers={"x-amz-bucket-region": "us-east-1"})


def get_location(call: Call) -> Reply:
    """Answer GET ?location: nothing is us-east-1."""
    call.store.bucket(call.bucket)
    return call.xml("LocationConstraint")


def get_versioning(call: Call) -> Reply:
    """Answer GET ?versioning."""
    state = call.store.bucket(call.bucket).versioning
    return call.xml("VersioningConfiguration", *([element("Status", state)] if state else []))


def put_versioning(call: Call) -> Reply:
    """Answer PUT ?versioning."""
    bucket = call.store.bucket(call.bucket)
    states = [node.text or "" for node in read_xml(call.body).iter() if node.tag.endswith("Status")]
    if not states or states[0] not in ("Enabled", "Suspended"):
        raise S3Fault(400, "MalformedXML")
    bucket.versioning = states[0]
    return Reply(200)


def read_xml(body: bytes) -> ElementTree.Element:
    """Parse a request body; raises MalformedXML."""
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise S3Fault(400, "MalformedXML", "The XML you provided was not well-formed") from None


def list_v2(call: Call) -> Reply:
    """Answer GET ?list-type=2."""
    if not call.quirks.v2:
        return list_v1(call)
    bucket, query, scribe = _prepare(call)
    token = call.query.get("continuation-token", "")
    start = call.query.get("start-after", "")
    if token:
        query.after, query.from_page = _read_token(call, token), True
    elif call.quirks.start_after != "ignored":
        query.after, query.inclusive = start, call.quirks.start_after == "inclusive"
    page = cut_page(
        visible_keys(bucket, query, tree_order=call.quirks.tree_order), query, rolled_style=call.quirks.style
    )
    tail = [
        *([element("ContinuationToken", token)] if token else []),
        *([element("NextContinuationToken", _make_token(call, page.last))] if page.truncated else []),
        element("KeyCount", len(page.keys) + len(page.groups)),
        *([element("StartAfter", scribe.echo(start))] if start else []),
    ]
    return _page_reply(call, bucket, page, scribe=scribe, tail=tail, owner=call.query.get("fetch-owner") == "true")


def list_v1(call: Call) -> Reply:
    """Answer GET /bucket in the first manner: NextMarker always, as RGW does."""
    bucket, query, scribe = _prepare(call)
    query.after, query.from_page = call.query.get("marker", ""), True
    page = cut_page(
        visible_keys(bucket, query, tree_order=call.quirks.tree_order), query, rolled_style=call.quirks.style
    )
    always = call.quirks.style == "rgw" or query.delimiter
    tail = [
        element("Marker", scribe.echo(query.after)),
        *([element("NextMarker", scribe.echo(page.last))] if page.truncated and always else []),
    ]
    return _page_reply(call, bucket, page, scribe=scribe, tail=tail, owner=True)


def _prepare(call: Call) -> tuple[Bucket, Query, Scribe]:
    bucket = call.store.bucket(call.bucket)
    prefix = call.query.get("prefix", "")
    if call.quirks.refuses_odd_prefixes and "//" in prefix:
        raise S3Fault(400, "XMinioInvalidObjectName", "Object name contains unsupported characters.")
    if call.quirks.refuses_odd_prefixes and {".", ".."} & set(prefix.split("/")):
        raise S3Fault(400, "XMinioInvalidResourceName", "Resource name contains bad components")
    encoded = call.query.get("encoding-type") == "url" and call.quirks.encoding
    limit = read_number(call.query.get("max-keys", ""), "max-keys", 1000)
    query = Query(prefix, call.query.get("delimiter", ""), max_keys=limit)
    query.skips_subtrees, query.hides_below = call.quirks.skips_subtrees, call.quirks.hides_below
    if call.quirks.short_pages:
        query.max_keys = min(limit, call.quirks.short_pages)
    return bucket, query, Scribe(encoded, call.quirks.style)


def _page_reply(call: Call, bucket: Bucket, page: Page, *, scribe: Scribe, tail: list[str], owner: bool) -> Reply:
    keys = page.keys[::-1] if call.quirks.unsorted else page.keys
    versions = [version for key in keys if (version := bucket.current(key))]
    limit = read_number(call.query.get("max-keys", ""), "max-keys", 1000)
    return call.xml(
        "ListBucketResult",
        element("Name", call.bucket),
        element("Prefix", scribe.echo(call.query.get("prefix", ""))),
        element("Delimiter", scribe.echo(call.query.get("delimiter", ""))) if call.query.get("delimiter") else "",
        element("MaxKeys", limit),
        element("IsTruncated", str(page.truncated).lower()),
        *(scribe.contents(version, owner=owner) for version in versions),
        scribe.groups(page.groups),
        *tail,
        element("EncodingType", "url") if scribe.encoded else "",
    )


def _make_token(call: Call, last: str) -> str:
    if call.quirks.private_tokens:
        node = call.exchange.node.index
        return base64.urlsafe_b64encode(f"{node}:{last}".encode()).decode()
    return last


def _read_token(call: Call, token: str) -> str:
    if not call.quirks.private_tokens:
        return token
    node, _, last = base64.urlsafe_b64decode(token).decode().partition(":")
    if node != str(call.exchange.node.index):
        raise S3Fault(400, "InvalidArgument", "The continuation token provided is incorrect")
    return last


def list_versions(call: Call) -> Reply:
    """Answer GET ?versions: the newest first within a key."""
    bucket, query, scribe = _prepare(call)
    key_marker, id_marker = call.query.get("key-marker", ""), call.query.get("version-id-marker", "")
    rows: list[str] = []
    markers: list[str] = []
    groups: list[str] = []
    last: Version | None = None
    truncated = False
    for version, group in _iter_versions(bucket, query, key_marker, id_marker):
        if group and group in groups[-1:]:
            continue
        if len(rows) + len(markers) + len(groups) == query.max_keys:
            truncated = query.max_keys > 0
            break
        last = version
        if group:
            groups.append(group)
        else:
            part = markers if version.marker and call.quirks.markers_apart else rows
            part.append(scribe.version(version, latest=bucket.versions[version.key][0] is version))
    tail = []
    if truncated and last is not None:
        marker = groups[-1] if groups and last.key.startswith(groups[-1]) else last.key
        tail = [element("NextKeyMarker", scribe.echo(marker)), element("NextVersionIdMarker", last.version_id)]
    return call.xml(
        "ListVersionsResult",
        element("Name", call.bucket),
        element("Prefix", scribe.echo(query.prefix)),
        element("KeyMarker", scribe.echo(key_marker)),
        element("VersionIdMarker", id_marker),
        element("MaxKeys", query.max_keys),
        element("IsTruncated", str(truncated).lower()),
        *rows,
        *markers,
        scribe.groups(groups),
        *tail,
        element("EncodingType", "url") if scribe.encoded else "",
    )


def _iter_versions(bucket: Bucket, query: Query, key_marker: str, id_marker: str):  # type: ignore[no-untyped-def]
    skip = query.delimiter and key_marker.endswith(query.delimiter)
    for key in bucket.keys_from(key_marker, inclusive=bool(id_marker)):
        if not key.startswith(query.prefix) or (skip and key.startswith(key_marker)):
            continue
        end = key.find(query.delimiter, len(query.prefix)) if query.delimiter else -1
        group = key[: end + len(query.delimiter)] if end >= 0 else ""
        versions = bucket.versions[key]
        if key == key_marker:
            ids = [version.version_id for version in versions]
            versions = versions[ids.index(id_marker) + 1 :] if id_marker in ids else []
        for version in versions:
            yield version, group


def list_uploads(call: Call) -> Reply:
    """Answer GET ?uploads."""
    bucket, query, scribe = _prepare(call)
    limit = read_number(call.query.get("max-uploads", ""), "max-uploads", 1000)
    marker = (call.query.get("key-marker", ""), call.query.get("upload-id-marker", ""))
    uploads = sorted(bucket.uploads.values(), key=lambda upload: (upload.key, upload.upload_id))
    if call.quirks.uploads_by_node:
        node = call.exchange.node.index
        uploads = [one for one in uploads if one.key == query.prefix or (one.node == node and not query.prefix)]
    found = [
        upload
        for upload in uploads
        if upload.key.startswith(query.prefix)
        and ((upload.key, upload.upload_id) > marker if marker[1] else upload.key > marker[0] or not marker[0])
    ]
    page, truncated = found[:limit], len(found) > limit > 0
    tail = []
    if truncated:
        tail = [element("NextKeyMarker", scribe.echo(page[-1].key)), element("NextUploadIdMarker", page[-1].upload_id)]
    return call.xml(
        "ListMultipartUploadsResult",
        element("Bucket", call.bucket),
        *tail,
        element("MaxUploads", limit),
        "" if call.quirks.bare_uploads else element("IsTruncated", str(truncated).lower()),
        *(scribe.upload(upload) for upload in page),
        element("EncodingType", "url") if scribe.encoded else "",
    )


def delete_objects(call: Call) -> Reply:
    """Answer POST ?delete, at most 1000 keys."""
    from tests.support.fake_s3.object_ops import remove_one

    if not call.quirks.batch_delete:
        raise S3Fault(*call.quirks.refusal, "A header you provided implies functionality that is not implemented")
    body = call.body
    _check_batch_digest(call, body)
    bucket = call.store.bucket(call.bucket)
    root = read_xml(body)
    quiet = any(node.tag.endswith("Quiet") and node.text == "true" for node in root)
    wanted = [_read_target(node) for node in root if node.tag.endswith("Object")]
    if not 0 < len(wanted) <= 1000:
        raise S3Fault(400, "MalformedXML", "between 1 and 1000 keys")
    rows = []
    for key, version_id in wanted:
        remove_one(call, bucket, key, version_id)
        rows.append(f"<Deleted>{element('Key', key)}{element('VersionId', version_id) if version_id else ''}</Deleted>")
    return call.xml("DeleteResult", *([] if quiet else rows))


def _check_batch_digest(call: Call, body: bytes) -> None:
    sums = [name for name in call.exchange.headers if name.startswith("x-amz-checksum-")]
    given = call.header("content-md5")
    if call.quirks.md5_needed and not given and not sums:
        raise S3Fault(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
    if given and base64.b64decode(given) != hashlib.md5(body, usedforsecurity=False).digest():
        raise S3Fault(400, "BadDigest")


def _read_target(node: ElementTree.Element) -> tuple[str, str]:
    words = {child.tag.rpartition("}")[2]: child.text or "" for child in node}
    return words.get("Key", ""), words.get("VersionId", "")


OPERATIONS: dict[str, Operation] = {
    "ListBuckets": list_buckets,
    "CreateBucket": create_bucket,
    "DeleteBucket": delete_bucket,
    "HeadBucket": head_bucket,
    "GetBucketLocation": get_location,
    "GetBucketVersioning": get_versioning,
    "PutBucketVersioning": put_versioning,
    "ListObjectsV2": list_v2,
    "ListObjects": list_v1,
    "ListObjectVersions": list_versions,
    "ListMultipartUploads": list_uploads,
    "DeleteObjects": delete_objects,
}

"""The fake's multipart uploads."""

from __future__ import annotations

import base64
import hashlib
import itertools

from s3pool.body import CHECKSUM_PREFIX, CRC_BYTES
from tests.support.fake_s3.bucket_ops import read_xml
from tests.support.fake_s3.call import Call, Operation
from tests.support.fake_s3.listings import element, iso_time, read_number
from tests.support.fake_s3.object_ops import (
    check_key,
    check_lock,
    check_write_conditions,
    copy_source,
    digest_of,
    read_range,
    read_tagging,
    receive,
    version_header,
)
from tests.support.fake_s3.store import Bucket, Part, S3Fault, Upload, Version, md5_hex
from tests.support.fake_s3.wire import Reply

MAX_PART_NUMBER = 10_000
ALGORITHM = "x-amz-checksum-algorithm"


def create(call: Call) -> Reply:
    """Answer POST ?uploads."""
    bucket = call.store.bucket(call.bucket)
    check_key(call.key)
    algorithm = call.header(ALGORITHM).lower() if call.quirks.keeps_checksums else ""
    upload = Upload(
        call.store.new_id("upload"),
        call.key,
        call.now,
        call.stored_headers(),
        read_tagging(call.header("x-amz-tagging")),
        call.header("x-amz-storage-class", "STANDARD"),
        algorithm,
        _checksum_type(algorithm, call.header("x-amz-checksum-type")),
        call.exchange.node.index,
    )
    bucket.uploads[upload.upload_id] = upload
    reply = call.xml(
        "InitiateMultipartUploadResult",
        element("Bucket", call.bucket),
        element("Key", call.key),
        element("UploadId", upload.upload_id),
    )
    reply.headers.update({ALGORITHM: algorithm.upper()} if algorithm else {})
    return reply


def _checksum_type(algorithm: str, wanted: str) -> str:
    """Give the type of an upload's checksum; each has one that S3 takes without being asked."""
    is_crc = algorithm in CRC_BYTES
    if (wanted == "FULL_OBJECT" and not is_crc) or (wanted == "COMPOSITE" and algorithm == "crc64nvme"):
        raise S3Fault(400, "InvalidRequest", f"The {wanted} checksum type cannot be used with {algorithm}.")
    return (wanted or ("FULL_OBJECT" if algorithm == "crc64nvme" else "COMPOSITE")) if algorithm else ""


def find_upload(call: Call) -> tuple[Bucket, Upload]:
    """Give the upload that a request belongs to; raises NoSuchUpload."""
    bucket = call.store.bucket(call.bucket)
    upload = bucket.uploads.get(call.query.get("uploadId", ""))
    if upload is None or upload.key != call.key:
        raise S3Fault(404, "NoSuchUpload", "The specified multipart upload does not exist.")
    return bucket, upload


def upload_part(call: Call) -> Reply:
    """Answer PUT ?partNumber&uploadId."""
    bucket, upload = find_upload(call)
    check_lock(call, bucket)
    if upload.checksum_algorithm and not call.header(CHECKSUM_PREFIX + upload.checksum_algorithm):
        raise S3Fault(400, "InvalidRequest", f"The part has no {upload.checksum_algorithm} checksum.")
    part = _store_part(call, upload, receive(call))
    headers = {"ETag": f'"{part.etag}"'}
    if upload.checksum_algorithm:  # what clients repeat in Complete
        name = CHECKSUM_PREFIX + upload.checksum_algorithm
        headers[name] = call.header(name)
    return Reply(200, headers=headers)


def upload_part_copy(call: Call) -> Reply:
    """Answer PUT ?partNumber&uploadId with x-amz-copy-source."""
    _, upload = find_upload(call)
    body = copy_source(call).body
    span = read_range(call.header("x-amz-copy-source-range"), len(body))
    part = _store_part(call, upload, body if span is None else body[span[0] : span[1] + 1])
    return call.xml(
        "CopyPartResult", element("LastModified", iso_time(part.mtime)), f"<ETag>&quot;{part.etag}&quot;</ETag>"
    )


def _store_part(call: Call, upload: Upload, body: bytes) -> Part:
    text = call.query["partNumber"]
    if not text.isdigit() or not 1 <= int(text) <= MAX_PART_NUMBER:
        raise S3Fault(400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    part = upload.parts[int(text)] = Part(int(text), body, md5_hex(body), call.now)
    return part


def complete(call: Call) -> Reply:
    """Answer POST ?uploadId."""
    bucket = call.store.bucket(call.bucket)
    upload_id = call.query["uploadId"]
    if upload_id in bucket.completed and call.quirks.repeat_complete:
        return _complete_reply(call, bucket.completed[upload_id])
    _, upload = find_upload(call)
    parts = _chosen_parts(call, upload)
    check_write_conditions(call, bucket)
    digests = b"".join(bytes.fromhex(part.etag) for part in parts) + b"chunks" * call.quirks.own_multipart_etags
    joined = hashlib.md5(digests, usedforsecurity=False).hexdigest()
    version = Version(
        call.key,
        call.store.version_id_for(bucket),
        call.now,
        b"".join(part.body for part in parts),
        f"{joined}-{len(parts)}",
        upload.headers | _checksum_headers(upload, parts),
        upload.tags,
        upload.storage_class,
    )
    bucket.put(version)
    del bucket.uploads[upload_id]
    bucket.completed[upload_id] = version.etag
    reply = _complete_reply(call, version.etag)
    reply.headers.update(version_header(bucket, version))
    return reply


def _checksum_headers(upload: Upload, parts: list[Part]) -> dict[str, str]:
    """Give the checksum of the object that parts make."""
    algorithm = upload.checksum_algorithm
    if not algorithm:
        return {}
    if upload.checksum_type == "FULL_OBJECT":
        value = base64.b64encode(digest_of(algorithm, b"".join(part.body for part in parts))).decode()
    else:
        joined = b"".join(digest_of(algorithm, part.body) for part in parts)
        value = f"{base64.b64encode(digest_of(algorithm, joined)).decode()}-{len(parts)}"
    return {CHECKSUM_PREFIX + algorithm: value, "x-amz-checksum-type": upload.checksum_type}


def _complete_reply(call: Call, etag: str) -> Reply:
    shown = "" if call.quirks.empty_complete_etag else f"&quot;{etag}&quot;"
    return call.xml(
        "CompleteMultipartUploadResult",
        element("Location", f"{call.exchange.node.url}/{call.bucket}/{call.key}"),
        element("Bucket", call.bucket),
        element("Key", call.key),
        f"<ETag>{shown}</ETag>",
    )


def _chosen_parts(call: Call, upload: Upload) -> list[Part]:
    chosen = []
    for node in read_xml(call.body):
        words = {child.tag.rpartition("}")[2]: child.text or "" for child in node}
        part = upload.parts.get(int(words.get("PartNumber", "0")))
        if part is None or words.get("ETag", "").strip('"') != part.etag:
            raise S3Fault(400, "InvalidPart", "One or more of the specified parts could not be found.")
        _check_told(upload, part, words)
        chosen.append(part)
    if not chosen:
        raise S3Fault(400, "MalformedXML")
    if any(before.number >= after.number for before, after in itertools.pairwise(chosen)):
        raise S3Fault(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
    if any(len(part.body) < call.quirks.min_part_bytes for part in chosen[:-1]):
        raise S3Fault(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
    return chosen


def _check_told(upload: Upload, part: Part, words: dict[str, str]) -> None:
    """Hold the checksum that Complete tells of a part against the part."""
    told = words.get(f"Checksum{upload.checksum_algorithm.upper()}", "")
    if not told and upload.checksum_type == "COMPOSITE":
        raise S3Fault(400, "InvalidRequest", "The complete request must include the checksum for each part.")
    if told and base64.b64decode(told) != digest_of(upload.checksum_algorithm, part.body):
        raise S3Fault(400, "InvalidPart", "The checksum of a part is another one.")


def abort(call: Call) -> Reply:
    """Answer DELETE ?uploadId."""
    bucket, upload = find_upload(call)
    del bucket.uploads[upload.upload_id]
    return Reply(204)


def list_parts(call: Call) -> Reply:
    """Answer GET ?uploadId."""
    _, upload = find_upload(call)
    limit = read_number(call.query.get("max-parts", ""), "max-parts", 1000)
    if call.quirks.short_pages:
        limit = min(limit, call.quirks.short_pages)
    marker = int(call.query.get("part-number-marker", "") or 0)
    parts = sorted((part for part in upload.parts.values() if part.number > marker), key=lambda part: part.number)
    page = parts[:limit]
    rows = (
        f"<Part>{element('PartNumber', part.number)}{element('LastModified', iso_time(part.mtime))}"
        f"<ETag>&quot;{part.etag}&quot;</ETag>{element('Size', len(part.body))}</Part>"
        for part in page
    )
    return call.xml(
        "ListPartsResult",
        element("Bucket", call.bucket),
        element("Key", call.key),
        element("UploadId", upload.upload_id),
        element("PartNumberMarker", marker),
        element("NextPartNumberMarker", page[-1].number if page else 0),
        element("MaxParts", limit),
        element("IsTruncated", str(len(parts) > limit).lower()),
        *rows,
    )


OPERATIONS: dict[str, Operation] = {
    "CreateMultipartUpload": create,
    "UploadPart": upload_part,
    "UploadPartCopy": upload_part_copy,
    "CompleteMultipartUpload": complete,
    "AbortMultipartUpload": abort,
    "ListParts": list_parts,
}

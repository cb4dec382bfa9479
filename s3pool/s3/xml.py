"""Read S3's XML answers strictly, and build the bodies of requests.

Whatever is not the whole, valid document that was asked for is a ProtocolError: a listing
that is cut or empty by accident must never look like the end of a listing. Text is never
trimmed. Names are decoded only when the answer itself says ``EncodingType`` ``url``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import unquote_plus

from s3pool.errors import ProtocolError
from s3pool.model import BucketInfo, ListPage, ObjectInfo, PartInfo, UploadInfo, format_iso_time, parse_iso_time
from s3pool.s3.results import DeleteFailure, UploadPage
from s3pool.s3.xmltree import Element, parse

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
ISO_MILLIS_LENGTH = len("2026-01-22T20:44:33.219Z")
TRUTH = {"true": True, "false": False}
# XML readers turn a raw CR into LF, so it must go out as a reference.
ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
)
CHECKSUM_ELEMENTS = {
    "x-amz-checksum-crc32": "ChecksumCRC32",
    "x-amz-checksum-crc32c": "ChecksumCRC32C",
    "x-amz-checksum-crc64nvme": "ChecksumCRC64NVME",
    "x-amz-checksum-sha1": "ChecksumSHA1",
    "x-amz-checksum-sha256": "ChecksumSHA256",
}

Decode = Callable[[str], str]


def parse_list_page(body: bytes, *, v1: bool = False) -> ListPage:
    """Read a page of ListObjectsV2 or of its predecessor.

    ``v1`` says that V1 was asked for; an answer that shows V1's fields is taken for V1 in any
    case, and its ``v1`` says so. V1 without a NextMarker goes on after its last name.

    Raises:
        ProtocolError: it is not a complete ListBucketResult, or it is truncated and does not
            say where to go on.
    """
    root = _read(body, "ListBucketResult")
    decode = _decoder(root)
    objects = tuple(_object(entry.fields(), decode) for entry in root.all("Contents"))
    prefixes = _prefixes(root, decode)
    fields = root.fields()
    is_v1 = v1 or (
        ("Marker" in fields or "NextMarker" in fields) and not fields.keys() & {"KeyCount", "NextContinuationToken"}
    )
    truncated = _flag(root, "IsTruncated")
    token = _next_marker(fields, objects, prefixes, decode) if is_v1 else fields.get("NextContinuationToken", "")
    if truncated and not token:
        raise ProtocolError("a list page says that more follows, but not where")
    return ListPage(
        objects,
        prefixes,
        truncated,
        next_token=token if truncated else "",
        max_keys=_number(fields.get("MaxKeys", "0"), "MaxKeys"),
        v1=is_v1,
    )


def _next_marker(
    fields: Mapping[str, str], objects: tuple[ObjectInfo, ...], prefixes: tuple[str, ...], decode: Decode
) -> str:
    last = max([*(entry.key for entry in objects[-1:]), *prefixes[-1:]], default="")
    return _decode_marker(fields.get("NextMarker", ""), (last,), decode) or last


def _decode_marker(text: str, names: Iterable[str], decode: Decode) -> str:
    """Decode a marker, unless it is one of the page's last names as it stands.

    AWS and MinIO encode markers like keys, RGW does not, and nothing in the answer tells.
    """
    return text if text in names else decode(text)


def parse_versions_page(body: bytes) -> ListPage:
    """Read a page of ListObjectVersions, versions and delete markers in the server's order.

    ``next_token`` is the next key marker and ``next_version_id`` the next version id marker.

    Raises:
        ProtocolError: it is not a complete ListVersionsResult.
    """
    root = _read(body, "ListVersionsResult")
    decode = _decoder(root)
    objects = tuple(_version(entry, decode) for entry in root.children if entry.name in ("Version", "DeleteMarker"))
    prefixes = _prefixes(root, decode)
    truncated = _flag(root, "IsTruncated")
    last_names = (*(entry.key for entry in objects[-1:]), *prefixes[-1:])
    key_marker = _decode_marker(root.text_of("NextKeyMarker"), last_names, decode)
    if truncated and not key_marker:
        raise ProtocolError("a page of versions says that more follows, but not where")
    return ListPage(
        objects,
        prefixes,
        truncated,
        next_token=key_marker if truncated else "",
        next_version_id=root.text_of("NextVersionIdMarker") if truncated else "",
        max_keys=_number(root.text_of("MaxKeys", "0"), "MaxKeys"),
    )


def parse_uploads_page(body: bytes) -> UploadPage:
    """Read a page of ListMultipartUploads.

    Raises:
        ProtocolError: it is not a complete ListMultipartUploadsResult.
    """
    root = _read(body, "ListMultipartUploadsResult")
    decode = _decoder(root)
    uploads = tuple(_upload(entry.fields(), decode) for entry in root.all("Upload"))
    truncated = _flag(root, "IsTruncated")
    last_names = [entry.key for entry in uploads[-1:]]
    key_marker = _decode_marker(root.text_of("NextKeyMarker"), last_names, decode)
    if truncated and not key_marker:
        raise ProtocolError("a page of uploads says that more follows, but not where")
    return UploadPage(
        uploads,
        next_key_marker=key_marker if truncated else "",
        next_upload_id_marker=root.text_of("NextUploadIdMarker") if truncated else "",
        truncated=truncated,
        prefixes=_prefixes(root, decode),
    )


def parse_parts(body: bytes) -> tuple[tuple[PartInfo, ...], int, bool]:
    """Read a page of ListParts: the parts, the next part number marker, whether more follow.

    Raises:
        ProtocolError: it is not a complete ListPartsResult.
    """
    root = _read(body, "ListPartsResult", alias="ListPartsResponse")
    parts = tuple(
        PartInfo(
            _number(_required(entry.fields(), "PartNumber"), "PartNumber"),
            _unquote(_required(entry.fields(), "ETag")),
            _number(_required(entry.fields(), "Size"), "Size"),
        )
        for entry in root.all("Part")
    )
    truncated = _flag(root, "IsTruncated")
    return parts, _number(root.text_of("NextPartNumberMarker") or "0", "NextPartNumberMarker"), truncated


def parse_buckets(body: bytes) -> tuple[tuple[BucketInfo, ...], str]:
    """Read an answer of ListBuckets: the buckets and the token of the next page, "" at the end.

    Raises:
        ProtocolError: it is not a ListAllMyBucketsResult.
    """
    root = _read(body, "ListAllMyBucketsResult")
    buckets = tuple(
        BucketInfo(_required(entry.fields(), "Name"), _iso_millis(entry.text_of("CreationDate")))
        for holder in root.all("Buckets")
        for entry in holder.all("Bucket")
    )
    return buckets, root.text_of("ContinuationToken")


def parse_error(body: bytes) -> tuple[str, str, str, str]:
    """Read an error's code, message, resource and request id; "" for what is not there.

    Never raises: a proxy's HTML page or a cut body is no reason to lose the status.
    """
    try:
        root = parse(body)
    except ProtocolError:
        return "", "", "", ""
    error = root if root.name == "Error" else next(root.all("Error"), None)
    if error is None:
        return "", "", "", ""
    fields = error.fields()
    request_id = fields.get("RequestId", "") or root.text_of("RequestId")
    return fields.get("Code", ""), fields.get("Message", ""), fields.get("Resource", ""), request_id


def is_error(body: bytes) -> bool:
    """Say whether a body is an <Error> document, which S3 may send with status 200."""
    if b"<Error" not in body:
        return False
    try:
        return parse(body).name in ("Error", "ErrorResponse")
    except ProtocolError:
        return False


def parse_delete_result(body: bytes) -> tuple[DeleteFailure, ...]:
    """Read which keys of a batch were not deleted.

    Raises:
        ProtocolError: it is not a DeleteResult.
    """
    root = _read(body, "DeleteResult")
    return tuple(
        DeleteFailure(
            fields.get("Key", ""), fields.get("VersionId", ""), fields.get("Code", ""), fields.get("Message", "")
        )
        for fields in (entry.fields() for entry in root.all("Error"))
    )


def parse_copy_result(body: bytes, *, part: bool = False) -> tuple[str, str]:
    """Read the ETag and the time of modification of a copied object or part.

    Raises:
        ProtocolError: it is not a CopyObjectResult or CopyPartResult.
    """
    fields = _read(body, "CopyPartResult" if part else "CopyObjectResult").fields()
    return _unquote(fields.get("ETag", "")), _iso_millis(fields.get("LastModified", ""))


def parse_initiate(body: bytes) -> str:
    """Read the id of a new multipart upload.

    Raises:
        ProtocolError: there is none.
    """
    return _required(_read(body, "InitiateMultipartUploadResult").fields(), "UploadId")


def parse_complete(body: bytes) -> str:
    """Read the ETag of a completed upload; "" from servers that leave it out.

    Raises:
        ProtocolError: it is not a CompleteMultipartUploadResult.
    """
    return _unquote(_read(body, "CompleteMultipartUploadResult").text_of("ETag"))


def parse_versioning(body: bytes) -> str:
    """Read a bucket's versioning: "Enabled", "Suspended", or "" when it never had any.

    Raises:
        ProtocolError: it is not a VersioningConfiguration.
    """
    return _read(body, "VersioningConfiguration", alias="GetBucketVersioningResponse").text_of("Status")


def parse_location(body: bytes) -> str:
    """Read a bucket's region; empty means us-east-1, as S3 defines it.

    Raises:
        ProtocolError: it is not a LocationConstraint.
    """
    root = _read(body, "LocationConstraint")
    return root.text or root.text_of("LocationConstraint") or "us-east-1"


def parse_tags(body: bytes) -> dict[str, str]:
    """Read the tags of an object or a bucket.

    Raises:
        ProtocolError: it is not a Tagging document.
    """
    root = _read(body, "Tagging")
    return {tag.text_of("Key"): tag.text_of("Value") for holder in root.all("TagSet") for tag in holder.all("Tag")}


def build_delete(keys: Iterable[tuple[str, str]]) -> bytes:
    """Write a quiet batch delete of pairs of key and version id, "" for none."""
    return _document("Delete", _delete_items(keys))


def _delete_items(keys: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield "<Quiet>true</Quiet>"
    for key, version_id in keys:
        version = f"<VersionId>{_escape(version_id)}</VersionId>" if version_id else ""
        yield f"<Object><Key>{_escape(key)}</Key>{version}</Object>"


def build_complete(
    parts: Iterable[tuple[int, str]], *, checksums: Mapping[int, tuple[str, str]] | None = None
) -> bytes:
    """Write the parts of an upload, as pairs of number and ETag, in the order given.

    ``checksums`` maps a part number to the header's name and value that its upload carried.
    """
    return _document("CompleteMultipartUpload", (_complete_part(*part, checksums or {}) for part in parts))


def _complete_part(number: int, etag: str, checksums: Mapping[int, tuple[str, str]]) -> str:
    checksum = ""
    if number in checksums:
        header, value = checksums[number]
        checksum = f"<{CHECKSUM_ELEMENTS[header]}>{_escape(value)}</{CHECKSUM_ELEMENTS[header]}>"
    return f"<Part><ETag>&quot;{_escape(etag)}&quot;</ETag><PartNumber>{number}</PartNumber>{checksum}</Part>"


def build_create_bucket(region: str) -> bytes:
    """Write where a new bucket shall be; nothing for us-east-1, which S3 takes only unnamed."""
    if region in ("", "us-east-1"):
        return b""
    return _document("CreateBucketConfiguration", [f"<LocationConstraint>{_escape(region)}</LocationConstraint>"])


def build_versioning(*, enabled: bool) -> bytes:
    """Write a bucket's versioning state."""
    return _document("VersioningConfiguration", [f"<Status>{'Enabled' if enabled else 'Suspended'}</Status>"])


def build_tags(tags: Mapping[str, str]) -> bytes:
    """Write a set of tags."""
    items = (f"<Tag><Key>{_escape(key)}</Key><Value>{_escape(value)}</Value></Tag>" for key, value in tags.items())
    return _document("Tagging", ["<TagSet>", *items, "</TagSet>"])


def _document(name: str, items: Iterable[str]) -> bytes:
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="{NAMESPACE}">{"".join(items)}</{name}>'
    return text.encode("utf-8", "surrogateescape")


def _escape(text: str) -> str:
    return text.translate(ESCAPES)


def _read(body: bytes, name: str, *, alias: str = "") -> Element:
    """Parse a document and check its root; some servers name a root after the operation."""
    root = parse(body)
    if root.name not in (name, alias):
        raise ProtocolError(f"the answer is a {root.name}, not a {name}")
    return root


def _decoder(root: Element) -> Decode:
    encoding = root.text_of("EncodingType")
    if encoding == "url":
        return decode_name
    if encoding:
        raise ProtocolError(f"the names are encoded in an unknown way: {encoding}")
    return _as_it_is


def decode_name(text: str) -> str:
    """Undo ``encoding-type=url``: ``+`` is a blank, ``%XX`` a byte."""
    return unquote_plus(text, "utf-8", "surrogateescape") if "%" in text or "+" in text else text


def _as_it_is(text: str) -> str:
    return text


def _object(fields: Mapping[str, str], decode: Decode) -> ObjectInfo:
    return ObjectInfo(
        decode(_required(fields, "Key")),
        _number(_required(fields, "Size"), "Size"),
        _iso_millis(_required(fields, "LastModified")),
        etag=_unquote(fields.get("ETag", "")),
        storage_class=fields.get("StorageClass") or "STANDARD",
    )


def _version(entry: Element, decode: Decode) -> ObjectInfo:
    fields = entry.fields()
    is_marker = entry.name == "DeleteMarker"
    return ObjectInfo(
        decode(_required(fields, "Key")),
        0 if is_marker else _number(_required(fields, "Size"), "Size"),
        _iso_millis(_required(fields, "LastModified")),
        etag="" if is_marker else _unquote(fields.get("ETag", "")),
        storage_class=fields.get("StorageClass") or "STANDARD",
        version_id=_required(fields, "VersionId"),
        is_latest=_truth(_required(fields, "IsLatest"), "IsLatest"),
        is_delete_marker=is_marker,
    )


def _upload(fields: Mapping[str, str], decode: Decode) -> UploadInfo:
    return UploadInfo(
        decode(_required(fields, "Key")),
        _required(fields, "UploadId"),
        _iso_millis(fields.get("Initiated", "")),
        storage_class=fields.get("StorageClass") or "STANDARD",
    )


def _prefixes(root: Element, decode: Decode) -> tuple[str, ...]:
    # Some servers put several prefixes into one CommonPrefixes.
    prefixes = tuple(decode(prefix.text) for holder in root.all("CommonPrefixes") for prefix in holder.all("Prefix"))
    if "" in prefixes:
        raise ProtocolError("an entry has no Prefix")
    return prefixes


def _required(fields: Mapping[str, str], name: str) -> str:
    text = fields.get(name, "")
    if not text:
        raise ProtocolError(f"an entry has no {name}")
    return text


def _number(text: str, name: str) -> int:
    # isdecimal alone would admit the digits of other scripts.
    if not (text.isascii() and text.isdecimal()):
        raise ProtocolError(f"{name} is no number: {text!r}")
    return int(text)


def _flag(root: Element, name: str) -> bool:
    texts = [element.text for element in root.all(name)]
    if len(texts) != 1:
        raise ProtocolError(f"a list page must say {name} once, not {len(texts)} times")
    return _truth(texts[0], name)


def _truth(text: str, name: str) -> bool:
    if text not in TRUTH:
        raise ProtocolError(f"{name} is neither true nor false: {text!r}")
    return TRUTH[text]


def _unquote(etag: str) -> str:
    return etag.strip('"')


def _iso_millis(text: str) -> str:
    """Give a time stamp in the model's form; "" stays ""."""
    if (len(text) == ISO_MILLIS_LENGTH and text[-1] == "Z") or not text:
        return text
    try:
        return format_iso_time(parse_iso_time(text.removesuffix("+00:00")))
    except ValueError as exc:
        raise ProtocolError(f"not a time stamp: {text!r}") from exc

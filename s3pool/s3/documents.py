"""Read S3's XML answers strictly, and build the bodies of requests.

Whatever is not the whole, valid document that was asked for is a ProtocolError. Text is
never trimmed. The pages of listings have their own module, ``pages``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from s3pool.errors import ProtocolError
from s3pool.model import BucketInfo, PartInfo, UploadInfo
from s3pool.record import dataclass
from s3pool.s3.xml import MAX_ERROR_BYTES, bare_etag, flag, iso_millis, number, parse, read_root, required

NULL_VERSION = "null"  # the version of a bucket that keeps none; some servers leave it out
GONE_CODES = frozenset(("NoSuchKey", "NoSuchVersion"))  # what is not there needs no deletion
NOT_NAMED = ("NotDeleted", "the server named neither an error nor a deletion of it")
PLAUSIBLE_ETAG = re.compile(r"[!-;=?-~]+")  # visible ASCII without angle brackets

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
# XML readers turn a raw CR into LF, so it must go out as a reference.
ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
)
REGION_STATUS = frozenset((400, 403))  # what a request that is signed for another region is answered with
# An element as AWS, MinIO and Garage send it, or the end of MinIO's and Garage's messages.
REGION = re.compile(
    rb"<Region>([A-Za-z0-9-]{1,64})</Region>"
    rb"|expect(?:ed|ing):? (?:'|&#39;|&apos;)(?:[0-9]{8}/)?([A-Za-z0-9-]{1,64})(?:'|&#39;|&apos;|/s3/aws4_request)"
)
CHECKSUM_ELEMENTS = {
    "x-amz-checksum-crc32": "ChecksumCRC32",
    "x-amz-checksum-crc32c": "ChecksumCRC32C",
    "x-amz-checksum-crc64nvme": "ChecksumCRC64NVME",
    "x-amz-checksum-sha1": "ChecksumSHA1",
    "x-amz-checksum-sha256": "ChecksumSHA256",
}


class PutResult(NamedTuple):
    """A stored object: its ETag without quotes; "" only after a Complete, where the server left it out.

    ``version_id`` is "" in a bucket that keeps no versions. With ``opaque`` the ETag is no
    digest of the bytes, though it may look like one: so it is under KMS and customer keys.
    """

    etag: str
    version_id: str = ""
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class DeleteFailure:
    """One key of a batch that was not deleted, and why."""

    key: str
    version_id: str
    code: str
    detail: str
    request_id: str = ""
    endpoint: str = ""


class DeleteReply(NamedTuple):
    """What a server told of a batch: the errors, and the keys that it named as deleted."""

    failures: tuple[DeleteFailure, ...]
    deleted: frozenset[str]

    def failures_of(self, asked: Iterable[tuple[str, str]]) -> tuple[DeleteFailure, ...]:
        """Return one failure for each pair of key and version id that was not deleted.

        An error is matched by its key first, because servers spell the version as "null", as
        nothing, or as the one that they met: with several versions of a key asked for, an error
        that names none of them counts for all. An error of an unknown key counts for the whole
        batch. A reply that names what was deleted, though it was asked not to, names all of that.
        """
        versions: dict[str, list[str]] = {}
        for key, version_id in asked:
            versions.setdefault(key, []).append(version_id)
        found: dict[tuple[str, str], DeleteFailure] = {}
        gone: set[tuple[str, str]] = set()
        for failure in self.failures:
            meant = _pairs_meant(failure, versions)
            if failure.code in GONE_CODES and failure.key in versions:
                gone.update(meant)
                continue
            for pair in meant:
                found.setdefault(pair, DeleteFailure(*pair, failure.code, failure.detail))
        for key in versions.keys() - self.deleted if self.deleted else ():
            for pair in {(key, version_id) for version_id in versions[key]} - gone:
                found.setdefault(pair, DeleteFailure(*pair, *NOT_NAMED))
        return tuple(found.values())


def _pairs_meant(failure: DeleteFailure, versions: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    if failure.key not in versions:
        return [(key, version_id) for key, ids in versions.items() for version_id in ids]
    ids, told = versions[failure.key], failure.version_id
    meant = [one for one in ids if one == told] or [one for one in ids if {one, told} <= {"", NULL_VERSION}]
    return [(failure.key, version_id) for version_id in meant or ids]


@dataclass(frozen=True, slots=True)
class UploadPage:
    """One page of the multipart uploads that were neither completed nor aborted."""

    uploads: tuple[UploadInfo, ...]
    next_key_marker: str
    next_upload_id_marker: str
    truncated: bool
    prefixes: tuple[str, ...] = ()
    is_partial: bool = False  # the node told only of uploads that it began, or of one key


def parse_parts(body: bytes) -> tuple[tuple[PartInfo, ...], int, bool]:
    """Read a page of ListParts: the parts, the next part number marker, whether more follow."""
    root = read_root(body, "ListPartsResult", alias="ListPartsResponse")
    parts = []
    for fields in (entry.fields() for entry in root.all("Part")):
        part_number, size = (number(required(fields, name), name) for name in ("PartNumber", "Size"))
        parts.append(PartInfo(part_number, bare_etag(required(fields, "ETag")), size))
    marker = number(root.text_of("NextPartNumberMarker") or "0", "NextPartNumberMarker")
    return tuple(parts), marker, flag(root, "IsTruncated")


def parse_buckets(body: bytes) -> tuple[tuple[BucketInfo, ...], str]:
    """Read an answer of ListBuckets: the buckets and the token of the next page, "" at the end."""
    root = read_root(body, "ListAllMyBucketsResult")
    buckets = tuple(
        BucketInfo(required(entry.fields(), "Name"), iso_millis(entry.text_of("CreationDate")))
        for holder in root.all("Buckets")
        for entry in holder.all("Bucket")
    )
    return buckets, root.text_of("ContinuationToken")


def parse_error(body: bytes) -> tuple[str, str, str, str]:
    """Read an error's code, message, resource and request id; "" for what is not there.

    Never raises: a proxy's HTML page or a cut body is no reason to lose the status.
    """
    try:
        root = parse(body if len(body) <= MAX_ERROR_BYTES else b"")
    except ProtocolError:
        return "", "", "", ""
    error = root if root.name == "Error" else next(root.all("Error"), None)
    if error is None:
        return "", "", "", ""
    fields = error.fields()
    request_id = fields.get("RequestId", "") or root.text_of("RequestId")
    return fields.get("Code", ""), fields.get("Message", ""), fields.get("Resource", ""), request_id


def told_region(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """Return the region for which a server wants its requests signed, as a refusal tells it; else ""."""
    if status not in REGION_STATUS:
        return ""
    told = headers.get("x-amz-bucket-region", "").encode()  # MinIO's description stands in for the body after HEAD
    text = b"<Region>%s</Region>" % told if told else body or headers.get("x-minio-error-desc", "").encode()
    found = REGION.search(text)
    return (found[1] or found[2]).decode() if found else ""


def parse_delete_result(body: bytes) -> DeleteReply:
    """Read which keys of a batch were deleted, and which were not."""
    root = read_root(body, "DeleteResult")
    texts = ([entry.text_of(name) for name in ("Key", "VersionId", "Code", "Message")] for entry in root.all("Error"))
    failures = tuple(DeleteFailure(*each) for each in texts)
    return DeleteReply(failures, frozenset(entry.text_of("Key") for entry in root.all("Deleted")))


class UploadId(str):
    """The id of an upload, and the algorithm of the checksums that the server will keep of it."""

    algorithm = ""


def parse_initiate(body: bytes) -> str:
    """Read the id of a new multipart upload."""
    root = read_root(body, "InitiateMultipartUploadResult", alias="InitiateMultipartUpload")
    return required(root.fields(), "UploadId")


def parse_complete(body: bytes) -> str:
    """Read the ETag of a completed upload; "" from servers that leave it out."""
    return bare_etag(read_root(body, "CompleteMultipartUploadResult").text_of("ETag"))


def parse_versioning(body: bytes) -> str:
    """Read a bucket's versioning: "Enabled", "Suspended", or "" when it never had any."""
    return read_root(body, "VersioningConfiguration", alias="GetBucketVersioningResponse").text_of("Status")


def parse_tags(body: bytes) -> dict[str, str]:
    """Read the tags of an object or a bucket, in the order of their names."""
    root = read_root(body, "Tagging")
    tags = [(tag.text_of("Key"), tag.text_of("Value")) for holder in root.all("TagSet") for tag in holder.all("Tag")]
    return dict(sorted(tags))


def build_delete(keys: Iterable[tuple[str, str]]) -> bytes:
    """Write a quiet batch delete of pairs of key and version id, "" for none."""
    items = ["<Quiet>true</Quiet>"]
    for key, version_id in keys:
        version = f"<VersionId>{escape_text(version_id)}</VersionId>" if version_id else ""
        items.append(f"<Object><Key>{escape_text(key)}</Key>{version}</Object>")
    return build_document("Delete", items)


def build_complete(
    parts: Iterable[tuple[int, str]], *, checksums: Mapping[int, tuple[str, str]] | None = None
) -> bytes:
    """Write the parts of an upload, as pairs of number and ETag, in the order given.

    ``checksums`` maps a part number to the header's name and value that its upload carried.
    """
    items = []
    for number_, etag in parts:
        header, value = (checksums or {}).get(number_, ("", ""))
        name = CHECKSUM_ELEMENTS.get(header, "")
        checksum = f"<{name}>{escape_text(value)}</{name}>" if name else ""
        place = f"<PartNumber>{number_}</PartNumber>{checksum}"
        items.append(f"<Part><ETag>&quot;{escape_text(etag)}&quot;</ETag>{place}</Part>")
    return build_document("CompleteMultipartUpload", items)


def build_create_bucket(region: str) -> bytes:
    """Write where a new bucket shall be; nothing for us-east-1, which S3 takes only unnamed."""
    if region in ("", "us-east-1"):
        return b""
    return build_document(
        "CreateBucketConfiguration", [f"<LocationConstraint>{escape_text(region)}</LocationConstraint>"]
    )


def build_versioning(*, enabled: bool) -> bytes:
    """Write a bucket's versioning state."""
    return build_document("VersioningConfiguration", [f"<Status>{'Enabled' if enabled else 'Suspended'}</Status>"])


def build_tags(tags: Mapping[str, str]) -> bytes:
    """Write a set of tags."""
    items = (
        f"<Tag><Key>{escape_text(key)}</Key><Value>{escape_text(value)}</Value></Tag>" for key, value in tags.items()
    )
    return build_document("Tagging", ["<TagSet>", *items, "</TagSet>"])


def build_document(name: str, items: Iterable[str]) -> bytes:
    """Write a document of S3 around elements that are text already."""
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="{NAMESPACE}">{"".join(items)}</{name}>'
    return text.encode("utf-8", "surrogateescape")


def escape_text(text: str) -> str:
    """Return a text as it stands in an element."""
    return text.translate(ESCAPES)

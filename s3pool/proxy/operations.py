"""The S3 operation of a request, and when it may be retried.

The table follows from what a repetition would do: a second PUT on a versioned bucket is a
second version, a second CreateMultipartUpload an orphan, a second UploadPart nothing.
Whether a bucket is versioned is not known here, so every bucket counts as versioned.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from s3pool.record import dataclass

UPLOADS = frozenset({"PutObject", "PostObject"})
_BUCKET_WORDS = {"PUT": "CreateBucket", "DELETE": "DeleteBucket", "HEAD": "HeadBucket"}
_OBJECT_WORDS = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
NOTIFICATIONS = "events"  # with which MinIO tells of changes as they happen, in an answer without end
_VERBS = {"GET": "Get", "HEAD": "Head", "PUT": "Put", "DELETE": "Delete", "POST": "Post", "OPTIONS": "Options"}
# Sub-resources of S3 by their query parameter; anything else in a query is only a parameter.
_NAMED = (
    "acl attributes cors encryption location logging ownershipControls policy policyStatus publicAccessBlock "
    "replication requestPayment retention tagging torrent versioning website"
)
_CONFIGURED = "accelerate analytics inventory lifecycle metrics notification"
SUBRESOURCES = {
    **{name: name[0].upper() + name[1:] for name in _NAMED.split()},
    **{name: f"{name.title()}Configuration" for name in _CONFIGURED.split()},
    "intelligent-tiering": "IntelligentTieringConfiguration",
    "legal-hold": "LegalHold",
    "object-lock": "LockConfiguration",
}
# All that a name of an operation depends on.
KNOWN_PARAMETERS = frozenset(
    {"append", "delete", "list-type", "renameObject", "restore", "select", "select-type", "uploadId", "uploads"}
    | {"versionId", "versions", NOTIFICATIONS, *SUBRESOURCES}
)
NO_NAMES: frozenset[str] = frozenset()
CACHE_SIZE = 1024
FORM_WORD = "form"  # in multipart/form-data and in application/x-www-form-urlencoded, however they are written
_LISTING = "prefix delimiter max-keys encoding-type metadata allow-unordered"
_OVERRIDES = " ".join(f"response-{name}" for name in ("cache-control", "expires")) + "".join(
    f" response-content-{name}" for name in ("disposition", "encoding", "language", "type")
)
# What a query must hold, and what it may hold beside that, for each operation that nodes read as it is read here.
EXACT_QUERIES = {
    "ListBuckets": ("", "prefix max-buckets continuation-token bucket-region"),
    "ListObjects": ("", f"{_LISTING} marker"),
    "ListObjectsV2": ("list-type", f"{_LISTING} continuation-token start-after fetch-owner"),
    "ListObjectVersions": ("versions", f"{_LISTING} key-marker version-id-marker"),
    "ListMultipartUploads": ("uploads", f"{_LISTING} key-marker upload-id-marker max-uploads"),
    "ListenNotification": ("events", "prefix suffix ping"),
    "HeadBucket": ("", ""),
    "CreateBucket": ("", ""),
    "DeleteBucket": ("", ""),
    "DeleteObjects": ("delete", ""),
    "GetObject": ("", f"versionId partNumber {_OVERRIDES}"),
    "HeadObject": ("", f"versionId partNumber {_OVERRIDES}"),
    "PutObject": ("", ""),
    "CopyObject": ("", ""),
    "AppendObject": ("", "append position"),
    "UploadPart": ("uploadId partNumber", ""),
    "UploadPartCopy": ("uploadId partNumber", ""),
    "ListParts": ("uploadId", "max-parts part-number-marker encoding-type"),
    "AbortMultipartUpload": ("uploadId", ""),
    "CreateMultipartUpload": ("uploads", ""),
    "CompleteMultipartUpload": ("uploadId", ""),
    "SelectObjectContent": ("select select-type", ""),
    "RestoreObject": ("restore", "versionId"),
    "DeleteObject": ("", "versionId"),
}
# Sub-resources by what may be done to them. Others are missing: a node that does not know one does the same to the
# bucket or the object itself, so that DELETE ?encryption deletes a bucket of RGW 16.
_EXACT_SUBRESOURCES = {
    "Bucket": {
        "GET": "accelerate acl analytics cors encryption intelligent-tiering inventory lifecycle location logging"
        " metrics notification object-lock ownershipControls policy policyStatus publicAccessBlock replication"
        " requestPayment tagging versioning website",
        "PUT": "acl cors encryption inventory lifecycle logging notification object-lock ownershipControls policy"
        " publicAccessBlock replication requestPayment tagging versioning website",
        "DELETE": "cors lifecycle policy publicAccessBlock replication tagging website",
    },
    "Object": {
        "GET": "acl attributes legal-hold retention tagging torrent",
        "PUT": "acl legal-hold retention tagging",
        "DELETE": "tagging",
    },
}
BUCKET_PARAMETERS = frozenset({"id", "withUpdatedAt"})  # the second is minio-go's, of a lifecycle
# In the query of every operation: what says who signed it, and what has no meaning.
_ANYWHERE = frozenset({"x-id", "AWSAccessKeyId", "Signature", "Expires"})
_REPEATABLE = "events"
# Headers that turn one operation into another.
DECIDING_HEADERS = {
    "x-amz-copy-source": frozenset({"CopyObject", "UploadPartCopy"}),
    "x-amz-rename-source": frozenset(),
    "x-amz-write-offset-bytes": frozenset({"AppendObject"}),
    "x-amz-meta-snowball-auto-extract": frozenset(),
}
# Headers of one kind of node: MinIO deletes all below a key, or looks into an archive, when one of its own says so.
DIALECTS = ("x-goog-", "x-dho-", "x-rgw-", "x-ceph-", "x-object-", "x-container-", "x-account-", "x-minio-")
# What RGW says of an object, obeys in no request, and gets back from s3cmd with a copy that changes metadata.
TOLD = frozenset({"x-rgw-object-type", "x-rgw-next-append-position"})


@dataclass(frozen=True, slots=True)
class S3Operation:
    """One S3 operation and its retry rules.

    ``ambiguous`` says that it may be sent again when nobody knows whether it was carried out, ``after_500`` that after
    an error inside the server, ``after_503`` that after a refusal; ``partial`` that a body which did not arrive whole
    may be sent anew. ``is_slow`` means minutes until the answer, ``is_eager`` that its head comes early, with blanks
    behind it, ``brings_document`` that all it gives is a text of moderate length, ``is_endless`` that it tells of
    events as they happen.
    """

    name: str
    ambiguous: bool = False
    after_500: bool = False
    after_503: bool = True
    partial: bool = True
    is_slow: bool = False
    is_eager: bool = False
    reads: bool = False
    brings_document: bool = False
    is_endless: bool = False


def classify(
    method: str, query: Collection[str], bucket: str, key: str, headers: Collection[str], *, is_form: bool = False
) -> S3Operation:
    """Return the operation; ``query`` and ``headers`` hold names, headers' in lower case."""
    names = KNOWN_PARAMETERS.intersection(query) if query else NO_NAMES
    copies, appends = "x-amz-copy-source" in headers, "x-amz-write-offset-bytes" in headers
    return _operation(method, names, (bucket != "", key != "", copies, appends, is_form))


@lru_cache(CACHE_SIZE)
def _operation(method: str, query: frozenset[str], traits: tuple[bool, bool, bool, bool, bool]) -> S3Operation:
    bucket, key, copies, appends, is_form = traits
    name = _name(method, query, bucket=bucket, key=key, copies=copies, appends=appends)
    if is_form and method == "POST" and bucket:
        name = "PostObject"  # whatever the query says: to RGW ?select with a form is an upload
    if name == "AppendObject":
        return S3Operation(name, after_503=False, partial=False, is_slow=True)
    if name == "CompleteMultipartUpload":
        return S3Operation(name, after_503=False, is_slow=True, is_eager=True)
    if name in ("UploadPart", "UploadPartCopy"):
        return S3Operation(name, ambiguous=True, after_500=True, is_slow=True, is_eager=name == "UploadPartCopy")
    if name == "AbortMultipartUpload" or (name == "DeleteObject" and "versionId" in query):
        return S3Operation(name, ambiguous=True)
    if name in ("CopyObject", "DeleteObjects", "RestoreObject"):
        return S3Operation(name, is_slow=True, is_eager=True)
    if method in ("GET", "HEAD", "OPTIONS") or name == "SelectObjectContent":
        brings_document = method == "GET" and name != "GetObject" and NOTIFICATIONS not in query
        return S3Operation(
            name,
            ambiguous=True,
            after_500=True,
            reads=True,
            brings_document=brings_document,
            is_endless=NOTIFICATIONS in query,
        )
    return S3Operation(name, is_slow=name in UPLOADS)


def _name(method: str, query: Collection[str], *, bucket: bool, key: bool, copies: bool, appends: bool) -> str:
    if method == "OPTIONS":
        return "OptionsObject"
    if not bucket:
        return "ListBuckets" if method in ("GET", "HEAD") else f"{_VERBS[method]}Service"
    special = _object_name(method, query, copies=copies, appends=appends) if key else _bucket_name(method, query)
    if special:
        return special
    noun = "Object" if key else "Bucket"
    for parameter, word in SUBRESOURCES.items():
        if parameter in query:
            return f"{_VERBS[method]}{noun}{word}"
    words = _OBJECT_WORDS if key else _BUCKET_WORDS
    return words.get(method, f"{_VERBS[method]}{noun}")


def _bucket_name(method: str, query: Collection[str]) -> str:
    if method == "POST":
        return "DeleteObjects" if "delete" in query else "PostObject"
    if method != "GET":
        return ""
    if "uploads" in query:
        return "ListMultipartUploads"
    if "versions" in query:
        return "ListObjectVersions"
    if "list-type" in query:
        return "ListObjectsV2"
    if NOTIFICATIONS in query:
        return "ListenNotification"
    return "" if any(parameter in query for parameter in SUBRESOURCES) else "ListObjects"


def _object_name(method: str, query: Collection[str], *, copies: bool, appends: bool) -> str:
    if method == "POST":
        return _object_post(query)
    if method == "PUT" and "uploadId" in query:
        return "UploadPartCopy" if copies else "UploadPart"
    if method == "PUT" and ("append" in query or appends):
        return "AppendObject"
    if method == "PUT" and "renameObject" in query:
        return "RenameObject"
    if method == "PUT" and copies:
        return "CopyObject"
    if "uploadId" in query:
        return {"GET": "ListParts", "DELETE": "AbortMultipartUpload"}.get(method, "")
    return ""


def _object_post(query: Collection[str]) -> str:
    names = {
        "uploads": "CreateMultipartUpload",
        "uploadId": "CompleteMultipartUpload",
        "restore": "RestoreObject",
        "select": "SelectObjectContent",
    }
    found = [name for parameter, name in names.items() if parameter in query]
    if len(found) != 1 or (found == ["SelectObjectContent"] and "select-type" not in query):
        return "PostObject"  # which may not be repeated, and is no read
    return found[0]


def is_exact(
    operation: S3Operation, method: str, pairs: Sequence[tuple[str, str]], *, key: str, headers: Collection[str]
) -> bool:
    """Return whether a node cannot read a request as another operation; ``pairs`` are the query's, decoded."""
    query = [name for name, _ in pairs if name not in _ANYWHERE and not name.lower().startswith("x-amz-")]
    needed, allowed = _exact_query(operation, method, query, key=key)
    values = dict(pairs)
    return (
        needed.issubset(query)
        and allowed.issuperset(query)
        and all(query.count(name) == 1 or name == _REPEATABLE for name in query)
        and values.get("list-type", "2") == "2"
        and values.get("select-type", "2") == "2"
        and re.fullmatch("[A-Za-z0-9._-]*", values.get("id", "")) is not None
        and all(operation.name in names for header, names in DECIDING_HEADERS.items() if header in headers)
        and not any(name.startswith(DIALECTS) and name not in TOLD for name in headers)
    )


def _exact_query(
    operation: S3Operation, method: str, query: Collection[str], *, key: str
) -> tuple[frozenset[str], frozenset[str]]:
    if operation.name in EXACT_QUERIES:
        needed, allowed = (frozenset(words.split()) for words in EXACT_QUERIES[operation.name])
        return needed, needed | allowed
    known = _EXACT_SUBRESOURCES["Object" if key else "Bucket"].get(method, "").split()
    needed = frozenset(name for name in query if name in SUBRESOURCES)
    if len(needed) != 1 or not needed.issubset(known):
        return frozenset({"none"}), frozenset()
    return needed, needed | (frozenset({"versionId"}) if key else BUCKET_PARAMETERS)

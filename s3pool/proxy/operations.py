"""Which S3 operation a request is, and what may be repeated of it.

The table follows from what a repetition would do: a second PUT on a versioned bucket is a
second version, a second CreateMultipartUpload an orphan, a second UploadPart nothing.
Whether a bucket is versioned is not known here, so every bucket counts as versioned.
"""

from __future__ import annotations

from collections.abc import Collection

from s3pool.record import dataclass

UPLOADS = frozenset({"PutObject", "PostObject"})
_BUCKET_WORDS = {"PUT": "CreateBucket", "DELETE": "DeleteBucket", "HEAD": "HeadBucket"}
_OBJECT_WORDS = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
NOTIFICATIONS = "events"  # with which MinIO tells of changes as they happen, in an answer without end
_VERBS = {"GET": "Get", "HEAD": "Head", "PUT": "Put", "DELETE": "Delete", "POST": "Post", "OPTIONS": "Options"}
# Sub-resources of S3 by their query parameter; anything else in a query is only a parameter.
SUBRESOURCES = {
    "accelerate": "AccelerateConfiguration",
    "acl": "Acl",
    "analytics": "AnalyticsConfiguration",
    "attributes": "Attributes",
    "cors": "Cors",
    "encryption": "Encryption",
    "intelligent-tiering": "IntelligentTieringConfiguration",
    "inventory": "InventoryConfiguration",
    "legal-hold": "LegalHold",
    "lifecycle": "LifecycleConfiguration",
    "location": "Location",
    "logging": "Logging",
    "metrics": "MetricsConfiguration",
    "notification": "NotificationConfiguration",
    "object-lock": "LockConfiguration",
    "ownershipControls": "OwnershipControls",
    "policy": "Policy",
    "policyStatus": "PolicyStatus",
    "publicAccessBlock": "PublicAccessBlock",
    "replication": "Replication",
    "requestPayment": "RequestPayment",
    "retention": "Retention",
    "tagging": "Tagging",
    "torrent": "Torrent",
    "versioning": "Versioning",
    "website": "Website",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of S3 on its way through the proxy.

    ``ambiguous`` says that it may be sent again when nobody knows whether it was carried out,
    ``after_500`` that after an error inside the server, ``after_503`` that after a refusal;
    ``partial`` that a body which did not arrive whole may be sent anew. ``is_slow`` means
    minutes until the answer, ``is_eager`` that its head comes early, with blanks behind it,
    ``brings_document`` that all it gives is a text of moderate length.
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


def classify(method: str, query: Collection[str], *, bucket: str, key: str, headers: Collection[str]) -> Operation:
    """Name the operation; ``query`` and ``headers`` hold names, headers' in lower case."""
    name = _name(method, query, bucket=bucket, key=key, headers=headers)
    if name == "AppendObject":
        return Operation(name, after_503=False, partial=False, is_slow=True)
    if name == "CompleteMultipartUpload":
        return Operation(name, after_503=False, is_slow=True, is_eager=True)
    if name in ("UploadPart", "UploadPartCopy"):
        return Operation(name, ambiguous=True, after_500=True, is_slow=True, is_eager=name == "UploadPartCopy")
    if name == "AbortMultipartUpload" or (name == "DeleteObject" and "versionId" in query):
        return Operation(name, ambiguous=True)
    if name in ("CopyObject", "DeleteObjects", "RestoreObject"):
        return Operation(name, is_slow=True, is_eager=True)
    if method in ("GET", "HEAD", "OPTIONS") or name == "SelectObjectContent":
        brings_document = method == "GET" and name != "GetObject" and NOTIFICATIONS not in query
        return Operation(name, ambiguous=True, after_500=True, reads=True, brings_document=brings_document)
    return Operation(name, is_slow=name in UPLOADS)


def _name(method: str, query: Collection[str], *, bucket: str, key: str, headers: Collection[str]) -> str:
    if method == "OPTIONS":
        return "OptionsObject"
    if not bucket:
        return "ListBuckets" if method in ("GET", "HEAD") else f"{_VERBS[method]}Service"
    special = _object_name(method, query, headers) if key else _bucket_name(method, query)
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
    return "" if any(parameter in query for parameter in SUBRESOURCES) else "ListObjects"


def _object_name(method: str, query: Collection[str], headers: Collection[str]) -> str:
    copies = "x-amz-copy-source" in headers
    if method == "POST":
        return _object_post(query)
    if method == "PUT" and "uploadId" in query:
        return "UploadPartCopy" if copies else "UploadPart"
    if method == "PUT" and ("append" in query or "x-amz-write-offset-bytes" in headers):
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
    return next((name for parameter, name in names.items() if parameter in query), "PostObject")

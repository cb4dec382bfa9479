"""What a request asks for: its S3 operation, when that may be retried, and the names outside its path.

The table follows from what a repetition would do: a second PUT on a versioned bucket is a second version, a second
CreateMultipartUpload an orphan, a second UploadPart nothing. Every bucket counts as versioned.

Nodes read names in headers and documents in several ways: MinIO takes ``//allowed/secret/key`` for an address with a
host, RGW ``:b`` and ``tenant:b`` for the bucket b. Only what has one reading goes on, in the spelling that all read so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes
from xml.parsers import expat

from s3pool.proxy.errors import S3ErrorResponse, forbidden, invalid, not_implemented
from s3pool.proxy.request import BAD_ESCAPE, CACHE_SIZE, NO_NAMES, RequestHead, Target
from s3pool.record import dataclass
from s3pool.s3.signing import UNRESERVED
from s3pool.units import word_set

# The query parameters that carry a signature; they never reach a node.
V4_PARAMETERS = word_set(
    "X-Amz-Algorithm X-Amz-Credential X-Amz-Date X-Amz-Expires X-Amz-SignedHeaders X-Amz-Signature X-Amz-Security-Token"
)
V2_PARAMETERS = frozenset({"AWSAccessKeyId", "Signature", "Expires"})
COPY_SOURCE, RENAME_SOURCE, REDIRECT = "x-amz-copy-source", "x-amz-rename-source", "x-amz-website-redirect-location"
UPLOADS = frozenset({"PutObject", "PostObject"})
_BUCKET_WORDS = {"PUT": "CreateBucket", "DELETE": "DeleteBucket", "HEAD": "HeadBucket"}
_OBJECT_WORDS = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
NOTIFICATIONS = "events"  # with which MinIO tells of changes as they happen, in an answer without end
_LISTINGS = {
    "uploads": "ListMultipartUploads",
    "versions": "ListObjectVersions",
    "list-type": "ListObjectsV2",
    NOTIFICATIONS: "ListenNotification",
}
_OBJECT_POSTS = {
    "uploads": "CreateMultipartUpload",
    "uploadId": "CompleteMultipartUpload",
    "restore": "RestoreObject",
    "select": "SelectObjectContent",
}
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
_ANYWHERE = V2_PARAMETERS | {"x-id"}
# Headers that turn one operation into another.
DECIDING_HEADERS = {
    COPY_SOURCE: frozenset({"CopyObject", "UploadPartCopy"}),
    RENAME_SOURCE: frozenset(),
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
    copies, appends = COPY_SOURCE in headers, "x-amz-write-offset-bytes" in headers
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
        endless = NOTIFICATIONS in query
        document = method == "GET" and name != "GetObject" and not endless
        return S3Operation(
            name, ambiguous=True, after_500=True, reads=True, brings_document=document, is_endless=endless
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
    usual = "" if any(parameter in query for parameter in SUBRESOURCES) else "ListObjects"
    return next((name for parameter, name in _LISTINGS.items() if parameter in query), usual)


def _object_name(method: str, query: Collection[str], *, copies: bool, appends: bool) -> str:
    if method == "POST":
        return _object_post(query)
    if method != "PUT":
        return {"GET": "ListParts", "DELETE": "AbortMultipartUpload"}.get(method, "") if "uploadId" in query else ""
    if "uploadId" in query:
        return "UploadPartCopy" if copies else "UploadPart"
    if "append" in query or appends:
        return "AppendObject"
    if "renameObject" in query:
        return "RenameObject"
    return "CopyObject" if copies else ""


def _object_post(query: Collection[str]) -> str:
    found = [name for parameter, name in _OBJECT_POSTS.items() if parameter in query]
    if len(found) != 1 or (found == ["SelectObjectContent"] and "select-type" not in query):
        return "PostObject"  # which may not be repeated, and is no read
    return found[0]


PLAIN_READS = {method: classify(method, (), "bucket", "key", ()) for method in ("GET", "HEAD")}


def operation_of(head: RequestHead, target: Target) -> S3Operation:
    """Return the operation of a request."""
    is_form = head.method == "POST" and any(FORM_WORD in value.lower() for value in head.values("content-type"))
    return classify(head.method, target.names, target.bucket, target.key, head.index, is_form=is_form)


def check_exact(operation: S3Operation, head: RequestHead, target: Target) -> None:
    """Refuse a request that a node may take for another one. Raises S3ErrorResponse: it may."""
    source = head.value(COPY_SOURCE).partition("?")[0].removeprefix("/")
    if AMBIGUOUS_KEY.search(target.key) or AMBIGUOUS_KEY.search(source.partition("/")[2]):
        raise invalid(AMBIGUOUS_KEY_DETAIL, reason="name")
    if not _is_exact(operation, head.method, target.parameters, key=target.key, headers=head.index):
        detail = "a key with limits may not send this: the query or a header does not belong to the operation"
        raise not_implemented(f"{detail} {operation.name}", reason="inexact")


def _is_exact(
    operation: S3Operation, method: str, pairs: Sequence[tuple[str, str]], *, key: str, headers: Collection[str]
) -> bool:
    query = [name for name, _ in pairs if name not in _ANYWHERE and not name.lower().startswith("x-amz-")]
    needed, allowed = _exact_query(operation, method, query, key=key)
    values = dict(pairs)
    return (
        needed.issubset(query)
        and allowed.issuperset(query)
        and all(query.count(name) == 1 or name == NOTIFICATIONS for name in query)
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


NAMING_HEADERS = frozenset({COPY_SOURCE, RENAME_SOURCE, REDIRECT})
REDIRECTS = ("/", "http://", "https://")
# What servers give as names of versions and uploads; versitygw makes paths of files of them.
IDENTIFIER = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~+=-]{1,1024}")
# Query parameters that hold one, and the answer to one that no server gave.
IDENTIFIERS = {
    "uploadId": (404, "NoSuchUpload", "The specified upload does not exist."),
    "upload-id-marker": (400, "InvalidArgument", "Invalid uploadId marker"),
    "versionId": (400, "InvalidArgument", "Invalid version id specified"),
    "version-id-marker": (400, "InvalidArgument", "Invalid version id marker"),
}
SIGNATURE_PARAMETERS = frozenset(name.lower() for name in V4_PARAMETERS)  # RGW reads them in any case
PARAMETER = re.compile(r"[A-Za-z0-9-]+")
# MinIO drops the slash that a key begins with, and keeps "a/" as "a__XLDIR__"; others go the way that dots show.
AMBIGUOUS_KEY = re.compile(r"^/|(?:^|/)\.{1,2}(?:/|$)|__XLDIR__(?:/|$)")
AMBIGUOUS_KEY_DETAIL = (
    "a key with limits may not use names that begin with /, have . or .. between slashes, or end in __XLDIR__"
)
VERSION_MARK = b"?versionId="  # RGW 16 looks for it behind the decoding when a part is copied
# Operations whose document names keys, or other buckets: targets of logs, inventories, replication, a restore.
DOCUMENTS = frozenset(
    {"PutBucketLogging", "PutBucketInventoryConfiguration", "PutBucketReplication", "RestoreObject", "DeleteObjects"}
)
MAX_DEPTH = 20  # of a document; those of S3 have some eight levels
UTF_8 = (None, "utf-8", "UTF-8")
S3_ARN = re.compile(r"arn:[^:]*:s3")
ARN = re.compile(r"arn:[a-z-]+:[a-z0-9-]+:[A-Za-z0-9-]*:[A-Za-z0-9-]*:([^:/]+)(?:/.*)?")


def canonical_names(head: RequestHead, target: Target) -> tuple[RequestHead, str]:
    """Return the head with canonical names, and the source bucket of a copy.

    Raises S3ErrorResponse: a name can be read in more than one way, or stands where only some nodes look.
    """
    if target.pairs:
        _check_parameters(target)
    if NAMING_HEADERS.isdisjoint(head.index):
        return head, ""
    settled: dict[str, str] = {}
    bucket = ""
    for name in NAMING_HEADERS.intersection(head.index):
        values = head.values(name)
        if len(values) > 1:
            raise invalid(f"there is more than one {name}", reason="malformed")
        if name == COPY_SOURCE:
            bucket, settled[name] = read_copy_source(values[0], is_part="uploadId" in target.names)
        elif name == RENAME_SOURCE:
            settled[name] = _rename_source(values[0])
        elif not values[0].startswith(REDIRECTS):
            detail = "The website redirect location must begin with http://, https:// or /"
            raise S3ErrorResponse(400, "InvalidRedirectLocation", detail, reason="name")
    if {COPY_SOURCE, RENAME_SOURCE} <= settled.keys():
        raise invalid("a request copies or renames, not both", reason="malformed")
    return head.with_fields((name, settled.get(name.lower(), value)) for name, value in head.fields), bucket


def _check_parameters(target: Target) -> None:
    for name, value in target.parameters:
        if name.lower() in (COPY_SOURCE, RENAME_SOURCE):
            raise not_implemented(f"{name} must be a header, not a query parameter", reason="name")
        if name.lower().startswith(("x-amz", "x_amz")) and PARAMETER.fullmatch(name) is None:
            raise invalid(f"{name!r} is no parameter of S3", reason="name")
        if name.lower() in SIGNATURE_PARAMETERS and name not in V4_PARAMETERS:
            raise invalid(f"{name} is not written as S3 does", reason="name")
        if name in IDENTIFIERS and value and IDENTIFIER.fullmatch(value) is None:
            status, code, detail = IDENTIFIERS[name]
            raise S3ErrorResponse(status, code, detail, reason="name")


def read_copy_source(value: str, *, is_part: bool = False) -> tuple[str, str]:
    """Return the bucket of a copy source, and the value in its one spelling. Raises S3ErrorResponse: it has none."""
    path, mark, query = value.partition("?")
    version = _decoded(query.removeprefix("versionId="), COPY_SOURCE).decode("utf-8", "replace")
    if mark and (not query.startswith("versionId=") or IDENTIFIER.fullmatch(version) is None):
        raise _bad_name(COPY_SOURCE)
    lead = "/" if path.startswith("/") else ""
    bucket, _, key = _rewritten(path.removeprefix("/"), COPY_SOURCE).partition("/")
    if not bucket or not key or bucket in (".", "..") or (is_part and VERSION_MARK in unquote_to_bytes(key)):
        raise _bad_name(COPY_SOURCE)
    text = f"{lead}{bucket.replace('+', '%2B')}/{key}"
    bucket = unquote_to_bytes(bucket).decode("utf-8", "surrogateescape")
    return bucket, f"{text}?versionId={quote(version, safe=UNRESERVED)}" if mark else text


def _rename_source(value: str) -> str:
    key = _rewritten(value.removeprefix("/"), RENAME_SOURCE)
    if not key or key.startswith("/") or "?" in value:
        raise _bad_name(RENAME_SOURCE)
    return f"/{key}" if value.startswith("/") else key


def _rewritten(path: str, name: str) -> str:
    """Return a path in one spelling; a raw ``+`` stays, which is a blank to Amazon and versitygw, and not to others."""
    return "+".join([quote(_decoded(piece, name), safe=UNRESERVED + "/") for piece in path.split("+")])


def _decoded(text: str, name: str) -> bytes:
    if BAD_ESCAPE.search(text):
        raise _bad_name(name)
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape"))


def _bad_name(name: str) -> S3ErrorResponse:
    return invalid(f"{name} must name a bucket and a key, encoded once", reason="name")


def check_document(document: bytes, admits: Callable[[str], bool]) -> None:
    """Refuse a document with a bucket outside ``admits``, an ambiguous key, or more than one reading."""
    for element, name in _texts(document):
        if element == "key" and AMBIGUOUS_KEY.search(name):
            raise invalid(AMBIGUOUS_KEY_DETAIL, reason="name")
        if element == "versionid" and IDENTIFIER.fullmatch(name) is None:
            raise invalid("Invalid version id specified", reason="name")
        if "bucket" not in element and S3_ARN.match(name) is None:
            continue
        arn = ARN.fullmatch(name)
        bucket = arn[1] if arn else name
        if not admits(bucket):
            raise forbidden("AccessDenied", f"the access key may not use the bucket {bucket}", reason="bucket")


def _texts(document: bytes) -> list[tuple[str, str]]:
    """Return the local name, in lower case, and the text of all elements that have one."""
    texts: list[tuple[str, str]] = []
    open_elements: list[tuple[str, list[str]]] = []

    def start(name: str, _attributes: object) -> None:
        if len(open_elements) >= MAX_DEPTH or (open_elements and "".join(open_elements[-1][1]).strip()):
            raise _unclear_document()
        open_elements.append((name.rpartition(":")[2].lower(), []))

    def more(text: str) -> None:
        open_elements[-1][1].append(text)

    def end(_name: str) -> None:
        name, pieces = open_elements.pop()
        if text := "".join(pieces).strip():
            texts.append((name, text))

    def refuse(*_arguments: object) -> None:
        raise _unclear_document()

    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = more
    parser.StartDoctypeDeclHandler = parser.ProcessingInstructionHandler = refuse
    parser.XmlDeclHandler = lambda _version, encoding, _alone: None if encoding in UTF_8 else refuse()
    try:
        parser.Parse(document.decode(), True)
    except (expat.ExpatError, UnicodeDecodeError) as exc:
        raise _unclear_document() from exc
    return texts


def _unclear_document() -> S3ErrorResponse:
    return S3ErrorResponse(400, "MalformedXML", "the document is not plain XML in UTF-8", reason="name")

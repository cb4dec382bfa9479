"""Names of buckets and objects outside the path: parsed strictly and rewritten.

Nodes read such values in several ways: MinIO takes ``//allowed/secret/key`` for an address with
a host, RGW ``:b`` and ``tenant:b`` for the bucket b. Only what has one reading goes on, in the
one spelling in which every node reads it like that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import quote, unquote_to_bytes
from xml.parsers import expat

from s3pool.proxy.claims import V4_PARAMETERS
from s3pool.proxy.errors import S3ErrorResponse, forbidden
from s3pool.proxy.request import BAD_ESCAPE, RequestHead, Target
from s3pool.s3.signing import UNRESERVED

COPY_SOURCE, RENAME_SOURCE, REDIRECT = "x-amz-copy-source", "x-amz-rename-source", "x-amz-website-redirect-location"
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
MAX_DOCUMENT_BYTES = 2 << 20  # a thousand long keys, with room for their escapes
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
            raise S3ErrorResponse(400, "InvalidArgument", f"there is more than one {name}", reason="malformed")
        if name == COPY_SOURCE:
            bucket, settled[name] = read_copy_source(values[0], is_part="uploadId" in target.names)
        elif name == RENAME_SOURCE:
            settled[name] = _rename_source(values[0])
        else:
            settled[name] = _redirect(values[0])
    if {COPY_SOURCE, RENAME_SOURCE} <= settled.keys():
        raise S3ErrorResponse(400, "InvalidArgument", "a request copies or renames, not both", reason="malformed")
    return head.with_fields((name, settled.get(name.lower(), value)) for name, value in head.fields), bucket


def _check_parameters(target: Target) -> None:
    for name, value in target.parameters:
        if name.lower() in (COPY_SOURCE, RENAME_SOURCE):
            raise S3ErrorResponse(
                501, "NotImplemented", f"{name} must be a header, not a query parameter", reason="name"
            )
        if name.lower().startswith(("x-amz", "x_amz")) and PARAMETER.fullmatch(name) is None:
            raise S3ErrorResponse(400, "InvalidArgument", f"{name!r} is no parameter of S3", reason="name")
        if name.lower() in SIGNATURE_PARAMETERS and name not in V4_PARAMETERS:
            raise S3ErrorResponse(400, "InvalidArgument", f"{name} is not written as S3 does", reason="name")
        if name in IDENTIFIERS and value and IDENTIFIER.fullmatch(value) is None:
            status, code, detail = IDENTIFIERS[name]
            raise S3ErrorResponse(status, code, detail, reason="name")


def is_ambiguous_key(key: str) -> bool:
    """Return whether a server that keeps objects in files may take a key for another one."""
    return AMBIGUOUS_KEY.search(key) is not None


def read_copy_source(value: str, *, is_part: bool = False) -> tuple[str, str]:
    """Return the bucket that x-amz-copy-source names, and the value in canonical spelling.

    Raises S3ErrorResponse: it is not ``[/]bucket/key[?versionId=version]``, encoded once.
    """
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
    lead = "/" if value.startswith("/") else ""
    key = _rewritten(value.removeprefix("/"), RENAME_SOURCE)
    if not key or key.startswith("/") or "?" in value:
        raise _bad_name(RENAME_SOURCE)
    return lead + key


def _rewritten(path: str, name: str) -> str:
    """Return a path in one spelling; a raw ``+`` stays, which is a blank to Amazon and versitygw, and not to others."""
    return "+".join([quote(_decoded(piece, name), safe=UNRESERVED + "/") for piece in path.split("+")])


def _redirect(value: str) -> str:
    if not value.startswith(REDIRECTS):
        detail = "The website redirect location must begin with http://, https:// or /"
        raise S3ErrorResponse(400, "InvalidRedirectLocation", detail, reason="name")
    return value


def _decoded(text: str, name: str) -> bytes:
    if BAD_ESCAPE.search(text):
        raise _bad_name(name)
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape"))


def _bad_name(name: str) -> S3ErrorResponse:
    return S3ErrorResponse(400, "InvalidArgument", f"{name} must name a bucket and a key, encoded once", reason="name")


def check_document(document: bytes, admits: Callable[[str], bool]) -> None:
    """Refuse a document that names a bucket outside ``admits``, or an ambiguous key.

    Raises S3ErrorResponse: there is such a name, or the document has more than one reading.
    """
    for element, name in _texts(document):
        if element == "key" and is_ambiguous_key(name):
            raise S3ErrorResponse(400, "InvalidArgument", AMBIGUOUS_KEY_DETAIL, reason="name")
        if element == "versionid" and IDENTIFIER.fullmatch(name) is None:
            raise S3ErrorResponse(400, "InvalidArgument", "Invalid version id specified", reason="name")
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


class DocumentSink:
    """Takes a body that names buckets into memory, to be looked at before a node has a byte of it."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Keep the block. Raises S3ErrorResponse: the document is larger than any that S3 knows."""
        self.content += block
        if len(self.content) > MAX_DOCUMENT_BYTES:
            raise S3ErrorResponse(400, "MaxMessageLengthExceeded", "the document is too large", closes=True)

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Keep a range of a file."""
        self.write(os.pread(fd, min(count, MAX_DOCUMENT_BYTES + 1), offset))


def _unclear_document() -> S3ErrorResponse:
    return S3ErrorResponse(400, "MalformedXML", "the document is not plain XML in UTF-8", reason="name")

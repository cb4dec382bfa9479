"""S3's XML: a small tree by expat without DTDs, the answers that are read from it, and the bodies of requests.

Whatever is not the whole, valid document that was asked for is a ProtocolError. Text is never trimmed. The pages of
listings have their own module, ``pages``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from xml.parsers import expat

from s3pool.errors import ProtocolError
from s3pool.model import BucketInfo, PartInfo, UploadInfo, format_iso_time, parse_iso_time, whole_number
from s3pool.record import dataclass

NAMESPACE_SEPARATOR = " "  # no namespace URI and no element name holds a blank
BLANKS = b" \t\r\n"
FIRST_MARKER = 0xF0000  # plane 15 is for private use; a character free in the page is looked for from here
MARKER_CANDIDATES = 64
REFERENCE = rb"&#(?:x([0-9A-Fa-f]{1,8})|([0-9]{1,9}));"
CDATA_START, CDATA_END = b"<![CDATA[", b"]]>"
MAX_ELEMENTS = 250_000  # a page of a thousand versions has some 12,000
MAX_DEPTH = 100
MAX_TAG_BYTES = 64 * 1024  # S3's elements have a namespace, or a type, and no other attributes
OVERLONG_TAG = rb"<[^<>]{%d}" % MAX_TAG_BYTES
# What XML 1.0 forbids as raw text: control characters, and U+FFFE and U+FFFF in UTF-8.
RAW_ILLEGAL = rb"[\x01-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]"

ISO_MILLIS = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z")
KEPT_TEXT = 40  # characters of what is no number
TRUTH = {"true": True, "false": False}

# The first element of a document, where it is written as servers do.
ROOT = re.compile(rb"(?:<\?xml [^<>]*\?>\s*)?<([A-Za-z]+)[\s/>]")
MAX_ERROR_BYTES = 64 * 1024  # no error of S3 is longer
ERROR_ROOTS = (b"Error", b"ErrorResponse")
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
    f"x-amz-checksum-{name.lower()}": f"Checksum{name}" for name in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")
}
ILLEGAL_TEXT = "[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]"


class Element:
    """One element. ``text`` is never trimmed, and empty when there are children."""

    __slots__ = ("children", "name", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = ""
        self.children: Sequence[Element] = ()

    def all(self, name: str) -> Iterator[Element]:
        """Yield the children of that name, in order."""
        return (child for child in self.children if child.name == name)

    def text_of(self, name: str, default: str = "") -> str:
        """Return the text of the first child of that name."""
        return next((child.text for child in self.children if child.name == name), default)

    def fields(self) -> dict[str, str]:
        """Return the text of every child by its name; of equal names the last one counts."""
        return {child.name: child.text for child in self.children}


def parse(body: bytes) -> Element:
    """Read a document and return its root.

    Names are without their namespace when it is the root's; elements of another one keep it as ``URI name`` and so
    match nothing. RGW writes references such as ``&#x01;`` that no XML may hold: they are hidden from expat and come
    back as the characters they mean.

    Raises ProtocolError: the document is cut, malformed, or has a DOCTYPE.
    """
    # During long work servers send blanks to keep the connection, even before the declaration.
    body = body.lstrip(BLANKS)
    if len(body) > MAX_TAG_BYTES and re.search(OVERLONG_TAG, body):
        raise ProtocolError("broken XML: an element has more attributes than one of S3 has")
    try:
        return _Builder().read(body)
    except expat.ExpatError as exc:
        hidden = _hide_illegal(body)
        if hidden is None:
            raise ProtocolError(f"broken XML: {exc}") from exc
    try:
        return _Builder(hidden[1]).read(hidden[0])
    except expat.ExpatError as exc:
        raise ProtocolError(f"broken XML: {exc}") from exc


class _Builder:
    """Expat's handlers for one document."""

    __slots__ = ("_left", "_pieces", "_prefix", "_restore", "_root", "_stack")

    def __init__(self, restore: Callable[[str], str] | None = None) -> None:
        self._restore = restore
        self._root: Element | None = None
        self._stack: list[Element] = []
        self._left = MAX_ELEMENTS
        self._pieces: list[str] = []
        self._prefix = ""  # the root's namespace and the separator

    def read(self, body: bytes) -> Element:
        def refuse_doctype(*_declaration: object) -> None:
            raise ProtocolError("broken XML: a DOCTYPE has no place in an answer of S3")

        parser = expat.ParserCreate(namespace_separator=NAMESPACE_SEPARATOR)
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._pieces.append
        try:
            parser.Parse(body, True)
        except (LookupError, ValueError) as exc:
            raise ProtocolError(f"broken XML: {exc}") from exc  # an encoding that Python or expat does not have
        # Expat has seen a complete document, so there is a root.
        assert self._root is not None
        return self._root

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        if self._root is None:
            self._prefix = name[: name.rfind(NAMESPACE_SEPARATOR) + 1]
        element = Element(name.removeprefix(self._prefix))
        self._left -= 1
        if self._left < 0 or len(self._stack) >= MAX_DEPTH:
            raise ProtocolError("broken XML: more elements than an answer of S3 has")
        if self._root is None:
            self._root = element
        else:
            parent = self._stack[-1]
            if parent.children:
                parent.children.append(element)  # type: ignore[attr-defined]
            else:
                parent.children = [element]  # most elements have none, and share an empty one
        self._stack.append(element)
        self._pieces.clear()

    def _end(self, _name: str) -> None:
        element = self._stack.pop()
        if not element.children:
            text = "".join(self._pieces)
            element.text = self._restore(text) if self._restore and text else text
        self._pieces.clear()


def _hide_illegal(body: bytes) -> tuple[bytes, Callable[[str], str]] | None:
    """Write illegal characters as private markers; None when there are none to hide."""
    referenced = {_codepoint(match) for match in re.finditer(REFERENCE, body)}
    free = (code for code in range(FIRST_MARKER, FIRST_MARKER + MARKER_CANDIDATES) if code not in referenced)
    marker = next((chr(code) for code in free if chr(code).encode() not in body), "")
    if not marker:
        return None
    sign = marker.encode()
    count = 0

    def hide(match: re.Match[bytes]) -> bytes:
        nonlocal count
        is_reference = match.lastindex is not None
        codepoint = _codepoint(match) if is_reference else ord(match[0].decode())
        is_legal = codepoint not in (0xFFFE, 0xFFFF) and (codepoint >= ord(" ") or chr(codepoint) in "\t\n\r")
        if is_reference and is_legal:
            return match[0]
        count += 1
        return b"%b%x%b" % (sign, codepoint, sign)

    # In CDATA a reference is plain text and stays as it is; a raw character is illegal there too. One pass over the
    # sections: a section without an end is text.
    pieces, done = [], 0
    while (begin := body.find(CDATA_START, done)) >= 0 and (end := body.find(CDATA_END, begin)) >= 0:
        end += len(CDATA_END)
        pieces += [re.sub(REFERENCE, hide, body[done:begin]), body[begin:end]]
        done = end
    pieces.append(re.sub(REFERENCE, hide, body[done:]))
    hidden = re.sub(RAW_ILLEGAL, hide, b"".join(pieces))
    back = re.compile(f"{marker}([0-9a-f]+){marker}")
    return (hidden, lambda text: back.sub(lambda match: chr(int(match[1], 16)), text)) if count else None


def _codepoint(match: re.Match[bytes]) -> int:
    return int(match[1], 16) if match[1] else int(match[2])


def is_xml_text(text: str) -> bool:
    """Return whether a text can stand in an XML 1.0 document, escaped where necessary."""
    return text.isprintable() or not re.search(ILLEGAL_TEXT, text)


def read_root(body: bytes, name: str, *, alias: str = "") -> Element:
    """Parse a document and check its root; some servers name a root after the operation."""
    root = parse(body)
    if root.name not in (name, alias):
        raise ProtocolError(f"the answer is a {root.name}, not a {name}")
    return root


def required(fields: Mapping[str, str], name: str) -> str:
    """Return the text of a field that must not be empty."""
    text = fields.get(name, "")
    if not text:
        raise ProtocolError(f"an entry has no {name}")
    return text


def number(text: str, name: str) -> int:
    """Read a whole number, without a sign."""
    value = whole_number(text)
    if value is None:
        raise ProtocolError(f"{name} is no number: {text[:KEPT_TEXT]!r}")
    return value


def flag(root: Element, name: str) -> bool:
    """Read a truth value that must stand in a document exactly once."""
    texts = [element.text for element in root.all(name)]
    if len(texts) != 1:
        raise ProtocolError(f"a list page must say {name} once, not {len(texts)} times")
    return truth(texts[0], name)


def truth(text: str, name: str) -> bool:
    """Read ``true`` or ``false``, as S3 writes them and not otherwise."""
    if text not in TRUTH:
        raise ProtocolError(f"{name} is neither true nor false: {text!r}")
    return TRUTH[text]


def bare_etag(etag: str) -> str:
    """Take the quotes off an ETag."""
    return etag.strip('"')


def iso_millis(text: str) -> str:
    """Return a time stamp in the model's form; "" stays ""."""
    if not text or ISO_MILLIS.fullmatch(text):
        return text
    try:
        return format_iso_time(parse_iso_time(text.removesuffix("+00:00")))
    except ValueError as exc:
        raise ProtocolError(f"not a time stamp: {text!r}") from exc


def is_error(body: bytes) -> bool:
    """Return whether a body is an <Error> document, which S3 may send with status 200."""
    if not body:
        return False
    root = ROOT.match(body.lstrip(BLANKS))
    if root is not None and root.group(1) not in ERROR_ROOTS:
        return False  # most answers end here, before the long search
    if len(body) > MAX_ERROR_BYTES or b"<Error" not in body:
        return False
    try:
        return parse(body).name.encode() in ERROR_ROOTS
    except ProtocolError:
        return False


def is_web_page(body: bytes) -> bool:
    """Return whether a body is a page for people, as what stands before a storage may send with status 200."""
    root = ROOT.match(body)
    return root.group(1).lower() == b"html" if root is not None else body.lstrip()[:14].lower() == b"<!doctype html"


# -- answers, and bodies of requests ------------------------------------------------------------


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
    place = f"<LocationConstraint>{escape_text(region)}</LocationConstraint>"
    return b"" if region in ("", "us-east-1") else build_document("CreateBucketConfiguration", [place])


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

"""A browser's upload form (multipart/form-data): its fields first, then the bytes of its file.

Source: RFC 7578; RFC 2046 section 5.1; Amazon S3 API Reference, "POST Object".
"""

from __future__ import annotations

import base64
import binascii
import calendar
import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit
from xml.sax.saxutils import escape

from s3pool.errors import ProtocolError
from s3pool.model import UNSIGNED_PAYLOAD, Response
from s3pool.proxy.auth import ANONYMOUS, QUERY_V2, QUERY_V4, Caller, Verifier, check_token
from s3pool.proxy.auth_v2 import check_signature, not_accepted
from s3pool.proxy.errors import REASONS, S3ErrorResponse, forbidden, invalid
from s3pool.proxy.framing import Read
from s3pool.proxy.operations import AMBIGUOUS_KEY
from s3pool.proxy.request import RequestHead
from s3pool.record import dataclass, replace
from s3pool.s3.documents import is_web_page, parse_tags
from s3pool.s3.responses import PLAUSIBLE_ETAG
from s3pool.s3.signing import UNRESERVED
from s3pool.units import word_set

FORM_TYPE = "multipart/form-data"
MAX_FIELDS_BYTES = 64 * 1024  # all fields before the file, with the heads of their parts; S3 takes 20 KB of values
MAX_DOCUMENT_BYTES = 32 * 1024  # of a policy, or of tags
DOCUMENTS = ("policy", "tagging")
MAX_PART_HEAD_BYTES = 4096
PART_BYTES = 64  # of the head of a part and its boundary, at least
MAX_REST_BYTES = 64 * 1024  # what may stand behind the file
BLOCK_BYTES = 256 * 1024
FIRST_BLOCK_BYTES = 8 * 1024  # doubled whenever it comes full
FILE = "file"
BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
DISPOSITION = re.compile(r"content-disposition:[ \t]*form-data(;.*)", re.IGNORECASE)
PARAMETER = re.compile(r';[ \t]*(name|filename)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)
PART_TYPE = re.compile(r"content-type:[ \t]*([^\r\n]*)", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# A field's name may become a header's; the others are S3's own and never do.
FIELD_NAME = re.compile(r"[0-9a-z-]+|success_action_(?:redirect|status)|x-ignore-.*")


@dataclass(frozen=True, slots=True)
class UploadForm:
    """The fields before the file; names are in lower case."""

    fields: Mapping[str, str]
    file_name: str = ""
    file_type: str = ""

    def value(self, name: str) -> str:
        """Return a field's value, or nothing."""
        return self.fields.get(name, "")

    @property
    def key(self) -> str:
        """Return the key, with the file's own name in it where that was asked for."""
        return self.value("key").replace("${filename}", re.split(r"[/\\]", self.file_name)[-1])


def boundary_of(content_type: str) -> str:
    """Return the boundary between the parts. Raises S3ErrorResponse: the type does not say."""
    match = BOUNDARY.search(content_type)
    if match is None:
        raise bad_form("the form's Content-Type names no boundary")
    return match[1] or match[2]


def bad_form(detail: str) -> S3ErrorResponse:
    """Return the answer to a body that is no form."""
    detail = f"The body of your POST request is malformed: {detail}"
    return S3ErrorResponse(400, "MalformedPOSTRequest", detail, closes=True)


class FormReader:
    """Reads a form from a source that knows only readinto."""

    def __init__(self, read: Read, boundary: str) -> None:
        self._read = read
        self._mark = b"\r\n--" + boundary.encode("latin-1", "replace")
        # The first mark stands at the very beginning, where no line ends before it.
        self._rest = bytearray(b"\r\n")
        self._block = memoryview(bytearray(FIRST_BLOCK_BYTES))
        self._is_over = False

    def read_fields(self) -> UploadForm:
        """Read everything before the file. Raises S3ErrorResponse: it is no form, too large, or has no file."""
        fields: dict[str, str] = {}
        left = MAX_FIELDS_BYTES
        self._content(left)
        while self._begins_part():
            name, file_name, kind = self._part_head()
            if name == FILE:
                return UploadForm(fields, file_name, kind)
            value = self._content(min(left, MAX_DOCUMENT_BYTES) if name in DOCUMENTS else left)
            left -= len(value) + PART_BYTES + len(name)
            if name in fields:
                raise bad_form(f"the field {name} is there twice")
            fields[name] = _text(name, value)
        detail = "POST requires exactly one file upload per request."
        raise S3ErrorResponse(400, "InvalidArgument", detail, closes=True)

    def readinto(self, view: memoryview) -> int:
        """Return bytes of the file; 0 at its end. Raises S3ErrorResponse: the body ends before the file does."""
        if self._is_over:
            return 0
        while True:
            end = self._rest.find(self._mark)
            # The last bytes may be the beginning of a mark.
            safe = end if end >= 0 else len(self._rest) - len(self._mark) + 1
            if safe > 0:
                count = min(safe, len(view))
                view[:count] = self._rest[:count]
                del self._rest[:count]
                return count
            if end == 0:
                self._is_over = True
                del self._rest[: len(self._mark)]
                return 0
            self._more("the file's end")

    def drop_rest(self) -> None:
        """Read and discard the parts behind the file. Raises S3ErrorResponse: it is too much to be a form's end."""
        dropped = 0
        while count := self._read(self._block):
            dropped += count
            if dropped > MAX_REST_BYTES:
                raise bad_form("too much stands behind the file")

    def _more(self, what: str) -> None:
        count = self._read(self._block)
        if not count:
            raise bad_form(f"it ends before {what}")
        self._rest += self._block[:count]
        if count == len(self._block) < BLOCK_BYTES:
            self._block = memoryview(bytearray(2 * count))

    def _until(self, mark: bytes, limit: int, what: str) -> bytes:
        seen = 0
        while (end := self._rest.find(mark, max(seen - len(mark) + 1, 0))) < 0:
            seen = len(self._rest)
            if seen > limit + len(mark):
                break
            self._more(what)
        if not 0 <= end <= limit:
            raise S3ErrorResponse(400, "MaxPostPreDataLengthExceededError", f"{what} is too far away", closes=True)
        found = bytes(self._rest[:end])
        del self._rest[: end + len(mark)]
        return found

    def _content(self, limit: int) -> bytes:
        return self._until(self._mark, max(limit, 0), "the next boundary")

    def _begins_part(self) -> bool:
        while len(self._rest) < 2:
            self._more("the boundary's line")
        if self._rest.startswith(b"--"):
            return False
        if self._until(b"\r\n", MAX_PART_HEAD_BYTES, "the boundary's line").strip(b" \t"):
            raise bad_form("something stands behind a boundary")
        return True

    def _part_head(self) -> tuple[str, str, str]:
        text = self._until(b"\r\n\r\n", MAX_PART_HEAD_BYTES, "a part's head").decode("utf-8", "surrogateescape")
        name = file_name = kind = ""
        for line in text.split("\r\n"):
            if match := DISPOSITION.fullmatch(line):
                words = {word.lower(): quoted or plain for word, quoted, plain in PARAMETER.findall(match[1])}
                name = words.get("name", "").lower()
                file_name = re.sub(r'\\(["\\])', r"\1", words.get("filename", ""))  # browsers write %22
            elif match := PART_TYPE.fullmatch(line):
                kind = match[1].strip()
        if FIELD_NAME.fullmatch(name) is None:
            raise bad_form("a part's name has other characters than letters, digits and hyphens")
        if CONTROL.search(kind + file_name) or CONTROL.search(re.sub(r"\r\n|\t", "", text)):
            raise bad_form("a part's head holds control characters")
        return name, file_name, kind


def _text(name: str, value: bytes) -> str:
    text = value.decode("utf-8", "surrogateescape")
    # Fields become header lines, where a line's end would begin another one.
    if name not in DOCUMENTS and CONTROL.search(text):
        raise bad_form(f"the field {name} holds control characters")
    return text


DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?Z")
DATE_FORMAT = "%Y-%m-%dT%H:%M:%S"
LENGTH_RANGE = "content-length-range"
RANGE_WORDS = 3
# Fields that no condition has to speak of.
FREE = frozenset({"policy", "file", "signature", "x-amz-signature", "awsaccesskeyid"})
FREE_PREFIX = "x-ignore-"
UNLIMITED = 1 << 63

Condition = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Policy:
    """The conditions of a form; ``least`` and ``most`` bound the file's size in bytes."""

    expires: float
    conditions: tuple[Condition, ...]
    least: int = 0
    most: int = UNLIMITED

    def check(self, form: UploadForm, bucket: str, *, now: float) -> None:
        """Check all but the size of the file. Raises S3ErrorResponse: the policy does not allow the form."""
        if now >= self.expires:
            raise _violated("Policy expired.")
        values = {**form.fields, "bucket": bucket, "key": form.key}
        for operator, name, wanted in self.conditions:
            value = values.get(name, "")
            # Each of a list of types counts, as at Amazon: browsers take the last.
            found = [word.strip() for word in value.split(",")] if name == CONTENT_TYPE else [value]
            if not (all(word.startswith(wanted) for word in found) if operator == "starts-with" else value == wanted):
                raise _violated(f'Policy Condition failed: ["{operator}", "${name}", "{wanted}"]')
        spoken_of = {name for _, name, _ in self.conditions}
        extra = sorted(name for name in values.keys() - spoken_of - FREE if not name.startswith(FREE_PREFIX))
        if extra:
            raise _violated(f"Extra input fields: {', '.join(extra)}")

    def check_size(self, size: int) -> None:
        """Check the size of the file. Raises S3ErrorResponse: it is too small."""
        if size < self.least:
            detail = "Your proposed upload is smaller than the minimum allowed object size"
            raise S3ErrorResponse(400, "EntityTooSmall", detail)


def _violated(detail: str) -> S3ErrorResponse:
    return forbidden("AccessDenied", f"Invalid according to Policy: {detail}", reason="policy")


def _invalid(detail: str) -> S3ErrorResponse:
    return S3ErrorResponse(400, "InvalidPolicyDocument", f"Invalid Policy: {detail}", reason="policy")


def read_policy(encoded: str) -> Policy:
    """Read a policy from its form field. Raises S3ErrorResponse: it is not base64 of JSON, or not a policy."""
    try:
        document = json.loads(base64.b64decode("".join(encoded.split()), validate=True))
    except (binascii.Error, ValueError, RecursionError) as exc:
        raise _invalid("it is not JSON in base64.") from exc
    if not isinstance(document, dict) or not isinstance(document.get("conditions"), list):
        raise _invalid("it has no list of conditions.")
    expires = _expiry(document.get("expiration"))
    conditions: list[Condition] = []
    least, most = 0, UNLIMITED
    for item in document["conditions"]:
        if isinstance(item, list) and item and str(item[0]).lower() == LENGTH_RANGE:
            low, high = _range(item)
            least, most = max(least, low), min(most, high)
        else:
            conditions += _conditions(item)
    return Policy(expires, tuple(conditions), least, most)


def _expiry(value: object) -> float:
    match = DATE.fullmatch(value) if isinstance(value, str) else None
    try:
        return float(calendar.timegm(time.strptime(match[1] if match else "", DATE_FORMAT)))
    except ValueError as exc:
        raise _invalid("it has no valid expiration.") from exc


def _range(item: list[Any]) -> tuple[int, int]:
    bounds = item[1:]
    if len(item) != RANGE_WORDS or not all(re.fullmatch(r"[0-9]{1,18}", str(bound)) for bound in bounds):
        raise _invalid("content-length-range needs two numbers from 0 on.")
    return int(bounds[0]), int(bounds[1])


def _conditions(item: object) -> Iterable[Condition]:
    if isinstance(item, Mapping) and item:
        return [_condition("eq", name, value) for name, value in item.items()]
    if isinstance(item, list) and len(item) == RANGE_WORDS and str(item[1]).startswith("$"):
        return [_condition(str(item[0]).lower(), item[1][1:], item[2])]
    raise _invalid("a condition is malformed.")


def _condition(operator: str, name: object, value: object) -> Condition:
    if operator not in ("eq", "starts-with") or not isinstance(name, str) or not isinstance(value, str):
        raise _invalid("a condition is malformed.")
    return operator, name.lower(), value


CREATED, SEE_OTHER, NO_CONTENT, OK = 201, 303, 204, 200
# Fields that become headers of the same name. A form must not turn into a copy, an append or a rename.
AMZ_PREFIXES = ("x-amz-meta-", "x-amz-server-side-encryption", "x-amz-object-lock-", "x-amz-checksum-", "x-amz-grant-")
TAKEN_FIELDS = word_set(
    "cache-control content-disposition content-encoding content-language expires x-amz-acl x-amz-storage-class "
    "x-amz-website-redirect-location x-amz-sdk-checksum-algorithm x-amz-tagging x-amz-request-payer "
    "x-amz-expected-bucket-owner"
)
CONTENT_TYPE = "content-type"
RENAMED_FIELDS = {CONTENT_TYPE: "Content-Type", "acl": "x-amz-acl", "tagging": "x-amz-tagging"}
# Of the form's own head: nothing there is signed, and these change nothing.
KEPT_FIELDS = frozenset({"user-agent", "origin"})


def is_form(head: RequestHead) -> bool:
    """Return whether a request is an upload form."""
    return head.method == "POST" and head.value("content-type").lower().startswith(FORM_TYPE)


def identify(
    form: UploadForm, bucket: str, verifier: Verifier, *, allows_v2: bool, allows_anonymous: bool, now: float
) -> tuple[UploadForm, Caller, Policy | None]:
    """Return a form with its content type, its sender, and its policy (None if unsigned).

    The type that a browser gives its file counts where the policy speaks of it, and nowhere else: a page of HTML
    under a trusted name is a script of whoever uploaded it.

    Raises S3ErrorResponse: the signature does not hold, or the form is not what the policy allows.
    """
    encoded = form.value("policy")
    if "x-amz-signature" in form.fields or "x-amz-credential" in form.fields:
        way, client = QUERY_V4, verifier.verify_policy(form.fields, _required(form, "policy"))
    elif "signature" in form.fields or "awsaccesskeyid" in form.fields:
        text = _required(form, "policy").encode("utf-8", "replace")
        if not allows_v2:
            raise not_accepted()
        known = verifier.clients.get(_required(form, "awsaccesskeyid"))
        way, client = QUERY_V2, check_signature(known, text, _required(form, "signature"), what="policy")
    elif encoded:
        raise invalid("Bucket POST must contain a field named 'signature'.")
    elif not allows_anonymous:
        raise forbidden("AccessDenied", "Access Denied", reason="anonymous")
    else:
        return with_file_type(form), Caller(ANONYMOUS, None, ""), None
    check_token(client, form.value("x-amz-security-token"))
    policy = read_policy(encoded)
    form = with_file_type(form) if any(name == CONTENT_TYPE for _, name, _ in policy.conditions) else form
    _required(form, "key")  # which is no matter of the policy
    policy.check(form, bucket, now=now)
    if AMBIGUOUS_KEY.search(form.key.lstrip("/")):  # which may lead out of what the policy allows
        raise invalid("a form's key may not have . or .. between slashes", reason="policy")
    return form, Caller(way, client, UNSIGNED_PAYLOAD), policy


def with_file_type(form: UploadForm) -> UploadForm:
    """Return a form with the content type of its file, if it has no field for it."""
    if not form.file_type or CONTENT_TYPE in form.fields:
        return form
    return replace(form, fields={**form.fields, CONTENT_TYPE: form.file_type})


def _required(form: UploadForm, name: str) -> str:
    value = form.value(name)
    if not value:
        raise invalid(f"Bucket POST must contain a field named '{name}'.")
    return value


def put_head(head: RequestHead, form: UploadForm, bucket: str) -> RequestHead:
    """Return the head of the PUT that a form means, path-style. Raises S3ErrorResponse: the form names no key."""
    _required(form, "key")
    key = quote(form.key.encode("utf-8", "surrogateescape"), safe=UNRESERVED + "/")
    fields = [(name, value) for name, value in head.fields if name.lower() in KEPT_FIELDS]
    own = {name: form.fields[name] for name in form.fields if name in TAKEN_FIELDS or name.startswith(AMZ_PREFIXES)}
    for name, header in RENAMED_FIELDS.items():
        if value := form.value(name):
            if header in own:
                raise invalid(f"the fields {name} and {header} mean the same", reason="malformed")
            own[header] = _tags(value) if name == "tagging" else value
    fields += own.items()
    path = f"/{quote(bucket.encode('utf-8', 'surrogateescape'), safe=UNRESERVED)}/{key}"
    return head.with_fields(fields, method="PUT", path=path, query=None)


def _tags(document: str) -> str:
    """Turn a form's XML into the header's query string."""
    try:
        return urlencode(parse_tags(document.encode("utf-8", "surrogateescape")))
    except ProtocolError as exc:
        raise S3ErrorResponse(400, "MalformedXML", "the field tagging is no Tagging document") from exc


def form_answer(form: UploadForm, bucket: str, response: Response, *, url: str) -> Response:
    """Turn the answer to a PUT into that to a form; ``url`` is the object's. Raises S3ErrorResponse: it is no S3's."""
    if response.status != OK:
        return response
    etag = response.headers.get("etag", "")
    if is_web_page(response.preload()) or not PLAUSIBLE_ETAG.fullmatch(etag.strip('"')):
        detail = "the storage node's answer has no ETag: the file may not have been stored"
        raise S3ErrorResponse(502, "BadGateway", detail)
    status, extra, body = _outcome(form, bucket, etag, url)
    # The node's own framing and type speak of its own, empty body.
    own = ("content-type", "content-length", "location")
    kept = [line for line in response.lines if line.partition(":")[0].lower() not in own]
    lines = (*kept, *(f"{name}: {value}" for name, value in extra))
    headers, stream, reason = response.headers, response._stream, REASONS[status]
    answer = Response(status, headers, stream, endpoint=response.endpoint, reason=reason, lines=lines, length=len(body))
    answer.body = body
    return answer


def _outcome(form: UploadForm, bucket: str, etag: str, url: str) -> tuple[int, list[tuple[str, str]], bytes]:
    try:
        target = urlsplit(form.value("success_action_redirect") or form.value("redirect"))
    except ValueError:  # a host in brackets that is none; the object is stored all the same
        target = urlsplit("")
    if target.scheme in ("http", "https") and target.netloc:
        told = (("bucket", bucket), ("key", form.key), ("etag", etag))
        pairs = [*parse_qsl(target.query, keep_blank_values=True), *told]
        query = urlencode(pairs, quote_via=quote, errors="surrogateescape")
        return SEE_OTHER, [("Location", urlunsplit(target._replace(query=query)))], b""
    status = form.value("success_action_status")
    location = [("Location", url)]
    if status == str(CREATED):
        rows = (("Location", url), ("Bucket", bucket), ("Key", form.key), ("ETag", etag))
        inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in rows)
        document = f'<?xml version="1.0" encoding="UTF-8"?>\n<PostResponse>{inner}</PostResponse>'
        body = document.encode("utf-8", "surrogateescape")
        return CREATED, [*location, ("Content-Type", "application/xml")], body
    return OK if status == str(OK) else NO_CONTENT, location, b""

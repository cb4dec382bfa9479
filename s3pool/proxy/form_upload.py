"""Upload forms: their policy, the PUT that a form becomes, and its response.

The policy was signed by the client's key and for this proxy's address; a node could not check
it. What it allows is checked here.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import hmac
import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit
from xml.sax.saxutils import escape

from s3pool.errors import ProtocolError
from s3pool.model import UNSIGNED_PAYLOAD, Response
from s3pool.proxy.auth import ANONYMOUS, DUMMY_SECRET, QUERY_V2, QUERY_V4, Caller, Verifier
from s3pool.proxy.clients import Client
from s3pool.proxy.errors import REASONS, S3ErrorResponse, forbidden
from s3pool.proxy.forms import FORM_TYPE, UploadForm
from s3pool.proxy.names import is_ambiguous_key
from s3pool.proxy.request import RequestHead
from s3pool.record import dataclass, replace
from s3pool.s3.documents import is_web_page, parse_tags
from s3pool.s3.responses import PLAUSIBLE_ETAG
from s3pool.s3.signing import UNRESERVED
from s3pool.units import word_set

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
        """Check a form against the policy, but for the size of its file.

        Raises S3ErrorResponse: the policy has expired, a condition fails, or a field is not spoken of.
        """
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
        """Check the file's size against the policy. Raises S3ErrorResponse: it is too small."""
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
    if match is None:
        raise _invalid("it has no valid expiration.")
    try:
        return float(calendar.timegm(time.strptime(match[1], DATE_FORMAT)))
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
PLAIN_FIELDS = frozenset({"cache-control", "content-disposition", "content-encoding", "content-language", "expires"})
AMZ_PREFIXES = ("x-amz-meta-", "x-amz-server-side-encryption", "x-amz-object-lock-", "x-amz-checksum-", "x-amz-grant-")
AMZ_FIELDS = word_set(
    "x-amz-acl x-amz-storage-class x-amz-website-redirect-location x-amz-sdk-checksum-algorithm x-amz-tagging "
    "x-amz-request-payer x-amz-expected-bucket-owner"
)
CONTENT_TYPE = "content-type"
RENAMED_FIELDS = {CONTENT_TYPE: "Content-Type", "acl": "x-amz-acl", "tagging": "x-amz-tagging"}
# Of the form's own head: nothing there is signed, and these change nothing.
KEPT_FIELDS = frozenset({"user-agent", "origin"})


def is_form(head: RequestHead) -> bool:
    """Return whether a request is an upload form."""
    return head.method == "POST" and head.value("content-type").lower().startswith(FORM_TYPE)


class FormVerifier:
    """Verifies the signature of a form's policy."""

    def __init__(self, verifier: Verifier, clients: Mapping[str, Client], *, allows_v2: bool, allows_anonymous: bool):
        self._verifier = verifier
        self._clients = clients
        self._allows_v2 = allows_v2
        self._allows_anonymous = allows_anonymous

    def identify(self, form: UploadForm, bucket: str, *, now: float) -> tuple[UploadForm, Caller, Policy | None]:
        """Return a form with its content type, its sender, and its policy (None if unsigned).

        The type that a browser gives its file counts where the policy speaks of it, and nowhere else: a page of HTML
        under a trusted name is a script of whoever uploaded it.

        Raises S3ErrorResponse: the signature does not hold, or the form is not what the policy allows.
        """
        encoded = form.value("policy")
        if "x-amz-signature" in form.fields or "x-amz-credential" in form.fields:
            client = self._verifier.verify_policy(form.fields, _required(form, "policy"))
            _check_token(form, client)
            caller = Caller(QUERY_V4, client, UNSIGNED_PAYLOAD)
        elif "signature" in form.fields or "awsaccesskeyid" in form.fields:
            caller = self._verify_v2(form, _required(form, "policy"))
        elif encoded:
            raise S3ErrorResponse(400, "InvalidArgument", "Bucket POST must contain a field named 'signature'.")
        elif not self._allows_anonymous:
            raise forbidden("AccessDenied", "Access Denied", reason="anonymous")
        else:
            return with_file_type(form), Caller(ANONYMOUS, None, ""), None
        policy = read_policy(encoded)
        form = with_file_type(form) if any(name == CONTENT_TYPE for _, name, _ in policy.conditions) else form
        _required(form, "key")  # which is no matter of the policy
        policy.check(form, bucket, now=now)
        if is_ambiguous_key(form.key.lstrip("/")):  # which may lead out of what the policy allows
            raise S3ErrorResponse(
                400, "InvalidArgument", "a form's key may not have . or .. between slashes", reason="policy"
            )
        return form, caller, policy

    def _verify_v2(self, form: UploadForm, encoded: str) -> Caller:
        if not self._allows_v2:
            detail = "Signature Version 2 is not accepted here. Please use AWS4-HMAC-SHA256."
            raise S3ErrorResponse(400, "InvalidRequest", detail, reason="sigv2")
        client = self._clients.get(_required(form, "awsaccesskeyid"))
        secret = client.secret_key if client else DUMMY_SECRET
        expected = base64.b64encode(hmac.digest(secret.encode(), encoded.encode("utf-8", "replace"), "sha1"))
        claimed = _required(form, "signature")
        holds = hmac.compare_digest(expected, claimed.encode("utf-8", "replace"))
        if client is None:
            raise forbidden("InvalidAccessKeyId", "the access key is not known here", reason="unknown_key")
        if not holds:
            raise forbidden("SignatureDoesNotMatch", "the signature is not that of this policy", reason="signature")
        _check_token(form, client)
        return Caller(QUERY_V2, client, UNSIGNED_PAYLOAD)


def with_file_type(form: UploadForm) -> UploadForm:
    """Return a form with the content type of its file, if it has no field for it."""
    if not form.file_type or CONTENT_TYPE in form.fields:
        return form
    return replace(form, fields={**form.fields, CONTENT_TYPE: form.file_type})


def _check_token(form: UploadForm, client: Client) -> None:
    token = form.value("x-amz-security-token").encode("utf-8", "replace")
    if not hmac.compare_digest(token, client.session_token.encode("utf-8", "replace")):
        raise forbidden("InvalidToken", "the session token is not known here", reason="token")


def _required(form: UploadForm, name: str) -> str:
    value = form.value(name)
    if not value:
        raise S3ErrorResponse(400, "InvalidArgument", f"Bucket POST must contain a field named '{name}'.")
    return value


def put_head(head: RequestHead, form: UploadForm, bucket: str) -> RequestHead:
    """Return the head of the PUT that a form means, path-style. Raises S3ErrorResponse: the form names no key."""
    _required(form, "key")
    key = quote(form.key.encode("utf-8", "surrogateescape"), safe=UNRESERVED + "/")
    fields = [(name, value) for name, value in head.fields if name.lower() in KEPT_FIELDS]
    own = {
        name: value
        for name, value in form.fields.items()
        if name in PLAIN_FIELDS or name in AMZ_FIELDS or name.startswith(AMZ_PREFIXES)
    }
    for name, header in RENAMED_FIELDS.items():
        if value := form.value(name):
            if header in own:
                raise S3ErrorResponse(
                    400, "InvalidArgument", f"the fields {name} and {header} mean the same", reason="malformed"
                )
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
    """Turn the answer to a PUT into that to a form; ``url`` is the object's address.

    Raises S3ErrorResponse: it is no S3's, so that nothing proves that the file was stored.
    """
    if response.status != OK:
        return response
    etag = response.headers.get("etag", "")
    if is_web_page(response.preload()) or not PLAUSIBLE_ETAG.fullmatch(etag.strip('"')):
        raise S3ErrorResponse(
            502, "BadGateway", "the storage node's answer has no ETag: the file may not have been stored"
        )
    status, extra, body = _outcome(form, bucket, etag, url)
    # The node's own framing and type speak of its own, empty body.
    kept = [
        line
        for line in response.lines
        if line.partition(":")[0].lower() not in ("content-type", "content-length", "location")
    ]
    answer = Response(
        status,
        response.headers,
        response._stream,
        endpoint=response.endpoint,
        reason=REASONS[status],
        lines=(*kept, *(f"{name}: {value}" for name, value in extra)),
        length=len(body),
    )
    answer.body = body
    return answer


def _outcome(form: UploadForm, bucket: str, etag: str, url: str) -> tuple[int, list[tuple[str, str]], bytes]:
    try:
        target = urlsplit(form.value("success_action_redirect") or form.value("redirect"))
    except ValueError:  # a host in brackets that is none; the object is stored all the same
        target = urlsplit("")
    if target.scheme in ("http", "https") and target.netloc:
        pairs = [
            *parse_qsl(target.query, keep_blank_values=True),
            ("bucket", bucket),
            ("key", form.key),
            ("etag", etag),
        ]
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

"""Settings of buckets and objects: S3's sub-resources, one table of how each is asked for, read and written.

A value is what JSON can hold: the words of S3's XML, with lists named as the AWS command line names
them (``Rules``, ``AllowedOrigins``), or a policy as it stands. None means that nothing is set.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from s3pool.errors import ProtocolError, S3Error, S3PoolError, UnsupportedError, UsageError
from s3pool.model import Request, Response, replace
from s3pool.record import dataclass
from s3pool.s3.documents import BLANKS, TRUTH, Element, build_document, escape_text, is_error, parse, read_root
from s3pool.s3.operation import Opening, Operations, Sender, nothing
from s3pool.s3.responses import FIRST_BAD_STATUS, error_from
from s3pool.units import word_set

MAX_DOCUMENT_BYTES = 1 << 20  # S3's largest has 1000 rules of a lifecycle
UNKNOWN_STATUSES = (405, 501)
UNKNOWN_CODES = frozenset(("MethodNotAllowed", "NotImplemented", "UnsupportedOperation", "XNotImplemented"))
BYPASS_GOVERNANCE = "x-amz-bypass-governance-retention"
NAME = re.compile("[A-Za-z]+")

# Elements that may stand several times, by what they stand in, and the name of their list.
LISTS = {
    ("LifecycleConfiguration", "Rule"): "Rules",
    ("Rule", "Transition"): "Transitions",
    ("Rule", "NoncurrentVersionTransition"): "NoncurrentVersionTransitions",
    ("And", "Tag"): "Tags",
    ("ServerSideEncryptionConfiguration", "Rule"): "Rules",
    ("CORSConfiguration", "CORSRule"): "CORSRules",
    ("CORSRule", "AllowedOrigin"): "AllowedOrigins",
    ("CORSRule", "AllowedMethod"): "AllowedMethods",
    ("CORSRule", "AllowedHeader"): "AllowedHeaders",
    ("CORSRule", "ExposeHeader"): "ExposeHeaders",
    ("TagSet", "Tag"): "Tags",
}
SINGULARS = {(parent, plural): name for (parent, name), plural in LISTS.items()}
EMPTY_CONTAINERS = frozenset(("Filter", "TagSet"))
NUMBERS = word_set(
    "Days Years NoncurrentDays NewerNoncurrentVersions MaxAgeSeconds ObjectSizeGreaterThan ObjectSizeLessThan "
    "DaysAfterInitiation"
)
NUMBER = re.compile("[0-9]{1,18}")  # a server may say a longer one


@dataclass(frozen=True, slots=True)
class S3Setting:
    """One sub-resource: ``op`` names its operations, ``root`` its document ("" for JSON), ``absent`` what none is.

    ``alias`` is another root that some servers write.
    """

    name: str
    query: str
    op: str
    root: str
    absent: tuple[str, ...] = ()
    alias: str = ""


LOCKLESS = ("NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "NoSuchObjectLegalHold")
BUCKET_TAGS = S3Setting("tags of buckets", "tagging", "BucketTagging", "Tagging", ("NoSuchTagSet", "NoSuchTagSetError"))
OBJECT_TAGS = S3Setting("tags of objects", "tagging", "ObjectTagging", "Tagging", ("NoSuchTagSet", "NoSuchTagSetError"))
VERSIONING = S3Setting(
    "versions", "versioning", "BucketVersioning", "VersioningConfiguration", alias="GetBucketVersioningResponse"
)
RETENTION = S3Setting(
    "the retention of objects", "retention", "ObjectRetention", "Retention", LOCKLESS, alias="ObjectLockRetention"
)
LEGAL_HOLD = S3Setting("legal holds", "legal-hold", "ObjectLegalHold", "LegalHold", LOCKLESS)
LOCK = S3Setting("object locks", "object-lock", "ObjectLockConfiguration", "ObjectLockConfiguration", LOCKLESS)
POLICY = S3Setting("bucket policies", "policy", "BucketPolicy", "", ("NoSuchBucketPolicy", "NoSuchPolicy"))
NO_RULES = ("NoSuchLifecycleConfiguration",)
LIFECYCLE = S3Setting(
    "lifecycle rules", "lifecycle", "BucketLifecycleConfiguration", "LifecycleConfiguration", NO_RULES
)
CORS = S3Setting(
    "CORS rules", "cors", "BucketCors", "CORSConfiguration", ("NoSuchCORSConfiguration", "NoSuchCORSConfigurationError")
)
SSE_ROOT = "ServerSideEncryptionConfiguration"
ENCRYPTION = S3Setting("default encryption", "encryption", "BucketEncryption", SSE_ROOT, (f"{SSE_ROOT}NotFoundError",))
RESTORE = S3Setting("the restoring of archived objects", "restore", "RestoreObject", "RestoreRequest")


class Place(NamedTuple):
    """A bucket, an object, or one version of it."""

    bucket: str
    key: str = ""
    version_id: str = ""


class SettingOperations(Operations):
    """Read, write and delete settings.

    Before the first write of a kind the setting is read: only so it is certain that the server knows
    it. One that passes over the sub-resource would replace the object, or delete the bucket.

    Every method may raise UnsupportedError: the server does not know the setting.
    """

    def __init__(self, transport: Sender, *, addressing: str, region: str) -> None:
        super().__init__(transport, addressing=addressing, region=region)
        self._proven: set[tuple[S3Setting, str]] = set()

    def get(self, setting: S3Setting, place: Place) -> Any:
        """Return the value, None where nothing is set."""
        request = self._request("GET", f"Get{setting.op}", setting, place)
        opening = Opening(self.sender, request, lambda response: _check_document(response, request, setting))
        try:
            value = read_document(setting, opening.run().preload())
        except S3Error as exc:
            if exc.code not in setting.absent:
                raise _explained(exc, setting) from exc
            value = None
        self._proven.add((setting, place.bucket))
        return value

    def put(self, setting: S3Setting, place: Place, *, value: Any, bypass: bool = False) -> None:
        """Replace the value; ``bypass`` uses the right to pass over governance."""
        content = build_setting(setting, value)
        if (setting, place.bucket) not in self._proven:
            self.get(setting, place)
        self._send(self._request("PUT", f"Put{setting.op}", setting, place, content=content), setting, bypass=bypass)

    def delete(self, setting: S3Setting, place: Place) -> None:
        """Delete the value; none is fine."""
        if (setting, place.bucket) not in self._proven:
            self.get(setting, place)
        try:
            self._send(self._request("DELETE", f"Delete{setting.op}", setting, place), setting)
        except S3Error as exc:
            if exc.code not in setting.absent:
                raise

    def restore(self, place: Place, *, value: Any) -> None:
        """Ask for a copy of an archived object."""
        self._send(self._request("POST", RESTORE.op, RESTORE, place, content=build_setting(RESTORE, value)), RESTORE)

    def _send(self, request: Request, setting: S3Setting, *, bypass: bool = False) -> None:
        if bypass:
            request = replace(request, headers={**request.headers, BYPASS_GOVERNANCE: "true"})
        try:
            self._ask(request, nothing)
        except S3Error as exc:
            raise _explained(exc, setting) from exc

    def _request(self, method: str, op: str, setting: S3Setting, place: Place, *, content: bytes = b"") -> Request:
        bucket, key, version_id = place
        query = ((setting.query, ""), *((("versionId", version_id),) if version_id else ()))
        if not key:
            return self._address.bucket(method, bucket, op, query=query, content=content)
        if not content:
            return self._address.key(method, bucket, key, op, query=query)
        return self._address.key_document(method, bucket, key, op, query=query, content=content)


def _explained(error: S3Error, setting: S3Setting) -> S3PoolError:
    """Return an error that says what the server does not know, where it is that."""
    if error.status in UNKNOWN_STATUSES or error.code in UNKNOWN_CODES:
        return unsupported(setting, error.resource, f"{error.op}: {error.status} {error.code} at {error.endpoint}")
    if error.code == "InvalidRequest" and setting in (RETENTION, LEGAL_HOLD, LOCK):
        error.hint = "only a bucket made by mb --lock has object locks"
    if error.code == "InvalidObjectState" and setting is RESTORE:
        error.hint = "only what lies in an archive can be restored"
    return error


def unsupported(setting: S3Setting, resource: str, what: str) -> UnsupportedError:
    """Return the error of a server without a setting."""
    return UnsupportedError(f"{resource}: this server does not know {setting.name} ({what})")


def _check_document(response: Response, request: Request, setting: S3Setting) -> None:
    """Refuse an error, and what is not the setting: some servers pass over what they do not know."""
    op, resource = request.op, request.resource
    what = f"{op} at {response.endpoint} was answered with something else"
    is_bad = response.status >= FIRST_BAD_STATUS
    if not is_bad and not response.read_ahead(MAX_DOCUMENT_BYTES):
        response.close()
        raise unsupported(setting, resource, what)
    body = b"" if is_bad else response.preload()
    if is_bad or is_error(body):
        raise error_from(response, op=op, resource=resource)
    try:
        is_dict = not setting.root and isinstance(json.loads(body), dict)
        is_meant = is_dict or (setting.root and parse(body).name in (setting.root, setting.alias))
    except (ProtocolError, ValueError):
        is_meant = False
    if not is_meant:
        raise unsupported(setting, resource, what)


# -- documents -----------------------------------------------------------------------------


def read_document(setting: S3Setting, text: bytes) -> Any:
    """Read a document in XML or JSON; a JSON list is no document.

    Raises ProtocolError: it is broken, or another document.
    """
    if setting.root and text.lstrip(BLANKS).startswith(b"<"):
        return _value_of(read_root(text, setting.root, alias=setting.alias))
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise ProtocolError(f"broken JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise ProtocolError("the document is no JSON object")
    return value


def build_setting(setting: S3Setting, value: Any) -> bytes:
    """Write a document as the server wants it. Raises UsageError: the value has what no such document has."""
    if not setting.root:
        return json.dumps(value, ensure_ascii=False).encode()
    return build_document(setting.root, _items(setting.root, value))


def _value_of(element: Element) -> Any:
    name, text = element.name, element.text
    if not element.children:
        if name in EMPTY_CONTAINERS or name.endswith("Configuration"):
            return {}
        return int(text) if name in NUMBERS and NUMBER.fullmatch(text) else TRUTH.get(text, text)
    value: dict[str, Any] = {}
    for child in element.children:
        if plural := LISTS.get((name, child.name)):
            value.setdefault(plural, []).append(_value_of(child))
        else:
            value[child.name] = _value_of(child)
    return value


def _items(parent: str, value: dict[str, Any]) -> list[str]:
    texts = []
    for name, item in value.items():
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name of an element of {parent}")
        if isinstance(item, list):
            single = SINGULARS.get((parent, name))
            if single is None:
                raise UsageError(f"{name} in {parent} is no list")
            texts += [_element(single, each) for each in item]
        else:
            texts.append(_element(name, item))
    return texts


def _element(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"<{name}>{''.join(_items(name, value))}</{name}>"
    if isinstance(value, bool):
        return f"<{name}>{str(value).lower()}</{name}>"
    if isinstance(value, (str, int)):
        return f"<{name}>{escape_text(str(value))}</{name}>"
    raise UsageError(f"{name} cannot hold {value!r}")

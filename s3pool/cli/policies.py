"""What anonymous users may do, in mc's words (none, download, upload, public), as statements of a bucket policy."""

from __future__ import annotations

from typing import Any

from s3pool.location import S3Path

Statement = dict[str, Any]

POLICY_VERSION = "2012-10-17"
ARN = "arn:aws:s3:::"
EVERYBODY = {"AWS": ["*"]}
NONE, DOWNLOAD, UPLOAD, PUBLIC, CUSTOM = "none", "download", "upload", "public", "custom"
WORDS = {"private": NONE, NONE: NONE, DOWNLOAD: DOWNLOAD, UPLOAD: UPLOAD, PUBLIC: PUBLIC}
# Rights to the bucket, to a listing of it, and to its objects. mc grants the same, and knows these again.
LOCATION = ("s3:GetBucketLocation",)
LIST = ("s3:ListBucket",)
UPLOADS = ("s3:ListBucketMultipartUploads",)
READ = ("s3:GetObject",)
WRITE = ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:ListMultipartUploadParts", "s3:PutObject")
RIGHTS = frozenset((*LOCATION, *LIST, *UPLOADS, *READ, *WRITE))


def with_access(policy: Any, path: S3Path, word: str) -> dict[str, Any] | None:
    """Return a policy that grants what ``word`` says below a path, and what else it granted; None for nothing."""
    kept = [statement for statement in statements_of(policy) if not _is_ours(statement, path)]
    granted = _statements(path, word)
    if not (kept or granted):
        return None
    return {**(policy or {"Version": POLICY_VERSION}), "Statement": [*kept, *granted]}


def access_of(policy: Any, path: S3Path) -> str:
    """Return the word for what everybody may do below a path; ``custom`` for what no word tells."""
    rights: set[str] = set()
    for statement in statements_of(policy):
        if not _touches(statement, path):
            continue
        actions = set(_texts(statement, "Action"))
        if not _covers(statement, path) or not actions <= RIGHTS:
            return CUSTOM
        rights |= actions
    may_read, may_write = not rights.isdisjoint(READ), not rights.isdisjoint(WRITE)
    return next(word for word in WORDS.values() if (may_read, may_write) == (_reads(word), _writes(word)))


def statements_of(policy: Any) -> list[Statement]:
    """Return the statements of a policy; one may stand without a list."""
    found = (policy or {}).get("Statement", [])
    return [found] if isinstance(found, dict) else list(found)


def _reads(word: str) -> bool:
    return word in (DOWNLOAD, PUBLIC)


def _writes(word: str) -> bool:
    return word in (UPLOAD, PUBLIC)


def _statements(path: S3Path, word: str) -> list[Statement]:
    rights = (*(READ if _reads(word) else ()), *(WRITE if _writes(word) else ()))
    if not rights:
        return []
    bucket, condition = [f"{ARN}{path.bucket}"], {"Condition": {"StringEquals": {"s3:prefix": [path.key]}}}
    statements = [_allow(rights, [f"{ARN}{path.bucket}/{path.key}*"])]
    if _reads(word):
        statements.append({**_allow(LIST, bucket), **(condition if path.key else {})})
    if not path.key:
        statements.append(_allow((*LOCATION, *(UPLOADS if _writes(word) else ())), bucket))
    return statements


def _allow(actions: tuple[str, ...], resources: list[str]) -> Statement:
    return {"Effect": "Allow", "Principal": EVERYBODY, "Action": list(actions), "Resource": resources}


def _is_ours(statement: Statement, path: S3Path) -> bool:
    """Return whether a statement is one that a word for this path grants: other ones are left alone."""
    if not _grants_everybody(statement) or not set(_texts(statement, "Action")) <= RIGHTS:
        return False
    resources = _texts(statement, "Resource")
    if resources == [f"{ARN}{path.bucket}/{path.key}*"]:
        return not statement.get("Condition")
    return resources == [f"{ARN}{path.bucket}"] and _prefix_of(statement) == path.key


def _prefix_of(statement: Statement) -> str | None:
    """Return the prefix that a statement is about: "" for all, None when it has other conditions."""
    condition = statement.get("Condition")
    if not condition:
        return ""
    prefixes = condition.get("StringEquals", {}).get("s3:prefix")
    if len(condition) > 1 or prefixes is None:
        return None
    return prefixes if isinstance(prefixes, str) else (prefixes[0] if len(prefixes) == 1 else None)


def _touches(statement: Statement, path: S3Path) -> bool:
    """Return whether a statement is about what everybody may do with objects below a path."""
    place = f"{ARN}{path.bucket}/{path.key}"
    starts = [text.rstrip("*") for text in _texts(statement, "Resource") if "/" in text or text.endswith("*")]
    meets = any(place.startswith(start) or start.startswith(place) for start in starts)
    return meets and (_grants_everybody(statement) or statement.get("Effect") == "Deny")


def _covers(statement: Statement, path: S3Path) -> bool:
    """Return whether a statement allows something for all objects below a path, without a condition."""
    place = f"{ARN}{path.bucket}/{path.key}"
    resources = [text for text in _texts(statement, "Resource") if text.endswith("*")]
    is_plain = _grants_everybody(statement) and not statement.get("Condition")
    return is_plain and any(place.startswith(text.rstrip("*")) for text in resources)


def _grants_everybody(statement: Statement) -> bool:
    principal = statement.get("Principal")
    everybody = principal.get("AWS") if isinstance(principal, dict) else principal
    return statement.get("Effect") == "Allow" and everybody in ("*", ["*"])


def _texts(statement: Statement, name: str) -> list[str]:
    value = statement.get(name, [])
    return [value] if isinstance(value, str) else list(value)

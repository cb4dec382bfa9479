"""The policy that comes with an upload form: who signed it, and what it allows.

Source: Amazon S3 API Reference, "Authenticating Requests in Browser-Based Uploads Using POST".
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

from s3pool.proxy.denial import Denial, forbidden
from s3pool.proxy.forms import Form
from s3pool.record import dataclass

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
    """What a form may hold; ``least`` and ``most`` bound the file's size in bytes."""

    expires: float
    conditions: tuple[Condition, ...]
    least: int = 0
    most: int = UNLIMITED

    def speaks_of(self, name: str) -> bool:
        """Return whether a condition is about a field, whose name is in lower case."""
        return any(name == other for _, other, _ in self.conditions)

    def check(self, form: Form, bucket: str, *, now: float) -> None:
        """Hold a form against the policy; the size of its file is for later.

        Raises:
            Denial: the policy has expired, a condition fails, or a field is not spoken of.
        """
        if now >= self.expires:
            raise _violated("Policy expired.")
        values = {**form.fields, "bucket": bucket, "key": form.key}
        for operator, name, wanted in self.conditions:
            value = values.get(name, "")
            if not (value.startswith(wanted) if operator == "starts-with" else value == wanted):
                raise _violated(f'Policy Condition failed: ["{operator}", "${name}", "{wanted}"]')
        spoken_of = {name for _, name, _ in self.conditions}
        extra = sorted(name for name in values.keys() - spoken_of - FREE if not name.startswith(FREE_PREFIX))
        if extra:
            raise _violated(f"Extra input fields: {', '.join(extra)}")

    def check_size(self, size: int) -> None:
        """Hold the file's size against the policy.

        Raises:
            Denial: it is too small.
        """
        if size < self.least:
            detail = "Your proposed upload is smaller than the minimum allowed object size"
            raise Denial(400, "EntityTooSmall", detail)


def _violated(detail: str) -> Denial:
    return forbidden("AccessDenied", f"Invalid according to Policy: {detail}", reason="policy")


def _invalid(detail: str) -> Denial:
    return Denial(400, "InvalidPolicyDocument", f"Invalid Policy: {detail}", reason="policy")


def read_policy(encoded: str) -> Policy:
    """Read a policy from its form field.

    Raises:
        Denial: it is not base64 of JSON, or not a policy.
    """
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


def signature_v2(secret: str, encoded: str) -> str:
    """Give the signature that Version 2 puts on a policy."""
    return base64.b64encode(hmac.digest(secret.encode(), encoded.encode("utf-8", "replace"), "sha1")).decode()

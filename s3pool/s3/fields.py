"""Typed values of S3's XML: what is missing or misshapen is a ProtocolError."""

from __future__ import annotations

import re
from collections.abc import Mapping

from s3pool.errors import ProtocolError
from s3pool.model import format_iso_time, parse_iso_time, whole_number
from s3pool.s3.xmltree import Element, parse

ISO_MILLIS = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z")
KEPT_TEXT = 40  # characters of what is no number
TRUTH = {"true": True, "false": False}


def read_root(body: bytes, name: str, *, alias: str = "") -> Element:
    """Parse a document and check its root; some servers name a root after the operation."""
    root = parse(body)
    if root.name not in (name, alias):
        raise ProtocolError(f"the answer is a {root.name}, not a {name}")
    return root


def required(fields: Mapping[str, str], name: str) -> str:
    """Give the text of a field that must not be empty."""
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
    """Give a time stamp in the model's form; "" stays ""."""
    if not text or ISO_MILLIS.fullmatch(text):
        return text
    try:
        return format_iso_time(parse_iso_time(text.removesuffix("+00:00")))
    except ValueError as exc:
        raise ProtocolError(f"not a time stamp: {text!r}") from exc

"""The words in braces that find puts into --print and --exec."""

from __future__ import annotations

import re
from collections.abc import Callable

from s3pool.cli.search import Found
from s3pool.errors import UsageError
from s3pool.location import S3Path

FIELD = re.compile(r'\{(?:"(base|dir|size|time|url|version|)"|(base|dir|size|time|url|version|))\}')
FIELDS_HELP = '{} {base} {dir} {size} {time} {url} {version}; in quotes: {"base"}'
WORD = re.compile(r'\{("?)[A-Za-z][A-Za-z0-9_-]*\1\}')


def check_words(template: str) -> None:
    """Refuse a word in braces that is none of the known ones; other braces are plain text.

    Raises:
        UsageError: there is one.
    """
    for match in WORD.finditer(template):
        if FIELD.fullmatch(match[0]) is None:
            raise UsageError(f"unknown word {match[0]}; the words are {FIELDS_HELP}")


def fill(template: str, found: Found, presign: Callable[[S3Path], str]) -> str:
    """Put an object's words into a template; ``{url}`` is a presigned URL.

    A quoted form gives the word as a JSON text, so that programs can tell where it ends.
    """

    def word(match: re.Match[str]) -> str:
        quoted = match[1] is not None
        text = _word(match[1] if quoted else match[2], found, presign)
        return _quote(text) if quoted else text

    return FIELD.sub(word, template)


def _word(field: str, found: Found, presign: Callable[[S3Path], str]) -> str:
    text = found.path.text
    if field == "base":
        return found.name
    if field == "dir":
        return text.rstrip("/").rpartition("/")[0]
    if field == "url":
        return presign(found.path)
    info = found.info
    if field == "size":
        return str(info.size) if info else "0"
    if field == "time":
        return info.last_modified if info else ""
    if field == "version":
        return info.version_id if info else ""
    return text


def _quote(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)

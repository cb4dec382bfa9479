"""Paths of the command line: S3, local, or a standard stream.

Keys are never normalised. The rules for joining names, for trees and for globs are here too,
so that all commands share them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from s3pool.errors import RefusedError, UsageError
from s3pool.record import dataclass

MAX_BUCKET_BYTES = 255  # RGW's relaxed rule; AWS stops at 63 and says so itself
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
NOT_IN_BUCKETS = re.compile(r"[\x00-\x1f\x7f*?\[\]]")
DOT_NAMES = (".", "..")
AFTER_SLASH = "0"  # the character behind it: below k stands what lies between k/ and k0


def name_bytes(name: str) -> bytes:
    """Return the bytes of a key or file name, by which S3 sorts; str sorts surrogate escapes otherwise."""
    return name.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class S3Path:
    """A place in S3. No bucket: all buckets; no key: the bucket itself."""

    bucket: str
    key: str = ""

    @property
    def text(self) -> str:
        """Return the path as results show it: ``s3/bucket/key``."""
        if not self.bucket:
            return "s3"
        return f"s3/{self.bucket}/{self.key}" if self.key else f"s3/{self.bucket}"

    def __str__(self) -> str:
        return self.text

    @property
    def is_root(self) -> bool:
        """Return whether the path means all buckets."""
        return not self.bucket

    @property
    def is_bucket(self) -> bool:
        """Return whether the path names a bucket and no key."""
        return bool(self.bucket) and not self.key

    @property
    def is_prefix(self) -> bool:
        """Return whether the path is a directory of keys: a bucket, or a key that ends in ``/``."""
        return not self.key or self.key.endswith("/")

    @property
    def tree_prefix(self) -> str:
        """Return the prefix that recursive work lists: ``p`` and ``p/`` mean ``p/``, never ``p2/``."""
        return self.key if self.is_prefix else f"{self.key}/"

    @property
    def base_name(self) -> str:
        """Return the last component, a trailing ``/`` included: ``b/`` for ``a/b/``."""
        return self.key[self.key.rfind("/", 0, -1) + 1 :]

    def join(self, relative: str) -> S3Path:
        """Return the path of a relative key below this directory of keys."""
        return S3Path(self.bucket, self.tree_prefix + relative)

    def relative(self, key: str) -> str:
        """Return a key's name below this directory of keys, or its base name if it is this key.

        The directory's own marker object (``p/`` below ``p/``) gives the empty text.
        """
        prefix = self.tree_prefix
        if key.startswith(prefix):
            return key[len(prefix) :]
        if key == self.key:
            return self.base_name
        raise ValueError(f"{key!r} is not below {self.text}")


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A place on disk; bytes that are not UTF-8 stand as surrogate escapes."""

    path: str

    @property
    def text(self) -> str:
        """Return the path as it was written."""
        return self.path

    def __str__(self) -> str:
        return self.path

    @property
    def base_name(self) -> str:
        """Return the last component; empty for ``dir/``."""
        return os.path.basename(self.path)

    def join(self, relative: str) -> LocalPath:
        """Return the path of a relative name below this directory, without any check of the name."""
        return LocalPath(os.path.join(self.path, relative))


@dataclass(frozen=True, slots=True)
class StdStream:
    """Standard input or output, by where it stands."""

    @property
    def text(self) -> str:
        """Return ``-``, as the stream is written."""
        return "-"

    def __str__(self) -> str:
        return self.text

    @property
    def base_name(self) -> str:
        """Return "": a stream has no name."""
        return ""


Location = S3Path | LocalPath | StdStream


def parse(text: str, *, default_bucket: str = "") -> Location:
    """Read a path: ``s3/B/K`` and ``s3://B/K`` are S3, ``-`` a stream, the rest local."""
    if text == "-":
        return StdStream()
    if is_s3_text(text):
        return _parse_s3_text(text, default_bucket)
    if not text:
        raise UsageError("a path is empty; write s3/BUCKET/KEY, a local path, or - for a stream")
    if SCHEME.match(text):
        raise UsageError(f"bad path {text!r}: write s3/BUCKET/KEY or s3://BUCKET/KEY, or ./{text} for a local file")
    if "\0" in text:
        raise UsageError(f"bad path {text!r}: a local path cannot hold a NUL")
    return LocalPath(text)


NO_BUCKET_WORDS = ("", "-", "s3", ".", "..")  # the stream, all buckets, and directories


def rooted(text: str) -> str:
    """Return an operand with ``s3/`` before a bare word, which can be no local path where only S3 is meant."""
    return text if "/" in text or text in NO_BUCKET_WORDS else f"s3/{text}"


def parse_s3(text: str, *, default_bucket: str = "") -> S3Path:
    """Read a path that must be S3; ``s3``, ``s3/`` and ``s3://`` mean all buckets."""
    location = parse(text, default_bucket=default_bucket)
    if not isinstance(location, S3Path):
        raise UsageError(f"{text!r} is not in S3: write s3/BUCKET/KEY or s3://BUCKET/KEY")
    return location


def is_s3_text(text: str) -> bool:
    """Return whether a path is written as one in S3."""
    return text == "s3" or text.startswith(("s3/", "s3://"))


def _parse_s3_text(text: str, default_bucket: str) -> S3Path:
    rest = text[len("s3://") :] if text.startswith("s3://") else text[len("s3/") :]
    if not rest:
        return S3Path("", "")
    bucket, _, key = rest.partition("/")
    if not bucket:
        if not default_bucket:
            raise UsageError(f"{text!r} names no bucket and there is no default: set S3_BUCKET or write s3/BUCKET/KEY")
        bucket = default_bucket
    check_bucket_name(bucket)
    return S3Path(bucket, key)


def check_bucket_name(bucket: str) -> None:
    """Refuse what no server takes, and no more: RGW is wider than AWS.

    Raises UsageError: it is empty, too long, a dot name, or holds ``/``, globs or control characters.

    Source: Ceph RGW, valid_s3_bucket_name with rgw_relaxed_s3_bucket_names.
    """
    if not bucket or "/" in bucket or bucket in DOT_NAMES:
        raise UsageError(f"bad bucket name {bucket!r}")
    if NOT_IN_BUCKETS.search(bucket):
        raise UsageError(f"bad bucket name {bucket!r}: wildcards and control characters may stand in keys only")
    if len(bucket.encode("utf-8", "surrogateescape")) > MAX_BUCKET_BYTES:
        raise UsageError(f"bad bucket name {bucket!r}: longer than {MAX_BUCKET_BYTES} bytes")


def dest_for(source: Location, target: Location, *, is_directory: Callable[[str], bool] = os.path.isdir) -> Location:
    """Return the target of one copied file or object.

    A target that ends in ``/``, a bucket, or an existing directory gets the source's base
    name appended; any other target is the name.
    """
    if isinstance(target, LocalPath):
        takes_names = target.path.endswith("/") or is_directory(target.path)
    else:
        takes_names = isinstance(target, S3Path) and target.is_prefix
    if isinstance(target, StdStream) or not takes_names:
        return target
    name = source.base_name
    if isinstance(source, StdStream):
        raise UsageError(f"{target.text} is a directory: a stream needs the name of its target")
    if isinstance(target, LocalPath) and name.rstrip("/") in ("", *DOT_NAMES):
        raise RefusedError(f"{source.text}: its name {name!r} cannot be a file in {target.text}")
    return target.join(name)


def has_glob(key: str) -> bool:
    """Return whether a key holds ``*``, ``?`` or a closed ``[...]``."""
    return any(magic for _, magic in _iter_tokens(key))


def glob_prefix(pattern: str) -> str:
    """Return the literal text before the first wildcard, the prefix to list."""
    literal = []
    for token, magic in _iter_tokens(pattern):
        if magic:
            break
        literal.append(token)
    return "".join(literal)


def compile_glob(pattern: str) -> Callable[[str], bool]:
    """Return a test of whole names; ``*`` and ``?`` match ``/`` and newlines too."""
    match = re.compile(glob_regex(pattern) + r"\Z", re.DOTALL).match
    return lambda name: match(name) is not None


def glob_regex(pattern: str) -> str:
    r"""Translate a glob into a regular expression without end anchor; it needs DOTALL.

    All stars but the last match once and for all at the first place that fits (a lookahead
    with a backreference), so that ``*a*a*a*a`` cannot take exponential time.
    """
    segments = [""]
    for token, magic in _iter_tokens(pattern):
        if token == "*" and magic:
            segments.append("")
        else:
            segments[-1] += _token_regex(token) if magic else re.escape(token)
    if len(segments) == 1:
        return segments[0]
    first, *middle, last = segments
    atoms = [f"(?=(?P<g{n}>.*?{segment}))(?P=g{n})" for n, segment in enumerate(middle) if segment]
    return f"{first}{''.join(atoms)}.*{last}"


def _iter_tokens(pattern: str) -> Iterator[tuple[str, bool]]:
    """Yield each character, or bracket expression whole, and whether it is a wildcard."""
    place = 0
    while place < len(pattern):
        token = pattern[place]
        if token == "[":
            token = pattern[place : _bracket_end(pattern, place)]
        place += len(token)
        yield token, token in ("*", "?") or len(token) > 1


def _bracket_end(pattern: str, start: int) -> int:
    """Return the index after the closing bracket, or after ``[`` when there is none."""
    first = start + 1
    if pattern[first : first + 1] in ("!", "^"):
        first += 1
    # A bracket that stands first is a member of the set: []a] and [!]a].
    close = pattern.find("]", first + 1)
    return close + 1 if close >= 0 else start + 1


def _token_regex(token: str) -> str:
    if token == "?":
        return "."
    negated = token[1] in "!^"
    members = "".join(_iter_members(token[2:-1] if negated else token[1:-1]))
    if not members:  # only ranges that run backwards: nothing can match
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{members}]"


def _iter_members(text: str) -> Iterator[str]:
    place = 0
    while place < len(text):
        low, dash, high = text[place], text[place + 1 : place + 2], text[place + 2 : place + 3]
        if dash == "-" and high:
            place += 3
            if low <= high:
                yield f"{_escape_member(low)}-{_escape_member(high)}"
        else:
            place += 1
            yield _escape_member(low)


def _escape_member(char: str) -> str:
    # The operators &&, ~~, || and -- are reserved in sets, so each of their signs is escaped.
    return f"\\{char}" if char in "\\]^[-&~|" else char

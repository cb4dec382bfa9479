r"""Read the usual list page several times faster than expat, or not at all.

The parser recognises ``HEAD BLOCK* TAIL``, where a block is one object or version, and gives
up on everything else, so that the page is read with expat. Why both agree:

- HEAD must match a grammar without attributes, comments, CDATA or a DOCTYPE, at whose end
  any XML reader stands directly below the root.
- Each block must match a template: known children in the order of the first block, each
  once, with text alone. It is a whole element, and after it the reader stands where it stood
  before. The blocks touch: every byte between HEAD and TAIL is in one.
- HEAD and TAIL together are then a document of their own. Expat reads that, and the checks
  of a page are made on it by the same code as on any other page.
- No text holds a character that a reader would change or refuse: no ``<``, ``>`` or control
  character, and no ``&`` but for quotes around ETags and XML's own five entities in keys. The
  long ones are tested after the split, whole columns at once, which costs a tenth of narrow
  classes in the regex.
"""

from __future__ import annotations

import re
from binascii import a2b_qp
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import repeat

from s3pool.model import ObjectInfo

LAYOUTS_KEPT = 64  # a cluster sends a few orders of children and a few storage classes
HEAD = re.compile(
    r'(?:<\?xml version="1\.0"(?: encoding="(?:UTF|utf)-8")?\?>[ \n\t]*)?'
    r'<[A-Za-z]+(?: xmlns="[0-9A-Za-z:/.-]*")?>'
    r"(?:<([A-Za-z]+)>[^<>]*</\1>|<[A-Za-z]+/>)*"
)
CHILD = re.compile(r"<([A-Za-z]+)>([^<>]*|<ID>[^<>]*</ID><DisplayName>[^<>]*</DisplayName>)</\1>")
# XML refuses these two. A class that names characters beyond U+00FF would be slower.
NONCHARACTERS = ("\ufffe", "\uffff")
PLAIN = r"[^<>&\x00-\x1f]*"
QUOTES = ("&quot;", "&#34;", '"', "")
COLUMNS = {
    "Key": "([^<]+)",
    "LastModified": "([^<]{24})",
    "ETag": '(?:&quot;|&#34;|")?([0-9A-Za-z-]*)(?:&quot;|&#34;|")?',
    "Size": "([^<]{1,18})",
    "StorageClass": "([0-9A-Za-z_-]+)",
    "VersionId": "([0-9A-Za-z_.-]+)",
    "IsLatest": "(true|false)",
}
IGNORED = {
    "ChecksumAlgorithm": PLAIN,
    "ChecksumType": PLAIN,
    "Owner": f"<ID>{PLAIN}</ID><DisplayName>{PLAIN}</DisplayName>",
    "Type": PLAIN,
}
# For each kind of block the children that it must have, and those that it may have.
CHILDREN = {
    "Contents": (
        {"Key", "LastModified", "Size"},
        {"Key", "LastModified", "Size", "ETag", "StorageClass", *IGNORED},
    ),
    "Version": (
        {"Key", "LastModified", "Size", "VersionId", "IsLatest"},
        {"Key", "LastModified", "Size", "VersionId", "IsLatest", "ETag", "StorageClass", *IGNORED},
    ),
    "DeleteMarker": (
        {"Key", "LastModified", "VersionId", "IsLatest"},
        {"Key", "LastModified", "VersionId", "IsLatest", "Owner", "Type"},
    ),
}
DEFAULTS = {"ETag": "", "IsLatest": "true", "Size": "0", "StorageClass": "STANDARD", "VersionId": ""}
CONTROLS = bytes(range(ord(" ")))
ETAG_BYTES = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
TIME_OF_ZEROES = b"0000-00-00T00:00:00.000Z"
ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}  # the last one last
SHRINKAGE = len("%41") - len("A")


@dataclass(frozen=True, slots=True)
class Child:
    """One child of a kind of block. ``expected`` is text that must stand there, None for any.

    For an ETag it is the quote at both ends.
    """

    name: str
    expected: str | None = None

    @property
    def is_captured(self) -> bool:
        """Say whether its text becomes a column."""
        return self.name in COLUMNS and (self.name == "ETag" or self.expected is None)

    @property
    def pattern(self) -> str:
        """Give the regex of the element."""
        text = COLUMNS.get(self.name) or IGNORED[self.name]
        if self.expected is not None:
            text = re.escape(self.expected)
            if self.name == "ETag":
                text = f"{text}([^<{self.expected[:1]}]*){text}"
        return f"<{self.name}>{text}</{self.name}>"


@dataclass(frozen=True, slots=True)
class Layout:
    """One kind of block: its tag and its children in order."""

    tag: str
    children: tuple[Child, ...]

    @property
    def is_known(self) -> bool:
        """Say whether it can be taken apart safely."""
        names = {child.name for child in self.children}
        needed, allowed = CHILDREN[self.tag]
        return needed <= names <= allowed and len(names) == len(self.children)

    @property
    def pattern(self) -> str:
        """Give the regex of the block."""
        return f"<{self.tag}>{''.join(child.pattern for child in self.children)}</{self.tag}>"

    @property
    def captured(self) -> tuple[str, ...]:
        """Give the names of the columns, in order."""
        return tuple(child.name for child in self.children if child.is_captured)

    @property
    def constants(self) -> dict[str, str]:
        """Give the columns that have one value in all blocks."""
        return {
            child.name: child.expected or ""
            for child in self.children
            if child.name in COLUMNS and not child.is_captured
        }

    def loosened(self) -> Layout:
        """Give the layout that expects no particular text."""
        return Layout(self.tag, tuple(Child(child.name) for child in self.children))


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a page, still as columns of text, and the rest of the page."""

    columns: Mapping[str, Sequence[str]]
    is_marker: Sequence[bool]
    rest: bytes

    def objects(self, *, url: bool) -> tuple[ObjectInfo, ...] | None:
        """Give the objects; None when their text holds what only expat can tell."""
        joined = "\n".join(self.columns["Key"])
        keys = _decode_keys(joined, url=url) if self._is_plain(joined.encode()) else None
        return None if keys is None else self._build(keys)

    def _is_plain(self, keys: bytes) -> bool:
        """Test all columns whose regex takes any text."""
        count = len(self.is_marker)
        times = "".join(self.columns["LastModified"]).encode()
        return (
            len(keys) - len(keys.translate(None, CONTROLS)) == count - 1  # the line breaks between the keys
            and b">" not in keys
            and times.translate(DIGITS_TO_ZERO) == TIME_OF_ZEROES * count
            and "".join(self._column("Size")).encode().isdigit()
            and not "".join(self._column("ETag")).encode().translate(None, ETAG_BYTES)
        )

    def _build(self, keys: list[str]) -> tuple[ObjectInfo, ...]:
        latest = self.columns.get("IsLatest")
        rows = zip(
            keys,
            map(int, self._column("Size")),
            self.columns["LastModified"],
            self._column("ETag"),
            self._column("StorageClass"),
            self._column("VersionId"),
            [text == "true" for text in latest] if latest else repeat(True),
            self.is_marker,
            strict=False,
        )
        # Of the ways to build a named tuple this one stays in C for the whole page.
        return tuple(map(partial(tuple.__new__, ObjectInfo), rows))

    def _column(self, name: str) -> Sequence[str]:
        return self.columns.get(name) or [DEFAULTS[name]] * len(self.is_marker)


def split_page(body: bytes, *tags: str) -> Blocks | None:
    """Take the blocks with these tags out of a page; None when it is not exactly as expected."""
    text = _text_of(body)
    present = [tag for tag in tags if f"<{tag}>" in text]
    if not present:
        return None
    first = min(text.index(f"<{tag}>") for tag in present)
    last = max(text.rfind(f"</{tag}>") + len(f"</{tag}>") for tag in present)
    layouts = tuple(_learn(text, tag) for tag in present)
    if not HEAD.fullmatch(text, 0, first) or not all(layout.is_known for layout in layouts):
        return None
    middle, rest = text[first:last], (text[:first] + text[last:]).encode()
    # Most pages have one storage class; a template that expects it saves a fifth of the time.
    return _split(middle, layouts, rest) or _split(middle, tuple(layout.loosened() for layout in layouts), rest)


def _text_of(body: bytes) -> str:
    """Decode a page; "" when it is not plain UTF-8."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return ""
    if not text.isascii() and any(character in text for character in NONCHARACTERS):
        return ""
    return text


def _learn(text: str, tag: str) -> Layout:
    """Read the children of the first block with a tag, and what to expect of the others."""
    first = text.index(f"<{tag}>")
    block = text[first : max(first, text.find(f"</{tag}>", first))]
    children = CHILD.findall(block, len(f"<{tag}>"))
    return Layout(tag, tuple(Child(name, _expected(name, content)) for name, content in children))


def _expected(name: str, content: str) -> str | None:
    if name == "ETag":
        return next(quote for quote in QUOTES if content.startswith(quote))
    if name == "Owner":
        # Objects of one bucket nearly always have one owner.
        return content if re.fullmatch(IGNORED[name], content) else None
    if name in ("StorageClass", "ChecksumAlgorithm", "ChecksumType", "Type"):
        return content if re.fullmatch(COLUMNS["StorageClass"], content) else None
    return None


@lru_cache(LAYOUTS_KEPT)
def _template(layouts: tuple[Layout, ...]) -> re.Pattern[str]:
    return re.compile("|".join(layout.pattern for layout in layouts))


def _split(text: str, layouts: tuple[Layout, ...], rest: bytes) -> Blocks | None:
    """Take the columns out of blocks that touch; None when anything is between them."""
    # The pieces are what lies before a block, then its columns, and so on, then what lies behind.
    pieces = _template(layouts).split(text)
    step = 1 + sum(len(layout.captured) for layout in layouts)
    count = len(pieces) // step
    if not count or any(pieces[::step]):
        return None
    tables = list(_tables(layouts, pieces, step=step, count=count))
    if len(tables) == 1:
        return Blocks(tables[0], [layouts[0].tag == "DeleteMarker"] * count, rest)
    return _merged(layouts, tables, rest)


def _tables(
    layouts: tuple[Layout, ...], pieces: list[str], *, step: int, count: int
) -> Iterator[dict[str, Sequence[str]]]:
    """Yield the columns of each layout; they hold None for blocks of another one."""
    index = 1
    for layout in layouts:
        table: dict[str, Sequence[str]] = {name: [text] * count for name, text in layout.constants.items()}
        for name in layout.captured:
            table[name] = pieces[index::step]
            index += 1
        yield table


def _merged(layouts: tuple[Layout, ...], tables: list[dict[str, Sequence[str]]], rest: bytes) -> Blocks:
    """Make one table of two, in which each row comes from the layout that matched there."""
    mine, other = tables
    is_mine = [key is not None for key in mine["Key"]]
    columns = {
        name: [
            left if chosen else right
            for chosen, left, right in zip(
                is_mine,
                mine.get(name) or repeat(DEFAULTS[name]),
                other.get(name) or repeat(DEFAULTS[name]),
                strict=False,
            )
        ]
        for name in {*mine, *other}
    }
    mine_are_markers = layouts[0].tag == "DeleteMarker"
    return Blocks(columns, [chosen == mine_are_markers for chosen in is_mine], rest)


def _decode_keys(text: str, *, url: bool) -> list[str] | None:
    """Undo entities and percent signs on all keys at once; a line break stands between two keys."""
    if "&" in text:
        if text.count("&") != sum(map(text.count, ENTITIES)):
            return None
        for entity, character in ENTITIES.items():
            text = text.replace(entity, character)
    if url:
        text = text.replace("+", " ").replace("%2F", "/")
        decoded = _decode_escapes(text) if "%" in text else text
        return None if decoded is None else decoded.split("\n")
    return text.split("\n")


def _decode_escapes(text: str) -> str | None:
    """Undo percent signs; None for one that is no escape, or means a line break.

    Quoted-printable is the same with another sign, and its decoder is C. It leaves what is no
    escape, or drops a sign alone before a line break; in both cases the text shrinks by less,
    or by other characters, than the two of each escape.
    """
    if "%\n" in text or text.endswith("%"):
        return None
    quoted = text.replace("=", "=3D").replace("%", "=").encode()
    content = a2b_qp(quoted)
    is_whole = len(quoted) - len(content) == SHRINKAGE * quoted.count(b"=")
    if not is_whole or content.count(b"\n") != text.count("\n"):
        return None
    return content.decode("utf-8", "surrogateescape")

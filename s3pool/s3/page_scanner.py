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
- Where nothing but keys, times, ETags and sizes differs between the blocks of a page, the
  template only steps over the text between these by its length. Afterwards the columns are
  put back between the text that is expected, and that must give the page, byte by byte:
  the same is said by a template that matches it sign by sign, which takes longer.
- No text holds a character that a reader would change or refuse: no ``<``, ``>`` or control
  character, and no ``&`` but for quotes around ETags and XML's own five entities in keys. The
  long ones are tested after the split, whole columns at once, which costs a tenth of narrow
  classes in the regex.

All of it works on bytes: UTF-8 has no byte of these signs within another character.
"""

from __future__ import annotations

import re
import sys
from binascii import a2b_qp
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple

from s3pool.model import ObjectInfo
from s3pool.record import dataclass
from s3pool.s3.page_table import ObjectTable, Times, build_objects, texts_of

LAYOUTS_KEPT = 64  # a cluster sends a few orders of children and a few storage classes
HEAD = re.compile(
    rb'(?:<\?xml version="1\.0"(?: encoding="(?:UTF|utf)-8")?\?>[ \n\t]*)?'
    rb'<[A-Za-z]+(?: xmlns="[0-9A-Za-z:/.-]*")?>'
    rb"(?:<([A-Za-z]+)>[^<>]*</\1>|<[A-Za-z]+/>)*"
)
CHILD = re.compile(r"<([A-Za-z]+)>([^<>]*|<ID>[^<>]*</ID><DisplayName>[^<>]*</DisplayName>)</\1>")
NONCHARACTERS = ("\ufffe".encode(), "\uffff".encode())  # XML refuses these two
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
# What ends at a sign that cannot stand in it needs no way back, where regexes can say so.
FINAL = "+" if sys.version_info >= (3, 11) else ""
# The same behind a key where all the rest of a block is fixed; what they take too much is found afterwards.
FIXED = {
    "LastModified": f"(.{{24}}{FINAL})",
    "ETag": f"([^QUOTE]{{0,80}}{FINAL})",
    "Size": f"([^<]{{1,18}}{FINAL})",
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
DEFAULTS = {"ETag": b"", "IsLatest": b"true", "Size": b"0", "StorageClass": b"STANDARD", "VersionId": b""}
NEVER_IN_KEYS = bytes(range(ord(" "))) + b"<>"
ETAG_BYTES = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ENTITIES = {b"&lt;": b"<", b"&gt;": b">", b"&quot;": b'"', b"&apos;": b"'", b"&amp;": b"&"}  # the last one last
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
    def constants(self) -> dict[str, bytes]:
        """Give the columns that have one value in all blocks."""
        return {
            child.name: (child.expected or "").encode()
            for child in self.children
            if child.name in COLUMNS and not child.is_captured
        }

    def loosened(self) -> Layout:
        """Give the layout that expects no particular text."""
        return Layout(self.tag, tuple(Child(child.name) for child in self.children))


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a page, still as columns of text, and the rest of the page."""

    columns: Mapping[str, Sequence[bytes]]
    is_marker: Sequence[bool]
    rest: bytes

    def objects(self, *, url: bool) -> Sequence[ObjectInfo] | None:
        """Give the objects; None when their text holds what only expat can tell."""
        keys = self.columns["Key"]
        joined = b"\n".join(keys)
        times = Times(b"".join(self.columns["LastModified"]))
        if not (self._is_plain(joined) and times.are_sound(len(keys))):
            return None
        decoded = _decode_keys(joined, url=url)
        if decoded is None:
            return None
        return self._build(keys if decoded is joined else decoded.split(b"\n"), times)

    def _is_plain(self, keys: bytes) -> bool:
        """Test the other columns whose regex takes any text."""
        return (
            # All that goes are the line breaks between the keys.
            len(keys) - len(keys.translate(None, NEVER_IN_KEYS)) == len(self.is_marker) - 1
            and all(self.columns["Key"])
            and b"".join(self._column("Size")).isdigit()
            and not b"".join(self._column("ETag")).translate(None, ETAG_BYTES)
        )

    def _build(self, keys: Sequence[bytes], times: Times) -> Sequence[ObjectInfo]:
        sizes, etags, classes = map(self._column, ("Size", "ETag", "StorageClass"))
        latest = self.columns.get("IsLatest")
        if latest is None:
            return ObjectTable(keys, sizes=sizes, times=times, etags=etags, classes=classes)
        return build_objects(
            zip(
                texts_of(keys),
                map(int, sizes),
                times.all(),
                texts_of(etags),
                texts_of(classes),
                texts_of(self._column("VersionId")),
                [text == b"true" for text in latest],
                self.is_marker,
                strict=False,
            )
        )

    def _column(self, name: str) -> Sequence[bytes]:
        return self.columns.get(name) or [DEFAULTS[name]] * len(self.is_marker)


def split_page(body: bytes, *tags: str) -> Blocks | None:
    """Take the blocks with these tags out of a page; None when it is not exactly as expected."""
    present = [tag for tag in tags if b"<%b>" % tag.encode() in body]
    if not present or not _is_text(body):
        return None
    first = min(body.index(b"<%b>" % tag.encode()) for tag in present)
    last = max(body.rfind(end) + len(end) for end in (b"</%b>" % tag.encode() for tag in present))
    layouts = tuple(_learn(body, tag) for tag in present)
    if not HEAD.fullmatch(body, 0, first) or not all(layout.is_known for layout in layouts):
        return None
    # Most pages have one owner and one storage class, and where they do not this is soon found out.
    template = _fixed_template(layouts[0]) if len(layouts) == 1 else None
    found = _split_fixed(body, template, first, last) if template else _split(body, layouts, first, last)
    return found or _split(body, tuple(layout.loosened() for layout in layouts), first, last)


def _is_text(body: bytes) -> bool:
    """Say whether a page is plain UTF-8."""
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return not any(character in body for character in NONCHARACTERS)


def _learn(body: bytes, tag: str) -> Layout:
    """Read the children of the first block with a tag, and what to expect of the others."""
    first = body.index(b"<%b>" % tag.encode())
    block = body[first : max(first, body.find(b"</%b>" % tag.encode(), first))].decode()
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


class FixedTemplate(NamedTuple):
    """What stands between the columns of blocks that differ in nothing else; the first column is the key.

    ``start`` is before the first key, and behind each column is its text of ``texts``: the last
    of these leads up to the next key. ``pattern`` matches what is between two keys, by the
    length of what is expected.
    """

    layout: Layout
    start: bytes
    columns: tuple[str, ...]
    texts: tuple[bytes, ...]
    pattern: re.Pattern[bytes]


@lru_cache(LAYOUTS_KEPT)
def _fixed_template(layout: Layout) -> FixedTemplate | None:
    """Give the fixed template of a layout, None when more than usual differs from block to block."""
    key, *others = (child for child in layout.children if child.is_captured)
    is_usual = key.name == "Key" and all(child.name in FIXED for child in others)
    if not is_usual or any(child.expected is None for child in layout.children if not child.is_captured):
        return None
    start, *texts = _texts_between(layout)
    texts[-1] += start
    contents = [*map(_content_of, others), ""]
    pattern = "".join(_step_over(text) + content for text, content in zip(texts, contents, strict=True))
    return FixedTemplate(
        layout,
        start.encode(),
        layout.captured,
        tuple(text.encode() for text in texts),
        re.compile(pattern.encode(), re.DOTALL),
    )


def _texts_between(layout: Layout) -> list[str]:
    """Give what stands before the first column of a block, between them, and behind the last one."""
    texts = [f"<{layout.tag}>"]
    for child in layout.children:
        quote = (child.expected or "") if child.name == "ETag" else ""
        texts[-1] += f"<{child.name}>{quote}" if child.is_captured else f"<{child.name}>{child.expected}"
        if child.is_captured:
            texts.append(quote)
        texts[-1] += f"</{child.name}>"
    texts[-1] += f"</{layout.tag}>"
    return texts


def _content_of(child: Child) -> str:
    """Give the regex of a column."""
    return FIXED[child.name].replace("QUOTE", (child.expected or "<")[:1])


def _step_over(text: str) -> str:
    """Give a regex that takes so much text.

    The first character is matched as such: so the column before it can end in one way only,
    and a strange page costs no more than a usual one.
    """
    return f"{re.escape(text[:1])}.{{{len(text.encode()) - 1}}}{FINAL}"


def _split_fixed(body: bytes, template: FixedTemplate, first: int, last: int) -> Blocks | None:
    """Take the columns out of blocks that touch; None when the template does not give the same page with them."""
    start, columns, texts = template.start, template.columns, template.texts
    if not body.startswith(start, first):
        return None
    with memoryview(body) as view:
        middle = b"".join((view[first + len(start) : last], start))
    pieces = template.pattern.split(middle)
    count = len(pieces) // len(columns)
    filled = [b""] * (2 * len(pieces) - 1)
    filled[::2] = pieces
    filled[1::2] = texts * count
    # Behind the last match nothing may be left.
    if pieces.pop() or b"".join(filled) != middle:
        return None
    table: dict[str, Sequence[bytes]] = {name: [text] * count for name, text in template.layout.constants.items()}
    table.update((name, pieces[place :: len(columns)]) for place, name in enumerate(columns))
    return Blocks(table, [template.layout.tag == "DeleteMarker"] * count, body[:first] + body[last:])


@lru_cache(LAYOUTS_KEPT)
def _template(layouts: tuple[Layout, ...]) -> re.Pattern[bytes]:
    return re.compile("|".join(layout.pattern for layout in layouts).encode())


def _split(body: bytes, layouts: tuple[Layout, ...], first: int, last: int) -> Blocks | None:
    """Take the columns out of blocks that touch; None when anything is between them."""
    # The pieces are what lies before a block, then its columns, and so on, then what lies behind.
    pieces = _template(layouts).split(body[first:last])
    step = 1 + sum(len(layout.captured) for layout in layouts)
    count = len(pieces) // step
    if not count or any(pieces[::step]):
        return None
    tables = list(_tables(layouts, pieces, step=step, count=count))
    columns, is_marker = (
        (tables[0], [layouts[0].tag == "DeleteMarker"] * count) if len(tables) == 1 else _merged(layouts, tables)
    )
    return Blocks(columns, is_marker, body[:first] + body[last:])


def _tables(
    layouts: tuple[Layout, ...], pieces: list[bytes], *, step: int, count: int
) -> Iterator[dict[str, Sequence[bytes]]]:
    """Yield the columns of each layout; they hold None for blocks of another one."""
    index = 1
    for layout in layouts:
        table: dict[str, Sequence[bytes]] = {name: [text] * count for name, text in layout.constants.items()}
        for name in layout.captured:
            table[name] = pieces[index::step]
            index += 1
        yield table


def _merged(
    layouts: tuple[Layout, ...], tables: list[dict[str, Sequence[bytes]]]
) -> tuple[dict[str, Sequence[bytes]], list[bool]]:
    """Make one table of two, in which each row comes from the layout that matched there.

    Gives also which rows are delete markers.
    """
    mine, other = tables
    is_mine = [key is not None for key in mine["Key"]]
    columns: dict[str, Sequence[bytes]] = {
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
    return columns, [chosen == mine_are_markers for chosen in is_mine]


def _decode_keys(text: bytes, *, url: bool) -> bytes | None:
    """Undo entities and percent signs on all keys at once; a line break stands between two keys."""
    if b"&" in text:
        if text.count(b"&") != sum(map(text.count, ENTITIES)):
            return None
        for entity, character in ENTITIES.items():
            text = text.replace(entity, character)
    if url:
        text = text.replace(b"+", b" ").replace(b"%2F", b"/")
        return _decode_escapes(text) if b"%" in text else text
    return text


def _decode_escapes(text: bytes) -> bytes | None:
    """Undo percent signs; None for one that is no escape, or means a line break.

    Quoted-printable is the same with another sign, and its decoder is C. It leaves what is no
    escape, or drops a sign alone before a line break; in both cases the text shrinks by less,
    or by other characters, than the two of each escape.
    """
    if b"%\n" in text or text.endswith(b"%"):
        return None
    quoted = text.replace(b"=", b"=3D").replace(b"%", b"=")
    content = a2b_qp(quoted)
    is_whole = len(quoted) - len(content) == SHRINKAGE * quoted.count(b"=")
    return content if is_whole and content.count(b"\n") == text.count(b"\n") else None

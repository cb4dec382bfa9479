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
  template only steps over the text between these by its length. It is compared afterwards,
  with the first block's, all of it: nothing else is different from a template that matches
  it sign by sign, which takes longer.
- No text holds a character that a reader would change or refuse: no ``<``, ``>`` or control
  character, and no ``&`` but for quotes around ETags and XML's own five entities in keys. The
  long ones are tested after the split, whole columns at once, which costs a tenth of narrow
  classes in the regex.
"""

from __future__ import annotations

import re
from binascii import a2b_qp
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple

from s3pool.model import ObjectInfo
from s3pool.record import dataclass
from s3pool.s3.columns import TIME_LENGTH, ObjectTable, Times, build_objects

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
# The same where all the rest of a block is fixed; what they take too much is found afterwards.
FIXED = {"Key": "([^<]+)", "LastModified": "", "ETag": "([^QUOTE]{0,80})", "Size": "([^<]{1,18})"}
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
    times: Times
    is_marker: Sequence[bool]
    rest: bytes

    def objects(self, *, url: bool) -> Sequence[ObjectInfo] | None:
        """Give the objects; None when their text holds what only expat can tell."""
        joined = "\n".join(self.columns["Key"])
        keys = _decode_keys(joined, url=url) if self._is_plain(joined.encode()) else None
        return None if keys is None else self._build(keys)

    def _is_plain(self, keys: bytes) -> bool:
        """Test all columns whose regex takes any text."""
        count = len(self.is_marker)
        return (
            len(keys) - len(keys.translate(None, CONTROLS)) == count - 1  # the line breaks between the keys
            and b">" not in keys
            and self.times.are_sound(count)
            and "".join(self._column("Size")).encode().isdigit()
            and not "".join(self._column("ETag")).encode().translate(None, ETAG_BYTES)
        )

    def _build(self, keys: list[str]) -> Sequence[ObjectInfo]:
        sizes, etags, classes = map(self._column, ("Size", "ETag", "StorageClass"))
        latest = self.columns.get("IsLatest")
        if latest is None:
            return ObjectTable(keys, sizes=sizes, times=self.times, etags=etags, classes=classes)
        return build_objects(
            zip(
                keys,
                map(int, sizes),
                self.times.all(),
                etags,
                classes,
                self._column("VersionId"),
                [text == "true" for text in latest],
                self.is_marker,
                strict=False,
            )
        )

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
    # Most pages have one owner and one storage class, and where they do not this is soon found out.
    template = _fixed_template(layouts[0]) if len(layouts) == 1 else None
    found = _split_fixed(middle, template, rest) if template else _split(middle, layouts, rest)
    return found or _split(middle, tuple(layout.loosened() for layout in layouts), rest)


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


class Step(NamedTuple):
    """A part of a block: text that is expected, then a column, "" at the end."""

    text: str
    column: str
    content: str  # the regex of the column

    def groups(self) -> Iterator[tuple[str, str, str]]:
        """Yield regexes of one group each, with the column and the expected text that they hold.

        The first character is matched as such: so a column before it can end in one way only,
        and a strange page costs no more than a usual one.
        """
        first, run = re.escape(self.text[:1]), self.text[1:]
        if self.column == "LastModified":
            yield self.column, run, f"{first}(.{{{len(run) + TIME_LENGTH}}})"
            return
        if run:
            yield "", run, f"{first}(.{{{len(run)}}})"
        if self.column:
            yield self.column, "", self.content


class FixedTemplate(NamedTuple):
    """A regex that steps over the text it expects, by its length, and that text itself.

    There is a group for each of ``columns``, "" for expected text. ``runs`` is what must stand
    in such a group, word for word; for the time it is what stands before it.
    """

    layout: Layout
    pattern: re.Pattern[str]
    columns: tuple[str, ...]
    runs: tuple[str, ...]


@lru_cache(LAYOUTS_KEPT)
def _fixed_template(layout: Layout) -> FixedTemplate | None:
    """Give the fixed template of a layout, None when more than usual differs from block to block."""
    if not all(child.name in FIXED if child.is_captured else child.expected is not None for child in layout.children):
        return None
    first, *others = _steps(layout)
    steps = [first._replace(text=""), *others]
    columns, runs, patterns = zip(*(group for step in steps for group in step.groups()), strict=True)
    return FixedTemplate(layout, re.compile(re.escape(first.text) + "".join(patterns), re.DOTALL), columns, runs)


def _steps(layout: Layout) -> list[Step]:
    steps, text = [], f"<{layout.tag}>"
    for child in layout.children:
        quote = (child.expected or "") if child.name == "ETag" else ""
        text += f"<{child.name}>{quote}"
        if child.is_captured:
            steps.append(Step(text, child.name, FIXED[child.name].replace("QUOTE", quote[:1] or "<")))
            text = f"{quote}</{child.name}>"
        else:
            text += f"{child.expected}</{child.name}>"
    return [*steps, Step(f"{text}</{layout.tag}>", "", "")]


def _split_fixed(text: str, template: FixedTemplate, rest: bytes) -> Blocks | None:
    """Take the columns out of blocks that touch, and compare all that is expected between them."""
    pieces = template.pattern.split(text)
    step = 1 + len(template.columns)
    count = len(pieces) // step
    if not count or any(pieces[::step]):
        return None
    columns: dict[str, Sequence[str]] = {name: [text] * count for name, text in template.layout.constants.items()}
    lead = ""
    for index, (name, run) in enumerate(zip(template.columns, template.runs, strict=True), 1):
        column = pieces[index::step]
        if name:
            columns[name] = column
            lead = run or lead
        elif column.count(run) != count:
            return None
    times = Times("".join(columns.pop("LastModified")).encode(), lead.encode())
    return Blocks(columns, times, [template.layout.tag == "DeleteMarker"] * count, rest)


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
    columns, is_marker = (
        (tables[0], [layouts[0].tag == "DeleteMarker"] * count) if len(tables) == 1 else _merged(layouts, tables)
    )
    return Blocks(columns, Times("".join(columns.pop("LastModified")).encode()), is_marker, rest)


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


def _merged(
    layouts: tuple[Layout, ...], tables: list[dict[str, Sequence[str]]]
) -> tuple[dict[str, Sequence[str]], list[bool]]:
    """Make one table of two, in which each row comes from the layout that matched there.

    Gives also which rows are delete markers.
    """
    mine, other = tables
    is_mine = [key is not None for key in mine["Key"]]
    columns: dict[str, Sequence[str]] = {
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

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

All of it works on bytes: UTF-8 has no byte of these signs within another character.
"""

from __future__ import annotations

import re
from binascii import a2b_qp
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple

from s3pool.record import dataclass

TEMPLATES_KEPT = 64  # a cluster sends a few orders of children and a few storage classes
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
    "LastModified": "([^<]{20,24})",  # with milliseconds, or without
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
# For each kind of block the children that it must have, and those that it may have beside them.
CHILDREN = {
    "Contents": ({"Key", "LastModified", "Size"}, {"ETag", "StorageClass", *IGNORED}),
    "Version": ({"Key", "LastModified", "Size", "VersionId", "IsLatest"}, {"ETag", "StorageClass", *IGNORED}),
    "DeleteMarker": ({"Key", "LastModified", "VersionId", "IsLatest"}, {"Owner", "Type"}),
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
    def differs(self) -> bool:
        """Whether the text may be another one in each block."""
        return self.expected is None or self.name == "ETag"

    @property
    def is_captured(self) -> bool:
        """Whether the text becomes a column."""
        return self.name in COLUMNS and self.differs

    @property
    def content(self) -> str:
        """The regular expression of a text that differs, without the quotes that are expected."""
        if self.expected is None:
            return COLUMNS.get(self.name) or IGNORED[self.name]
        # One excluded character is found twice as fast as one of two; text that is no ETag's is found afterwards.
        return f"([^{self.expected[:1] or '<'}]{{0,80}})"


@dataclass(frozen=True, slots=True)
class RowTemplate:
    """One kind of block: its tag and its children in order."""

    tag: str
    children: tuple[Child, ...]

    @property
    def is_known(self) -> bool:
        """Whether the children are all known, each once, and none that is needed is missing."""
        names = {child.name for child in self.children}
        needed, others = CHILDREN[self.tag]
        return needed <= names <= needed | others and len(names) == len(self.children)

    @property
    def parts(self) -> tuple[list[str], list[str]]:
        """The texts that all blocks share, and the regular expressions of what stands between them."""
        texts, contents = [f"<{self.tag}>"], []
        for child in self.children:
            start, end = f"<{child.name}>", f"</{child.name}>"
            if child.differs:
                texts[-1] += start + (child.expected or "")
                texts.append((child.expected or "") + end)
                contents.append(child.content)
            else:
                texts[-1] += f"{start}{child.expected}{end}"
        texts[-1] += f"</{self.tag}>"
        return texts, contents

    @property
    def captured(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(child.name for child in self.children if child.is_captured)

    def constants(self, count: int) -> dict[str, Sequence[bytes]]:
        """Return the columns of so many blocks that have one text."""
        return {
            each.name: [(each.expected or "").encode()] * count
            for each in self.children
            if each.name in COLUMNS and not each.differs
        }


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a page, still as columns of text, and the rest of the page."""

    columns: Mapping[str, Sequence[bytes]]
    is_marker: Sequence[bool]
    rest: bytes

    def keys(self, *, url: bool) -> Sequence[bytes] | None:
        """Return the keys; None when they, or another column whose pattern takes any text, need expat."""
        keys = self.columns["Key"]
        joined = b"\n".join(keys)
        is_plain = (
            # All that goes are the line breaks between the keys.
            len(joined) - len(joined.translate(None, NEVER_IN_KEYS)) == len(self.is_marker) - 1
            and all(keys)
            and b"".join(self.column("Size")).isdigit()
            and not b"".join(self.column("ETag")).translate(None, ETAG_BYTES)
        )
        decoded = _decode_keys(joined, url=url) if is_plain else None
        return keys if decoded is joined else None if decoded is None else decoded.split(b"\n")

    @property
    def times(self) -> bytes:
        """The times in one text, as S3 writes them; versitygw and SeaweedFS tell whole seconds."""
        text = b"".join(self.columns["LastModified"])
        is_short = len(text) == len("0000-00-00T00:00:00Z") * len(self.is_marker)
        return text.replace(b"Z", b".000Z") if is_short else text

    def column(self, name: str) -> Sequence[bytes]:
        """Return a column, of what is usual where the page has none."""
        return self.columns.get(name) or [DEFAULTS[name]] * len(self.is_marker)


def split_page(body: bytes, *tags: str) -> Blocks | None:
    """Take the blocks with these tags out of a page; None when it is not exactly as expected."""
    present = [tag for tag in tags if b"<%b>" % tag.encode() in body]
    if not present:
        return None
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            return None
        if any(character in body for character in NONCHARACTERS):
            return None
    first = min(body.index(b"<%b>" % tag.encode()) for tag in present)
    last = max(body.rfind(end) + len(end) for end in (b"</%b>" % tag.encode() for tag in present))
    templates = tuple(_learn(body, tag) for tag in present)
    if not HEAD.fullmatch(body, 0, first) or not all(template.is_known for template in templates):
        return None
    usual = _steps(templates[0]) if len(templates) == 1 else None
    found = _split_by_steps(body, usual, first, last) if usual else _split(body, templates, first, last)
    if found is not None:
        return found
    # Most pages have one owner and one storage class; a page with several takes a second pass, with no text expected.
    loose = (RowTemplate(each.tag, tuple(Child(child.name) for child in each.children)) for each in templates)
    return _split(body, tuple(loose), first, last)


def _learn(body: bytes, tag: str) -> RowTemplate:
    """Read from the first block with a tag what to expect of the others."""
    first = body.index(b"<%b>" % tag.encode())
    block = body[first : max(first, body.find(b"</%b>" % tag.encode(), first))].decode()
    children = CHILD.findall(block, len(f"<{tag}>"))
    return RowTemplate(tag, tuple(Child(name, _expected(name, content)) for name, content in children))


def _expected(name: str, content: str) -> str | None:
    if name == "ETag":
        return next(quote for quote in QUOTES if content.startswith(quote))
    if name == "Owner":
        # Objects of one bucket nearly always have one owner.
        return content if re.fullmatch(IGNORED[name], content) else None
    if name in ("StorageClass", "ChecksumAlgorithm", "ChecksumType", "Type"):
        return content if re.fullmatch(COLUMNS["StorageClass"], content) else None
    return None


class Steps(NamedTuple):
    """A template whose blocks differ in their columns alone, the first of which is the key.

    ``start`` stands before the first key; each of ``texts`` behind a column, the last one up to the next key.
    ``pattern`` matches all from a key to the next one. It steps over the texts by their lengths, in half the time
    that comparing them takes; they are compared afterwards, all at once.
    """

    template: RowTemplate
    start: bytes
    texts: tuple[bytes, ...]
    pattern: re.Pattern[bytes]


@lru_cache(TEMPLATES_KEPT)
def _steps(template: RowTemplate) -> Steps | None:
    differing = [child for child in template.children if child.differs]
    is_quoted = all(child.is_captured and (child.name != "ETag" or child.expected is not None) for child in differing)
    if differing[0].name != "Key" or not is_quoted:
        return None
    (start, *texts), (_, *contents) = template.parts
    texts[-1] += start
    steps = (f"{re.escape(text[0])}.{{{len(text.encode()) - 1}}}" for text in texts)
    pattern = "".join(step + content for step, content in zip(steps, [*contents, ""], strict=True))
    return Steps(template, start.encode(), tuple(map(str.encode, texts)), re.compile(pattern.encode(), re.DOTALL))


def _split_by_steps(body: bytes, steps: Steps, first: int, last: int) -> Blocks | None:
    """Take the columns out of blocks that touch; None when they and the texts do not give the same page again."""
    template, start, texts, pattern = steps
    if not body.startswith(start, first):
        return None
    middle = body[first + len(start) : last] + start
    pieces = pattern.split(middle)
    count = len(pieces) // len(texts)
    filled = [b""] * (2 * len(pieces) - 1)
    filled[::2] = pieces
    filled[1::2] = texts * count
    # Behind the last match nothing may be left.
    if pieces.pop() or b"".join(filled) != middle:
        return None
    columns = {name: pieces[place :: len(texts)] for place, name in enumerate(template.captured)}
    is_marker = [template.tag == "DeleteMarker"] * count
    return Blocks({**template.constants(count), **columns}, is_marker, body[:first] + body[last:])


@lru_cache(TEMPLATES_KEPT)
def _compiled(templates: tuple[RowTemplate, ...]) -> re.Pattern[bytes]:
    parts = (template.parts for template in templates)
    blocks = (zip(map(re.escape, texts), [*contents, ""], strict=True) for texts, contents in parts)
    return re.compile("|".join("".join(map("".join, block)) for block in blocks).encode())


def _split(body: bytes, templates: tuple[RowTemplate, ...], first: int, last: int) -> Blocks | None:
    """Take the columns out of blocks that touch; None when anything is between them."""
    # The pieces are what lies before a block, then its columns, and so on, then what lies behind.
    pieces = _compiled(templates).split(body[first:last])
    step = 1 + sum(len(template.captured) for template in templates)
    count = len(pieces) // step
    if not count or any(pieces[::step]):
        return None
    tables: list[dict[str, Sequence[bytes]]] = []  # of each template; they hold None for blocks of another one
    index = 1
    for template in templates:
        tables.append(template.constants(count))
        for name in template.captured:
            tables[-1][name] = pieces[index::step]
            index += 1
    columns, is_marker = (
        (tables[0], [templates[0].tag == "DeleteMarker"] * count) if len(tables) == 1 else _merged(templates, tables)
    )
    return Blocks(columns, is_marker, body[:first] + body[last:])


def _merged(
    templates: tuple[RowTemplate, ...], tables: list[dict[str, Sequence[bytes]]]
) -> tuple[dict[str, Sequence[bytes]], list[bool]]:
    """Make one table of two, in which each row comes from the template that matched there.

    Returns also which rows are delete markers.
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
    mine_are_markers = templates[0].tag == "DeleteMarker"
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

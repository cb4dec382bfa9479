"""Walk keys or prefixes as deep as asked, and test each one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from s3pool.cli.selection import DELIMITER, Selection, iter_selected_pages
from s3pool.errors import NotFoundError, UsageError
from s3pool.filters import WHOLE, NameRange, Shard
from s3pool.location import S3Path, compile_glob, name_bytes
from s3pool.model import ListPage, ObjectInfo
from s3pool.record import replace

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client

FILE, DIRECTORY = "f", "d"


class Found(NamedTuple):
    """An object that was found, or a prefix, which has no ``info``."""

    bucket: str
    key: str
    relative: str
    info: ObjectInfo | None = None

    @property
    def path(self) -> S3Path:
        """The path of the object or prefix."""
        return S3Path(self.bucket, self.key)

    @property
    def name(self) -> str:
        """The base name, of a prefix without its slash."""
        return self.path.base_name.rstrip("/")


Test = Callable[[Found], bool]


def glob_test(glob: str, word_of: Callable[[Found], str], *, wanted: bool = True) -> Test:
    """Test a word by a glob, whose ``*`` crosses ``/``; it must match or, unless ``wanted``, not match."""
    matches = compile_glob(glob)
    return lambda found: matches(word_of(found)) is wanted


def regex_test(text: str) -> Test:
    """Look for a regular expression anywhere in the relative name. Raises UsageError: it is none."""
    try:
        search = re.compile(text).search
    except re.error as exc:
        raise UsageError(f"bad --regex {text!r}: {exc}") from exc
    return lambda found: search(found.relative) is not None


def asked_test(pairs: Sequence[str], flag: str, ask: Callable[[Found], Mapping[str, str]]) -> Test:
    """Test what only a request of its own tells of an object: its tags, its metadata; values are globs."""
    wanted = []
    for pair in pairs:
        name, equals, glob = pair.partition("=")
        if not (name and equals):
            raise UsageError(f"{flag} {pair}: write K=V; V may be a glob")
        wanted.append((name, compile_glob(glob)))

    def test(found: Found) -> bool:
        if found.info is None or found.info.is_delete_marker:
            return False
        try:
            told = ask(found)
        except NotFoundError:
            return False  # it went while the listing was read
        return all(name in told and matches(told[name]) for name, matches in wanted)

    return test


def iter_batches(
    client: S3Client,
    selection: Selection,
    *,
    kind: str = FILE,
    maxdepth: int | None = None,
    versions: bool = False,
    ahead: bool = False,
) -> Iterator[list[Found]]:
    """Yield the objects or prefixes of a selection in key order, about a page at a time.

    With ``maxdepth`` what lies deeper is not even listed, unless a glob or versions need it.
    ``ahead`` is for callers that make no requests of their own meanwhile.
    """
    if kind == DIRECTORY:
        return _iter_prefix_batches(client, selection, maxdepth)
    if maxdepth is None or selection.admits is not None or versions:
        pages = iter_selected_pages(client, selection, versions=versions, ahead=ahead)
        batches = (_objects_of(page, selection) for page in pages)
        if maxdepth is None:
            return batches
        return ([found for found in batch if found.relative.count(DELIMITER) < maxdepth] for batch in batches)
    return _iter_level(client, selection, maxdepth)


def _objects_of(page: ListPage, selection: Selection) -> list[Found]:
    bucket, base, relative = selection.bucket, selection.base, selection.relative
    start = len(base)
    return [
        Found(bucket, info.key, info.key[start:] if info.key.startswith(base) else relative(info.key), info)
        for info in page.objects
    ]


def _iter_level(client: S3Client, selection: Selection, depth: int) -> Iterator[list[Found]]:
    """Walk level by level, so that what lies too deep is never listed.

    Prefixes are entered where they stand among the keys: the order is that of a whole listing.
    """
    if depth == 0:
        return
    for page in iter_selected_pages(client, selection, delimiter=DELIMITER):
        if depth == 1 or not page.prefixes:
            yield _objects_of(page, selection)
            continue
        objects = _objects_of(page, selection)
        place = 0
        for prefix in page.prefixes:
            before = place
            while place < len(objects) and name_bytes(objects[place].key) < name_bytes(prefix):
                place += 1
            yield objects[before:place]
            yield from _iter_level(client, _below(selection, prefix), depth - 1)
        yield objects[place:]


def _below(selection: Selection, prefix: str) -> Selection:
    """Narrow a selection to one prefix; names stay relative to where it began."""
    return Selection(S3Path(selection.bucket, prefix), prefix, selection.base, shard=selection.shard, at=selection.at)


def _iter_prefix_batches(client: S3Client, selection: Selection, maxdepth: int | None) -> Iterator[list[Found]]:
    if maxdepth is not None and selection.admits is None:
        yield from _iter_prefix_level(client, selection, maxdepth)
        return
    last = ""
    for objects in _iter_for_prefixes(client, selection):
        batch: list[Found] = []
        for info in objects:
            new = _iter_new_prefixes(info.key, last, len(selection.base))
            batch.extend(_found_prefix(prefix, selection) for prefix in new)
            last = info.key
        yield [
            found
            for found in batch
            if (maxdepth is None or found.relative.count(DELIMITER) <= maxdepth)
            and selection.shard.holds(found.relative)
        ]


def _iter_for_prefixes(client: S3Client, selection: Selection) -> Iterator[Sequence[ObjectInfo]]:
    """Yield the objects that make the prefixes of a shard.

    A prefix is of one shard by its own name. By a hash its keys are of all shards. In a range, the keys
    of its last prefixes may all lie beyond, and then the first one beyond has these prefixes.
    """
    shard = selection.shard
    everything = replace(selection, shard=WHOLE)
    if shard.range is None:
        yield from (page.objects for page in iter_selected_pages(client, everything, ahead=True))
        return
    yield from (page.objects for page in iter_selected_pages(client, selection, ahead=True))
    until = shard.range.until or ""
    if DELIMITER not in until:
        return
    top = selection.base + until[: until.index(DELIMITER) + 1]
    beyond = replace(
        selection, prefix=max(selection.prefix, top, key=len), single="", shard=Shard(range=NameRange(after=until))
    )
    pages = (page.objects for page in iter_selected_pages(client, beyond) if page.objects)
    yield from islice(pages, 1)


def _iter_prefix_level(client: S3Client, selection: Selection, depth: int) -> Iterator[list[Found]]:
    if depth == 0:
        return
    for page in iter_selected_pages(client, selection, delimiter=DELIMITER):
        for prefix in page.prefixes:
            if selection.shard.holds(selection.relative(prefix)):
                yield [_found_prefix(prefix, selection)]
            yield from _iter_prefix_level(client, _below(selection, prefix), depth - 1)


def _found_prefix(prefix: str, selection: Selection) -> Found:
    return Found(selection.bucket, prefix, selection.relative(prefix))


def _iter_new_prefixes(key: str, last: str, start: int) -> Iterator[str]:
    """Yield the prefixes of a key that the key before it, in order, did not have."""
    place = start
    while (slash := key.find(DELIMITER, place)) >= 0:
        place = slash + 1
        if not last.startswith(key[:place]):
            yield key[:place]


FIELD = re.compile(r'\{(?:"(base|dir|size|time|url|version|)"|(base|dir|size|time|url|version|))\}')
FIELDS_HELP = '{} {base} {dir} {size} {time} {url} {version}; in quotes: {"base"}'
FIELDS: dict[str, Callable[[Found], str]] = {
    "": lambda found: found.path.text,
    "base": lambda found: found.name,
    "dir": lambda found: found.path.text.rstrip("/").rpartition("/")[0],
    "size": lambda found: str(found.info.size) if found.info else "0",
    "time": lambda found: found.info.last_modified if found.info else "",
    "version": lambda found: found.info.version_id if found.info else "",
}
WORD = re.compile(r'\{("?)[A-Za-z][A-Za-z0-9_-]*\1\}')


def check_words(template: str) -> None:
    """Refuse a word in braces that is none of the known ones; other braces are plain text."""
    for match in WORD.finditer(template):
        if FIELD.fullmatch(match[0]) is None:
            raise UsageError(f"unknown word {match[0]}; the words are {FIELDS_HELP}")


def fill(template: str, found: Found, presign: Callable[[S3Path], str]) -> str:
    """Put an object's words into a template; ``{url}`` is a presigned URL.

    A quoted form gives the word as a JSON text, so that programs can tell where it ends.
    """

    def word(match: re.Match[str]) -> str:
        field = match[2] if match[1] is None else match[1]
        text = presign(found.path) if field == "url" else FIELDS[field](found)
        return text if match[1] is None else json.dumps(text, ensure_ascii=False)

    return FIELD.sub(word, template)

"""s3pool find: objects by name, size and age; print them, run a program on them, delete them."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from s3pool.cli import formats
from s3pool.cli.context import Context
from s3pool.cli.output import SIGNAL_BASE
from s3pool.cli.parser import natural_int, switch
from s3pool.cli.selection import (
    DELIMITER,
    Looking,
    Selection,
    add_fact_flags,
    add_looking_flags,
    fact_filter,
    iter_selected_pages,
)
from s3pool.errors import NotFoundError, UsageError, signals_held
from s3pool.filters import WHOLE, NameRange, Shard
from s3pool.location import S3Path, compile_glob, name_bytes
from s3pool.model import ListPage, ObjectInfo, format_iso_time
from s3pool.record import replace
from s3pool.s3.pages import keys_of

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client

EXAMPLES = (
    "find s3/photos --name '*.jpg' --larger 10M --older-than 30d",
    "find s3/photos --older-than 1y --delete --dry-run",
)
FILE, DIRECTORY = "f", "d"
WORD = re.compile(r'\{("?)([A-Za-z][A-Za-z0-9_-]*|)\1\}')
WORDS_HELP = '{} {base} {dir} {size} {time} {url} {version}; in quotes: {"base"}'


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


Presign = Callable[[S3Path], str]
WORDS: dict[str, Callable[[Found, Presign], str]] = {
    "": lambda found, _: found.path.text,
    "base": lambda found, _: found.name,
    "dir": lambda found, _: found.path.text.rstrip("/").rpartition("/")[0],
    "size": lambda found, _: str(found.info.size) if found.info else "0",
    "time": lambda found, _: found.info.last_modified if found.info else "",
    "url": lambda found, presign: presign(found.path),
    "version": lambda found, _: found.info.version_id if found.info else "",
}
Test = Callable[[Found], bool]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands, tests and actions of find."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="s3/BUCKET/PREFIX or a glob")
    tests = parser.add_argument_group("tests, all of which must hold")

    def add_test(flag: str, metavar: str, text: str) -> None:
        tests.add_argument(flag, action="append", default=[], metavar=metavar, help=text)

    add_test("--name", "GLOB", "the base name matches")
    add_test("--path", "GLOB", "the name below PATH matches; * crosses /")
    add_test("--regex", "RE", "it is found in the name below PATH")
    add_test("--ignore", "GLOB", "the name below PATH does not match")
    add_fact_flags(tests)
    add_test("--tags", "K=V", "it has this tag; V is a glob; a request an object")
    add_test("--metadata", "K=V", "it has this metadata; V is a glob; a request an object")
    tests.add_argument(
        "--maxdepth", type=natural_int, metavar="N", help="at most N levels below PATH; deeper is not listed"
    )
    tests.add_argument("--type", choices=(FILE, DIRECTORY), default=FILE, help="f: objects (default), d: prefixes")
    switch(tests, "--versions", help="look at every version, not only the latest")
    acts = parser.add_argument_group("what to do with what was found")
    switch(acts, "-l", "--long", help="time, size in bytes and class before the name")
    switch(acts, "-H", "--human", help="with -l: sizes for people")
    acts.add_argument("--print", dest="format", metavar="FMT", help=f"a line of words: {WORDS_HELP}")
    switch(acts, "-0", "--print0", help="raw names, each ended by NUL")
    acts.add_argument(
        "--exec", dest="program", metavar="CMD", help="run it, without a shell, with {} and the like replaced"
    )
    switch(acts, "--delete", help="delete them, 1000 at a time")
    add_looking_flags(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Search each operand; nothing found is no failure."""
    _check(args, ctx)
    looking = Looking(args, ctx)
    if any(path.is_root for path in looking.paths):
        raise UsageError("find needs a bucket: s3/BUCKET or s3/BUCKET/PREFIX")
    test = _compile_tests(args, ctx)
    columns = formats.VERSION_COLUMNS if args.versions else formats.OBJECT_COLUMNS
    form = looking.form(formats.PREFIX_COLUMNS if args.type == DIRECTORY else columns)
    if looking.by_parts:
        from s3pool.cli.processes import search_by_parts

        return ctx.for_each(looking.paths, lambda path: search_by_parts(ctx, path).code)

    def find(path: S3Path) -> int:
        # A prefix is found once only because its keys stand together.
        selection = looking.select(path, ordered=args.type == DIRECTORY)
        batches = _iter_batches(ctx.client, selection, args)
        wanted = (batch if test is None else [found for found in batch if test(found)] for batch in batches)
        if args.delete:
            return _delete(selection.bucket, wanted, ctx)
        act = _Act(selection, args, ctx, form)
        for batch in wanted:
            act.take(batch)
        return act.exit_code

    return ctx.for_each(looking.paths, find)


def _check(args: argparse.Namespace, ctx: Context) -> None:
    shapes = [args.long and "-l", args.format is not None and "--print", ctx.out.json and "--json"]
    acts = [args.program is not None and "--exec", args.delete and "--delete", args.print0 and "--print0"]
    formats.check_csv(args, ctx.out, others=[flag for flag in (*shapes[:2], *acts) if flag])
    for exclusive in (shapes, acts, [ctx.out.json and "--json", args.print0 and "--print0"]):
        given = [flag for flag in exclusive if flag]
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} exclude each other")
    if args.at and (args.versions or args.delete):
        raise UsageError("--at only shows how it was: it goes with neither --versions nor --delete; see undo")
    if args.format is not None:
        check_words(args.format)
    if args.type == DIRECTORY and (args.tags or args.metadata):
        raise UsageError("--type d finds prefixes, which are only names: they have no tags and no metadata")
    if args.type == DIRECTORY and (args.delete or args.versions):
        raise UsageError("--type d finds prefixes, which are only names: they have no versions and go with their keys")


def _compile_tests(args: argparse.Namespace, ctx: Context) -> Test | None:
    tests = [_glob_test(glob, attrgetter("name")) for glob in args.name]
    tests += [_glob_test(glob, attrgetter("relative")) for glob in args.path]
    tests += [_glob_test(glob, attrgetter("relative"), wanted=False) for glob in args.ignore]
    tests += map(_regex_test, args.regex)
    facts = fact_filter(args, ctx)
    if facts.active:  # a prefix has neither size nor time, and passes no such test
        tests.append(lambda found: found.info is not None and facts.admits_object(found.info))

    def version_of(found: Found) -> str:
        return found.info.version_id if found.info and args.versions else ""

    def metadata(found: Found) -> Mapping[str, str]:
        return ctx.client.head_object(found.bucket, found.key, version_id=version_of(found)).metadata

    def tags(found: Found) -> Mapping[str, str]:
        return ctx.client.get_tags(found.bucket, found.key, version_id=version_of(found))

    # Last, for each costs a request: all other tests have been passed then.
    if args.metadata:
        pairs = ["".join((name.lower(), *rest)) for name, *rest in (pair.partition("=") for pair in args.metadata)]
        tests.append(_asked_test(pairs, "--metadata", metadata))
    if args.tags:
        tests.append(_asked_test(args.tags, "--tags", tags))
    return (lambda found: all(test(found) for test in tests)) if tests else None


def _glob_test(glob: str, word_of: Callable[[Found], str], *, wanted: bool = True) -> Test:
    matches = compile_glob(glob)
    return lambda found: matches(word_of(found)) is wanted


def _regex_test(text: str) -> Test:
    """Look for a regular expression anywhere in the relative name. Raises UsageError: it is none."""
    try:
        search = re.compile(text).search
    except re.error as exc:
        raise UsageError(f"bad --regex {text!r}: {exc}") from exc
    return lambda found: search(found.relative) is not None


def _asked_test(pairs: Sequence[str], flag: str, ask: Callable[[Found], Mapping[str, str]]) -> Test:
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


def _delete(bucket: str, batches: Iterator[list[Found]], ctx: Context) -> int:
    from s3pool.cli.transfers import exit_code_of, remove
    from s3pool.transfer.tasks import DeleteTask, Summary

    summary = Summary()
    infos = (found.info for batch in batches for found in batch if found.info is not None)
    tasks = (DeleteTask(bucket, info.key, info.version_id, size=info.size) for info in infos)
    remove(tasks, ctx, summary=summary)
    if summary.stopped_by is not None and summary.stopped_by not in summary.errors:
        raise summary.stopped_by
    return exit_code_of(summary)


def _iter_batches(client: S3Client, selection: Selection, args: argparse.Namespace) -> Iterator[list[Found]]:
    """Yield the objects or prefixes of a selection in key order, about a page at a time.

    With --maxdepth what lies deeper is not even listed, unless a glob or versions need it.
    """
    maxdepth: int | None = args.maxdepth
    if maxdepth is not None and selection.admits is None and not args.versions:
        return _iter_level(client, selection, maxdepth, args.type)
    if args.type == DIRECTORY:
        return _iter_prefix_batches(client, selection, maxdepth)
    # The only connection that may be open must be free for what is asked meanwhile.
    ahead = not (args.delete or args.tags or args.metadata)
    pages = iter_selected_pages(client, selection, versions=args.versions, ahead=ahead)
    batches = (_objects_of(page, selection) for page in pages)
    if maxdepth is None:
        return batches
    return ([found for found in batch if found.relative.count(DELIMITER) < maxdepth] for batch in batches)


def _objects_of(page: ListPage, selection: Selection) -> list[Found]:
    bucket, base, relative = selection.bucket, selection.base, selection.relative
    start = len(base)
    return [
        Found(bucket, info.key, info.key[start:] if info.key.startswith(base) else relative(info.key), info)
        for info in page.objects
    ]


def _iter_level(client: S3Client, selection: Selection, depth: int, kind: str) -> Iterator[list[Found]]:
    """Walk level by level, so that what lies too deep is never listed.

    Prefixes are entered where they stand among the keys: the order is that of a whole listing.
    """
    if depth == 0:
        return
    for page in iter_selected_pages(client, selection, delimiter=DELIMITER):
        objects, place = _objects_of(page, selection) if kind == FILE else [], 0
        for prefix in page.prefixes if depth > 1 or kind == DIRECTORY else ():
            before = place
            while place < len(objects) and name_bytes(objects[place].key) < name_bytes(prefix):
                place += 1
            yield objects[before:place]
            if kind == DIRECTORY and selection.shard.holds(selection.relative(prefix)):
                yield [_found_prefix(prefix, selection)]
            path = S3Path(selection.bucket, prefix)
            below = Selection(path, prefix, selection.base, shard=selection.shard, at=selection.at)
            yield from _iter_level(client, below, depth - 1, kind)
        yield objects[place:]


def _iter_prefix_batches(client: S3Client, selection: Selection, maxdepth: int | None) -> Iterator[list[Found]]:
    last = ""
    for objects in _iter_for_prefixes(client, selection):
        batch: list[Found] = []
        for key in keys_of(objects):
            batch += [_found_prefix(prefix, selection) for prefix in _iter_new_prefixes(key, last, len(selection.base))]
            last = key
        found = (each for each in batch if maxdepth is None or each.relative.count(DELIMITER) <= maxdepth)
        yield [each for each in found if selection.shard.holds(each.relative)]


def _iter_for_prefixes(client: S3Client, selection: Selection) -> Iterator[Sequence[ObjectInfo]]:
    """Yield the objects that make the prefixes of a shard.

    A prefix is of one shard by its own name. By a hash its keys are of all shards. In a range, the keys
    of its last prefixes may all lie beyond, and then the first one beyond has these prefixes.
    """
    within = selection.shard.range
    ours = selection if within is not None else replace(selection, shard=WHOLE)
    yield from (page.objects for page in iter_selected_pages(client, ours, ahead=True))
    until = within.until or "" if within is not None else ""
    if DELIMITER in until:
        top = selection.base + until[: until.index(DELIMITER) + 1]
        prefix, shard = max(selection.prefix, top, key=len), Shard(range=NameRange(after=until))
        pages = iter_selected_pages(client, replace(selection, prefix=prefix, single="", shard=shard))
        yield from islice((page.objects for page in pages if page.objects), 1)


def _found_prefix(prefix: str, selection: Selection) -> Found:
    return Found(selection.bucket, prefix, selection.relative(prefix))


def _iter_new_prefixes(key: str, last: str, start: int) -> Iterator[str]:
    """Yield the prefixes of a key that the key before it, in order, did not have."""
    place = start
    while (slash := key.find(DELIMITER, place)) >= 0:
        place = slash + 1
        if not last.startswith(key[:place]):
            yield key[:place]


class _Act:
    """Does what was asked with everything found below one operand."""

    def __init__(
        self, selection: Selection, args: argparse.Namespace, ctx: Context, form: formats.RecordFormat | None
    ) -> None:
        self._selection, self._args, self._ctx, self._out = selection, args, ctx, ctx.out
        self.exit_code = 0  # the first that was another
        self._command = _split_command(args.program) if args.program is not None else None
        self._format = self._formatter(form)

    def take(self, batch: list[Found]) -> None:
        """Act on what was found, in its order."""
        if self._command is not None:
            for found in batch:
                self._execute(self._command, found)
        elif batch:
            self._out.block(self._format(batch))

    def _presign(self, path: S3Path) -> str:
        from s3pool.cli.commands.stat import presigned

        return presigned(path, self._ctx, now=self._ctx.now())

    def _formatter(self, form: formats.RecordFormat | None) -> Callable[[list[Found]], bytes]:
        if form is not None:
            return self._in_form(form)
        if self._args.format is not None:
            return self._by_template(self._args.format)
        lines = self._lines()
        if self._args.type == DIRECTORY:
            return lambda batch: lines.entries(found.key for found in batch)
        return lambda batch: lines.objects([found.info for found in batch if found.info is not None])

    def _in_form(self, form: formats.RecordFormat) -> Callable[[list[Found]], bytes]:
        bucket, versions = self._selection.bucket, self._args.versions
        if self._args.type != DIRECTORY and not versions:
            return lambda batch: form.objects(bucket, [found.info for found in batch if found.info is not None])
        return lambda batch: form.records(
            formats.entry_record(bucket, found.info or found.key, versions=versions) for found in batch
        )

    def _by_template(self, template: str) -> Callable[[list[Found]], bytes]:
        escape, end = (str, "\0") if self._args.print0 else (self._out.escape, "\n")

        def lines(batch: list[Found]) -> bytes:
            texts = [f"{escape(fill(template, found, self._presign))}{end}" for found in batch]
            return "".join(texts).encode("utf-8", "surrogateescape")

        return lines

    def _lines(self) -> formats.TextLines:
        args, exact = self._args, not self._args.human
        no_size = (formats.exact_size if exact else formats.human_size)(0)
        start = f"{S3Path(self._selection.bucket).text}/"
        escape = str if args.print0 else self._out.escape
        return formats.TextLines(
            lambda key: escape(start + key),
            start=start,
            long=args.long,
            exact=exact,
            versions=args.versions,
            raw=args.print0,
            prefix_start=f"{formats.format_stamp(format_iso_time(self._ctx.now()))} {no_size} ",
        )

    def _execute(self, command: list[str], found: Found) -> None:
        words = [fill(word, found, self._presign) for word in command]
        if self._out.dry_run:
            import shlex

            record = {"type": "exec", "url": found.path.text, "argv": words}
            self._out.act(self._out.escape(shlex.join(words)), record)
            return
        # The program writes to the same stdout: what was before it must stand before it.
        self._out.flush()
        code = _run_program(words)
        self.exit_code = self.exit_code or code


def check_words(template: str) -> None:
    """Refuse a word in braces that is none of the known ones; other braces are plain text."""
    for match in WORD.finditer(template):
        if match[2] not in WORDS:
            raise UsageError(f"unknown word {match[0]}; the words are {WORDS_HELP}")


def fill(template: str, found: Found, presign: Presign) -> str:
    """Put an object's words into a template; ``{url}`` is a presigned URL.

    A quoted form gives the word as a JSON text, so that programs can tell where it ends.
    """

    def word(match: re.Match[str]) -> str:
        if match[2] not in WORDS:
            return match[0]
        text = WORDS[match[2]](found, presign)
        return json.dumps(text, ensure_ascii=False) if match[1] else text

    return WORD.sub(word, template)


def _split_command(text: str) -> list[str]:
    import shlex

    try:
        if words := shlex.split(text):
            return words
    except ValueError as exc:
        raise UsageError(f"bad --exec {text!r}: {exc}") from exc
    raise UsageError("--exec needs a command")


def _run_program(words: list[str]) -> int:
    import subprocess

    process = None
    try:
        # An interrupt inside Popen would leave a child that nobody knows.
        with signals_held:
            process = subprocess.Popen(words)
        code = process.wait()
    except (OSError, ValueError) as exc:
        raise UsageError(f"--exec: cannot run {words[0]!r}: {getattr(exc, 'strerror', exc)}") from exc
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
    return SIGNAL_BASE - code if code < 0 else code

"""s3pool find: objects by name, size and age; print them, run a program on them, delete them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter

from s3pool.cli import formats, search
from s3pool.cli.context import Context
from s3pool.cli.output import SIGNAL_BASE
from s3pool.cli.parser import natural_int, switch
from s3pool.cli.selection import Looking, Selection, add_fact_flags, add_looking_flags, fact_filter
from s3pool.errors import UsageError, signals_held
from s3pool.location import S3Path
from s3pool.model import format_iso_time

EXAMPLES = (
    "find s3/photos --name '*.jpg' --larger 10M --older-than 30d",
    "find s3/photos --older-than 1y --delete --dry-run",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands, tests and actions of find."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="s3/BUCKET/PREFIX or a glob")
    tests = parser.add_argument_group("tests, all of which must hold")
    tests.add_argument("--name", action="append", default=[], metavar="GLOB", help="the base name matches")
    tests.add_argument(
        "--path", action="append", default=[], metavar="GLOB", help="the name below PATH matches; * crosses /"
    )
    tests.add_argument("--regex", action="append", default=[], metavar="RE", help="it is found in the name below PATH")
    tests.add_argument(
        "--ignore", action="append", default=[], metavar="GLOB", help="the name below PATH does not match"
    )
    add_fact_flags(tests)
    for flag, what in (("--tags", "this tag"), ("--metadata", "this metadata")):
        tests.add_argument(
            flag, action="append", default=[], metavar="K=V", help=f"it has {what}; V is a glob; a request an object"
        )
    tests.add_argument(
        "--maxdepth", type=natural_int, metavar="N", help="at most N levels below PATH; deeper is not listed"
    )
    tests.add_argument(
        "--type", choices=(search.FILE, search.DIRECTORY), default=search.FILE, help="f: objects (default), d: prefixes"
    )
    switch(tests, "--versions", help="look at every version, not only the latest")
    acts = parser.add_argument_group("what to do with what was found")
    switch(acts, "-l", "--long", help="time, size in bytes and class before the name")
    switch(acts, "-H", "--human", help="with -l: sizes for people")
    acts.add_argument("--print", dest="format", metavar="FMT", help=f"a line of words: {search.FIELDS_HELP}")
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
    form = looking.form(formats.PREFIX_COLUMNS if args.type == search.DIRECTORY else columns)
    if looking.by_parts:
        from s3pool.cli.processes import search_by_parts

        return ctx.for_each(looking.paths, lambda path: search_by_parts(ctx, path).code)

    def find(path: S3Path) -> int:
        # A prefix is found once only because its keys stand together.
        selection = looking.select(path, ordered=args.type == search.DIRECTORY)
        return _find(selection, test, _Act(selection, args, ctx, form), args, ctx)

    return ctx.for_each(looking.paths, find)


def _check(args: argparse.Namespace, ctx: Context) -> None:
    shapes = [args.long and "-l", args.format is not None and "--print", ctx.out.json and "--json"]
    acts = [args.program is not None and "--exec", args.delete and "--delete", args.print0 and "--print0"]
    others = [flag for flag in (*shapes[:2], *acts) if flag]
    formats.check_csv(args, ctx.out, others=others)
    for exclusive in (shapes, acts, [ctx.out.json and "--json", args.print0 and "--print0"]):
        given = [flag for flag in exclusive if flag]
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} exclude each other")
    if args.at and (args.versions or args.delete):
        raise UsageError("--at only shows how it was: it goes with neither --versions nor --delete; see undo")
    if args.format is not None:
        search.check_words(args.format)
    if args.type == search.DIRECTORY and (args.tags or args.metadata):
        raise UsageError("--type d finds prefixes, which are only names: they have no tags and no metadata")
    if args.type == search.DIRECTORY and (args.delete or args.versions):
        raise UsageError("--type d finds prefixes, which are only names: they have no versions and go with their keys")


def _compile_tests(args: argparse.Namespace, ctx: Context) -> search.Test | None:
    tests = [search.glob_test(glob, attrgetter("name")) for glob in args.name]
    tests += [search.glob_test(glob, attrgetter("relative")) for glob in args.path]
    tests += [search.glob_test(glob, attrgetter("relative"), wanted=False) for glob in args.ignore]
    tests += map(search.regex_test, args.regex)
    facts = fact_filter(args, ctx)
    if facts.active:  # a prefix has neither size nor time, and passes no such test
        tests.append(lambda found: found.info is not None and facts.admits_object(found.info))

    def version_of(found: search.Found) -> str:
        return found.info.version_id if found.info and args.versions else ""

    def metadata(found: search.Found) -> Mapping[str, str]:
        return ctx.client.head_object(found.bucket, found.key, version_id=version_of(found)).metadata

    def tags(found: search.Found) -> Mapping[str, str]:
        return ctx.client.get_tags(found.bucket, found.key, version_id=version_of(found))

    # Last, for each costs a request: all other tests have been passed then.
    if args.metadata:
        pairs = ["".join((name.lower(), *rest)) for name, *rest in (pair.partition("=") for pair in args.metadata)]
        tests.append(search.asked_test(pairs, "--metadata", metadata))
    if args.tags:
        tests.append(search.asked_test(args.tags, "--tags", tags))
    return (lambda found: all(test(found) for test in tests)) if tests else None


def _find(selection: Selection, test: search.Test | None, act: _Act, args: argparse.Namespace, ctx: Context) -> int:
    batches = search.iter_batches(
        ctx.client,
        selection,
        kind=args.type,
        maxdepth=args.maxdepth,
        versions=args.versions,
        # The only connection that may be open must be free for what is asked meanwhile.
        ahead=not (args.delete or args.tags or args.metadata),
    )
    wanted = (batch if test is None else [found for found in batch if test(found)] for batch in batches)
    if args.delete:
        return _delete(selection.bucket, wanted, ctx)
    for batch in wanted:
        act.take(batch)
    return act.exit_code


def _delete(bucket: str, batches: Iterator[list[search.Found]], ctx: Context) -> int:
    from s3pool.cli.transfers import exit_code_of, remove
    from s3pool.transfer.tasks import DeleteTask, Summary

    summary = Summary()
    tasks = (
        DeleteTask(bucket, found.key, found.info.version_id, size=found.info.size)
        for batch in batches
        for found in batch
        if found.info is not None
    )
    remove(tasks, ctx, summary=summary)
    if summary.stopped_by is not None and summary.stopped_by not in summary.errors:
        raise summary.stopped_by
    return exit_code_of(summary)


class _Act:
    """Does what was asked with everything found below one operand."""

    def __init__(
        self, selection: Selection, args: argparse.Namespace, ctx: Context, form: formats.RecordFormat | None
    ) -> None:
        self._selection, self._args, self._ctx, self._out = selection, args, ctx, ctx.out
        self._codes: list[int] = []
        self._command = _split_command(args.program) if args.program is not None else None
        self._format = self._formatter(form)

    def take(self, batch: list[search.Found]) -> None:
        """Act on what was found, in its order."""
        if not batch:
            return
        if self._command is not None:
            for found in batch:
                self._execute(self._command, found)
        else:
            self._out.block(self._format(batch))

    @property
    def exit_code(self) -> int:
        """Return the exit code: the first that was not 0."""
        return next((code for code in self._codes if code), 0)

    def _presign(self, path: S3Path) -> str:
        from s3pool.cli.commands.presign import presigned

        return presigned(path, self._ctx, now=self._ctx.now())

    def _formatter(self, form: formats.RecordFormat | None) -> Callable[[list[search.Found]], bytes]:
        if form is not None:
            return self._in_form(form)
        if self._args.format is not None:
            return self._by_template(self._args.format)
        lines = self._lines()
        if self._args.type == search.DIRECTORY:
            return lambda batch: lines.entries(found.key for found in batch)
        return lambda batch: lines.objects([found.info for found in batch if found.info is not None])

    def _in_form(self, form: formats.RecordFormat) -> Callable[[list[search.Found]], bytes]:
        bucket, versions = self._selection.bucket, self._args.versions
        if self._args.type != search.DIRECTORY and not versions:
            return lambda batch: form.objects(bucket, [found.info for found in batch if found.info is not None])
        return lambda batch: form.records(
            formats.entry_record(bucket, found.info or found.key, versions=versions) for found in batch
        )

    def _by_template(self, template: str) -> Callable[[list[search.Found]], bytes]:
        escape, end = (str, "\0") if self._args.print0 else (self._out.escape, "\n")

        def lines(batch: list[search.Found]) -> bytes:
            texts = [f"{escape(search.fill(template, found, self._presign))}{end}" for found in batch]
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

    def _execute(self, command: list[str], found: search.Found) -> None:
        words = [search.fill(word, found, self._presign) for word in command]
        if self._out.dry_run:
            import shlex

            fields = {"type": "exec", "url": found.path.text, "argv": words}
            self._out.act(self._out.escape(shlex.join(words)), fields)
            return
        # The program writes to the same stdout: what was before it must stand before it.
        self._out.flush()
        self._codes.append(_run_program(words))


def _split_command(text: str) -> list[str]:
    import shlex

    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise UsageError(f"bad --exec {text!r}: {exc}") from exc
    if not words:
        raise UsageError("--exec needs a command")
    return words


def _run_program(words: list[str]) -> int:
    import subprocess

    process = None
    try:
        # An interrupt inside Popen would leave a child that nobody knows.
        with signals_held:
            process = subprocess.Popen(words)
        code = process.wait()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UsageError(f"--exec: cannot run {words[0]!r}: {reason}") from exc
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
    return SIGNAL_BASE - code if code < 0 else code

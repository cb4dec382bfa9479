"""s3pool find: objects by name, size and age; print them, run a program on them, delete them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from s3pool.cli.lines import exact_size, format_stamp, human_size, line_formatter
from s3pool.cli.parser import natural_int, size_in_bytes
from s3pool.cli.records import object_encoder, prefix_record, version_record
from s3pool.cli.rows import (
    OBJECT_COLUMNS,
    PREFIX_COLUMNS,
    VERSION_COLUMNS,
    add_csv_flag,
    check_csv,
    header_row,
    object_row_encoder,
    row_encoder,
)
from s3pool.cli.search import (
    DIRECTORY,
    FILE,
    Found,
    Test,
    fact_test,
    ignore_test,
    iter_batches,
    name_test,
    path_test,
    regex_test,
)
from s3pool.cli.selection import Selection, add_glob_flag, add_listing_flags, list_mode, select
from s3pool.cli.sharding import add_shard_flags, shard_of
from s3pool.cli.templates import FIELDS_HELP, check_words, fill
from s3pool.errors import UsageError
from s3pool.filters import ObjectFilter
from s3pool.location import S3Path
from s3pool.model import format_iso_time

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context

SUMMARY = "find objects by name, size and age"

SIGNAL_BASE = 128  # a shell reports a program that signal N ended as 128 + N


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
    tests.add_argument("--larger", type=size_in_bytes, metavar="SIZE", help="more bytes than SIZE: 10M is 10MiB")
    tests.add_argument("--smaller", type=size_in_bytes, metavar="SIZE", help="fewer bytes than SIZE")
    tests.add_argument("--older-than", metavar="TIME", help="modified before: 7d10h ago, or a date")
    tests.add_argument("--newer-than", metavar="TIME", help="modified after")
    tests.add_argument(
        "--maxdepth", type=natural_int, metavar="N", help="at most N levels below PATH; deeper is not listed"
    )
    tests.add_argument("--type", choices=(FILE, DIRECTORY), default=FILE, help="f: objects (default), d: prefixes")
    tests.add_argument("--versions", action="store_true", help="look at every version, not only the latest")
    acts = parser.add_argument_group("what to do with what was found")
    acts.add_argument("-l", "--long", action="store_true", help="time, size in bytes and class before the name")
    acts.add_argument("-H", "--human", action="store_true", help="with -l: sizes for people")
    acts.add_argument("--print", dest="format", metavar="FMT", help=f"a line of words: {FIELDS_HELP}")
    acts.add_argument("-0", "--print0", action="store_true", help="raw names, each ended by NUL")
    acts.add_argument(
        "--exec", dest="program", metavar="CMD", help="run it, without a shell, with {} and the like replaced"
    )
    acts.add_argument("--delete", action="store_true", help="delete them, 1000 at a time")
    add_csv_flag(parser)
    add_glob_flag(parser)
    add_shard_flags(parser)
    add_listing_flags(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Search each operand; nothing found is no failure."""
    _check(args, ctx)
    paths = [ctx.s3(text) for text in args.paths] or [S3Path(ctx.config.bucket)]
    if any(path.is_root for path in paths):
        raise UsageError("find needs a bucket: s3/BUCKET or s3/BUCKET/PREFIX")
    shard = shard_of(args, ctx)
    test = _compile_tests(args, moment=ctx.moment)
    # Each prefix is told once because its keys stand together.
    mode = list_mode(args, ctx, ordered=args.type == DIRECTORY)
    glob = not args.no_glob
    if args.csv:
        ctx.out.line(header_row(_columns(args)))
    return ctx.for_each(paths, lambda path: _find(select(path, glob=glob, mode=mode, shard=shard), test, args, ctx))


def _columns(args: argparse.Namespace) -> tuple[str, ...]:
    if args.type == DIRECTORY:
        return PREFIX_COLUMNS
    return VERSION_COLUMNS if args.versions else OBJECT_COLUMNS


def _check(args: argparse.Namespace, ctx: Context) -> None:
    """Refuse flags that contradict each other before anything is asked."""
    shapes = [args.long and "-l", args.format is not None and "--print", ctx.out.json and "--json"]
    acts = [args.program is not None and "--exec", args.delete and "--delete", args.print0 and "--print0"]
    others = [flag for flag in (*shapes[:2], *acts) if flag]
    check_csv(args, ctx.out, others=others)
    for exclusive in (shapes, acts, [ctx.out.json and "--json", args.print0 and "--print0"]):
        given = [flag for flag in exclusive if flag]
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} exclude each other")
    if args.format is not None:
        check_words(args.format)
    if args.type == DIRECTORY and (args.delete or args.versions):
        raise UsageError("--type d finds prefixes, which are only names: they have no versions and go with their keys")


def _compile_tests(args: argparse.Namespace, *, moment: Callable[[str], float]) -> Test | None:
    """Give one test of all that were asked for, None when everything is wanted."""
    tests = [*map(name_test, args.name), *map(path_test, args.path)]
    tests += [*map(ignore_test, args.ignore), *map(regex_test, args.regex)]
    facts = _object_filter(args, moment=moment)
    if facts.active:
        tests.append(fact_test(facts))
    return (lambda found: all(test(found) for test in tests)) if tests else None


def _object_filter(args: argparse.Namespace, *, moment: Callable[[str], float]) -> ObjectFilter:
    return ObjectFilter(
        larger=args.larger,
        smaller=args.smaller,
        older_than=moment(args.older_than) if args.older_than is not None else None,
        newer_than=moment(args.newer_than) if args.newer_than is not None else None,
    )


def _find(selection: Selection, test: Test | None, args: argparse.Namespace, ctx: Context) -> int:
    act = _Act(selection, args, ctx)
    batches = iter_batches(
        ctx.client,
        selection,
        kind=args.type,
        maxdepth=args.maxdepth,
        versions=args.versions,
        ahead=not args.delete,  # the only connection that may be open must be free for the deletes
    )
    wanted = (batch if test is None else [found for found in batch if test(found)] for batch in batches)
    if args.delete:
        return _delete(selection.bucket, wanted, ctx)
    for batch in wanted:
        act.take(batch)
    return act.exit_code


def _delete(bucket: str, batches: Iterator[list[Found]], ctx: Context) -> int:
    from s3pool.cli.outcomes import exit_code_of
    from s3pool.cli.transfers import remove
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


# -- acts ----------------------------------------------------------------------------------


class _Act:
    """Does what was asked with everything found below one operand."""

    def __init__(self, selection: Selection, args: argparse.Namespace, ctx: Context) -> None:
        self._selection = selection
        self._args = args
        self._ctx = ctx
        self._out = ctx.out
        self._codes: list[int] = []
        self._command = _split_command(args.program) if args.program is not None else None
        self._entry = self._entry_maker()

    def take(self, batch: list[Found]) -> None:
        """Act on what was found, in its order."""
        if not batch:
            return
        if self._command is not None:
            for found in batch:
                self._execute(self._command, found)
        elif self._args.print0:
            self._out.raw("".join(f"{self._entry(found)}\0" for found in batch).encode("utf-8", "surrogateescape"))
            self._out.flush()
        else:
            self._out.lines([self._entry(found) for found in batch])

    @property
    def exit_code(self) -> int:
        """Return the exit code: the first that was not 0."""
        return next((code for code in self._codes if code), 0)

    def _presign(self, path: S3Path) -> str:
        from s3pool.cli.commands.presign import presigned

        return presigned(path, self._ctx, now=self._ctx.now())

    # -- printing --------------------------------------------------------------------------

    def _entry_maker(self) -> Callable[[Found], str]:
        if self._out.json or self._args.csv:
            return self._record_maker()
        escape = str if self._args.print0 else self._out.escape
        template = self._args.format
        if template is not None:
            return lambda found: escape(fill(template, found, self._presign))
        start = f"{S3Path(self._selection.bucket).text}/"
        if self._args.long:
            return self._long_maker(escape, start)
        return lambda found: escape(start + found.key)

    def _record_maker(self) -> Callable[[Found], str]:
        bucket, versions = self._selection.bucket, self._args.versions
        if self._args.csv:
            columns = _columns(self._args)
            encode, of_object = row_encoder(columns), object_row_encoder(bucket, columns)
        else:
            encode, of_object = self._out.encode, object_encoder(bucket, self._out)

        def entry(found: Found) -> str:
            if found.info is None:
                return encode(prefix_record(bucket, found.key))
            return encode(version_record(bucket, found.info)) if versions else of_object(found.info)

        return entry

    def _long_maker(self, escape: Callable[[str], str], start: str) -> Callable[[Found], str]:
        exact = not self._args.human
        line = line_formatter(exact=exact, versions=self._args.versions)
        prefix_start = f"{format_stamp(format_iso_time(self._ctx.now()))} {(exact_size if exact else human_size)(0)}"

        def entry(found: Found) -> str:
            name = escape(start + found.key)
            return f"{prefix_start} {name}" if found.info is None else line(found.info, name)

        return entry

    # -- programs --------------------------------------------------------------------------

    def _execute(self, command: list[str], found: Found) -> None:
        words = [fill(word, found, self._presign) for word in command]
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

    try:
        code = subprocess.run(words, check=False).returncode
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UsageError(f"--exec: cannot run {words[0]!r}: {reason}") from exc
    return SIGNAL_BASE - code if code < 0 else code

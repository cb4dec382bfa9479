"""s3pool run: many commands in one process, over one pool."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, NamedTuple

from s3pool.cli.commands.cp import is_stream
from s3pool.cli.context import HEADER_FLAGS, Context, choose_pools
from s3pool.cli.output import DONE, FAILED, combined, exit_code_for
from s3pool.cli.parser import HelpRequested, add_global_flags, load_command, parse, require_known
from s3pool.cli.transfers import (
    OutcomePrinter,
    ending_promptly,
    executor_for,
    options_of,
    print_summary,
    remember,
    shown_progress,
    watch_health,
)
from s3pool.errors import CREDENTIAL_CODES, S3Error, S3PoolError, UsageError, is_pool_dead
from s3pool.location import LocalPath, S3Path, dest_for, has_glob
from s3pool.model import ObjectInfo
from s3pool.record import replace
from s3pool.transfer.context import TransferContext, TransferOptions
from s3pool.transfer.executor import BoundedExecutor
from s3pool.transfer.runner import run as run_tasks
from s3pool.transfer.runner import run_deletes
from s3pool.transfer.safe_path import local_error
from s3pool.transfer.sources import task_for_file, task_for_object
from s3pool.transfer.tasks import NOT_STARTED, UNKNOWN_SIZE, DeleteTask, Item, Outcome, Summary
from s3pool.units import format_duration, format_size, word_set

EXAMPLES = ("run commands.txt", "run - < commands.txt")

BLOCK_BYTES = 1 << 20  # of lines that are read, and worked on, at once
WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""")
SPECIAL = frozenset("\"'\\#")  # what makes a line more than words between spaces
NOT_IN_SCRIPTS = ("run", "proxy", "completion")
# Operands that one line after another only differs in, and flags with which it is still about one object.
OPERANDS = {"cp": 2, "rm": 1}
SIMPLE_FLAGS = word_set(
    "acl cache_control content_disposition content_encoding content_language content_type checksum expires "
    "metadata no_clobber no_verify part_size sse storage_class tags bypass_governance force no_glob"
)
STANDINS = ("\x01", "\x02")

logger = logging.getLogger(__name__)


class Line(NamedTuple):
    """One command of a script; ``number`` counts all lines, from 1."""

    number: int
    text: str

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"line {self.number} ({self.text})"


def iter_blocks(stream: IO[bytes]) -> Iterator[list[Line]]:
    """Yield the lines as they come, as many at once as are there; empty ones and comments are left out."""
    number, rest = 0, b""
    while block := stream.read1(BLOCK_BYTES):  # type: ignore[attr-defined]
        *whole, rest = (rest + block).split(b"\n")
        if lines := list(_lines(whole, number)):
            yield lines
        number += len(whole)
    if lines := list(_lines([rest], number)):
        yield lines


def _lines(raw: list[bytes], before: int) -> Iterator[Line]:
    for number, line in enumerate(raw, before + 1):
        text = line.decode("utf-8", "surrogateescape").lstrip("\ufeff" if number == 1 else "").strip()
        if text and not text.startswith("#"):
            yield Line(number, text)


def split_words(text: str) -> list[str]:
    """Split a line as a shell would: quotes, backslashes and comments, nothing else."""
    if SPECIAL.isdisjoint(text):
        return text.split()
    words: list[str] = []
    end = 0
    for match in WORD.finditer(text):
        if text[end : match.start()].strip():
            break
        if match[0].startswith("#"):  # in the middle of a word it is part of a name
            return words
        words += shlex.split(match[0])
        end = match.end()
    if text[end:].strip():
        raise UsageError("a quote is not closed, or a backslash ends the line: quotes are read as a shell reads them")
    return words


class Template(NamedTuple):
    """Lines that differ in their last operands alone; ``args`` has stand-ins in their place."""

    words: tuple[str, ...]
    args: argparse.Namespace


class LineReader:
    """Reads the words of lines; lines that are alike are parsed once.

    ``given`` are the global flags of the run, which count for every line.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = {name: value for name, value in vars(given).items() if name in _global_names()}
        self._templates: dict[tuple[str, ...], Template | None] = {}

    def template(self, words: list[str]) -> Template | None:
        """Return what a line has in common with others about one object; None for any other line."""
        count = OPERANDS.get(words[0], 0)
        if not count or len(words) <= count or any(word.startswith("-") for word in words[-count:]):
            return None
        key = tuple(words[:-count])
        if key not in self._templates:
            self._templates[key] = self._template(key, count)
        return self._templates[key]

    def _template(self, words: tuple[str, ...], count: int) -> Template | None:
        standins = STANDINS[:count]
        args = self.parse([*words, *standins])
        operands = args.paths if words[0] == "rm" else [*args.sources, args.target]
        plain = vars(self.parse([words[0], *standins]))
        changed = {name for name, value in vars(args).items() if plain[name] != value}
        return Template(words, args) if operands == list(standins) and changed <= SIMPLE_FLAGS else None

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Return the arguments of one line."""
        if words[0] in NOT_IN_SCRIPTS:
            raise UsageError(f"{words[0]} does not belong into a script")
        try:
            args = parse(words)
        except HelpRequested as exc:
            raise UsageError("help does not belong into a script") from exc
        if own := sorted(vars(args).keys() & _global_names()):
            flag = f"--{own[0].replace('_', '-')}"
            raise UsageError(f"{flag} counts for all lines: write it before run")
        for flag_name, value in self._given.items():
            setattr(args, flag_name, value)
        return args


@cache
def _global_names() -> frozenset[str]:
    parser = argparse.ArgumentParser(add_help=False)
    add_global_flags(parser, shown=())
    return frozenset(action.dest for action in parser._actions)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operand of run."""
    parser.add_argument("file", metavar="FILE", help="one command a line, without s3pool; - for standard input")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Run all lines; one that fails is named, and the rest goes on."""
    with _opened(args.file, ctx) as stream:
        return _Script(args, ctx).run(stream)


@contextmanager
def _opened(path: str, ctx: Context) -> Iterator[IO[bytes]]:
    if path == "-":
        yield ctx.stdin
        return
    try:
        stream = open(path, "rb")  # noqa: SIM115 - an error of reading is no error of opening
    except OSError as exc:
        raise local_error("read", path, exc) from exc
    with stream:
        yield stream


class _LineContext(Context):
    """The surroundings of one line: the session is that of the run."""

    def __init__(self, run: Context, args: argparse.Namespace, words: list[str]) -> None:
        super().__init__(args, run.out, environ=run.environ, words=words)
        self._reads_stdin = run.args.file == "-"
        # What goes with every request of a line needs a session of its own, as another pool does.
        self._is_apart = any(getattr(args, name, None) for name in ("target_profile", *HEADER_FLAGS))
        if not self._is_apart:
            self._config, self._session = run.config, run.session

    @property
    def stdin(self) -> IO[bytes]:
        """Standard input, unless the lines come from there. Raises UsageError: they do."""
        if self._reads_stdin:
            raise UsageError("standard input is where the lines come from: put them into a file")
        return super().stdin

    def close(self) -> None:
        """Close what the line alone has opened."""
        if self._is_apart:
            super().close()
        elif self._source is not None:
            self._source.close()


class _Single(NamedTuple):
    """A line about one object, with what it reads and writes."""

    line: Line
    template: Template
    task: Item
    reads: str
    writes: str


class _Script:
    """One run: the lines that wait, and what became of those before.

    Lines about one object are done many at a time, as those of cp -r and rm -r are, unless one touches what
    another one writes: it waits, and so does any other line. What is there in the end is what there would be if each
    line had waited for the one before.
    """

    def __init__(self, args: argparse.Namespace, ctx: Context) -> None:
        self._ctx, self._out = ctx, ctx.out
        self._reader = LineReader(args)
        self._profiles: Collection[str] | None = None
        self._waiting: list[_Single] = []
        self._reads: set[str] = set()
        self._writes: set[str] = set()
        self._executor: BoundedExecutor | None = None
        self._summary = Summary()
        self._codes: set[int] = set()
        self._lines = self._failed = self._not_run = 0
        self._started = time.monotonic()

    def run(self, stream: IO[bytes]) -> int:
        """Run the lines of a stream, and print the counts."""
        try:
            for lines in iter_blocks(stream):
                self._lines += len(lines)
                for line in lines:
                    self._take(line)
                self._work_off()
                self._out.flush()  # who sends one line after another wants to see what became of them
        finally:
            if self._executor is not None:
                self._executor.close()
        self._summarize()
        return combined(self._codes)

    def _take(self, line: Line) -> None:
        try:
            words = split_words(line.text)
            words = words[1:] if words[:1] == ["s3pool"] else words
            if not words:
                return
            require_known(words[0])
            single = self._single(line, words)
        except (S3PoolError, OSError) as exc:
            self._fail(line, exc)
            return
        if single is None:
            self._work_off()
            self._command(line, words)
            return
        if single.writes in self._reads or {single.reads, single.writes} & self._writes:
            self._work_off()
        self._waiting.append(single)
        self._reads.add(single.reads)
        self._writes.add(single.writes)

    def _single(self, line: Line, words: list[str]) -> _Single | None:
        template = self._reader.template(words)
        if template is None or any(word.partition("/")[0] in self._profile_names() for word in words[1:]):
            return None
        task = self._removal(template, words[-1]) if words[0] == "rm" else self._copy(template, words[-2], words[-1])
        if task is None:
            return None
        # A removal reads nothing, and what it removes counts as written.
        writes = task.source if isinstance(task, DeleteTask) else task.target
        return _Single(line, template, task, _absolute(task.source), _absolute(writes))

    def _profile_names(self) -> Collection[str]:
        """Return the names that make a path one of another pool, but for that of every path in S3."""
        if self._profiles is None:
            self._profiles = frozenset(self._ctx.profile_names()) - {"s3"}
        return self._profiles

    def _removal(self, template: Template, text: str) -> DeleteTask | None:
        path = self._ctx.s3(text)
        is_glob = has_glob(path.key) and not template.args.no_glob
        return None if is_glob or path.is_prefix or not path.bucket else DeleteTask(path.bucket, path.key)

    def _copy(self, template: Template, first: str, second: str) -> Item | None:
        source, target = self._ctx.location(first, is_source=True), self._ctx.location(second)
        if is_stream(source) or is_stream(target):
            return None
        if isinstance(source, LocalPath) and isinstance(target, S3Path) and target.bucket:
            facts = os.stat(source.path) if os.path.exists(source.path) else None
            if facts is None or not stat.S_ISREG(facts.st_mode):
                return None
            place = dest_for(source, target)
            return task_for_file(source, place, facts.st_size) if isinstance(place, S3Path) else None
        is_glob = isinstance(source, S3Path) and has_glob(source.key) and not template.args.no_glob
        if not isinstance(source, S3Path) or source.is_prefix or not source.bucket or is_glob:
            return None
        is_download = isinstance(target, LocalPath)
        if (isinstance(target, S3Path) and not target.bucket) or (is_download and len(template.words) > 1):
            return None
        return task_for_object(source, dest_for(source, target), ObjectInfo(source.key, UNKNOWN_SIZE, ""))

    def _work_off(self) -> None:
        """Do all lines that wait, those with the same flags together."""
        waiting, self._waiting = self._waiting, []
        self._reads.clear()
        self._writes.clear()
        groups: dict[tuple[str, ...], list[_Single]] = {}
        for single in waiting:
            groups.setdefault(single.template.words, []).append(single)
        for group in groups.values():
            self._do(group)

    def _do(self, group: list[_Single]) -> None:
        ctx, args, command = self._ctx, group[0].template.args, group[0].template.words[0]
        lines = {single.task: single.line for single in group}
        if self._executor is None:
            self._executor = executor_for(ctx, inline=False)
        summary = Summary()
        if command == "rm":
            options = TransferOptions(bypass_governance=args.bypass_governance)
        else:
            options = replace(options_of(args, ctx), expects_short=True)
        with shown_progress(ctx) as (progress, shows_lines):
            context = TransferContext(ctx.client, options=options, executor=self._executor, progress=progress)
            clear_leftovers = remember(context, ctx)
            tell = OutcomePrinter(ctx, lines=shows_lines)

            def take(outcome: Outcome) -> None:
                line = lines.pop(outcome.task)
                clear_leftovers(outcome)
                if outcome.state == NOT_STARTED:
                    self._not_run += 1
                elif outcome.error is not None:
                    self._failed += 1
                    self._codes.add(exit_code_for(outcome.error))
                with self._out.named(line.where, number=line.number):
                    tell(outcome)

            tasks = watch_health((single.task for single in group), ctx)
            with ending_promptly(context, summary, ctx, verb="deleted" if command == "rm" else "copied"):
                if command == "rm" and not ctx.dry_run:
                    removals = (task for task in tasks if isinstance(task, DeleteTask))
                    run_deletes(removals, context, on_outcome=take, summary=summary, is_fatal=_is_fatal)
                else:
                    run_tasks(
                        tasks, context, on_outcome=take, rehearse=ctx.dry_run, summary=summary, is_fatal=_is_fatal
                    )
        self._summary.bytes += summary.bytes
        if summary.stopped_by is not None:
            raise summary.stopped_by

    def _command(self, line: Line, words: list[str]) -> None:
        op, command = self._out.op, words[0]
        try:
            args = self._reader.parse(words)
            choose_pools(args, self._profile_names)
            ctx = _LineContext(self._ctx, args, words)
            self._out.op = command
            with self._out.named(line.where, number=line.number):
                try:
                    code = int(load_command(command).run(args, ctx))
                finally:
                    ctx.close()
        except Exception as exc:
            if is_pool_dead(exc):
                raise
            self._fail(line, exc)
            return
        finally:
            self._out.op = op
        if code != DONE:
            self._failed += 1
            self._codes.add(code)
            message = f"line {line.number} ended with exit code {code}: {line.text}"
            self._out.remark(message, line=line.number, code=code)

    def _fail(self, line: Line, error: Exception) -> None:
        self._failed += 1
        self._codes.add(exit_code_for(error))
        with self._out.named(line.where, number=line.number):
            self._out.error(error)
        if not isinstance(error, (S3PoolError, OSError)):
            logger.debug("this should not have happened", exc_info=error)

    def _summarize(self) -> None:
        seconds = time.monotonic() - self._started
        counts = {"lines": self._lines, "failed": self._failed, "not_run": self._not_run}
        words = [f"{self._lines} lines", f"{self._failed} failed"]
        words += [f"{self._not_run} not run"] if self._not_run else []
        words += [format_size(self._summary.bytes)] if self._summary.bytes else []
        fields = {**counts, "bytes": self._summary.bytes, "seconds": round(seconds, 3)}
        text = f"s3pool: {', '.join(words)} in {format_duration(round(seconds, 2))}"
        print_summary(fields, self._ctx, text=text)
        if self._not_run:
            self._codes.add(FAILED)


def _is_fatal(error: Exception) -> bool:
    """Return whether every other line would fail alike: a bucket or a disk is that of one line alone."""
    return is_pool_dead(error) or (isinstance(error, S3Error) and error.code in CREDENTIAL_CODES)


def _absolute(text: str) -> str:
    return text if text.startswith("s3/") else os.path.abspath(text)

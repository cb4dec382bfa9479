"""What cp, mv, rm and sync share: flags, the engine of a run, and how its outcomes are told."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from s3pool.cli.attributes import add_attribute_flags, add_hint, attributes_of
from s3pool.cli.exit_codes import code_of_interrupt
from s3pool.cli.parser import natural_int, size_in_bytes
from s3pool.cli.progress import BarProgress, PlainProgress, choose_mode, write_stderr
from s3pool.cli.summary import summary_text, tell_summary
from s3pool.cli.workers import executor_for
from s3pool.errors import StoppedError, UsageError
from s3pool.filters import EXCLUDE, INCLUDE, NameFilter
from s3pool.location import S3Path
from s3pool.transfer.checksums import ALGORITHMS, sha256_is_cheaper
from s3pool.transfer.engine import Engine, TransferOptions
from s3pool.transfer.progress import NullProgress, Progress
from s3pool.transfer.runner import run as run_tasks
from s3pool.transfer.runner import run_deletes
from s3pool.transfer.tasks import ARCHIVED, SKIPPED, DeleteTask, Outcome, Problem, Summary
from s3pool.transfer.tasks import DONE as TASK_DONE
from s3pool.transfer.walk import LINK_RULES, LINKS_FILES

if TYPE_CHECKING:
    from s3pool.cli.context import Context
    from s3pool.location import Location


T = TypeVar("T")


# -- flags ---------------------------------------------------------------------------------


class FilterRule(argparse.Action):
    """Gather --include and --exclude in one list: their order decides."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add one rule at the end."""
        kind = INCLUDE if option_string == "--include" else EXCLUDE
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), (kind, str(values))])


def add_filter_flags(parser: argparse.ArgumentParser) -> None:
    """Add --include and --exclude."""
    for name, meaning in (("--include", "take names that match"), ("--exclude", "leave names that match")):
        parser.add_argument(
            name,
            dest="name_rules",
            action=FilterRule,
            default=[],
            metavar="GLOB",
            help=f"{meaning}; repeatable, the last match decides; * crosses /",
        )


def name_filter(args: argparse.Namespace) -> NameFilter:
    """Give the filter of the flags."""
    return NameFilter(args.name_rules)


def add_transfer_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of everything that copies."""
    add_filter_flags(parser)
    parser.add_argument(
        "-n", "--no-clobber", action="store_true", help="leave targets that exist; a rehearsal is --dry-run"
    )
    parser.add_argument("-u", "--update", action="store_true", help="copy only what is newer than the target")
    parser.add_argument("--part-size", type=part_size, default=0, metavar="SIZE", help="of large transfers (16M)")
    parser.add_argument(
        "--part-workers", type=natural_int, default=0, metavar="N", help="parts of one file at a time (0: all workers)"
    )
    parser.add_argument("--links", choices=LINK_RULES, default=LINKS_FILES, help="which symbolic links are followed")
    parser.add_argument(
        "--no-resume", action="store_true", help="do not go on with large transfers that a run before left unfinished"
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="of downloads check the length alone; less CPU, on networks to trust"
    )
    parser.add_argument(
        "--ignore-archived", action="store_true", help="skip what lies in an archive; else each such object fails"
    )
    parser.add_argument(
        "--preserve", action="store_true", help="keep mode, owner and empty directories; count what is lost"
    )
    parser.add_argument(
        "--source-profile", default="", metavar="NAME", help="read from another pool, of this profile; both sides in S3"
    )
    add_attribute_flags(parser)


def add_checksum_flag(parser: argparse.ArgumentParser) -> None:
    """Add --checksum as uploads have it."""
    parser.add_argument(
        "--checksum", choices=ALGORITHMS, default="", metavar="NAME", help=f"send one more: {', '.join(ALGORITHMS)}"
    )


def part_size(text: str) -> int:
    """Read a part size within S3's limits; for ``type=``."""
    from s3pool.s3.part_sizes import choose_part_size

    size = size_in_bytes(text)
    if not size:  # it would mean the default
        raise argparse.ArgumentTypeError("a part has 5 MiB to 5 GiB, not 0 bytes")
    try:
        return choose_part_size(0, size)
    except UsageError as exc:
        raise argparse.ArgumentTypeError(exc.message) from exc


part_size.__name__ = "size"


def options_of(args: argparse.Namespace, ctx: Context, *, remove_source: bool = False) -> TransferOptions:
    """Give the options of a run."""
    return TransferOptions(
        attributes=attributes_of(args),
        part_size=args.part_size,
        part_workers=args.part_workers,
        checksum=args.checksum,
        no_clobber=args.no_clobber,
        update=args.update,
        preserve=args.preserve,
        remove_source=remove_source,
        verify=not args.no_verify,
        ignore_archived=args.ignore_archived,
        links=args.links,
        # A move sends the MD5 in any case: the ETag of what was stored is held against that.
        sign_payload=ctx.config.sign and not (remove_source or ctx.session.all_tls) and sha256_is_cheaper(),
    )


# -- the run -------------------------------------------------------------------------------


def check_source_profile(sources: Iterable[Location], target: Location, profile: str) -> None:
    """See to it that a second pool has a part in what is asked for.

    Raises:
        UsageError: one side is not in S3.
    """
    other = next((end for end in (*sources, target) if not isinstance(end, S3Path)), None)
    if profile and other is not None:
        raise UsageError(
            f"--source-profile {profile} copies from one pool to another, and {other.text} is not in S3; "
            "with one pool use --profile"
        )


def check_no_verify(target: Location, *, is_asked: bool) -> None:
    """See to it that --no-verify has something to leave out.

    Raises:
        UsageError: nothing is downloaded.
    """
    if is_asked and isinstance(target, S3Path):
        raise UsageError(f"--no-verify is for downloads, and {target.text} is in S3")


NO_FIELDS: Mapping[str, object] = {}


class Teller:
    """Tells what becomes of each task, in the main thread."""

    def __init__(self, ctx: Context, progress: Progress, *, lines: bool) -> None:
        self._out = ctx.out
        self._act = "move" if ctx.args.command == "mv" else "copy"
        self._args = ctx.args if "storage_class" in ctx.args else None
        self._progress = progress
        self._lines = lines

    def __call__(self, outcome: Outcome) -> None:
        """Tell of one outcome."""
        if outcome.error is not None:
            self._tell_error(outcome, outcome.error)
        elif outcome.state == TASK_DONE and not isinstance(outcome.task, Problem):
            self._tell_done(outcome)
        elif outcome.state == SKIPPED:
            self._tell_skipped(outcome)

    def _tell_error(self, outcome: Outcome, error: Exception) -> None:
        task = outcome.task
        if isinstance(error, StoppedError):
            return
        if self._args is not None:
            add_hint(error, self._args)
        with out_of_the_way(self._progress):
            self._out.error(error, op=task.op, source=task.source, target=task.target, of_one=True)

    def _tell_done(self, outcome: Outcome) -> None:
        task = outcome.task
        if isinstance(task, DeleteTask) or task.op == "delete":
            self._tell_deleted(outcome)
        elif self._out.json:
            fields = {
                "type": self._act,
                "source": task.source,
                "target": task.target,
                "size": outcome.done.size,
                "seconds": round(outcome.seconds, 3),
            }
            self._out.act("", fields)
        elif self._lines and not self._out.quiet:
            self._out.act(f"{self._out.escape(task.source)} -> {self._out.escape(task.target)}", NO_FIELDS)

    def _tell_deleted(self, outcome: Outcome) -> None:
        task = outcome.task
        if not (self._lines or self._out.json):
            return
        fields: dict[str, object] = {"type": "delete", "url": task.source}
        suffix = ""
        if isinstance(task, DeleteTask) and task.version_id:
            fields["version_id"] = task.version_id
            suffix = f" (version {self._out.escape(task.version_id)})"
        if isinstance(task, DeleteTask) and task.upload_id:
            fields["upload_id"] = task.upload_id
            suffix = f" (unfinished upload {self._out.escape(task.upload_id)})"
        self._out.act(f"Deleted: {self._out.escape(task.source)}{suffix}", fields)

    def _tell_skipped(self, outcome: Outcome) -> None:
        import logging

        task = outcome.task
        if outcome.done.skipped == ARCHIVED:
            message = f"{task.source} was left out: {ARCHIVED}"
            fields = {"type": "note", "op": task.op, "source": task.source, "target": task.target, "message": message}
            with out_of_the_way(self._progress):
                self._out.note(f"s3pool: {message}", fields)
        logging.getLogger(__name__).info("%s: not copied: %s", task.source, outcome.done.skipped)


@contextmanager
def out_of_the_way(progress: Progress) -> Iterator[None]:
    """Keep bars from being drawn while something is written to the terminal."""
    if isinstance(progress, BarProgress):
        with progress.paused():
            yield
    else:
        yield


@contextmanager
def shown_progress(ctx: Context, *, to_stdout: bool = False) -> Iterator[tuple[Progress, bool]]:
    """Give the progress of a run, and whether a line is to be written for each result.

    ``to_stdout`` says that the bytes themselves go there.
    """
    wanted = getattr(ctx.args, "progress", "auto")
    busy = not (ctx.out.is_tty or to_stdout)
    mode = choose_mode(
        wanted, quiet=ctx.out.quiet, json=ctx.out.json, stderr_is_tty=_is_tty(sys.stderr), stdout_is_busy=busy
    )
    if ctx.dry_run or mode == "none":
        yield NullProgress(), True
    elif mode == "plain":
        yield PlainProgress(write_stderr), True
    else:
        bars = BarProgress(color=ctx.out.colored_stderr)
        bars.start()
        try:
            yield bars, False
        finally:
            bars.stop()


def _is_tty(stream: Any) -> bool:
    try:
        return stream is not None and bool(stream.isatty())
    except ValueError:
        return False


@contextmanager
def engine_for(ctx: Context, options: TransferOptions, progress: Progress, *, inline: bool = False) -> Iterator[Engine]:
    """Give the engine of a run; its workers end with the context.

    ``inline`` is for one object: no thread is worth starting.
    """
    executor = executor_for(ctx, inline=inline)
    source = Engine(ctx.source_session.client) if ctx.source_session is not ctx.session else None
    engine = Engine(ctx.client, options=options, executor=executor, progress=progress, source=source)
    try:
        yield engine
    finally:
        executor.close()


def remove(
    tasks: Iterable[DeleteTask | Problem], ctx: Context, *, summary: Summary, tells_deletes: bool = True
) -> None:
    """Delete what a stream names, in batches, and tell what became of each key.

    Without ``tells_deletes`` failures alone are told, and no thread is started.
    """
    with (
        shown_progress(ctx) as (progress, lines),
        engine_for(ctx, TransferOptions(), progress, inline=not tells_deletes) as engine,
    ):
        teller = Teller(ctx, progress, lines=lines)

        def tell(outcome: Outcome) -> None:
            if tells_deletes or outcome.error is not None:
                teller(outcome)

        with leaving_in_time(engine, summary, ctx, verb="deleted"):
            watched = watch_health(tasks, ctx) if tells_deletes else tasks
            if ctx.dry_run:
                run_tasks(watched, engine, on_outcome=tell, rehearse=True, summary=summary)
            else:
                run_deletes(watched, engine, on_outcome=tell, summary=summary)


def watch_health(items: Iterable[T], ctx: Context) -> Iterator[T]:
    """Start the background probes with the second item: one alone is not a long run."""
    following = iter(items)
    yield from islice(following, 1)
    for item in following:
        ctx.session.start_health()
        ctx.source_session.start_health()
        yield item
        break
    yield from following


@contextmanager
def leaving_in_time(
    engine: Engine, summary: Summary, ctx: Context, *, verb: str, to_stdout: bool = False
) -> Iterator[None]:
    """Say at an interrupt what was done and how to go on; do not wait for a network that hangs.

    The interrupt itself goes on, for the program's outermost frame to name it. ``to_stdout``
    says that the bytes themselves go there, so that no record may.
    """
    try:
        yield
    except KeyboardInterrupt as exc:
        text = f"s3pool: stopped: {summary_text(summary, verb=verb)}; the same command again goes on"
        tell_summary(summary.as_record(), ctx, text=text, to_stdout=to_stdout)
        if engine.executor.is_busy:
            # Workers that hang in the network would hold the interpreter's own end back.
            ctx.out.flush()
            os._exit(code_of_interrupt(exc))
        raise

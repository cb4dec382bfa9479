"""What cp, mv, rm and sync share: flags, workers, how a run starts, resumes and ends, and what is told of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import TypeVar

from s3pool.cli import output
from s3pool.cli.context import Context
from s3pool.cli.header_flags import add_attribute_flags, add_hint, add_request_flags, attributes_of, given_for
from s3pool.cli.output import code_of_interrupt, combined, exit_code_for, is_terminal
from s3pool.cli.parser import COPYING, FILTERS, STORED, argument_type, natural_int, section, switch, text_flag
from s3pool.cli.progress import BarProgress, PlainProgress, choose_mode, write_stderr
from s3pool.cli.selection import (
    AUTO,
    add_at_flag,
    add_fact_flags,
    add_filter_flags,
    add_glob_flag,
    add_listing_flags,
    add_shard_flags,
)
from s3pool.dialect import HIDES_BELOW
from s3pool.errors import S3PoolError, StoppedError, UnusableAnswerError, UsageError
from s3pool.s3.client import S3Client
from s3pool.s3.requests import choose_part_size
from s3pool.transfer.context import Progress, TransferContext, TransferOptions
from s3pool.transfer.digests import ALGORITHMS, sha256_is_cheaper
from s3pool.transfer.executor import BoundedExecutor, choose_workers, make_executor
from s3pool.transfer.part_file import SHARDS_APART_S
from s3pool.transfer.resume import Leftovers, Unfinished, make_sweep
from s3pool.transfer.runner import run as run_tasks
from s3pool.transfer.runner import run_deletes
from s3pool.transfer.tasks import ARCHIVED, DONE, SKIPPED, DeleteTask, Outcome, Problem, Summary
from s3pool.transfer.walk import LINK_RULES, LINKS_FILES, words_of
from s3pool.units import format_duration, format_size, parse_size

T = TypeVar("T")

NO_OPTIONS = TransferOptions()
NO_FIELDS: Mapping[str, object] = {}


def add_transfer_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every command that copies."""
    add_filter_flags(parser)
    chosen, group = section(parser, FILTERS), section(parser, COPYING)
    add_fact_flags(chosen)
    text_flag(chosen, "--files-from", "FILE", help="only these names below SRC, one a line; - for standard input")
    add_at_flag(chosen)
    add_glob_flag(chosen)
    switch(parser, "-n", "--no-clobber", help="leave targets that exist; a rehearsal is --dry-run")
    switch(parser, "-u", "--update", help="copy only what is newer than the target")
    group.add_argument("--part-size", type=part_size, default=0, metavar="SIZE", help="of large transfers (16M)")
    group.add_argument(
        "--part-workers", type=natural_int, default=0, metavar="N", help="parts of one file at a time (0: all workers)"
    )
    group.add_argument("--links", choices=LINK_RULES, default=LINKS_FILES, help="which symbolic links are followed")
    switch(group, "--no-resume", help="do not go on with large transfers that a run before left unfinished")
    switch(group, "--no-verify", help="of downloads check the length alone; less CPU, on networks to trust")
    switch(group, "--ignore-archived", help="skip what lies in an archive; else each such object fails")
    switch(group, "--preserve", help="keep mode, owner and empty directories; count what is lost")
    text_flag(group, "--source-profile", "NAME", help="read from another pool, of this profile; both sides in S3")
    add_attribute_flags(parser)
    add_request_flags(parser)
    text_flag(parser, "--sse-c-source", "KEYFILE", help="key of a copy's source, if another (none: no key)")
    add_shard_flags(parser)
    add_listing_flags(parser, jobs=AUTO)


def add_checksum_flag(parser: argparse.ArgumentParser) -> None:
    """Add --checksum for uploads."""
    section(parser, STORED).add_argument(
        "--checksum", choices=ALGORITHMS, default="", metavar="NAME", help=f"send one more: {', '.join(ALGORITHMS)}"
    )


def _parse_part_size(text: str) -> int:
    if not parse_size(text):  # it would mean the default
        raise UsageError("a part has 5 MiB to 5 GiB, not 0 bytes")
    return choose_part_size(0, parse_size(text))


part_size = argument_type(_parse_part_size, "size")


def options_of(args: argparse.Namespace, ctx: Context, *, remove_source: bool = False) -> TransferOptions:
    """Return the transfer options that the flags describe."""
    return TransferOptions(
        **given_for(TransferOptions, args),
        attributes=attributes_of(args),
        remove_source=remove_source,
        verify=not getattr(args, "no_verify", False),
        # A move sends the MD5 in any case: the ETag of what was stored is held against that.
        sign_payload=ctx.config.sign and not (remove_source or ctx.session.all_tls) and sha256_is_cheaper(),
    )


@contextmanager
def shown_progress(ctx: Context, *, to_stdout: bool = False) -> Iterator[tuple[Progress, bool]]:
    """Yield the progress of a run, and whether to print a line for each result.

    With ``to_stdout`` the bytes of an object go to stdout.
    """
    if ctx.part is not None:
        from s3pool.cli.progress import PartProgress

        progress = PartProgress(ctx.part)
        yield progress, ctx.part.shows_lines
        progress.report()
        return
    wanted = getattr(ctx.args, "progress", "auto")
    busy = not (ctx.out.is_tty or to_stdout)
    mode = choose_mode(
        wanted, quiet=ctx.out.quiet, json=ctx.out.json, stderr_is_tty=is_terminal(sys.stderr), stdout_is_busy=busy
    )
    if ctx.dry_run or mode == "none":
        yield Progress(), True
    elif mode == "plain":
        yield PlainProgress(write_stderr), True
    else:
        bars = BarProgress(color=ctx.out.is_colored(stderr=True))
        bars.start()
        ctx.out.pause = bars.paused
        try:
            yield bars, False
        finally:
            ctx.out.pause = nullcontext
            bars.stop()


def worker_count(ctx: Context) -> int:
    """Return the configured number of workers, or one that suits the larger of the two pools."""
    nodes = max(len(ctx.session.nodes), len(ctx.source_session.nodes))
    return choose_workers(ctx.config.workers, nodes)


def executor_for(ctx: Context, *, inline: bool) -> BoundedExecutor:
    """Return the workers of a run; none with ``inline``, for one object that is not worth a thread."""
    if inline:
        return BoundedExecutor(0)
    return make_executor(ctx.config.workers, worker_count(ctx), is_limited=ctx.config.is_limited)


@contextmanager
def transfer_context(
    ctx: Context, options: TransferOptions, *, inline: bool = False, to_stdout: bool = False
) -> Iterator[tuple[TransferContext, OutcomePrinter]]:
    """Yield the transfers' context of a run, whose workers end with it, and what prints its outcomes.

    With ``inline`` there are no workers, for one object that is not worth a thread.
    """
    with shown_progress(ctx, to_stdout=to_stdout) as (progress, lines):
        executor = executor_for(ctx, inline=inline)
        source = TransferContext(ctx.source_session.client) if ctx.source_session is not ctx.session else None
        context = TransferContext(ctx.client, options=options, executor=executor, progress=progress, source=source)
        context.is_cross_pool = ctx.has_two_pools
        try:
            yield context, OutcomePrinter(ctx, lines=lines)
        finally:
            executor.close()


@contextmanager
def running(
    ctx: Context,
    options: TransferOptions,
    summary: Summary,
    *,
    verb: str,
    inline: bool = False,
    to_stdout: bool = False,
) -> Iterator[tuple[TransferContext, OutcomePrinter]]:
    """Yield what transfer_context() does; an interrupt ends the run promptly."""
    with (
        transfer_context(ctx, options, inline=inline, to_stdout=to_stdout) as (context, printer),
        ending_promptly(context, summary, ctx, verb=verb, to_stdout=to_stdout),
    ):
        yield context, printer


def remember(context: TransferContext, ctx: Context, *, sweeps: bool = True) -> Callable[[Outcome], None]:
    """Make large transfers resume where an interrupted run of the same command stopped.

    With ``sweeps``, partial files of interrupted small downloads are removed from the directories that this run writes.
    The function returned takes each outcome, and removes what interrupted runs left of targets that no longer need it.
    """
    if ctx.dry_run:
        return lambda _: None
    from s3pool.transfer.resume import pool_of, state_directory

    directory = state_directory(ctx.environ)
    unfinished = Unfinished(
        os.path.join(directory, "unfinished.sqlite"),
        pool=lambda: pool_of(ctx.config.endpoints, directory),
        shared=True,
        resumes=not getattr(ctx.args, "no_resume", False),
    )
    context.memory = unfinished
    if sweeps:
        is_shard = ctx.part is not None or bool(getattr(ctx.args, "shard", ""))
        context.parts.sweep = make_sweep(
            unfinished.knows_part,
            largest=context.options.download_threshold,
            min_age_s=SHARDS_APART_S if is_shard else 0.0,
        )
    left = Leftovers(unfinished, context.client)
    return left.clear_of if left else lambda _: None


def remove(
    tasks: Iterable[DeleteTask | Problem],
    ctx: Context,
    *,
    summary: Summary,
    tells_deletes: bool = True,
    options: TransferOptions = NO_OPTIONS,
) -> None:
    """Delete a stream of objects in batches, and print the outcome of each key.

    Without ``tells_deletes`` only failures are printed, and no thread is started.
    """
    with running(ctx, options, summary, verb="deleted", inline=not tells_deletes) as (context, printer):

        def tell(outcome: Outcome) -> None:
            if tells_deletes or outcome.error is not None:
                printer(outcome)

        watched = watch_health(tasks, ctx) if tells_deletes else tasks
        if ctx.dry_run:
            run_tasks(watched, context, on_outcome=tell, rehearse=True, summary=summary)
        else:
            run_deletes(watched, context, on_outcome=tell, summary=summary)


def passes(summary: Summary, client: S3Client, ctx: Context) -> Iterator[None]:
    """Yield once; where an object hides those below its name, again as long as all that was found went."""
    gone = -1
    while summary.checked > gone:
        gone = summary.checked
        yield
        is_whole = summary.copied + summary.deleted == summary.checked and summary.stopped_by is None
        if ctx.dry_run or not is_whole or not client.dialect.knows(HIDES_BELOW):
            return


def watch_health(items: Iterable[T], ctx: Context) -> Iterator[T]:
    """Start the background probes at the second item: a run of one item is short."""
    following = iter(items)
    yield from islice(following, 1)
    for item in following:
        ctx.session.start_health()
        ctx.source_session.start_health()
        yield item
        break
    yield from following


@contextmanager
def ending_promptly(
    context: TransferContext, summary: Summary, ctx: Context, *, verb: str, to_stdout: bool = False
) -> Iterator[None]:
    """At an interrupt, print what was done and how to go on, and do not wait for a stalled network.

    The interrupt is raised again, and main() reports it. With ``to_stdout`` the bytes of an
    object go to stdout, so the record goes to stderr.
    """
    try:
        yield
    except KeyboardInterrupt as exc:
        if ctx.part is not None:
            ctx.part.send("summary", summary.counts)
        else:
            text = f"s3pool: stopped: {summary_text(summary, verb=verb)}; the same command again goes on"
            print_summary(summary.as_record(), ctx, text=text, to_stdout=to_stdout)
        if context.executor.is_busy:
            # Workers that hang in the network would hold the interpreter's own end back.
            ctx.out.flush()
            os._exit(code_of_interrupt(exc))
        raise


class OutcomePrinter:
    """Prints the outcome of each task; used by the main thread alone."""

    def __init__(self, ctx: Context, *, lines: bool) -> None:
        self._out = ctx.out
        self._act = "move" if ctx.args.command == "mv" else "copy"
        self._args = ctx.args if "storage_class" in ctx.args else None
        self._lines = lines

    def __call__(self, outcome: Outcome) -> None:
        """Print one outcome."""
        if outcome.error is not None:
            self._print_error(outcome, outcome.error)
        elif outcome.state == DONE and not isinstance(outcome.task, Problem):
            self._print_done(outcome)
        elif outcome.state == SKIPPED:
            self._print_skipped(outcome)

    def _print_error(self, outcome: Outcome, error: Exception) -> None:
        task = outcome.task
        if isinstance(error, StoppedError):
            return
        if self._args is not None:
            add_hint(error, self._args)
        self._out.error(error, op=task.op, source=task.source, target=task.target, of_one=True)

    def _print_done(self, outcome: Outcome) -> None:
        task = outcome.task
        if isinstance(task, DeleteTask) or task.op == "delete":
            self._print_deleted(outcome)
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

    def _print_deleted(self, outcome: Outcome) -> None:
        task = outcome.task
        if not (self._lines or self._out.json):
            return
        fields: dict[str, object] = {"type": "delete", "url": task.source}
        suffix = ""
        for name, words in (("version_id", "version"), ("upload_id", "unfinished upload")):
            if value := getattr(task, name, "") if isinstance(task, DeleteTask) else "":
                fields[name], suffix = value, f" ({words} {self._out.escape(value)})"
        self._out.act(f"Deleted: {self._out.escape(task.source)}{suffix}", fields)

    def _print_skipped(self, outcome: Outcome) -> None:
        import logging

        task = outcome.task
        if outcome.done.skipped == ARCHIVED:
            self._out.remark(f"{task.source} was left out: {ARCHIVED}", source=task.source, target=task.target)
        logging.getLogger(__name__).info("%s: not copied: %s", task.source, outcome.done.skipped)


def finish(
    summary: Summary, ctx: Context, *, verb: str = "copied", before: str = "", fields: Mapping[str, object] = NO_FIELDS
) -> int:
    """Print the summary of a run, with ``before`` in front and ``fields`` in its record, and return the exit code."""
    end = summary.stopped_by
    if end is not None and not any(end is known for known in (*summary.errors, *summary.source_errors)):
        ctx.out.error(end)
    if ctx.part is not None:
        ctx.part.send("summary", summary.counts)
        return exit_code_of(summary)
    words = summary_text(summary, verb=verb, dry_run=ctx.dry_run)
    text = f"s3pool: {before}; {words}" if before else f"s3pool: {words}"
    print_summary({**summary.as_record(), **fields}, ctx, text=text)
    return exit_code_of(summary)


def store_directories_kept(context: TransferContext, summary: Summary, ctx: Context) -> None:
    """With --preserve, store the empty directories and note what no object can hold."""
    kept = context.not_kept
    if kept is None:
        return
    if not (ctx.dry_run or summary.stopped_by):
        from s3pool.transfer.upload import store_directories

        try:
            store_directories(kept, context)
        except (S3PoolError, OSError) as exc:
            summary.stopped_by = exc
    summary.not_kept = kept.counts
    if ctx.part is None:
        note_not_kept(kept.counts, ctx)


def note_not_kept(counts: Mapping[str, int], ctx: Context) -> None:
    """Note what no object can hold, if there was something."""
    if words := ", ".join(words_of(counts)):
        ctx.out.note(f"s3pool: not kept: {words}")


def print_summary(fields: Mapping[str, object], ctx: Context, *, text: str, to_stdout: bool = False) -> None:
    """Print a summary: with --json a record on stdout, otherwise a line on stderr.

    With ``to_stdout`` the bytes of an object go to stdout, so the record goes to stderr, too.
    """
    record = {**output.SUMMARY_RECORD, **fields, **({"dry_run": True} if ctx.dry_run else {})}
    if ctx.out.json and not to_stdout:
        ctx.out.record(record)
    else:
        ctx.out.note(text, record)


def summary_text(summary: Summary, *, verb: str, dry_run: bool = False) -> str:
    """Return the summary for people, in one line."""
    count = summary.deleted if verb == "deleted" else summary.copied
    words = [f"{count} {verb}"]
    words += [
        f"{number} {word}"
        for number, word in (
            (summary.skipped, "skipped"),
            (summary.refused, "refused"),
            (summary.failed, "failed"),
            (summary.not_started, "not finished"),
        )
        if number
    ]
    if verb != "deleted":
        words.append(format_size(summary.bytes))
    speed = ""
    if summary.bytes and summary.seconds and not dry_run:
        speed = f" ({format_size(round(summary.bytes / summary.seconds))}/s)"
    prefix = "dry run: " if dry_run else ""
    return f"{prefix}{', '.join(words)} in {format_duration(round(summary.seconds, 2))}{speed}"


def exit_code_of(summary: Summary) -> int:
    """Return the exit code of a run.

    A source that could not be read, or a failure that ended the run, gives its own code. Beside
    transfers that succeeded, a missing or forbidden object is FAILED, and so is a bad line in a
    list of names, which is no error of the command line.
    """
    went_well = summary.copied + summary.deleted + summary.skipped > 0
    codes = [exit_code_for(error) for error in summary.source_errors]
    codes = [output.FAILED if went_well and code == output.USAGE else code for code in codes]
    if summary.stopped_by is not None:
        codes.append(exit_code_for(summary.stopped_by))
    for error in summary.errors:
        if error is not summary.stopped_by:
            code = exit_code_for(error)
            is_of_one = code in (output.NOT_FOUND, output.DENIED) or isinstance(error, UnusableAnswerError)
            codes.append(output.FAILED if went_well and is_of_one else code)
    if summary.not_started and not codes:
        codes.append(output.FAILED)
    return combined(codes) if codes else output.DONE

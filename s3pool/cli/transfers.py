"""What cp, mv, rm and sync share: flags, workers, and how a run starts, resumes and ends."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, TypeVar

from s3pool.cli.context import Context
from s3pool.cli.header_flags import add_attribute_flags, add_request_flags, attributes_of, given_for
from s3pool.cli.outcomes import OutcomePrinter, print_summary, summary_text
from s3pool.cli.output import code_of_interrupt, is_terminal
from s3pool.cli.parser import COPYING, FILTERS, STORED, natural_int, section, size_in_bytes, switch, text_flag
from s3pool.cli.progress import BarProgress, PlainProgress, choose_mode, write_stderr
from s3pool.cli.selection import AUTO, add_at_flag, add_fact_flags, add_glob_flag, add_listing_flags, add_shard_flags
from s3pool.dialect import HIDES_BELOW
from s3pool.errors import UsageError, describe_os_error
from s3pool.filters import EXCLUDE, INCLUDE
from s3pool.location import Location, S3Path
from s3pool.s3.client import S3Client
from s3pool.s3.requests import choose_part_size
from s3pool.transfer.context import Progress, TransferContext, TransferOptions
from s3pool.transfer.digests import ALGORITHMS, sha256_is_cheaper
from s3pool.transfer.executor import BoundedExecutor, choose_workers, make_executor
from s3pool.transfer.part_file import SHARDS_APART_S
from s3pool.transfer.resume import Leftovers, Unfinished, make_sweep
from s3pool.transfer.runner import run as run_tasks
from s3pool.transfer.runner import run_deletes
from s3pool.transfer.tasks import DeleteTask, Outcome, Problem, Summary
from s3pool.transfer.walk import LINK_RULES, LINKS_FILES

T = TypeVar("T")

NO_OPTIONS = TransferOptions()


class FilterRule(argparse.Action):
    """Collect --include and --exclude in one list, because their order decides."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Append one rule, or those of a file."""
        kind = INCLUDE if option_string in ("--include", "--include-from") else EXCLUDE
        globs = _globs_in(str(values)) if self.metavar == "FILE" else [str(values)]
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), *((kind, glob) for glob in globs)])


def _globs_in(path: str) -> list[str]:
    """Return the lines of a file; empty ones and those that begin with # are no globs."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            lines = [line.rstrip("\r\n") for line in stream]
    except OSError as exc:
        raise UsageError(f"cannot read the globs in {path}: {describe_os_error(exc)}") from exc
    return [line for line in lines if line and not line.startswith("#")]


def add_filter_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that take and leave names."""
    group = section(parser, FILTERS)
    for name, meaning in (("--include", "take names that match"), ("--exclude", "leave names that match")):
        for flag, metavar, what in (
            (name, "GLOB", f"{meaning}; repeatable, the last match decides; * crosses /"),
            (f"{name}-from", "FILE", "the same, with the globs in a file, one a line"),
        ):
            group.add_argument(flag, dest="name_rules", action=FilterRule, default=[], metavar=metavar, help=what)


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


def part_size(text: str) -> int:
    """Read a part size within S3's limits; for ``type=``."""
    size = size_in_bytes(text)
    if not size:  # it would mean the default
        raise argparse.ArgumentTypeError("a part has 5 MiB to 5 GiB, not 0 bytes")
    try:
        return choose_part_size(0, size)
    except UsageError as exc:
        raise argparse.ArgumentTypeError(exc.message) from exc


part_size.__name__ = "size"


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


def check_ends(sources: Iterable[Location], target: Location, args: argparse.Namespace) -> None:
    """Refuse flags that are of copies inside S3, or of downloads, for anything else."""
    other = next((end for end in (*sources, target) if not isinstance(end, S3Path)), None)
    for flag, value, what, hint in (
        ("--source-profile", args.source_profile, "copies from one pool to another", "with one pool use --profile"),
        ("--sse-c-source", args.sse_c_source, "is the key of a copy's source", "with one key use --sse-c"),
    ):
        if value and other is not None:
            raise UsageError(f"{flag} {value} {what}, and {other.text} is not in S3; {hint}")
    if args.no_verify and isinstance(target, S3Path):
        raise UsageError(f"--no-verify is for downloads, and {target.text} is in S3")


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
    ctx: Context, options: TransferOptions, progress: Progress, *, inline: bool = False
) -> Iterator[TransferContext]:
    """Yield the transfers' context of a run; its workers end with it.

    With ``inline`` there are none, for one object that is not worth a thread.
    """
    executor = executor_for(ctx, inline=inline)
    source = TransferContext(ctx.source_session.client) if ctx.source_session is not ctx.session else None
    context = TransferContext(ctx.client, options=options, executor=executor, progress=progress, source=source)
    context.is_cross_pool = ctx.has_two_pools
    try:
        yield context
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
    """Yield the transfers' context of a run and what prints its outcomes; an interrupt ends it promptly."""
    with (
        shown_progress(ctx, to_stdout=to_stdout) as (progress, lines),
        transfer_context(ctx, options, progress, inline=inline) as context,
        ending_promptly(context, summary, ctx, verb=verb, to_stdout=to_stdout),
    ):
        yield context, OutcomePrinter(ctx, lines=lines)


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

"""s3pool sync, and mirror with mc's flags: make a tree like another one, and print one line of summary."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from s3pool.cli import transfers
from s3pool.cli.context import Context
from s3pool.cli.header_flags import check_ends, given_for, warn_of_attributes
from s3pool.cli.output import DONE, SKIPPED, code_of_interrupt, combined, exit_code_for, message_of
from s3pool.cli.parser import STORED, Command, argument_type, seconds, section, switch, text_flag
from s3pool.cli.progress import Part
from s3pool.cli.selection import Past, by_processes, fact_filter, list_mode, shard_of
from s3pool.errors import LocalFileError, RefusedError, UsageError
from s3pool.filters import WHOLE, NameFilter, NameRange, Names
from s3pool.location import LocalPath, Location, S3Path
from s3pool.model import SEQUENTIAL, ListPage
from s3pool.record import replace
from s3pool.s3.client import S3Client
from s3pool.s3.list_all import list_pages, list_past_pages
from s3pool.sync.compare import COPY, UPLOAD
from s3pool.sync.job import ChangedNames, ListedNames, Report, Situation, SyncOptions, parse_max_delete
from s3pool.sync.pair import SyncPair, check_apart, choose_pair, lock_pair, paths_for
from s3pool.sync.run import Sync
from s3pool.transfer.context import TransferContext
from s3pool.transfer.digests import ALGORITHMS
from s3pool.transfer.resume import pool_of, state_directory
from s3pool.transfer.tasks import Outcome
from s3pool.transfer.walk import NotKept
from s3pool.units import format_duration, format_size

if TYPE_CHECKING:
    from s3pool.cli.watching import TreeWatcher


def _add_mirror_flags(parser: argparse.ArgumentParser) -> None:
    switch(parser, "--overwrite", help="copy what differs too, not only what is new")
    switch(parser, "--remove", help="delete what SRC does not have: as --delete")
    _add_flags(parser)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a local directory or s3/BUCKET/PREFIX")
    parser.add_argument("target", metavar="DST", help="the same; one of the two is in S3")
    group = parser.add_argument_group("what counts as a difference")
    switch(group, "--size-only", help="the size alone")
    switch(group, "--checksum", help="the content, by its ETag; local files are read")
    switch(group, "--exact-timestamps", help="the stored mtime; costs a HEAD per object")
    group = parser.add_argument_group("what the source does not have")
    switch(group, "--delete", help="delete it from the target, when all else went well")
    switch(group, "--delete-excluded", help="delete what the filters exclude, too")
    group.add_argument(
        "--max-delete",
        type=argument_type(parse_max_delete, "limit"),
        default="50%",
        metavar="LIMIT",
        help="N, none, or N%% of the target (counts when over 100 would go): delete nothing when more would go (50%%)",
    )
    switch(group, "--allow-empty-source", help="an empty source may empty the target")
    group = parser.add_argument_group("the run")
    switch(group, "-w", "--watch", help="go on with what changes in a local SRC, until stopped")
    text_flag(group, "--lock", "FILE", help="instead of one per source and target")
    group.add_argument(
        "--max-duration", type=seconds, default=0.0, metavar="TIME", help="take no new work after 90s, 2h, ..."
    )
    text_flag(group, "--metrics-file", "FILE", help="write Prometheus metrics at the end")
    transfers.add_transfer_flags(parser)
    section(parser, STORED).add_argument(
        "--upload-checksum", choices=ALGORITHMS, default="", metavar="NAME", help="send one more"
    )


def _mirror_tree(args: argparse.Namespace, ctx: Context) -> int:
    args.delete = args.delete or args.remove
    if args.overwrite and args.no_clobber:
        raise UsageError("--overwrite and --no-clobber exclude each other")
    args.no_clobber = not args.overwrite
    return _run(args, ctx)


def _sync_tree(args: argparse.Namespace, ctx: Context) -> int:
    if args.no_clobber and (args.delete or args.delete_excluded):
        raise UsageError(
            "-n (--no-clobber) leaves targets that exist, and --delete deletes: "
            "for a rehearsal write --dry-run; to copy only what is new and then delete, run sync twice"
        )
    return _run(args, ctx)


def _run(args: argparse.Namespace, ctx: Context) -> int:
    """Make the target like the source; a failure is printed, and the rest goes on."""
    source, target = ctx.location(args.source, is_source=True), ctx.location(args.target)
    check_ends([source], target, args)
    warn_of_attributes(target, args, ctx.out.warn)
    route = choose_pair(source, target, glob=not args.no_glob)
    if route.direction == COPY:
        check_apart(route, ctx.source_session.client, ctx.client)
    if args.watch:
        from s3pool.cli.watching import check_watchable

        check_watchable(args, route)
    if args.metrics_file and not ctx.dry_run:
        from s3pool.sync.job import check_replaceable

        check_replaceable(args.metrics_file)
    by_parts = by_processes(args, ctx)
    options = _options(args, ctx, route)
    report = Report()
    work = _sync_by_parts if by_parts else _sync

    def end(code: int) -> int:
        _write_metrics(route, options, report, ctx, code)
        return code

    try:
        return end(work(route, options, report, ctx))
    except _Stuck as stuck:
        ctx.out.flush()
        # Workers that hang in the network would hold the interpreter's own end back.
        os._exit(end(stuck.code))
    except KeyboardInterrupt as exc:
        end(code_of_interrupt(exc))
        raise
    except Exception as exc:
        end(exit_code_for(exc))
        raise


class _Stuck(Exception):
    """The run was interrupted, and workers hang."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _options(args: argparse.Namespace, ctx: Context, route: SyncPair) -> SyncOptions:
    shard = shard_of(args, ctx)
    pools = (ctx.config, ctx.source_session.config) if ctx.has_two_pools else (ctx.config,)
    directory = state_directory(ctx.environ)
    pool = " ".join(pool_of(config.endpoints, directory, read_only=ctx.dry_run) for config in pools)
    given = SyncOptions(**{**given_for(SyncOptions, args), "at": _moment(args, ctx, route), "shard": shard})
    names: Names = NameFilter(args.name_rules)
    if args.files_from:
        from s3pool.cli.commands.cp import iter_listed

        names = ListedNames(iter_listed(args.files_from, ctx), names)
    return replace(
        given,
        names=names,
        facts=fact_filter(args, ctx),
        max_duration_s=args.max_duration,
        resume=not args.no_resume,
        # The processes of one run share its state: the next run may have other ranges, or one process.
        state=paths_for(
            route,
            directory=directory,
            shard=shard if ctx.part is None else WHOLE,
            pool=pool,
        ),
        takes_lock=ctx.part is None,
    )


def _moment(args: argparse.Namespace, ctx: Context, route: SyncPair) -> float | None:
    past = Past(args, ctx)
    if past.at is not None and route.direction == UPLOAD:
        raise UsageError(f"--at reads the past of a source in S3, and {route.source_text} is not in S3")
    return None if past.at is None else past.of(route.source, ctx.source_session.client)


def _sync(route: SyncPair, options: SyncOptions, report: Report, ctx: Context) -> int:
    # The comparison has settled what --update and --checksum mean before a transfer begins.
    words = argparse.Namespace(**{**vars(ctx.args), "checksum": ctx.args.upload_checksum, "update": False})
    wanted = transfers.options_of(words, ctx)
    with transfers.transfer_context(ctx, wanted) as (context, printer):
        if ctx.args.preserve:
            context.not_kept = NotKept()
        one_pass = _passes(route, context, ctx, printer)
        try:
            if ctx.args.watch:
                from s3pool.cli.watching import TreeWatcher

                tell = partial(_tell_trouble, route=route, ctx=ctx)
                TreeWatcher(route, options, ctx, sync=one_pass, tell=tell, total=report).run()
            else:
                one_pass(options, report)
            transfers.store_directories_kept(context, report.summary, ctx)
        except LocalFileError as exc:
            report.summary.stopped_by = exc
        except KeyboardInterrupt as exc:
            _tell_stop(report, ctx)
            if context.executor.is_busy:
                raise _Stuck(code_of_interrupt(exc)) from exc
            raise
    _tell_trouble(report, route=route, ctx=ctx)
    _tell_summary(report, ctx)
    is_cut = report.held_back or report.out_of_time
    return combined((transfers.exit_code_of(report.summary), SKIPPED if is_cut else DONE))


def _passes(
    route: SyncPair, context: TransferContext, ctx: Context, printer: transfers.OutcomePrinter
) -> Callable[..., None]:
    """Return what makes one pass; of a watcher's it lists what has changed, and tells what is new."""

    def one_pass(
        options: SyncOptions, report: Report, changed: ChangedNames | None = None, watcher: TreeWatcher | None = None
    ) -> None:
        def tell(outcome: Outcome) -> None:
            if watcher is None or watcher.is_new(outcome):
                printer(outcome)

        def pages(client: S3Client, tree: S3Path, within: NameRange, in_order: bool) -> Iterable[ListPage]:
            if changed is not None:
                return changed.list_pages(client, tree, context.executor)
            # The merge lives by the order, whatever --unordered would make of a mere listing; ranges do so, too.
            mode = list_mode(ctx.args, ctx, ordered=True) if in_order else SEQUENTIAL
            start, until = within.bounds(tree.tree_prefix)
            what: dict[str, Any] = {"prefix": tree.tree_prefix, "start_after": start, "until": until, "mode": mode}
            if options.at is not None and tree is route.source:
                return list_past_pages(client, tree.bucket, at=options.at, **what)
            return list_pages(client, tree.bucket, **what)

        Sync(
            route,
            context,
            options,
            list_pages=pages,
            on_outcome=tell,
            report=report,
            watch=lambda items: transfers.watch_health(items, ctx),
            partners=watcher if ctx.part is None else _Partners(ctx.part),
        ).run()

    return one_pass


class _Partners:
    """The other processes of a run, by way of the one that started them."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def agree(self, situation: Situation) -> Situation:
        """Return the sum of what all have found."""
        names = Situation.__match_args__
        return replace(situation, **self._part.meet("deletes", {name: getattr(situation, name) for name in names}))

    def wait_for_deletes(self) -> None:
        """Wait for the others."""
        self._part.meet("deleted", {})


def _sync_by_parts(route: SyncPair, options: SyncOptions, report: Report, ctx: Context) -> int:
    """Sync by several processes: one lock, one summary, one metrics file."""
    from s3pool.cli.processes import run_parts

    source: Location = LocalPath(route.root) if route.direction == UPLOAD else route.source
    listed = ctx.stdin.read() if ctx.args.files_from == "-" else None
    tree = None if ctx.args.files_from else source
    with (
        lock_pair(options.lock, options.state, dry_run=ctx.dry_run),
        transfers.shown_progress(ctx) as (progress, lines),
    ):
        parts = run_parts(ctx, tree, ordered=False, progress=progress, lines=lines, stdin=listed, is_source=True)
    for counts in parts.reports("report"):
        report.add_counts(counts)
    if report.summary.not_kept is not None:
        transfers.note_not_kept(report.summary.not_kept, ctx)
    target = route.target
    if report.summary.deleted and target.bucket and ctx.client.list_objects_page(target.bucket, max_keys=1).is_minio:
        ctx.out.warn(f"MinIO hides keys below the names of objects; what was hidden in {target.text} takes another run")
    if parts.interrupt is not None:
        _tell_stop(report, ctx)
        parts.raise_interrupt()
    _tell_summary(report, ctx)
    return parts.code


def _tell_stop(report: Report, ctx: Context) -> None:
    _tell_summary(report, ctx)
    if ctx.part is None:
        ctx.out.note("s3pool: the same command again goes on")


def _tell_trouble(report: Report, *, route: SyncPair, ctx: Context) -> None:
    stopped_by = report.summary.stopped_by
    if stopped_by is not None and all(stopped_by is not error for error in report.summary.errors):
        ctx.out.error(stopped_by, source=route.source_text, target=route.target_text)
    for side in report.unordered:
        ctx.out.warn(f"{side} is listed without order: its names were sorted on this machine")
    if report.held_back:
        error = RefusedError(f"nothing was deleted: {report.held_back}")
        ctx.out.error(error, source=route.source_text, target=route.target_text)
    if report.out_of_time:
        ctx.out.warn("the time was up; the same command again goes on")


def _tell_summary(report: Report, ctx: Context) -> None:
    if ctx.part is not None:
        ctx.part.send("report", report.counts)
        return
    retries = sum(row.retries for row in ctx.endpoint_stats())
    text = f"s3pool: {'dry run: ' if ctx.dry_run else ''}{_summary_text(report, retries)}"
    transfers.print_summary(_record(report, retries), ctx, text=text)


def _record(report: Report, retries: int) -> dict[str, object]:
    return {
        "checked": report.tally.checked,
        "copied": report.summary.copied,
        "deleted": report.summary.deleted,
        "skipped": report.skipped,
        "failed": report.summary.failed,
        "bytes": report.summary.bytes,
        "seconds": round(report.seconds, 3),
        "retries": retries,
        "unchanged": report.unchanged,
        "looked_at": report.tally.looked_at,
        "not_finished": report.summary.not_started,
        "held_back": report.held_back,
        **({} if report.summary.not_kept is None else {"not_kept": dict(report.summary.not_kept)}),
    }


def _summary_text(report: Report, retries: int) -> str:
    summary = report.summary
    words = [
        f"{report.tally.checked} checked",
        f"{summary.copied} copied",
        f"{summary.deleted} deleted",
        f"{report.skipped} skipped",
        f"{summary.failed} failed",
    ]
    if report.tally.looked_at:
        words.append(f"{report.tally.looked_at} looked at")
    if summary.not_started:
        words.append(f"{summary.not_started} not finished")
    words.append(format_size(summary.bytes))
    return f"{', '.join(words)} in {format_duration(round(report.seconds, 2))}, {retries} retries"


def _write_metrics(route: SyncPair, options: SyncOptions, report: Report, ctx: Context, code: int) -> None:
    path = ctx.args.metrics_file
    if not path or ctx.dry_run or ctx.part is not None:
        return
    from s3pool.sync.job import format_metrics, iter_gauges, last_success, write_atomically

    labels = {"source": route.source_text, "target": route.target_text}
    if not options.shard.is_whole:
        labels["shard"] = options.shard.text
    now = ctx.now()
    success = now if code == DONE else last_success(path, labels)
    rows = ctx.endpoint_stats()
    gauges = iter_gauges(report, labels, exit_code=code, now=now, success=success, endpoints=rows)
    try:
        write_atomically(path, format_metrics(gauges))
    except (LocalFileError, UsageError) as exc:
        ctx.out.warn(message_of(exc))


COMMANDS = {
    "sync": Command(
        (
            "sync photos s3/backup/photos",
            "sync --delete --dry-run photos s3/backup/photos",
            "sync s3/backup/photos photos",
        ),
        _add_flags,
        _sync_tree,
    ),
    "mirror": Command(("mirror --overwrite --remove site s3/b/site",), _add_mirror_flags, _mirror_tree),
}

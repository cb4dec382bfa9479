"""s3pool cp, mv and pipe: files, objects and streams, to and from S3 and inside it.

mv deletes each source that was checked; pipe stores standard input, of any length.
"""

from __future__ import annotations

import argparse
import os
import stat
import time
from collections.abc import Iterator, Sequence
from itertools import filterfalse

from s3pool.cli import transfers
from s3pool.cli.context import Context
from s3pool.cli.header_flags import add_attribute_flags, add_hint, add_request_flags, check_ends, warn_of_attributes
from s3pool.cli.parser import FILTERS, Command, positive_int, section, switch, text_flag
from s3pool.cli.selection import Past, by_processes, fact_filter, list_mode, shard_of
from s3pool.errors import NotFoundError, S3Error, UsageError
from s3pool.filters import NameFilter
from s3pool.location import LocalPath, Location, S3Path, StdStream, dest_for, has_glob
from s3pool.s3.list_all import past_object
from s3pool.transfer.context import TransferContext
from s3pool.transfer.download import download_to
from s3pool.transfer.executor import BoundedExecutor
from s3pool.transfer.object_reader import Source
from s3pool.transfer.runner import run as run_tasks
from s3pool.transfer.safe_path import local_error, write_special
from s3pool.transfer.sources import SourceRules, SourceTasks
from s3pool.transfer.tasks import DONE, SKIPPED, Done, DownloadTask, Outcome, Problem, Summary, UploadTask
from s3pool.transfer.upload import upload_stream
from s3pool.transfer.walk import NotKept

STDIN_NAMES = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
STDOUT_NAMES = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
DEVICES = ("/dev/", "/proc/")  # names below are open streams or devices, not files
SHARED_MEMORY = "/dev/shm/"  # except these: files on a tmpfs
STREAM = "-"  # the source of pipe in reports
STREAM_WORKERS = 4  # parts in flight; each is held in memory


def _add_copying_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SRC", help="local paths or s3/BUCKET/KEY; - for a stream")
    parser.add_argument("target", metavar="DST", help="local path or s3/BUCKET/KEY; ends in / for a directory")
    switch(parser, "-r", "--recursive", help="everything below a directory or prefix")
    transfers.add_transfer_flags(parser)
    transfers.add_checksum_flag(parser)
    text_flag(section(parser, FILTERS), "--version-id", "ID", help="one version of one source")


def _copy(args: argparse.Namespace, ctx: Context) -> int:
    """Copy or move all sources; one that fails is reported, stays, and the rest goes on."""
    move = args.command == "mv"
    sources = [_without_alias(ctx.location(text, is_source=True), STDIN_NAMES) for text in args.sources]
    target = _without_alias(ctx.location(args.target), STDOUT_NAMES)
    check_ends(sources, target, args)
    warn_of_attributes(target, args, ctx.out.warn)
    if move and args.no_verify:
        raise UsageError("mv deletes its source: what it brought must be checked; use cp --no-verify and rm")
    if move and args.version_id:
        raise UsageError("mv moves the newest version; copy a version with cp, and remove it with rm")
    at = _moment_of(sources, args, ctx, move=move)
    stream = _stream_of(sources, target, args, move=move)
    if stream is not None:
        return _copy_stream(stream, args, ctx, at)
    if by_processes(args, ctx):
        from s3pool.cli.processes import transfer_by_parts, tree_of

        tree = None if args.files_from else tree_of(sources[0], glob=not args.no_glob)
        listed = ctx.stdin.read() if args.files_from == "-" else None
        return transfer_by_parts(ctx, tree, verb="moved" if move else "copied", stdin=listed, is_source=True)
    rules = SourceRules(
        recursive=args.recursive,
        glob=not args.no_glob,
        names=NameFilter(args.name_rules),
        facts=fact_filter(args, ctx),
        shard=shard_of(args, ctx),
        links=args.links,
        is_moved=move,
        not_kept=NotKept() if args.preserve else None,
        version_id=args.version_id,
        at=at,
        listed=iter_listed(args.files_from, ctx) if args.files_from else None,
        listing=list_mode(args, ctx),
    )
    return _copy_objects(sources, target, rules, args, ctx)


def _moment_of(sources: Sequence[Location], args: argparse.Namespace, ctx: Context, *, move: bool) -> float | None:
    past = Past(args, ctx)
    if past.at is None:
        return None
    if move or args.version_id:
        raise UsageError("--at reads old versions: it goes with cp, and without --version-id")
    for source in sources:
        if not isinstance(source, S3Path):
            raise UsageError(f"--at reads the past of a source in S3, and {source.text} is not in S3")
        past.of(source, ctx.source_session.client)
    return past.at


def _without_alias(end: Location, names: tuple[str, ...]) -> Location:
    """Replace another name of a standard stream by the stream; opening it again would start over."""
    return StdStream() if isinstance(end, LocalPath) and end.path in names else end


def iter_listed(path: str, ctx: Context) -> Iterator[str]:
    """Yield the names in a file unchanged; empty lines are left out. Raises LocalFileError: it cannot be read."""
    try:
        with ctx.stdin if path == "-" else open(path, "rb") as stream:
            for line in stream:
                if name := line.rstrip(b"\n"):
                    yield name.decode("utf-8", "surrogateescape")
    except OSError as exc:
        raise local_error("read", path, exc) from exc


def _copy_objects(
    sources: Sequence[Location], target: Location, rules: SourceRules, args: argparse.Namespace, ctx: Context
) -> int:
    move = rules.is_moved
    tasks = SourceTasks(ctx.source_session.client, sources, target, rules=rules, target_client=ctx.client)
    options = transfers.options_of(args, ctx, remove_source=move)
    summary = Summary()
    verb = "moved" if move else "copied"
    with transfers.running(ctx, options, summary, verb=verb) as (context, tell):
        clear_leftovers = transfers.remember(context, ctx)
        context.not_kept = rules.not_kept

        def take(outcome: Outcome) -> None:
            clear_leftovers(outcome)
            tell(outcome)

        for number, _ in enumerate(transfers.passes(summary, ctx.source_session.client, ctx) if move else (None,)):
            # Of what the first pass has moved nothing is left.
            rest = filterfalse(lambda item: isinstance(item, Problem) and isinstance(item.error, NotFoundError), tasks)
            found = transfers.watch_health(rest if number else tasks, ctx)
            run_tasks(found, context, on_outcome=take, rehearse=ctx.dry_run, summary=summary)
        transfers.store_directories_kept(context, summary, ctx)
    return transfers.finish(summary, ctx, verb=verb)


def _stream_of(
    sources: Sequence[Location], target: Location, args: argparse.Namespace, *, move: bool
) -> tuple[Location, Location] | None:
    """Return source and target when one of them is a stream (-, a pipe, a device), else None."""
    if args.files_from:
        return None
    ends = [end for end in (*sources, target) if is_stream(end)]
    if not ends:
        return None
    if len(sources) != 1 or args.recursive:
        if any(isinstance(end, StdStream) for end in ends):
            raise UsageError("- stands for one stream; it goes with one source and one target, without -r")
        return None
    if move:
        raise UsageError(f"{ends[0].text} is a stream: it can be copied, not moved")
    source = sources[0]
    if not isinstance(source, S3Path) and not isinstance(target, S3Path):
        raise UsageError(f"{source.text} and {target.text} are both local: one side must be s3/BUCKET/KEY")
    return source, target


def is_stream(end: Location) -> bool:
    """Return whether a location is a stream: -, a pipe or a device."""
    if isinstance(end, StdStream):
        return True
    if not isinstance(end, LocalPath):
        return False
    path = os.path.abspath(end.path)
    if path.startswith(DEVICES) and not path.startswith(SHARED_MEMORY) and not os.path.isdir(path):
        return True  # even where a file is open under that name, it must be written, not replaced
    try:
        mode = os.stat(end.path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _copy_stream(ends: tuple[Location, Location], args: argparse.Namespace, ctx: Context, at: float | None) -> int:
    source, target = ends
    if args.shard or args.processes > 1:
        raise UsageError(f"--shard and --processes divide names: {source.text} to {target.text} is one stream")
    if fact_filter(args, ctx).active or NameFilter(args.name_rules).active:
        raise UsageError(f"filters choose among names: {source.text} to {target.text} is one stream")
    summary, version_id = Summary(), args.version_id
    if isinstance(source, S3Path):
        if not source.bucket or not source.key:
            raise UsageError(f"{source.text} names no object; write s3/BUCKET/KEY")
        if has_glob(source.key) and not args.no_glob:
            raise UsageError(f"{source.text} has wildcards: a stream takes one object; cat takes many")
        if at is not None:
            version_id = past_object(ctx.source_session.client, source, at).version_id
    else:
        target = dest_for(source, target)
    to_stdout = isinstance(source, S3Path) and isinstance(target, StdStream)
    options = transfers.options_of(args, ctx)
    with transfers.running(ctx, options, summary, verb="copied", to_stdout=to_stdout) as (context, tell):
        started = time.monotonic()
        clear_leftovers = transfers.remember(context, ctx, sweeps=False) if isinstance(target, S3Path) else None
        outcome = _move_bytes(source, target, context, ctx, version_id)
        if clear_leftovers is not None:
            clear_leftovers(outcome)
        summary.seconds = time.monotonic() - started
        summary.add(outcome)
        if not to_stdout:
            tell(outcome)
    return 0 if to_stdout else transfers.finish(summary, ctx)


def _move_bytes(source: Location, target: Location, context: TransferContext, ctx: Context, version_id: str) -> Outcome:
    if isinstance(source, S3Path):
        task = DownloadTask(source.bucket, source.key, *os.path.split(target.text))
        done = Done() if ctx.dry_run else _write_out(source, target, context, ctx, version_id)
        return Outcome(task, DONE, done)
    if not isinstance(target, S3Path):
        raise UsageError(f"{target.text} is not in S3")
    task_up = UploadTask(source.text, target.bucket, target.key)
    done = Done() if ctx.dry_run else _read_in(source, target, context, ctx)
    return Outcome(task_up, SKIPPED if done.skipped else DONE, done)


def _write_out(source: S3Path, target: Location, context: TransferContext, ctx: Context, version_id: str) -> Done:
    place = Source(source.bucket, source.key, version_id)
    if isinstance(target, StdStream):
        done = download_to(ctx.out.raw, place, context=context)
        ctx.out.flush()
        return done
    fd = write_special(target.text)
    try:
        return download_to(lambda block: _write_all(fd, block), place, context=context, label=target.text)
    except OSError as exc:
        raise local_error("write", target.text, exc) from exc
    finally:
        os.close(fd)


def _write_all(fd: int, block: memoryview) -> None:
    while len(block):
        block = block[os.write(fd, block) :]


def _read_in(source: Location, target: S3Path, context: TransferContext, ctx: Context) -> Done:
    if isinstance(source, StdStream):
        return upload_stream(ctx.stdin.read, target.bucket, key=target.key, context=context)
    try:
        with open(source.text, "rb", buffering=0) as stream:
            return upload_stream(lambda size: stream.read(size) or b"", target.bucket, key=target.key, context=context)
    except OSError as exc:
        raise local_error("read", source.text, exc) from exc


def _add_pipe_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="DST", help="s3/BUCKET/KEY")
    switch(parser, "-n", "--no-clobber", help="leave an object that exists")
    parser.add_argument(
        "--part-size", type=transfers.part_size, default=0, metavar="SIZE", help="of a large input (it grows)"
    )
    parser.add_argument("--part-workers", type=positive_int, default=0, metavar="N", help="parts in flight (4)")
    transfers.add_checksum_flag(parser)
    add_attribute_flags(parser)
    add_request_flags(parser)


def _pipe(args: argparse.Namespace, ctx: Context) -> int:
    """Store standard input; nothing is stored when reading fails."""
    target = ctx.s3_object(args.target)
    if target.is_prefix:
        raise UsageError(f"{target.text} names a directory: a stream has no name of its own; write {target.text}NAME")
    started = time.monotonic()
    done = _store(target, args, ctx)
    if done.skipped:
        ctx.out.remark(f"{target.text} was not written: {done.skipped}", source=STREAM, target=target.text)
        return 0
    seconds = round(time.monotonic() - started, 3)
    record = {"type": "copy", "source": STREAM, "target": target.text, "size": done.size, "seconds": seconds}
    ctx.out.act(f"{STREAM} -> {ctx.out.escape(target.text)}", record)
    return 0


def _store(target: S3Path, args: argparse.Namespace, ctx: Context) -> Done:
    if args.no_clobber and _exists(target, ctx):
        # Checked before anything is read. The request has a condition as well, for an object that
        # appears meanwhile; some servers ignore it in buckets with versions.
        return Done(skipped="it exists")
    if ctx.dry_run:
        return Done()
    workers = args.part_workers or ctx.config.workers or STREAM_WORKERS
    # The calling thread is one of the workers.
    executor = BoundedExecutor(workers - 1)
    try:
        context = TransferContext(ctx.client, options=transfers.options_of(args, ctx), executor=executor)
        clear_leftovers = transfers.remember(context, ctx, sweeps=False)
        done = upload_stream(ctx.stdin.read, target.bucket, key=target.key, context=context)
        clear_leftovers(Outcome(UploadTask(STREAM, target.bucket, target.key), SKIPPED if done.skipped else DONE, done))
        return done
    except S3Error as exc:
        add_hint(exc, args)
        raise
    finally:
        executor.close()


def _exists(target: S3Path, ctx: Context) -> bool:
    try:
        ctx.client.head_object(target.bucket, target.key)
    except NotFoundError as exc:
        if exc.code == "NoSuchBucket":
            raise
        return False
    return True


_COPY_EXAMPLES = (
    "cp report.pdf s3/backup/",
    "cp -r photos s3/backup/photos",
    "cp -r --exclude '*.tmp' s3/backup/photos .",
    "cp -r --source-profile old s3/photos s3/photos",
)
_MOVE_EXAMPLES = ("mv -r spool s3/backup/spool", "mv s3/backup/a s3/backup/b")
COMMANDS = {
    "cp": Command(_COPY_EXAMPLES, _add_copying_flags, _copy),
    "mv": Command(_MOVE_EXAMPLES, _add_copying_flags, _copy),
    "pipe": Command(("pipe s3/backup/app.sql < app.sql",), _add_pipe_flags, _pipe),
}

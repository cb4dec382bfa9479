"""How a run ends: the summary for people and programs, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from s3pool.cli.exit_codes import DENIED, DONE, FAILED, NOT_FOUND, USAGE, combined, exit_code_for
from s3pool.errors import S3PoolError
from s3pool.units import format_duration, format_size

if TYPE_CHECKING:
    from s3pool.cli.context import Context
    from s3pool.transfer.engine import Engine
    from s3pool.transfer.tasks import Summary


def finish(summary: Summary, ctx: Context, *, verb: str = "copied") -> int:
    """Tell the summary and give the exit code."""
    if summary.stopped_by is not None and not _was_told(summary, summary.stopped_by):
        ctx.out.error(summary.stopped_by)
    tell_summary(summary.as_record(), ctx, text=f"s3pool: {summary_text(summary, verb=verb, dry_run=ctx.dry_run)}")
    return exit_code_of(summary)


def store_what_is_left(engine: Engine, summary: Summary, ctx: Context) -> None:
    """Store the empty directories of a run that keeps everything, and tell what no object can hold."""
    kept = engine.not_kept
    if kept is None:
        return
    if not (ctx.dry_run or summary.stopped_by):
        from s3pool.transfer.notkept import store_directories

        try:
            store_directories(kept, engine)
        except (S3PoolError, OSError) as exc:
            summary.stopped_by = exc
    summary.not_kept = kept.counts
    if words := ", ".join(kept.words()):
        ctx.out.note(f"s3pool: not kept: {words}")


def tell_summary(fields: Mapping[str, object], ctx: Context, *, text: str, to_stdout: bool = False) -> None:
    """Tell what a run has done: a result of its own with --json, otherwise a line on stderr.

    ``to_stdout`` says that the bytes of an object go there, so that no record may.
    """
    record = {**fields, "dry_run": True} if ctx.dry_run else fields
    if ctx.out.json and not to_stdout:
        ctx.out.record(record)
    else:
        ctx.out.note(text, record)


def _was_told(summary: Summary, error: Exception) -> bool:
    return any(error is known for known in (*summary.errors, *summary.source_errors))


def summary_text(summary: Summary, *, verb: str, dry_run: bool = False) -> str:
    """Give the summary for people, in one line."""
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
    """Give the exit code of a run.

    What could not even begin speaks with its own code, and so does a failure that ended the
    run. Transfers that failed beside others that did not are FAILED, and so is a bad line of
    a list: it was no fault of the command line.
    """
    went_well = summary.copied + summary.deleted + summary.skipped > 0
    codes = [exit_code_for(error) for error in summary.source_errors]
    codes = [FAILED if went_well and code == USAGE else code for code in codes]
    if summary.stopped_by is not None:
        codes.append(exit_code_for(summary.stopped_by))
    for error in summary.errors:
        if error is not summary.stopped_by:
            code = exit_code_for(error)
            codes.append(FAILED if went_well and is_plain_failure(code) else code)
    if summary.not_started and not codes:
        codes.append(FAILED)
    return combined(codes) if codes else DONE


def is_plain_failure(code: int) -> bool:
    """Say whether a code speaks of one object, so that it means less beside successes."""
    return code in (NOT_FOUND, DENIED)

"""The outcomes of a run: a line for each task, the summary, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping

from s3pool.cli.context import Context
from s3pool.cli.header_flags import add_hint
from s3pool.cli.output import DENIED, DONE, FAILED, NOT_FOUND, SUMMARY_RECORD, USAGE, combined, exit_code_for
from s3pool.errors import S3PoolError, StoppedError, UnusableAnswerError
from s3pool.transfer.context import TransferContext
from s3pool.transfer.tasks import ARCHIVED, SKIPPED, DeleteTask, Outcome, Problem, Summary
from s3pool.transfer.tasks import DONE as TASK_DONE
from s3pool.transfer.walk import words_of
from s3pool.units import format_duration, format_size

NO_FIELDS: Mapping[str, object] = {}


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
        elif outcome.state == TASK_DONE and not isinstance(outcome.task, Problem):
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
    record = {**SUMMARY_RECORD, **fields, **({"dry_run": True} if ctx.dry_run else {})}
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
    codes = [FAILED if went_well and code == USAGE else code for code in codes]
    if summary.stopped_by is not None:
        codes.append(exit_code_for(summary.stopped_by))
    for error in summary.errors:
        if error is not summary.stopped_by:
            code = exit_code_for(error)
            is_of_one = code in (NOT_FOUND, DENIED) or isinstance(error, UnusableAnswerError)
            codes.append(FAILED if went_well and is_of_one else code)
    if summary.not_started and not codes:
        codes.append(FAILED)
    return combined(codes) if codes else DONE

"""The entry point: parse the command line, run the command, tell of it on stderr, return an exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, TextIO

from s3pool import __version__
from s3pool.cli import output
from s3pool.cli.output import Output, StdoutError
from s3pool.errors import S3PoolError, UsageError, signals_raise

if TYPE_CHECKING:
    import argparse
    import logging

    from s3pool.cli.context import Context
    from s3pool.cli.progress import Part
    from s3pool.config.options import Config
    from s3pool.pool.node import EndpointStats
    from s3pool.s3.buckets import ListingStats

DEFAULT_LOG_LEVEL = "warning"
STANDARD_DESCRIPTORS = (0, 1, 2)
SIGNALS = (
    (signal.SIGTERM, lambda: output.Terminated(output.TERMINATED)),
    (signal.SIGHUP, lambda: output.Terminated(output.HUNG_UP)),
    (signal.SIGINT, KeyboardInterrupt),
)
COLLECT_AFTER = 10_000  # new objects; loading modules makes many objects and no garbage
LOG_ROOT = "s3pool"  # every logger of the program is below this one
OTHER_WORDS = {"trace": "debug", "warn": "warning"}
STATS_HEADER = ("endpoint", "tries", "failed", "slow", "again", "sent", "got", "ms", "circuit")
STATS_COUNTS = ("requests", "failures", "throttled", "retries", "hedges", "ejections", "bytes_sent", "bytes_received")
STATS_NUMBERS = frozenset(range(1, 8))
KEPT_BYTES = 2 << 20  # more than one listing page needs, from the response to the lines


def main(argv: Sequence[str] | None = None, *, environ: Mapping[str, str] | None = None) -> int:
    """Run one command line and return its exit code; errors are printed here."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        _settle_memory()
    _occupy_standard_descriptors()
    out = _first_output(words)
    try:
        with signals_raise(SIGNALS):
            return _run(words, out, environ=os.environ if environ is None else environ)
    except StdoutError as exc:
        # Raised outside of a command: by the help, the version, or the last flush.
        return _lost_stdout(exc, out)
    except KeyboardInterrupt as exc:
        return _interrupted(exc, out)
    except Exception as exc:  # noqa: BLE001 - the outermost frame of all
        # An interrupt while argparse parses can surface as another exception raised by its clean-up.
        behind = exc.__context__
        return _interrupted(behind, out) if isinstance(behind, KeyboardInterrupt) else _failed(exc, out)
    finally:
        if argv is None:
            # The process ends now: collecting garbage once more would be wasted time.
            gc.freeze()


def _settle_memory() -> None:
    """Make garbage collection rare, and keep freed memory in the process.

    glibc returns memory of large blocks to the kernel when they are freed, and every listing page would get fresh,
    zeroed pages. Freeing one large block raises the threshold to its size (mallopt(3), M_MMAP_THRESHOLD).
    """
    gc.set_threshold(COLLECT_AFTER)
    bytes(KEPT_BYTES)  # mapped, never written to, freed at once


def main_of_part() -> int:
    """Run one shard of a command, for the process whose pipes the two arguments number."""
    from s3pool.cli.progress import HELD_BY_PARTS, Part

    _settle_memory()
    part = Part(*map(int, sys.argv[1:]))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at its very end as well it prints no traceback
    try:
        with signals_raise(SIGNALS):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BY_PARTS)
            # Loaded while the plan is being made: every command by shards needs them.
            import s3pool.cli.context
            import s3pool.s3.parallel
            import s3pool.session  # noqa: F401

            words = part.wait_for_start()
            return _run(words, Output(), environ=os.environ, part=part) if words else output.DONE
    except KeyboardInterrupt as exc:
        return output.code_of_interrupt(exc)


def _run(words: list[str], out: Output, *, environ: Mapping[str, str], part: Part | None = None) -> int:
    from s3pool.cli.parser import HelpRequested, overview, parse

    try:
        args = parse(words)
    except HelpRequested as request:
        return output.DONE if _shows_page(request.page) else _print(request.text, out)
    except UsageError as exc:
        out.error(exc)
        return output.USAGE
    if getattr(args, "version", False):
        return _print(f"s3pool {__version__}", out)
    if not args.command:
        for line in overview().splitlines():
            out.note(line)
        out.error(UsageError("no command was given; see s3pool --help"))
        return output.USAGE
    return _run_command(args, words, environ=environ, part=part)


def _shows_page(page: str) -> bool:
    """Return whether man showed a page to somebody who sits before a terminal."""
    from shutil import which

    if not page or not which("man") or not sys.stdout.isatty():
        return False
    import subprocess

    return subprocess.run(["man", page], stderr=subprocess.DEVNULL, check=False).returncode == 0


def _run_command(
    args: argparse.Namespace, words: Sequence[str], *, environ: Mapping[str, str], part: Part | None
) -> int:
    from s3pool.cli.context import Context

    out = _output_for(args)
    _set_up_logs(args, out)
    ctx = Context(
        args, out, environ=environ, words=words, part=part, on_config=lambda config: _follow_config(args, config)
    )
    try:
        return _guarded(args, ctx)
    finally:
        ctx.close()


def _guarded(args: argparse.Namespace, ctx: Context) -> int:
    """Run the command; every error becomes one line and an exit code."""
    out = ctx.out
    try:
        code = _dispatch(args, ctx)
        out.flush()
        return code
    except StdoutError as exc:
        return _lost_stdout(exc, out)
    except KeyboardInterrupt as exc:
        return _interrupted(exc, out)
    except Exception as exc:  # noqa: BLE001 - the outermost frame of a command
        return _failed(exc, out)
    finally:
        _print_stats(args, ctx)


def _dispatch(args: argparse.Namespace, ctx: Context) -> int:
    from s3pool.cli.context import choose_pools
    from s3pool.cli.parser import load_command

    choose_pools(args, ctx.profile_names)
    return int(load_command(args.command).run(args, ctx))


def _failed(exc: Exception, out: Output) -> int:
    try:
        out.error(exc)
        if not isinstance(exc, (S3PoolError, OSError)):
            import logging

            logging.getLogger(__name__).debug("this should not have happened", exc_info=exc)
    except StdoutError as lost:
        return _lost_stdout(lost, out)
    return output.exit_code_for(exc)


def _interrupted(exc: KeyboardInterrupt, out: Output) -> int:
    try:
        out.flush()
    except StdoutError as lost:
        _abandon_stdout(out)
        if not lost.broken_pipe:
            out.error(lost)
    out.remark("terminated" if isinstance(exc, output.Terminated) else "interrupted")
    return output.code_of_interrupt(exc)


def _lost_stdout(exc: StdoutError, out: Output) -> int:
    _abandon_stdout(out)
    if exc.broken_pipe:
        return output.BROKEN_PIPE
    out.error(exc)
    return output.FAILED


def _abandon_stdout(out: Output) -> None:
    """Redirect stdout to /dev/null, so that the interpreter's flush at exit prints no traceback."""
    out.discard()
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _print_stats(args: argparse.Namespace, ctx: Context) -> None:
    if ctx.part is not None:
        ctx.report_counts(ctx.part)
        return
    if not ctx.opened_sessions or not getattr(args, "stats", False):
        return
    try:
        print_stats(ctx.endpoint_stats(), ctx.out)
        print_list_stats([session.client.lists for session in ctx.opened_sessions], ctx.out)
    except StdoutError:
        # The command has reported the broken stdout already.
        _abandon_stdout(ctx.out)


def _print(text: str, out: Output) -> int:
    out.line(text.rstrip("\n"))
    out.flush()
    return output.DONE


def _occupy_standard_descriptors() -> None:
    """Open /dev/null where a standard stream is closed.

    Otherwise the first socket would get the number of a closed stream, and text for stderr would
    go to a storage node. ``sys.stdout`` stays None, and writing results fails.
    """
    for descriptor in STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _first_output(words: Sequence[str]) -> Output:
    flags = words[: words.index("--")] if "--" in words else words
    out = Output(json="--json" in flags, json_errors="--log-format=json" in flags)
    if out.json:
        from s3pool.cli.parser import command_in

        out.op = command_in(flags)
    return out


def _output_for(args: argparse.Namespace) -> Output:
    given = vars(args)
    return Output(
        json=given.get("json", False),
        json_errors=given.get("log_format") == "json",
        quiet=given.get("quiet", False),
        dry_run=given.get("dry_run", False),
        color=given.get("color", "auto"),
        op=args.command,
    )


def _set_up_logs(args: argparse.Namespace, out: Output) -> None:
    given = vars(args)
    as_json = given.get("log_format", "json" if out.json else "text") == "json"
    set_up_logs(sys.stderr, level=_flag_level(given) or DEFAULT_LOG_LEVEL, as_json=as_json, pause=out.paused)


def _flag_level(given: Mapping[str, object]) -> str:
    if given.get("verbose"):
        return "debug"
    if "log_level" in given:
        return str(given["log_level"])
    return "error" if given.get("quiet") else ""


def _follow_config(args: argparse.Namespace, config: Config) -> None:
    if not _flag_level(vars(args)):
        _set_log_level(config.log_level)


def set_up_logs(
    stream: TextIO | None, *, level: str, as_json: bool, pause: Callable[[], AbstractContextManager[None]] = nullcontext
) -> None:
    """Send the program's log lines to a stream, each in a pause of the bars, and to no other."""
    import logging

    def emit(record: logging.LogRecord) -> None:
        # Where stderr is closed, the exit code still tells of errors.
        with suppress(OSError, ValueError), pause():
            if stream is not None:
                stream.write(f"{_log_line(record, as_json=as_json)}\n")
                stream.flush()

    logger, handler = logging.getLogger(LOG_ROOT), logging.Handler()
    handler.emit = emit  # type: ignore[method-assign]
    logger.propagate, logger.handlers = False, [handler]
    _set_log_level(level)


def _set_log_level(level: str) -> None:
    """Choose the least severe level that is shown: debug (or trace), info, warning (or warn), error."""
    import logging

    logging.getLogger(LOG_ROOT).setLevel(OTHER_WORDS.get(level.lower(), level).upper())


def _log_line(record: logging.LogRecord, *, as_json: bool) -> str:
    """Return a line of text with control characters made visible, or one object with time and logger."""
    import logging

    message, level = record.getMessage(), record.levelname.lower()
    traceback = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
    if not as_json:
        return "\n".join(filter(None, (f"s3pool: {level}: {output.escape(message)}", traceback)))
    import json

    from s3pool.model import format_iso_time

    fields = {"type": "log", "time": format_iso_time(record.created), "level": level, "logger": record.name}
    return json.dumps({**fields, "message": message, **({"traceback": traceback} if traceback else {})})


def _mean_ms(row: EndpointStats) -> float:
    """Return the mean time to an answer in milliseconds, 0 when none was timed."""
    return round(row.seconds / row.timed * 1000, 1) if row.timed else 0.0


def _stats_record(row: EndpointStats) -> dict[str, object]:
    """Return the JSON object of one endpoint's counts."""
    return {
        "type": "stats",
        "endpoint": str(row.endpoint),
        **{name: getattr(row, name) for name in STATS_COUNTS},
        "mean_ms": _mean_ms(row),
        "state": row.state,
        "failure_kinds": dict(row.failure_kinds),
        "last_error": row.last_error,
    }


def print_stats(rows: Sequence[EndpointStats], out: Output) -> None:
    """Write the counts of all endpoints to stderr: a table and the failures, or JSON lines."""
    if out.json:
        for row in rows:
            out.tell(out.encode(_stats_record(row)))
        return
    from s3pool.cli.formats import table
    from s3pool.units import format_size

    cells = []
    for row in rows:  # a line fits 80 columns with usual URLs
        counts = map(str, (row.requests, row.failures, row.throttled, row.retries))
        sizes = (format_size(row.bytes_sent), format_size(row.bytes_received))
        cells.append((str(row.endpoint), *counts, *sizes, f"{_mean_ms(row):.1f}", row.state))
    for line in table(STATS_HEADER, cells, right=STATS_NUMBERS):
        out.tell(out.escape(line))
    for row in rows:
        if kinds := ", ".join(f"{count} x {kind}" for kind, count in sorted(row.failure_kinds.items())):
            out.tell(out.escape(f"{row.endpoint} failed: {kinds}; last: {row.last_error}"))


def print_list_stats(counts: Sequence[ListingStats], out: Output) -> None:
    """Write the names and requests of the listings to stderr; nothing without a listing."""
    requests = sum(count.requests for count in counts)
    names, extra = sum(count.names for count in counts), sum(count.extra for count in counts)
    if not requests:
        return
    if out.json:
        fields = {"type": "list_stats", "names": names, "requests": requests, "extra_requests": extra}
        out.tell(out.encode(fields))
        return
    out.tell(f"listings: names {names}, requests {requests}, extra requests {extra}")

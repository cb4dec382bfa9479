"""The entry point: parse the command line, run the command, return an exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from s3pool import __version__
from s3pool.cli import output
from s3pool.cli.output import Output, StdoutError
from s3pool.errors import S3PoolError, UsageError, signals_raise

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context
    from s3pool.cli.progress import Part
    from s3pool.config.options import Config

DEFAULT_LOG_LEVEL = "warning"
STANDARD_DESCRIPTORS = (0, 1, 2)
SIGNALS = (
    (signal.SIGTERM, lambda: output.Terminated(output.TERMINATED)),
    (signal.SIGHUP, lambda: output.Terminated(output.HUNG_UP)),
    (signal.SIGINT, KeyboardInterrupt),
)
COLLECT_AFTER = 10_000  # new objects; loading modules makes many objects and no garbage
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
    from s3pool.cli.progress import Part

    _settle_memory()
    part = Part(*map(int, sys.argv[1:]))
    with signals_raise(SIGNALS):
        # Loaded while the plan is being made: every command by shards needs them.
        import s3pool.cli.context
        import s3pool.s3.parallel
        import s3pool.session  # noqa: F401

        words = part.wait_for_start()
        return _run(words, Output(), environ=os.environ, part=part) if words else output.DONE


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
    from s3pool.cli.logs import print_list_stats, print_stats

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
    from s3pool.cli import logs

    given = vars(args)
    as_json = given.get("log_format", "json" if out.json else "text") == "json"
    logs.set_up(sys.stderr, level=_flag_level(given) or DEFAULT_LOG_LEVEL, json=as_json, pause=out.paused)


def _flag_level(given: Mapping[str, object]) -> str:
    if given.get("verbose"):
        return "debug"
    if "log_level" in given:
        return str(given["log_level"])
    return "error" if given.get("quiet") else ""


def _follow_config(args: argparse.Namespace, config: Config) -> None:
    if not _flag_level(vars(args)):
        from s3pool.cli import logs

        logs.set_level(config.log_level)

"""Results to stdout, everything else to stderr, as text or as JSON lines; and the exit codes."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO

from s3pool import errors
from s3pool.errors import S3Error, S3PoolError, TransportError, advice_on

# How each summary begins; the version rises when a member of any record goes or means another thing.
SUMMARY_RECORD: Mapping[str, object] = {"type": "summary", "version": 1}
LONGEST_NAME, BEGIN_OF_NAME = 160, 70  # in a message; --json has it whole
BLOCK_BYTES = 1 << 16  # results are gathered up to this size before they are written

# Control characters (C0, DEL, C1), the two Unicode line ends, what turns the direction of
# the text around it, byte order marks, and bytes that are not UTF-8. Most runs meet none, and compile no pattern.
_UNSAFE = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
# What JSON may hold as it is, but terminals, line readers or UTF-8 may not.
_UNSAFE_IN_JSON = "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_STYLES = {"error": "\x1b[1;31m", "warning": "\x1b[33m", "prefix": "\x1b[1;34m", "good": "\x1b[32m", "bad": "\x1b[31m"}
_STYLE_END = "\x1b[0m"


DONE = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
DENIED = 4
NO_ENDPOINT = 5
SKIPPED = 6
LOCKED = 75  # EX_TEMPFAIL of sysexits.h: try again later
SIGNAL_BASE = 128  # a shell reports a program that signal N ended as 128 + N
HUNG_UP = 129  # SIGHUP
INTERRUPTED = 130  # SIGINT
BROKEN_PIPE = 141  # SIGPIPE
TERMINATED = 143  # SIGTERM

TABLE: tuple[tuple[int, str], ...] = (
    (DONE, "done"),
    (FAILED, "some objects failed, or two trees differ"),
    (USAGE, "usage or configuration"),
    (NOT_FOUND, "bucket, key or local source not found"),
    (DENIED, "access denied or bad credentials"),
    (NO_ENDPOINT, "no endpoint usable"),
    (SKIPPED, "done, but something was skipped or a guard held deletes back"),
    (LOCKED, "locked by another run"),
    (HUNG_UP, "SIGHUP: the terminal is gone"),
    (INTERRUPTED, "SIGINT"),
    (BROKEN_PIPE, "broken pipe"),
    (TERMINATED, "SIGTERM"),
)

# The first match counts: a subclass must stand above its base.
_BY_CLASS: tuple[tuple[type[BaseException], int], ...] = (
    (errors.UsageError, USAGE),
    (errors.CredentialsError, DENIED),
    (errors.ConfigError, USAGE),
    (errors.LocalNotFoundError, NOT_FOUND),
    (errors.NotFoundError, NOT_FOUND),
    (errors.AccessDeniedError, DENIED),
    (errors.NoEndpointError, NO_ENDPOINT),
    (errors.ConnectError, NO_ENDPOINT),
    (errors.RequestTimeoutError, NO_ENDPOINT),
    (errors.TargetTakenError, FAILED),
    (errors.RefusedError, SKIPPED),
    (errors.JournalLockedError, LOCKED),
    (KeyboardInterrupt, INTERRUPTED),
)


def exit_code_for(error: BaseException) -> int:
    """Return the exit code of an error that ends a command; FAILED for classes not in the table."""
    return next((code for kind, code in _BY_CLASS if isinstance(error, kind)), FAILED)


def combined(codes: Iterable[int]) -> int:
    """Return one exit code for many operands.

    DONE when all succeeded, and the code of the failures when they share one. SKIPPED gives way
    to any other failure; different failures are FAILED.
    """
    failures = {code for code in codes if code != DONE}
    if len(failures) > 1:
        failures.discard(SKIPPED)
    return failures.pop() if len(failures) == 1 else (FAILED if failures else DONE)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived; a KeyboardInterrupt, so that the same code cleans up."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def code_of_interrupt(exc: KeyboardInterrupt) -> int:
    """Return the code that tells which signal ended the run."""
    return exc.code if isinstance(exc, Terminated) else INTERRUPTED


class StdoutError(Exception):
    """Standard output cannot be written.

    It stands outside the tree of errors, so that no handler of one object's failure takes
    it for that: without an output there is nothing to go on for.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"cannot write to standard output: {os.strerror(cause.errno or errno.EIO)}")
        self.broken_pipe = cause.errno in (errno.EPIPE, errno.ESHUTDOWN)


def escape(text: str) -> str:
    r"""Make control characters visible: ``\n``, ``\x1b``; bytes that are not UTF-8 as ``\xff``."""
    return text if text.isprintable() else re.sub(_UNSAFE, _escape_one, text)


def _escape_one(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a surrogate escape stands for the byte in its low half
        return f"\\x{code - 0xDC00:02x}"
    return _SHORT_ESCAPES.get(character) or (f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}")


class Output:
    """Where a command's words go. Not for threads: the main thread alone writes.

    ``json`` turns results and errors into one object a line. ``quiet`` drops notes,
    warnings and the lines that report an act; results that were asked for stay.
    """

    def __init__(
        self,
        *,
        stdout: IO[bytes] | None = None,
        stderr: IO[str] | None = None,
        json: bool = False,
        json_errors: bool = False,
        quiet: bool = False,
        dry_run: bool = False,
        color: str = "auto",
        op: str = "",
    ) -> None:
        self.json, self.json_errors = json, json or json_errors
        self.quiet, self.dry_run, self.op = quiet, dry_run, op
        self._stdout = stdout or getattr(sys.stdout, "buffer", None)
        self._stderr = stderr or sys.stderr
        self._lines: list[str] = []
        self._gathered = 0
        self.is_tty = is_terminal(self._stdout)
        self._color = color
        self._encode: Callable[[object], str] | None = None
        self.pause: Callable[[], AbstractContextManager[None]] = nullcontext  # of bars
        self._where = ""  # the line of a script that is at work, as errors name it
        self._number = 0

    def line(self, text: str) -> None:
        """Write one result line; the text must be escaped already."""
        self._lines.append(text)
        self._gathered += len(text) + 1
        if self.is_tty or self._gathered >= BLOCK_BYTES:
            self.flush()

    def lines(self, texts: Iterable[str]) -> None:
        """Write many result lines at once, and flush them."""
        self._lines.extend(texts)
        self.flush()

    def block(self, lines: bytes) -> None:
        """Write lines that are bytes already, each with its end, and flush them."""
        self.raw(lines)
        self.flush()

    def record(self, fields: Mapping[str, object]) -> None:
        """Write one result as a JSON object on its own line."""
        self.line(self.encode(fields))

    def result(self, text: str, fields: Mapping[str, object]) -> None:
        """Write one result: the object with --json, else the text."""
        self.line(self.encode(fields) if self.json else text)

    def act(self, text: str, fields: Mapping[str, object]) -> None:
        """Report something done (or, in a dry run, what would be): quiet drops the text."""
        if self.json:
            self.record({**fields, "dry_run": True} if self.dry_run else fields)
        elif not self.quiet:
            self.line(f"(dry run) {text}" if self.dry_run else text)

    def raw(self, block: bytes | memoryview) -> None:
        """Write bytes as they are, after all lines before them."""
        if self._lines:
            self._write(self._take())
        self._write(block)

    def flush(self) -> None:
        """Write everything gathered. Raises StdoutError: the reader is gone, the disk is full, or stdout is closed."""
        if self._lines:
            self._write(self._take())
        if self._stdout is not None:
            try:
                self._stdout.flush()
            except OSError as exc:
                raise StdoutError(exc) from exc

    def discard(self) -> None:
        """Forget what was gathered: stdout is beyond use."""
        self._take()

    def _take(self) -> bytes:
        self._lines.append("")
        block = "\n".join(self._lines).encode("utf-8", "surrogateescape")
        self._lines.clear()
        self._gathered = 0
        return block

    def _write(self, block: bytes | memoryview) -> None:
        if self._stdout is None:
            raise StdoutError(OSError(errno.EBADF, "closed"))
        try:
            self._stdout.write(block)
        except OSError as exc:
            raise StdoutError(exc) from exc

    def note(self, text: str, fields: Mapping[str, object] | None = None) -> None:
        """Write a note to stderr; quiet drops it, --json needs fields for it."""
        if self.quiet:
            return
        self._flush_results()
        if not self.json_errors:
            self._tell(escape(text))
        elif fields is not None:
            self._tell(self.encode(fields))

    def remark(self, message: str, **more: object) -> None:
        """Write a note that programs read too; ``more`` are members of its record alone."""
        self.note(f"s3pool: {message}", {"type": "note", "op": self.op, "message": message, **more})

    def warn(self, text: str) -> None:
        """Warn on stderr; quiet drops it."""
        if self.quiet:
            return
        if self.json_errors:
            self._tell(self.encode({"type": "warning", "op": self.op, "message": text}))
        else:
            self._tell(f"s3pool: {self.paint('warning:', 'warning', stderr=True)} {_readable(text)}")

    def error(
        self, error: BaseException, *, op: str = "", source: str = "", target: str = "", of_one: bool = False
    ) -> None:
        """Report a failure on stderr, after the results before it.

        ``of_one`` says that many sources may fail: text then names this one in any case.
        """
        self._flush_results()
        if isinstance(error, S3Error) and error.resource and f"{target}/".startswith(f"{error.resource}/"):
            error.is_of_target = True
        if self.json_errors:
            record = error_record(error, op=op or self.op, source=source, target=target)
            line = {"line": self._number, "command": self._where} if self._where else {}
            self._tell(self.encode({**record, **line}))
        else:
            message = message_of(error)
            if of_one and source and not any(n in message or escape(n) in message for n in (source, target) if n):
                message = f"{source}: {message}"
            text = _readable(message, (source, target, error.resource if isinstance(error, S3Error) else ""))
            text = f"{escape(self._where)}: {text}" if self._where else text
            self._tell(f"s3pool: {self.paint('error:', 'error', stderr=True)} {text}")

    @contextmanager
    def named(self, where: str, *, number: int) -> Iterator[None]:
        """Name a line of a script in all errors that are reported meanwhile."""
        self._where, self._number = where, number
        try:
            yield
        finally:
            self._where = ""

    def ask(self, question: str) -> None:
        """Write a question to stderr, after all lines before it; the answer goes behind it."""
        self.flush()
        self._tell(escape(question), end="")

    def tell(self, text: str) -> None:
        """Write lines to stderr whatever the mode: tables that were asked for."""
        self._flush_results()
        self._tell(text)

    def paused(self) -> AbstractContextManager[None]:
        """Return a context without bars, in which messages are written."""
        return self.pause()

    def _flush_results(self) -> None:
        # On a terminal or with 2>&1 the order of lines is part of the message.
        if self._lines:
            self.flush()

    def _tell(self, text: str, *, end: str = "\n") -> None:
        if self._stderr is None:
            return
        try:
            with self.paused():
                self._stderr.write(text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") + end)
                self._stderr.flush()
        except (OSError, ValueError):
            # Without stderr no message can be written; the exit code still speaks.
            self._stderr = None

    def paint(self, text: str, style: str, *, stderr: bool = False) -> str:
        """Colour a word when the stream it goes to shows colours."""
        return f"{_STYLES[style]}{text}{_STYLE_END}" if self.is_colored(stderr=stderr) else text

    def is_colored(self, *, stderr: bool = False) -> bool:
        """Return whether results, or what goes to stderr, may be coloured."""
        if self._color != "auto":
            return self._color == "always"
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return False
        return is_terminal(self._stderr) if stderr else self.is_tty

    escape = staticmethod(escape)

    def encode(self, fields: Mapping[str, object]) -> str:
        r"""Return the JSON text of an object: UTF-8 as it is, what could do harm as ``\uXXXX``."""
        if self._encode is None:
            self._encode = _make_encoder()
        return self._encode(fields)


def _make_encoder() -> Callable[[object], str]:
    from json import JSONEncoder

    readable = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    ascii_only = JSONEncoder(separators=(",", ":")).encode
    is_unsafe = re.compile(_UNSAFE_IN_JSON).search

    def encode(fields: object) -> str:
        text = readable(fields)
        return ascii_only(fields) if is_unsafe(text) else text

    return encode


def is_terminal(stream: IO[bytes] | IO[str] | None) -> bool:
    """Return whether a stream is a terminal; one that is closed is none."""
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def message_of(error: BaseException) -> str:
    """Return one line about an error and what to do, without a class name where the error is ours."""
    text = str(error)
    if isinstance(error, S3PoolError):
        text = error.message or type(error).__name__
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif not isinstance(error, StdoutError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    advice = advice_on(error, text)
    return f"{text}; {advice}" if advice else text


def _readable(message: str, names: Iterable[str] = ()) -> str:
    """Escape a message, and cut the middle out of long names: what stands behind them is the reason."""
    for name in {name.rpartition("/")[2] for name in names if len(name) > LONGEST_NAME}:
        message = message.replace(name, _cut(name))
    return re.sub(rf"\S{{{LONGEST_NAME},}}?(?=:?(?:\s|$))", lambda match: _cut(match[0]), escape(message))


def _cut(name: str) -> str:
    return f"{name[:BEGIN_OF_NAME]}...{name[-BEGIN_OF_NAME:]}" if len(name) > LONGEST_NAME else name


def error_record(error: BaseException, *, op: str, source: str, target: str) -> dict[str, object]:
    """Return the JSON object of an error; ``status`` is null where no server answered.

    Its code is S3's, else the name of the error's class without ``Error``.
    """
    return {
        "type": "error",
        "op": op,
        "source": source or (error.resource if isinstance(error, S3Error) and not target else ""),
        "target": target,
        "code": error.code if isinstance(error, S3Error) else type(error).__name__.removesuffix("Error"),
        "message": message_of(error),
        "endpoint": error.endpoint if isinstance(error, (S3Error, TransportError)) else "",
        "status": error.status if isinstance(error, S3Error) else None,
    }

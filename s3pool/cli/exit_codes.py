"""Exit codes by class of error: the one table for the help, the manual and the code."""

from __future__ import annotations

from collections.abc import Iterable

from s3pool import errors

DONE = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
DENIED = 4
NO_ENDPOINT = 5
SKIPPED = 6
LOCKED = 75  # EX_TEMPFAIL of sysexits.h: try again later
HUNG_UP = 129  # 128 + SIGHUP
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE
TERMINATED = 143  # 128 + SIGTERM

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

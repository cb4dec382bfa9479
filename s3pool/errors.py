"""The one exception tree of s3pool, and how signals become exceptions; it imports nothing of the program.

A message says what was tried, on what, what happened and what to do. It never holds a
secret. Which class means which exit code stands in ``cli/output.py``.
"""

from __future__ import annotations

import errno
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

# S3's words for keys, tokens and signatures that no request of the run will be accepted with.
CREDENTIAL_CODES = frozenset(
    [
        "AuthorizationHeaderMalformed",  # of another region, and the server's was not found out
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "InvalidTokenId",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    ]
)
DEFAULT_HANDLERS = (signal.SIG_DFL, signal.default_int_handler)
SOON_S = 0.001  # long enough to be out of a finalizer
# A signal that comes right before a wait does not end it: the main thread looks so often whether there was one.
LOOK_FOR_SIGNALS_S = 1.0
HELD_AT_MOST_S = 0.5  # a write to a pipe that nobody reads must not hold a signal back for good


class S3PoolError(Exception):
    """The root: everything that s3pool raises on purpose."""

    @property
    def message(self) -> str:
        """Return the message for people, without the class name."""
        return str(self)


class UsageError(S3PoolError):
    """The command line asks for something that makes no sense."""


class ConfigError(S3PoolError):
    """The configuration is missing, unreadable or contradicts itself."""


class CredentialsError(ConfigError):
    """What the configuration names to get keys from gives none."""


class LocalFileError(S3PoolError):
    """A local file could not be read, written or renamed."""


class LocalNotFoundError(LocalFileError):
    """A local source does not exist."""


class RefusedError(S3PoolError):
    """s3pool declined to touch one object or to start one act, for safety's sake."""


class TargetTakenError(RefusedError):
    """The target of one source is another source, or another source's target: exit code 1."""


class UnsupportedError(S3PoolError):
    """The server does not know an operation."""


class IntegrityError(S3PoolError):
    """Bytes that arrived are not the bytes that were sent."""


class ReplacedError(IntegrityError):
    """An object is not any more what a listing, HEAD or an earlier answer told of it."""


class StoppedError(S3PoolError):
    """The run was told to stop before this was finished."""


class JournalError(S3PoolError):
    """The state of earlier runs cannot be read or written."""


class JournalLockedError(JournalError):
    """Another run works on the same source and target."""


class TransportError(S3PoolError):
    """An exchange with an endpoint did not produce a response.

    ``sent`` tells whether the server may have acted: False while no byte of the request
    left for it, or while the request cannot have been complete.
    """

    def __init__(self, message: str, *, endpoint: str = "", sent: bool = True) -> None:
        super().__init__(message)
        self.endpoint = endpoint
        self.sent = sent


class ConnectError(TransportError):
    """No connection came about; the server saw nothing. ``is_late`` when it merely took too long."""

    def __init__(self, message: str, *, endpoint: str = "", sent: bool = False, is_late: bool = False) -> None:
        super().__init__(message, endpoint=endpoint, sent=sent)
        self.is_late = is_late


class SlotsBusyError(ConnectError):
    """All connections to the endpoint are in use by others of this program."""


class TLSError(ConnectError):
    """The TLS handshake failed; certificates or protocol versions do not match."""


class RequestTimeoutError(TransportError):
    """The endpoint took longer than the read timeout."""


class ProtocolError(TransportError):
    """The endpoint's bytes are not the HTTP or the S3 that was expected, or they ended early."""


class UnorderedError(ProtocolError):
    """The server lists without order, where the work at hand lives by the order."""


class NoEndpointError(TransportError):
    """Every endpoint was tried, or none is usable."""


class UnusableAnswerError(NoEndpointError):
    """Nodes answered, and no answer could be used, which may be the fault of one object."""


def is_pool_dead(error: BaseException | None) -> bool:
    """Return whether an error speaks of all nodes, whatever they are asked for."""
    return isinstance(error, NoEndpointError) and not isinstance(error, UnusableAnswerError)


class S3Error(S3PoolError):
    """The storage answered, and the answer is an error.

    ``code`` is S3's word (``NoSuchKey``), or made from the status when the body has none.
    ``detail`` is the server's message and may be empty: RGW leaves it out. ``final`` says
    that the caller wants this answer as it is, whatever a repetition might bring. ``hint`` is
    advice of one who knows more than the code tells. ``region`` is the one for which the storage
    wants requests signed, where it tells one with its refusal. ``is_of_target``: what is missing was to be written to.
    """

    def __init__(
        self,
        status: int,
        code: str,
        *,
        detail: str = "",
        resource: str = "",
        request_id: str = "",
        endpoint: str = "",
        op: str = "",
        retry_after_s: float | None = None,
        server_time: float | None = None,
        final: bool = False,
        region: str = "",
    ) -> None:
        super().__init__(code)
        self.status, self.code, self.detail = status, code, detail
        self.op, self.resource = op, resource
        self.endpoint, self.request_id, self.region = endpoint, request_id, region
        self.retry_after_s, self.server_time, self.final = retry_after_s, server_time, final
        self.hint = ""
        self.is_of_target = False

    def __str__(self) -> str:
        return self.message

    @property
    def message(self) -> str:
        """Return one line: operation, resource, endpoint, status, code, reason, request id."""
        where = f" {self.resource}" if self.resource else ""
        at = f" at {self.endpoint}" if self.endpoint else ""
        why = f": {self.detail}" if self.detail and self.detail != self.code else ""
        request = f" (request {self.request_id})" if self.request_id else ""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.op or 'request'}{where}{at}: {self.status} {self.code}{why}{request}{advice}"

    @property
    def advice(self) -> str:
        """Return what the user can do, or ""."""
        if self.code == "NoSuchKey" and not self.endpoint:
            return ""  # no server said so: who did has put the advice into the detail
        if self.code == "NoSuchBucket" and (self.is_of_target or self.op in STORING_OPS):
            return f"s3pool mb {'/'.join(self.resource.split('/')[:2])} makes it, {ADVICE[self.code]}"
        return self.hint or ADVICE.get(self.code, "")


class NotFoundError(S3Error):
    """The bucket, key, version or upload does not exist."""


class AccessDeniedError(S3Error):
    """The credentials are unknown, wrong or not allowed to do this."""


class ThrottledError(S3Error):
    """The endpoint asks for fewer requests: load, not illness."""

    @property
    def advice(self) -> str:
        """Return what the user can do."""
        return self.hint or "the storage is at its limit: run it again later, or with fewer --workers"


class PreconditionError(S3Error):
    """An If-Match, If-None-Match or similar condition did not hold."""


STORING_OPS = ("PutObject", "CopyObject", "CreateMultipartUpload", "UploadPart", "UploadPartCopy")
REGION_CODES = ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidRegion")
ADVICE = {  # by S3's word
    "AccessDenied": "check the keys and their policy",
    **dict.fromkeys(REGION_CODES, "check --region"),
    "PermanentRedirect": "check --region and --endpoints: the bucket is kept elsewhere",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY and the region",
    "NoSuchKey": "s3pool ls shows the keys there are",
    "RequestTimeTooSkewed": "check this machine's clock",
    **dict.fromkeys(("ExpiredToken", "TokenRefreshRequired"), "get a new session token (AWS_SESSION_TOKEN)"),
    "InvalidToken": "check AWS_SESSION_TOKEN: it belongs to other keys, or to another service",
    "InvalidObjectState": "the object is archived: restore it first, or leave such objects out with --ignore-archived",
    "InvalidStorageClass": "check --storage-class",
    **dict.fromkeys(("QuotaExceeded", "XMinioAdminBucketQuotaExceeded"), "make room, or ask for a larger quota"),
    "XMinioStorageFull": "the storage is full: make room there",
    "EntityTooLarge": "the server takes no object of this size: cut it up, or ask for a higher limit",
    "KeyTooLongError": "a key has at most 1024 bytes: choose a shorter one",
    "TooManyBuckets": "remove one that is not needed (s3pool rb), or ask for a higher limit",
    "InvalidBucketName": "a bucket's name has 3 to 63 lower-case letters, digits, dots and dashes",
    "BucketAlreadyExists": "it is somebody else's: choose another name",
    "NoSuchBucket": "s3pool ls shows the buckets there are",
    "BucketNotEmpty": "use rb --force to empty it first",
}
ADVICE_OF_SYSTEM = {  # by the system's number
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room (df -h shows what is left), or write elsewhere"),
    errno.EFBIG: "raise ulimit -f, or write to a file system that holds larger files",
    errno.ENAMETOOLONG: "a local name has at most 255 bytes: choose a shorter one",
    errno.EACCES: "check owner and mode (ls -ld), or run as another user",
    errno.EPERM: "check owner, mode and attributes (ls -ld, lsattr -d), or run as another user",
    errno.EROFS: "the file system is mounted for reading only: write elsewhere",
    errno.EMFILE: "raise ulimit -n, or use fewer --workers",
    errno.ENFILE: "the whole machine has too many: raise fs.file-max",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "a part of the path is a file: name a directory",
    **dict.fromkeys((errno.EIO, errno.ESTALE), "the disk or its connection fails: see dmesg"),
}


def advice_on(error: BaseException, message: str) -> str:
    """Return what the user can do, where a message ends with no more than the system's reason; else ""."""
    causes = [error, error.__cause__, getattr(error.__cause__, "__cause__", None)]
    cause = next((cause for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    if cause is None or not message.lower().endswith(str(cause.strerror).lower()):
        return ""
    if isinstance(error, TransportError) and cause.errno not in (errno.EMFILE, errno.ENFILE):
        return ""  # the others speak of files
    return ADVICE_OF_SYSTEM.get(cause.errno or 0, "")


def describe_os_error(exc: OSError) -> str:
    """Return the system's text for an error, without the number and in lower case."""
    text = exc.strerror or str(exc) or type(exc).__name__
    return text[:1].lower() + text[1:]


def may_have_acted(error: S3PoolError) -> bool:
    """Return whether the request may have been carried out although it failed: only asking again can tell."""
    if isinstance(error, S3Error):
        return error.status >= 500
    return isinstance(error, TransportError) and error.sent


class _Held:
    """A context in which signals wait; it may be entered in any thread, and holds them in the main one."""

    def __init__(self) -> None:
        self._main = threading.main_thread().ident
        self._depth = 0
        self._waiting: BaseException | None = None

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._depth += 1

    def __exit__(self, *_exception: object) -> None:
        if threading.get_ident() != self._main:
            return
        self._depth -= 1
        if self._waiting is not None and not self._depth:
            self.release()

    def raise_or_hold(self, error: BaseException) -> None:
        """Raise an error now, or at the end of the context."""
        is_second = self._waiting is not None
        self._waiting = error
        if is_second or not self._depth:
            self.release()
        else:
            signal.setitimer(signal.ITIMER_REAL, HELD_AT_MOST_S)

    def raise_soon(self, error: BaseException) -> None:
        """Raise an error that was raised where it could not be passed on."""
        self._waiting = error
        signal.setitimer(signal.ITIMER_REAL, SOON_S)

    def release(self) -> None:
        """Raise what has waited."""
        error, self._waiting = self._waiting, None
        if error is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise error


signals_held = _Held()


@contextmanager
def signals_raise(errors: Iterable[tuple[int, Callable[[], BaseException]]]) -> Iterator[None]:
    """Raise an error for each of some signals, unless the signal is ignored or somebody else's.

    An error that is raised inside a finalizer or a weak reference's callback, as imports have them,
    would be printed and forgotten by the interpreter: it is raised again after the callback.
    """
    makers = dict(errors)
    unraisable_hook = sys.unraisablehook

    def on_signal(number: int, _frame: FrameType | None) -> None:
        signals_held.raise_or_hold(makers[number]())

    def on_alarm(_number: int, _frame: FrameType | None) -> None:
        signals_held.release()

    def on_unraisable(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):
            signals_held.raise_soon(lost.exc_value)
        else:
            unraisable_hook(lost)

    handlers = [*((number, on_signal) for number in makers), (signal.SIGALRM, on_alarm)]
    changed = [(number, handler) for number, handler in handlers if signal.getsignal(number) in DEFAULT_HANDLERS]
    before = [(number, signal.signal(number, handler)) for number, handler in changed]
    if signal.getsignal(signal.SIGALRM) is on_alarm:
        sys.unraisablehook = on_unraisable
    try:
        yield
    finally:
        sys.unraisablehook = unraisable_hook
        for number, handler_before in before:
            signal.signal(number, handler_before)

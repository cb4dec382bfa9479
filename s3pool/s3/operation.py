"""One request and its answer, checked before it counts; and work that is a sequence of such requests.

A method of the client, or a transfer, is written as *steps*: a generator that yields operations
and gets their results. ``block_on`` runs steps in this thread. A window runs the steps of many
transfers in one thread (see transfer/flow).
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from s3pool.body import EMPTY_BODY, EMPTY_SHA256, Body, BytesBody
from s3pool.dialect import Dialect, is_refusal, with_md5, without
from s3pool.errors import ProtocolError, S3Error, UsageError
from s3pool.model import Endpoint, Request, Response, encode_key
from s3pool.s3.documents import is_error, is_web_page
from s3pool.s3.requests import NO_HEADERS, ExtraHeaders, Query
from s3pool.s3.responses import FIRST_BAD_STATUS, Check, PutResult, error_from, put_result

LIST_FACTOR = 2.0  # read timeouts; a page after a mass delete has taken 120 s on RGW
SLOW_FACTOR = 10.0  # Complete, copies and batch deletes work for minutes before they answer

T = TypeVar("T")
Owner = TypeVar("Owner")
P = ParamSpec("P")


class Sender(Protocol):
    """What carries requests: pick, sign, send, check, retry."""

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """The nodes, for ``only``."""

    def send(self, request: Request, check: Check, *, only: Endpoint | None = None) -> Response:
        """Send a request and give the response that passed the check."""

    def attempt(self, request: Request, check: Check) -> Any:
        """Return a request that the caller starts, and finishes later."""

    def window(self) -> OperationWindow:
        """Return a place for operations that one thread has under way at once."""

    def finish(self, attempt: Any) -> Response:
        """Wait for a request that was started, or that a window has handed over, and return its response."""


class OperationWindow(Protocol):
    """Operations that one thread has under way at once."""

    def __len__(self) -> int: ...

    @property
    def waited_s(self) -> float:
        """The seconds that were spent waiting for responses alone."""

    def submit(self, operations: Sequence[Any], *, wait: bool = False) -> int:
        """Send operations and return how many, from the first on; fewer when connections are busy."""

    def poll(self, *, wait: bool = True) -> Sequence[Any]:
        """Return the results that have come: each with operation, error, attempt."""

    def close(self) -> None:
        """Abandon what is under way."""


class Operation(Generic[T]):
    """One request and the check of its response; ``result`` is what the last response said.

    ``run`` waits for it. Whoever has many under way sends ``request``, hands the response to
    ``check``, and closes it. None as a step stands for no request: see ``in_worker``.
    """

    __slots__ = ("_read", "only", "request", "result", "sender")

    result: T

    def __init__(
        self, sender: Sender, request: Request, read: Callable[[Response], T], *, only: Endpoint | None = None
    ) -> None:
        self.sender, self.request, self._read, self.only = sender, request, read, only

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the response is left to be read."""
        return True

    def check(self, response: Response) -> None:
        """Refuse errors, also those inside a 200, and responses that cannot be read."""
        request = self.request
        # The answer to HEAD has no body, whatever its Content-Length says.
        has_body = request.method != "HEAD" and response.status < FIRST_BAD_STATUS
        body = response.preload() if has_body else b""
        if response.status >= FIRST_BAD_STATUS or (body and is_error(body)):
            raise error_from(response, op=request.op, resource=request.resource)
        try:
            if body and is_web_page(body):
                raise ProtocolError("the answer is a web page, not S3's")
            self.result = self._read(response)
        except ProtocolError as exc:
            where = f"{request.op} {request.resource} at {response.endpoint}"
            raise ProtocolError(f"{where}: {exc}", endpoint=str(response.endpoint)) from exc

    def run(self) -> T:
        """Send the request, wait for the response and return the result."""
        return self.settle(self.sender.send(self.request, self.check, only=self.only))

    def settle(self, response: Response) -> T:
        """Return the result, now that a response has passed the check."""
        response.close()
        return self.result


class Opening(Operation[Response]):
    """A request whose result is the response, open; a body up to ``read_bytes`` has been read.

    So a short body that is cut is one more failed attempt, as with all other operations.
    """

    __slots__ = ("_read_bytes",)

    def __init__(
        self, sender: Sender, request: Request, check: Check, *, read_bytes: int = 0, only: Endpoint | None = None
    ) -> None:
        super().__init__(sender, request, check, only=only)  # type: ignore[arg-type] # what it returns is not looked at
        self._read_bytes = read_bytes

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the response is left to be read."""
        return self.result.body is not None

    def check(self, response: Response) -> None:
        """Refuse all but the content that was asked for."""
        self._read(response)
        length = response.length
        if length is not None and length <= self._read_bytes:
            if self.only is None:
                response.may_break_off()
            response.preload()
        self.result = response

    def settle(self, response: Response) -> Response:
        """Return the response, for the caller to read and to close."""
        return response


Steps = Generator["Operation[Any] | None", Any, T]


def in_worker() -> Steps[None]:
    """Go on in a thread of this work's own: what follows is long, or waits."""
    yield None


def block_on(steps: Steps[T]) -> T:
    """Run steps to their end in this thread, waiting for each response, and return what they return."""
    return go_on(steps, steps.__next__)


def go_on(steps: Steps[T], resume: Callable[[], Operation[Any] | None]) -> T:
    """Run steps that have begun to their end; ``resume`` sends or throws what the last one has come to."""
    try:
        while True:
            operation = resume()
            try:
                result = operation.run() if operation is not None else None
            except BaseException as exc:  # noqa: BLE001 - the steps clean up, and decide what it means
                resume = partial(steps.throw, exc)
            else:
                resume = partial(steps.send, result)
    except StopIteration as end:
        value: T = end.value
        return value


class _Method(Generic[P, T]):
    """A method that is written as steps: a call waits for its result, ``steps`` leaves that to others."""

    __slots__ = ("steps",)

    def __init__(self, steps: Callable[P, Steps[T]]) -> None:
        self.steps = steps

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return block_on(self.steps(*args, **kwargs))


class stepwise(Generic[Owner, P, T]):  # noqa: N801 - a decorator
    """Make a method of steps one that waits for its result when it is called."""

    def __init__(self, function: Callable[Concatenate[Owner, P], Steps[T]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, owner: Owner, _class: type | None = None) -> _Method[P, T]:
        method: _Method[P, T] = _Method(partial(self._function, owner))
        vars(owner)[self._function.__name__] = method  # where the next look finds it first
        return method


class Addressing:
    """Builds the requests of a service, a bucket or a key.

    A bucket without a name, or a key without one, is a UsageError: ``DELETE /bucket/`` is
    not the removal of an object with an empty name but that of the bucket.
    """

    __slots__ = ("_virtual", "extra")

    def __init__(self, *, virtual: bool = False) -> None:
        self._virtual = virtual
        self.extra: ExtraHeaders | None = None

    def _with_extra(self, op: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        return headers if self.extra is None else {**headers, **self.extra.of(op)}

    def service(self, op: str, *, query: Query = ()) -> Request:
        """Return a GET of the service itself."""
        return Request("GET", "/", op, query=query, headers=self._with_extra(op, NO_HEADERS), resource="s3")

    def bucket(
        self,
        method: str,
        bucket: str,
        op: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] = NO_HEADERS,
        content: bytes = b"",
        idempotent: bool = True,
        timeout_factor: float = 1.0,
    ) -> Request:
        """Return a request to a bucket; ``content`` is an XML document."""
        bucket_path = _bucket_path(bucket)
        return Request(
            method,
            "/" if self._virtual else bucket_path,
            op,
            query=query,
            headers=self._with_extra(op, {**headers, **_content_headers(content)}),
            body=BytesBody(content) if content else EMPTY_BODY,
            payload_hash=BytesBody(content).sha256() if content else EMPTY_SHA256,
            idempotent=idempotent,
            resource=f"s3/{bucket}",
            bucket_host=bucket if self._virtual else "",
            timeout_factor=timeout_factor,
        )

    def key(
        self,
        method: str,
        bucket: str,
        key: str,
        op: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] = NO_HEADERS,
        body: Body = EMPTY_BODY,
        payload_hash: str = EMPTY_SHA256,
        idempotent: bool = True,
        timeout_factor: float = 1.0,
    ) -> Request:
        """Return a request to a key."""
        bucket_path = _bucket_path(bucket)
        if not key:
            raise UsageError(f"s3/{bucket} names a bucket, not an object")
        path, host = ("/", bucket) if self._virtual else (bucket_path + "/", "")
        resource = f"s3/{bucket}/{key}"
        if self.extra is not None:
            headers = self._with_extra(op, headers)
        # By position: one is made for each small object, and thirteen names take longer than their values.
        return Request(
            method, path + encode_key(key), op, query, headers, body, payload_hash, idempotent, resource, host,
            timeout_factor,
        )  # fmt: skip

    def key_document(self, method: str, bucket: str, key: str, op: str, *, content: bytes, **options: Any) -> Request:
        """Return a request to a key, as key() has it, whose body is an XML document about it."""
        body, headers = BytesBody(content), _content_headers(content)
        return self.key(method, bucket, key, op, headers=headers, body=body, payload_hash=body.sha256(), **options)


@functools.lru_cache(maxsize=64)
def _bucket_path(bucket: str) -> str:
    if bucket in ("", ".", "..") or "/" in bucket:
        raise UsageError(f"{bucket!r} is no bucket's name")
    return "/" + encode_key(bucket)


def _content_headers(content: bytes) -> dict[str, str]:
    """Return the headers of an XML body; S3 demands Content-MD5 for some and takes it for all."""
    if not content:
        return {}
    digest = hashlib.md5(content, usedforsecurity=False).digest()
    return {"content-type": "application/xml", "content-md5": base64.b64encode(digest).decode()}


def integrity_headers(content_md5: str, checksum: tuple[str, str] | None) -> dict[str, str]:
    """Return the headers by which the server checks a body."""
    headers = {"content-md5": content_md5} if content_md5 else {}
    return headers | dict([checksum] if checksum else [])


class Operations:
    """What all groups of operations stand on: addresses and a way to ask."""

    def __init__(self, transport: Sender, *, addressing: str = "path", region: str = "us-east-1") -> None:
        self.sender = transport  # what carries the requests
        self._address = Addressing(virtual=addressing == "virtual")
        self._region = region
        self.dialect = Dialect()

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """The nodes, any of which can be asked alone by ``only``."""
        return self.sender.endpoints

    def send_with(self, extra: ExtraHeaders) -> None:
        """Let every request have these headers, too."""
        self._address.extra = extra

    def _ask(self, request: Request, read: Callable[[Response], T], *, only: Endpoint | None = None) -> T:
        """Send a request and return what ``read`` makes of the response.

        Reading is part of the check: a body that is cut, or is not what was asked for, is one
        more failed attempt, and the transport goes to another node.
        """
        return Operation(self.sender, request, read, only=only).run()

    def _asked(self, request: Request, read: Callable[[Response], T], *, only: Endpoint | None = None) -> Steps[T]:
        result: T = yield Operation(self.sender, request, read, only=only)
        return result

    def _optional(self, header: str, request: Request, make: Callable[[Request], Operation[T]]) -> Steps[T]:
        """Ask with a header that some servers refuse; without it where that is what was refused, and from then on."""
        if header in request.headers and self.dialect.knows(header):
            request = without(request, header)
        result: T
        try:
            result = yield make(request)
            return result
        except S3Error as exc:
            if header not in request.headers or not is_refusal(exc):
                raise
            refusal = exc
        try:
            result = yield make(without(request, header))
        except S3Error:
            raise refusal from None
        self.dialect.learn(header)
        return result

    def _store(
        self, request: Request, bucket: str, *, only: Endpoint | None = None, optional: str = ""
    ) -> Steps[PutResult]:
        """Send a body to be stored, with a digest of it where the bucket wants one; a header may be ``optional``."""
        if self.dialect.wants_md5(bucket, request.headers):
            request = with_md5(request)
        result: PutResult
        try:
            if optional:
                make = partial(Operation, self.sender, read=put_result, only=only)
                return (yield from self._optional(optional, request, make))
            result = yield Operation(self.sender, request, put_result, only=only)
            return result
        except S3Error as exc:
            if not (request.body.rewindable and self.dialect.learn_lock(bucket, exc, request.headers)):
                raise
        return (yield from self._asked(with_md5(request), put_result, only=only))


class Pending(Operation[T]):
    """An operation under way, for a thread that does something else meanwhile."""

    __slots__ = ("_attempt",)

    def begin(self) -> bool:
        """Send the request; False when all connections are in use."""
        self._attempt = self.sender.attempt(self.request, self.check)
        return bool(self._attempt.start(wait=False))

    def finish(self) -> T:
        """Return the result. The answer may have waited: it tells nothing about the node's speed."""
        self._attempt.note_waiting()
        self.sender.finish(self._attempt).close()
        del self._attempt  # which knows this one: they would keep each other, and the page, alive
        return self.result

    def abandon(self) -> None:
        """Abandon the request, which nobody has waited for."""
        self._attempt.abandon()


def body_of(response: Response) -> bytes:
    """Return the body, which a check has read."""
    return response.preload()


def nothing(_response: Response) -> None:
    """Read nothing: the status says all."""

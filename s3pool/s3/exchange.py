"""One request and its answer, read whole and checked before it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from s3pool.errors import ProtocolError
from s3pool.model import Endpoint, Request, Response
from s3pool.s3.documents import is_error, is_web_page
from s3pool.s3.errors import FIRST_BAD_STATUS, Check, error_from
from s3pool.s3.requests import Addressing

LIST_SLOWNESS = 2.0  # read timeouts; a page after a mass delete has taken 120 s on RGW
SLOW_SLOWNESS = 10.0  # Complete, copies and batch deletes work for minutes before they answer

T = TypeVar("T")


class Sender(Protocol):
    """What carries requests: pick, sign, send, check, retry."""

    def send(self, request: Request, check: Check, *, only: Endpoint | None = None) -> Response:
        """Send a request and give the response that passed the check."""

    def call(self, request: Request, check: Check) -> Call:
        """Give the same in steps."""

    def in_flight(self) -> InFlight:
        """Give a place for requests that one thread has under way at once."""


class Call(Protocol):
    """A request in steps, so that one thread can have many under way."""

    def adopt(self, node: Any, exchange: Any) -> None:
        """Let the first attempt be one of a node that was picked."""

    def begin(self, *, wait: bool = True) -> bool:
        """Send it; False when all connections are in use and ``wait`` is False."""

    def first_result(self, *, timely: bool = True) -> Response | None:
        """Give the answer to the first attempt; None when finish() has to go on from a failure.

        Who comes for it when it may have waited for long is not ``timely``.
        """

    def finish(self) -> Response:
        """Give the answer, after as many attempts as it takes."""

    def abandon(self) -> None:
        """Give up what is under way."""


class Operations:
    """What all groups of operations stand on: addresses and a way to ask."""

    def __init__(self, transport: Sender, *, addressing: str = "path", region: str = "us-east-1") -> None:
        self._transport = transport
        self._address = Addressing(virtual=addressing == "virtual")
        self._region = region

    def _ask(self, request: Request, read: Callable[[Response], T], *, only: Endpoint | None = None) -> T:
        """Send a request and give what ``read`` makes of the answer.

        Reading is part of the check: a body that is cut, or is not what was asked for, is one
        more failed attempt, and the transport goes to another node.
        """
        exchange = _Exchange(request, read)
        self._transport.send(request, exchange.check, only=only).close()
        return exchange.result


class Landed(Protocol):
    """What has come of one request among many, when it is not an answer that passed its check.

    ``call`` goes on with it, from a node that was silent when ``is_late``; or ``error`` is what
    its check has raised.
    """

    @property
    def going(self) -> Any: ...  # noqa: D102

    @property
    def call(self) -> Call | None: ...  # noqa: D102

    @property
    def error(self) -> Exception | None: ...  # noqa: D102

    @property
    def is_late(self) -> bool: ...  # noqa: D102


class InFlight(Protocol):
    """Requests that one thread has under way at once."""

    def __len__(self) -> int: ...

    def send(self, batch: Sequence[Any]) -> tuple[int, Any]:
        """Send requests over open connections; give how many, from the first on, and the node that lacks one."""

    def join(self, call: Any, going: Any) -> None:
        """Wait for what a call has begun as well."""

    @property
    def waited_s(self) -> float:
        """Give the seconds that were spent waiting for answers alone."""

    def ready(self, *, wait: bool) -> tuple[Sequence[Any], Sequence[Landed]]:
        """Give whose answers have passed their checks, and what else has landed; wait for a while if for nothing."""

    def close(self) -> None:
        """Give up what is under way."""


class _Exchange(Generic[T]):
    """The check of one request; keeps what the last answer said.

    ``is_content`` says that the body is a user's, who may well keep a document called Error.
    """

    __slots__ = ("_is_content", "_read", "request", "result")

    result: T

    def __init__(self, request: Request, read: Callable[[Response], T], *, is_content: bool = False) -> None:
        self.request = request
        self._read = read
        # The answer to HEAD has no body, whatever its Content-Length says.
        self._is_content = is_content or request.method == "HEAD"

    def check(self, response: Response) -> None:
        """Refuse errors, also those inside a 200, and answers that cannot be read."""
        request = self.request
        body = b"" if self._is_content or response.status >= FIRST_BAD_STATUS else response.preload()
        if response.status >= FIRST_BAD_STATUS or (body and is_error(body)):
            raise error_from(response, op=request.op, resource=request.resource)
        try:
            if body and is_web_page(body):
                raise ProtocolError("the answer is a web page, not S3's")
            self.result = self._read(response)
        except ProtocolError as exc:
            where = f"{request.op} {request.resource} at {response.endpoint}"
            raise ProtocolError(f"{where}: {exc}", endpoint=str(response.endpoint)) from exc


class Pending(_Exchange[T]):
    """A request under way, and what is to be made of its answer.

    ``begin`` sends it. Then ``has_result`` waits for what it gives; whoever has many under way
    takes the first results of all before going on from a failure. ``result`` is what the answer
    said, once that or finish() has seen it.
    """

    __slots__ = ("_call", "_transport")

    def __init__(self, transport: Sender, request: Request, read: Callable[[Response], T], *, is_content: bool) -> None:
        # Not by way of the base: one is made for each small object.
        self.request = request
        self._read = read
        self._is_content = is_content
        self._transport = transport
        self._call: Call | None = None

    def begin(self, *, wait: bool) -> bool:
        """Send the request; False when all connections are in use and ``wait`` is False."""
        self._call = self._transport.call(self.request, self.check)
        return self._call.begin(wait=wait)

    def begin_among(self, in_flight: InFlight, node: Any, *, wait: bool) -> bool:
        """Send the request as one of many, over a new connection; False when there may be none and not ``wait``.

        ``node`` is the one whose turn it is, None when that has to be thought about.
        """
        self._call = call = self._transport.call(self.request, self.check)
        if node is not None:
            call.adopt(node, None)
        if not call.begin(wait=wait):
            return False
        in_flight.join(call, self)
        return True

    def take_over(self, call: Call) -> None:
        """Go on with the call that one of many has become."""
        self._call = call

    def has_result(self, *, timely: bool = True) -> bool:
        """Wait for the first answer; say whether it was the one that counts.

        Not ``timely``, the answer may have waited: then it tells nothing about the node's speed.
        """
        response = self._begun().first_result(timely=timely)
        if response is None:
            return False
        response.close()
        self._call = None  # which knows this one: they would keep each other alive
        return True

    def finish(self) -> T:
        """Go on after a first failure; errors as those of the operation itself."""
        call, self._call = self._begun(), None
        call.finish().close()
        return self.result

    def abandon(self) -> None:
        """Give up; harmless after the end."""
        call, self._call = self._call, None
        if call is not None:
            call.abandon()

    def _begun(self) -> Call:
        if self._call is None:
            raise AssertionError("the answer is asked for before the request was sent")
        return self._call


def body_of(response: Response) -> bytes:
    """Give the body, which a check has read."""
    return response.preload()


def nothing(_response: Response) -> None:
    """Read nothing: the status says all."""

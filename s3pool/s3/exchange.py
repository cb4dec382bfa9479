"""One request and its answer, read whole and checked before it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from s3pool.errors import ProtocolError
from s3pool.model import Endpoint, Request, Response
from s3pool.s3.addressing import Addressing
from s3pool.s3.check import Check, check_response, error_from
from s3pool.s3.xml import is_error

LIST_SLOWNESS = 2.0  # read timeouts; a page after a mass delete has taken 120 s on RGW
SLOW_SLOWNESS = 10.0  # Complete, copies and batch deletes work for minutes before they answer

T = TypeVar("T")


class Sender(Protocol):
    """What carries requests: pick, sign, send, check, retry."""

    def send(self, request: Request, check: Check, *, only: Endpoint | None = None) -> Response:
        """Send a request and give the response that passed the check."""


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


class _Exchange(Generic[T]):
    """The check of one request; keeps what the last answer said."""

    __slots__ = ("_check_status", "_read", "_request", "result")

    result: T

    def __init__(self, request: Request, read: Callable[[Response], T]) -> None:
        self._request = request
        self._read = read
        self._check_status = check_response(request.op, request.resource)

    def check(self, response: Response) -> None:
        """Refuse errors, also those inside a 200, and answers that cannot be read."""
        request = self._request
        self._check_status(response)
        # The answer to HEAD has no body, whatever its Content-Length says.
        if request.method != "HEAD" and is_error(response.preload()):
            raise error_from(response, op=request.op, resource=request.resource)
        try:
            self.result = self._read(response)
        except ProtocolError as exc:
            where = f"{request.op} {request.resource} at {response.endpoint}"
            raise ProtocolError(f"{where}: {exc}", endpoint=str(response.endpoint)) from exc


def body_of(response: Response) -> bytes:
    """Give the body, which a check has read."""
    return response.preload()


def nothing(_response: Response) -> None:
    """Read nothing: the status says all."""

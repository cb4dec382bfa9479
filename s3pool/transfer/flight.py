"""Requests under way at once, for the window: over the pool's in_flight()."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from s3pool.model import Response
    from s3pool.s3.client import S3Client


class Result(NamedTuple):
    """What a request has come to: its check has passed, or an error, or an attempt that a worker must finish."""

    operation: Any
    error: Exception | None = None
    attempt: Any = None


class Flight:
    """The requests of one thread that are under way."""

    def __init__(self, client: S3Client) -> None:
        self._sender = client.sender
        self._in_flight = client.in_flight()
        self._failed: list[Result] = []  # before they were under way

    def __len__(self) -> int:
        return len(self._in_flight) + len(self._failed)

    @property
    def waited_s(self) -> float:
        """The seconds that were spent waiting for answers alone."""
        return self._in_flight.waited_s

    def submit(self, operations: Sequence[Any], *, wait: bool) -> int:
        """Send requests; return how many, from the first on. Fewer when all connections are busy.

        With ``wait`` the first may wait for a connection while nothing is under way.
        """
        sent = 0
        while sent < len(operations):
            batch = list(takewhile(lambda each: each.request.replayable, operations[sent:]))
            count, node = self._in_flight.send(batch) if batch else (0, None)
            sent += count
            if count < len(batch) or not batch:
                if not self._call(operations[sent], node, wait=wait and not self):
                    return sent
                sent += 1
        return sent

    def _call(self, operation: Any, node: Any, *, wait: bool) -> bool:
        call = self._sender.call(operation.request, operation.check)
        if node is not None:
            call.adopt(node, None)
        try:
            if not call.begin(wait=wait):
                return False
            self._in_flight.join(call, operation)
        except Exception as exc:  # noqa: BLE001 - it is for the one whose request this is
            self._failed.append(Result(operation, exc))
        return True

    def poll(self, *, wait: bool) -> list[Result]:
        """Return what requests have come to; wait for a while if for nothing."""
        failed, self._failed = self._failed, []
        answered, landed = self._in_flight.ready(wait=wait and not failed)
        return [*failed, *map(Result, answered), *map(_result_of, landed)]

    def finish(self, attempt: Any) -> Response:
        """Wait for what an attempt comes to, with more attempts where they help."""
        response: Response = attempt.finish()
        return response

    def close(self) -> None:
        """Give up what is under way."""
        self._in_flight.close()


def _result_of(landed: Any) -> Result:
    operation, call = landed.going, landed.call
    if call is None:
        return Result(operation, landed.error or AssertionError("it has landed for no reason"))
    if landed.is_late:
        return Result(operation, attempt=call)
    try:
        response = call.first_result(timely=False)
    except Exception as exc:  # noqa: BLE001 - it is for the one whose request this is
        return Result(operation, exc)
    return Result(operation, attempt=call if response is None else None)

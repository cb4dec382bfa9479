"""A transport without a network: gives scripted answers and records what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from s3pool.model import Endpoint, Request, Response
from s3pool.s3.responses import Check

ENDPOINT = Endpoint("http", "node1", 9000)


@dataclass
class Answer:
    """One scripted answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class MemoryStream:
    """A response's body in memory; fails at its end when ``failure`` is given."""

    def __init__(self, content: bytes, *, failure: Exception | None = None) -> None:
        self._content = content
        self._failure = failure
        self.closed = False

    def readinto(self, buffer: memoryview) -> int:
        """Give what fits."""
        if not self._content and self._failure:
            raise self._failure
        count = min(len(buffer), len(self._content))
        buffer[:count] = self._content[:count]
        self._content = self._content[count:]
        return count

    def close(self) -> None:
        """Note that the exchange has ended."""
        self.closed = True


class ScriptedSender:
    """Answers requests in the order of the script, and checks as a transport does."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = list(answers)
        self.requests: list[Request] = []
        self.only: list[Endpoint | None] = []
        self.streams: list[MemoryStream] = []

    def send(self, request: Request, check: Check, *, only: Endpoint | None = None) -> Response:
        """Record the request and give the next answer."""
        self.requests.append(request)
        self.only.append(only)
        response = self._response(self._answers.pop(0))
        check(response)
        return response

    def _response(self, answer: Answer) -> Response:
        stream = MemoryStream(answer.body)
        self.streams.append(stream)
        return Response(answer.status, answer.headers, stream, endpoint=ENDPOINT, length=len(answer.body))

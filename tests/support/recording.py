"""Stand-ins below the S3 client: canned responses, and a sender that records requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from s3pool.model import Endpoint, Request, Response

ENDPOINT = Endpoint("http", "127.0.0.1", 9000)


class BytesStream:
    """A response's body that is in memory; ``closed`` tells whether somebody closed it."""

    def __init__(self, content: bytes = b"", *, block: int = 1 << 20) -> None:
        self.closed = False
        self._content = content
        self._block = block
        self._at = 0

    def readinto(self, buffer: memoryview) -> int:
        """Fill at most one block."""
        block = self._content[self._at : self._at + min(self._block, len(buffer))]
        buffer[: len(block)] = block
        self._at += len(block)
        return len(block)

    def close(self) -> None:
        """Note it."""
        self.closed = True


def make_response(
    status: int = 200, body: bytes = b"", *, headers: Mapping[str, str] | None = None, endpoint: Endpoint = ENDPOINT
) -> Response:
    """Give a response as the transport does, with a body in memory."""
    named = {name.lower(): value for name, value in (headers or {}).items()}
    return Response(status, named, BytesStream(body), endpoint=endpoint, length=len(body))


@dataclass(frozen=True)
class Sent:
    """One request that a client made, with the endpoint it insisted on."""

    request: Request
    only: Endpoint | None


class RecordingSender:
    """Answers each send with the next canned response, after the client's own check.

    An exception among the answers is raised instead. ``sent`` keeps the requests.
    """

    def __init__(self, answers: Iterable[Response | BaseException] = ()) -> None:
        self.sent: list[Sent] = []
        self._answers = iter(answers)

    def send(self, request: Request, check: Callable[[Response], None], *, only: Endpoint | None = None) -> Response:
        """Record, take the next answer, check it."""
        self.sent.append(Sent(request, only))
        answer = next(self._answers)
        if isinstance(answer, BaseException):
            raise answer
        check(answer)
        return answer

    @property
    def requests(self) -> list[Request]:
        """Give the requests alone."""
        return [sent.request for sent in self.sent]

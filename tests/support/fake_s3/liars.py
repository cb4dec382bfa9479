"""Answers that a client must not believe, by name: pages, halves, decompressed objects.

tell_lie(fake, "html", endpoint=0)        # one node answers every GET of an object with a page
tell_lie(fake, "ignores-prefix")          # all nodes list as if no prefix had been asked for
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.support.fake_s3.faults import Fault, NoETag, WebPage
from tests.support.fake_s3.wire import Exchange, Reply

if TYPE_CHECKING:
    from tests.support.fake_s3.server import FakeS3


class HalfBody(Fault):
    """Send half of the body, and its length as if that were all."""

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Cut it; errors stay as they are."""
        return replace(reply, body=reply.body[: len(reply.body) // 2]) if reply.status < 300 else reply


class Decompressed(Fault):
    """Send a gzip object as what is packed in it: in chunks, with a weak ETag, whatever Range says."""

    def receive(self, exchange: Exchange) -> Reply | None:
        """Forget the range."""
        exchange.headers.pop("range", None)
        return None

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Unpack it."""
        if reply.status != 200 or reply.headers.get("content-encoding") != "gzip":
            return reply
        headers = {name: value for name, value in reply.headers.items() if name != "content-encoding"}
        headers["ETag"] = f"W/{reply.headers['ETag']}"
        return replace(reply, body=gzip.decompress(reply.body), headers=headers, chunked=True)


ANSWERS: dict[str, Callable[[], Fault]] = {
    "html": WebPage,
    "html-etag": lambda: WebPage({"ETag": '"5f3e-62a"'}),
    "no-etag": NoETag,
    "half-body": HalfBody,
    "decompressed": Decompressed,
}


def tell_lie(fake: FakeS3, name: str, *, endpoint: int | None = None, op: str = "GetObject", times: int = 0) -> None:
    """Let a fake, or one of its nodes, lie in one of the ways that have a name."""
    fake.fault(ANSWERS[name](), op=op, endpoint=endpoint, times=times)

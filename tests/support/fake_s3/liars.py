"""Answers that a client must not believe, by name: pages, halves, decompressed objects.

tell_lie(fake, "html", endpoint=0)        # one node answers every GET of an object with a page
tell_lie(fake, "ignores-prefix")          # all nodes list as if no prefix had been asked for
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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


@dataclass
class IgnoreParameters(Fault):
    """Act as if parts of the query had not been sent."""

    names: tuple[str, ...]

    def receive(self, exchange: Exchange) -> Reply | None:
        """Take them out."""
        path, _, query = exchange.target.partition("?")
        kept = [pair for pair in query.split("&") if pair.partition("=")[0] not in self.names]
        exchange.target = f"{path}?{'&'.join(kept)}"
        return None


@dataclass
class Endless(Fault):
    """Say that a listing goes on for ever, behind new tokens: with nothing more, or with the first page again."""

    is_empty: bool = True
    pages: int = 0
    firsts: dict[str, bytes] = field(default_factory=dict)  # by what was asked for

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Put new words for where to go on into the page."""
        self.pages += 1
        asked = _CURSORS.sub("", exchange.target)
        body = self.firsts.setdefault(asked, reply.body)
        if self.is_empty and asked != exchange.target:
            body = _ENTRIES.sub(b"", body)
        body = body.replace(b"<IsTruncated>false<", b"<IsTruncated>true<")
        root = body[body.rindex(b"</") :]
        if root not in _WORDS:
            return reply
        words = _WORDS[root].replace(b"#", b"t%06d" % self.pages)
        return replace(reply, body=_MARKERS.sub(b"", body[: -len(root)]) + words + root)


_ENTRIES = re.compile(rb"<(Contents|Version|DeleteMarker|Upload|CommonPrefixes)>.*?</\1>", re.DOTALL)
_MARKERS = re.compile(rb"<(NextContinuationToken|NextKeyMarker|NextVersionIdMarker|NextUploadIdMarker)>.*?</\1>")
_CURSORS = re.compile(r"&(start-after|continuation-token|(key|version-id|upload-id)-marker)=[^&]*")
_WORDS = {
    b"</ListBucketResult>": b"<NextContinuationToken>#</NextContinuationToken>",
    b"</ListVersionsResult>": b"<NextKeyMarker>#</NextKeyMarker><NextVersionIdMarker>#</NextVersionIdMarker>",
    b"</ListMultipartUploadsResult>": b"<NextKeyMarker>#</NextKeyMarker><NextUploadIdMarker>#</NextUploadIdMarker>",
}
MARKERS = ("start-after", "continuation-token", "marker", "key-marker", "version-id-marker", "upload-id-marker")
ANSWERS: dict[str, Callable[[], Fault]] = {
    "html": WebPage,
    "html-etag": lambda: WebPage({"ETag": '"5f3e-62a"'}),
    "no-etag": NoETag,
    "half-body": HalfBody,
    "decompressed": Decompressed,
}
LISTINGS: dict[str, Callable[[], Fault]] = {
    "endless": Endless,
    "endless-repeats": lambda: Endless(is_empty=False),
    "ignores-prefix": lambda: IgnoreParameters(("prefix",)),
    "ignores-delimiter": lambda: IgnoreParameters(("delimiter",)),
    "ignores-max-keys": lambda: IgnoreParameters(("max-keys",)),
    "ignores-start-after": lambda: IgnoreParameters(("start-after",)),
    "ignores-markers": lambda: IgnoreParameters(MARKERS),
}
# What all nodes do, as settings of the fake.
HABITS: dict[str, dict[str, object]] = {
    "skips-subtrees": {"skips_subtrees": True},
    "tree-order": {"tree_order": True},
    "unsorted": {"unsorted": True},
}


def tell_lie(fake: FakeS3, name: str, *, endpoint: int | None = None, op: str = "", times: int = 0) -> None:
    """Let a fake, or one of its nodes, lie in one of the ways that have a name; habits are those of all nodes."""
    if name in HABITS:
        for setting, value in HABITS[name].items():
            setattr(fake.quirks, setting, value)
        return
    make = ANSWERS.get(name) or LISTINGS[name]
    fake.fault(make(), op=op or ("GetObject" if name in ANSWERS else "List*"), endpoint=endpoint, times=times)

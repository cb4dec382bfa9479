"""What can go wrong with a request, and the script that says with which one.

fake.fault(Reset(after=MIB), op="PutObject", nth=2)          # the second PUT dies after 1 MiB
fake.fault(SlowDown(retry_after=1), op="List*", endpoint=0)  # once; times=0 is for ever
"""

from __future__ import annotations

import fnmatch
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.support.fake_s3.call import error_reply
from tests.support.fake_s3.store import S3Fault
from tests.support.fake_s3.wire import Drop, Exchange, Reply, flip

_TOKEN = re.compile(rb"<(NextContinuationToken|NextMarker)>.*?</\1>", re.DOTALL)


class Fault:
    """One thing that goes wrong. ``receive`` comes before the operation acts, ``answer`` after."""

    def receive(self, exchange: Exchange) -> Reply | None:
        """Answer in the operation's place, raise Drop, or let it act."""
        return None

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Change the answer, or how it is sent."""
        return reply


@dataclass
class Reset(Fault):
    """Cut the connection after so many bytes of the request's body; nothing was done."""

    after: int = 0
    reset: bool = True  # False: a plain close

    def receive(self, exchange: Exchange) -> Reply | None:
        """Read that much, and drop."""
        exchange.read(self.after)
        raise Drop(reset=self.reset)


@dataclass
class Hang(Fault):
    """Take the request, or so many bytes of its body, and never answer."""

    after: int | None = None

    def receive(self, exchange: Exchange) -> Reply | None:
        """Wait until the node ends."""
        exchange.read(exchange.length if self.after is None else self.after)
        exchange.node.ended.wait()
        raise Drop


@dataclass
class Interim(Fault):
    """Send interim answers before, inside and after the body, as RGW does before forms; then answer rightly."""

    heads: tuple[bytes, ...] = (b"HTTP/1.1 100 CONTINUE\r\n\r\n",) * 2

    def receive(self, exchange: Exchange) -> Reply | None:
        """Say one head after another, with a share of the body between them."""
        share = exchange.length // (2 * len(self.heads))
        exchange.say(self.heads[0])
        for head in self.heads[1:]:
            for piece in (head[:13], head[13:]):
                exchange.read(share)
                exchange.say(piece)
        return None


@dataclass
class Delay(Fault):
    """Answer rightly, but late."""

    seconds: float

    def receive(self, exchange: Exchange) -> Reply | None:
        """Wait, or until the node ends."""
        exchange.body()
        exchange.node.ended.wait(self.seconds)
        return None


@dataclass
class Answer(Fault):
    """Answer with an error. With ``acted`` the operation was done all the same."""

    status: int
    code: str
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    acted: bool = False
    early: bool = False  # before the body was read

    def receive(self, exchange: Exchange) -> Reply | None:
        """Answer now, unless the operation is to act."""
        if self.acted:
            return None
        if not self.early:
            exchange.body()
        return self._reply()

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Hide what was done."""
        return self._reply() if self.acted else reply

    def _reply(self) -> Reply:
        fault = S3Fault(200 if self.status == 200 else self.status, self.code, self.message)
        reply = error_reply(fault, bucket="", request_id="scripted", silent=not self.message)
        reply.headers.update(self.headers)
        return reply


def slow_down(retry_after: float | None = None) -> Answer:
    """Give 503 SlowDown, with a Retry-After when one is given."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return Answer(503, "SlowDown", "Please reduce your request rate.", headers)


def internal_error(*, acted: bool = False) -> Answer:
    """Give 500 InternalError."""
    return Answer(500, "InternalError", "We encountered an internal error. Please try again.", acted=acted)


def error_in_200(code: str = "InternalError", *, acted: bool = False) -> Answer:
    """Give status 200 with an <Error> in the body, as long operations of S3 do."""
    return Answer(200, code, "We encountered an internal error. Please try again.", acted=acted)


@dataclass
class CutBody(Fault):
    """Promise the whole answer, send so many bytes of its body, and die."""

    after: int = 0
    reset: bool = True

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Mark the reply."""
        return replace(reply, cut_after=self.after, reset=self.reset)


@dataclass
class Die(Fault):
    """Send so many bytes of the answer's body, and then the whole node is dead."""

    after: int = 0

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Mark the reply."""
        return replace(reply, cut_after=self.after, last_act=exchange.node.kill)


@dataclass
class DieReceiving(Fault):
    """Take so many bytes of the request's body, and then the whole node is dead."""

    after: int = 0

    def receive(self, exchange: Exchange) -> Reply | None:
        """Read that much, and end the node."""
        exchange.read(self.after)
        exchange.node.kill()
        raise Drop


@dataclass
class Vanish(Fault):
    """Act, and die before the first byte of the answer: nobody knows whether it was done."""

    reset: bool = True

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Mark the reply."""
        return replace(reply, cut_after=-1, reset=self.reset)


@dataclass
class CutXml(Fault):
    """Send whole HTTP with half of the XML."""

    share: float = 0.5

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Shorten the body, and its length."""
        return replace(reply, body=reply.body[: int(len(reply.body) * self.share)])


class NoToken(Fault):
    """Say that a listing goes on, without the token that would let it."""

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Take the token away."""
        return replace(reply, body=_TOKEN.sub(b"", reply.body))


@dataclass
class Raw(Fault):
    """Answer with these bytes, whatever they are, and hang up."""

    answer_bytes: bytes

    def receive(self, exchange: Exchange) -> Reply | None:
        """Send them in the operation's place."""
        exchange.body()
        exchange.say(self.answer_bytes)
        raise Drop(reset=False)


class EmptyBody(Fault):
    """Act, and answer 200 with nothing in it."""

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Empty the body, and its length."""
        return replace(reply, body=b"")


@dataclass
class Drip(Fault):
    """Send the answer's body in small blocks with pauses."""

    block: int = 1
    pause_s: float = 0.01

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Mark the reply."""
        return replace(reply, block=self.block, pause_s=self.pause_s)


@dataclass
class WrongETag(Fault):
    """Answer with another ETag."""

    etag: str = "0" * 32

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Replace the header, and the element where there is one."""
        body = re.sub(rb"<ETag>.*?</ETag>", b"<ETag>&quot;%s&quot;</ETag>" % self.etag.encode(), reply.body)
        shown = "<ETag>" in reply.body.decode("latin-1")
        headers = {**reply.headers, "ETag": f'"{self.etag}"'} if "ETag" in reply.headers else reply.headers
        return replace(reply, body=body if shown else reply.body, headers=headers)


class NoETag(Fault):
    """Act, and answer without an ETag."""

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Take the header away, and the element where there is one."""
        headers = {name: value for name, value in reply.headers.items() if name != "ETag"}
        return replace(reply, body=re.sub(rb"<ETag>.*?</ETag>", b"", reply.body), headers=headers)


@dataclass
class WebPage(Fault):
    """Answer 200 with a page for people, as what stands before a storage does; nothing was done."""

    headers: dict[str, str] = field(default_factory=dict)

    def receive(self, exchange: Exchange) -> Reply | None:
        """Answer in the operation's place."""
        exchange.body()
        page = b"<!DOCTYPE html>\n<html><body>down for maintenance</body></html>"
        return Reply(200, page, {"Content-Type": "text/html", **self.headers}, is_foreign=True)


@dataclass
class FlipByte(Fault):
    """Turn over one bit of the answer's body on its way."""

    at: int = 0

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Flip it."""
        return replace(reply, body=flip(reply.body, self.at))


@dataclass
class FlipStored(Fault):
    """Turn over one bit of what is stored: bytes that arrived are not those that were sent."""

    at: int = 0

    def receive(self, exchange: Exchange) -> Reply | None:
        """Leave word; it happens behind the check of the digests."""
        exchange.spoil = self.at
        return None


@dataclass
class IgnoreHeader(Fault):
    """Act as if a header had not been sent: ``range``, ``if-match``, ``if-none-match``."""

    name: str = "range"

    def receive(self, exchange: Exchange) -> Reply | None:
        """Take it out of the request."""
        exchange.headers.pop(self.name, None)
        return None


class CloseAfter(Fault):
    """Answer rightly, then close the kept connection without having said so."""

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Mark the reply."""
        return replace(reply, close=True)


@dataclass
class Call(Fault):
    """Call something when the request arrives: kill another node, store one more key."""

    hook: Callable[[Exchange], object]

    def receive(self, exchange: Exchange) -> Reply | None:
        """Call it, then go on as if nothing had been."""
        self.hook(exchange)
        return None


@dataclass
class HeldUpload(Fault):
    """Refuse to complete the upload that is to be completed first, as RGW does whose node died at it."""

    upload_id: str = ""

    def receive(self, exchange: Exchange) -> Reply | None:
        """Answer as RGW does for ten minutes; other uploads may act."""
        exchange.body()
        upload_id = exchange.target.partition("uploadId=")[2].partition("&")[0]
        self.upload_id = self.upload_id or upload_id
        if upload_id != self.upload_id:
            return None
        fault = S3Fault(500, "InternalError", "This multipart completion is already in progress")
        return error_reply(fault, bucket="", request_id="scripted", silent=False)


@dataclass
class Rewrite(Fault):
    """Change the answer by a function."""

    change: Callable[[Reply], Reply]

    def answer(self, exchange: Exchange, reply: Reply) -> Reply:
        """Apply it."""
        return self.change(reply)


@dataclass
class Rule:
    """A fault and the requests that it meets; it counts those that match."""

    fault: Fault
    op: str = "*"
    endpoint: int | None = None
    key: str | None = None
    nth: int = 1
    times: int = 1  # 0: from the nth on, for ever
    seen: int = 0
    used: int = 0

    def meets(self, op: str, exchange: Exchange, key: str) -> bool:
        """Say whether this request is one of them, and count it."""
        if self.endpoint not in (None, exchange.node.index) or self.key not in (None, key):
            return False
        if not fnmatch.fnmatchcase(op, self.op) and exchange.method != self.op:
            return False
        self.seen += 1
        hit = self.seen >= self.nth and (self.times == 0 or self.used < self.times)
        self.used += hit
        return hit


class Script:
    """The rules in force, asked by every request."""

    def __init__(self) -> None:
        # Guards the rules' counters: requests come on many threads.
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> Rule:
        """Put a rule in force."""
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Let everything go well from now on."""
        with self._lock:
            self._rules = []

    def faults_for(self, op: str, exchange: Exchange, key: str) -> list[Fault]:
        """Give the faults that meet a request, in the order of the script."""
        with self._lock:
            return [rule.fault for rule in self._rules if rule.meets(op, exchange, key)]

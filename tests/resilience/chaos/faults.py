"""The rules of one command: which request meets which fault, by operation, key and ordinal."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.resilience.chaos import rewriting
from tests.resilience.chaos.http1 import Request, Response
from tests.resilience.chaos.relay import ChaosRelay, Cut
from tests.resilience.chaos.relay import Fault as Fault

PROBES = ("Health", "ListBuckets")
SETTLED_STATUSES = (200, 206)


@dataclass(frozen=True)
class Rule:
    """A fault and the requests that it meets: the nth that match, and so many (0: all) from there on."""

    kind: str
    op: str = "*"
    key: str | None = None
    node: int | None = None
    nth: int = 1
    times: int = 1
    args: dict[str, Any] = field(default_factory=dict)

    def words(self) -> str:
        """Return the rule as one line of a transcript."""
        facts = {name: value for name, value in asdict(self).items() if name not in ("kind", "args")}
        shown = [f"{name}={value}" for name, value in facts.items() if value not in (None, "*")]
        return " ".join([self.kind, *shown, *(f"{name}={value}" for name, value in self.args.items())])


# Faults of the network and of one sick node: with another node that is well, a command must succeed.
HONEST = frozenset(
    [
        "refuse",
        "hang",
        "latency",
        "freeze",
        "status",
        "cut",
        "close",
        "cut-request",
        "cut-head",
        "cut-body",
        "end-body",
        "stall-body",
        "vanish",
        "slow",
        "truncated-xml",
    ]
)
# Changes of the request: they would break its signature where somebody looks at it.
UNSIGNED_ONLY = frozenset(["ignore-header", "ignore-parameter"])
Hook = Callable[[Rule, Request], None]


class Plan:
    """The rules in force, and what became of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[tuple[Rule, Meeting]] = []
        self._counts: list[int] = []
        self.hits: list[str] = []
        self.log: list[str] = []

    def begin(self, rules: Iterable[Rule], hooks: dict[str, Hook]) -> None:
        """Put the rules of a command in force; hooks act on kinds that are not the relay's."""
        with self._lock:
            self._rules = [(rule, Meeting(rule, hooks.get(rule.kind))) for rule in rules]
            self._counts = [0] * len(self._rules)
            self.hits, self.log = [], []

    def end(self) -> None:
        """Let everything go well; what happened stays on record."""
        with self._lock:
            self._rules, self._counts = [], []

    def meeting(self, request: Request) -> list[Meeting]:
        """Return the faults of one request, and count it."""
        op, bucket, key = request.place
        met = []
        with self._lock:
            self.log.append(f"{op} {bucket}/{key} node{request.node}")
            for number, (rule, fault) in enumerate(self._rules):
                if not self._matches(rule, op, key, request.node):
                    continue
                self._counts[number] += 1
                used = self._counts[number] - rule.nth
                if used >= 0 and (not rule.times or used < rule.times):
                    self.hits.append(f"{rule.kind}: {op} {bucket}/{key}")
                    met.append(fault)
        return met

    @staticmethod
    def _matches(rule: Rule, op: str, key: str, node: int) -> bool:
        if op in PROBES and not (rule.node == node and rule.times == 0 and rule.op == "*"):
            return False  # they come by the clock, not by the command
        return rule.node in (None, node) and rule.key in (None, key) and fnmatch.fnmatchcase(op, rule.op)


class Meeting:
    """One rule's fault, as the relay asks for it."""

    def __init__(self, rule: Rule, hook: Hook | None) -> None:
        self.rule = rule
        self._hook = hook
        self._repeated = rewriting.RepeatedPage()

    def before(self, relay: ChaosRelay, request: Request) -> Response | None:
        """Act before the request goes on."""
        args = self.rule.args
        if self._hook is not None and not args.get("late"):
            self._hook(self.rule, request)
        act = getattr(self, "_" + self.rule.kind.replace("-", "_"), None)
        result: Response | None = act(relay, request, **args) if act is not None else None
        return result

    def body(self, relay: ChaosRelay, request: Request, offset: int, block: bytes) -> bytes:
        """Change a block of the request's body."""
        total = max(1, request.length)
        at = int(self.rule.args.get("share", 0.5) * total) - offset
        if not 0 <= at < len(block):
            return block
        if self.rule.kind == "cut-request":
            raise Cut
        if self.rule.kind == "stall-request":
            relay.stall()
        return rewriting.flip(block, at) if self.rule.kind == "flip-request" else block

    def after(self, relay: ChaosRelay, request: Request, response: Response) -> Response:
        """Change the answer."""
        kind, args = self.rule.kind, self.rule.args
        if self._hook is not None and args.get("late"):
            self._hook(self.rule, request)
        if kind in rewriting.CHANGES:
            return rewriting.CHANGES[kind](response)
        if kind == "vanish":
            raise Cut
        if kind == "status-after":
            return rewriting.error(args["status"], args["code"])
        if kind == "truncated-xml":
            return rewriting.truncated(response) if response.body.startswith(b"<?xml") else response
        if kind == "flip-response":
            return rewriting.flipped(response, args["share"]) if response.status in SETTLED_STATUSES else response
        if kind == "skew":
            return rewriting.skewed(response, args["seconds"])
        if kind == "repeated-page":
            return self._repeated(response)
        return self._delivered(kind, response)

    def _delivered(self, kind: str, response: Response) -> Response:
        place = int(self.rule.args.get("share", 0.5) * len(response.body))
        if kind == "cut-head":
            response.cut_head_at = len(response.head()) // 2
        elif kind == "cut-body":
            response.cut_body_at = place
        elif kind == "end-body":
            response.cut_body_at, response.half_close = place, True
        elif kind == "stall-body":
            response.stall_at = place
        elif kind == "slow":
            response.rate = self.rule.args["rate"]
        return response

    # -- before the request goes on ----------------------------------------------------------

    @staticmethod
    def _refuse(relay: ChaosRelay, _: Request) -> None:
        relay.refuse()
        raise Cut

    @staticmethod
    def _hang(relay: ChaosRelay, _: Request) -> None:
        relay.stall()

    @staticmethod
    def _latency(relay: ChaosRelay, _: Request, seconds: float) -> None:
        relay.pause(seconds)

    @staticmethod
    def _freeze(relay: ChaosRelay, _: Request, seconds: float) -> None:
        relay.freeze()
        if seconds:
            timer = threading.Timer(seconds, relay.thaw)
            timer.daemon = True
            timer.start()

    @staticmethod
    def _cut(_relay: ChaosRelay, _: Request) -> None:
        raise Cut

    @staticmethod
    def _close(_relay: ChaosRelay, _: Request) -> None:
        raise Cut(reset=False)

    @staticmethod
    def _status(_relay: ChaosRelay, _: Request, status: int, code: str, retry_after: float | None = None) -> Response:
        return rewriting.error(status, code, retry_after)

    @staticmethod
    def _html_instead(_relay: ChaosRelay, _: Request) -> Response:
        return rewriting.html(Response(200))

    @staticmethod
    def _redirect(relay: ChaosRelay, request: Request) -> Response:
        return rewriting.redirect(relay.url() + request.target)

    @staticmethod
    def _ignore_header(_relay: ChaosRelay, request: Request, name: str) -> None:
        request.without(name)

    @staticmethod
    def _ignore_parameter(_relay: ChaosRelay, request: Request, name: str) -> None:
        request.without_parameter(name)

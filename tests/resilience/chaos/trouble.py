"""What goes wrong during a command: faults, other writers and signals, by the dice of the program."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.resilience.chaos.effects import Command, begin_of, split, tree_prefix
from tests.resilience.chaos.faults import Rule
from tests.resilience.chaos.worlds import LOCAL, Place, Planted

READS = ("GetObject", "HeadObject", "ListObjectsV2")
WRITES = ("PutObject", "CopyObject", "UploadPart", "CreateMultipartUpload", "CompleteMultipartUpload")
ENDS = ("DeleteObject", "DeleteObjects", "AbortMultipartUpload")
SLOW = ("CopyObject", "CompleteMultipartUpload", "DeleteObjects")
ANY = (*READS, *WRITES, *ENDS, "*")
# What the commands ask for, by their kind: trouble elsewhere would seldom come.
LISTS = ("ListObjectsV2",)
USED = {
    "rm": (*LISTS, "DeleteObjects", "DeleteObject"),
    "find": (*LISTS, "DeleteObjects"),
    "ls": LISTS,
    "du": LISTS,
    "cat": ("GetObject", "HeadObject"),
    "pipe": WRITES,
    "mb": ("CreateBucket", "HeadBucket"),
    "rb": (*LISTS, "DeleteObjects", "DeleteBucket", "ListObjectVersions"),
}
SIGNALS = ("KILL", "KILL", "KILL", "TERM", "INT", "STOP")
# Kind, operations, arguments: what a network and a sick node do.
NETWORK: tuple[tuple[str, tuple[str, ...], dict[str, tuple[Any, ...]]], ...] = (
    ("refuse", ANY, {}),
    ("hang", ANY, {}),
    ("latency", ANY, {"seconds": (0.05, 0.5)}),
    ("freeze", ANY, {"seconds": (0.5, 0)}),
    ("status", ANY, {"status": (500, 502, 503)}),
    ("cut", ANY, {}),
    ("close", ANY, {}),
    ("cut-request", ("PutObject", "UploadPart"), {"share": (0.0, 0.5, 0.99)}),
    ("cut-head", ANY, {}),
    ("cut-body", READS, {"share": (0.0, 0.5, 0.99)}),
    ("end-body", READS, {"share": (0.0, 0.5, 0.99)}),
    ("stall-body", READS, {"share": (0.0, 0.5, 0.99)}),
    ("vanish", ANY, {}),
    ("slow", READS, {"rate": (400_000,)}),
    ("truncated-xml", ("ListObjectsV2", "CopyObject", "CompleteMultipartUpload", "DeleteObjects"), {}),
    ("long-length", ("GetObject", "ListObjectsV2"), {}),
)
# What lies: wrong answers that are whole HTTP.
LIARS: tuple[tuple[str, tuple[str, ...], dict[str, tuple[Any, ...]]], ...] = (
    ("throttle", ANY, {"retry_after": (None, 0, 1)}),
    ("status-after", (*WRITES, *ENDS), {"status": (500, 503)}),
    ("error-in-200", ("CopyObject", "CompleteMultipartUpload"), {}),
    ("html-answer", (*READS, *WRITES), {}),
    ("html-instead", (*READS, *WRITES, "DeleteObjects"), {}),
    ("truncated", ("GetObject",), {}),
    ("short-length", ("GetObject",), {}),
    ("flip-response", ("GetObject",), {"share": (0.0, 0.4, 0.999)}),
    ("flip-request", ("PutObject", "UploadPart"), {"share": (0.0, 0.4, 0.999)}),
    ("false-etag", (*READS, *WRITES), {}),
    ("no-etag", (*READS, *WRITES), {}),
    ("weak-etag", (*READS, *WRITES), {}),
    ("compressed", ("GetObject",), {}),
    ("unsorted", ("ListObjectsV2",), {}),
    ("tree-order", ("ListObjectsV2",), {}),
    ("repeated-page", ("ListObjectsV2",), {}),
    ("misnamed-error", ("DeleteObjects",), {}),
    ("skew", ("*",), {"seconds": (86_400.0, -86_400.0, 1200.0)}),
    ("redirect", ANY, {}),
)
IGNORED = (
    ("ignore-parameter", "ListObjectsV2", "prefix"),
    ("ignore-parameter", "ListObjectsV2", "start-after"),
    ("ignore-parameter", "ListObjectsV2", "max-keys"),
    ("ignore-header", "GetObject", "if-match"),
    ("ignore-header", "GetObject", "range"),
    ("ignore-header", "CopyObject", "x-amz-copy-source-if-match"),
)
CODES = {500: "InternalError", 502: "BadGateway", 503: "SlowDown", 429: "TooManyRequests"}


def make_rules(
    dice: random.Random, command: Command, planted: list[Planted], *, signed: bool, label: Callable[[], str], nodes: int
) -> list[Rule]:
    """Return what goes wrong: one kind of trouble, now and then two."""
    choice = dice.random()
    if choice < 0.34:
        node = dice.randrange(nodes)
        return [_fault(dice, NETWORK, command, planted, node=node) for _ in range(dice.randint(1, 2))]
    if choice < 0.44:
        return [_fault(dice, NETWORK, command, planted, node=None) for _ in range(dice.randint(1, 2))]
    if choice < 0.64:
        if not signed and dice.random() < 0.2:
            kind, op, name = dice.choice(IGNORED)
            return [Rule(kind, op, times=0, args={"name": name})]
        return [_fault(dice, LIARS, command, planted, node=None)]
    if choice < 0.84 and (writer := _writer(dice, command, planted, label)):
        return [writer]
    if choice > 0.93 and command.verb in ("cp", "mv", "sync", "rm", "pipe"):
        args = {"apart": dice.random() < 0.5, "late": dice.random() < 0.5}
        return [Rule("rival", dice.choice(_used(command)), nth=dice.choice((1, 1, 2, 3)), args=args)]
    rules = [_signal(dice, command)]
    if dice.random() < 0.3:
        rules.append(_fault(dice, NETWORK, command, planted, node=dice.randrange(nodes)))
    return rules


def _used(command: Command) -> tuple[str, ...]:
    """Return the operations that a command is likely to ask for."""
    if command.verb in USED:
        return USED[command.verb]
    up, down = split(command.sources[0])[0] == LOCAL, split(command.target)[0] == LOCAL
    ops = LISTS if command.verb == "sync" or not up else ()
    copied = ("GetObject", "PutObject") if command.has("other") else ("CopyObject",)
    ops += ("PutObject", *WRITES[2:]) if up else ("GetObject",) if down else copied
    return (*ops, "HeadObject", "DeleteObjects", "DeleteObject") if command.verb == "mv" else ops


def _fault(
    dice: random.Random, table: tuple[Any, ...], command: Command, planted: list[Planted], *, node: int | None
) -> Rule:
    used = {*_used(command), "*"}
    kind, ops, choices = dice.choice([row for row in table if used & set(row[1])])
    # For what may take long on a healthy server the client waits long, so silence there has bounds of its own.
    ops = [op for op in ops if op in used and not (kind == "hang" and op in (*SLOW, "*"))] or ["HeadObject"]
    args = {name: dice.choice(values) for name, values in choices.items()}
    if kind == "throttle":
        status = dice.choice((503, 429))
        kind, args = "status", {**args, "status": status}
    if kind == "error-in-200":
        kind, args = "status", {"status": 200, "code": "InternalError"}
    if "status" in args:
        args.setdefault("code", CODES.get(args["status"], ""))
    keys = [each.place[1] for each in planted if each.place[0] != LOCAL]
    key = dice.choice(keys) if keys and dice.random() < 0.25 else None
    key = None if ops[0].startswith("List") else key
    times = dice.choice((1, 1, 1, 2, 0 if node is not None or table is LIARS else 3))
    if kind in ("refuse", "freeze"):
        times = 1
    nth = 1 if node is not None and times == 0 else dice.choice((1, 1, 1, 2, 3, 5))
    return Rule(kind, dice.choice(ops), key, node, nth, times, args)


def _signal(dice: random.Random, command: Command) -> Rule:
    args = {"name": dice.choice(SIGNALS), "late": dice.random() < 0.5}
    op = dice.choice((*_used(command), "*", "*"))
    return Rule(
        "signal", op, nth=dice.choice((1, 2, 3, 4, 6, 9)) if op == "*" else dice.choice((1, 1, 2, 3)), args=args
    )


def _writer(dice: random.Random, command: Command, planted: list[Planted], label: Callable[[], str]) -> Rule | None:
    """Return another client that changes one name just when it is used: what was read is proven to be old."""
    if command.verb not in ("cp", "mv", "sync") or command.has("--dry-run"):
        return None
    begin = begin_of(command, command.sources[0])
    ours = [each for each in planted if each.place[0] == begin[0] and each.place[1].startswith(begin[1])]
    if not ours:
        return None
    each = dice.choice(ours)
    target = _target_of(command, each.place)
    upload = each.place[0] == LOCAL
    inside = target[0] != LOCAL and not command.has("other")
    ends = ("PutObject",) if upload else ("CopyObject",) if inside else ("GetObject",)
    what: dict[str, Any] = {"label": label(), "size": dice.choice((each.size, 33)), "keep_mtime": dice.random() < 0.5}
    scene = dice.choice(("source", "source", "source-gone", "target", "target-gone"))
    if scene.startswith("target") and ends[0] == "GetObject":
        scene = "source"
    place = each.place if scene.startswith("source") else target
    if scene.endswith("gone"):
        what = {"label": ""}
    key = target[1] if ends[0] in ("PutObject", "CopyObject") else each.place[1]
    return Rule("writer", ends[0], key, args={"place": list(place), "late": scene != "source-gone", **what})


def _target_of(command: Command, place: Place) -> Place:
    """Return where a source will probably go; a wrong guess is only trouble that does not come."""
    bucket, key = split(command.target)
    source = split(command.sources[0])
    if command.has("-r") or command.verb == "sync":
        relative = place[1][len(tree_prefix(source[1])) :]
    else:
        relative = place[1].rpartition("/")[2]
    if bucket == LOCAL:
        return LOCAL, f"{key}/{relative}"
    alone = len(command.sources) == 1 and key and not key.endswith("/")
    single = alone and not command.has("-r") and command.verb != "sync"
    return bucket, key if single else tree_prefix(key) + relative

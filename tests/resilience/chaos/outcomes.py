"""The table of what each destructive command does in each fault: ``python -m tests.resilience.chaos.outcomes``."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.resilience.chaos.backends import FakeBackend
from tests.resilience.chaos.effects import Command
from tests.resilience.chaos.engine import Engine
from tests.resilience.chaos.faults import Rule
from tests.resilience.chaos.oracle import Case, Violation
from tests.resilience.chaos.programs import Program, Step
from tests.resilience.chaos.worlds import LOCAL, Place, Planted

TABLE = Path(__file__).parent / "OUTCOMES.md"
HEAD = """\
# What destructive commands do in faults

Measured by `make chaos-outcomes` on three nodes; the tests demand that exit code and state stay these.
*done*: what was promised is so. *kept*: nothing changed. *copied*: the targets are there, and the sources stay.
*part*: some of it was done, each name as a whole. A message is the first error, without names and addresses.

| fault | command | exit | state | message |
|---|---|---|---|---|
"""
UP = (Planted((LOCAL, "d/x"), "c1", 100), Planted((LOCAL, "d/y"), "c2", 2000))
STORED = (Planted(("b1", "p/x"), "c1", 100), Planted(("b1", "p/y"), "c2", 2000), Planted(("b1", "p2/z"), "c3", 7))
EXTRA = (Planted(("b2", "t/old"), "c4", 50),)
COMMANDS: dict[str, tuple[tuple[Planted, ...], Command]] = {
    "mv, upload": (UP, Command("mv", ("d",), "s3/b2/t", ("-r", "--json"))),
    "mv, download": (STORED, Command("mv", ("s3/b1/p",), "got", ("-r", "--json"))),
    "mv in S3": (STORED, Command("mv", ("s3/b1/p",), "s3/b2/t", ("-r", "--json"))),
    "mv from another pool": (
        tuple(Planted(("other:b1", each.place[1]), each.label, each.size) for each in STORED),
        Command("mv", ("s3/b1/p",), "s3/b2/t", ("-r", "--json", "--source-profile", "other")),
    ),
    "sync --delete": ((*UP, *EXTRA), Command("sync", ("d",), "s3/b2/t", ("--delete", "--json"))),
    "rm -r": (STORED, Command("rm", ("s3/b1/p/",), "", ("-r", "--force", "--json"))),
    "find --delete": (STORED, Command("find", ("s3/b1/p/",), "", ("--delete", "--json"))),
    "rb --force": (STORED, Command("rb", ("s3/b1",), "", ("--force", "--json"))),
}
WRITES = ("PutObject", "CopyObject")
KILLED = "killed at the first write or delete"


def _on(kind: str, *ops: str, times: int = 0, node: int | None = None, **args: Any) -> tuple[Rule, ...]:
    return tuple(Rule(kind, op, node=node, times=times, args=args) for op in ops)


def _other_client(where: str) -> tuple[Rule, ...]:
    """Return another client that changes p/x or the target's x just after it was read or written."""
    args: dict[str, Any] = {"late": True, "label": "w1", "size": 100, "keep_mtime": True}
    if where == "target":
        args = {"late": True, "label": "", "place": ["b2", "t/x"]}
        return tuple(Rule("writer", op, "t/x", args=args) for op in WRITES)
    return (
        Rule("writer", "PutObject", "t/x", args={**args, "place": [LOCAL, "d/x"]}),
        Rule("writer", "GetObject", "p/x", args={**args, "place": ["b1", "p/x"]}),
        Rule("writer", "CopyObject", "t/x", args={**args, "place": ["b1", "p/x"]}),
    )


FAULTS: dict[str, tuple[Rule, ...]] = {
    "none": (),
    "one node refuses connections": (Rule("refuse", node=0, times=0),),
    "one node answers 503": _on("status", "*", node=0, status=503, code="SlowDown"),
    "all nodes answer 500 to lists": _on("status", "ListObjectsV2", status=500, code="InternalError"),
    "lists are cut in the middle": _on("truncated-xml", "ListObjectsV2"),
    "lists ignore the prefix": _on("ignore-parameter", "ListObjectsV2", name="prefix"),
    "lists come backwards": _on("unsorted", "ListObjectsV2"),
    "bodies are cut once": _on("cut-body", "GetObject", times=1, share=0.5),
    "a byte flips in every body": _on("flip-response", "GetObject", share=0.5),
    "bodies come compressed": _on("compressed", "GetObject"),
    "a web page comes instead of objects": _on("html-instead", "GetObject"),
    "a web page answers writes": _on("html-instead", *WRITES),
    "writes are answered without an ETag": _on("no-etag", *WRITES),
    "writes are answered with a false ETag": _on("false-etag", *WRITES),
    "writes are refused with 403": _on("status", *WRITES, status=403, code="AccessDenied"),
    "deletes are refused with 403": _on("status", "DeleteObject", "DeleteObjects", status=403, code="AccessDenied"),
    "deletes are answered 500, and done": _on("status-after", "DeleteObject", status=500, code="InternalError"),
    "a batch of deletes fails for a key of another name": _on("misnamed-error", "DeleteObjects"),
    "another client writes the source meanwhile": _other_client("source"),
    "another client deletes the target meanwhile": _other_client("target"),
    KILLED: tuple(Rule("signal", op, args={"name": "KILL"}) for op in (*WRITES, "GetObject", "DeleteObjects")),
}


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    fault: str
    command: str
    code: str
    state: str
    message: str
    violations: tuple[Violation, ...] = ()

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return what a test compares: everything but the message."""
        return self.fault, self.command, self.code, self.state

    def row(self) -> str:
        """Return the row in Markdown."""
        return f"| {self.fault} | {self.command} | {self.code} | {self.state} | {self.message} |"


def measure(backend: FakeBackend, root: Path, faults: Iterable[str] = FAULTS) -> Iterator[Outcome]:
    """Yield the outcome of every command in each of the faults that it meets."""
    engine = Engine(backend, root)
    try:
        for fault in faults:
            for name, (planted, command) in COMMANDS.items():
                rules = tuple(_aimed(rule, command) for rule in FAULTS[fault])
                step = Step(planted, command, rules, rerun=False)
                report = engine.run(Program(1, {"b1": False, "b2": False}, 0, False, (step,)))
                if report.hits or not rules:
                    violations = tuple(violation for _, _, violation in report.violations)
                    yield _outcome(fault, name, report.cases[0], violations)
    finally:
        engine.close()


def _aimed(rule: Rule, command: Command) -> Rule:
    """Let the other client write where the source is."""
    place = rule.args.get("place")
    if place is None or place[0] != "b1" or not command.has("other"):
        return rule
    return replace(rule, args={**rule.args, "place": ["other:b1", place[1]]})


def _outcome(fault: str, command: str, case: Case, violations: tuple[Violation, ...]) -> Outcome:
    code = case.run.code
    shown = "killed" if code == -9 else str(code)
    return Outcome(fault, command, shown, _state(case), _message(case), violations)


def _state(case: Case) -> str:
    wanted = case.expected.wanted

    def done(place: Place) -> bool:
        return case.after.digests.get(place) in wanted[place]

    if all(done(place) for place in wanted) and case.expected.unmade <= case.before.buckets - case.after.buckets:
        return "done"
    if case.after.digests == case.before.digests:
        return "kept"
    sources = {source for source, _ in case.expected.moves}
    if sources and all(done(place) for place in wanted.keys() - sources) and sources <= case.after.digests.keys():
        return "copied"
    return "part"


def _message(case: Case) -> str:
    for line in case.run.err.splitlines():
        if line.startswith('{"type":"error"'):
            text = str(json.loads(line)["message"])
            text = re.sub(r"\(request [^)]*\)|https?://[\w.:]+|got/[.\w-]*|d/\w|s3/[\w/.]+", "…", text)
            return re.sub(r"\d{2,}|[0-9a-f]{32}", "N", text).replace("|", "/")[:140]
    return ""


def read_table() -> list[tuple[str, ...]]:
    """Return the committed rows, without their messages."""
    rows = TABLE.read_text().split("|---|\n", 1)[1].splitlines()
    return [tuple(cell.strip() for cell in row.split("|")[1:5]) for row in rows if row]


def main() -> None:
    """Measure, and write the table."""
    backend = FakeBackend()
    with tempfile.TemporaryDirectory(prefix="s3pool-outcomes-") as root:
        rows = list(measure(backend, Path(root)))
    backend.stop()
    TABLE.write_text(HEAD + "".join(f"{outcome.row()}\n" for outcome in rows))
    for outcome in rows:
        for violation in outcome.violations:
            print(f"{outcome.fault}, {outcome.command}: {violation}")


if __name__ == "__main__":
    main()

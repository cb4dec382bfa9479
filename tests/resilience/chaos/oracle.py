"""What must hold after a command, whatever went wrong: each broken rule is one Violation."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.resilience.chaos.effects import Command, Expectation, begin_of, split
from tests.resilience.chaos.runner import Run
from tests.resilience.chaos.worlds import LOCAL, Contents, Digest, Place, State

DOCUMENTED = {0, 1, 2, 3, 4, 5, 6, 75, 130, 141, 143}
TRACEBACK = re.compile(r"Traceback \(most recent call last\)|Exception in thread|Exception ignored in")
PROBE = re.compile(r"/\.s3pool-[0-9a-f]{16}\.probe\Z")
# Names of Python's own errors: what only a bug would show to a user.
INTERNAL = re.compile(
    r"\b(?:ValueError|TypeError|KeyError|AttributeError|IndexError|OverflowError|AssertionError|RuntimeError|"
    r"UnboundLocalError|UnicodeDecodeError|UnicodeEncodeError|RecursionError|StopIteration)\b"
)


@dataclass(frozen=True)
class Violation:
    """One rule that did not hold."""

    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


@dataclass
class Circumstances:
    """What went on around a command, which decides what it can promise."""

    faulted: bool = False  # some request met a fault
    must_succeed: bool = False  # the faults were of one node, and another one was well
    signalled: str = ""
    forgiving: bool = False  # a fault that no client can notice: no promise but that nothing breaks
    written: dict[Place, list[Digest | None]] = field(default_factory=dict)  # by another client meanwhile
    rival: Run | None = None  # the same command, run by another process meanwhile
    bound_s: float = 60.0

    @property
    def is_calm(self) -> bool:
        """Return whether nothing at all went on."""
        return not (self.faulted or self.signalled or self.written or self.rival)


@dataclass
class Case:
    """Everything that the oracle judges."""

    command: Command
    before: State
    after: State
    expected: Expectation
    run: Run
    around: Circumstances
    contents: Contents
    secrets: tuple[str, ...] = ()


def judge(case: Case) -> list[Violation]:
    """Return every rule that a command broke."""
    checks = (_ending, _words, _places, _buckets, _moves, _deletes_last, _report, _results, _rubbish)
    return [violation for check in checks for violation in check(case)]


def _shown(place: Place) -> str:
    return f"./{place[1]!r}" if place[0] == LOCAL else f"s3/{place[0]}/{place[1]!r}"


def _ending(case: Case) -> Iterator[Violation]:
    code, around = case.run.code, case.around
    if code is None:
        yield Violation("nothing hangs", f"still running after {around.bound_s:.0f} s")
        return
    if case.run.seconds > around.bound_s:
        yield Violation("nothing hangs", f"{case.run.seconds:.1f} s, bound {around.bound_s:.0f} s")
    if case.run.orphans:
        yield Violation("no process stays", ", ".join(case.run.orphans))
    if around.signalled == "KILL":
        if code not in DOCUMENTED and code != -9:
            yield Violation("exit code is documented", str(code))
        return
    if code not in DOCUMENTED:
        yield Violation("exit code is documented", str(code))
    if around.is_calm and code not in case.expected.codes:
        yield Violation("exit code in peace", f"{code}, expected {sorted(case.expected.codes)}")
    plain = case.expected.codes <= {0} and not (around.signalled or around.written or around.rival)
    # A write under a condition is not sent twice: the second one would meet the first. So with a new bucket.
    once = case.command.has("-n") or case.command.verb == "mb"
    if around.must_succeed and plain and code != 0 and not once:
        yield Violation("a sick node is not the user's problem", f"exit code {code}")


def _words(case: Case) -> Iterator[Violation]:
    text = case.run.err + case.run.stdout.decode("utf-8", "replace")
    if case.around.rival is not None:
        text += case.around.rival.err
        if case.around.rival.code not in DOCUMENTED:
            yield Violation("exit code is documented", f"{case.around.rival.code} of the second run")
    if found := TRACEBACK.search(text):
        yield Violation("no traceback", text[found.start() :][:600])
    for line in case.run.err.splitlines():
        if line.startswith(("s3pool: error:", '{"type":"error"')) and INTERNAL.search(line):
            yield Violation("no internal error", line[:300])
    for secret in case.secrets:
        if secret in text:
            yield Violation("no secret in output", "the secret key is in the output")


def _places(case: Case) -> Iterator[Violation]:
    expected, around = case.expected, case.around
    for place in sorted(case.before.digests.keys() | case.after.digests.keys() | expected.wanted.keys()):
        old, new = case.before.digests.get(place), case.after.digests.get(place)
        if not case.contents.knows(new):
            yield Violation("old or new, never partial", f"{_shown(place)} holds bytes that nobody wrote")
            continue
        allowed = _allowed(case, place, old)
        if allowed is None or new in allowed or _is_left_probe(case, place):
            continue
        shown = f"{_shown(place)} was {case.contents.label(old)}, is {case.contents.label(new)}"
        if place not in expected.wanted:
            yield Violation("what is not meant stays", shown)
        elif case.run.code == 0 and not around.forgiving and new in {old, *around.written.get(place, ())}:
            wanted = " or ".join(case.contents.label(each) for each in expected.wanted[place])
            yield Violation("exit 0 means the promised state", f"{shown}, promised {wanted}")
        else:
            yield Violation("old or new", shown)


def _is_left_probe(case: Case, place: Place) -> bool:
    """Return whether this is the probe of a run that was killed: the rerun in peace must remove it."""
    return case.run.code == -signal.SIGKILL and PROBE.search(place[1]) is not None


def _allowed(case: Case, place: Place, old: Digest | None) -> set[Digest | None] | None:
    """Return the contents that a place may have afterwards; None for any whole one."""
    expected, around = case.expected, case.around
    if place in expected.loose:
        return None
    below = expected.loose_below
    if below is not None and place[0] == LOCAL and (below == "." or place[1].startswith(below + "/")):
        return None
    written = around.written.get(place, [])
    if place not in expected.wanted:
        return {written[-1]} if written else {old}
    allowed = {*expected.wanted[place], *written}
    touched_by = [source for source, target in expected.copies if target == place]
    allowed |= {content for source in touched_by for content in around.written.get(source, ())}
    if any(None in around.written.get(source, ()) for source in touched_by):
        allowed.add(old)
    if case.run.code != 0 or around.forgiving:
        allowed.add(old)
    if written and None in written:
        allowed.add(None)
    return allowed


def _buckets(case: Case) -> Iterator[Violation]:
    gone = case.before.buckets - case.after.buckets
    come = case.after.buckets - case.before.buckets
    if gone - case.expected.unmade or come - case.expected.made:
        yield Violation("what is not meant stays", f"buckets gone {sorted(gone)}, come {sorted(come)}")
    done = case.expected.unmade <= gone and case.expected.made <= case.after.buckets
    if case.run.code == 0 and not done and not case.around.written:
        yield Violation("exit 0 means the promised state", f"buckets gone {sorted(gone)}, come {sorted(come)}")


def _moves(case: Case) -> Iterator[Violation]:
    """Nothing that was in the source of a move may be in neither place afterwards."""
    targets: dict[Place, list[Place]] = {}
    for source, target in case.expected.moves:
        targets.setdefault(source, []).append(target)
    for source, places in targets.items():
        if case.around.rival is not None and places[0] in case.expected.loose:
            continue  # of two sources of one target the second one's turn comes with the second run
        written = [content for content in case.around.written.get(source, ()) if content is not None]
        content = written[-1] if written else case.before.digests.get(source)
        if content is None or (not written and None in case.around.written.get(source, ())):
            continue
        found = {case.after.digests.get(place) for place in (source, *places)}
        found.update(*(case.after.versions.get(place, ()) for place in places))  # below another client's
        if content not in found:
            yield Violation("mv never loses the only copy", f"{case.contents.label(content)} of {_shown(source)}")


def _deletes_last(case: Case) -> Iterator[Violation]:
    """Return a violation where sync deleted although something was not copied."""
    if case.command.verb != "sync" or case.around.written or case.around.forgiving:
        return
    gone = [place for place in case.expected.deletes if case.after.digests.get(place) is None]
    if not gone:
        return
    for _, target in case.expected.copies:
        wanted = case.expected.wanted.get(target)
        if wanted is not None and case.after.digests.get(target) not in wanted:
            yield Violation("deletes come last", f"{_shown(gone[0])} is gone, {_shown(target)} was not copied")
            return


def _records(text: bytes) -> Iterator[dict[str, Any]]:
    for line in text.split(b"\n"):
        if line.startswith(b"{"):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            yield record


def _report(case: Case) -> Iterator[Violation]:
    """Hold the lines of --json against what is there."""
    if not case.command.has("--json") or case.command.has("--dry-run") or case.around.forgiving:
        return
    counts = {"copy": 0, "delete": 0}
    records = [*_records(case.run.stdout), *_records(case.run.stderr)]
    for record in records:
        kind = "copy" if record.get("type") == "move" else record.get("type")
        counts[kind if kind in counts else "other"] = counts.get(kind if kind in counts else "other", 0) + 1
        if kind == "copy":
            yield from _copy_line(case, str(record["source"]), str(record["target"]))
        elif kind == "delete":
            yield from _delete_line(case, str(record["url"]))
    yield from _summary(case, [record for record in records if record.get("type") == "summary"], counts)
    failed = [f"{each.get('source')} {each.get('url', '')}" for each in records if each.get("type") == "error"]
    if case.run.code == 0 and failed:
        yield Violation("the end tells the truth", f"exit code 0 after errors for {failed[:3]}")


def _copy_line(case: Case, source: str, target: str) -> Iterator[Violation]:
    end = split(target)
    if end in case.expected.loose or case.expected.loose_below is not None or source == "-":
        return
    begin = begin_of(case.command, source)
    wanted = {case.before.digests.get(begin), *case.around.written.get(begin, ())}
    wanted |= set(case.around.written.get(end, ()))
    if case.after.digests.get(end) not in wanted:
        label = case.contents.label(case.after.digests.get(end))
        yield Violation("JSON says what happened", f"a copy line for {_shown(end)}, which is {label}")


def _delete_line(case: Case, url: str) -> Iterator[Violation]:
    place = begin_of(case.command, url) if case.command.verb == "mv" else split(url)
    if place in case.after.digests and not case.around.written.get(place):
        yield Violation("JSON says what happened", f"a delete line for {_shown(place)}, which is there")


def _summary(case: Case, summaries: Iterable[dict[str, Any]], counts: dict[str, int]) -> Iterator[Violation]:
    for summary in summaries:
        if case.command.verb not in ("cp", "mv", "sync", "rm"):
            return
        told = {"copied": counts["copy"], "deleted": counts["delete"]}
        for name, count in told.items():
            if summary.get(name, count) != count and not (case.command.verb == "mv" and name == "deleted"):
                yield Violation("JSON says what happened", f"summary says {name} {summary[name]}, lines say {count}")
        if case.run.code == 0 and summary.get("failed"):
            yield Violation("the end tells the truth", f"exit code 0 with {summary['failed']} failed")


def _results(case: Case) -> Iterator[Violation]:
    expected, around = case.expected, case.around
    out = case.run.stdout
    if around.forgiving or around.written or case.run.code is None:
        return
    # What is on a pipe cannot be taken back: the exit code has to tell.
    if case.run.code == 0 and expected.output is not None and out != expected.output:
        yield Violation("exit 0 means the promised state", f"cat wrote {len(out)} of {len(expected.output)} bytes")
    if expected.listing is not None and case.command.has("--json"):
        yield from _listing(case, expected.listing, list(_records(out)))


def _listing(case: Case, wanted: set[str], records: list[dict[str, Any]]) -> Iterator[Violation]:
    if case.command.verb == "du":
        found = sum(int(record.get("objects", 0)) for record in records if record.get("type") == "usage")
        if case.run.code == 0 and found != len(wanted):
            yield Violation("a listing is whole", f"du counts {found} of {len(wanted)}")
        return
    shown = [str(record["url"]) for record in records if record.get("type") == "object"]
    if extra := set(shown) - wanted:
        yield Violation("a listing is true", f"{sorted(extra)[:3]} were not asked for")
    if case.run.code == 0 and (missing := wanted - set(shown)):
        yield Violation("a listing is whole", f"{sorted(missing)[:3]} are missing")
    if len(set(shown)) != len(shown):
        yield Violation("a listing is true", "a key is listed twice")


def _rubbish(case: Case) -> Iterator[Violation]:
    """After an end in order with success nothing of the command is left."""
    if case.run.code != 0 or case.around.signalled:
        return
    if new := set(case.after.temporary) - set(case.before.temporary):
        yield Violation("no rubbish", f"temporary files {sorted(new)}")
    if uploads := set(case.after.uploads) - set(case.before.uploads):
        yield Violation("no rubbish", f"unfinished uploads {sorted(uploads)}")


def judge_rerun(case: Case) -> list[Violation]:
    """Return what a run in peace after a run with faults broke: it must end the work and clean up."""
    found = judge(case)
    if case.run.code == 0 and case.after.temporary:
        found.append(Violation("a rerun leaves no rubbish", f"temporary files {case.after.temporary}"))
    if case.run.code == 0 and case.after.uploads:
        found.append(Violation("a rerun leaves no rubbish", f"unfinished uploads {case.after.uploads}"))
    return found

"""What each destructive command does in each fault: one table for the tests and for the manual.

``python -m tests.support.destructive`` writes the table into man/s3pool.1.inc.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from tests.support.fake_s3 import Answer, CutXml, Exchange, FakeS3, Fault, Reply

MANUAL = Path(__file__).resolve().parents[2] / "man" / "s3pool.1.inc"
BEGIN = '.\\" The next lines are written by python -m tests.support.destructive.'
END = '.\\" Here they end.'
NAMES = ("a", "b", "c")

NOTHING = "Nothing is deleted."
NOTHING_STORED = "Nothing is deleted, and nothing stored."
BUT_ONE = "All is deleted but the one that was refused."
COPIED = "All is at the target, and nothing deleted."
COPIED_BUT_ONE = "What was stored is moved; the source of what was not stays."


class Command(NamedTuple):
    """A command line, what it may destroy, and where that goes when it moves."""

    words: tuple[str, ...]
    stdin: bytes = b""
    victims: tuple[str, ...] = tuple(f"s3/b/t/{name}" for name in NAMES)
    target: str = ""


COMMANDS = {
    "rm KEY": Command(("rm", "s3/b/t/b"), victims=("s3/b/t/b",)),
    "rm KEY ...": Command(("rm", "s3/b/t/a", "s3/b/t/b", "s3/b/t/c")),
    "rm -r": Command(("rm", "-r", "--force", "s3/b/t")),
    "rm -r --versions": Command(("rm", "-r", "--versions", "--force", "s3/b/t")),
    "rm --stdin": Command(("rm", "--stdin"), b"s3/b/t/a\ns3/b/t/b\ns3/b/t/c\n"),
    "find --delete": Command(("find", "s3/b/t", "--delete")),
    "sync --delete": Command(("sync", "none", "s3/b/t", "--delete", "--allow-empty-source")),
    "rb": Command(("rb", "s3/b"), victims=("s3/b",)),
    "rb --force": Command(("rb", "--force", "s3/b")),
    "mv up": Command(("mv", "-r", "d", "s3/b/up"), victims=tuple(f"d/{name}" for name in NAMES), target="s3/b/up/"),
    "mv down": Command(("mv", "-r", "s3/b/t", "down"), target="down/"),
    "mv inside": Command(("mv", "-r", "s3/b/t", "s3/b/new"), target="s3/b/new/"),
}
DELETING = ("rm -r", "rm -r --versions", "rm --stdin", "find --delete", "sync --delete", "rb --force")
MOVING = ("mv up", "mv down", "mv inside")
FROM_S3 = ("mv down", "mv inside")


def _reply(key: str) -> Reply:
    error = f"<Error><Key>{key}</Key><VersionId>null</VersionId><Code>AccessDenied</Code><Message>no</Message></Error>"
    return Reply(200, f"<DeleteResult>{error}</DeleteResult>".encode(), {"Content-Type": "application/xml"})


class Stray(Fault):
    """A batch delete that does nothing, and names a key that was not asked for."""

    def receive(self, exchange: Exchange) -> Reply:
        """Answer now."""
        exchange.body()
        return _reply("another")


class Refusal(Fault):
    """A batch delete that leaves one key, and says so."""

    def __init__(self, fake: FakeS3) -> None:
        self.fake = fake

    def answer(self, _exchange: Exchange, _reply_before: Reply) -> Reply:
        """Name it after all were deleted, and put it back."""
        self.fake.store.add("b", "t/b", b"b")
        return _reply("t/b")


def _always(fake: FakeS3, fault: Fault, *ops: str, key: str | None = None) -> None:
    for op in ops:
        fake.fault(fault, op=op, times=0, key=key)


def _kill(fake: FakeS3) -> None:
    for node in fake.nodes:
        node.kill()


DENIED = Answer(403, "AccessDenied", "no")
EXPIRED = Answer(400, "ExpiredToken", "The provided token has expired.")
FULL = Answer(403, "QuotaExceeded", "no room")
ARCHIVED = Answer(403, "InvalidObjectState", "no")
FAULTS: dict[str, Callable[[FakeS3], object]] = {
    "deletes are denied": lambda fake: _always(fake, DENIED, "DeleteObject", "DeleteObjects", "DeleteBucket"),
    "one delete of a batch is refused": lambda fake: _always(fake, Refusal(fake), "DeleteObjects"),
    "a batch is refused for a key that was not named": lambda fake: _always(fake, Stray(), "DeleteObjects"),
    "the session token has expired": lambda fake: _always(
        fake, EXPIRED, "DeleteObject", "DeleteObjects", "DeleteBucket", "PutObject", "GetObject", "CopyObject"
    ),
    "the keys may not write": lambda fake: _always(fake, DENIED, "PutObject", "CopyObject"),
    "one object may not be read": lambda fake: [
        _always(fake, DENIED, "GetObject", key="t/b"),
        _always(fake, DENIED, "CopyObject", key="new/b"),
    ],
    "one object is archived": lambda fake: [
        _always(fake, ARCHIVED, "GetObject", key="t/b"),
        _always(fake, ARCHIVED, "CopyObject", key="new/b"),
    ],
    "the quota is used up": lambda fake: _always(fake, FULL, "PutObject", "CopyObject"),
    "listings are cut off": lambda fake: _always(
        fake, CutXml(), "ListObjectsV2", "ListObjects", "ListObjectVersions", "ListMultipartUploads"
    ),
    "no node answers": _kill,
    "the bucket is not there": lambda fake: fake.store.buckets.clear(),
    "the bucket is not empty": lambda fake: None,
    "only keys below it are there": lambda fake: [
        fake.store.add("b", "t/b/below", b"b"),
        fake.store.buckets["b"].remove("t/b", "null"),
    ],
}


class Case(NamedTuple):
    """A command in a fault: its exit code, a part of its message, and what is there afterwards."""

    command: str
    fault: str
    code: int
    message: str
    state: str


def _cases() -> Iterable[Case]:
    for command in ("rm KEY", "rm KEY ...", *DELETING):
        yield Case(command, "deletes are denied", 4, "403 AccessDenied", NOTHING)
        yield Case(command, "the session token has expired", 4, "400 ExpiredToken", NOTHING)
        yield Case(command, "no node answers", 5, "no endpoint gave an answer", NOTHING)
        yield Case(command, "the bucket is not there", 3, "404 NoSuchBucket", NOTHING)
    for command in DELETING:
        yield Case(command, "one delete of a batch is refused", 1, "403 AccessDenied", BUT_ONE)
        yield Case(command, "a batch is refused for a key that was not named", 4, "403 AccessDenied", NOTHING)
    for command in ("rm -r", "rm -r --versions", "find --delete", "sync --delete", "rb --force"):
        yield Case(command, "listings are cut off", 5, "no endpoint gave a usable answer", NOTHING)
    yield Case("rm KEY", "only keys below it are there", 3, "there are keys below it: -r deletes them", NOTHING)
    yield Case("rb", "the bucket is not empty", 1, "409 BucketNotEmpty; use rb --force to empty it first", NOTHING)
    for command in MOVING:
        yield Case(command, "the session token has expired", 4, "400 ExpiredToken", NOTHING_STORED)
        yield Case(command, "no node answers", 5, "no endpoint gave an answer", NOTHING_STORED)
        yield Case(command, "the bucket is not there", 3, "404 NoSuchBucket", NOTHING_STORED)
    for command in ("mv up", "mv inside"):
        yield Case(command, "the keys may not write", 4, "403 AccessDenied", NOTHING_STORED)
        yield Case(command, "the quota is used up", 1, "403 QuotaExceeded", NOTHING_STORED)
    for command in FROM_S3:
        yield Case(command, "deletes are denied", 4, "403 AccessDenied", COPIED)
        yield Case(command, "one object may not be read", 1, "403 AccessDenied", COPIED_BUT_ONE)
        yield Case(command, "one object is archived", 1, "--ignore-archived", COPIED_BUT_ONE)
        yield Case(command, "listings are cut off", 5, "no endpoint gave a usable answer", NOTHING_STORED)


CASES = tuple(_cases())


def render() -> str:
    """Return the table as the manual has it: for each command its faults."""
    lines = [BEGIN]
    for command in COMMANDS:
        lines.append(f'.SS "{_roff(command)}"')
        for case in CASES:
            if case.command == command:
                message = _roff(case.message)
                lines += [".TP", f".I {_roff(case.fault)}", f"Status {case.code}: {message}.", _roff(case.state)]
    return "\n".join([*lines, END, ""])


def _roff(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def table_in(manual: str) -> str:
    """Return the table that stands in the manual's source."""
    found = re.search(f"(?ms)^{re.escape(BEGIN)}\n.*?^{re.escape(END)}\n", manual)
    return found[0] if found else ""


def main() -> None:
    """Write the table into the manual's source."""
    manual = MANUAL.read_text()
    MANUAL.write_text(manual.replace(table_in(manual), render()))


if __name__ == "__main__":
    main()

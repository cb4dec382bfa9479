"""What random programs found, each as the smallest program that showed it: none may show it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.resilience.chaos.backends import FakeBackend
from tests.resilience.chaos.effects import Command
from tests.resilience.chaos.engine import Engine
from tests.resilience.chaos.faults import Rule
from tests.resilience.chaos.programs import Program, Step
from tests.resilience.chaos.worlds import LOCAL, Planted


def _writer(op: str, key: str, place: tuple[str, str], *, label: str = "w1", size: int = 100) -> Rule:
    args: dict[str, Any] = {"place": list(place), "late": True, "label": label, "size": size, "keep_mtime": True}
    return Rule("writer", op, key, args=args)


def _file(name: str, label: str, size: int = 100, age_s: float = 0.0) -> Planted:
    return Planted((LOCAL, name), label, size, age_s)


def _object(key: str, label: str, size: int = 100, bucket: str = "b1") -> Planted:
    return Planted((bucket, key), label, size)


FOUND: dict[str, Step] = {
    "mv unlinked a file that had taken the place of the one it sent": Step(
        (_file("d1/x", "c1"),),
        Command("mv", ("d1/x",), "s3/b1/p/x", ("--json",)),
        (_writer("PutObject", "p/x", (LOCAL, "d1/x")),),
    ),
    "mv unlinked a file whose copy another client had deleted": Step(
        (_file("d1/x", "c1"),),
        Command("mv", ("d1/x",), "s3/b1/p/x", ("--json",)),
        (_writer("PutObject", "p/x", ("b1", "p/x"), label=""),),
    ),
    "mv deleted an object that was written after it had been read": Step(
        (_object("p/x", "c1"),),
        Command("mv", ("s3/b1/p/x",), "got", ("--json",)),
        (_writer("GetObject", "p/x", ("b1", "p/x")),),
    ),
    "mv inside S3 deleted an object that was written after it had been copied": Step(
        (_object("p/x", "c1"),),
        Command("mv", ("s3/b1/p/x",), "s3/b2/q", ("--json",)),
        (_writer("CopyObject", "q", ("b1", "p/x")),),
    ),
    "cp wrote two files to one key": Step(
        (_file("d1/x", "c1"), _file("d2/x", "c2")), Command("cp", ("d1", "d2"), "s3/b1/m/", ("-r", "--json"))
    ),
    "mv of two trees left one of two objects of one name": Step(
        (_object("p/x", "c1"), _object("q/x", "c2")), Command("mv", ("s3/b1/p", "s3/b1/q"), "got", ("-r", "--json"))
    ),
    "mv of two trees of another pool left one of two objects of one name": Step(
        (Planted(("other:b1", "p/x"), "c1", 100), Planted(("other:b1", "q/x"), "c2", 100)),
        Command("mv", ("s3/b1/p", "s3/b1/q"), "s3/b2/m", ("-r", "--json", "--source-profile", "other")),
    ),
    "sync took a file for equal that had the size and the time of the object": Step(
        (_file("d1/x", "c1"), _object("p/x", "c2")), Command("sync", ("d1",), "s3/b1/p", ("--json",))
    ),
    "sync inside S3 took an object for equal that had the size and the time": Step(
        (_object("p/x", "c1"), _object("q/x", "c2")), Command("sync", ("s3/b1/p",), "s3/b1/q", ("--json",))
    ),
    "cat wrote what a proxy had compressed, and ended with 0": Step(
        (_object("p/x", "c1", 4096),), Command("cat", ("s3/b1/p/x",)), (Rule("compressed", "GetObject", times=0),)
    ),
    "mv from a bucket with versions took an object of this second for its own copy": Step(
        (_object("p/x", "c1"), _object("p/y", "c2", 65_536)), Command("mv", ("s3/b1/p",), "s3/b2/m", ("-r", "--json"))
    ),
    "find --delete deleted what another prefix holds": Step(
        (_object("p/x", "c1"), _object("p2/x", "c2")),
        Command("find", ("s3/b1/p/",), "", ("--delete",)),
        (Rule("ignore-parameter", "ListObjectsV2", times=0, args={"name": "prefix"}),),
    ),
    "mv -u did not repeat the copy of an object of this second": Step(
        (_object("p/x", "c1"),), Command("mv", ("s3/b1/p/x",), "s3/b2/m/y", ("-u", "--json"))
    ),
    "mv -u from another pool did not repeat the copy of an object of this second": Step(
        (Planted(("other:b1", "p/x"), "c1", 100),),
        Command("mv", ("s3/b1/p/x",), "s3/b2/m/y", ("-u", "--json", "--source-profile", "other")),
    ),
    "sync left out a user's file that is called like a temporary one": Step(
        (_file("d1/.s3pool-notes.part", "c1"),), Command("sync", ("d1",), "s3/b1/p", ("--json",))
    ),
}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Return an engine on a store of its own."""
    backend = FakeBackend()
    made = Engine(backend, tmp_path)
    yield made
    made.close()
    backend.stop()


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found_is_mended(engine: Engine, found: str) -> None:
    """A violation that was mended once stays mended."""
    report = engine.run(Program(1, {"b1": "versions" in found, "b2": False}, 0, False, (FOUND[found],)))

    assert [] == report.violations, report.text()

"""A node that freezes in the middle of a command: connections stay, and no byte comes back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.resilience.chaos.backends import FakeBackend
from tests.resilience.chaos.faults import Rule
from tests.resilience.chaos.runner import Runner
from tests.resilience.chaos.worlds import MIB, State

FILES = 300
LARGE_BYTES = 60 * MIB
GRACE_S = 10.0  # that a frozen node may cost
BOUND_S = 100.0
# What is run, the operation at which the node freezes, and how many of them were before.
CASES = {
    "many files up": (("cp", "-r", "--json", "many", "s3/b1/up"), "PutObject", 150),
    "many files down": (("cp", "-r", "--json", "s3/b1/many", "down"), "GetObject", 150),
    "many objects inside": (("cp", "-r", "--json", "s3/b1/many", "s3/b2/in"), "CopyObject", 150),
    "one large file up": (("cp", "--json", "--part-size", "5M", "large", "s3/b1/large"), "UploadPart", 6),
    "one large file down": (("cp", "--json", "--part-size", "5M", "s3/b1/huge", "huge"), "GetObject", 4),
    "a tree removed": (("rm", "-r", "--force", "--json", "s3/b1/many/"), "DeleteObjects", 1),
    "a tree synced": (("sync", "--json", "many", "s3/b1/sync"), "PutObject", 150),
    "a tree moved": (("mv", "-r", "--json", "s3/b1/many", "s3/b2/in"), "CopyObject", 100),
}


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    """Return a store with many small objects and a large one."""
    made = FakeBackend()
    made.reset({"b1": False, "b2": False})
    for number in range(FILES):
        made.put("b1", f"many/{number:03d}", b"%d" % number)
    made.put("b1", "huge", b"h" * LARGE_BYTES)
    yield made
    made.stop()


@pytest.fixture
def runner(tmp_path: Path, backend: FakeBackend) -> Iterator[Runner]:
    """Return a runner with the settings of a user who set nothing, and files to send."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    (work / "many").mkdir(parents=True)
    for number in range(FILES):
        (work / "many" / f"{number:03d}").write_bytes(b"%d" % number)
    (work / "large").write_bytes(b"l" * LARGE_BYTES)
    made = Runner(home, work, backend.environment)
    yield made
    made.stop()


@pytest.mark.parametrize("case", CASES)
def test_a_node_that_freezes_costs_seconds(backend: FakeBackend, runner: Runner, tmp_path: Path, case: str) -> None:
    """Waiting for one node's answer until a timeout of a minute would stop everybody."""
    words, op, nth = CASES[case]
    before = State()
    backend.read(before)
    started = time.monotonic()
    assert 0 == runner(words, bound_s=BOUND_S).code
    healthy = time.monotonic() - started
    _undo(backend, before, tmp_path / "work")
    backend.plan.begin([Rule("freeze", op, nth=nth, args={"seconds": 0})], {})

    run = runner(words, bound_s=BOUND_S)

    backend.calm()
    assert [] != backend.plan.hits
    assert 0 == run.code, run.err
    assert run.seconds < healthy + GRACE_S


def _undo(backend: FakeBackend, before: State, work: Path) -> None:
    """Have the objects of before again, and nothing else in the store and on disk."""
    after = State()
    backend.read(after)
    for bucket, key in after.digests.keys() - before.digests.keys():
        backend.delete(bucket, key)
    for bucket, key in before.digests.keys() - after.digests.keys():
        backend.put(bucket, key, str(int(key.rpartition("/")[2])).encode())
    shutil.rmtree(work / "down", ignore_errors=True)
    (work / "huge").unlink(missing_ok=True)

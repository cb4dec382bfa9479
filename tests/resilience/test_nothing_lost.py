"""Kill -9 at random moments: what was there stays whole, and the next run completes the rest."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.proof import Judge, attempts, digest_of, digests_of, plant
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner
from tests.support.scale import FULL, sized

MIB = 1 << 20
KILLS = sized(2, 20)
MAX_ROUNDS = 5  # for each kill
WORKERS = 4
PART_BYTES = 5 * MIB
SINGLE_BYTES = 256 * MIB + 1
LARGE_PLACE = "/large/"
LARGE = {f"large/{number}": 16 * MIB + number for number in range(3)}
SIZES = {**LARGE, **{f"d{number % 3}/small-{number:02d}": 40_000 + number for number in range(24)}}
PARTS = sum(-(-size // PART_BYTES) for size in LARGE.values())
FLAGS = ("--workers", str(WORKERS), "--part-size", "5M", "--log-level", "debug")
OLD_NAMES = ("large/0", "large/1", "d0/small-00", "d1/small-01", "d2/small-02")

Digests = dict[str, str]


@pytest.fixture
def judge(rgw: RgwCluster, run_cli: CliRunner, bucket_name: str) -> Iterator[Judge]:
    """Give a bucket of its own, seen by another client."""
    run_cli.environ.update(rgw.environment)
    assert 0 == run_cli("mb", f"s3/{bucket_name}").code
    yield Judge(rgw, bucket_name)
    run_cli("rb", "--force", f"s3/{bucket_name}")


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Give the new files, and older ones by some of their names."""
    new = plant(tmp_path / "new", SIZES, seed=1)
    old = plant(tmp_path / "old", {name: min(SIZES[name] // 2, MIB) for name in OLD_NAMES}, seed=2)
    return new, old


class Killer:
    """Runs a command, kills it at a random moment of its usual time, and runs it again to its end."""

    def __init__(self, run_cli: CliRunner, log: Path) -> None:
        self._run_cli = run_cli
        self._log = log
        self._random = random.Random(42)
        self.usual_s = 0.0
        self.kills = 0

    def rounds(self) -> Iterator[int]:
        """Count until enough runs were killed: one may end before its moment comes."""
        for number in range(KILLS * MAX_ROUNDS):
            yield number
            if self.kills == KILLS:
                return

    def measure(self, *words: str) -> None:
        """Run it once and remember how long it took."""
        started = time.monotonic()
        assert 0 == self._run_cli(*words, *FLAGS).code
        self.usual_s = time.monotonic() - started

    def kill(self, *words: str, meanwhile: Callable[[], None] = lambda: None) -> Counter[str]:
        """Start it and kill it; ``meanwhile`` is called over and over until then.

        Gives the requests for large objects that were answered.
        """
        with self._log.open("wb") as log:
            process = self._run_cli.start(*words, *FLAGS, stdout=subprocess.DEVNULL, stderr=log)
            moment = time.monotonic() + self._random.uniform(0.1, 0.9) * self.usual_s
            while process.poll() is None and time.monotonic() < moment:
                meanwhile()
            self.kills += process.poll() is None
            process.kill()
            process.wait()
        return attempts(self._log.read_bytes(), LARGE_PLACE)

    def rerun(self, *words: str) -> Counter[str]:
        """Run it to its end; give the requests for large objects."""
        result = self._run_cli(*words, *FLAGS)
        assert 0 == result.code, result.err[-2000:]
        return attempts(result.stderr, LARGE_PLACE)


@pytest.fixture
def killer(run_cli: CliRunner, tmp_path: Path) -> Killer:
    """Give a killer of commands."""
    return Killer(run_cli, tmp_path / "killed.log")


def check_whole(found: Digests, old: Digests, new: Digests) -> None:
    """See to it that every name that was there is there, old or new as a whole, and nothing else is."""
    assert set(old) <= set(found)
    assert [] == [name for name, digest in found.items() if digest not in (old.get(name), new.get(name))]


@pytest.mark.live
@pytest.mark.parametrize("command", [("cp", "-r"), ("sync",)], ids=["cp", "sync"])
def test_uploads_survive_kill_9(
    judge: Judge, killer: Killer, trees: tuple[Path, Path], bucket_name: str, command: tuple[str, ...]
) -> None:
    """No object is ever a piece, no part that is stored is sent again, no upload is left open."""
    new, old = digests_of(trees[0]), digests_of(trees[1])
    words = (*command, str(trees[0]), f"s3/{bucket_name}/p")
    killer.measure(*words)
    for number in killer.rounds():
        prefix = f"p{number}/"
        for name in old:
            judge.put(prefix + name, (trees[1] / name).read_bytes())
        words = (*command, str(trees[0]), f"s3/{bucket_name}/p{number}")

        before = killer.kill(*words, meanwhile=lambda: check_one(judge, prefix, old, new))  # noqa: B023
        check_whole(judge.digests(prefix), old, new)
        after = killer.rerun(*words)

        assert new == judge.digests(prefix)
        assert [] == judge.uploads()
        # cp sends what is whole once more; a part is another matter.
        assert command[0] == "cp" or before["UploadPart"] + after["UploadPart"] <= PARTS + WORKERS
        judge.delete(prefix)
    assert KILLS == killer.kills


def check_one(judge: Judge, prefix: str, old: Digests, new: Digests) -> None:
    """Read one of the old objects while it may be replaced."""
    name = random.choice(OLD_NAMES)
    assert judge.digest(prefix + name) in (old[name], new[name])


@pytest.mark.live
@pytest.mark.parametrize("command", [("cp", "-r"), ("sync",)], ids=["cp", "sync"])
def test_downloads_survive_kill_9(
    judge: Judge,
    killer: Killer,
    run_cli: CliRunner,
    trees: tuple[Path, Path],
    tmp_path: Path,
    bucket_name: str,
    command: tuple[str, ...],
) -> None:
    """Every file is old or new as a whole at any moment, and no temporary one is left."""
    new, old = digests_of(trees[0]), digests_of(trees[1])
    assert 0 == run_cli("cp", "-r", str(trees[0]), f"s3/{bucket_name}/p", "--part-size", "5M").code
    killer.measure(*command, f"s3/{bucket_name}/p", str(tmp_path / "measured"))
    for number in killer.rounds():
        target = tmp_path / f"down-{number}"
        shutil.copytree(trees[1], target)
        words = (*command, f"s3/{bucket_name}/p", str(target))

        before = killer.kill(*words, meanwhile=lambda: check_whole(visible(target), old, new))  # noqa: B023
        check_whole(visible(target), old, new)
        after = killer.rerun(*words)

        assert new == digests_of(target)
        assert command[0] == "cp" or before["GetObject"] + after["GetObject"] <= PARTS + WORKERS
        shutil.rmtree(target)
    assert KILLS == killer.kills


@pytest.mark.live
@pytest.mark.skipif(not FULL, reason="S3POOL_FULL_SIZE=1 asks for it; test_sync_resume has it small")
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_copy_of_one_file_repeats_a_part_per_worker_at_most(
    judge: Judge, killer: Killer, run_cli: CliRunner, tmp_path: Path, bucket_name: str, direction: str
) -> None:
    """What was stored, on either side, does not go over the network once more."""
    source = plant(tmp_path, {"large/one": SINGLE_BYTES}, seed=3) / "large" / "one"
    place, digest = f"s3/{bucket_name}/", digest_of(source)
    assert 0 == run_cli("cp", str(source), f"{place}large/one").code
    op = "UploadPart" if direction == "up" else "GetObject"
    killer.measure("cp", *single(direction, source, place, "measured"))
    for number in killer.rounds():
        words = ("cp", *single(direction, source, place, f"target-{number}"))

        before = killer.kill(*words)
        was_whole = is_there(judge, words[-1], place)
        after = killer.rerun(*words)

        assert digest == (judge.digest(words[-1][len(place) :]) if direction == "up" else digest_of(Path(words[-1])))
        assert [] == judge.uploads()
        # A copy that is whole is made once more; a part is another matter.
        assert was_whole or before[op] + after[op] <= -(-SINGLE_BYTES // PART_BYTES) + WORKERS
    assert KILLS == killer.kills


def single(direction: str, source: Path, place: str, name: str) -> tuple[str, str]:
    """Give the operands of a copy of the one file; a name in S3 is in a directory that is looked for in logs."""
    if direction == "up":
        return str(source), f"{place}large/{name}"
    return f"{place}large/one", str(source.parent / name)


def is_there(judge: Judge, target: str, place: str) -> bool:
    """Say whether a copy was made before the kill."""
    return target[len(place) :] in judge.keys("") if target.startswith(place) else Path(target).exists()


def visible(root: Path) -> Digests:
    """Give the digests of the files that are no temporary ones."""
    paths = (path for path in root.rglob("*") if not path.name.startswith(".s3pool-") and path.is_file())
    return {str(path.relative_to(root)): digest_of(path) for path in paths}

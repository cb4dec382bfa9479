"""Whole trees on real nodes: up, down, twice, with deletions, and while a node dies."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.real_servers import Deployment
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

FILES = int(os.environ.get("S3POOL_TREE_FILES", "2000"))
SIZES = (0, 1, 100, 4096, 4096, 4096, 20_000, 70_000)
LARGE = (6 << 20, 17 << 20)  # in parts, and in ranges

pytestmark = pytest.mark.live


@pytest.fixture
def bucket(rgw: RgwCluster | Deployment, run_cli: CliRunner, bucket_name: str) -> Iterator[str]:
    """Return a bucket of its own, which goes with the test."""
    run_cli.environ.update(rgw.environment)
    assert run_cli("mb", bucket_name).code == 0
    yield bucket_name
    run_cli("rb", "--force", "--yes", bucket_name)


def grow(top: Path, count: int) -> dict[str, bytes]:
    """Make files of mixed sizes in directories of mixed depth, and return what is in them."""
    dice = random.Random(19)
    made = {}
    for number in range(count):
        name = "/".join([*(f"d{dice.randrange(6)}" for _ in range(dice.randrange(4))), f"f{number} é+&.bin"])
        made[name] = dice.randbytes(LARGE[number] if number < len(LARGE) else dice.choice(SIZES))
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made[name])
    return made


def tree_of(top: Path) -> dict[str, bytes]:
    """Return what the files of a directory hold."""
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def test_a_tree_is_the_same_up_and_down_and_only_once(run_cli: CliRunner, bucket: str) -> None:
    """The second run copies nothing, and a deletion takes what is gone and nothing else."""
    made = grow(run_cli.home / "up", 60)
    remote = f"s3/{bucket}/p"
    copied = [run_cli("sync", "--json", "up", remote).records[-1]["copied"] for _ in range(2)]
    copied += [run_cli("sync", "--json", remote, "down").records[-1]["copied"] for _ in range(2)]
    assert (copied, tree_of(run_cli.home / "down")) == ([60, 0, 60, 0], made)

    gone = sorted(made)[::7]
    for name in gone:
        (run_cli.home / "up" / name).unlink()
    for source, target in (("up", remote), (remote, "down")):
        told = run_cli("sync", "--delete", "--json", source, target).records[-1]
        assert (told["copied"], told["deleted"], told["failed"]) == (0, len(gone), 0), (source, told)
    assert tree_of(run_cli.home / "down") == {name: body for name, body in made.items() if name not in gone}


def test_a_tree_is_whole_though_a_node_dies_on_the_way(
    rgw: RgwCluster | Deployment, run_cli: CliRunner, bucket: str
) -> None:
    """Two thousand mixed files each way: each is there, none is half, and the command ends well."""
    if not rgw.owned:
        pytest.skip("the cluster is shared with others")
    made = grow(run_cli.home / "up", FILES)
    for index, (source, target) in enumerate((("up", f"s3/{bucket}/p"), (f"s3/{bucket}/p", "down"))):
        process = run_cli.start("cp", "-r", "--progress", "none", source, target)
        assert process.stdout is not None
        for _ in range(FILES // 2):
            assert process.stdout.readline()
        rgw.kill(index)
        _, err = process.communicate()
        assert process.returncode == 0, err[-2000:]
        rgw.start(index)
    assert tree_of(run_cli.home / "down") == made
    assert len(run_cli("ls", "-r", f"s3/{bucket}/p").lines) == FILES

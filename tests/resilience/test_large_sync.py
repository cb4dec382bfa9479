"""A sync of very many names that need nothing: little memory, no request but listings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_s3 import ChainS3
from tests.support.run_cli import SpyRunner
from tests.support.scale import sized

FILES = sized(20_000, 1_000_000)
PER_DIRECTORY = 1000
CEILING_KIB = 150 * 1024
OLD = 1_700_000_000
COMMAND_TIMEOUT_S = sized(120, 1500)


class TreeS3(ChainS3):
    """A chain whose keys are the names of a tree of empty files."""

    def key(self, number: int) -> str:
        """Give the name with a number."""
        return f"{self.prefix}{number // PER_DIRECTORY:05d}/{number % PER_DIRECTORY:05d}"

    def size(self, number: int) -> int:
        """Give nothing: the files are empty."""
        return 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give as many empty files as keys are served."""
    for number in range(0, FILES, PER_DIRECTORY):
        directory = tmp_path / "tree" / f"{number // PER_DIRECTORY:05d}"
        directory.mkdir(parents=True)
        for name in range(PER_DIRECTORY):
            path = directory / f"{name:05d}"
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
            os.utime(path, (OLD, OLD))
    return tmp_path / "tree"


@pytest.fixture
def chain() -> Iterator[TreeS3]:
    """Give two addresses that serve the tree's names."""
    with TreeS3(FILES, endpoints=2, prefix="p/") as chain:
        yield chain


def test_a_sync_of_many_names_holds_few_of_them(chain: TreeS3, tree: Path, tmp_path: Path) -> None:
    """Neither the first run, which remembers all pairs, nor the next, which compares with them."""
    runner = SpyRunner(tmp_path, chain.environment)
    words = ("sync", str(tree), "s3/chain/p", "--json")

    results = [runner.spy(*words, timeout=COMMAND_TIMEOUT_S) for _ in range(2)]

    for result, report in results:
        assert 0 == result.code, result.err
        assert (FILES, FILES, 0) == tuple(result.records[-1][what] for what in ("checked", "unchanged", "copied"))
        assert report["peak_kib"] < CEILING_KIB

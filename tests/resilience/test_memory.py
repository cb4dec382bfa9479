from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fake_s3 import ChainS3
from tests.support.run_cli import SpyRunner

FEW, MANY = 5_000, 150_000
CEILING_KIB = 60 * 1024
GROWTH_KIB = 4 * 1024  # a listing held in memory would take 40 MiB more


@pytest.mark.parametrize(
    "words",
    [("du",), ("find", "--name", "*7"), ("ls", "-r"), ("ls", "-r", "--jobs", "1"), ("du", "--jobs", "1")],
    ids=" ".join,
)
def test_memory_does_not_grow_with_the_listing(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Pages come and go; what was printed is forgotten."""
    peaks = {}
    for count in (FEW, MANY):
        with ChainS3(count, endpoints=2) as chain:
            result, report = SpyRunner(tmp_path, chain.environment).spy(words[0], "s3/chain/", *words[1:])
        assert (0, b"") == (result.code, result.stderr)
        peaks[count] = report["peak_kib"]

    assert peaks[MANY] < CEILING_KIB
    assert peaks[MANY] - peaks[FEW] < GROWTH_KIB


@pytest.mark.parametrize("verb", ["diff", "check"])
def test_memory_does_not_grow_with_the_pairs(tmp_path: Path, verb: str) -> None:
    """Two listings are read side by side, by threads that are no more than some pages ahead."""
    peaks = {}
    for count in (FEW, MANY):
        with ChainS3(count, endpoints=2) as chain:
            words = (verb, "-q", "s3/chain", "s3/chain/", "--jobs", "1")
            result, report = SpyRunner(tmp_path, chain.environment).spy(*words)
        assert (0, b"", b"") == (result.code, result.stdout, result.stderr)
        peaks[count] = report["peak_kib"]

    assert peaks[MANY] < CEILING_KIB
    assert peaks[MANY] - peaks[FEW] < GROWTH_KIB

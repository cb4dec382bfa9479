"""s3pool shards: a plan of key ranges of like size, from a few pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import FakeS3
from tests.support.run_cli import CliResult

Call = Callable[..., CliResult]
SHAPES = {
    "numbers": [f"{number:06d}" for number in range(40_000)],
    "directories": [f"d{top:03d}/f{number:03d}" for top in range(100) for number in range(400)],
    "hashes": [f"{number * 2654435761 % 2**32:08x}" for number in range(40_000)],
    "one large among small": [
        *(f"a/{number}" for number in range(99)),
        *(f"m/big/{number:06d}" for number in range(40_000)),
        *(f"z/{number}" for number in range(99)),
    ],
}


def counts_of(call: Call, plan: CliResult, tmp_path: Path, tree: str) -> list[int]:
    """Count the objects of each range of a plan."""
    (tmp_path / "plan").write_bytes(plan.out.encode() if isinstance(plan.out, str) else plan.out)
    count = len(plan.lines)
    return [
        call("du", tree, "--shard", f"{n}/{count}", "--plan", "plan", "--json").records[0]["objects"]
        for n in range(count)
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_plan_makes_shards_of_like_size(call: Call, fake: FakeS3, tmp_path: Path, shape: str) -> None:
    """None has more than one and a half times its share, and the plan takes a part of the requests of a listing."""
    for name in SHAPES[shape]:
        fake.store.add("b", f"p/{name}", b"")
    fake.requests.clear()

    plan = call("shards", "s3/b/p", "--into", "4")
    requests = len(fake.requests)
    counts = counts_of(call, plan, tmp_path, "s3/b/p")

    assert 0 == plan.code
    assert len(SHAPES[shape]) == sum(counts)
    assert max(counts) <= 1.5 * len(SHAPES[shape]) / 4
    assert requests <= 32


def test_a_plan_is_lines_of_json(call: Call, fake: FakeS3) -> None:
    """The ranges follow each other; the first is open below, the last above."""
    for number in range(3000):
        fake.store.add("b", f"p/{number:04d}", b"")

    lines = [json.loads(line) for line in call("shards", "s3/b/p/", "--into", "3").lines]

    assert [(0, 3), (1, 3), (2, 3)] == [(line["shard"], line["of"]) for line in lines]
    assert [None, lines[0]["until"], lines[1]["until"]] == [line["after"] for line in lines]
    assert lines[-1]["until"] is None
    assert {"shard"} == {line["type"] for line in lines}


def test_an_empty_target_is_divided_by_a_directory(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """The first copy of a tree is shared out as well."""
    for top in range(20):
        for number in range(100):
            path = tmp_path / "tree" / f"d{top:02d}" / f"{number:03d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    fake.store.add("b", "x", b"")

    plan = call("shards", "s3/b/p", "--into", "2", "--local", "tree")
    (tmp_path / "plan").write_text("\n".join(plan.lines))
    copied = [
        call("sync", "tree", "s3/b/p", "--shard", f"{n}/2", "--plan", "plan", "--json").records[-1]["copied"]
        for n in range(2)
    ]

    assert 2000 == sum(copied)
    assert max(copied) <= 1400


def test_an_empty_tree_is_told(call: Call, fake: FakeS3) -> None:
    """A plan of nothing gives everything to one machine: that is worth a word."""
    fake.store.add("b", "x", b"")

    result = call("shards", "s3/b/p", "--into", "4")

    assert (0, 4) == (result.code, len(result.lines))
    assert "nothing was found below s3/b/p" in result.err
    assert "--local DIR" in result.err

from __future__ import annotations

from random import Random

import pytest

from s3pool.location import name_bytes
from s3pool.model import format_iso_time
from s3pool.sync.compare import (
    COPY,
    DOWNLOAD,
    NOTHING,
    UPLOAD,
    Batch,
    Record,
    Row,
    Rules,
    decide,
    record_of,
    rows_to_note,
)

NOON = 1_780_000_000
MOMENTS = (NOON - 3, NOON, NOON + 1, NOON + 2, NOON + 3)
NANO = 10**9


def local(random: Random, names: list[str]) -> Batch:
    """Give local files with times around noon, some of them with a fraction."""
    times = [random.choice(MOMENTS) * NANO + random.choice((0, 0, 0, 5)) for _ in names]
    return Batch(names, [1] * len(names), times, below=b"/root/")


def remote(random: Random, names: list[str]) -> Batch:
    """Give objects with times around noon; now and then one has no ETag."""
    times = [format_iso_time(random.choice(MOMENTS)) for _ in names]
    etags = [random.choice(("e", "f", "e", "e" if random.random() < 0.9 else "")) for _ in names]
    return Batch(names, [1] * len(names), etags=etags, modified=times)


def record_row(random: Random, name: str, truth: Record) -> Row | None:
    """Give what a journal may hold of a pair: the truth, less, something else, or nothing."""
    kept = random.choice((truth, truth, truth, truth._replace(modified=""), truth._replace(stamp="0"), None))
    return None if kept is None else (name_bytes(name), *kept)


def sides(random: Random, direction: str, names: list[str]) -> tuple[Batch, Batch]:
    """Give the same names on both sides."""
    ours = local(random, names) if direction == UPLOAD else remote(random, names)
    return ours, local(random, names) if direction == DOWNLOAD else remote(random, names)


@pytest.mark.parametrize("direction", [UPLOAD, DOWNLOAD, COPY])
def test_blocks_are_found_in_sync_only_where_each_pair_is(direction: str) -> None:
    """The short way must never take a pair for unchanged that the long way would copy."""
    random = Random(direction)
    rules = Rules(direction)
    short_ways = 0
    for _ in range(3000):
        names = ["a", "b/ü", "c"][: random.randint(1, 3)]
        ours, theirs = sides(random, direction, names)
        pairs = [(ours.entry(place), theirs.entry(place)) for place in range(len(names))]
        truths = [record_of(*pair, direction) for pair in pairs]
        is_new = random.random() < 0.5
        rows = [None if is_new else record_row(random, *named) for named in zip(names, truths, strict=True)]

        fresh = rows_to_note(ours, theirs, rows, direction=direction)

        if fresh is None:
            continue
        records = [None if row is None else Record(*row[1:]) for row in rows]
        decisions = [decide(*pair, record, rules).act for pair, record in zip(pairs, records, strict=True)]
        lacking = [
            (name_bytes(name), *truth)
            for name, truth, record in zip(names, truths, records, strict=True)
            if record is None or not record.modified
        ]
        assert [NOTHING] * len(names) == decisions
        assert lacking == fresh
        short_ways += 1
    assert short_ways > 100


@pytest.mark.parametrize("direction", [UPLOAD, DOWNLOAD, COPY])
def test_what_nothing_has_changed_in_goes_the_short_way(direction: str) -> None:
    """A sync that has nothing to do must not take every name in hand."""
    names = ["a", "b"]
    modified = [format_iso_time(NOON)] * 2
    at = NOON - 3 if direction == UPLOAD else NOON  # a file of the object's own age is looked at
    here = Batch(names, [1, 1], [at * NANO] * 2, below=b"/root/")
    there = Batch(names, [1, 1], etags=["e", "f"], modified=modified)
    ours, theirs = {UPLOAD: (here, there), DOWNLOAD: (there, here), COPY: (there, there)}[direction]

    rows = rows_to_note(ours, theirs, [None, None], direction=direction)

    assert rows is not None
    assert [b"a", b"b"] == [row[0] for row in rows]
    assert [] == rows_to_note(ours, theirs, list(rows), direction=direction)


def test_picked_and_cut_blocks_keep_their_columns() -> None:
    """A shard or a filter takes names out; what is told of the others stays theirs."""
    block = Batch(["a", "b", "c"], [1, 2, 3], [10, 20, 30], below=b"/root/")

    picked, cut = block.pick([True, False, True]), block.cut(1, 3)

    assert [block.entry(0), block.entry(2)] == [picked.entry(0), picked.entry(1)]
    assert [block.entry(1), block.entry(2)] == [cut.entry(0), cut.entry(1)]
    assert "/root/c" == cut.entry(1).path

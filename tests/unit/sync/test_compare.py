"""What is the same on both sides: decisions for each name, and for whole batches."""

from __future__ import annotations

from random import Random

import pytest

from s3pool.location import name_bytes
from s3pool.model import format_iso_time
from s3pool.record import replace
from s3pool.sync.compare import (
    CHANGED,
    COPY,
    DOWNLOAD,
    EXISTS,
    LOOK_AT_CONTENT,
    LOOK_AT_TIMES,
    LOOK_CLOSER,
    NANO,
    NEW,
    NEWER,
    NOTHING,
    OLDER,
    OTHER_SIZE,
    OTHER_TIME,
    SAME,
    UPLOAD,
    Batch,
    Decision,
    Entry,
    Record,
    Row,
    Rules,
    decide,
    record_of,
    rows_to_note,
)

NOON = 1_700_000_000


def local(size: int = 10, *, at: float = NOON) -> Entry:
    """Give a local file."""
    return Entry("n", size, round(at * NANO), path="/n")


def remote(size: int = 10, *, at: float = NOON, etag: str = "e1") -> Entry:
    """Give an object."""
    return Entry("n", size, etag=etag, last_modified=format_iso_time(at))


UP, DOWN, ACROSS = Rules(UPLOAD), Rules(DOWNLOAD), Rules(COPY)


@pytest.mark.parametrize(("source", "rules"), [(local(), UP), (remote(), DOWN), (remote(), ACROSS)])
def test_what_the_target_does_not_have_is_new(source: Entry, rules: Rules) -> None:
    """In every direction."""
    assert NEW == decide(source, None, None, rules)


@pytest.mark.parametrize(
    ("source", "target", "rules"),
    [(local(11), remote(), UP), (remote(11), local(), DOWN), (remote(11), remote(), ACROSS)],
)
def test_another_size_is_a_difference_whatever_the_times(source: Entry, target: Entry, rules: Rules) -> None:
    """Size is the one thing that cannot lie."""
    assert OTHER_SIZE == decide(source, target, None, rules)
    assert OTHER_SIZE == decide(source, target, None, replace(rules, size_only=True))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (NOON - 1000, SAME),
        (NOON - 2.1, SAME),
        (NOON - 1.9, LOOK_CLOSER),
        (NOON, LOOK_CLOSER),
        (NOON + 1.9, LOOK_CLOSER),
        (NOON + 2.1, NEWER),
        (NOON + 1000, NEWER),
    ],
)
def test_without_a_record_a_newer_file_is_uploaded(at: float, expected: Decision) -> None:
    """Two clocks may differ by two seconds."""
    assert expected == decide(local(at=at), remote(), None, UP)


@pytest.mark.parametrize(("at", "expected"), [(NOON - 1000, SAME), (NOON + 1.9, SAME), (NOON + 2.1, NEWER)])
def test_without_a_record_a_newer_object_is_copied(at: float, expected: Decision) -> None:
    """Both times are the server's."""
    assert expected == decide(remote(at=at), remote(), None, ACROSS)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (NOON, SAME),
        (NOON + 0.25, OTHER_TIME),  # a download sets whole seconds
        (NOON - 1000, OTHER_TIME),
        (NOON + 1000, OTHER_TIME),
    ],
)
def test_without_a_record_a_download_looks_for_the_time_it_would_set(at: float, expected: Decision) -> None:
    """A file with another time was not left by a download, so nobody knows what is in it."""
    assert expected == decide(remote(at=NOON + 0.4), local(at=at), None, DOWN)


def test_a_record_that_agrees_needs_nothing_though_the_source_is_newer() -> None:
    """Who has seen the upload knows better than two clocks."""
    source, target = local(at=NOON + 1000), remote()

    assert SAME == decide(source, target, record_of(source, target, UPLOAD), UP)


@pytest.mark.parametrize(
    ("source", "target"),
    [(local(at=NOON - 5000), remote()), (local(), remote(etag="e2"))],
    ids=["an older file was put there", "somebody else wrote the object"],
)
def test_any_difference_to_the_record_is_uploaded(source: Entry, target: Entry) -> None:
    """An edit of equal size is found even when its time lies in the past."""
    assert CHANGED == decide(source, target, record_of(local(), remote(), UPLOAD), UP)


@pytest.mark.parametrize(
    ("source", "target"),
    [(remote(etag="e2"), local()), (remote(), local(at=NOON + 1)), (remote(at=NOON + 60), local())],
    ids=["new object", "edited file", "written again"],
)
def test_any_difference_to_the_record_is_downloaded(source: Entry, target: Entry) -> None:
    """Both sides are held against what the last run left."""
    assert CHANGED == decide(source, target, record_of(remote(), local(), DOWNLOAD), DOWN)


def test_a_record_of_an_upload_serves_the_download() -> None:
    """An upload does not learn the object's time, and what it left is in sync all the same."""
    left = Record(10, local().stamp, "e1")

    assert SAME == decide(remote(at=NOON + 50), local(), left, DOWN)


@pytest.mark.parametrize("source", [remote(etag="e2"), remote(at=NOON - 60)])
def test_any_difference_to_the_record_is_copied(source: Entry) -> None:
    """A source that was written again may have other metadata."""
    record = record_of(remote(), remote(etag="t"), COPY)

    assert CHANGED == decide(source, remote(etag="t"), record, ACROSS)


def test_a_listing_without_etags_falls_back_to_times() -> None:
    """A record cannot be held against nothing."""
    source, target = local(at=NOON - 5000), remote(etag="")

    assert SAME == decide(source, target, Record(10, "1", "e1"), UP)


def test_size_only_looks_at_nothing_else() -> None:
    """Even a record that differs is not asked."""
    rules = replace(UP, size_only=True)

    assert SAME == decide(local(at=NOON + 1000), remote(), Record(10, "1", "e9"), rules)


@pytest.mark.parametrize(("source", "target", "rules"), [(local(), remote(), UP), (remote(), local(), DOWN)])
def test_checksum_and_exact_timestamps_look_closer(source: Entry, target: Entry, rules: Rules) -> None:
    """What a listing tells is not enough for them; a record does not count."""
    record = record_of(source, target, rules.direction)

    assert LOOK_AT_CONTENT == decide(source, target, record, replace(rules, checksum=True))
    assert LOOK_AT_TIMES == decide(source, target, record, replace(rules, exact_timestamps=True))


def test_checksum_compares_etags_inside_s3() -> None:
    """There equal ETags are equal bytes, and no file has to be read."""
    rules = replace(ACROSS, checksum=True)
    parts = remote(etag="e2-3")

    assert SAME == decide(remote(at=NOON + 99), remote(), None, rules)
    assert CHANGED == decide(remote(), parts, None, rules)
    assert SAME == decide(remote(), parts, record_of(remote(), parts, COPY), rules)


def test_no_clobber_leaves_what_exists() -> None:
    """Whatever the difference."""
    assert EXISTS == decide(local(11), remote(), None, replace(UP, no_clobber=True))


@pytest.mark.parametrize(
    ("source", "target", "rules"),
    [
        (local(11, at=NOON - 1), remote(), UP),
        (remote(11, at=NOON - 1), local(), DOWN),
        (remote(11, at=NOON - 1), remote(), ACROSS),
        (local(at=NOON - 1), remote(), replace(UP, checksum=True)),
    ],
)
def test_update_leaves_a_newer_target(source: Entry, target: Entry, rules: Rules) -> None:
    """Who edits the target does not lose that, not even when the size differs."""
    assert OLDER == decide(source, target, None, replace(rules, update=True))


def test_update_copies_a_newer_source() -> None:
    """That is what it is for."""
    assert OTHER_SIZE == decide(local(11, at=NOON + 1), remote(), None, replace(UP, update=True))


MOMENTS = (NOON - 3, NOON, NOON + 1, NOON + 2, NOON + 3)


def local_batch(random: Random, names: list[str]) -> Batch:
    """Give local files with times around noon, some of them with a fraction."""
    times = [random.choice(MOMENTS) * NANO + random.choice((0, 0, 0, 5)) for _ in names]
    return Batch(names, [1] * len(names), times, below=b"/root/")


def remote_batch(random: Random, names: list[str]) -> Batch:
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
    ours = local_batch(random, names) if direction == UPLOAD else remote_batch(random, names)
    return ours, local_batch(random, names) if direction == DOWNLOAD else remote_batch(random, names)


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

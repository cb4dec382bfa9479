"""What du counts."""

from __future__ import annotations

from tests.cli.conftest import Call
from tests.support.fake_s3 import FakeS3, internal_error


def fill(fake: FakeS3) -> None:
    """Store a small tree."""
    for key, size in {"a": 1, "p/b": 2, "p/q/c": 4, "p/q/r/d": 8, "p2/e": 16}.items():
        fake.store.add("b", key, b"x" * size)


def test_totals(fake: FakeS3, call: Call) -> None:
    """The two lines of the first s3pool."""
    fill(fake)
    fake.store.add("b", "large", b"x" * 1500)

    assert "Total objects: 6\nTotal size: 1.50 KiB (1531)\n" == call("du", "s3/b").out
    assert "Total objects: 6\nTotal size: 1.50 KiB\n" == call("du", "-H", "s3/b").out


def test_prefix_ends_at_the_slash(fake: FakeS3, call: Call) -> None:
    """Never the neighbour; the key itself only when there is nothing below it."""
    fill(fake)
    fake.store.add("b", "p", b"x" * 1000)

    assert [{"type": "usage", "url": "s3/b/p", "objects": 3, "bytes": 14}] == call("du", "--json", "s3/b/p").records
    assert [{"type": "usage", "url": "s3/b/a", "objects": 1, "bytes": 1}] == call("du", "--json", "s3/b/a").records


def test_depth_gives_a_line_per_prefix(fake: FakeS3, call: Call) -> None:
    """Inner ones before the outer one that contains them, the operand last."""
    fill(fake)

    rows = [line.split() for line in call("du", "-d", "2", "s3/b").lines]

    assert [
        ["12", "2", "s3/b/p/q/"],
        ["14", "3", "s3/b/p/"],
        ["16", "1", "s3/b/p2/"],
        ["31", "5", "s3/b"],
    ] == rows
    assert [["31", "5", "s3/b"]] == [line.split() for line in call("du", "-d", "0", "s3/b").lines]


def test_depth_counts_from_the_operand(fake: FakeS3, call: Call) -> None:
    """One level below p is p/q/."""
    fill(fake)

    urls = [record["url"] for record in call("du", "--json", "-d", "1", "s3/b/p").records]

    assert ["s3/b/p/q/", "s3/b/p"] == urls


def test_several_operands_and_their_total(fake: FakeS3, call: Call) -> None:
    """A line for each, then the sum."""
    fill(fake)

    lines = call("du", "-H", "s3/b/p", "s3/b/p2").lines

    assert [["14B", "3", "s3/b/p"], ["16B", "1", "s3/b/p2"]] == [line.split() for line in lines[:2]]
    assert ["Total objects: 4", "Total size: 30 B"] == lines[2:]


def test_no_operand_counts_all_buckets(fake: FakeS3, call: Call) -> None:
    """A line per bucket."""
    fake.store.add("one", "k", b"1")
    fake.store.add("two", "k", b"22")

    records = call("du", "--json").records

    assert [("s3/one", 1), ("s3/two", 2)] == [(record["url"], record["bytes"]) for record in records]


def test_versions_count_every_byte_that_is_kept(call: Call) -> None:
    """Overwritten and deleted ones too; markers are no objects."""
    call("mb", "s3/bkt", "--versioning")
    call("pipe", "s3/bkt/k", stdin=b"one")
    call("pipe", "s3/bkt/k", stdin=b"three")
    call("find", "s3/bkt", "--delete")

    assert "Total objects: 0\nTotal size: 0 B (0)\n" == call("du", "s3/bkt").out
    assert "Total objects: 2\nTotal size: 8 B (8)\n" == call("du", "--versions", "s3/bkt").out


def test_versions_are_counted_as_ls_counts_them(call: Call) -> None:
    """Two commands must not disagree on what a bucket holds; a marker is told apart."""
    call("mb", "s3/bkt", "--versioning")
    for key in ("p/a", "p/b", "p/b"):
        call("pipe", f"s3/bkt/{key}", stdin=b"four")
    call("rm", "-r", "--force", "s3/bkt/p/")

    usage = call("du", "--versions", "--json", "s3/bkt").records[-1]
    deep = call("du", "--versions", "--json", "-d", "1", "s3/bkt").records[0]
    listed = call("ls", "-r", "--versions", "--summarize", "--json", "s3/bkt").records[-1]
    text = call("ls", "-r", "--versions", "--summarize", "s3/bkt").err

    assert (3, 12) == (usage["objects"], usage["bytes"]) == (deep["objects"], deep["bytes"])
    assert {"type": "summary", "version": 1, "objects": 3, "prefixes": 0, "bytes": 12, "delete_markers": 2} == listed
    assert "Total objects: 3\nTotal size: 12 B (12)\nDelete markers: 2\n" == text


def test_listing_that_failed_has_no_total(fake: FakeS3, call: Call) -> None:
    """Nothing was counted, and 0 bytes would be read as an empty bucket; beside others there is one of these."""
    fake.store.add("b", "k", b"12")

    alone = call("du", "s3/none")
    beside = call("du", "s3/none", "s3/b")
    fake.fault(internal_error(), op="ListObjectsV2", times=0)
    broken = call("du", "--retries", "1", "s3/b")

    assert [(3, ""), (1, "")] == [(alone.code, alone.out), (broken.code, broken.out)]
    assert (3, ["Total objects: 1", "Total size: 2 B (2)"]) == (beside.code, beside.lines[1:])


def test_glob_counts_what_matches(fake: FakeS3, call: Call) -> None:
    """Across slashes."""
    fill(fake)

    assert "Total objects: 2\nTotal size: 12 B (12)\n" == call("du", "s3/b/p/*/*").out

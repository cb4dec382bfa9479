"""What head and tree show, and how little they ask for it."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import CutBody, FakeS3, internal_error

TEXT = b"".join(b"line %d\n" % number for number in range(1, 21))

HEADS: list[tuple[tuple[str, ...], bytes, bytes]] = [
    ((), TEXT, b"".join(TEXT.splitlines(True)[:10])),
    (("-n", "2"), TEXT, b"line 1\nline 2\n"),
    (("--lines", "0"), TEXT, b""),
    (("-n", "3"), b"one\ntwo", b"one\ntwo"),
    (("-n", "3"), b"", b""),
    (("-c", "0"), TEXT, b""),
    (("-c", "8"), TEXT, b"line 1\nl"),
    (("--bytes", "1M"), TEXT, TEXT),
    (("-c", "5"), b"", b""),
    (("-n", "1"), b"\xff\x00\nrest", b"\xff\x00\n"),
]


@pytest.mark.parametrize(("flags", "content", "expected"), HEADS)
def test_head_shows_the_beginning(
    fake: FakeS3, call: Call, flags: tuple[str, ...], content: bytes, expected: bytes
) -> None:
    """Bytes as they are; an object without any is no error."""
    fake.store.add("b", "k", content)

    result = call("head", *flags, "s3/b/k")

    assert (0, expected, b"") == (result.code, result.stdout, result.stderr)


def test_head_reads_no_more_than_it_shows(fake: FakeS3, call: Call) -> None:
    """One request, however long the object is, and several objects by a glob, one after another."""
    fake.store.add("b", "log/1", b"a\n" * (8 << 20))
    fake.store.add("b", "log/2", b"b\n")

    assert b"a\n" == call("head", "-n1", "s3/b/log/1").stdout
    assert ["GetObject"] == fake.ops()
    assert b"a\nb\n" == call("head", "-n", "1", "s3/b/log/*").stdout


def test_head_as_json(fake: FakeS3, call: Call) -> None:
    """One record an object; bytes that are no text survive."""
    fake.store.add("b", "k", b"one\xff\ntwo\n")

    assert [{"type": "head", "url": "s3/b/k", "bytes": 5, "content": "one\udcff\n"}] == call(
        "head", "--json", "-n1", "s3/b/k"
    ).records


def test_head_survives_a_cut_and_names_what_is_missing(fake: FakeS3, call: Call) -> None:
    """The rest comes from the other node; a missing key is 3, and the next operand goes on."""
    fake.store.add("b", "k", TEXT * 5000)
    fake.fault(CutBody(2000), op="GetObject", times=1)

    assert TEXT * 250 == call("head", "-n", "5000", "s3/b/k").stdout
    result = call("head", "-n1", "s3/b/none", "s3/b/k")
    assert (3, b"line 1\n") == (result.code, result.stdout)
    assert "s3/b/none" in result.err


def fill(fake: FakeS3) -> None:
    """Store a small tree, with names that are hard to draw."""
    for key, size in {"a/b/c": 2048, "a/b/d/e": 1, "a/x": 0, "z": 5, "z/": 0, "z/\n": 7, "é//k": 3}.items():
        fake.store.add("b", key, b"x" * size)


def test_tree_draws_directories(fake: FakeS3, call: Call) -> None:
    """As mc does: without objects unless they are asked for."""
    fill(fake)

    assert ["s3/b", "├─ a/", "│  └─ b/", "│     └─ d/", "├─ z/", "└─ é/", "   └─ /"] == call("tree", "s3/b").lines
    assert ["s3/b/a", "└─ b/"] == call("tree", "-d1", "s3/b/a").lines


def test_tree_with_objects_and_sizes(fake: FakeS3, call: Call) -> None:
    """Names are escaped, and an object with the very name of its prefix is ./."""
    fill(fake)

    lines = call("tree", "-s", "s3/b").lines

    assert lines == [
        "s3/b",
        "├─ a/",
        "│  ├─ b/",
        "│  │  ├─ 2.0KiB  c",
        "│  │  └─ d/",
        "│  │     └─ 1B  e",
        "│  └─ 0B  x",
        "├─ 5B  z",
        "├─ z/",
        "│  ├─ 0B  ./",
        "│  └─ 7B  \\n",
        "└─ é/",
        "   └─ /",
        "      └─ 3B  k",
    ]


@pytest.mark.parametrize("depth", [(), ("-d", "100")], ids=["whole", "by level"])
def test_tree_is_the_same_from_one_page_or_many(fake: FakeS3, call: Call, depth: tuple[str, ...]) -> None:
    """A tree of one page comes with one request; larger ones are listed by level."""
    fill(fake)
    whole = call("tree", "-f", *depth, "s3/b").lines
    small = len(fake.ops())
    fake.quirks.short_pages = 2

    assert whole == call("tree", "-f", *depth, "s3/b").lines
    assert (1 if not depth else 7) == small


def test_tree_as_json(fake: FakeS3, call: Call) -> None:
    """The records of ls, each with its depth."""
    fill(fake)

    records = call("tree", "--json", "-f", "s3/b/a/").records

    assert [("prefix", 1), ("object", 2), ("prefix", 2), ("object", 3), ("object", 1)] == [
        (record["type"], record["depth"]) for record in records
    ]
    assert ["s3/b/a/b/", "s3/b/a/b/c"] == [record["url"] for record in records[:2]]


def test_tree_goes_as_deep_as_keys_can(fake: FakeS3, call: Call) -> None:
    """A thousand slashes are a legal key."""
    fake.store.add("b", "/" * 1000 + "k")

    assert 1002 == len(call("tree", "-f", "s3/b").lines)


def test_tree_of_what_is_not_there(fake: FakeS3, call: Call) -> None:
    """A typo is no empty tree; an empty bucket is one. A failed listing is told."""
    fake.store.add("b", "k")
    call("mb", "s3/empty")

    assert [3, 3, 0, 2] == [call("tree", path).code for path in ("s3/b/typo", "s3/none", "s3/empty", "s3")]
    fake.fault(internal_error(), op="ListObjectsV2")
    assert 1 == call("tree", "--retries", "0", "s3/b").code

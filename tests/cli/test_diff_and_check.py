"""What diff and check say of two trees, and check --nodes of a pool."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import ACCESS_KEY, MIB, SECRET_KEY, FakeS3, internal_error
from tests.support.fake_s3 import Call as FakeCall
from tests.support.parts import parts_etag

BIG = os.urandom(11 * MIB)


@pytest.fixture
def trees(fake: FakeS3, tmp_path: Path) -> Path:
    """Give a directory and two prefixes that are nearly the same."""
    root = tmp_path / "tree"
    files = {"a": b"one", "d/b": b"two", "d/c": b"three", "here": b"local", "same size": b"mine"}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    objects = {"a": b"one", "d/": b"", "d/b": b"two!", "d/c": b"three", "same size": b"your", "there": b"remote"}
    for name, content in objects.items():
        fake.store.add("b", f"p/{name}", content)
    fake.store.add("b", "p2/a", b"neighbour")
    return root


def test_diff_tells_what_listings_tell(call: Call, trees: Path, fake: FakeS3) -> None:
    """As mc does: a line for each name that differs, and no file or object is read."""
    result = call("diff", "tree", "s3/b/p")

    assert ["! d/b", "< here", "> there"] == sorted(result.lines)
    assert 1 == result.code
    assert "s3pool: 3 the same, 1 different, 1 only in the first, 1 only in the second\n" == result.err
    assert {"ListObjectsV2"} == set(fake.ops())


def test_check_proves_the_content(call: Call, trees: Path) -> None:
    """A file of the same size is read; what is the same has a line as well, and -l says by what."""
    result = call("check", "-l", "tree", "s3/b/p/")

    assert [
        "! d/b  (size)",
        "! same size  (etag)",
        "< here  (absent)",
        "= a  (etag)",
        "= d/c  (etag)",
        "> there  (absent)",
    ] == sorted(result.lines)
    assert 1 == result.code
    assert ["! d/b", "! same size", "< here", "> there"] == sorted(call("check", "-q", "tree", "s3/b/p").lines)


def test_equal_trees_are_0(call: Call, trees: Path) -> None:
    """Also with the sides exchanged, and by filters; the key of a directory is no file."""
    call("sync", "--delete", "tree", "s3/b/p")

    for words in (("tree", "s3/b/p"), ("s3/b/p", "tree"), ("s3/b/p", "s3/b/p/")):
        assert (0, []) == (call("diff", *words).code, call("diff", *words).lines)
        assert 0 == call("check", *words).code
        assert 0 == call("check", "--download", *words).code
    (trees / "new").write_bytes(b"")
    assert 1 == call("check", "tree", "s3/b/p").code
    assert 0 == call("check", "--exclude", "new", "tree", "s3/b/p").code


def test_records_name_both_sides(call: Call, trees: Path) -> None:
    """One object a line, and the counts at the end."""
    *records, summary = call("diff", "--json", "tree", "s3/b/p").records

    assert {"type": "different", "name": "d/b", "first": "tree/d/b", "second": "s3/b/p/d/b", "by": "size"} in records
    assert {"only_first", "only_second", "different"} == {record["type"] for record in records}
    assert {
        "type": "summary",
        "version": 1,
        "same": 3,
        "different": 1,
        "only_first": 1,
        "only_second": 1,
        "unknown": 0,
        "failed": 0,
    } == summary


OBJECTS: list[tuple[dict[str, str], dict[str, str], str, str]] = [
    # Headers and ETag of one object, the same of another one with the same bytes; what check says.
    ({"etag": parts_etag(BIG, 5 * MIB)}, {"etag": parts_etag(BIG, 8 * MIB)}, "?", "neither ETag nor checksum"),
    ({"etag": parts_etag(BIG, 5 * MIB)}, {"etag": parts_etag(BIG, 5 * MIB)}, "=", "etag"),
    ({}, {"etag": parts_etag(BIG, 16 * MIB)}, "=", "etag"),
    ({"etag": "0" * 32}, {}, "!", "etag"),
    ({"etag": "0" * 32 + "-1"}, {}, "!", "etag"),
    ({"etag": "0" * 32 + "-3"}, {"etag": "1" * 32 + "-3"}, "?", "neither ETag nor checksum"),
    ({"etag": "opaque"}, {"etag": "opaque"}, "?", "neither ETag nor checksum"),
    ({"etag": "0" * 32, "x-amz-server-side-encryption": "aws:kms"}, {}, "?", "neither ETag nor checksum"),
    ({"etag": "opaque", "x-amz-checksum-crc32": "AAAAAA=="}, {"x-amz-checksum-crc32": "AAAAAA=="}, "=", "crc32"),
    ({"etag": "opaque", "x-amz-checksum-crc32": "AAAAAA=="}, {"x-amz-checksum-crc32": "AAAAAQ=="}, "!", "crc32"),
]


@pytest.mark.parametrize(("first", "second", "sign", "by"), OBJECTS)
def test_objects_are_told_apart_by_all_that_is_told(
    call: Call, fake: FakeS3, first: dict[str, str], second: dict[str, str], sign: str, by: str
) -> None:
    """ETags by the arithmetic of parts, checksums; what nothing tells is neither equal nor different."""
    for bucket, facts in (("one", first), ("two", second)):
        version = fake.store.add(bucket, "k", BIG, **{name: text for name, text in facts.items() if name != "etag"})
        version.etag = facts.get("etag", version.etag)

    result = call("check", "-l", "s3/one", "s3/two")

    assert [f"{sign} k"] == [line.partition("  ")[0] for line in result.lines]
    assert by in result.out
    assert {"=": 0, "!": 1, "?": 6}[sign] == result.code
    assert (0 if sign != "!" else 1) == call("diff", "s3/one", "s3/two").code


def test_bytes_decide_where_nothing_else_does(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """--download reads both sides, through a cut, and the cut costs no verdict."""
    for bucket, content in (("one", BIG), ("two", BIG), ("three", BIG[:-1] + b"x")):
        fake.store.add(bucket, "k", content).etag = f"opaque-{bucket}"
    (tmp_path / "k").write_bytes(BIG)

    assert (0, ["= k  (bytes)"]) == code_and_lines(call, "s3/one", "s3/two")
    assert (1, ["! k  (bytes)"]) == code_and_lines(call, "s3/one", "s3/three")
    assert (0, ["= k  (bytes)"]) == code_and_lines(call, "k", "s3/one/k")


def code_and_lines(call: Call, first: str, second: str) -> tuple[int, list[str]]:
    """Give what check --download says of a pair."""
    result = call("check", "-l", "--download", first, second)
    return result.code, result.lines


def test_files_in_parts_are_proved_by_their_parts(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """Of the size that was stored, or of a usual one."""
    (tmp_path / "big").write_bytes(os.urandom(20 * MIB))
    call("mb", "s3/mine")
    up = call("cp", "--part-size", "7M", "big", "s3/mine/k")
    assert 0 == up.code, up.err
    content = (tmp_path / "big").read_bytes()
    fake.store.add("b", "theirs", content).etag = parts_etag(content, 8 * MIB)

    assert [(0, "= big"), (0, "= big")] == [
        (result.code, result.out.strip())
        for path in ("s3/mine/k", "s3/b/theirs")
        if (result := call("check", "big", path))
    ]
    (tmp_path / "big").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert 1 == call("check", "big", "s3/mine/k").code


def test_single_names(call: Call, trees: Path) -> None:
    """A file with an object, an object with a file in a directory; a missing one is a difference."""
    assert (0, ["= tree/a"]) == (call("check", "tree/a", "s3/b/p/a").code, call("check", "tree/a", "s3/b/p/a").lines)
    assert (0, ["= tree/a"]) == (call("check", "tree/a", "s3/b/p/").code, call("check", "tree/a", "s3/b/p/").lines)
    assert (0, ["= s3/b/p/a"]) == (call("check", "s3/b/p/a", "tree").code, call("check", "s3/b/p/a", "tree").lines)
    assert ["< s3/b/p/there"] == call("diff", "s3/b/p/there", "tree").lines
    assert ["! s3/b/p/d/b"] == call("diff", "s3/b/p/d/b", "tree/d/b").lines


REFUSED = [
    ("diff", "tree", "tree", "both local: diff -r"),
    ("diff", "s3", "tree", "names no bucket"),
    ("check", "-", "s3/b", "is a stream"),
    ("check", "s3/b/p", "tree/a", "is a tree, and tree/a a file"),
    ("check", "s3/b/p", "", "check A B"),
]


@pytest.mark.parametrize(("verb", "first", "second", "words"), REFUSED)
def test_what_cannot_be_compared_is_2(call: Call, trees: Path, verb: str, first: str, second: str, words: str) -> None:
    """One line that says what to do."""
    result = call(verb, first, *filter(None, [second]))

    assert (2, "") == (result.code, result.out)
    assert words in result.err


def test_typos_are_not_equal(call: Call, trees: Path) -> None:
    """Two empty sides say nothing, unless they are there."""
    assert [3, 3, 3] == [
        call("check", *words).code for words in (("s3/b/typo", "s3/b/other"), ("none", "s3/b/p"), ("tree", "s3/none"))
    ]
    call("mb", "s3/empty", "s3/void")
    assert 0 == call("check", "s3/empty", "s3/void").code


def test_a_failed_look_is_no_verdict(call: Call, fake: FakeS3, trees: Path) -> None:
    """A pair that cannot be compared is an error line, and the others go on; a failed listing ends it all."""
    fake.store.add("c", "k", b"1")
    fake.store.add("c", "l", b"2")
    fake.store.add("e", "k", b"3")
    fake.store.add("e", "l", b"2")
    fake.fault(internal_error(), op="HeadObject", key="k", times=99)

    result = call("check", "--retries", "0", "s3/c", "s3/e")

    assert (1, ["= l"]) == (result.code, result.lines)
    assert "s3/c/k" in result.err
    assert "1 failed" in result.err
    fake.fault(internal_error(), op="ListObjectsV2", times=99)
    broken = call("check", "--retries", "0", "tree", "s3/b/p")
    assert (1, []) == (broken.code, [line for line in broken.lines if line[0] in "<>"])


def test_two_pools(call: Call, trees: Path, fake: FakeS3, tmp_path: Path) -> None:
    """The pool of either side may be that of a profile."""
    with FakeS3(2, secrets={"OTHER": "secret"}) as there:
        there.store.add("b", "p/a", b"one")
        config = tmp_path / ".s3pool" / "config.yaml"
        config.parent.mkdir()
        config.write_text(
            "default_profile: other\nprofiles:\n"
            f"  other: {{endpoints: [{', '.join(there.endpoints)}], access_key: OTHER, secret_key: secret}}\n"
            f"  this: {{endpoints: [{', '.join(fake.endpoints)}],"
            f" access_key: {ACCESS_KEY}, secret_key: {SECRET_KEY}}}\n"
        )
        config.chmod(0o600)

        for words in (["--source-profile", "other"], ["--target-profile", "other"]):
            assert (0, ["= s3/b/p/a"]) == (
                call("check", *words, "s3/b/p/a", "s3/b/p/a").code,
                call("check", *words, "s3/b/p/a", "s3/b/p/a").lines,
            )
        signs = "".join(line[0] for line in call("diff", "s3/b/p", "s3/b/p", "--target-profile", "other").lines)
        both = call("diff", "--source-profile", "other", "--target-profile", "this", "s3/b/p", "s3/b/p")
    assert ("<" * 5, ">" * 5) == (signs, "".join(line[0] for line in both.lines))


# -- check --nodes --------------------------------------------------------------------------


@pytest.fixture
def stores() -> Iterator[tuple[FakeS3, FakeS3]]:
    """Give a store behind two nodes and another one behind a third, with the same keys."""
    with FakeS3(2) as one, FakeS3(1) as other:
        for number in range(30):
            for fake in (one, other):
                fake.store.add("b", f"p/{number:02d}", b"x")
        yield one, other


def check_nodes(call: Call, stores: tuple[FakeS3, FakeS3], *words: str) -> tuple[int, list[str], str]:
    """Run check --nodes on both stores as if they were one pool."""
    pool = ",".join((*stores[0].endpoints, *stores[1].endpoints))
    result = call("check", "--nodes", *words, env={"S3_POOL": pool})
    return result.code, result.lines, result.err


def test_nodes_of_one_store_agree(call: Call, stores: tuple[FakeS3, FakeS3]) -> None:
    """Pages of any size, and a neighbour's names do not count."""
    stores[1].store.add("b", "p2", b"neighbour")
    stores[0].quirks.short_pages = 7

    assert (0, [], "s3pool: 30 keys, 3 nodes: all agree\n") == check_nodes(call, stores, "s3/b/p")
    assert (0, [], "s3pool: 1 keys, 3 nodes: all agree\n") == check_nodes(call, stores, "s3/b/p/03")


def test_nodes_that_disagree_are_named(call: Call, stores: tuple[FakeS3, FakeS3]) -> None:
    """Each key with what the odd nodes say of it, and the nodes at the end."""
    one, other = stores
    one.store.bucket("b").remove("p/07", "null")
    other.store.add("b", "p/11", b"other")
    url = other.endpoints[0]

    code, lines, err = check_nodes(call, stores, "s3/b")

    assert (1, 2) == (code, len(lines))
    assert f"! s3/b/p/07  {url}: 1 bytes, ETag 9dd4e461268c8034f5c8564e155c67a6; the others: missing" == lines[0]
    assert lines[1].startswith(f"! s3/b/p/11  {url}: 5 bytes")
    assert f"s3pool: 30 keys, 3 nodes: 2 differ: {url} on 2\n" == err


def test_a_key_that_came_meanwhile_is_no_disagreement(call: Call, stores: tuple[FakeS3, FakeS3]) -> None:
    """The listings differ, and then all nodes are asked for the key once more."""
    one, other = stores

    other.store.add("b", "p/99", b"x")
    one.fault(FakeCall(lambda _: one.store.add("b", "p/99", b"x")), op="HeadObject", times=0)

    assert 0 == check_nodes(call, stores, "s3/b")[0]


def test_a_node_without_the_bucket_or_without_life(call: Call, stores: tuple[FakeS3, FakeS3]) -> None:
    """The one disagrees, the other one is an error; one node alone cannot disagree."""
    one, other = stores
    call("mb", "s3/ccc", env=one.environment)
    url = other.endpoints[0]

    assert (1, [f"! s3/ccc  {url}: there is no such bucket"]) == check_nodes(call, stores, "s3/ccc")[:2]
    assert 3 == check_nodes(call, stores, "s3/none")[0]
    assert 3 == check_nodes(call, stores, "s3/b/none")[0]
    other.nodes[0].kill()
    code, lines, err = check_nodes(call, stores, "s3/b", "--retries", "1")
    assert (5, []) == (code, lines)
    assert url in err
    assert "30 keys, 2 nodes: all agree" in err
    assert 2 == call("check", "--nodes", "s3/b", env=other.environment).code
    assert 2 == call("check", "--nodes", "s3/b", "s3/c").code

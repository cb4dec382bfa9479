"""What ls writes, line by line."""

from __future__ import annotations

import re

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import FakeS3

EPOCH = "[1970-01-01 00:00:00 UTC]"
JANUARY = 1769114673.219  # 2026-01-22 20:44:33.219 UTC


def lines_without_time(text: str) -> list[str]:
    """Cut the stamp off, for prefixes have the current time."""
    return [re.sub(r"^\[[-0-9]{10} [0-9:]{8} UTC\]", "[...]", line) for line in text.splitlines()]


def test_object_line_has_time_size_class_and_name(fake: FakeS3, call: Call) -> None:
    """The line that the first s3pool wrote, which scripts cut up."""
    fake.store.add("b", "name", b"x" * 1536, mtime=JANUARY)

    result = call("ls", "s3/b")

    assert (0, "[2026-01-22 20:44:33 UTC]   1.5KiB STANDARD name\n") == (result.code, result.out)


def test_prefix_line_has_no_class(fake: FakeS3, call: Call) -> None:
    """A prefix is a name with a size of nothing."""
    fake.store.add("b", "dir/name")

    result = call("ls", "s3://b")

    assert ["[...]       0B dir/"] == lines_without_time(result.out)


def test_prefixes_stand_among_objects_in_key_order(fake: FakeS3, call: Call) -> None:
    """One order for all lines, that of the keys' bytes."""
    for key in ("a", "b/1", "b-2", "c"):
        fake.store.add("b", key)

    result = call("ls", "s3/b")

    assert ["a", "b-2", "b/", "c"] == [line.split()[-1] for line in result.lines]


def test_names_are_relative_to_the_prefix(fake: FakeS3, call: Call) -> None:
    """With and without the trailing slash, and never the neighbour with the same beginning."""
    for key in ("p/a", "p/q/b", "p2/c"):
        fake.store.add("b", key)

    assert ["a", "q/"] == [line.split()[-1] for line in call("ls", "s3/b/p").lines]
    assert ["a", "q/"] == [line.split()[-1] for line in call("ls", "s3/b/p/").lines]
    assert ["a", "q/b"] == [line.split()[-1] for line in call("ls", "-r", "s3/b/p").lines]


def test_exact_key_is_listed_by_its_base_name(fake: FakeS3, call: Call) -> None:
    """Who names a key sees that key, not the ones that begin like it."""
    fake.store.add("b", "dir/key", b"12345")
    fake.store.add("b", "dir/key.bak")

    result = call("ls", "s3/b/dir/key")

    assert f"{EPOCH}       5B STANDARD key\n" == result.out


def test_prefix_with_slash_takes_one_request(fake: FakeS3, call: Call) -> None:
    """The commonest command must not cost a second look."""
    fake.store.add("b", "p/a")

    call("ls", "s3/b/p/")
    call("ls", "s3/b/p")

    assert ["ListObjectsV2", "ListObjectsV2"] == fake.ops(op="ListObjectsV2")


def test_long_shows_bytes(fake: FakeS3, call: Call) -> None:
    """-l for machines, -H back for people."""
    fake.store.add("b", "name", b"x" * 1536)

    assert f"{EPOCH}          1536 STANDARD name\n" == call("ls", "-l", "s3/b").out
    assert f"{EPOCH}   1.5KiB STANDARD name\n" == call("ls", "-lH", "s3/b").out


def test_etag_stands_before_the_name(fake: FakeS3, call: Call) -> None:
    """Without quotes, as a word of its own."""
    fake.store.add("b", "name", b"")

    result = call("ls", "--etag", "s3/b")

    assert f"{EPOCH}       0B STANDARD d41d8cd98f00b204e9800998ecf8427e name\n" == result.out


def test_control_characters_are_made_visible(fake: FakeS3, call: Call) -> None:
    """A key must not end a line, nor talk to the terminal."""
    fake.store.add("b", "a\nb\x1b[31m\x7f\x85c")

    result = call("ls", "s3/b")

    assert f"{EPOCH}       0B STANDARD a\\nb\\x1b[31m\\x7f\\x85c\n" == result.out


def test_print0_gives_raw_names(fake: FakeS3, call: Call) -> None:
    """For xargs -0: no stamp, no escape."""
    fake.store.add("b", "a\nb")
    fake.store.add("b", "é")

    result = call("ls", "-0", "s3/b")

    assert "a\nb\0é\0".encode() == result.stdout


def test_json_records_have_exactly_the_promised_keys(fake: FakeS3, call: Call) -> None:
    """Scripts rely on the names and on the types."""
    fake.store.add("b", 'k"\n', b"abc", mtime=JANUARY)
    fake.store.add("b", "p/x")

    result = call("ls", "--json", "s3/b")

    assert [
        {
            "type": "object",
            "url": 's3/b/k"\n',
            "bucket": "b",
            "key": 'k"\n',
            "size": 3,
            "last_modified": "2026-01-22T20:44:33.219Z",
            "etag": "900150983cd24fb0d6963f7d28e17f72",
            "storage_class": "STANDARD",
        },
        {"type": "prefix", "url": "s3/b/p/", "prefix": "p/", "bucket": "b"},
    ] == result.records


def test_no_path_lists_the_buckets(fake: FakeS3, call: Call) -> None:
    """In text and as records."""
    fake.store.add("one", "k")
    fake.store.add("two", "k")

    assert [f"{EPOCH}       0B one/", f"{EPOCH}       0B two/"] == call("ls").lines
    assert [
        {"type": "bucket", "name": name, "created": "1970-01-01T00:00:00.000Z", "url": f"s3/{name}", "bucket": name}
        for name in ("one", "two")
    ] == call("ls", "--json", "s3").records


def test_no_path_means_the_default_bucket_if_there_is_one(fake: FakeS3, call: Call) -> None:
    """S3_BUCKET stands in for the operand, and for an empty bucket in a URL."""
    fake.store.add("home", "d/k")

    assert f"{EPOCH}       0B STANDARD d/k\n" == call("ls", "-r", env={"S3_BUCKET": "home"}).out
    assert f"{EPOCH}       0B STANDARD k\n" == call("ls", "s3:///d/", env={"S3_BUCKET": "home"}).out


def test_empty_prefix_is_no_failure(fake: FakeS3, call: Call) -> None:
    """An empty directory of keys is like one that nobody made."""
    fake.store.add("b", "k")

    assert (0, "", "") == _facts(call("ls", "s3/b/none/"))
    assert (0, "", "s3pool: nothing found: s3/b/none\n") == _facts(call("ls", "s3/b/none"))
    assert (0, "", "") == _facts(call("ls", "-q", "s3/b/none"))


def test_missing_bucket_is_exit_3(call: Call) -> None:
    """The specific code when it is the only operand."""
    result = call("ls", "s3/none")

    assert (3, "") == (result.code, result.out)
    assert re.fullmatch(r"s3pool: error: ListObjectsV2 s3/none at http://.*: 404 NoSuchBucket.*\n", result.err)


def test_several_operands_get_headings(fake: FakeS3, call: Call) -> None:
    """As ls of the shell does; one that fails has none, and the rest goes on."""
    fake.store.add("b", "p/1")
    fake.store.add("b", "q/2")

    result = call("ls", "s3/b/p", "s3/none", "s3/b/q")

    assert 3 == result.code
    assert ["s3/b/p:", f"{EPOCH}       0B STANDARD 1", "", "s3/b/q:", f"{EPOCH}       0B STANDARD 2"] == result.lines


def test_glob_crosses_slashes(fake: FakeS3, call: Call) -> None:
    """Names are relative to the directory where the wildcard begins."""
    for key in ("logs/1.gz", "logs/x/2.gz", "logs/3.txt", "other.gz"):
        fake.store.add("b", key)

    result = call("ls", "s3/b/logs/*.gz")

    assert ["1.gz", "x/2.gz"] == [line.split()[-1] for line in result.lines]


def test_no_glob_takes_wildcards_as_they_are(fake: FakeS3, call: Call) -> None:
    """They are legal in keys."""
    fake.store.add("b", "a*")
    fake.store.add("b", "ab")

    result = call("ls", "--no-glob", "s3/b/a*")

    assert ["a*"] == [line.split()[-1] for line in result.lines]


def test_max_keys_bounds_the_lines(fake: FakeS3, call: Call) -> None:
    """Over prefixes and objects, and over all operands together."""
    for key in ("a", "b/1", "c", "d"):
        fake.store.add("b", key)

    assert ["a", "b/"] == [line.split()[-1] for line in call("ls", "--max-keys", "2", "s3/b").lines]
    assert 3 == len(call("ls", "--json", "--max-keys", "3", "s3/b", "s3/b").records)
    assert call("ls", "s3/b").lines == call("ls", "--max-keys", "0", "s3/b").lines


def test_versions_show_markers_and_ids(fake: FakeS3, call: Call) -> None:
    """Newest first, each with its id and whether it is a put or a delete."""
    call("mb", "s3/bkt", "--versioning")
    call("pipe", "s3/bkt/k", stdin=b"one")
    call("find", "s3/bkt", "--delete")

    lines = call("ls", "--versions", "s3/bkt").lines
    records = call("ls", "--versions", "--json", "s3/bkt").records

    assert ["DEL k", "PUT k"] == [" ".join(line.split()[-2:]) for line in lines]
    assert [(True, True), (False, False)] == [(r["is_latest"], r["is_delete_marker"]) for r in records]
    assert all(record["version_id"] in line for line, record in zip(lines, records, strict=True))


def test_incomplete_lists_open_uploads(fake: FakeS3, call: Call) -> None:
    """What else nobody would see and everybody pays for."""
    fake.store.add("b", "k")
    upload_id = _open_upload(fake, "b", "big/file")

    result = call("ls", "--incomplete", "s3/b/big")
    record = call("ls", "--incomplete", "--json", "s3/b").records[0]

    assert f"STANDARD {upload_id} file\n" in result.out
    assert ("upload", "s3/b/big/file", upload_id) == (record["type"], record["url"], record["upload_id"])


def test_summarize_counts_on_stderr(fake: FakeS3, call: Call) -> None:
    """Stdout is for results; with --json the summary is the last of them."""
    fake.store.add("b", "a", b"12")
    fake.store.add("b", "p/b", b"345")

    text = call("ls", "-r", "--summarize", "s3/b")
    record = call("ls", "--json", "--summarize", "s3/b").records[-1]

    assert "Total objects: 2\nTotal size: 5 B (5)\n" == text.err
    assert {"type": "summary", "version": 1, "objects": 1, "prefixes": 1, "bytes": 2} == record


def test_every_page_goes_to_the_next_endpoint(fake: FakeS3, call: Call) -> None:
    """Rotation is what the pool is for."""
    for number in range(2500):
        fake.store.add("b", f"{number:05}")

    result = call("ls", "-r", "s3/b")

    assert [f"{number:05}" for number in range(2500)] == [line.split()[-1] for line in result.lines]
    pages = [request.endpoint for request in fake.requests if request.op == "ListObjectsV2"]
    assert {(0, 1, 0), (1, 0, 1)} & {tuple(pages)}


@pytest.mark.parametrize("words", [[], ["--jobs", "8"], ["--jobs", "auto", "--unordered"]], ids=" ".join)
@pytest.mark.parametrize("tree", [[], ["-r"]], ids=" ".join)
def test_few_keys_take_one_request(fake: FakeS3, call: Call, tree: list[str], words: list[str]) -> None:
    """However many requests might be made at once, and however many other keys there are."""
    for number in range(2500):
        fake.store.add("b", f"other/{number:05}")
    for number in range(10):
        fake.store.add("b", f"few/{number}")

    result = call("ls", *tree, *words, "s3/b/few/")

    assert [str(number) for number in range(10)] == [line.split()[-1] for line in result.lines]
    assert ["ListObjectsV2"] == fake.ops()


def test_page_with_an_odd_name_has_the_lines_of_the_others(fake: FakeS3, call: Call) -> None:
    """Pages are formatted at once where all their names are plain, else line by line."""
    for number in range(1500):
        fake.store.add("b", f"d/{number:05}", b"x" * (number % 7))
    plain = call("ls", "-r", "s3/b/d/").lines

    fake.store.add("b", "d/00700\n")

    assert [*plain[:701], plain[0].replace("00000", "00700\\n"), *plain[701:]] == call("ls", "-r", "s3/b/d/").lines


def _facts(result: object) -> tuple[int, str, str]:
    return result.code, result.out, result.err  # type: ignore[attr-defined]


def _open_upload(fake: FakeS3, bucket: str, key: str) -> str:
    from tests.support.fake_s3.store import Upload

    upload_id = fake.store.new_id("u")
    fake.store.buckets[bucket].uploads[upload_id] = Upload(upload_id, key, 0.0, {}, {}, "STANDARD")
    return upload_id

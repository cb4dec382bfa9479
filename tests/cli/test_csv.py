"""--csv of the listing commands: RFC 4180, and the same facts as --json."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import CutBody, FakeS3
from tests.support.hostile import ALL_CHARACTERS_KEY, EVERY_CHARACTER_KEYS, HOSTILE_KEYS, LEADING_BYTES_KEY
from tests.support.run_cli import CliResult

KEYS = [*HOSTILE_KEYS, *EVERY_CHARACTER_KEYS, ALL_CHARACTERS_KEY, LEADING_BYTES_KEY]
OBJECT_HEADER = "type,url,bucket,key,size,last_modified,etag,storage_class"


def rows_of(result: CliResult) -> list[dict[str, str]]:
    """Read a table as any program does."""
    text = result.stdout.decode("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def as_text(record: dict[str, Any]) -> dict[str, str]:
    """Give a JSON record with the values as CSV has them."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in record.items()}


def filled(row: dict[str, str]) -> dict[str, str]:
    """Leave out the columns that a row does not have."""
    return {name: value for name, value in row.items() if value}


@pytest.fixture
def versions(call: Call) -> str:
    """Give a bucket in which one key was overwritten and deleted."""
    call("mb", "s3/bkt", "--versioning")
    call("pipe", "s3/bkt/k", stdin=b"one")
    call("pipe", "s3/bkt/k", stdin=b"three")
    call("rm", "s3/bkt/k")
    return "s3/bkt"


@pytest.mark.parametrize("words", [("ls", "-r", "s3/b"), ("find", "s3/b"), ("ls", "-r", "--jobs", "2", "s3/b")])
def test_table_of_objects_has_the_members_of_the_records(fake: FakeS3, call: Call, words: tuple[str, ...]) -> None:
    """Keys are exact, whatever they hold."""
    for key in KEYS:
        fake.store.add("b", key, b"xyz")

    rows = rows_of(call(*words, "--csv"))
    records = call(*words, "--json").records

    assert list(records[0]) == list(rows[0])
    assert [as_text(record) for record in records] == rows
    assert sorted(KEYS) == sorted(row["key"] for row in rows)


def test_rows_are_lines_of_rfc_4180(fake: FakeS3, call: Call) -> None:
    """Ended by CRLF, quoted where a comma, a quote or a line end stands, and nowhere else."""
    fake.store.add("b", 'a "b",c\r\nd', b"x")
    fake.store.add("b", "plain name", b"x")

    lines = call("find", "s3/b", "--csv").out.split("\r\n")

    assert OBJECT_HEADER == lines[0]
    assert 'object,"s3/b/a ""b"",c' == lines[1]
    assert lines[2].startswith('d",b,"a ""b"",c')
    assert lines[4].startswith("object,s3/b/plain name,b,plain name,1,1970-01-01T00:00:00.000Z,")
    assert "" == lines[-1]


def test_one_level_has_a_column_for_prefixes(fake: FakeS3, call: Call) -> None:
    """Objects and prefixes stand in one table, in key order."""
    for key in ("a", "p,q/b", "z"):
        fake.store.add("b", key, b"x")

    rows = rows_of(call("ls", "--csv", "s3/b"))
    records = call("ls", "--json", "s3/b").records

    assert f"{OBJECT_HEADER},prefix".split(",") == list(rows[0])
    assert [as_text(record) for record in records] == [filled(row) for row in rows]


@pytest.mark.parametrize("command", [("ls", "-r"), ("find",)])
def test_versions_have_their_columns(call: Call, versions: str, command: tuple[str, ...]) -> None:
    """Truth values as in JSON."""
    rows = rows_of(call(*command, "--versions", "--csv", versions))
    records = call(*command, "--versions", "--json", versions).records

    assert 3 == len(rows)
    assert list(records[0]) == list(rows[0])
    assert [as_text(record) for record in records] == rows


def test_buckets_and_uploads_have_tables_of_their_own(fake: FakeS3, call: Call) -> None:
    """Each kind of listing has one header, known before the first row."""
    fake.store.add("one", "k")
    fake.store.add("two", "k")

    buckets = call("ls", "--csv", "s3")
    uploads = call("ls", "--csv", "--incomplete", "s3/one")

    assert [as_text(record) for record in call("ls", "--json", "s3").records] == rows_of(buckets)
    assert "type,url,bucket,key,upload_id,initiated,storage_class\r\n" == uploads.out


def test_prefixes_that_find_shows(fake: FakeS3, call: Call) -> None:
    """They are only names."""
    fake.store.add("b", "p,1/q/k")

    result = call("find", "s3/b", "--type", "d", "--csv")

    assert 'type,url,prefix,bucket\r\nprefix,"s3/b/p,1/","p,1/",b\r\nprefix,"s3/b/p,1/q/","p,1/q/",b\r\n' == result.out


def test_usage_is_a_table(fake: FakeS3, call: Call) -> None:
    """A row for each prefix and operand, and no total that would count twice."""
    fake.store.add("b", "p,1/k", b"xyz")
    fake.store.add("c", "k", b"x")

    result = call("du", "--csv", "-d", "1", "s3/b", "s3/c")

    assert [
        "type,url,objects,bytes",
        'usage,"s3/b/p,1/",1,3',
        "usage,s3/b,1,3",
        "usage,s3/c,1,1",
        "",
    ] == result.out.split("\r\n")


@pytest.mark.parametrize("words", [("ls", "s3/b/none/"), ("ls", "-r", "s3/b/none/"), ("find", "s3/b/none/")])
def test_nothing_found_is_a_header(fake: FakeS3, call: Call, words: tuple[str, ...]) -> None:
    """A table without rows is a table still."""
    fake.store.add("b", "k")

    result = call(*words, "--csv")

    assert (0, [], 1) == (result.code, rows_of(result), result.out.count("\r\n"))


def test_summary_stays_out_of_the_table(fake: FakeS3, call: Call) -> None:
    """It is no row: it goes to stderr, as in text."""
    fake.store.add("b", "k", b"12")

    result = call("ls", "-r", "--csv", "--summarize", "s3/b")

    assert ["k"] == [row["key"] for row in rows_of(result)]
    assert "Total objects: 1\nTotal size: 2 B (2)\n" == result.err


def test_rows_are_out_before_the_listing_ends(fake: FakeS3, call: Call) -> None:
    """A page is written when it is there; what ends the listing later takes nothing back."""
    for number in range(1500):
        fake.store.add("b", f"{number:04}")
    fake.fault(CutBody(after=100), op="ListObjectsV2", nth=2, times=0)

    result = call("ls", "-r", "--csv", "--retries", "0", "s3/b")

    assert 0 != result.code
    assert 1000 == len(rows_of(result))


@pytest.mark.parametrize(
    ("words", "other"),
    [
        (("ls", "s3/b", "--json"), "--json"),
        (("du", "s3/b", "--json"), "--json"),
        (("find", "s3/b", "--json"), "--json"),
        (("ls", "s3/b", "-0"), "--print0"),
        (("find", "s3/b", "-0"), "--print0"),
        (("find", "s3/b", "-l"), "-l"),
        (("find", "s3/b", "--print", "{}"), "--print"),
        (("find", "s3/b", "--exec", "true"), "--exec"),
        (("find", "s3/b", "--delete"), "--delete"),
        (("ls", "s3", "s3/b"), "one table"),
    ],
)
def test_other_forms_are_refused_beside_it(fake: FakeS3, call: Call, words: tuple[str, ...], other: str) -> None:
    """A flag that would be without effect is a mistake."""
    result = call(*words, "--csv")

    assert (2, "", []) == (result.code, result.out, fake.ops())
    assert other in result.err

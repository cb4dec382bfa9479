"""cat: the bytes, and nothing but the bytes, whatever the nodes do."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Call as CallHook
from tests.support.fake_s3 import CutBody, FakeS3, FlipByte, IgnoreHeader, WrongETag

CONTENT = bytes(range(256)) * 40000  # 10 MB


def test_bytes_come_out_as_they_are(fake: FakeS3, call: Call) -> None:
    """Several objects one behind the other, without anything between."""
    fake.store.add("b", "one", b"\x00\xff\n")
    fake.store.add("b", "two", b"2")
    fake.store.add("b", "empty", b"")

    result = call("cat", "s3/b/one", "s3/b/empty", "s3/b/two")

    assert (0, b"\x00\xff\n2", b"") == (result.code, result.stdout, result.stderr)


@pytest.mark.parametrize(
    ("span", "expected"),
    [("0-3", b"0123"), ("8-", b"89"), ("-3", b"789"), ("bytes=4-4", b"4"), ("5-99", b"56789"), ("-99", b"0123456789")],
)
def test_range(fake: FakeS3, call: Call, span: str, expected: bytes) -> None:
    """The forms of HTTP."""
    fake.store.add("b", "k", b"0123456789")

    assert expected == call("cat", "--range", span, "s3/b/k").stdout


@pytest.mark.parametrize("span", ["-0", "5-2", "x", "-", "", "1-2-3", "0-3,5-6"])
def test_senseless_range_is_a_usage_error(fake: FakeS3, call: Call, span: str) -> None:
    """Servers differ in what they make of it; some send the whole object."""
    fake.store.add("b", "k", b"0123456789")

    result = call("cat", f"--range={span}", "s3/b/k")

    assert (2, b"") == (result.code, result.stdout)
    assert f"bad range {span!r}" in result.err


@pytest.mark.parametrize(("span", "expected"), [("2-5", b"2345"), ("-3", b"789"), ("7-", b"789")])
def test_range_on_a_server_that_knows_none(fake: FakeS3, call: Call, span: str, expected: bytes) -> None:
    """It sends everything; only what was asked for comes out."""
    fake.store.add("b", "k", b"0123456789")
    fake.fault(IgnoreHeader("range"), op="GetObject", times=0)

    assert expected == call("cat", "--range", span, "s3/b/k").stdout


def test_cut_body_goes_on_elsewhere(fake: FakeS3, call: Call) -> None:
    """From the very byte, and only while it is the same object."""
    fake.store.add("b", "k", CONTENT)
    fake.fault(CutBody(after=3_000_000), op="GetObject", nth=1)
    fake.fault(CutBody(after=1_000_000), op="GetObject", nth=2)

    result = call("cat", "s3/b/k")

    assert (0, True) == (result.code, CONTENT == result.stdout)
    gets = [request for request in fake.requests if request.op == "GetObject"]
    assert 3 == len(gets)
    assert all("if-match" in request.headers for request in gets[1:])


def test_cut_range_goes_on_inside_the_range(fake: FakeS3, call: Call) -> None:
    """The end of the range stays the end."""
    fake.store.add("b", "k", CONTENT)
    fake.fault(CutBody(after=1_000_000), op="GetObject")

    result = call("cat", "--range", "100-4000000", "s3/b/k")

    assert CONTENT[100:4_000_001] == result.stdout


def test_object_that_changes_meanwhile_is_an_error(fake: FakeS3, call: Call) -> None:
    """Never the head of one object and the tail of another."""
    fake.store.add("b", "k", CONTENT)
    fake.fault(CutBody(after=1_000_000), op="GetObject", nth=1)
    fake.fault(CallHook(lambda _: fake.store.add("b", "k", CONTENT[::-1])), op="GetObject", nth=2)

    result = call("cat", "s3/b/k")

    assert 1 == result.code
    assert "s3/b/k changed while it was read" in result.err
    assert CONTENT.startswith(result.stdout)


def test_body_that_is_always_cut_ends(fake: FakeS3, call: Call) -> None:
    """After as many fruitless attempts as --retries says."""
    fake.store.add("b", "k", CONTENT)
    fake.fault(CutBody(after=0), op="GetObject", times=0)

    result = call("cat", "--retries", "2", "s3/b/k")

    assert 0 != result.code
    assert b"" == result.stdout


def test_flipped_byte_is_noticed(fake: FakeS3, call: Call) -> None:
    """The MD5 is not the ETag: exit 1 tells whoever reads the pipe."""
    fake.store.add("b", "k", b"0123456789")
    fake.fault(FlipByte(at=4), op="*Object", times=0)

    result = call("cat", "s3/b/k")

    assert 1 == result.code
    assert "the object has 781e5e245d69b566979b86e28d23f2c7" in result.err


def test_etag_that_is_no_md5_is_not_compared(fake: FakeS3, call: Call) -> None:
    """Objects made of parts have another kind."""
    fake.store.add("b", "k", b"0123456789")
    fake.fault(WrongETag("0" * 32 + "-2"), op="*Object", times=0)

    assert 0 == call("cat", "s3/b/k").code


def test_glob_writes_all_matches_in_order(fake: FakeS3, call: Call) -> None:
    """No match is a missing key."""
    for key in ("a1", "a2", "b"):
        fake.store.add("b", key, key.encode())

    assert b"a1a2" == call("cat", "s3/b/a*").stdout
    assert 3 == call("cat", "s3/b/c*").code
    assert 3 == call("cat", "--no-glob", "s3/b/a*").code


def test_missing_key(fake: FakeS3, call: Call) -> None:
    """Reported; what exists is written all the same."""
    fake.store.add("b", "k", b"1")

    result = call("cat", "s3/b/none", "s3/b/k")

    assert (3, b"1") == (result.code, result.stdout)

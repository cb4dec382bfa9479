"""An answer that is no S3's is no success: a write counts with its ETag alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import MIB, Call, Drop, FakeS3, Fault, NoETag, Reset, Vanish, WebPage
from tests.support.run_cli import CliResult

Run = Callable[..., CliResult]
FAULTS = (NoETag(), WebPage(), WebPage({"ETag": '"5f3c-264"'}))


@pytest.fixture
def parts_fake(fake: FakeS3) -> FakeS3:
    """Give the store, with a bucket and one object in it."""
    fake.store.add("b", "k", b"content")
    fake.store.add("b", "large", os.urandom(6 * MIB))
    return fake


@pytest.mark.parametrize("fault", FAULTS, ids=("no etag", "page", "page with etag"))
@pytest.mark.parametrize("command", [("cp",), ("cp", "--checksum", "crc32"), ("mv",), ("sync",)])
def test_upload_without_a_plausible_answer_fails(
    call: Run, parts_fake: FakeS3, tmp_path: Path, command: tuple[str, ...], fault: Fault
) -> None:
    """Small files have a way of their own, and it is no softer."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("f", "g"):
        (tree / name).write_bytes(b"mine")
    parts_fake.fault(fault, op="PutObject", times=0)
    flags = () if command[0] == "sync" else ("-r",)

    result = call(*command, *flags, "--retries", "1", "tree", "s3/b/t/")

    assert 0 != result.code
    assert "-> s3/b/t/" not in result.out
    assert {"f", "g"} == {path.name for path in tree.iterdir()}


@pytest.mark.parametrize("fault", FAULTS, ids=("no etag", "page", "page with etag"))
@pytest.mark.parametrize("op", ["UploadPart", "CompleteMultipartUpload"])
def test_parts_without_a_plausible_answer_fail(
    call: Run, parts_fake: FakeS3, tmp_path: Path, op: str, fault: Fault
) -> None:
    """The object's own ETag may be missing only where the rest is a proper answer."""
    (tmp_path / "f").write_bytes(os.urandom(6 * MIB))
    parts_fake.fault(fault, op=op, times=0)
    acted = isinstance(fault, NoETag) and op == "CompleteMultipartUpload"

    result = call("mv", "--part-size", "5M", "--retries", "1", "f", "s3/b/new")

    assert acted == (result.code == 0) == ("new" in parts_fake.store.bodies("b"))
    assert acted is not (tmp_path / "f").exists()


@pytest.mark.parametrize("fault", FAULTS, ids=("no etag", "page", "page with etag"))
@pytest.mark.parametrize(("op", "flags"), [("CopyObject", ()), ("UploadPartCopy", ("--part-size", "5M"))])
def test_copy_without_a_plausible_answer_fails(
    call: Run, parts_fake: FakeS3, op: str, flags: tuple[str, ...], fault: Fault
) -> None:
    """Inside S3 as well."""
    parts_fake.fault(fault, op=op, times=0)

    result = call("mv", *flags, "--retries", "1", "s3/b/large", "s3/b/new")

    assert 0 != result.code
    assert "large" in parts_fake.store.bodies("b")


@pytest.mark.parametrize("fault", FAULTS, ids=("no etag", "page", "page with etag"))
def test_stream_and_speedtest_without_a_plausible_answer_fail(call: Run, parts_fake: FakeS3, fault: Fault) -> None:
    """What measures a server must not measure its error pages."""
    parts_fake.fault(fault, op="PutObject", times=0)

    piped = call("pipe", "--retries", "1", "s3/b/new", stdin=b"mine")
    tested = call("speedtest", "--retries", "0", "--duration", "1s", "--size", "1K", "s3/b/")

    assert 0 not in (piped.code, tested.code)
    assert "new" not in parts_fake.store.bodies("b") or isinstance(fault, NoETag)


@pytest.mark.parametrize("argv", [("rm", "s3/b/k"), ("mv", "s3/b/k", "got"), ("rb", "s3/b")])
def test_page_instead_of_a_delete_is_no_success(call: Run, parts_fake: FakeS3, argv: tuple[str, ...]) -> None:
    """Nothing was deleted, and the line must not say so."""
    parts_fake.fault(WebPage(), op="Delete*", times=0)

    result = call(*argv, "--retries", "1")

    assert 0 != result.code
    assert "eleted" not in result.out


def test_another_node_is_asked_when_one_answers_with_pages(call: Run, parts_fake: FakeS3, tmp_path: Path) -> None:
    """One node behind a broken load balancer is one bad node."""
    (tmp_path / "f").write_bytes(b"mine")
    parts_fake.fault(WebPage(), op="PutObject", endpoint=0, times=0)

    codes = [call("cp", "f", f"s3/b/n{number}").code for number in range(4)]

    assert [0] * 4 == codes
    assert all(parts_fake.store.bodies("b")[f"n{number}"] == b"mine" for number in range(4))


@pytest.mark.parametrize("fault", [Vanish(), Reset(after=0)], ids=("acted", "not acted"))
def test_no_clobber_finds_out_what_a_lost_answer_did(call: Run, fake: FakeS3, tmp_path: Path, fault: Fault) -> None:
    """A second conditional PUT at once would take the first one's success for somebody else's object."""
    fake.store.add("b", "other")
    (tmp_path / "f").write_bytes(b"mine")
    fake.fault(fault, op="PutObject")

    result = call("cp", "-n", "f", "s3/b/k")

    assert (0, b"mine") == (result.code, fake.store.bodies("b").get("k")), result.err


def test_no_clobber_leaves_what_came_while_an_answer_was_lost(call: Run, fake: FakeS3, tmp_path: Path) -> None:
    """The object of another client stays, and so does the source of a move."""
    fake.store.add("b", "other")
    (tmp_path / "f").write_bytes(b"mine")

    def come_first(_exchange: object) -> None:
        fake.store.add("b", "k", b"theirs")
        raise Drop(reset=True)

    fake.fault(Call(come_first), op="PutObject")

    result = call("mv", "-n", "f", "s3/b/k")

    assert (0, b"theirs", True) == (result.code, fake.store.bodies("b").get("k"), (tmp_path / "f").exists())

"""Ages count by the storage's clock, whatever this machine's says."""

from __future__ import annotations

import time

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import FakeS3
from tests.support.fake_s3.store import Upload

DAY_S = 86_400.0
COMMANDS = {
    "rm": ("rm", "-rf", "s3/b/", "--older-than", "12h"),
    "rm versions": ("rm", "-rf", "s3/b/", "--versions", "--older-than", "12h"),
    "find": ("find", "s3/b/", "--older-than", "12h", "--delete"),
}


def fill(fake: FakeS3, offset_s: float) -> None:
    """Have an object of one second and one of two days, by the clock of all nodes."""
    for node in fake.nodes:
        node.clock_offset_s = offset_s
    now = time.time() + offset_s
    fake.store.add("b", "new", b"x", mtime=now - 1)
    fake.store.add("b", "old", b"x", mtime=now - 2 * DAY_S)
    bucket = fake.store.bucket("b")
    for name, age_s in (("new", 1), ("old", 2 * DAY_S)):
        bucket.uploads[name] = Upload(name, name, now - age_s, {}, {}, "STANDARD")


@pytest.mark.parametrize("offset_s", [-DAY_S, 0.0, DAY_S])
@pytest.mark.parametrize("max_skew_s", [0.0, 900.0])
@pytest.mark.parametrize("command", COMMANDS)
def test_only_what_is_old_for_the_storage_is_deleted(
    call: Call, fake: FakeS3, command: str, max_skew_s: float, offset_s: float
) -> None:
    """This machine may be a day ahead: an object of one second is not half a day old."""
    fill(fake, offset_s)
    fake.quirks.max_skew_s = max_skew_s

    result = call(*COMMANDS[command])

    assert (0, ["new"]) == (result.code, list(fake.store.bodies("b"))), result.err


@pytest.mark.parametrize("offset_s", [-DAY_S, DAY_S])
def test_only_uploads_that_are_old_for_the_storage_are_aborted(call: Call, fake: FakeS3, offset_s: float) -> None:
    """One that is under way must not be taken for one that was forgotten."""
    fill(fake, offset_s)

    result = call("rm", "-rf", "s3/b/", "--incomplete", "--older-than", "12h")

    assert (0, ["new"]) == (result.code, list(fake.store.bucket("b").uploads)), result.err


@pytest.mark.parametrize("offset_s", [-DAY_S, DAY_S])
def test_what_is_new_for_the_storage_is_found(call: Call, fake: FakeS3, offset_s: float) -> None:
    """The other way round."""
    fill(fake, offset_s)

    result = call("find", "s3/b/", "--newer-than", "12h")

    assert (0, ["s3/b/new"]) == (result.code, result.lines)


def test_dates_are_nobodys_clock(call: Call, fake: FakeS3) -> None:
    """A date is meant as it stands, and costs no request."""
    fill(fake, DAY_S)

    result = call("find", "s3/b/", "--newer-than", "2026-01-01")

    assert (0, ["s3/b/new", "s3/b/old"]) == (result.code, result.lines)
    assert ["ListObjectsV2"] == [request.op for request in fake.requests]

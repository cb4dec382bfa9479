"""Listings by many requests at once, on servers that do not take start-after for what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import FakeS3, tell_lie

KEYS = [f"logs/{n // 40:02d}/{n % 40:03d}" for n in range(1600)]
PLACES = [f"{letter}/{n:03d}" for letter in "abcdefgh" for n in range(100)]


def fill(fake: FakeS3, keys: list[str], *, page: int) -> None:
    """Store keys, to be listed in short pages."""
    for key in keys:
        fake.store.add("b", key, b"x")
    fake.quirks.short_pages = page


@pytest.mark.parametrize("server", ["", "SeaweedFS 30GB 4.44"])
@pytest.mark.parametrize("page", [5, 20, 40])
@pytest.mark.parametrize("keys", [KEYS, PLACES], ids=["logs", "letters"])
@pytest.mark.parametrize("words", [("ls", "-r"), ("find",), ("find", "--unordered"), ("ls", "-r", "--unordered")])
def test_no_key_is_lost_where_a_cut_skips_a_directory(
    call: Call, fake: FakeS3, words: tuple[str, ...], keys: list[str], page: int, server: str
) -> None:
    """A range that begins with such a name leaves out what the one before it has seen: it is listed from there."""
    fill(fake, keys, page=page)
    tell_lie(fake, "skips-subtrees")
    fake.quirks.server = server

    result = call(*words, "s3/b/", "--jobs", "12", "-0")

    found = result.out.removesuffix("\0").split("\0")
    assert (0, sorted(keys)) == (result.code, sorted(name.removeprefix("s3/b/") for name in found))
    assert "--unordered" in words or found == sorted(found)


@pytest.mark.parametrize("jobs", ["1", "12"])
def test_page_that_ends_on_a_directorys_name_loses_nothing(call: Call, fake: FakeS3, jobs: str) -> None:
    """On a server that is known to skip, every page is had by the token of the one before."""
    keys = sorted([f"d/{n:02d}" for n in range(40)] + [f"d/{n:02d}/{m}" for n in range(40) for m in range(3)])
    fill(fake, keys, page=4)
    tell_lie(fake, "skips-subtrees")
    fake.quirks.server = "SeaweedFS 30GB 4.44"

    result = call("ls", "-r", "s3/b/", "--jobs", jobs, "-0")

    assert (0, keys) == (result.code, result.out.removesuffix("\0").split("\0"))


def test_sync_deletes_nothing_for_what_a_range_has_skipped(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """What is missing in a listing of the source would be deleted at the target."""
    fill(fake, KEYS, page=20)
    tell_lie(fake, "skips-subtrees")
    assert 0 == call("sync", "s3/b/", "out/", "--jobs", "1").code

    result = call("sync", "s3/b/", "out/", "--delete", "--jobs", "12")

    assert (0, len(KEYS)) == (result.code, sum(path.is_file() for path in (tmp_path / "out").rglob("*")))


@pytest.mark.parametrize("page", [5, 20, 40])
def test_order_that_breaks_in_the_middle_is_followed(call: Call, fake: FakeS3, page: int) -> None:
    """A server that walks directories shows only where names fit between: then it goes on one by one."""
    keys = [*KEYS, "logs/35-new", "logs/35.txt", "logs/36-new"]
    fill(fake, keys, page=page)
    tell_lie(fake, "tree-order")

    result = call("ls", "-r", "s3/b/", "--jobs", "8", "-0")

    found = result.out.removesuffix("\0").split("\0")
    assert (0, sorted(keys)) == (result.code, sorted(found))


@pytest.mark.parametrize("server", ["", "skips"])
def test_healthy_server_costs_no_more_requests(call: Call, fake: FakeS3, server: str) -> None:
    """Comparing the borders is free; only where they do not fit a range is listed again."""
    fill(fake, KEYS, page=20)

    result = call("ls", "-r", "s3/b/", "--jobs", "4")

    assert 0 == result.code
    assert len(fake.ops(op="ListObjectsV2")) <= 1.35 * len(KEYS) / 20

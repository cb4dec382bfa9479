"""--at: what reading commands tell of a bucket as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call, put_version
from tests.support.fake_s3 import FakeS3

FIRST, SECOND, THIRD = (f"1970-01-01T00:{minute:02d}:30Z" for minute in (1, 2, 3))


@pytest.fixture
def history(fake: FakeS3) -> FakeS3:
    """Give a bucket in which keys came, changed and went at minutes 1, 2 and 3."""
    fake.store.add("b", "gone")
    fake.store.bucket("b").remove("gone", "null")
    fake.store.bucket("b").versioning = "Enabled"
    put_version(fake, "b", "p/changed", b"one", 1)
    put_version(fake, "b", "p/changed", b"two", 2)
    put_version(fake, "b", "p/changed", b"three", 3)
    put_version(fake, "b", "p/deleted", b"was", 1)
    put_version(fake, "b", "p/deleted", None, 2)
    put_version(fake, "b", "p/new", b"new", 3)
    put_version(fake, "b", "p/sub/back", b"back", 1)
    put_version(fake, "b", "p/sub/back", None, 2)
    put_version(fake, "b", "p/sub/back", b"again", 3)
    put_version(fake, "b", "q/late", b"late", 3)
    return fake


def names(call: Call, *words: str) -> list[str]:
    """Give the URLs of the records of a command."""
    result = call(*words, "--json")
    assert 0 == result.code, result.err
    return [str(record["url"]) for record in result.records]


LISTS: list[tuple[tuple[str, ...], str, list[str]]] = [
    (("ls", "-r", "s3/b"), FIRST, ["p/changed", "p/deleted", "p/sub/back"]),
    (("ls", "-r", "s3/b"), SECOND, ["p/changed"]),
    (("ls", "-r", "s3/b"), THIRD, ["p/changed", "p/new", "p/sub/back", "q/late"]),
    (("ls", "s3/b"), SECOND, ["p/"]),
    (("ls", "s3/b/p/"), SECOND, ["p/changed"]),
    (("ls", "s3/b/p/"), FIRST, ["p/changed", "p/deleted", "p/sub/"]),
    (("ls", "s3/b/p/deleted"), FIRST, ["p/deleted"]),
    (("ls", "s3/b/p/*d"), FIRST, ["p/changed", "p/deleted"]),
    (("find", "s3/b", "--name", "*back"), FIRST, ["p/sub/back"]),
    (("find", "s3/b", "--type", "d"), SECOND, ["p/"]),
    (("find", "s3/b", "--maxdepth", "2"), FIRST, ["p/changed", "p/deleted"]),
]


@pytest.mark.parametrize("short", [0, 1, 2], ids=["whole pages", "1 a page", "2 a page"])
@pytest.mark.parametrize(("words", "at", "expected"), LISTS)
def test_listings_of_the_past(
    history: FakeS3, call: Call, words: tuple[str, ...], at: str, expected: list[str], short: int
) -> None:
    """Each key by the version of then; histories may span pages, and prefixes had a key then."""
    history.quirks.short_pages = short

    assert [f"s3/b/{name}" for name in expected] == names(call, *words, "--at", at)


@pytest.mark.parametrize(
    "words",
    [("ls", "-r"), ("du",), ("find",), ("cp", "-r", "s3/b/p", "s3/b/t"), ("sync", "--delete", "s3/b/p", "s3/b/t")],
    ids=lambda words: words[0],
)
def test_no_past_is_made_of_versions_without_order(history: FakeS3, call: Call, words: tuple[str, ...]) -> None:
    """Where a page names its delete markers apart, what was deleted then would be there, and copied."""
    history.quirks.markers_apart = True
    history.store.add("b", "t/deleted", b"kept")

    result = call(*words, "--at", SECOND, *(() if words[0] in ("cp", "sync") else ("s3/b/p/",)))

    assert 6 == result.code, result.err
    assert "the server does not list the newest version of s3/b/p/deleted first" in result.err
    assert b"kept" == history.store.bodies("b")["t/deleted"]


def test_sizes_of_the_past(history: FakeS3, call: Call) -> None:
    """In key order and by many requests at once alike."""
    for words in ((), ("--jobs", "4"), ("-d", "1")):
        records = call("du", "--json", *words, "--at", FIRST, "s3/b").records
        assert {"type": "usage", "url": "s3/b", "objects": 3, "bytes": 10} == records[-1]


def test_contents_of_the_past(history: FakeS3, call: Call, tmp_path: Path) -> None:
    """cat, head and cp read the version of then; a key that was not there is not found."""
    assert [b"one", b"two", b"three"] == [
        call("cat", "--at", at, "s3/b/p/changed").stdout for at in (FIRST, SECOND, THIRD)
    ]
    assert b"onewas" == call("cat", "--at", FIRST, "s3/b/p/*d").stdout
    assert b"tw" == call("head", "-c2", "--at", SECOND, "s3/b/p/changed").stdout
    assert b"two" == call("cp", "--at", SECOND, "s3/b/p/changed", "-").stdout
    assert 0 == call("cp", "--at", FIRST, "s3/b/p/deleted", "file").code
    assert b"was" == (tmp_path / "file").read_bytes()
    missing = [call(*words, "--at", SECOND, "s3/b/p/deleted", *rest).code for words, rest in (
        (("cat",), ()), (("head",), ()), (("cp",), ("x",)), (("cp",), ("-",))
    )]  # fmt: skip
    assert [3, 3, 3, 3] == missing


@pytest.mark.parametrize("verb", [("cp", "-r"), ("sync",), ("cp", "--files-from", "names")])
def test_trees_of_the_past(history: FakeS3, call: Call, tmp_path: Path, verb: tuple[str, ...]) -> None:
    """Downloads and copies inside the storage; the target is of now."""
    (tmp_path / "names").write_text("changed\ndeleted\nsub/back\n")
    for target in ("down", "s3/b/restored"):
        result = call(*verb, "--at", FIRST, "s3/b/p", target)
        assert 0 == result.code, result.err

    then = {"changed": b"one", "deleted": b"was", "sub/back": b"back"}
    found = {
        str(path.relative_to(tmp_path / "down")): path.read_bytes()
        for path in (tmp_path / "down").rglob("*")
        if path.is_file()
    }
    assert then == found
    assert {f"restored/{name}": body for name, body in then.items()} == {
        key: body for key, body in history.store.bodies("b").items() if key.startswith("restored/")
    }


def test_sync_from_the_past_replaces_what_is_newer(history: FakeS3, call: Call) -> None:
    """An old version is older than any target: what counts is the content."""
    history.store.add("b", "t/changed", b"eno")
    history.store.add("b", "t/deleted", b"was")
    history.store.add("b", "t/other", b"x")

    result = call("sync", "--delete", "--at", FIRST, "s3/b/p", "s3/b/t")

    assert 0 == result.code, result.err
    assert {"t/changed": b"one", "t/deleted": b"was", "t/sub/back": b"back"} == {
        key: body for key, body in history.store.bodies("b").items() if key.startswith("t/")
    }
    assert "3 checked, 2 copied, 1 deleted" in result.err


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("ls", "--at", "1h", "s3/plain"), "s3/plain keeps no versions: nothing tells how it was at 1h"),
    (("cat", "--at", "1h", "s3/plain/k"), "keeps no versions"),
    (("cp", "--at", "1h", "s3/plain/k", "x"), "keeps no versions"),
    (("sync", "--at", "1h", "s3/plain", "x"), "keeps no versions"),
    (("ls", "--at", "1h"), "needs a bucket"),
    (("ls", "--at", "soon", "s3/b"), "soon"),
    (("ls", "--at", "1h", "--versions", "s3/b"), "--at shows one version"),
    (("du", "--at", "1h", "--versions", "s3/b"), "exclude each other"),
    (("find", "--at", "1h", "--delete", "s3/b"), "see undo"),
    (("cat", "--at", "1h", "--version-id", "x", "s3/b/k"), "exclude each other"),
    (("cp", "--at", "1h", "here", "s3/b/k"), "here is not in S3"),
    (("sync", "--at", "1h", ".", "s3/b/k"), ". is not in S3"),
    (("mv", "--at", "1h", "s3/b/p/new", "x"), "goes with cp"),
    (("du", "--at", "1h", "--processes", "2", "s3/b"), "write a date"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=lambda value: " ".join(value)[:40])
def test_what_has_no_past_is_refused(history: FakeS3, call: Call, words: tuple[str, ...], message: str) -> None:
    """One line, and nothing was changed."""
    history.store.add("plain", "k")
    before = history.store.bodies("b")

    result = call(*words)

    assert (2, "") == (result.code, result.out)
    assert message in result.err
    assert before == history.store.bodies("b")

"""What undo brings back, and that it removes nothing without a version to go back to."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable

import pytest

from tests.cli.conftest import Call, put_version
from tests.support.fake_s3 import Answer, Exchange, FakeS3, internal_error
from tests.support.fake_s3 import Call as Calling
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

MINUTE = 60.0
FIRST, SECOND, THIRD = (f"1970-01-01T00:{minute:02d}:30Z" for minute in (1, 2, 3))
NOTE = "s3pool: back to 1970-01-01T00:01:30.000Z\n"


@pytest.fixture
def history(fake: FakeS3) -> FakeS3:
    """Give a bucket in which keys came, changed and went at minutes 1, 2 and 3."""
    fake.store.add("bkt", "old", b"old")
    fake.store.bucket("bkt").versioning = "Enabled"
    put_version(fake, "bkt", "p/changed", b"one", 1)
    put_version(fake, "bkt", "p/changed", b"two", 2)
    put_version(fake, "bkt", "p/changed", b"three", 3)
    put_version(fake, "bkt", "p/deleted", b"was", 1)
    put_version(fake, "bkt", "p/deleted", None, 2)
    put_version(fake, "bkt", "p/new", b"new", 3)
    put_version(fake, "bkt", "p/returned", b"gone at 2", 1)
    put_version(fake, "bkt", "p/returned", None, 2)
    put_version(fake, "bkt", "p/returned", b"back at 3", 3)
    put_version(fake, "bkt", "p2", b"neighbour", 3)
    return fake


def versions(fake: FakeS3) -> dict[str, list[bytes | None]]:
    """Give all versions, the newest first, with None for a delete marker."""
    room = fake.store.bucket("bkt")
    return {key: [None if v.marker else v.body for v in room.versions[key]] for key in sorted(room.versions)}


BEFORE: dict[str, list[bytes | None]] = {
    "old": [b"old"],
    "p/changed": [b"three", b"two", b"one"],
    "p/deleted": [None, b"was"],
    "p/new": [b"new"],
    "p/returned": [b"back at 3", None, b"gone at 2"],
    "p2": [b"neighbour"],
}
BACK: list[tuple[tuple[str, ...], str, dict[str, list[bytes | None]]]] = [
    (
        ("s3/bkt/p/",),
        FIRST,
        {
            "p/changed": [b"one"],
            "p/deleted": [b"was"],
            "p/new": [None, b"new"],
            "p/returned": [b"gone at 2"],
        },
    ),
    (
        ("s3/bkt",),
        SECOND,
        {
            "p/changed": [b"two", b"one"],
            "p/new": [None, b"new"],
            "p/returned": [None, b"gone at 2"],
            "p2": [None, b"neighbour"],
        },
    ),
    (("s3/bkt/p/changed",), FIRST, {"p/changed": [b"one"]}),
    (("-r", "s3/bkt/p"), THIRD, {}),
    (("--exclude", "*e*d", "s3/bkt/p/"), FIRST, {"p/new": [None, b"new"]}),
    (
        ("--keep-history", "s3/bkt/p/"),
        FIRST,
        {
            "p/changed": [b"one", b"three", b"two", b"one"],
            "p/deleted": [b"was", None, b"was"],
            "p/new": [None, b"new"],
            "p/returned": [b"gone at 2", b"back at 3", None, b"gone at 2"],
        },
    ),
    (
        ("--keep-history", "s3/bkt/p/"),
        SECOND,
        {
            "p/changed": [b"two", b"three", b"two", b"one"],
            "p/new": [None, b"new"],
            "p/returned": [None, b"back at 3", None, b"gone at 2"],
        },
    ),
]


@pytest.mark.parametrize("short", [0, 1, 3], ids=["whole pages", "1 a page", "3 a page"])
@pytest.mark.parametrize(("words", "at", "expected"), BACK)
def test_keys_are_as_they_were(
    history: FakeS3,
    call: Call,
    words: tuple[str, ...],
    at: str,
    expected: dict[str, list[bytes | None]],
    short: int,
) -> None:
    """What came later goes; a key that was not there is hidden, not destroyed. A second run has nothing to do."""
    history.quirks.short_pages = short

    first = call("undo", "--at", at, "--force", *words)
    after = versions(history)
    again = call("undo", "--at", at, "--force", *words)

    assert (0, 0) == (first.code, again.code), first.err
    assert {**BEFORE, **expected} == after
    assert (after, "") == (versions(history), again.out)
    assert "0 keys changed" in again.err


def test_the_lines(history: FakeS3, call: Call) -> None:
    """Each version that goes, the moment, and the counts."""
    result = call("undo", "--at", FIRST, "s3/bkt/p/deleted")

    assert "Deleted: s3/bkt/p/deleted (version v-" in result.out
    assert result.err.startswith(f"{NOTE}s3pool: 1 keys changed, 0 were as they had been; 1 deleted in ")
    *records, summary = call("undo", "--json", "--force", "--at", FIRST, "s3/bkt/p/").records
    assert [("delete", "s3/bkt/p/changed")] * 2 == [(record["type"], record["url"]) for record in records[:2]]
    assert (3, 1) == (summary["changed"], summary["unchanged"])


def test_a_rehearsal_changes_nothing(history: FakeS3, call: Call) -> None:
    """It needs no --force, and says what would be done."""
    for words in ([], ["--keep-history"]):
        result = call("undo", "--dry-run", "--at", FIRST, *words, "s3/bkt")
        assert 0 == result.code
        assert result.out.startswith("(dry run) ")
    assert BEFORE == versions(history)


def test_since_counts_from_now(history: FakeS3, call: Call) -> None:
    """An age, by the storage's clock."""
    history.store.add("bkt", "old", b"young")
    history.store.bucket("bkt").versions["old"][0].mtime = history.clock()

    assert 0 == call("undo", "--since", "1h", "s3/bkt/old").code
    assert {**BEFORE, "old": [b"old"]} == versions(history)


def test_trees_ask_or_need_force(history: FakeS3, run_cli: CliRunner) -> None:
    """Cron must not undo by accident; on a terminal the default is no."""
    run_cli.environ.update(history.environment)
    refused = run_cli("undo", "--at", FIRST, "s3/bkt/p/")
    assert (2, True) == (refused.code, "--force" in refused.err)
    for answer, code in (("n", 6), ("y", 0)):
        controller, terminal = pty.openpty()
        process = run_cli.start(
            "undo", "--at", FIRST, "s3/bkt/p/", stdin=terminal, stderr=terminal, stdout=subprocess.DEVNULL
        )
        os.close(terminal)
        asked = b""
        while b"[y/N]" not in asked:
            asked += os.read(controller, 1000)
        assert (BEFORE, True) == (versions(history), b"s3/bkt/p/" in asked)
        os.write(controller, answer.encode() + b"\n")
        assert code == process.wait(60)
        os.close(controller)
    assert [b"one"] == versions(history)["p/changed"]


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("--at", FIRST, "s3/plain"), 2, "s3/plain keeps no versions"),
    (("--at", FIRST, "s3"), 2, "needs a bucket"),
    (("s3/bkt/p/new",), 2, "--since --at"),
    (("--since", "1h", "--at", FIRST, "s3/bkt/p/new"), 2, "not allowed with"),
    (("--since", "soon", "s3/bkt/p/new"), 2, "soon"),
    (("--at", FIRST, "s3/bkt/p"), 3, "-r brings them back"),
    (("--at", FIRST, "s3/bkt/none"), 3, "it has no version"),
    (("--at", FIRST, "s3/none/k"), 3, "NoSuchBucket"),
]


@pytest.mark.parametrize(("words", "code", "message"), REFUSED)
def test_what_cannot_be_undone_is_told(
    history: FakeS3, call: Call, words: tuple[str, ...], code: int, message: str
) -> None:
    """One line, and nothing was changed."""
    history.store.add("plain", "k")

    result = call("undo", *words)

    assert (code, "", BEFORE) == (result.code, result.out, versions(history))
    assert message in result.err


def test_suspended_versioning_loses_nothing(history: FakeS3, call: Call) -> None:
    """A marker or a copy would replace the null version, the only one with its bytes."""
    history.store.bucket("bkt").versioning = "Suspended"
    put_version(history, "bkt", "p/null", b"only here", 3)
    before = versions(history)

    kept = call("undo", "--at", FIRST, "--keep-history", "s3/bkt/p/null")
    hidden = call("undo", "--at", FIRST, "s3/bkt/p/null")

    assert [2, 6] == [kept.code, hidden.code]
    assert "a delete would lose its bytes" in hidden.err
    assert before == versions(history)
    assert 0 == call("undo", "--at", FIRST, "s3/bkt/p/deleted").code
    assert [b"was"] == versions(history)["p/deleted"]


FAULTS: list[tuple[str, Callable[[], object]]] = [
    ("ListObjectVersions", internal_error),
    ("ListObjectVersions", lambda: Answer(200, b"<ListVersionsResult></ListVersionsResult>")),
    ("GetBucketVersioning", internal_error),
]


@pytest.mark.parametrize(("op", "fault"), FAULTS)
def test_nothing_goes_without_a_whole_listing(
    history: FakeS3, call: Call, op: str, fault: Callable[[], object]
) -> None:
    """The version of then must be listed before later ones go."""
    history.fault(fault(), op=op, times=0)  # type: ignore[arg-type]

    assert 1 == call("undo", "--retries", "0", "--force", "--at", FIRST, "s3/bkt").code
    assert BEFORE == versions(history)


def test_a_history_that_breaks_off_loses_nothing(history: FakeS3, call: Call) -> None:
    """The page with the version of then does not come: its key is left as it is."""
    history.quirks.short_pages = 3  # old, and two of the three versions of p/changed
    history.fault(internal_error(), op="ListObjectVersions", nth=2, times=0)

    assert 1 == call("undo", "--retries", "0", "--force", "--jobs", "1", "--at", FIRST, "s3/bkt").code
    assert BEFORE == versions(history)


def test_a_key_stays_whose_newest_version_is_not_listed_first(history: FakeS3, call: Call) -> None:
    """What came later cannot be told from such a list, and a version that goes is gone for good."""
    put_version(history, "bkt", "p/changed", None, 4)
    before = versions(history)
    history.quirks.markers_apart = True

    result = call("undo", "--force", "--at", FIRST, "s3/bkt/p/changed", "s3/bkt/p/deleted")

    assert (6, "", before) == (result.code, result.out, versions(history))
    assert "s3/bkt/p/changed was left as it is: the server does not list its newest version first" in result.err
    assert "s3/bkt/p/deleted was left as it is" in result.err


def test_an_interrupted_run_goes_on(history: FakeS3, run_cli: CliRunner) -> None:
    """The listing of versions is all that a second run needs."""
    run_cli.environ.update(history.environment)
    for number in range(1500):
        put_version(history, "bkt", f"many/{number:04d}", b"one", 1)
        put_version(history, "bkt", f"many/{number:04d}", None, 2)
    second = threading.Event()

    def hang(exchange: Exchange) -> None:
        second.set()
        exchange.node.ended.wait()

    history.fault(Calling(hang), op="DeleteObjects", nth=2)
    words = ("undo", "--force", "--at", FIRST, "s3/bkt/many/", "--workers", "1", "--read-timeout", "600")
    process = run_cli.start(*words)
    assert second.wait(60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert (130, True) == (process.returncode, b"the same command again goes on" in err)
    again = run_cli("undo", "--force", "--at", FIRST, "s3/bkt/many/")
    assert 0 == again.code, again.err
    assert {f"many/{number:04d}": [b"one"] for number in range(1500)} == {
        key: bodies for key, bodies in versions(history).items() if key.startswith("many/")
    }


def test_governance_is_bypassed_on_demand(history: FakeS3, call: Call) -> None:
    """For versions alone that nothing else lets go."""
    call("undo", "--at", FIRST, "--bypass-governance", "s3/bkt/p/deleted")

    (delete,) = [request for request in history.requests if request.method in ("DELETE", "POST")]
    assert "true" == delete.headers["x-amz-bypass-governance-retention"]


def test_what_stands_beside_the_bytes_comes_back(history: FakeS3, call: Call) -> None:
    """Of two versions with the same bytes the later one may have other metadata: that is a change as well."""
    for minute, kind in ((1, "text/one"), (2, "text/two")):
        history.store.add("bkt", "p/kind", b"same", mtime=minute * MINUTE, **{"content-type": kind})

    first = call("undo", "--at", FIRST, "--keep-history", "s3/bkt/p/kind")
    again = call("undo", "--at", FIRST, "--keep-history", "s3/bkt/p/kind")

    assert "s3/bkt/p/kind -> s3/bkt/p/kind\n" == first.out
    assert ("", True) == (again.out, "0 keys changed, 1 were as they had been" in again.err)
    kinds = [version.headers["content-type"] for version in history.store.bucket("bkt").versions["p/kind"]]
    assert ["text/one", "text/two", "text/one"] == kinds


@pytest.mark.live
def test_versions_of_a_real_cluster(rgw: RgwCluster, run_cli: CliRunner, bucket_name: str) -> None:
    """RGW's listings, markers, retentions and copies in place are what undo, --at and rm rely on."""
    run_cli.environ.update(rgw.environment)
    assert 0 == run_cli("mb", "--lock", bucket_name).code
    try:
        for number in range(30):
            run_cli("pipe", f"s3/{bucket_name}/p/{number:02d}", stdin=b"one")
        listed = run_cli("ls", "-r", "--versions", "--json", f"s3/{bucket_name}").records
        at = max(str(record["last_modified"]) for record in listed)
        clock = at
        while clock == at:  # SeaweedFS and versitygw tell whole seconds
            run_cli("pipe", f"s3/{bucket_name}/clock", stdin=b"tick")
            clock = str(run_cli("stat", "--json", f"s3/{bucket_name}/clock").records[0]["last_modified"])
        run_cli("rm", "-r", "--force", f"s3/{bucket_name}/p/")
        run_cli("pipe", f"s3/{bucket_name}/p/00", stdin=b"two")
        run_cli("pipe", f"s3/{bucket_name}/p/new", stdin=b"new")

        def now(*words: str) -> list[str]:
            listed = run_cli("ls", "-r", "--json", *words, f"s3/{bucket_name}/p/").records
            return [str(record["key"]) for record in listed]

        then = [f"p/{number:02d}" for number in range(30)]
        assert (["p/00", "p/new"], then) == (now(), now("--at", at))
        assert b"one" == run_cli("cat", "--at", at, f"s3/{bucket_name}/p/00").stdout
        assert 0 == run_cli("sync", "--at", at, f"s3/{bucket_name}/p", "down").code
        assert 30 == len(list((run_cli.home / "down").iterdir()))
        kept = run_cli("undo", "--keep-history", "--force", "--at", at, f"s3/{bucket_name}/p/00")
        assert (0, b"one") == (kept.code, run_cli("cat", f"s3/{bucket_name}/p/00").stdout), kept.err
        done = run_cli("undo", "--force", "--at", at, f"s3/{bucket_name}")
        assert 0 == done.code, done.err
        assert (then, b"one") == (now(), run_cli("cat", f"s3/{bucket_name}/p/00").stdout)
        again = run_cli("undo", "--force", "--at", at, f"s3/{bucket_name}")
        assert (0, "") == (again.code, again.out)
        assert (0, 0) == tuple(run_cli(*words, f"s3/{bucket_name}").code for words in (("check", "--nodes"), ("tree",)))
        assert 0 == run_cli("check", "down", f"s3/{bucket_name}/p").code
    finally:
        run_cli("rb", "--force", "--yes", bucket_name)

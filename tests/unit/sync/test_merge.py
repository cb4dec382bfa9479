from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import pytest

from s3pool.errors import ProtocolError, UnorderedError
from s3pool.filters import WHOLE, NameFilter, Shard
from s3pool.location import LocalPath, S3Path
from s3pool.model import ListPage, ObjectInfo
from s3pool.sync.compare import Batch, Record, merge
from s3pool.sync.job import ListedNames
from s3pool.sync.journal import Journal
from s3pool.sync.pair import choose_pair, paths_for
from s3pool.sync.plan import RecordReader
from s3pool.sync.scan import Ahead, RemoteTree
from s3pool.transfer.resume import Unfinished, state_directory

NAMES = ["a", "a-b", "a.b", "a/b", "a0", "b\uffff", "b\U00010000"]


def blocks(*names: str, size: int = 2) -> list[Batch]:
    """Give these names in blocks of a size."""
    starts = range(0, len(names), size)
    return [Batch(names[start : start + size], [1] * len(names[start : start + size])) for start in starts]


def flat(pairs: Iterable[tuple[Batch | None, Batch | None]]) -> list[tuple[str, str]]:
    """Give the names of both sides one by one, "" where one side has none."""
    found: list[tuple[str, str]] = []
    for ours, theirs in pairs:
        count = len((ours or theirs or Batch((), ())).names)
        nothing = [""] * count
        found += zip(ours.names if ours else nothing, theirs.names if theirs else nothing, strict=True)
    return found


def page(*keys: str) -> ListPage:
    """Give a page of a listing."""
    return ListPage(tuple(ObjectInfo(key, 1, "2026-01-22T20:44:33.219Z") for key in keys), (), truncated=False)


def test_streams_are_merged_in_byte_order() -> None:
    """Pairs meet, whatever stands around them; nothing is lost at the ends."""
    ours, theirs = blocks(*NAMES[::2]), blocks(*NAMES[1:5], size=3)

    pairs = flat(merge(ours, theirs))

    assert [
        ("a", ""),
        ("", "a-b"),
        ("a.b", "a.b"),
        ("", "a/b"),
        ("a0", "a0"),
        ("b\U00010000", ""),
    ] == pairs


def test_any_two_sides_are_merged_as_one_by_one() -> None:
    """Blocks end anywhere, empty ones stand between, runs are as long as they are."""
    random = Random(1)
    for _ in range(300):
        everything = sorted(
            {"".join(random.choices("ab/-", k=random.randint(1, 5))) for _ in range(60)}, key=str.encode
        )
        mine, others = ([name for name in everything if random.random() < share] for share in (0.7, random.random()))
        ours, theirs = (blocks(*side, size=random.randint(1, 30)) for side in (mine, others))
        ours.insert(random.randint(0, len(ours)), Batch((), ()))

        pairs = flat(merge(ours, theirs))

        either = sorted({*mine, *others}, key=str.encode)
        assert [(name if name in mine else "", name if name in others else "") for name in either] == pairs


def test_records_come_with_their_names_and_stale_ones_are_forgotten(tmp_path: Path) -> None:
    """A name that no side has any more needs no record; an excluded one keeps it."""
    record = Record(1, "s", "e", "m")
    path = str(tmp_path / "x.sqlite")
    journal = Journal(path)
    for name in (b"a", b"b", b"b.log", b"c", b"d"):
        journal.note(name, record)
    journal.write()

    reader = RecordReader(journal, NameFilter([("exclude", "*.log")]), WHOLE)
    found = [row and Record(*row[1:]) for names in ([b"a", b"aa"], [b"c"]) for row in reader.take(names)]
    journal.close()

    again = Journal(path)
    assert [record, None, record] == found
    assert [b"a", b"b.log", b"c", b"d"] == [row[0] for rows in again.iter_rows() for row in rows]
    again.close()


def test_keys_that_come_too_late_are_noticed_or_sorted() -> None:
    """A merge cannot go back: it ends there, and begins anew with names that are sorted on disk."""
    pages = [page("p/b", "p/c"), page("p/a", "p/e", "p/x.log"), page("p/d", "p/a")]
    names = NameFilter([("exclude", "*.log")])
    tree = RemoteTree(pages, "p/", names=names)
    seen: list[str] = []

    with pytest.raises(UnorderedError):
        any(seen.extend(block.names) for block in tree)
    sorting = RemoteTree(pages, "p/", names=names, sorts=True)
    in_order = [name for block in sorting for name in block.names]

    assert (["b", "c"], list("abcde")) == (seen, in_order)
    assert (False, False, 7) == (tree.is_ordered, sorting.is_ordered, sorting.seen)


def test_an_error_of_a_listing_reaches_who_reads_it() -> None:
    """It happens in another thread, and must not pass for the end."""

    def pages() -> Iterator[int]:
        yield 1
        raise ProtocolError("broken")

    ahead = Ahead(pages())
    seen: list[int] = []

    with pytest.raises(ProtocolError, match="broken"):
        any(map(seen.append, ahead))

    assert [1] == seen


def test_a_listing_that_nobody_reads_ends_when_it_is_closed() -> None:
    """A run that is cut short leaves no thread behind that goes on listing."""
    ended = threading.Event()

    def pages() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            ended.set()

    ahead = Ahead(pages(), depth=1)
    assert 0 == next(iter(ahead))

    ahead.close()

    assert ended.wait(30)


def test_listed_names_know_their_directories() -> None:
    """A walk need not enter others."""
    names = ListedNames(["a/b/c", "d", "x.log"], NameFilter([("exclude", "*.log")]))

    assert [True, True, False, False] == [names.admits(name) for name in ("d", "a/b/c", "a/b", "x.log")]
    assert [True, True, True, False] == [names.may_contain(name) for name in ("", "a/", "a/b/", "a/c/")]
    assert {"a/b/c", "d"} == names.wanted


def test_state_is_of_a_pair_in_both_directions_and_of_a_shard(tmp_path: Path) -> None:
    """What an upload left in sync a download finds in sync; all of it is of one pool."""
    local, remote = LocalPath(str(tmp_path)), S3Path("b", "p")
    up, down = choose_pair(local, remote), choose_pair(remote, LocalPath(f"{tmp_path}/."))
    other = choose_pair(local, S3Path("b", "p2"))

    def paths(route: object, shard: Shard = Shard(0, 1), pool: str = "x") -> tuple[str, str]:  # noqa: B008
        found = paths_for(route, directory="/state", shard=shard, pool=pool)  # type: ignore[arg-type]
        return found.journal, found.lock

    assert paths(up) == paths(down)
    assert set(paths(up)).isdisjoint(paths(up, pool="y"))
    assert 3 == len({paths(up), paths(other), paths(up, Shard(0, 2))})


@pytest.mark.parametrize(
    ("state_home", "expected"), [("/s", "/s/s3pool"), ("", "/h/.local/state/s3pool"), ("rel", "/h/.local/state/s3pool")]
)
def test_the_state_directory_follows_xdg(state_home: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative one is to be ignored, says the specification."""
    monkeypatch.setenv("HOME", "/h")

    assert expected == state_directory({"XDG_STATE_HOME": state_home})


def test_unfinished_transfers_are_taken_up_once(tmp_path: Path) -> None:
    """Two workers must not go on with the same upload."""
    path = str(tmp_path / "u.sqlite")
    first = Unfinished(path)
    first.begin_upload("b", "k", upload_id="u1", fingerprint="f")
    first.begin_download("/t", name="n", fingerprint="g")
    first.add_range("n", 0)
    first.add_range("n", 16)
    assert "" == first.find_upload("b", "k", "f")
    first.close()

    second = Unfinished(path)
    left = (second.left_uploads(), second.left_downloads())
    found = [second.find_upload("b", "k", print_) for print_ in ("other", "f", "f")]
    partial = second.find_download("/t", "g")

    assert ([("u1", "b", "k")], [("n", "/t")]) == left
    assert ["", "u1", ""] == found
    assert partial is not None
    assert ("n", {0, 16}) == (partial.name, partial.done)
    assert ([], []) == (second.left_uploads(), second.left_downloads())
    second.end_upload("u1")
    second.end_download("n")
    assert not second.knows_part("n")
    second.close()


def test_unfinished_transfers_of_running_processes_are_theirs(tmp_path: Path) -> None:
    """In a file that many share, only the dead leave something behind."""
    path = str(tmp_path / "u.sqlite")
    running = Unfinished(path, shared=True)
    start = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
    running._owner = f"{os.uname().nodename}:{os.getppid()}:{start}"  # a living process
    running.begin_upload("b", "k", upload_id="u1", fingerprint="f")
    running.close()

    other = Unfinished(path, shared=True)

    assert "" == other.find_upload("b", "k", "f")
    other.close()


def test_a_broken_memory_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It only costs that bytes are sent again."""
    path = tmp_path / "u.sqlite"
    path.write_bytes(b"rubbish" * 1000)
    memory = Unfinished(str(path))

    memory.begin_upload("b", "k", upload_id="u1", fingerprint="f")

    assert "" == memory.find_upload("b", "k", "f")
    assert "cannot be remembered" in caplog.text
    assert not path.exists()
    memory.close()

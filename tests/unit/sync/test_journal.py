from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest

from s3pool.errors import JournalError
from s3pool.sync.compare import Record
from s3pool.sync.journal import ROWS_PER_READ, Journal

LISTED = "2026-01-22T20:44:33.000Z"
ONE = Record(1, "stamp", "etag", "time")
FILE = (5, 1 << 63, 10, 1 << 70, 7)  # inode numbers may use all 64 bits, and times more


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the place of a journal."""
    return tmp_path / "x.sqlite"


def records_of(journal: Journal) -> dict[bytes, Record]:
    """Give what a journal remembers."""
    return {name: Record(*fields) for rows in journal.iter_rows() for name, *fields in rows}


def pairs_of(path: Path) -> dict[bytes, Record]:
    """Give what a file remembers."""
    journal = Journal(str(path))
    try:
        return records_of(journal)
    finally:
        journal.close()


def test_pairs_survive_in_byte_order(tmp_path: Path) -> None:
    """The next run merges them with two sorted streams, more than one read's worth."""
    path = tmp_path / "state" / "x.sqlite"
    names = [f"{number:05d}".encode() for number in range(ROWS_PER_READ + 1)] + [b"", b"\xff", "ü".encode()]
    journal = Journal(str(path))

    for name in reversed(names):
        journal.note(name, ONE)
    journal.close()

    assert sorted(names) == list(pairs_of(path))


def test_a_note_can_be_taken_back(path: Path) -> None:
    """What was deleted must not be taken for known when it comes again."""
    journal = Journal(str(path))
    journal.note(b"a", ONE)
    journal.note(b"b", ONE)
    journal.write()

    journal.note(b"a", None)
    journal.close()

    assert {b"b": ONE} == pairs_of(path)


def test_what_was_written_survives_without_a_close(path: Path) -> None:
    """A run that is killed has closed nothing."""
    journal = Journal(str(path))
    journal.note(b"a", ONE)
    journal.write()

    assert {b"a": ONE} == pairs_of(path)
    journal.close()


def test_pairs_can_be_noted_while_they_are_read(path: Path) -> None:
    """Outcomes come home while the merge is still reading."""
    names = [f"{number:05d}".encode() for number in range(3 * ROWS_PER_READ)]
    journal = Journal(str(path))
    for name in names:
        journal.note(name, ONE)
    journal.write()

    seen = []
    for rows in journal.iter_rows():
        seen += [row[0] for row in rows]
        journal.note_rows([(row[0], 2, "s", "e", "") for row in rows[:-1]])
        journal.note(rows[-1][0], Record(2, "s", "e"))
    journal.close()

    assert names == seen
    assert {Record(2, "s", "e")} == set(pairs_of(path).values())


def test_hashes_are_of_a_file_as_it_was(tmp_path: Path) -> None:
    """A file that changed has no known hash any more."""
    journal = Journal(str(tmp_path / "x.sqlite"))
    journal.note_hash(FILE, 0, "abc")
    journal.note_hash(FILE, 8, "def-2")
    journal.write()

    assert {0: "abc", 8: "def-2"} == journal.hashes_of(FILE)
    assert [{}, {}] == [journal.hashes_of((*FILE[:3], 8, 7)), journal.hashes_of((*FILE[:4], 8))]
    journal.close()


def test_doomed_names_come_back_in_order_and_only_once(tmp_path: Path) -> None:
    """They are kept on disk, for there may be millions; the empty name is one, too."""
    journal = Journal(str(tmp_path / "x.sqlite"))
    names = [(f"{number:05d}".encode(), number) for number in range(ROWS_PER_READ + 1)]

    journal.mark([*reversed(names), (b"", 1), names[0]])

    assert 1 == journal.unmark(names[1][0])
    assert 0 == journal.unmark(b"never there")
    assert [(b"", 1), names[0], *names[2:]] == list(journal.iter_to_delete())
    journal.close()


def test_doomed_names_do_not_survive(tmp_path: Path) -> None:
    """A run that was killed before its deletes has decided nothing for the next one."""
    journal = Journal(str(tmp_path / "x.sqlite"))
    journal.mark([(b"a", 1)])
    journal.close()

    again = Journal(str(tmp_path / "x.sqlite"))

    assert [] == list(again.iter_to_delete())
    again.close()


def test_a_rehearsal_reads_and_writes_nothing(path: Path) -> None:
    """--dry-run knows what is in sync, and leaves no trace."""
    journal = Journal(str(path))
    journal.note(b"a", ONE)
    journal.close()
    before = path.read_bytes()

    rehearsal = Journal(str(path), read_only=True)
    rehearsal.note(b"b", ONE)
    rehearsal.note_hash(FILE, 0, "abc")
    rehearsal.mark([(b"c", 1)])

    assert {b"a": ONE} == records_of(rehearsal)
    assert [(b"c", 1)] == list(rehearsal.iter_to_delete())
    rehearsal.close()
    assert before == path.read_bytes()


def test_a_rehearsal_makes_no_file(tmp_path: Path) -> None:
    """Nor a directory for it."""
    rehearsal = Journal(str(tmp_path / "state" / "x.sqlite"), read_only=True)

    assert {} == records_of(rehearsal)
    rehearsal.close()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("content", [b"this is no database " * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_corrupt_file_is_set_aside(
    tmp_path: Path, path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The state is a hint: losing it must never stop a sync."""
    path.write_bytes(content)

    journal = Journal(str(path), now=lambda: 42.0)
    journal.note(b"a", ONE)
    journal.close()

    assert content == (tmp_path / "x.sqlite.corrupt-42").read_bytes()
    assert {b"a": ONE} == pairs_of(path)
    assert "set aside" in caplog.text


def test_a_file_that_breaks_later_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pages in the middle are read only when their names' turn comes."""
    journal = Journal(str(path))
    for number in range(5000):
        journal.note(f"{number:05d}".encode(), ONE)
    journal.close()
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)

    broken = Journal(str(path))
    assert len(records_of(broken)) < 5000
    broken.note(b"new", ONE)
    broken.close()

    assert "set aside" in caplog.text
    assert {} == pairs_of(path)


def test_another_version_is_set_aside(tmp_path: Path, path: Path) -> None:
    """A newer s3pool may have other tables."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()

    assert {} == pairs_of(path)
    assert 1 == len(list(tmp_path.glob("*.corrupt-*")))


def test_without_a_place_for_it_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A read-only home costs time, not the run."""
    (tmp_path / "file").write_bytes(b"")

    with caplog.at_level(logging.WARNING):
        journal = Journal(str(tmp_path / "file" / "x.sqlite"))
    journal.note(b"a", ONE)
    journal.write()

    assert {b"a": ONE} == records_of(journal)
    assert "goes on without it" in caplog.text
    journal.close()


def test_doomed_names_that_cannot_be_kept_are_an_error(tmp_path: Path) -> None:
    """A delete that is forgotten is harmless; one that is made up is not."""
    journal = Journal(str(tmp_path / "x.sqlite"))
    journal.close()

    with pytest.raises(JournalError):
        journal.mark([(b"a", 1)])

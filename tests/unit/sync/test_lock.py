from __future__ import annotations

import os
from pathlib import Path

import pytest

from s3pool.errors import JournalError, JournalLockedError
from s3pool.sync.pair import PairLock


def test_a_second_run_is_turned_away(tmp_path: Path) -> None:
    """At once, and with the number of the process that has the lock."""
    path = str(tmp_path / "locks" / "x")

    with PairLock(path), pytest.raises(JournalLockedError, match=f"by process {os.getpid()}"):
        PairLock(path)


def test_a_lock_that_was_released_can_be_taken(tmp_path: Path) -> None:
    """The file stays behind; it is not the file that locks."""
    path = tmp_path / "x"

    with PairLock(str(path)):
        pass

    with PairLock(str(path)):
        assert path.exists()


def test_a_lock_of_the_users_own_must_be_possible(tmp_path: Path) -> None:
    """Who names a lock relies on it."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(JournalError, match="cannot lock"):
        PairLock(str(tmp_path / "file" / "x"))


def test_without_a_place_for_the_default_lock_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A home that cannot be written to is no reason to copy nothing."""
    (tmp_path / "file").write_bytes(b"")

    with PairLock(str(tmp_path / "file" / "x"), optional=True):
        assert "nothing keeps a second run" in caplog.text

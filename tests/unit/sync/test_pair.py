"""The files of a pair's state, which belong to its pools, and its lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from s3pool.errors import JournalError, JournalLockedError
from s3pool.filters import WHOLE
from s3pool.location import S3Path
from s3pool.sync.compare import COPY
from s3pool.sync.pair import PairLock, SyncPair, paths_for
from s3pool.transfer.resume import pool_of

ROUTE = SyncPair(COPY, source=S3Path("b", "p"), target=S3Path("b", "p"))


def test_everything_is_of_the_pools() -> None:
    """Two clusters may have buckets of one name, and objects of one size and ETag that have changed all the same."""
    one, other = (paths_for(ROUTE, directory="/state", shard=WHOLE, pool=pool) for pool in ("a b", "a c"))

    assert {one.journal, one.unfinished, one.lock}.isdisjoint((other.journal, other.unfinished, other.lock))


def test_a_pool_is_known_by_any_of_its_nodes(tmp_path: Path) -> None:
    """One more node, or another order of them, is no other cluster; what cannot be written is no failure."""
    place = str(tmp_path / "state")
    one = pool_of(["http://a", "http://b"], place)
    assert one == pool_of(["http://b", "http://a"], place) == pool_of(["http://c", "http://b"], place)
    assert one == pool_of(["http://c"], place)
    other = pool_of(["http://d"], place, read_only=True)
    assert one != other == pool_of(["http://d"], "/proc/none") == pool_of(["http://d"], place)
    assert len((tmp_path / "state" / "pools").read_text().splitlines()) == 4


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

"""Two pools may have the same names: what is remembered of a pair belongs to its pools."""

from __future__ import annotations

from s3pool.location import S3Path
from s3pool.shard import WHOLE
from s3pool.sync.compare import COPY
from s3pool.sync.route import Route
from s3pool.sync.state import StatePaths, paths_for

ROUTE = Route(COPY, source=S3Path("b", "p"), target=S3Path("b", "p"))


def paths(source_profile: str, pool: str = "http://a http://b") -> StatePaths:
    """Give the files of the pair."""
    return paths_for(ROUTE, directory="/state", shard=WHOLE, pool=pool, source_profile=source_profile)


def test_record_is_of_the_pool_that_the_source_is_in() -> None:
    """Another pool's object of the same name, size and ETag may have changed all the same."""
    assert paths("old").journal != paths("older").journal != paths("").journal
    assert paths("old").unfinished != paths("older").unfinished


def test_record_outlives_a_node_that_is_added() -> None:
    """Only the lock is of the very endpoints."""
    before, after = paths("old"), paths("old", "http://a http://b http://c")

    assert (before.journal, before.unfinished) == (after.journal, after.unfinished)
    assert before.lock != after.lock

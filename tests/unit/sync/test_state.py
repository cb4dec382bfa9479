"""Two pools may have the same names: what is remembered of a pair belongs to its pools."""

from __future__ import annotations

from pathlib import Path

from s3pool.filters import WHOLE
from s3pool.location import S3Path
from s3pool.sync.compare import COPY
from s3pool.sync.pair import SyncPair, paths_for
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

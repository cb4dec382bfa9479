"""Random programs for a while: longer in CI and by ``make chaos``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.resilience.chaos.__main__ import run_programs
from tests.resilience.chaos.backends import FakeBackend, RgwBackend
from tests.support.rgw import RgwCluster

SECONDS = float(os.environ.get("S3POOL_CHAOS_SECONDS", "40"))
# A gate judges a change, so its programs are the same each time; elsewhere they are new ones.
SEED = 1 if os.environ.get("CI") else int.from_bytes(os.urandom(4), "big")


def test_random_programs_break_no_promise(tmp_path: Path) -> None:
    """Nobody thought of all combinations of commands and faults."""
    backend = FakeBackend()
    try:
        counts, failures = run_programs(backend, ("b1", "b2"), seed=SEED, minutes=SECONDS / 60, root=tmp_path)
    finally:
        backend.stop()

    assert [] == [report.text() for report in failures]
    assert counts["programs"] > 0


@pytest.mark.live
def test_random_programs_break_no_promise_on_rgw(rgw: RgwCluster, tmp_path: Path, bucket_name: str) -> None:
    """A fake only knows what its author knew."""
    backend = RgwBackend(rgw, bucket_name)
    buckets = (f"{bucket_name}-1", f"{bucket_name}-2")
    try:
        counts, failures = run_programs(backend, buckets, seed=SEED, minutes=SECONDS / 60, root=tmp_path)
    finally:
        backend.stop()

    assert [] == [report.text() for report in failures]
    assert counts["programs"] > 0

from __future__ import annotations

from tests.bench.measure import Sample
from tests.bench.targets import COMMANDS, TARGETS, judge
from tests.bench.workloads import WORKLOADS

MIB = 1 << 20


def once(seconds: float, *, cpu_s: float = 1.0, peak_mib: int = 60, rate: float = 0.0) -> list[tuple[int, Sample]]:
    """Give one round."""
    return [(1, Sample(seconds, cpu_s, peak_mib * MIB, rate))]


def verdicts(workload: str, **rounds: list[tuple[int, Sample]]) -> dict[tuple[str, str], bool]:
    """Tell for each pair of peer and metric whether the target is met."""
    return {(found.peer, found.target.metric): found.is_met for found in judge(workload, rounds)}


def test_every_workload_has_targets_and_every_target_a_workload() -> None:
    """A name written differently would be a target that nobody judges."""
    assert {target.workload for target in TARGETS} == {workload.name for workload in WORKLOADS}
    assert set(COMMANDS) == {workload.name for workload in WORKLOADS if not workload.unit}


def test_time_has_to_stay_below_its_bound() -> None:
    """Three times faster is a third of the time."""
    found = verdicts("small-put", s3pool=once(1.0, cpu_s=2.0), s5cmd=once(3.1, cpu_s=3.0))

    assert found["s5cmd", "seconds"]
    assert not found["s5cmd", "cpu_s"]


def test_rate_has_to_stay_above_its_bound() -> None:
    """More is better for a proxy."""
    assert verdicts("proxy-small", s3pool=once(5, rate=30.0), haproxy=once(5, rate=100.0))["haproxy", "rate"]
    assert not verdicts("proxy-small", s3pool=once(5, rate=20.0), haproxy=once(5, rate=100.0))["haproxy", "rate"]


def test_memory_of_an_interpreter_is_free() -> None:
    """More than a peer's is allowed up to 45 MiB, and not beyond."""
    assert verdicts("stat", s3pool=once(1, peak_mib=45), s5cmd=once(1, peak_mib=10))["s5cmd", "peak_bytes"]
    assert not verdicts("stat", s3pool=once(1, peak_mib=46), s5cmd=once(1, peak_mib=10))["s5cmd", "peak_bytes"]


def test_sync_is_compared_with_the_fastest_peer() -> None:
    """Which that is, the run tells; the free memory does not count there."""
    peers = {"s5cmd": once(4.0, peak_mib=100), "rclone": once(2.0, peak_mib=80), "aws": once(9.0)}

    found = verdicts("sync-noop", s3pool=once(1.0, peak_mib=44), **peers)

    assert found["rclone", "seconds"]
    assert not found["rclone", "peak_bytes"]


def test_strictest_target_of_a_pair_counts() -> None:
    """Faster than aws says nothing beside a third of its time."""
    found = [verdict for verdict in judge("stat", {}) if verdict.target.peer == "aws"]

    assert [("seconds", 0.3)] == [(verdict.target.metric, verdict.target.bound) for verdict in found]


def test_what_was_not_measured_is_not_met() -> None:
    """A peer that is not installed must not count as beaten."""
    assert [(None, False)] == [(found.ratio, found.is_met) for found in judge("proxy-large", {"s3pool": once(1)})]

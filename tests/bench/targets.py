"""What s3pool has to reach, workload by workload, and the judgement on a run.

A target is a bound on a ratio s3pool/peer. Where less is better the ratio has to stay at or
below it, and for rates at or above.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.bench.figures import Round, figure, ratio
from tests.bench.site import server_name

OURS = "s3pool"
UNVERIFIED = "s3pool --no-verify"
PASSTHROUGH = "s3pool passthrough"
FASTEST = "the fastest"  # of the peers, by its median
STARTUP_BYTES = 45 << 20  # of memory, which an interpreter may take whatever a peer does with less
NAMES = {"seconds": "time", "cpu_s": "CPU", "peak_bytes": "memory", "rate": "rate"}
Rounds = Mapping[str, Sequence[Round]]  # by tool


class Target(NamedTuple):
    """A bound on s3pool's metric as a multiple of a peer's; up to ``free`` no peer counts."""

    workload: str
    peer: str
    metric: str
    bound: float
    free: int = 0
    ours: str = OURS


class Verdict(NamedTuple):
    """A target and what was measured; no ratio when either side is missing."""

    target: Target
    peer: str
    ratio: float | None
    is_met: bool

    @property
    def rule(self) -> str:
        """Say what is asked for."""
        rule = f"{'>=' if self.target.metric == 'rate' else '<='} {self.target.bound:.3g}"
        return f"{rule} or {self.target.free >> 20} MiB" if self.target.free else rule


def _faster(workload: str, peer: str, *, time: float = 1.0, cpu: float = 0.0) -> Iterator[Target]:
    """Ask for so many times the speed, and where given so many times less processor time."""
    yield Target(workload, peer, "seconds", 1 / time)
    if cpu:
        yield Target(workload, peer, "cpu_s", 1 / cpu)


COMMANDS = (
    "small-put",
    "small-get",
    "list",
    "delete",
    "large-get",
    "large-get-tls",
    "large-put",
    "large-put-tls",
    "many-put",
    "many-get",
    "sync-noop",
    "stat",
)
ON_SERVER = (
    *(Target(name, FASTEST, "seconds", 1.0) for name in COMMANDS),
    *(Target(name, UNVERIFIED, "seconds", 1.2) for name in ("small-get", "large-get", "many-get")),
    *(Target(f"warp-{kind}", "sidekick", "rate", 1.0, ours=PASSTHROUGH) for kind in ("get", "put", "mixed")),
)
TARGETS = (
    *_faster("small-put", "s5cmd", time=3, cpu=3),
    *_faster("small-get", "s5cmd", time=3, cpu=3),
    *_faster("list", "s5cmd", time=8, cpu=10),
    *_faster("delete", "s5cmd"),
    *_faster("large-get", "s5cmd", time=2),
    *_faster("large-get", "curl"),
    *_faster("large-get-tls", "s5cmd", time=1.3),
    *_faster("large-put", "s5cmd", time=1.3),
    *_faster("large-put-tls", "s5cmd", time=1.3),
    *_faster("many-put", "s5cmd", cpu=1),
    *_faster("many-put", "rclone", cpu=1),
    *_faster("many-get", "s5cmd", cpu=1),
    *_faster("many-get", "rclone", cpu=1),
    *_faster("sync-noop", FASTEST, time=2),
    Target("sync-noop", FASTEST, "peak_bytes", 0.5),
    Target("stat", "aws", "seconds", 0.3),
    Target("proxy-small", "haproxy", "rate", 0.25),
    Target("proxy-large", "haproxy", "rate", 0.9),
    *(Target(name, peer, "seconds", 1.0) for name in COMMANDS for peer in ("rclone", "aws")),
    *(Target(name, "s5cmd", "peak_bytes", 1.0, STARTUP_BYTES) for name in COMMANDS),
)


def judge(workload: str, rounds: Rounds) -> list[Verdict]:
    """Compare one workload's rounds with its targets; of two for the same pair the strictest counts."""
    strictest: dict[tuple[str, str, str], Target] = {}
    for target in ON_SERVER if server_name() != "rgw" else TARGETS:
        if target.workload == workload:
            pair = (target.ours, target.peer, target.metric)
            known = strictest.setdefault(pair, target)
            if target.bound < known.bound:
                strictest[pair] = target
    return [_verdict(target, rounds) for target in strictest.values()]


def _verdict(target: Target, rounds: Rounds) -> Verdict:
    peer = _fastest(rounds) if target.peer == FASTEST else target.peer
    ours, theirs = rounds.get(target.ours, ()), rounds.get(peer, ())
    measured = ratio(ours, theirs, metric=target.metric)
    if measured is None:
        return Verdict(target, peer, None, is_met=False)
    is_met = measured >= target.bound if target.metric == "rate" else measured <= target.bound
    is_free = figure(ours, target.metric).median <= target.free
    return Verdict(target, peer, measured, is_met=is_met or is_free)


def _fastest(rounds: Rounds) -> str:
    peers = {
        tool: figure(theirs, "seconds").median
        for tool, theirs in rounds.items()
        if not tool.startswith(OURS) and theirs
    }
    return min(peers, key=lambda tool: peers[tool], default=FASTEST)

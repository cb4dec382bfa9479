"""``python -m tests.resilience.chaos``: random programs until the time is over, or one seed again."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.resilience.chaos.backends import Backend, FakeBackend, RgwBackend
from tests.resilience.chaos.engine import Engine, Report, shrink
from tests.resilience.chaos.programs import make_program
from tests.support.rgw import RgwCluster


def make_backend(name: str) -> tuple[Backend, tuple[str, ...]]:
    """Return the store and the names of the buckets to use."""
    if name == "fake":
        return FakeBackend(), ("b1", "b2")
    cluster = RgwCluster.attach(os.environ["S3POOL_TEST_RGW_DIR"])
    prefix = f"chaos-{os.getpid()}-{os.urandom(3).hex()}"
    return RgwBackend(cluster, prefix), (f"{prefix}-1", f"{prefix}-2")


def run_programs(
    backend: Backend,
    buckets: tuple[str, ...],
    *,
    root: Path,
    seed: int,
    minutes: float = 0.0,
    programs: int = 0,
    small: bool = False,
    stay: bool = False,
) -> tuple[Counter[str], list[Report]]:
    """Run programs from a seed on, until the time or the number is reached; return counts and failures."""
    counts: Counter[str] = Counter()
    failures: list[Report] = []
    end = time.monotonic() + minutes * 60 if minutes else None
    engine = Engine(backend, root)
    try:
        while (end is None or time.monotonic() < end) and not (programs and counts["programs"] >= programs):
            report = engine.run(make_program(seed, buckets, signed=backend.signed))
            counts["programs"] += 1
            counts["commands"] += report.commands
            counts.update(f"hit {hit.partition(':')[0]}" for hit in report.hits)
            if report.violations:
                failures.append(shrink(engine, report) if small else report)
                tell(failures[-1], signed=backend.signed)
                if not stay:
                    break
            seed += 1
    finally:
        engine.close()
    return counts, failures


def tell(report: Report, *, signed: bool) -> None:
    """Print a failure, and how it is seen again."""
    print(report.text(), flush=True)
    print(f"replay: make chaos SEED={report.program.seed} PROGRAMS=1{' BACKEND=rgw' if signed else ''}\n", flush=True)


def main() -> int:
    """Read the words and run."""
    parser = argparse.ArgumentParser(prog="tests.resilience.chaos")
    parser.add_argument("--seed", type=int, default=None, help="the first seed; by chance without it")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--programs", type=int, default=0)
    parser.add_argument("--backend", choices=("fake", "rgw"), default="fake")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--stop", action="store_true", help="at the first violation")
    words = parser.parse_args()
    if not words.minutes and not words.programs:
        words.minutes = 5.0
    seed = int.from_bytes(os.urandom(4), "big") if words.seed is None else words.seed
    backend, buckets = make_backend(words.backend)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="s3pool-chaos-") as root:
            counts, failures = run_programs(
                backend,
                buckets,
                root=Path(root),
                seed=seed,
                minutes=words.minutes,
                programs=words.programs,
                small=not words.no_shrink,
                stay=not words.stop,
            )
    finally:
        backend.stop()
    took = time.monotonic() - started
    print(
        f"{counts['programs']} programs from seed {seed}, {counts['commands']} commands, {took:.0f} s, "
        f"{len(failures)} with violations"
    )
    for name, count in sorted(counts.items()):
        if name.startswith("hit "):
            print(f"  {count:6} {name[4:]}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())

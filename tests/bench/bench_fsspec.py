"""How fast the filesystem is beside s3fs on one node, in turns: small files, one large read, a listing, writes.

Run it where s3fs is installed, with the root of the repository in PYTHONPATH:
``python -m tests.bench.bench_fsspec --dir DIR`` takes a Ceph RGW that runs already (tests/support/rgw.py).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import fsspec

from s3pool.fsspec import S3PoolFileSystem
from tests.support.rgw import RgwCluster

BUCKET = "bench-fsspec"
SMALL_BYTES, LARGE_BYTES = 64 << 10, 256 << 20


def small_reads(fs: Any, count: int) -> None:
    """Open and read files one after another, as a data loader's worker does."""
    for number in range(count):
        with fs.open(f"{BUCKET}/small/{number:05}", "rb") as file:
            assert len(file.read()) == SMALL_BYTES


def large_read(fs: Any, _: int) -> None:
    """Read one file from its beginning to its end."""
    with fs.open(f"{BUCKET}/large", "rb") as file:
        while file.read(1 << 20):
            pass


def listing(fs: Any, _: int) -> None:
    """List all there is, nothing remembered."""
    fs.invalidate_cache()
    assert len(fs.find(BUCKET)) > 1


def writes(fs: Any, count: int) -> None:
    """Write small files one after another."""
    for number in range(count):
        with fs.open(f"{BUCKET}/written/{number:05}", "wb") as file:
            file.write(bytes(SMALL_BYTES))


def main() -> None:
    """Measure each in turns, and print the fastest turn of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--listed", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    cluster = RgwCluster.attach(args.dir)
    node = cluster.endpoints[0]
    os.environ |= {**cluster.environment, "S3_POOL": node}
    keys = {"key": cluster.access_key, "secret": cluster.secret_key}
    both = {
        "s3pool": S3PoolFileSystem(endpoints=[node], skip_instance_cache=True),
        "s3fs": fsspec.filesystem("s3", endpoint_url=node, skip_instance_cache=True, **keys),
    }
    ours = both["s3pool"]
    ours.mkdir(BUCKET)
    try:
        ours.pipe({f"{BUCKET}/small/{number:05}": os.urandom(SMALL_BYTES) for number in range(args.count)})
        ours.pipe({f"{BUCKET}/listed/{number:05}": b"" for number in range(args.listed)})
        ours.pipe({f"{BUCKET}/large": os.urandom(LARGE_BYTES)})
        cases: tuple[Callable[[Any, int], None], ...] = (small_reads, large_read, listing, writes)
        for case in cases:
            times: dict[str, list[float]] = {name: [] for name in both}
            for turn in range(args.turns):
                for name in sorted(both, reverse=turn % 2 == 1):
                    started = time.monotonic()
                    case(both[name], args.count)
                    times[name].append(time.monotonic() - started)
            best = {name: min(spans) for name, spans in times.items()}
            text = "  ".join(f"{name} {seconds:6.2f} s" for name, seconds in best.items())
            print(f"{case.__name__:12} {text}  ratio {best['s3pool'] / best['s3fs']:.2f}", flush=True)
    finally:
        ours.rm(BUCKET, recursive=True)


if __name__ == "__main__":
    main()

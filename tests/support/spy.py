"""Runs the command line in this process and reports what it cost: modules, threads, memory.

SPY_REPORT=FILE python tests/support/spy.py ls s3/bucket
"""

import sys
import threading

# Only what main() itself needs may be loaded before it; json and os would hide an import.
started = []
_start = threading.Thread.start


def _count(thread):
    started.append(thread.name)
    _start(thread)


threading.Thread.start = _count
before = set(sys.modules)


def _run():
    from s3pool.cli.main import main

    try:
        return main(sys.argv[1:])
    finally:
        loaded = sorted(set(sys.modules))
        _report(loaded)


def _report(loaded):
    import json
    import os

    # Not getrusage(): its maximum counts the parent's memory before the exec as well.
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    with open(os.environ["SPY_REPORT"], "w", encoding="utf-8") as report:
        json.dump({"modules": loaded, "before": sorted(before), "threads": started, "peak_kib": peak_kib}, report)


if __name__ == "__main__":
    raise SystemExit(_run())

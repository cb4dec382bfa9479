"""Signals that arrive while the main thread is about to wait for one."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import random
import signal
from s3pool.proxy.run import Signals
signals = Signals()
signal.signal(signal.SIGALRM, lambda *_: signals.on_signal(signal.SIGHUP, None))
for _ in range(5000):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0002))
    signals.wait(0.0001)
print("waited")
"""
TIMEOUT_S = 300.0  # by which a process that waits for ever is told from a slow one


def test_signal_inside_a_wait_does_not_stop_it() -> None:
    """A handler that waits for what the interrupted thread holds waits for ever, and no signal ends the process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )

    assert "waited\n" == done.stdout

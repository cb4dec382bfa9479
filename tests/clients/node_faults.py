"""Measure what clients without retries see of nodes that fail behind the proxy: client x fault.

    CLIENTS_PYTHON=.venv/clients/bin/python python -m tests.clients.node_faults [NAME ...]   # needs radosgw

200 small PUTs and GETs by 8 threads, 200 MB up in parts and down in one piece, on four gateways of which
one fails. Prints the table of the manual; ends with 1 when a goal is missed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import boto3

from s3pool.model import Credentials
from tests.clients.zoo import HERE, PYTHON, environment
from tests.support.proxying import await_sound, proxy_process
from tests.support.rgw import RgwCluster

CLIENTS = {
    "boto3": [PYTHON, str(HERE / "fault_worker.py"), "boto3"],
    "obstore": [PYTHON, str(HERE / "fault_worker.py"), "obstore"],
    "aws-sdk-go-v2": ["aws-sdk-go-v2-faults"],
}
FAILING = 1
BUCKET = "faults"
PHASES = ("put", "get", "up", "down")
READ_S, WRITE_S = 3.0, 10.0  # that a fault may cost
TWICE_S = 16.0  # that small requests go on for while a node freezes twice
SPAN_S = 3.0  # of a freeze, and of the time between two
Cell = dict[str, Any]


class Fault:
    """One thing that happens to a gateway: before a phase, in its middle, and what ends it."""

    def __init__(self, cluster: RgwCluster) -> None:
        self._cluster = cluster

    def before(self) -> None:
        """Act before the first request."""

    def middle(self) -> None:
        """Act when half of the work is done."""

    def end(self) -> None:
        """Have the gateway back."""
        self._cluster.thaw(FAILING)
        self._cluster.start(FAILING)


class Killed(Fault):
    """The process dies: its connections are reset, new ones refused."""

    def middle(self) -> None:
        """Kill it."""
        self._cluster.kill(FAILING)


class FrozenBefore(Fault):
    """It was stopped a moment ago, and nobody knows."""

    def before(self) -> None:
        """Stop it."""
        self._cluster.freeze(FAILING)


class FrozenInTheMiddle(Fault):
    """It stops with requests under way."""

    def middle(self) -> None:
        """Stop it."""
        self._cluster.freeze(FAILING)


class FrozenTwice(Fault):
    """It stops, goes on, and stops again."""

    def middle(self) -> None:
        """Let somebody else do it: the phase goes on."""
        threading.Thread(target=self._freeze_twice, daemon=True).start()

    def _freeze_twice(self) -> None:
        for _ in range(2):
            self._cluster.freeze(FAILING)
            time.sleep(SPAN_S)
            self._cluster.thaw(FAILING)
            time.sleep(SPAN_S)


FAULTS: dict[str, type[Fault]] = {
    "none": Fault,
    "killed": Killed,
    "frozen before": FrozenBefore,
    "frozen in the middle": FrozenInTheMiddle,
    "frozen twice": FrozenTwice,
}


def run_cell(
    client: str, fault_name: str, cluster: RgwCluster, env: dict[str, str], settle: Callable[[], object]
) -> Cell:
    """Let a client work through its phases, the fault once in each."""
    found: Cell = {}
    fault = FAULTS[fault_name](cluster)
    seconds = {"ZOO_SECONDS": str(TWICE_S)} if fault_name == "frozen twice" else {}
    process = subprocess.Popen(
        CLIENTS[client], env={**env, **seconds}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        for line in process.stdout or ():
            word, phase, *rest = line.split(None, 2)
            if word == "ready":
                settle()
                fault.before()
                print("go", file=process.stdin, flush=True)
            elif word == "half":
                fault.middle()
            elif word == "done":
                fault.end()
                found[phase] = json.loads(rest[0])
    finally:
        fault.end()
        process.kill()
        process.wait()
    return found


def shown(cell: Cell, phase: str, healthy: Cell) -> str:
    """Return the errors, and the longest wait or what the transfer took, and whether a goal is missed."""
    if phase not in cell:
        return "did not run !"
    errors, seconds = len(cell[phase]["errors"]), cell[phase]["seconds"]
    usual_s = 0.0 if phase in ("put", "get") else healthy.get(phase, {}).get("seconds", 0.0)
    is_missed = errors or seconds - usual_s > (READ_S if phase in ("get", "down") else WRITE_S)
    return f"{errors}, {seconds:.1f}" + (" !" if is_missed else "")


def main(names: list[str]) -> int:
    """Run the cells, and print the table."""
    keep = {client: words for client, words in CLIENTS.items() if not names or client in names}
    is_missed = False
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        cluster = stack.enter_context(RgwCluster.create(4))
        url, admin = stack.enter_context(proxy_process(cluster.environment, home, "--retry-ambiguous-put"))
        keys = Credentials(cluster.access_key, cluster.secret_key)
        env = environment(url, BUCKET, keys, "", home)
        words = [sys.executable, "-m", "s3pool", "mb", f"s3/{BUCKET}"]
        subprocess.run(words, env={**env, **cluster.environment}, check=True)
        names = {"aws_access_key_id": keys.access_key, "aws_secret_access_key": keys.secret_key}
        reader = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **names)

        def ask() -> None:
            reader.head_bucket(Bucket=BUCKET)

        print("tab(|);\nl l l l l l.\nclient|fault|200 PUTs|200 GETs|200 MB up|200 MB down")
        for client in keep:
            if not shutil.which(CLIENTS[client][0], path=env["PATH"]):
                print(f"left out: {client} is not installed", file=sys.stderr)
                continue
            healthy: Cell = {}
            for fault in FAULTS:
                cell = run_cell(client, fault, cluster, env, lambda: await_sound(admin, ask))
                healthy = healthy or cell
                cells = [shown(cell, phase, healthy) for phase in PHASES]
                is_missed |= any(text.endswith("!") for text in cells)
                print(client.replace("-", "\\-"), fault, *cells, sep="|", flush=True)
                for phase, found in cell.items():
                    for error in found["errors"][:3]:
                        print(client, fault, phase, error, file=sys.stderr)
    return int(is_missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

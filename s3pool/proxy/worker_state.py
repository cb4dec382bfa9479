"""The notice states of a proxy with several processes: a directory of small JSON files.

Workers put up what they count; the process with the admin listener adds it up, probes the nodes for all, and puts up
which ones are drained or down. A file is replaced as a whole, so nobody reads half of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from s3pool.pool.breaker import CLOSED, OPEN
from s3pool.pool.node import Node

INTERVAL_S = 0.5
SNAPSHOT = "orders.json"
SUMMED = ("in_flight", "requests", "failures", "throttled", "retries", "hedges", "answers", "answer_seconds",
          "bytes_sent", "bytes_received")  # fmt: skip

COUNTED = ("connections", "retrying")
ROOMS = ("replay_memory", "spool")

Record = dict[str, Any]


class StateDirectory:
    """One directory, seen from one process."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def put(self, name: str, record: Record) -> None:
        """Write a record atomically; on a full disk the old one stays."""
        with contextlib.suppress(OSError):
            fd, path = tempfile.mkstemp(dir=self._directory, prefix=".")
            with os.fdopen(fd, "w") as file:
                json.dump(record, file)
            os.replace(path, os.path.join(self._directory, name))

    def get(self, name: str) -> Record:
        """Return a record; an empty one where there is none."""
        try:
            with open(os.path.join(self._directory, name)) as file:
                record = json.load(file)
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def remove(self, name: str) -> None:
        """Remove a record, if there is one."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._directory, name))

    def workers(self) -> list[Record]:
        """Return the records of all workers."""
        try:
            names = sorted(name for name in os.listdir(self._directory) if name.startswith("worker-"))
        except OSError:
            return []
        return [record for name in names if (record := self.get(name))]


class StatePublisher:
    """The thread of a process that looks at the states and puts up news, twice a second."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="s3pool-states", daemon=True)

    def start(self) -> None:
        """Start the thread; it acts once before."""
        self._act()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(INTERVAL_S * 4)

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            self._act()


def snapshot(nodes: Iterable[Node]) -> Record:
    """Return the nodes' states as probed, for the workers."""
    nodes = list(nodes)
    return {
        "drained": [node.endpoint.url for node in nodes if node.is_draining],
        "down": [node.endpoint.url for node in nodes if node.breaker.state == OPEN],
    }


def apply_snapshot(nodes: Iterable[Node], orders: Record, before: Record) -> None:
    """Apply changes since ``before`` to a worker's nodes."""
    drained, down = set(orders.get("drained", ())), set(orders.get("down", ()))
    was_down = set(before.get("down", ()))
    for node in nodes:
        url = node.endpoint.url
        node.is_draining = url in drained
        if url in down and url not in was_down:
            node.breaker.trip()
        elif url in was_down and url not in down:
            node.breaker.invite_trial()


def sum_states(records: list[Record], own: Record) -> Record:
    """Return the sum of all workers' states; ``own`` is this process's record."""
    if not records:
        return own
    return {
        **own,
        "processes": len(records),
        "pids": [*own["pids"], *(pid for record in records for pid in record["pids"])],
        "requests": {kind: _by_kind(record["requests"][kind] for record in records) for kind in own["requests"]},
        **{room: _room(room, records) for room in ROOMS},
        **{name: sum(record[name] for record in records) for name in COUNTED},
        "endpoints": [_endpoint(record, records) for record in own["endpoints"]],
    }


def _room(room: str, records: list[Record]) -> dict[str, int]:
    return {name: sum(record[room][name] for record in records) for name in ("used", "size")}


def _by_kind(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def _endpoint(own: Record, records: list[Record]) -> Record:
    """Return one endpoint over all workers: counts added, the worst state, the latest error."""
    same = [row for record in records for row in record["endpoints"] if row["endpoint"] == own["endpoint"]]
    if not same:
        return own
    asked = [row["latency_ms"] for row in same if row["latency_ms"]]
    states = [own["state"], *(row["state"] for row in same)]
    is_up = all(row["health"] == "up" for row in same)
    sums = {name: sum(row[name] for row in same) for name in SUMMED}
    health = "avoided" if own["health"] == "up" and not is_up else own["health"]  # its own is what probes say
    return {
        **own,
        **sums,
        "health": ("draining" if sums["in_flight"] else "drained") if own["drained"] else health,
        **{name: _by_kind(row[name] for row in same) for name in ("failure_kinds", "connections")},
        "ejections": max(row["ejections"] for row in [own, *same]),  # each process notes the same ones
        "latency_ms": round(sum(asked) / len(asked), 3) if asked else 0.0,
        "state": next((state for state in states if state != CLOSED), CLOSED),
        "last_error": next((row["last_error"] for row in same if row["last_error"]), own["last_error"]),
    }

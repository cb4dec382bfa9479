"""A process of --processes: one shard of a command, which reports to the process that started it."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

from s3pool.cli.progress import RunProgress
from s3pool.shard import FLAG, NameRange, Shard

PROGRESS_INTERVAL_S = 0.2


class Part:
    """The end of the two pipes in a shard's process: reports go out, orders come in.

    When the orders end, the parent is gone, and this process is ended as by SIGTERM.
    """

    def __init__(self, reports: int, orders: int) -> None:
        self._reports = reports
        # Guards the pipe; held while one line is written.
        self._lock = threading.Lock()
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, args=(orders,), name="s3pool-orders", daemon=True).start()
        self.shard = Shard()
        self.shows_lines = True
        self.operand: str | None = None  # the one of several that is to be done

    def wait_for_start(self) -> list[str]:
        """Wait for the range of this shard, and return the words of the command; none if it is not needed."""
        order = self._orders.get()
        if "words" not in order:
            return []
        names = NameRange(*order["bounds"]) if order["bounds"] else None
        self.shard = Shard(order["shard"], order["of"], FLAG, names)
        self.shows_lines = order["lines"]
        self.operand = order["operand"]
        return list(order["words"])

    def send(self, kind: str, fields: Mapping[str, Any] | list[Any] | bool) -> None:
        """Report one thing."""
        line = memoryview(f"{json.dumps([kind, fields])}\n".encode())
        with self._lock:
            while line:
                line = line[os.write(self._reports, line) :]

    def meet(self, point: str, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until all shards have come to a point, and return the sums of their counts."""
        self.send("meet", {"point": point, "counts": dict(counts)})
        return self._orders.get()

    def _read(self, orders: int) -> None:
        with open(orders, encoding="utf-8") as lines:
            for line in lines:
                self._orders.put(json.loads(line))
        os.kill(os.getpid(), signal.SIGTERM)


class PartProgress(RunProgress):
    """The progress of one shard, as the parent's bar wants it."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._part = part
        self._next = 0.0

    def tick(self) -> None:
        """Report when it is time."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + PROGRESS_INTERVAL_S
            self.report()

    def report(self) -> None:
        """Report the counts as they are."""
        counts = [self.files_found, self.bytes_found, self.files_done, self.bytes_done, int(self.is_complete)]
        self._part.send("progress", counts)

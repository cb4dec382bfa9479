"""The life of the proxy's processes: start, serve, reload on SIGHUP, drain on SIGTERM; one alone, or several.

Several have one port, whose connections the kernel spreads over the workers' listeners (SO_REUSEPORT). Their parent has
no threads: it only waits and passes signals on, so that it can start a process again whenever one dies.

They notice each other's states in a directory of small JSON files. Workers put up what they count; the process with the
admin listener adds it up, probes the nodes for all, and puts up which ones are drained or down. A file is replaced as a
whole, so nobody reads half of one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, NamedTuple

from s3pool.config.options import Config
from s3pool.errors import ConfigError, S3PoolError
from s3pool.pool.node import CLOSED, OPEN, Node
from s3pool.proxy.limits import RateMeter
from s3pool.proxy.run import LoadConfig, Proxy, open_gateway, raise_limit, tune_interpreter
from s3pool.proxy.settings import Address, ProxySettings

logger = logging.getLogger(__name__)

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
RESTART_PAUSE_S = 1.0  # a process that dies at once must not be started in a frenzy
POLL_S = 0.2
WAKE_S = 0.5
SAME_WISH_S = 1.0
READY_POLL_S = 0.02
FAILED = 1

SNAPSHOT = "orders.json"
SUMMED = ("in_flight", "requests", "failures", "throttled", "retries", "hedges", "answers", "answer_seconds",
          "bytes_sent", "bytes_received")  # fmt: skip
COUNTED = ("connections", "retrying")
ROOMS = ("replay_memory", "spool")

Record = dict[str, Any]


class Signals:
    """Signals that the process received."""

    def __init__(self) -> None:
        self.stops = 0
        self.reloads = 0
        self.stopped_by = 0  # the first signal that asked for the end
        # Free once somebody woke. An Event's set() inside its wait() would wait for ever, and so may the get() of a
        # SimpleQueue that a signal interrupts as its time ends (CPython 3.11).
        self._woken = threading.Lock()
        self._woken.acquire()
        self._last_stop = 0.0

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal; the work is done by the main thread."""
        if number == signal.SIGHUP:
            self.reloads += 1
        else:
            # Terminals and service managers signal a whole group, and a parent passes its signal
            # on: copies of one wish arrive together, and only a later one means "now".
            moment = time.monotonic()
            self.stopped_by = self.stopped_by or number
            self.stops += not self.stops or moment - self._last_stop > SAME_WISH_S
            self._last_stop = moment
        self.wake()

    def wake(self) -> None:
        """End the wait of the main thread."""
        with contextlib.suppress(RuntimeError):  # it is free already
            self._woken.release()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Receive SIGTERM, SIGINT and SIGHUP; puts the former handlers back."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, self.on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self, timeout_s: float = WAKE_S) -> None:
        """Wait for a signal, for some seconds at most."""
        self._woken.acquire(timeout=timeout_s)


class End(NamedTuple):
    """How serving ended: by which signal, and whether every request could finish."""

    signal: int
    is_clean: bool


def live(proxy: Proxy, signals: Signals, *, each_turn: Callable[[], None] = lambda: None) -> bool:
    """Serve until a signal ends it; True when every request could finish. ``each_turn`` comes twice a second."""
    each_turn()
    while not signals.stops:
        signals.wait()
        each_turn()
        if proxy.admin is not None:
            proxy.history.tick(proxy.stats)
        if signals.reloads:
            signals.reloads = 0
            proxy.reload()
    logger.info("draining: %d connections", proxy.connections)

    def is_urgent() -> bool:
        each_turn()
        return signals.stops > 1

    return proxy.drain(is_urgent=is_urgent)


def run_proxy(load: LoadConfig, *, announce: Callable[[Proxy], None]) -> End:
    """Serve until a signal ends it. Raises ConfigError: the configuration does not allow to start."""
    signals = Signals()
    raise_limit()
    with signals.installed():
        proxy = Proxy(load)
        try:
            proxy.start()
            tune_interpreter()
            announce(proxy)
            is_clean = live(proxy, signals)
            return End(signals.stopped_by, is_clean)
        finally:
            proxy.close()


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
                return dict(json.load(file))
        except (OSError, ValueError, TypeError):
            return {}

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
        **{room: {name: sum(record[room][name] for record in records) for name in ("used", "size")} for room in ROOMS},
        **{name: sum(record[name] for record in records) for name in COUNTED},
        "endpoints": [_endpoint(record, records) for record in own["endpoints"]],
    }


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


class Supervisor:
    """The parent of the processes, which starts each again when it ends."""

    def __init__(self, load: LoadConfig, directory: str, signals: Signals) -> None:
        raise_limit()
        config, settings = load()
        open_gateway(config, settings).close()  # what is wrong is said before anything starts
        self.settings = settings
        self._load = load
        self._directory = directory
        self._states = StateDirectory(directory)
        self._signals = signals  # each process has a copy, and the handlers with it
        self._reserved = _reserve(settings.listen)
        host, port = self._reserved.getsockname()[:2]
        self.address = Address(str(host), int(port))
        self._meter = RateMeter()  # shared by all that are forked from here
        self.children: dict[int, int] = {}  # process id -> number; 0 is the admin

    def start(self) -> None:
        """Start all processes."""
        for number in range(self.settings.processes + 1):
            self._start(number)

    def _start(self, number: int) -> None:
        child = os.fork()
        if child:
            self.children[child] = number
            return
        code = FAILED
        try:
            self.children = {}
            code = 0 if self._work(number) else FAILED
        except S3PoolError as exc:
            logger.error("%s", exc)
        except Exception:  # the process's outermost frame
            logger.exception("a process of the proxy failed")
        finally:
            # Not sys.exit: what the parent has open and registered is the parent's.
            os._exit(code)

    def _work(self, number: int) -> bool:
        """Serve clients, or as number 0 probe the nodes for all and answer operators, until a signal ends it."""
        states, parent, before = self._states, os.getppid(), Record()
        if number:
            self._meter.be_process(number - 1)
        proxy = Proxy(self._load_here, has_server=number > 0, has_admin=number == 0, meter=self._meter)
        proxy.merge = proxy.merge if number else lambda own: sum_states(states.workers(), own)

        def act() -> None:
            nonlocal before
            self._end_with(parent)
            if not number:
                states.put(SNAPSHOT, snapshot(proxy.opened.nodes))
                return
            proxy.opened.tend()
            orders = states.get(SNAPSHOT)
            apply_snapshot(proxy.opened.nodes, orders, before)
            before = orders
            states.put(f"worker-{number}.json", proxy.stats())

        try:
            proxy.start(probes=not number)
            if number:
                tune_interpreter()
            return live(proxy, self._signals, each_turn=act)
        finally:
            proxy.close()

    def _end_with(self, parent: int) -> None:
        """Drain when the parent process has died."""
        if os.getppid() != parent and not self._signals.stops:
            logger.error("the parent process is gone; draining")
            self._signals.stops = 1
            self._signals.wake()

    def await_ready(self) -> None:
        """Wait until every process does its work. Raises ConfigError: one of them ended instead; it has said why."""
        names = [SNAPSHOT, *(f"worker-{number}.json" for number in range(1, self.settings.processes + 1))]
        while not all(os.path.exists(os.path.join(self._directory, name)) for name in names):
            if self.reap(restarts=False):
                self.pass_on(signal.SIGTERM)
                raise ConfigError("a process of the proxy could not start")
            if self._signals.stops:
                return
            time.sleep(READY_POLL_S)

    def _load_here(self) -> tuple[Config, ProxySettings]:
        config, settings = self._load()
        return config, settings.replace(listen=self.address, processes=self.settings.processes)

    def pass_on(self, number: int) -> None:
        """Send a signal to all processes."""
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    def reap(self, *, restarts: bool) -> list[int]:
        """Take note of processes that ended; start them again unless all are to end. Return their codes."""
        codes = []
        for child in list(self.children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                number = self.children.pop(child)
                self._states.remove(f"worker-{number}.json")
                self._states.remove(
                    f"gauge_livesum_{child}.db"
                )  # prometheus-client's: requests that are at work no more
                codes.append(os.waitstatus_to_exitcode(status))
                if restarts:
                    logger.error("process %d of the proxy ended with %d; starting it again", number, codes[-1])
                    time.sleep(RESTART_PAUSE_S)
                    self._start(number)
        return codes

    def close(self) -> None:
        """Free the port."""
        self._reserved.close()


def _reserve(address: Address) -> socket.socket:
    """Bind the port without listening, to reserve it while workers come and go."""
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("--processes: this system has no SO_REUSEPORT, by which they share a port; leave it out")
    sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((address.host, address.port))
    except OSError as exc:
        sock.close()
        raise ConfigError(f"cannot listen on {address}: {exc.strerror or exc}") from exc
    return sock


def run_processes(load: LoadConfig, *, announce: Callable[[Supervisor], None]) -> End:
    """Serve with several processes until a signal ends it. Raises ConfigError: it cannot start."""
    directory = tempfile.mkdtemp(prefix="s3pool-proxy-")
    # prometheus-client looks at it when it is imported, which each process does for itself.
    os.environ[MULTIPROCESS_VARIABLE] = directory
    signals = Signals()
    try:
        with signals.installed():
            supervisor = Supervisor(load, directory, signals)
            try:
                supervisor.start()
                supervisor.await_ready()
                announce(supervisor)
                is_clean = _supervise(supervisor, signals)
                return End(signals.stopped_by, is_clean)
            finally:
                supervisor.close()
    finally:
        os.environ.pop(MULTIPROCESS_VARIABLE, None)
        shutil.rmtree(directory, ignore_errors=True)


def _supervise(supervisor: Supervisor, signals: Signals) -> bool:
    while not signals.stops:
        signals.wait(POLL_S)
        if signals.reloads:
            signals.reloads = 0
            supervisor.pass_on(signal.SIGHUP)
        if not signals.stops:
            supervisor.reap(restarts=True)
    passed_on, codes = 0, []
    while supervisor.children:
        if signals.stops > passed_on:
            passed_on = signals.stops
            supervisor.pass_on(signal.SIGTERM)
        codes += supervisor.reap(restarts=False)
        time.sleep(POLL_S)
    return not any(codes)

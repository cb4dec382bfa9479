"""Several processes behind one port: a parent without threads, workers, and the admin.

The kernel spreads connections over the workers' listeners (SO_REUSEPORT). The parent only
waits and passes signals on, so that it can start a process again whenever one dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable

from s3pool.errors import ConfigError, S3PoolError
from s3pool.proxy.clients import RateMeter
from s3pool.proxy.readers import Address
from s3pool.proxy.run import End, LoadConfig, Proxy, Signals, tune_interpreter
from s3pool.proxy.service import open_gateway, raise_limit
from s3pool.proxy.settings import ProxySettings
from s3pool.proxy.worker_state import SNAPSHOT, StateDirectory, StatePublisher, apply_snapshot, snapshot, sum_states

logger = logging.getLogger(__name__)

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
RESTART_PAUSE_S = 1.0  # a process that dies at once must not be started in a frenzy
POLL_S = 0.2
READY_POLL_S = 0.02
FAILED = 1


class Supervisor:
    """The parent of the processes, which starts each again when it ends."""

    def __init__(self, load: LoadConfig, directory: str, signals: Signals) -> None:
        raise_limit()
        config, settings = load()
        open_gateway(config, settings).close()  # what is wrong is said before anything starts
        self.settings = settings
        self._load = load
        self._directory = directory
        self._signals = signals  # each process has a copy, and the handlers with it
        self._reserved = _reserve(settings.listen)
        host, port = self._reserved.getsockname()[:2]
        self.address = Address(str(host), int(port))
        self._meter = RateMeter()  # shared by all that are forked from here
        self._children: dict[int, int] = {}  # process id -> number; 0 is the admin

    def start(self) -> None:
        """Start all processes."""
        for number in range(self.settings.processes + 1):
            self._start(number)

    def _start(self, number: int) -> None:
        child = os.fork()
        if child:
            self._children[child] = number
            return
        code = FAILED
        try:
            self._children = {}
            code = 0 if self._work(number) else FAILED
        except S3PoolError as exc:
            logger.error("%s", exc)
        except Exception:  # the process's outermost frame
            logger.exception("a process of the proxy failed")
        finally:
            # Not sys.exit: what the parent has open and registered is the parent's.
            os._exit(code)

    def _work(self, number: int) -> bool:
        states = StateDirectory(self._directory)
        if number == 0:
            return _run_admin(self._load_here, states, self._signals)
        self._meter.be_process(number - 1)
        return _run_worker(self._load_here, states, number, self._signals, self._meter)

    def await_ready(self) -> None:
        """Wait until every process does its work.

        Raises:
            ConfigError: one of them ended instead; it has said why.
        """
        names = [SNAPSHOT, *(f"worker-{number}.json" for number in range(1, self.settings.processes + 1))]
        while not all(os.path.exists(os.path.join(self._directory, name)) for name in names):
            if self.reap(restarts=False):
                self.pass_on(signal.SIGTERM)
                raise ConfigError("a process of the proxy could not start")
            if self._signals.stops:
                return
            time.sleep(READY_POLL_S)

    def _load_here(self) -> tuple[object, ProxySettings]:
        config, settings = self._load()
        return config, settings.replace(listen=self.address, processes=self.settings.processes)

    def pass_on(self, number: int) -> None:
        """Send a signal to all processes."""
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    def reap(self, *, restarts: bool) -> list[int]:
        """Take note of processes that ended; start them again unless all are to end. Return their codes."""
        codes = []
        for child in list(self._children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                number = self._children.pop(child)
                states = StateDirectory(self._directory)
                states.remove(f"worker-{number}.json")
                states.remove(f"gauge_livesum_{child}.db")  # prometheus-client's: requests that are at work no more
                codes.append(os.waitstatus_to_exitcode(status))
                if restarts:
                    logger.error("process %d of the proxy ended with %d; starting it again", number, codes[-1])
                    time.sleep(RESTART_PAUSE_S)
                    self._start(number)
        return codes

    @property
    def is_empty(self) -> bool:
        """Return whether all processes have ended."""
        return not self._children

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


def _run_worker(
    load: Callable[..., object], states: StateDirectory, number: int, signals: Signals, meter: RateMeter
) -> bool:
    """Serve S3 clients; nodes are probed elsewhere."""
    proxy = Proxy(load, has_admin=False, multiprocess=True, meter=meter)  # type: ignore[arg-type]
    parent = os.getppid()
    before: dict[str, object] = {}

    def act() -> None:
        nonlocal before
        _end_with(parent, signals)
        proxy.pool.tend()
        orders = states.get(SNAPSHOT)
        apply_snapshot(proxy.pool.nodes, orders, before)
        before = orders
        states.put(f"worker-{number}.json", proxy.stats())

    publisher = StatePublisher(act)
    try:
        proxy.start(probes=False)
        tune_interpreter()
        publisher.start()
        return proxy.live(signals)
    finally:
        publisher.stop()
        proxy.close()


def _end_with(parent: int, signals: Signals) -> None:
    """Drain when the parent process has died."""
    if os.getppid() != parent and not signals.stops:
        logger.error("the parent process is gone; draining")
        signals.stops = 1
        signals.wake()


def _run_admin(load: Callable[..., object], states: StateDirectory, signals: Signals) -> bool:
    """Probe the nodes and answer operators; S3 clients never get here."""
    proxy = Proxy(load, has_server=False, multiprocess=True)  # type: ignore[arg-type]
    proxy.merge = lambda own: sum_states(states.workers(), own)
    parent = os.getppid()

    def act() -> None:
        _end_with(parent, signals)
        states.put(SNAPSHOT, snapshot(proxy.pool.nodes))

    publisher = StatePublisher(act)
    try:
        proxy.start()
        publisher.start()
        return proxy.live(signals)
    finally:
        publisher.stop()
        proxy.close()


def run_processes(load: LoadConfig, *, announce: Callable[[Supervisor], None]) -> End:
    """Serve with several processes until a signal ends it.

    Raises:
        ConfigError: the configuration does not allow to start.
    """
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
    while not supervisor.is_empty:
        if signals.stops > passed_on:
            passed_on = signals.stops
            supervisor.pass_on(signal.SIGTERM)
        codes += supervisor.reap(restarts=False)
        time.sleep(POLL_S)
    return not any(codes)

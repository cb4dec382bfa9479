"""The life of one proxy process: start, serve, reload on SIGHUP, drain on SIGTERM."""

from __future__ import annotations

import gc
import logging
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NamedTuple

from s3pool import __version__
from s3pool.config.options import Config
from s3pool.errors import S3PoolError
from s3pool.proxy.admin import AdminActions, AdminServer, admin_rules
from s3pool.proxy.limits import RateMeter
from s3pool.proxy.metrics import AccessLog, Metrics, PoolHistory, gauges, limit_log
from s3pool.proxy.server import ProxyServer, server_context
from s3pool.proxy.service import OpenGateway, is_ready, open_gateway, raise_limit
from s3pool.proxy.settings import OFF, Address, ProxySettings

logger = logging.getLogger(__name__)

Record = dict[str, Any]
LoadConfig = Callable[[], "tuple[Config, ProxySettings]"]
WAKE_S = 0.5
SAME_WISH_S = 1.0
ACCEPT_POLL_S = 0.1  # how soon accepting ends when it is told to
# Each thread that waits for the interpreter wakes up this often. There may be hundreds, and
# they need not: whoever has it gives it away at its next send or receive.
SWITCH_INTERVAL_S = 0.05
COLLECT_AFTER = 10_000  # new objects; requests leave no cycles behind, so there is little to find


class Proxy:
    """One proxy process, ready to be started; ``load`` reads the configuration, now and for a reload.

    Among several some have no admin listener, and one has no server for clients; ``merge`` adds the others' state.
    """

    def __init__(
        self, load: LoadConfig, *, has_server: bool = True, has_admin: bool = True, meter: RateMeter | None = None
    ) -> None:
        self._load = load
        config, self.settings = load()
        tls = server_context(self.settings)
        self.metrics = Metrics(multiprocess=not (has_server and has_admin))
        self._meter = meter or RateMeter()
        self.opened = open_gateway(config, self.settings, self._meter)
        self._started, self._probes = time.time(), False
        self.log = AccessLog(self.settings.access_log) if self.settings.access_log != OFF else None
        self.merge: Callable[[Record], Record] = lambda own: own
        self.server: ProxyServer | None = None
        self.admin: AdminServer | None = None
        self.is_draining = False
        self._end_traces: Callable[[], None] = lambda: None
        self.history = PoolHistory()
        try:
            if has_server:
                self.server = ProxyServer(
                    self.settings.listen, self.opened.gateway, metrics=self.metrics, log=self.log, tls=tls
                )
                if self.settings.tracing:
                    from s3pool.tracing import Tracer  # an extra, which few have

                    tracer = Tracer("s3pool-proxy")
                    self.server.trace, self._end_traces = tracer.add_served, tracer.close
            if has_admin and self.settings.admin_listen is not None:
                self.admin = AdminServer(self.settings.admin_listen, self._desk(), admin_rules(self.settings))
        except BaseException:
            if self.server is not None:
                self.server.server_close()
            raise
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> Address:
        """Return the listening address with its actual port."""
        return self.settings.listen if self.server is None else self.server.address

    @property
    def admin_address(self) -> Address | None:
        """Return the admin listener's address, None without one."""
        return self.admin.address if self.admin is not None else None

    def start(self, *, probes: bool = True) -> None:
        """Watch the nodes and take connections, in threads."""
        self._probes = probes
        if probes:
            self.opened.checker.start()
        if self.server is not None:
            self._thread = threading.Thread(
                target=self.server.serve_forever, args=(ACCEPT_POLL_S,), name="s3pool-accept", daemon=True
            )
            self._thread.start()
        if self.admin is not None:
            self.admin.start()

    def live(self, signals: Signals, *, each_turn: Callable[[], None] = lambda: None) -> bool:
        """Serve until a signal ends it; True when every request could finish. ``each_turn`` comes twice a second."""
        each_turn()
        while not signals.stops:
            signals.wait()
            each_turn()
            if self.admin is not None:
                self.history.tick(self.stats)
            if signals.reloads:
                signals.reloads = 0
                self.reload()
        logger.info("draining: %d connections", self.connections)

        def is_urgent() -> bool:
            each_turn()
            return signals.stops > 1

        return self.drain(is_urgent=is_urgent)

    @property
    def connections(self) -> int:
        """Return the number of S3 clients' open connections."""
        return self.server.connections if self.server is not None else 0

    def reload(self) -> None:
        """Reload the configuration; an invalid one is logged and changes nothing."""
        try:
            config, settings = self._load()
            tls = server_context(settings)
            opened = open_gateway(config, settings, self._meter)
            rules = admin_rules(settings)
            if self.log is not None:
                self.log.reopen()
        except S3PoolError as exc:
            logger.error("the configuration was not reloaded: %s", exc)
            return
        self._exchange(opened, tls)
        if self.admin is not None:
            self.admin.rules = rules
        fixed = ("listen", "admin_listen", "processes", "access_log", "tracing")
        for name in fixed:
            if getattr(settings, name) != getattr(self.settings, name):
                logger.warning("proxy.%s has changed; that takes a restart", name)
        logger.info("the configuration was reloaded")

    def _exchange(self, opened: OpenGateway, tls: ssl.SSLContext | None) -> None:
        """Put another configuration in force; requests at work finish on the old one, drained nodes stay so."""
        drained = {node.endpoint for node in self.opened.nodes if node.is_draining}
        for node in opened.nodes:
            node.is_draining = node.endpoint in drained
        if self._probes:
            opened.checker.start()
        old, self.opened = self.opened, opened
        if self.server is not None:
            self.server.gateway, self.server.tls = opened.gateway, tls
        old.close()

    def drain(self, *, is_urgent: Callable[[], bool] = lambda: False) -> bool:
        """Take no new connections, let running requests finish, and return whether all did."""
        self.is_draining = True
        return self.server is None or self.server.drain(is_urgent=is_urgent)

    def close(self) -> None:
        """Close what is open."""
        if self.admin is not None:
            self.admin.stop()
        self.opened.close()
        self.metrics.flush()
        self._end_traces()
        if self.log is not None:
            self.log.close()

    # -- what the admin listener shows -----------------------------------------------------------

    def _desk(self) -> AdminActions:
        return AdminActions(
            is_draining=lambda: self.is_draining,
            is_ready=lambda: is_ready(self.opened.nodes),
            metrics=self._render_metrics,
            stats=self.stats,
            set_drained=self.set_drained,
            history=self.history,
        )

    def _render_metrics(self) -> bytes:
        record = self.stats()
        return self.metrics.render(gauges(record), record["pids"])

    def stats(self) -> dict[str, Any]:
        """Return the whole state, ready for JSON."""
        opened = self.opened
        own = {
            "version": __version__,
            "uptime_s": round(time.time() - self._started, 1),
            "draining": self.is_draining,
            "auth": opened.gateway.settings.auth,
            "connections": self.connections,
            "pids": [os.getpid()],
            "requests": self.metrics.summary(),
            **opened.stats(),
        }
        return self.merge(own)

    def set_drained(self, url: str, drained: bool) -> int:
        """Take nodes out of service, or back; give how many there were of that name."""
        nodes = self.opened.find(url)
        for node in nodes:
            node.is_draining = drained
        return len(nodes)


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
        with suppress(RuntimeError):  # it is free already
            self._woken.release()

    @contextmanager
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


def tune_interpreter() -> None:
    """Fit the whole process to many threads that mostly wait; for processes that do nothing else."""
    limit_log()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()  # what is there now stays to the end
    gc.set_threshold(COLLECT_AFTER)


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
            is_clean = proxy.live(signals)
            return End(signals.stopped_by, is_clean)
        finally:
            proxy.close()

"""The life of one proxy process: start, serve, reload on SIGHUP, drain on SIGTERM."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from s3pool.errors import S3PoolError
from s3pool.proxy import status
from s3pool.proxy.admin import AdminServer, Desk
from s3pool.proxy.journal import AccessLog
from s3pool.proxy.metrics import Metrics
from s3pool.proxy.server import ProxyServer, server_context
from s3pool.proxy.service import Pool, open_gateway
from s3pool.proxy.settings import OFF, Address, ProxySettings

if TYPE_CHECKING:
    from s3pool.config import Config
    from s3pool.proxy.gateway import Gateway

logger = logging.getLogger(__name__)

Load = Callable[[], "tuple[Config, ProxySettings]"]
WAKE_S = 0.5
ACCEPT_POLL_S = 0.1  # how soon accepting ends when it is told to


class Proxy:
    """One proxy, ready to be started; a context that closes it.

    ``load`` reads the configuration anew, for a reload.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        config, self.settings = load()
        self.metrics = Metrics()
        self.pool = Pool(open_gateway(config, self.settings))
        self.log = AccessLog(self.settings.access_log) if self.settings.access_log != OFF else None
        self.server = ProxyServer(
            self.settings.listen,
            self.pool.gateway,
            metrics=self.metrics,
            log=self.log,
            tls=server_context(self.settings),
        )
        self.admin: AdminServer | None = None
        if self.settings.admin_listen is not None:
            try:
                self.admin = AdminServer(self.settings.admin_listen, self._desk())
            except BaseException:
                self.server.server_close()
                raise
        self._thread = threading.Thread(
            target=self.server.serve_forever, args=(ACCEPT_POLL_S,), name="s3pool-accept", daemon=True
        )

    @property
    def address(self) -> Address:
        """Give the address that is listened on, its port settled."""
        host, port = self.server.server_address[:2]
        return Address(str(host), int(port))

    @property
    def admin_address(self) -> Address | None:
        """Give the admin listener's address, None without one."""
        if self.admin is None:
            return None
        host, port = self.admin.server_address[:2]
        return Address(str(host), int(port))

    @property
    def url(self) -> str:
        """Give what clients take for the endpoint."""
        return f"{'https' if self.settings.tls_cert else 'http'}://{self.address}"

    def start(self) -> None:
        """Watch the nodes and take connections, in threads."""
        self.pool.start()
        self._thread.start()
        if self.admin is not None:
            self.admin.start()

    def reload(self) -> None:
        """Put the configuration of now in force; a bad one is reported and changes nothing."""
        try:
            config, settings = self._load()
            tls = server_context(settings)
            opened = open_gateway(config, settings)
            if self.log is not None:
                self.log.reopen()
        except S3PoolError as exc:
            logger.error("the configuration was not reloaded: %s", exc)
            return
        self.server.tls = tls
        self.pool.exchange(opened, publish=self._publish)
        fixed = ("listen", "admin_listen", "processes", "access_log")
        for name in fixed:
            if getattr(settings, name) != getattr(self.settings, name):
                logger.warning("proxy.%s has changed; that takes a restart", name)
        logger.info("the configuration was reloaded")

    def _publish(self, gateway: Gateway) -> None:
        self.server.gateway = gateway

    def drain(self, *, is_urgent: Callable[[], bool] = lambda: False) -> bool:
        """End: no new connections, running requests finish; say whether all did."""
        return self.server.drain(is_urgent=is_urgent)

    def close(self) -> None:
        """Close what is open."""
        if self.admin is not None:
            self.admin.stop()
        self.pool.close()
        if self.log is not None:
            self.log.close()

    # -- what the admin listener shows -----------------------------------------------------------

    def _desk(self) -> Desk:
        return Desk(
            is_draining=lambda: self.server.is_draining,
            is_ready=lambda: status.is_ready(self.pool),
            metrics=lambda: self.metrics.render(status.gauges(self.pool, connections=self.server.connections)),
            stats=self.stats,
            set_drained=self.set_drained,
        )

    def stats(self) -> dict[str, Any]:
        """Give the whole state, ready for JSON."""
        return status.stats_record(
            self.pool,
            requests=self.metrics.summary(),
            connections=self.server.connections,
            is_draining=self.server.is_draining,
        )

    def set_drained(self, url: str, drained: bool) -> int:
        """Take nodes out of service, or back; give how many there were of that name."""
        nodes = self.pool.find(url)
        for node in nodes:
            node.is_drained = drained
        return len(nodes)


class Signals:
    """What the process was asked for while it ran."""

    def __init__(self) -> None:
        self.stops = 0
        self.reloads = 0
        self.woken = threading.Event()

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal; the work is done by the main thread."""
        if number == signal.SIGHUP:
            self.reloads += 1
        else:
            self.stops += 1
        self.woken.set()

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

    def wait(self) -> None:
        """Wait for a signal; in steps, because an Event's wait may swallow one on some systems."""
        while not self.woken.wait(WAKE_S):
            continue
        self.woken.clear()


def run_proxy(load: Load, *, announce: Callable[[Proxy], None]) -> bool:
    """Serve until a signal ends it; True when every request could finish.

    Raises:
        ConfigError: the configuration does not allow to start.
    """
    signals = Signals()
    with signals.installed():
        proxy = Proxy(load)
        try:
            proxy.start()
            announce(proxy)
            while not signals.stops:
                signals.wait()
                while signals.reloads:
                    signals.reloads = 0
                    proxy.reload()
            logger.info("draining: %d connections", proxy.server.connections)
            return proxy.drain(is_urgent=lambda: signals.stops > 1)
        finally:
            proxy.close()

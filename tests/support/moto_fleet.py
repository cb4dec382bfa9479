"""A fleet of moto endpoints on one store, in one process, on free ports of loopback.

moto checks no signatures and is lenient: never the only judge. As a command it prints the
shell exports and serves until it is told to end::

    python -m tests.support.moto_fleet [--nodes 3] [--env FILE]

Lines on its standard input steer it: ``kill N``, ``start N``, ``stop``; so does the end of it.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shlex
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ACCESS_KEY = "demo"
SECRET_KEY = "demo-secret"
JOIN_S = 10.0
HOST = "127.0.0.1"


class MotoEndpoint:
    """One address of the fleet. After kill() its port refuses and no connection lives on."""

    def __init__(self, app: Any, *, port: int = 0) -> None:
        self._app = app
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._open: set[socket.socket] = set()
        # Guards _open, which the accepting thread fills and kill() empties.
        self._lock = threading.Lock()
        self.port = port
        self.start()

    @property
    def url(self) -> str:
        """Give ``http://127.0.0.1:port``; the port survives kill() and start()."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Listen; harmless when it does."""
        if self._server is not None:
            return
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from werkzeug.serving import make_server

        self._server = make_server(HOST, self.port, self._app, threaded=True, request_handler=MotoRequestHandler)
        self.port = self._server.server_address[1]
        self._remember_connections(self._server)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name=f"moto-{self.port}", daemon=True
        )
        self._thread.start()

    def kill(self) -> None:
        """Stop listening and cut every connection; harmless when it is dead."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(JOIN_S)
        self._server = self._thread = None
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _remember_connections(self, server: Any) -> None:
        accept, forget = server.process_request, server.shutdown_request

        def process_request(request: socket.socket, address: object) -> None:
            with self._lock:
                self._open.add(request)
            accept(request, address)

        def shutdown_request(request: socket.socket) -> None:
            with self._lock:
                self._open.discard(request)
            forget(request)

        server.process_request, server.shutdown_request = process_request, shutdown_request


class MotoFleet:
    """Several endpoints on moto's one store; a context that stops them all."""

    def __init__(self, nodes: int = 3) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        app = DomainDispatcherApplication(create_backend_app)
        self.access_key = ACCESS_KEY
        self.secret_key = SECRET_KEY
        self._nodes = [MotoEndpoint(app) for _ in range(nodes)]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Give the URLs of all endpoints, killed ones included."""
        return tuple(node.url for node in self._nodes)

    @property
    def environment(self) -> dict[str, str]:
        """Give the variables with which s3pool and boto3 find the fleet."""
        return {
            "S3_POOL": ",".join(self.endpoints),
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def kill(self, index: int) -> None:
        """End one endpoint as a dying node does: refused connects, cut connections."""
        self._nodes[index].kill()

    def start(self, index: int) -> None:
        """Bring one endpoint back on its port."""
        self._nodes[index].start()

    def stop(self) -> None:
        """End all endpoints."""
        for node in self._nodes:
            node.kill()

    def __enter__(self) -> MotoFleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a fleet until ``stop``, the end of standard input, or a signal."""
    parser = argparse.ArgumentParser(prog="tests.support.moto_fleet", description="S3 endpoints of moto on loopback.")
    parser.add_argument("--nodes", type=int, default=3, help="how many endpoints (default 3)")
    parser.add_argument("--env", default="", help="also write the shell exports to this file")
    options = parser.parse_args(arguments)
    with MotoFleet(options.nodes) as fleet:
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in fleet.environment.items())
        if options.env:
            Path(options.env).write_text(exports)
        print(exports, end="", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            _obey(fleet)
    return 0


def _obey(fleet: MotoFleet) -> None:
    for line in sys.stdin:
        word, _, number = line.strip().partition(" ")
        if word == "stop":
            return
        if word in ("kill", "start") and number.isdigit():
            getattr(fleet, word)(int(number))
            print(f"{word} {number}", flush=True)
        else:
            print(f"moto_fleet: no such command: {line.strip()}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())

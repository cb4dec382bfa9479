"""A loopback listener with a thread for each connection, and its end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

Act = Callable[[socket.socket], None]


def serve_each(listener: socket.socket, serve: Act, *, note: Act | None = None) -> None:
    """Start a thread that gives each connection to a thread of its own, until the listener is closed.

    ``note`` is called first, before the next connection is taken.
    """
    threading.Thread(target=_accept, args=(listener, serve, note), daemon=True).start()


def _accept(listener: socket.socket, serve: Act, note: Act | None) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if note is not None:
            note(sock)
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


def close_listener(listener: socket.socket) -> None:
    """Close a listener, and with it its thread: closing alone would leave the port open in accept()."""
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()

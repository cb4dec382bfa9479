"""A connection to an HTTP proxy that sends plain requests on to a node."""

from __future__ import annotations

import re
import socket
from base64 import b64encode

from s3pool.body import Body, Throttle
from s3pool.endpoint import HttpProxy
from s3pool.errors import ProtocolError
from s3pool.pool.http1 import Head, NodeConnection

PROXY_AUTHENTICATION_REQUIRED = 407
HOST = re.compile(rb"\r\nhost: *([^\r]*)", re.IGNORECASE)


class ForwardedConnection(NodeConnection):
    """A connection whose requests name their node in the request line (RFC 9112 section 3.2.2).

    The signature covers the path and the Host alone, so that it holds all the same.
    """

    __slots__ = ("_authorization", "_proxy")

    def __init__(
        self, sock: socket.socket, proxy: HttpProxy, *, endpoint: str, throttle: Throttle | None = None
    ) -> None:
        super().__init__(sock, endpoint=endpoint, throttle=throttle)
        self._proxy = proxy
        token = b64encode(proxy.user_password.encode())
        self._authorization = b"\r\nproxy-authorization: Basic %b" % token if proxy.user_password else b""

    def send(self, head: bytes, body: Body) -> None:
        """Send a request; errors as NodeConnection has them."""
        super().send(self._absolute(head), body)

    def send_joined(self, block: bytes | bytearray | memoryview, timeout_s: float) -> None:
        """Send a head with a small body behind it; errors as NodeConnection has them."""
        self.send_now(self._absolute(bytes(block)), timeout_s)

    def next_head(self, method: str) -> Head | None:
        """Return the final head in the buffer; one that is the proxy's own refusal is an error.

        Raises ProtocolError: the proxy wants to know who asks; or it is not a valid head.
        """
        head = super().next_head(method)
        if head is not None and head.status == PROXY_AUTHENTICATION_REQUIRED:
            wish = "other credentials" if self._authorization else "credentials: http://USER:PASSWORD@host:port"
            raise ProtocolError(f"the proxy {self._proxy} wants {wish}", endpoint=self.endpoint, sent=False)
        return head

    def _absolute(self, head: bytes) -> bytes:
        host = HOST.search(head)
        line, _, rest = head.partition(b"\r\n")
        method, _, target = line.partition(b" ")
        name = host[1] if host else b""
        return b"%b http://%b%b%b\r\n%b" % (method, name, target, self._authorization, rest)

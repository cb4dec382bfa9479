"""The address of a new object in a node's answer, which is to be the proxy's."""

from __future__ import annotations

import re

from s3pool.model import BodyStream, Response

BLANKS = b" \t\r\n"
MAX_DOCUMENT_BYTES = 64 * 1024  # a longer one is passed on as it is
LOCATION = re.compile(rb"(<Location>)(https?://)?([^<>/]*)(/[^<>]*)?(?=</Location>)")


class LocatedStream:
    """The body of an answer to CompleteMultipartUpload, with another host in its Location.

    Blanks before the document, with which a node keeps its client waiting, pass at once.
    """

    def __init__(self, stream: BodyStream, *, node: str, scheme: str, host: str) -> None:
        self._stream = stream
        self._node, self._scheme, self._host = node.encode(), scheme.encode(), host.encode()
        self._ready = b""
        self._is_passing = False

    def readinto(self, buffer: memoryview) -> int:
        """Fill part of the buffer; 0 at the end."""
        if not self._ready and not self._is_passing:
            count = self._stream.readinto(buffer)
            if not buffer[:count].tobytes().strip(BLANKS):
                return count
            self._ready = self._read_document(buffer[:count].tobytes())
            self._is_passing = True
        if not self._ready:
            return self._stream.readinto(buffer)
        count = min(len(self._ready), len(buffer))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _read_document(self, document: bytes) -> bytes:
        block = memoryview(bytearray(MAX_DOCUMENT_BYTES))
        while len(document) <= MAX_DOCUMENT_BYTES:
            count = self._stream.readinto(block)
            if not count:
                return LOCATION.sub(self._relocated, document)
            document += block[:count]
        return document

    def _relocated(self, found: re.Match[bytes]) -> bytes:
        opening, scheme, host, rest = found.groups(b"")
        if host.lower() != self._node.lower():
            return found[0]
        return opening + (self._scheme + b"://" if scheme else b"") + self._host + rest

    def close(self) -> None:
        """End the exchange."""
        self._stream.close()


def located(response: Response, *, scheme: str, host: str) -> Response:
    """Return an answer in which the new object's address is this proxy's, not the node's."""
    stream = LocatedStream(response._stream, node=response.endpoint.netloc, scheme=scheme, host=host)
    return Response(
        response.status,
        response.headers,
        stream,
        endpoint=response.endpoint,
        reason=response.reason,
        raw_headers=response.raw_headers,
    )

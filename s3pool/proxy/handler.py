"""One client connection: request after request, each verified before its body is read."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Protocol

from s3pool.errors import S3PoolError, TransportError
from s3pool.model import Response
from s3pool.proxy.chunked import LengthReader
from s3pool.proxy.denial import REASONS, ClientGoneError, Denial
from s3pool.proxy.form_upload import form_answer
from s3pool.proxy.forward import Attempts, refusal_for
from s3pool.proxy.gateway import Gateway
from s3pool.proxy.head import RequestHead, parse_head
from s3pool.proxy.journal import Entry
from s3pool.proxy.loading import Admitted, Load
from s3pool.proxy.relay import Relay
from s3pool.proxy.stream import ClientStream
from s3pool.proxy.upload import ClientBody
from s3pool.s3.xml import parse_error, parse_initiate

logger = logging.getLogger(__name__)

HEALTH_PATH = "/-/healthz"  # no bucket's name begins with a hyphen
DRAIN_BYTES = 64 * 1024  # an unread body up to this is read and dropped, to keep the connection
ERROR_STATUS = 400


class Host(Protocol):
    """What a connection needs of its server."""

    @property
    def gateway(self) -> Gateway:
        """Give the configuration in force."""

    @property
    def is_draining(self) -> bool:
        """Say whether connections are to end with their current request."""

    def idle(self, connection: Connection, *, is_idle: bool) -> None:
        """Note that a connection waits for a request, or has one."""

    def report(self, entry: Entry) -> None:
        """Count and log a request that ended."""

    def begin(self) -> None:
        """Count a request that starts."""


class Connection:
    """One client from its first request to its last; lives in one thread."""

    def __init__(self, stream: ClientStream, peer: str, host: Host) -> None:
        self.stream = stream
        self._peer = peer
        self._host = host

    def serve(self) -> None:
        """Answer requests until either side has enough."""
        try:
            while self._serve_next():
                continue
        except ClientGoneError as exc:
            logger.debug("%s: %s", self._peer, exc)
            self.stream.close()
        else:
            self.stream.hang_up()

    def _serve_next(self) -> bool:
        settings = self._host.gateway.settings
        self._host.idle(self, is_idle=True)
        if self._host.is_draining and not self.stream.buffered:
            return False
        entry = Entry(self._peer, secrets.token_hex(8))
        bytes_before = self.stream.bytes_in - self.stream.buffered
        try:
            block = self.stream.read_head(idle_s=settings.idle_timeout, head_s=settings.header_timeout)
        except Denial as exc:
            denial = exc
            return self._account(entry, bytes_before, lambda: self._refuse(entry, None, None, denial))
        self._host.idle(self, is_idle=False)
        if block is None:
            return False
        entry = Entry(self._peer, entry.request_id)
        exchange = _Exchange(self.stream, self._host, entry, self._refuse)
        return self._account(entry, bytes_before, lambda: exchange.serve(block))

    def _account(self, entry: Entry, bytes_before: int, serve: Callable[[], bool]) -> bool:
        bytes_out = self.stream.bytes_out
        self._host.begin()
        try:
            return serve()
        except ClientGoneError:
            entry.end = "client gone" if entry.end == "done" else entry.end
            raise
        finally:
            entry.total_s = time.monotonic() - entry.started
            entry.bytes_in = self.stream.bytes_in - self.stream.buffered - bytes_before
            entry.bytes_out = self.stream.bytes_out - bytes_out
            self._host.report(entry)

    def _refuse(self, entry: Entry, head: RequestHead | None, reader: object, denial: Denial) -> bool:
        """Answer with an S3 error; say whether the connection can go on."""
        keep_alive = head is not None and head.keep_alive and not denial.closes and not self._host.is_draining
        keep_alive = keep_alive and self._drop_body(head, reader)
        entry.status, entry.code, entry.denied = denial.status, denial.code, denial.reason
        resource = head.path if head is not None else ""
        body = denial.xml(resource, entry.request_id)
        lines = [
            f"HTTP/1.1 {denial.status} {REASONS[denial.status]}",
            f"Date: {formatdate(usegmt=True)}",
            f"x-amz-request-id: {entry.request_id}",
            *(f"{name}: {value}" for name, value in denial.fields),
            "Content-Type: application/xml",
            f"Content-Length: {len(body)}",
        ]
        if not keep_alive:
            lines.append("Connection: close")
        elif head is not None and head.is_http_1_0:
            lines.append("Connection: keep-alive")
        text = ("\r\n".join(lines) + "\r\n\r\n").encode()
        self.stream.write(text, b"" if head is not None and head.method == "HEAD" else body)
        return keep_alive

    def _drop_body(self, head: RequestHead | None, reader: object) -> bool:
        """Read a small body that nobody wants; False when the connection has to end instead."""
        if head is None or head.length == 0:
            return True
        if reader is None and head.length is not None and not head.expects_continue:
            reader = LengthReader(self.stream, head.length)
        if not isinstance(reader, LengthReader) or reader.left > DRAIN_BYTES:
            return bool(getattr(reader, "is_done", False))
        buffer = memoryview(bytearray(DRAIN_BYTES))
        while reader.left:
            reader.readinto(buffer)
        return True


Refuse = Callable[[Entry, "RequestHead | None", object, Denial], bool]


class _Exchange:
    """One request and its answer."""

    def __init__(self, stream: ClientStream, host: Host, entry: Entry, refuse: Refuse) -> None:
        self._stream = stream
        self._host = host
        self._gateway = host.gateway
        self._entry = entry
        self._refuse = refuse
        self._head: RequestHead | None = None
        self._load = Load()
        self._attempts = Attempts()
        self._has_continued = False

    def serve(self, block: bytes) -> bool:
        """Give whether the connection can carry another request."""
        try:
            return self._serve(block)
        except Denial as denial:
            if self._head is not None and self._head.expects_continue and not self._has_continued:
                # The client may send its body or not; nobody can know where the next request begins.
                denial.closes = denial.closes or self._head.length != 0
            return self._refuse(self._entry, self._head, self._load.reader, denial)
        except S3PoolError as exc:
            if isinstance(exc, ClientGoneError):
                raise
            logger.warning("%s %s: %s", self._entry.op, self._entry.bucket, exc)
            return self._refuse(self._entry, self._head, self._load.reader, refusal_for(exc))
        finally:
            self._gateway.loader.release(self._load)
            self._entry.tries = len(self._attempts.endpoints)
            self._entry.endpoint = self._entry.endpoint or self._attempts.last

    def _serve(self, block: bytes) -> bool:
        self._head = head = parse_head(block)
        self._entry.method = head.method
        self._entry.client = self._gateway.client_of(head, self._entry.peer)
        if head.path == HEALTH_PATH and head.method in ("GET", "HEAD"):
            return self._answer_health(head)
        admitted = self._admit(head)
        form = None
        if admitted.is_form:
            admitted, self._load, form = self._gateway.admit_form(admitted, self._stream, self._before_read)
            self._note_admitted(admitted)
        else:
            self._load = self._gateway.loader.load(admitted, self._stream, self._before_read)
        outbound = self._gateway.outbound(admitted, self._load, self._entry.peer)
        only = self._gateway.owner_of(admitted.target)
        forwarder = self._gateway.forwarder
        operation = self._gateway.settle(admitted)
        response = forwarder.send(outbound, operation, body=self._load.body, attempts=self._attempts, only=only)
        self._note(response)
        if form is not None:
            response = form_answer(form, admitted.target.bucket, response, url=self._url(head, admitted))
        may_resume = self._gateway.may_resume(admitted)
        resume = forwarder.resumer(outbound, admitted.operation, attempts=self._attempts, only=only)
        relay = Relay(
            self._stream,
            head,
            response,
            keep_alive=head.keep_alive and self._is_taken() and not self._host.is_draining,
            resume=resume if may_resume else None,
            resumes=self._gateway.settings.resume_get,
            eager=admitted.operation.is_eager,
            on_first_byte=self._note_first_byte,
        )
        return self._relay(relay)

    def _admit(self, head: RequestHead) -> Admitted:
        started = time.monotonic()
        try:
            admitted = self._gateway.admit(head)
        finally:
            self._entry.auth_s = time.monotonic() - started
        self._entry.op = admitted.operation.name
        self._note_admitted(admitted)
        return admitted

    def _note_admitted(self, admitted: Admitted) -> None:
        self._entry.bucket, self._entry.key = admitted.target.bucket, admitted.target.key
        self._entry.access_key = admitted.caller.access_key

    def _url(self, head: RequestHead, admitted: Admitted) -> str:
        scheme = "https" if self._stream.is_tls else "http"
        return f"{scheme}://{head.host}{admitted.target.path}"

    def _answer_health(self, head: RequestHead) -> bool:
        self._entry.op = "Health"
        if self._host.is_draining:
            raise Denial(503, "ServiceUnavailable", "this proxy is going out of service", closes=True)
        if head.length != 0:
            raise Denial(400, "InvalidRequest", "a question about health has no body", closes=True)
        self._entry.status = 200
        closing = "" if head.keep_alive else "Connection: close\r\n"
        body = b"" if head.method == "HEAD" else b"ok\n"
        self._stream.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n{closing}\r\n".encode() + body
        )
        return head.keep_alive

    def _before_read(self) -> None:
        if self._head is not None and self._head.expects_continue:
            self._stream.write_continue()
        self._has_continued = True

    def _is_taken(self) -> bool:
        """Say whether the next byte of the client begins a new request."""
        reader = self._load.reader
        return reader is None or reader.is_done

    def _note(self, response: Response) -> None:
        entry = self._entry
        entry.status, entry.endpoint = response.status, str(response.endpoint)
        entry.backend_request_id = response.headers.get("x-amz-request-id", "")
        if response.status >= ERROR_STATUS and response.body:
            entry.code = parse_error(response.body)[0]
        if isinstance(self._load.body, ClientBody):
            entry.replays = self._load.body.replays
        uploads = self._gateway.uploads
        if uploads is not None and entry.op == "CreateMultipartUpload" and response.status == 200:
            uploads.put(parse_initiate(response.preload()), response.endpoint)

    def _note_first_byte(self) -> None:
        self._entry.first_byte_s = time.monotonic() - self._entry.started

    def _relay(self, relay: Relay) -> bool:
        try:
            relay.write()
        except TransportError as exc:
            logger.warning("%s %s: %s", self._entry.op, self._entry.bucket, exc)
            if not relay.is_begun:
                raise
            # A short body on a connection that breaks is the only way left to say so.
            self._entry.end = "backend gone"
            self._stream.abort()
            raise ClientGoneError("the answer was broken off") from exc
        finally:
            self._entry.resumes = relay.resumes
            relay.close()
        return relay.keep_alive

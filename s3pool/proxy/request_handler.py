"""One request: admitted before its body is read, sent to a node, answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from s3pool.errors import S3PoolError, TransportError
from s3pool.model import Response
from s3pool.pool.exchange import Answer, Exchange, NeedsThread
from s3pool.pool.http1 import Head
from s3pool.proxy.auth import Admitted
from s3pool.proxy.bodies import ClientBody, RequestBody
from s3pool.proxy.clients import client_of
from s3pool.proxy.errors import ClientGoneError, S3ErrorResponse, own_answer, unavailable
from s3pool.proxy.forms import UploadForm
from s3pool.proxy.forward import Attempts, Begun, NodeRequest, refusal_for
from s3pool.proxy.framing import LengthReader
from s3pool.proxy.gateway import Gateway
from s3pool.proxy.limits import Rule, Ticket
from s3pool.proxy.metrics import AccessLog, Metrics
from s3pool.proxy.relay import WHOLE_BYTES, Relay, answer_head
from s3pool.proxy.request import CLIENT_GONE, Index, RequestHead, RequestRecord, parse_head
from s3pool.proxy.stream import ClientStream
from s3pool.s3.documents import parse_error

logger = logging.getLogger(__name__)

ERROR_STATUS = 400
READS = frozenset({"GET", "HEAD"})
DRAIN_BYTES = 64 * 1024  # an unread body up to this is read and dropped, to keep the connection
NOTHING = RequestBody()  # of requests without a body; nobody writes to it


HEALTH_PATH = "/-/healthz"  # no bucket's name begins with a hyphen
# What mc ready and monitors of MinIO ask; signed, it is an object of the bucket "minio".
MINIO_HEALTH_PATHS = frozenset(f"/minio/health/{word}" for word in ("live", "ready", "cluster", "cluster/read"))


def asks_for_health(head: RequestHead) -> bool:
    """Return whether a request asks for the health of the proxy."""
    if head.method not in ("GET", "HEAD"):
        return False
    is_signed = bool(head.value("authorization")) or "Signature=" in (head.query or "")
    return head.path == HEALTH_PATH or (head.path in MINIO_HEALTH_PATHS and not is_signed)


class Host(Protocol):
    """What a connection needs from its server."""

    gateway: Gateway  # the configuration in force
    is_draining: bool  # connections are to end with their current request
    metrics: Metrics
    log: AccessLog | None
    trace: Callable[[RequestRecord, Index], None] | None  # gets a request and the fields of its head


class RequestHandler:
    """One request and its answer.

    The loop takes plain ones as far as it goes without waiting: admit_now(), begin(), then offer() when the answer is
    there; serve() goes on from there in a thread. Most requests set few of these, and the class has the rest.
    """

    is_plain = False  # the event loop can begin such a request
    _head: RequestHead | None = None
    _admitted: Admitted | None = None
    _rules: Sequence[Rule] = ()
    _node_request: NodeRequest | None = None
    _load = NOTHING
    _begun: Begun | None = None
    _unsent: bytes | None = None  # the end of an answer that the client did not take at once
    _keeps_alive = True
    _slot_owner = ""  # whose place it has among the requests that nodes are asked for
    _body_slot_owner = ""  # whose place it has among those with bodies
    _ticket: Ticket | None = None
    is_excess = False  # its connection is beyond the bound
    error: S3ErrorResponse | None = None  # why it cannot be served

    def __init__(
        self, stream: ClientStream, host: Host, block: bytes, record: RequestRecord, bytes_before: int
    ) -> None:
        self.record = record
        self._bytes_before = bytes_before  # of the client's, up to this request
        self._bytes_out_before = stream.bytes_out
        self._stream = stream
        self._host = host
        self._gateway = host.gateway
        self._block = block
        host.metrics.begin()

    def report(self) -> None:
        """Count and log the request, which has ended."""
        stream, record, host = self._stream, self.record, self._host
        record.total_s = time.monotonic() - record.started
        record.bytes_in = stream.bytes_in - stream.buffered - self._bytes_before
        record.bytes_out = stream.bytes_out - self._bytes_out_before
        host.metrics.end(record)
        if host.trace is not None:
            host.trace(record, {} if self._head is None else self._head.index)
        if host.log is not None:
            host.log.write(record)

    def note_client_gone(self) -> None:
        """Note that the client hung up before the end, unless the answer had broken off before."""
        if self.record.end == "done":
            self.record.end = CLIENT_GONE

    def _look_for_client(self) -> None:
        """Raise ClientGoneError if the client has hung up; called while its request waits."""
        is_asked = self._head is not None and not self._head.is_http_1_0 and not self.record.first_byte_s
        self._stream.look_for_client(asks=is_asked, is_answered=bool(self.record.first_byte_s))

    # -- in the event loop: nothing here waits -------------------------------------------------------

    def admit_now(self) -> bool:
        """Return whether begin() may go on with the request; otherwise it is for serve()."""
        try:
            head = self._parse()
            if head.method not in READS or head.query is not None or head.length != 0:
                return False
            self._admit(head, may_wait=False)
        except NeedsThread:
            return False
        except S3ErrorResponse as error:
            self.error = error
            return False
        return self.is_plain and not self._rules  # a request with limits may have to wait

    def begin(self) -> Exchange | None:
        """Send the request over a connection that is open; None when that cannot be."""
        forwarder, record = self._gateway.forwarder, self.record
        owner = self._owner
        if not forwarder.slots.try_acquire(owner):
            return None
        self._slot_owner = owner
        self._begun = begun = forwarder.begin_now(self._make_node_request())
        exchange = begun[1]
        if exchange is not None:
            record.endpoint, record.tries = exchange.connection.endpoint, 1
        return exchange

    def offer(self, arrival: Answer) -> bool:
        """Send the client the answer that has arrived; False when serve() has to go on."""
        request = self._head
        if self._begun is None or request is None:
            raise AssertionError("nothing was begun")
        self._begun = None
        self._leave()
        head, body = arrival
        self._note(head, body)
        self._keeps_alive = not self._host.is_draining
        self.record.first_byte_s = time.monotonic() - self.record.started
        said = answer_head(request, head, length=len(body), keep_alive=self._keeps_alive, chunked=False)
        self._unsent = self._stream.send_now(said + body)
        if self._unsent or not self._keeps_alive:
            return False
        self.record.used_event_loop = True
        return True

    def abandon(self) -> None:
        """End the request without a response, when the client is gone or an exception was raised."""
        begun, self._begun = self._begun, None
        if begun is not None and begun[1] is not None:
            begun[1].abandon()
        self._leave()
        self.record.end = CLIENT_GONE
        self.report()

    # -- in a thread ---------------------------------------------------------------------------

    def serve(self) -> bool:
        """Return whether the connection can carry another request."""
        if self._unsent is not None:
            self._stream.write(self._unsent)
            return self._keeps_alive
        if self.is_excess:
            return self._serve_excess()
        self._attempts, self.record.endpoint = Attempts(), ""
        try:
            if self.error is not None:
                raise self.error
            return self._serve()
        except ClientGoneError:
            raise
        except S3PoolError as exc:
            return self._refuse(self._refusal_of(exc))
        except Exception:  # a mistake of ours
            if self.record.first_byte_s:
                raise
            logger.exception("a request of %s failed", self.record.peer)
            return self._refuse(S3ErrorResponse(500, "InternalError", "the proxy failed at this request", closes=True))
        finally:
            self._leave()
            if self._body_slot_owner:
                self._gateway.forwarder.body_slots.give_back(self._body_slot_owner)
            if self._load is not NOTHING:
                self._load.release()
            self._gateway.loader.budget.give_back(self._attempts.kept)
            self.record.tries, self.record.attempted = len(self._attempts.endpoints), self._attempts.tries
            self.record.endpoint = self.record.endpoint or self._attempts.last

    def _admit_within(self, rules: Sequence[Rule]) -> None:
        """Count the request within the limits of its client and its bucket."""
        if rules:
            self._ticket = ticket = self._gateway.meter.admit(rules)
            self._stream.pace = ticket.charge if ticket.paces else None

    @property
    def _owner(self) -> str:
        """Return the access key, or the client's address for an anonymous request."""
        return self.record.access_key or f"@{self.record.client}"

    def _leave(self) -> None:
        seat, self._slot_owner = self._slot_owner, ""
        if seat:
            self._gateway.forwarder.slots.give_back(seat)
        if self._ticket is not None:
            self._stream.pace = None
            self._ticket.end()

    def _refusal_of(self, exc: S3PoolError) -> S3ErrorResponse:
        if not isinstance(exc, S3ErrorResponse):
            logger.warning("%s %s: %s", self.record.op, self.record.bucket, exc)
            return refusal_for(exc)
        if self._head is not None and self._stream.holds_body:
            # The client may send its body or not; nobody can know where the next request begins.
            exc.closes = exc.closes or self._head.length != 0
        return exc

    def _refuse(self, error: S3ErrorResponse) -> bool:
        """Answer with an S3 error; return whether the connection can go on."""
        record, head = self.record, self._head
        keep_alive = head is not None and head.keep_alive and not error.closes and not self._host.is_draining
        keep_alive = keep_alive and self._drop_body()
        record.limited = error.limited or record.limited
        record.status, record.code, record.denied = error.status, error.code, error.reason
        body = error.xml(head.path if head is not None else "", record.request_id)
        lines = [f"x-amz-request-id: {record.request_id}", *(f"{name}: {value}" for name, value in error.fields)]
        if not keep_alive:
            lines.append("Connection: close")
        elif head is not None and head.is_http_1_0:
            lines.append("Connection: keep-alive")
        has_body = head is None or head.method != "HEAD"
        self._stream.write(own_answer(error.status, "application/xml", body, *lines, has_body=has_body))
        return keep_alive

    def _drop_body(self) -> bool:
        """Discard a small unread body; return False when the connection must close."""
        head, reader = self._head, self._load.reader
        if head is None or head.length == 0:
            return True
        if reader is None and head.length is not None and not head.expects_continue:
            reader = LengthReader(self._stream, head.length)
        if not isinstance(reader, LengthReader) or reader.left > DRAIN_BYTES:
            return reader is not None and reader.is_done
        return not reader.left or self._stream.drop(reader)

    def _parse(self) -> RequestHead:
        self._head = head = parse_head(self._block, self._look_for_client)
        self._stream.holds_body = head.expects_continue
        record, balancers = self.record, self._gateway.settings.trust_forwarded
        record.method = head.method
        if balancers:
            record.client = client_of(head, record.peer, balancers)
        return head

    def _admit(self, head: RequestHead, *, may_wait: bool = True) -> Admitted:
        record, gateway = self.record, self._gateway
        try:
            self._admitted = admitted = gateway.admit(head, record.peer, may_wait=may_wait)
        finally:
            record.auth_s = time.monotonic() - record.started
        record.op = admitted.operation.name
        self._note_admitted(admitted)
        self.is_plain = gateway.is_plain(head, admitted)
        return admitted

    def _note_admitted(self, admitted: Admitted) -> None:
        record, target, caller = self.record, admitted.target, admitted.caller
        record.bucket, record.key, record.access_key = target.bucket, target.key, caller.access_key
        if self._gateway.has_limits:
            self._rules = self._gateway.rules_for(caller.client, target.bucket)

    def _note_put(self, put: Admitted) -> None:
        """Note which PUT a form means, and count it within its limits, those of its bytes too."""
        self._admitted = put
        self._note_admitted(put)
        self._admit_within(self._rules)

    def _make_node_request(self) -> NodeRequest:
        if self._admitted is None:
            raise AssertionError("the request was not let in")
        if self._node_request is None:
            self._node_request = self._gateway.node_request(self._admitted, self._load, self.record.peer)
        return self._node_request

    def _answer_health(self, head: RequestHead) -> bool:
        """Answer a question about this process's health; MinIO's ask for a usable node, too, but for /live."""
        self.record.op = "Health"
        asks_for_nodes = head.path in MINIO_HEALTH_PATHS and not head.path.endswith("/live")
        if asks_for_nodes and not self._gateway.is_ready:
            raise S3ErrorResponse(503, "ServiceUnavailable", "no endpoint is usable")
        if self._host.is_draining:
            raise S3ErrorResponse(503, "ServiceUnavailable", "this proxy is going out of service", closes=True)
        if head.length != 0:
            raise S3ErrorResponse(400, "InvalidRequest", "a question about health has no body", closes=True)
        self.record.status = 200
        closing = () if head.keep_alive else ("Connection: close",)
        self._stream.write(own_answer(200, "text/plain", b"ok\n", *closing, has_body=head.method != "HEAD"))
        return head.keep_alive

    def _serve(self) -> bool:
        head = self._head or self._parse()
        if asks_for_health(head):
            return self._answer_health(head)
        admitted, form = self._admitted or self._admit(head), None
        begun, self._begun = self._begun, None
        if begun is None:
            admitted, form = self._make_ready(head, admitted)
        gateway, request, operation = self._gateway, self._make_node_request(), admitted.operation
        send = partial(gateway.forwarder.send, attempts=self._attempts, only=gateway.owner_of(admitted.target))

        def resume(first: int, last: int, etag: str) -> Response:
            return send(request.resumed(first, last, etag=etag), operation)

        response = send(request, gateway.settle(admitted), body=self._load.body, begun=begun)
        self._note(response, response.body)
        self.record.endpoint = str(response.endpoint)
        if isinstance(self._load.body, ClientBody):
            self.record.replays = self._load.body.replays
        # Who asks for much will ask for more of it, and keeps its thread.
        self.is_plain = self.is_plain and response.length is not None and response.length <= WHOLE_BYTES
        if response.body is None:
            self._stream.note_end()
        gateway.learn_upload(operation.name, response)
        answer, reader = gateway.answer_for(head, admitted, response, form), self._load.reader
        is_taken = reader is None or reader.is_done  # the client's next byte begins a new request
        keep_alive = head.keep_alive and is_taken and not self._host.is_draining
        resumes = gateway.settings.resume_get if gateway.may_resume(admitted) else 0
        relay = Relay(self._stream, self.record, head, answer, keep_alive=keep_alive, is_eager=operation.is_eager)
        relay.resume, relay.resumes_left = resume, resumes
        return self._relay(relay)

    def _make_ready(self, head: RequestHead, admitted: Admitted) -> tuple[Admitted, UploadForm | None]:
        """Claim slots and limits for the request, and prepare its body."""
        gateway, form = self._gateway, None
        if head.length != 0:
            self._body_slot_owner = gateway.forwarder.body_slots.claim(self._owner)
        if admitted.is_form:
            admitted, self._load, form = gateway.admit_form(admitted, self._stream, self._note_put)
        else:
            self._admit_within(self._rules)
            self._load = gateway.load(admitted, self._stream)
        slots, patience_s = gateway.forwarder.slots, gateway.settings.slot_wait
        self._slot_owner = slots.claim(self._owner, patience_s, look=self._look_for_client)
        return admitted, form

    def _serve_excess(self) -> bool:
        """Answer one that came when all places were taken: whether this process is well it may know all the same."""
        try:
            if self.error is not None:
                raise self.error
            self._head = head = parse_head(self._block)
            if asks_for_health(head):
                self._answer_health(head)
                return False
            raise unavailable("too many connections; try again", closes=True)
        except S3ErrorResponse as error:
            return self._refuse(error)

    def _note(self, answer: Response | Head, body: bytes | None) -> None:
        record = self.record
        record.status = answer.status
        record.backend_request_id = answer.headers.get("x-amz-request-id", "")
        if answer.status >= ERROR_STATUS and body:
            record.code = parse_error(body)[0]
        if not self._gateway.node_facts.server:
            self._gateway.learn_server(answer.headers)

    def _relay(self, relay: Relay) -> bool:
        try:
            relay.write()
        except TransportError as exc:
            logger.warning("%s %s: %s", self.record.op, self.record.bucket, exc)
            if not relay.is_begun:
                raise
            # A short body on a connection that breaks is the only way left to say so.
            self.record.end = "backend gone"
            self._stream.abort()
            raise ClientGoneError("the answer was broken off") from exc
        finally:
            relay.close()
        return relay.keep_alive

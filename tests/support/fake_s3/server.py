"""The fake itself: several addresses, one store, a script of faults, a record of requests."""

from __future__ import annotations

import hashlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from tests.support.fake_s3 import bucket_ops, multipart_ops, object_ops
from tests.support.fake_s3.call import Call, Operation, Quirks, error_reply, http_time, operation_of, split_target
from tests.support.fake_s3.faults import Fault, Rule, Script
from tests.support.fake_s3.signatures import check_payload, check_region, check_signature, read_stamp
from tests.support.fake_s3.store import S3Fault, Store
from tests.support.fake_s3.wire import Exchange, Node, Reply

OPERATIONS: dict[str, Operation] = {**bucket_ops.OPERATIONS, **object_ops.OPERATIONS, **multipart_ops.OPERATIONS}
SET_HEALTH_PATH = "/minio/health/cluster"
ACCESS_KEY = "FAKEACCESSKEY0000000"
SECRET_KEY = "fake/secret+key=0123456789abcdefghijklmn"


@dataclass
class Recorded:
    """One request as it arrived; ``status`` is 0 when it got no answer."""

    endpoint: int
    connection: int
    method: str
    target: str
    op: str
    bucket: str
    key: str
    headers: dict[str, str]
    query: dict[str, str] = field(default_factory=dict)
    body_length: int = 0
    body_sha256: str = ""
    status: int = 0


class FakeS3:
    """An S3 in this process; a context that ends every node.

    ``nodes[i]`` can be killed, black-holed and started; ``store`` looks behind; ``requests``
    tells what came. ``hosts`` are addresses to listen at, all with one port.
    With ``secrets`` signatures and payload hashes are checked.
    """

    def __init__(
        self,
        endpoints: int = 1,
        *,
        quirks: Quirks | None = None,
        secrets: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        host: str = "127.0.0.1",
        hosts: Sequence[str] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.quirks = quirks or Quirks()
        self.store = Store()
        self.script = Script()
        self.secrets = dict(secrets or {})
        self.clock = clock
        self.requests: list[Recorded] = []
        # Guards requests: they are appended on every connection's thread.
        self._lock = threading.Lock()
        places = hosts or [host] * endpoints
        nodes: list[Node] = []
        for index, place in enumerate(places):
            port = nodes[0].port if hosts and nodes else 0
            nodes.append(Node(self._answer, index=index, host=place, port=port, tls=tls))
        self.nodes = tuple(nodes)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Give the URLs of all nodes."""
        return tuple(node.url for node in self.nodes)

    @property
    def environment(self) -> dict[str, str]:
        """Give the variables with which s3pool and boto3 find the fake."""
        access_key, secret_key = next(iter(self.secrets.items()), (ACCESS_KEY, SECRET_KEY))
        return {
            "S3_POOL": ",".join(self.endpoints),
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
        }

    def fault(
        self,
        fault: Fault,
        *,
        op: str = "*",
        endpoint: int | None = None,
        key: str | None = None,
        nth: int = 1,
        times: int = 1,
    ) -> Rule:
        """Script a fault: for an operation (a pattern, or a method), a node, a key, the nth of them."""
        return self.script.add(Rule(fault, op, endpoint, key, nth, times))

    def ops(self, *, op: str = "") -> list[str]:
        """Give the operations that were asked for, in order; health probes left out."""
        with self._lock:
            return [request.op for request in self.requests if request.op != "Health" and op in ("", request.op)]

    def forget(self) -> None:
        """Empty the record."""
        with self._lock:
            self.requests.clear()

    def stop(self) -> None:
        """End every node."""
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> FakeS3:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answer(self, exchange: Exchange) -> Reply:
        now = self.clock() + exchange.node.clock_offset_s
        with self._recorded(exchange) as record:
            reply = self._work(exchange, record, now)
            record.status = reply.status
        reply.headers.setdefault("Date", http_time(now))
        if not reply.is_foreign:
            reply.headers.setdefault("x-amz-request-id", f"fake-{exchange.node.index}-{len(self.requests)}")
            if self.quirks.server:
                reply.headers.setdefault("Server", self.quirks.server)
        return reply

    @contextmanager
    def _recorded(self, exchange: Exchange) -> Iterator[Recorded]:
        query = dict(parse_qsl(exchange.target.partition("?")[2], keep_blank_values=True, errors="surrogateescape"))
        record = Recorded(
            endpoint=exchange.node.index,
            connection=exchange.connection,
            method=exchange.method,
            target=exchange.target,
            op="",
            bucket="",
            key="",
            headers=dict(exchange.headers),
            query=query,
        )
        with self._lock:
            self.requests.append(record)
        try:
            yield record
        finally:
            record.headers.update(exchange.trailer)
            record.body_length = len(exchange.received)
            record.body_sha256 = hashlib.sha256(exchange.received).hexdigest()

    def _work(self, exchange: Exchange, record: Recorded, now: float) -> Reply:
        if exchange.target in (self.quirks.health_path, SET_HEALTH_PATH):
            record.op = "Health"
        try:
            record.bucket, record.key, query = split_target(exchange)
            record.bucket, record.key = self.quirks.bucket_of(record.bucket), self.quirks.key_of(record.key)
            record.op = record.op or operation_of(exchange, record.bucket, record.key, query)
            faults = self.script.faults_for(record.op, exchange, record.key)
            for fault in faults:
                if (reply := fault.receive(exchange)) is not None:
                    break
            else:
                _, _, query = split_target(exchange)  # which a fault may have changed
                call = Call(record.op, record.bucket, record.key, query, exchange, self.store, self.quirks, now)
                reply = self._operate(call)
        except S3Fault as fault:
            return self._refuse(fault, record.bucket)
        for fault in faults:
            reply = fault.answer(exchange, reply)
        return reply

    def _operate(self, call: Call) -> Reply:
        try:
            if call.op == "Health":
                return self._health(call)
            self._check_caller(call)
            if self.quirks.refused & call.exchange.headers.keys():
                call.exchange.body()
                raise S3Fault(*self.quirks.refusal, "A header you provided implies functionality that is missing")
            # Receive before locking: a slow client must not stop the others.
            call.exchange.body()
            with self.store.lock:
                if call.op not in OPERATIONS:
                    raise S3Fault(
                        501, "NotImplemented", f"the fake does not know {call.exchange.method} {call.exchange.target}"
                    )
                return OPERATIONS[call.op](call)
        except S3Fault as fault:
            return self._refuse(fault, call.bucket)

    def _health(self, call: Call) -> Reply:
        if call.exchange.method != "GET":
            raise S3Fault(405, "MethodNotAllowed")
        return Reply(200 if self.quirks.has_quorum or call.exchange.target != SET_HEALTH_PATH else 503)

    def _refuse(self, fault: S3Fault, bucket: str) -> Reply:
        return error_reply(
            fault, bucket=bucket, request_id=f"fake-{len(self.requests)}", silent=self.quirks.silent_errors
        )

    def _check_caller(self, call: Call) -> None:
        stamp = call.header("x-amz-date")
        skew = self.quirks.max_skew_s
        if skew and stamp and abs(read_stamp(stamp) - call.now) > skew:
            raise S3Fault(
                403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large."
            )
        if self.quirks.region and call.header("authorization"):
            check_region(call.exchange, self.quirks.region, tells=self.quirks.tells_region)
        # RGW lets anybody ask for the list of nobody's buckets: its answer to a probe of /.
        if self.secrets and not (call.op == "ListBuckets" and not call.header("authorization")):
            check_signature(call.exchange, self.secrets, now=call.now)
        is_signed = call.header("authorization") or "X-Amz-Signature" in call.query
        if (self.secrets or self.quirks.check_payload) and is_signed:
            check_payload(call.exchange)

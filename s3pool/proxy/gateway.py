"""Who may do what through the proxy, and what of it is sent on: one frozen configuration at work.

A reload makes a new gateway; connections take it up with their next request.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from s3pool.body import EMPTY_BODY, Body, BytesBody
from s3pool.model import Credentials, Endpoint
from s3pool.proxy.auth import (
    ANONYMOUS,
    HEADER_V2,
    HEADER_V4,
    QUERY_V2,
    QUERY_V4,
    SIGNED_STREAM,
    SIGNED_STREAM_TRAILER,
    UNSIGNED_STREAM_TRAILER,
    Caller,
    Verifier,
    form_of,
    payload_of,
)
from s3pool.proxy.auth_v2 import verify_v2
from s3pool.proxy.chunked import AwsChunkedReader, ChunkedReader, LengthReader
from s3pool.proxy.clients import Client
from s3pool.proxy.denial import Denial, forbidden
from s3pool.proxy.forward import Forwarder
from s3pool.proxy.head import RequestHead
from s3pool.proxy.operations import Operation, classify
from s3pool.proxy.outbound import Fields, Outbound, is_framed, signed_names
from s3pool.proxy.settings import ProxySettings
from s3pool.proxy.stream import ClientStream
from s3pool.proxy.target import Target, guard_admin, read_target, virtual_bucket
from s3pool.proxy.upload import Budget, ClientBody
from s3pool.s3.sigv4 import Signer

MAX_REMEMBERED_UPLOADS = 100_000
DECODED_LENGTH = re.compile(r"[0-9]{1,15}")
COPY_FIELDS = ("x-amz-copy-source", "x-amz-rename-source")
FORM_PREFIX = "multipart/form-data"
VERIFY, PASSTHROUGH, OPEN = "verify", "passthrough", "open"


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may pass: what it is, who asks, and how the bytes are to be taken."""

    head: RequestHead
    target: Target
    caller: Caller
    operation: Operation
    signer: Signer | None

    @property
    def decodes(self) -> bool:
        """Say whether the body comes in the aws-chunked form and leaves it here."""
        return self.signer is not None and is_framed(self.caller.payload)


@dataclass
class Load:
    """A body ready for a node. ``reader`` tells when the client's bytes are all taken."""

    body: Body = EMPTY_BODY
    reader: LengthReader | ChunkedReader | None = None
    length: int | None = None
    extra: Fields = ()
    dropped: frozenset[str] = frozenset()
    reserved: int = 0
    decoder: AwsChunkedReader | None = None


class Gateway:
    """One configuration of the proxy, shared by all its connections."""

    def __init__(
        self,
        settings: ProxySettings,
        forwarder: Forwarder,
        *,
        clients: Mapping[str, Client],
        pool: Credentials | None,
        region: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.forwarder = forwarder
        self.budget = Budget(settings.replay_memory)
        self.uploads = UploadMap() if settings.sticky else None
        self.name = f"s3pool-{secrets.token_hex(4)}"  # in Via, where a loop shows
        self.checksums_dropped = 0
        self._clients = clients
        self._verifier = Verifier(clients)
        self._pool = pool
        self._region = region
        self._now = now
        self._signers: dict[Credentials | None, Signer] = {}

    # -- admission ---------------------------------------------------------------------------

    def admit(self, head: RequestHead) -> Admitted:
        """Let a request in, before a byte of its body is read.

        Raises:
            Denial: the signature does not hold, or its owner may not do this.
        """
        if any(self.name in value for value in head.values("via")):
            raise Denial(508, "LoopDetected", "this request came through this proxy before", closes=True)
        bucket_host = virtual_bucket(head.host, self.settings.domains)
        target = read_target(head.path, head.query, bucket_host=bucket_host)
        headers = frozenset(name.lower() for name, _ in head.fields)
        operation = classify(head.method, target.names, bucket=target.bucket, key=target.key, headers=headers)
        if self.settings.auth == PASSTHROUGH:
            return Admitted(head, target, _declared(head, target), operation, None)
        guard_admin(target, head.method)
        caller = self._identify(head, target, bucket_host)
        if caller.client is not None:
            caller.client.authorize(operation, target.bucket, source_bucket=_source_bucket(head), now=self._now())
        return Admitted(head, target, caller, operation, self._signer_for(caller))

    def _identify(self, head: RequestHead, target: Target, bucket_host: str) -> Caller:
        form = form_of(head, target)
        if self.settings.auth == OPEN:
            return Caller(form, None, payload_of(QUERY_V4, head, target))
        if form == ANONYMOUS:
            return self._anonymous(head)
        if form in (HEADER_V4, QUERY_V4):
            return self._verifier.verify(form, head, target, now=self._now())
        allowed = {"on": (HEADER_V2, QUERY_V2), "presigned": (QUERY_V2,), "off": ()}[self.settings.sigv2]
        if form not in allowed:
            detail = "Signature Version 2 is not accepted here. Please use AWS4-HMAC-SHA256."
            raise Denial(400, "InvalidRequest", detail, reason="sigv2")
        return verify_v2(form, head, target, clients=self._clients, bucket_host=bucket_host, now=self._now())

    def _anonymous(self, head: RequestHead) -> Caller:
        if self.settings.anonymous == "pass":
            return Caller(ANONYMOUS, None, "")
        if head.method == "POST" and head.value("content-type").lower().startswith(FORM_PREFIX):
            raise Denial(501, "NotImplemented", "form uploads need --auth passthrough", reason="form", closes=True)
        raise forbidden("AccessDenied", "Access Denied", reason="anonymous")

    def _signer_for(self, caller: Caller) -> Signer:
        credentials = caller.client.credentials if caller.client is not None else None
        if self.settings.auth == OPEN:
            credentials = self._pool
        signer = self._signers.get(credentials)
        if signer is None:
            signer = self._signers[credentials] = Signer(credentials, region=self._region)
        return signer

    # -- bodies ------------------------------------------------------------------------------

    def load(self, admitted: Admitted, stream: ClientStream, before_read: Callable[[], None]) -> Load:
        """Make the body that goes to a node; reads of it only what has no length of its own.

        Raises:
            Denial: its length is not known and it is large, or its framing is broken.
        """
        head = admitted.head
        if head.length == 0:
            has_field = head.method in ("PUT", "POST") or bool(head.values("content-length"))
            return Load(length=0 if has_field else None)
        reader = ChunkedReader(stream) if head.length is None else LengthReader(stream, head.length)
        if admitted.decodes:
            return self._decoded(admitted, reader, before_read)
        if head.length is None:
            return self._collected(reader, before_read)
        keeps, reserved = self._reserve(admitted.operation, head.length)
        body = ClientBody(reader.readinto, length=head.length, keeps=keeps, before_read=before_read)
        return Load(body, reader, head.length, reserved=reserved)

    def _reserve(self, operation: Operation, length: int) -> tuple[bool, int]:
        keeps = operation.partial and length <= self.settings.replay_buffer and self.budget.take(length)
        return keeps, length if keeps else 0

    def _decoded(
        self, admitted: Admitted, reader: LengthReader | ChunkedReader, before_read: Callable[[], None]
    ) -> Load:
        length = _decoded_length(admitted.head)
        decoder = self._decoder(admitted, reader, length)
        keeps, reserved = self._reserve(admitted.operation, length)
        load = Load(EMPTY_BODY, reader, length, reserved=reserved, decoder=decoder)
        if not length:
            before_read()
            decoder.readinto(memoryview(bytearray(1)))
            return self._with_checksum(load, admitted, decoder)
        body = ClientBody(decoder.readinto, length=length, keeps=keeps, before_read=before_read)
        load.body = body
        trailer = _trailer(admitted)
        if trailer and keeps:
            # Only once all is read is the checksum known, and it must stand in the head.
            try:
                body.prefetch()
            except BaseException:
                self.release(load)
                raise
            return self._with_checksum(load, admitted, decoder)
        if trailer:
            self.checksums_dropped += 1
            load.dropped = frozenset({"x-amz-sdk-checksum-algorithm"})
        return load

    @staticmethod
    def _with_checksum(load: Load, admitted: Admitted, decoder: AwsChunkedReader) -> Load:
        if decoder.checksum:
            load.extra = ((_trailer(admitted), decoder.checksum),)
        return load

    @staticmethod
    def _decoder(admitted: Admitted, reader: LengthReader | ChunkedReader, length: int) -> AwsChunkedReader:
        payload = admitted.caller.payload
        return AwsChunkedReader(
            reader.readinto,
            length=length,
            seed=admitted.caller.seed,
            trailer=_trailer(admitted),
            is_signed=payload in (SIGNED_STREAM, SIGNED_STREAM_TRAILER),
        )

    def _collected(self, reader: LengthReader | ChunkedReader, before_read: Callable[[], None]) -> Load:
        """Read a small body whose length nobody said: nodes must be told."""
        before_read()
        limit = self.settings.replay_buffer
        buffer, filled = bytearray(), 0
        block = memoryview(bytearray(64 * 1024))
        while count := reader.readinto(block):
            if filled + count > limit:
                detail = f"a body of more than {limit} bytes needs a Content-Length"
                raise Denial(411, "MissingContentLength", detail, closes=True)
            buffer += block[:count]
            filled += count
        return Load(BytesBody(bytes(buffer)), reader, filled)

    def release(self, load: Load) -> None:
        """Give back the memory that a body was promised."""
        if load.reserved:
            self.budget.give_back(load.reserved)
            load.reserved = 0

    # -- what is sent on -----------------------------------------------------------------------

    def outbound(self, admitted: Admitted, load: Load, peer: str) -> Outbound:
        """Give what the request's head is built from."""
        payload = admitted.caller.payload
        return Outbound(
            admitted.head,
            admitted.target,
            admitted.caller.form,
            admitted.signer,
            "UNSIGNED-PAYLOAD" if admitted.decodes else payload or self._payload_when_unsigned(),
            load.length,
            is_decoded=admitted.decodes,
            extra=(*load.extra, ("X-Forwarded-For", peer), ("Via", f"1.1 {self.name}")),
            dropped=load.dropped,
        )

    def _payload_when_unsigned(self) -> str:
        return "UNSIGNED-PAYLOAD" if self.settings.auth == OPEN else ""

    def may_resume(self, admitted: Admitted) -> bool:
        """Say whether the rest of an answer may be asked of another node."""
        if admitted.operation.name != "GetObject" or "partNumber" in admitted.target.names:
            return False
        if "," in admitted.head.value("range"):
            return False
        return admitted.signer is not None or not signed_names(admitted.head, admitted.target) & {"range", "if-match"}

    def owner_of(self, target: Target) -> Endpoint | None:
        """Give the node on which an upload was begun, in pools that keep to their keys."""
        return self.uploads.get(target.value("uploadId")) if self.uploads is not None else None


class UploadMap:
    """Where multipart uploads were begun; the oldest are forgotten."""

    def __init__(self) -> None:
        # Guards the map.
        self._lock = threading.Lock()
        self._owners: OrderedDict[str, Endpoint] = OrderedDict()

    def put(self, upload_id: str, endpoint: Endpoint) -> None:
        """Remember the node of a new upload."""
        with self._lock:
            self._owners[upload_id] = endpoint
            if len(self._owners) > MAX_REMEMBERED_UPLOADS:
                self._owners.popitem(last=False)

    def get(self, upload_id: str) -> Endpoint | None:
        """Give the node of an upload; None for one that is not known."""
        with self._lock:
            return self._owners.get(upload_id) if upload_id else None


def _declared(head: RequestHead, target: Target) -> Caller:
    """Give what a request says of itself, where the node is the one to judge."""
    return Caller(ANONYMOUS, None, head.value("x-amz-content-sha256") or target.value("X-Amz-Content-Sha256"))


def _decoded_length(head: RequestHead) -> int:
    text = head.value("x-amz-decoded-content-length")
    if DECODED_LENGTH.fullmatch(text) is None or len(head.values("x-amz-decoded-content-length")) > 1:
        raise Denial(411, "MissingContentLength", "x-amz-decoded-content-length is missing or malformed", closes=True)
    return int(text)


def _trailer(admitted: Admitted) -> str:
    if admitted.caller.payload not in (SIGNED_STREAM_TRAILER, UNSIGNED_STREAM_TRAILER):
        return ""
    return admitted.head.value("x-amz-trailer").strip().lower()


def _source_bucket(head: RequestHead) -> str:
    for name in COPY_FIELDS:
        values = head.values(name)
        if len(values) > 1:
            raise Denial(400, "InvalidArgument", f"there is more than one {name}", reason="malformed")
        if values:
            source = unquote_to_bytes(values[0].encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
            return source.lstrip("/").partition("/")[0] if name == "x-amz-copy-source" else ""
    return ""

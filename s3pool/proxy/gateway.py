"""Admission of requests and what is sent to nodes, under one configuration.

A reload makes a new gateway; connections take it up with their next request.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from s3pool.body import BytesBody
from s3pool.model import UNSIGNED_PAYLOAD, Credentials, Endpoint, Response
from s3pool.pool.exchange import NeedsThread
from s3pool.pool.node import OPEN as TRIPPED
from s3pool.proxy import auth, conditions, forms, forward, operations
from s3pool.proxy.auth import Admitted
from s3pool.proxy.auth_v2 import not_accepted, verify_v2
from s3pool.proxy.bodies import PASS, BodyLoader, RequestBody
from s3pool.proxy.clients import FORWARDED_FOR, FORWARDED_PROTO, Client, is_trusted, refuse_foreign_pages
from s3pool.proxy.errors import S3ErrorResponse, forbidden
from s3pool.proxy.framing import checksum_for, reader_for
from s3pool.proxy.limits import BucketLimits, RateMeter, Rule, rules_of
from s3pool.proxy.relay import with_location
from s3pool.proxy.request import CACHE_SIZE, NO_NAMES, RequestHead, Target, read_target, virtual_bucket
from s3pool.proxy.settings import ProxySettings
from s3pool.proxy.stream import ClientStream
from s3pool.record import replace
from s3pool.s3.documents import parse_initiate
from s3pool.s3.signing import KeyProvider, Signer

OK = 200
MAX_REMEMBERED_UPLOADS = 100_000
FORWARDED = frozenset({FORWARDED_FOR})
TRACE_CONTEXT = frozenset({"traceparent", "tracestate"})
VERIFY, PASSTHROUGH, OPEN = "verify", "passthrough", "open"


MAX_DOCUMENT_BYTES = 2 << 20  # a thousand long keys, with room for their escapes


class _DocumentSink:
    """Takes a body that names buckets into memory, to be looked at before a node has a byte of it."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Keep the block. Raises S3ErrorResponse: the document is larger than any that S3 knows."""
        self.content += block
        if len(self.content) > MAX_DOCUMENT_BYTES:
            raise S3ErrorResponse(400, "MaxMessageLengthExceeded", "the document is too large", closes=True)

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Keep a range of a file."""
        self.write(os.pread(fd, min(count, MAX_DOCUMENT_BYTES + 1), offset))


class Gateway:
    """One configuration of the proxy, shared by all its connections."""

    def __init__(
        self,
        settings: ProxySettings,
        forwarder: forward.Forwarder,
        *,
        clients: Mapping[str, Client],
        pool: Credentials | KeyProvider | None,
        region: str,
        meter: RateMeter | None = None,
        bucket_limits: BucketLimits = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.forwarder = forwarder
        self.loader = BodyLoader(settings)
        forwarder.memory = self.loader.budget
        # Where multipart uploads were begun, by their ids; the oldest are forgotten.
        self._uploads: OrderedDict[str, Endpoint] = OrderedDict()
        self.name = f"s3pool-{secrets.token_hex(4)}"  # in Via, where a loop shows
        self._clients = clients
        self._verifier = auth.Verifier(clients)
        self.node_facts = conditions.NodeFacts(forwarder)
        self._names = frozenset((*settings.domains, *settings.allowed_hosts, settings.listen.host.lower()))
        self.meter = meter or RateMeter()
        self._bucket_limits = bucket_limits
        self.has_limits = bool(bucket_limits) or any(known.limits or known.bucket_limits for known in clients.values())
        # A trace goes on by our own spans. A signature that is kept may cover its names.
        kept_back = TRACE_CONTEXT if settings.tracing and settings.auth != PASSTHROUGH else NO_NAMES
        self._kept_back = kept_back, kept_back | FORWARDED
        self._pool = pool
        self._region = region
        self._now = now
        self._signers: dict[str, Signer] = {}  # by the client's access key
        # Without it RGW refuses keys of the client's (SSE-C) and whatever a policy allows over TLS alone.
        self._scheme_line = "X-Forwarded-Proto: https\r\n" if settings.tls_cert else ""
        # Plain requests may be served by a thread that never waits for a node.
        self.allows_event_loop = forwarder.is_plain and not settings.domains
        self._via_line = f"Via: 1.1 {self.name}\r\n"
        self._mute_server = ""  # the Server field of nodes that do not tell what they are
        self._origins: dict[str, str] = {}  # what nodes are told of a client, by its address

    @property
    def is_ready(self) -> bool:
        """Return whether a node is there that would take a request."""
        nodes = (node for node in self.forwarder.transport.balancer.nodes if not node.is_draining)
        return any(node.breaker.state != TRIPPED or node.breaker.is_trial_due() for node in nodes)

    def rules_for(self, client: Client | None, bucket: str) -> tuple[Rule, ...]:
        """Return the limits that hold for a request."""
        own = client.rules(bucket) if client is not None and (client.limits or client.bucket_limits) else ()
        return own + rules_of(self._bucket_limits, bucket, owner="") if self._bucket_limits else own

    # -- admission ---------------------------------------------------------------------------

    def is_plain(self, head: RequestHead, admitted: Admitted) -> bool:
        """Return whether a request is a read that the event loop can serve."""
        return (
            self.allows_event_loop
            and admitted.operation.name in ("GetObject", "HeadObject")
            and head.keep_alive
            and not (head.is_http_1_0 or head.expects_continue or head.has_odd_expectation)
            and conditions.MAY_BE_UNCHECKED.isdisjoint(head.names)
        )

    def admit(self, head: RequestHead, peer: str, *, may_wait: bool = True) -> Admitted:
        """Return a request that may be made. Raises S3ErrorResponse: it may not. NeedsThread: a node must be asked."""
        if "via" in head.index and self.name in ",".join(head.index["via"]):
            raise S3ErrorResponse(508, "LoopDetected", "this request came through this proxy before", closes=True)
        settings = self.settings
        bucket_host = virtual_bucket(head.host, settings.domains) if settings.domains else ""
        target = read_target(head.path, head.query, bucket_host=bucket_host)
        is_plain = target.key and not target.pairs  # whatever else its head says
        plain = operations.PLAIN_READS.get(head.method) if is_plain else None
        operation = plain or operations.operation_of(head, target)
        if settings.auth == OPEN:
            refuse_foreign_pages(head, self._names)
        elif settings.auth == PASSTHROUGH:
            if not is_trusted(peer, settings.trust_forwarded):
                forward.refuse_signed_forwarding(head, target)
            payload = head.value(forward.PAYLOAD_FIELD) or target.value("X-Amz-Content-Sha256")  # as declared
            return Admitted(head, target, auth.Caller(auth.ANONYMOUS, None, payload), operation, None)
        if head.has_odd_expectation:
            detail = "the only expectation met here is 100-continue"
            raise S3ErrorResponse(417, "ExpectationFailed", detail, closes=True)
        if not target.bucket or target.bucket.lower() in conditions.ADMIN_NAMES:
            if not may_wait:
                raise NeedsThread
            self.node_facts.guard_admin(head, target)
        is_form = operation.name == "PostObject" and forms.is_form(head)
        if is_form and not target.pairs and "authorization" not in head.index:  # who sends it stands in the form
            if target.key:
                raise S3ErrorResponse(405, "MethodNotAllowed", "a form goes to its bucket; its field names the key")
            return Admitted(head, target, auth.Caller(auth.ANONYMOUS, None, ""), operation, None, is_form=True)
        recognizes = settings.auth != OPEN and head.method != "OPTIONS"
        caller = self._verifier.recognize(head, target, now=self._now()) if recognizes else None
        caller = caller or self._identify(head, target, bucket_host)
        head = self._authorized(caller.client, operation, head, target)
        decodes = caller.is_framed and self._decodes(head, caller)
        signer = self._signers.get(caller.access_key) or self._signer_for(caller)
        return Admitted(head, target, caller, operation, signer, decodes)

    def _authorized(
        self, client: Client | None, operation: operations.S3Operation, head: RequestHead, target: Target
    ) -> RequestHead:
        """Return the head with canonical names, if the client may do this."""
        source_bucket = ""
        if target.pairs or not operations.NAMING_HEADERS.isdisjoint(head.names):
            head, source_bucket = operations.canonical_names(head, target)
        if client is not None and (client.buckets or client.read_only or client.expires):
            client.authorize(operation, target.bucket, source_bucket=source_bucket, now=self._now())
            if client.buckets or client.read_only:  # which the nodes do not check
                operations.check_exact(operation, head, target)
        return head

    def _decodes(self, head: RequestHead, caller: auth.Caller) -> bool:
        if self.settings.trailers == PASS and caller.payload == auth.UNSIGNED_STREAM_TRAILER:
            if trailer := head.value("x-amz-trailer").strip().lower():
                checksum_for(trailer)
            return False
        return caller.is_framed

    def _identify(self, head: RequestHead, target: Target, bucket_host: str) -> auth.Caller:
        form = auth.form_of(head, target)
        if self.settings.auth == OPEN:
            return auth.Caller(form, None, auth.payload_of(auth.QUERY_V4, head, target))
        if head.method == "OPTIONS" and "origin" in head.index and "access-control-request-method" in head.index:
            # A browser asks before it sends the request; the bucket's rules decide, and nobody signs this.
            return auth.Caller(auth.ANONYMOUS, None, "")
        if form == auth.ANONYMOUS or head.method == "OPTIONS":
            return self._anonymous(head)
        if form in (auth.HEADER_V4, auth.QUERY_V4):
            return self._verifier.verify(form, head, target, now=self._now())
        allowed = {"on": (auth.HEADER_V2, auth.QUERY_V2), "presigned": (auth.QUERY_V2,), "off": ()}[self.settings.sigv2]
        if form not in allowed:
            raise not_accepted()
        return verify_v2(form, head, target, clients=self._clients, bucket_host=bucket_host, now=self._now())

    def _anonymous(self, head: RequestHead) -> auth.Caller:
        if self.settings.anonymous == "pass":
            payload = head.value(forward.PAYLOAD_FIELD)
            return auth.Caller(auth.ANONYMOUS, None, payload if payload in auth.STREAMS else "")
        raise forbidden("AccessDenied", "Access Denied", reason="anonymous")

    def _signer_for(self, caller: auth.Caller) -> Signer:
        signer = self._signers.get(caller.access_key)
        if signer is None:
            credentials = caller.client.credentials if caller.client is not None else None
            if self.settings.auth == OPEN:
                credentials = self._pool
            signer = self._signers[caller.access_key] = Signer(credentials, region=self._region)
        return signer

    def adopt_region(self, region: str) -> bool:
        """Sign for the region that the storage names; False for the one that was configured."""
        self._region, told = region, self._region
        is_new = [signer.adopt_region(region) for signer in tuple(self._signers.values())]
        return region != told or any(is_new)

    def admit_form(
        self, admitted: Admitted, stream: ClientStream, on_admitted: Callable[[Admitted], None]
    ) -> tuple[Admitted, RequestBody, forms.UploadForm]:
        """Read an upload form; return the PUT it stands for, which ``on_admitted`` gets before the file is read."""
        head, bucket = admitted.head, admitted.target.bucket
        reader = reader_for(head, stream)
        boundary = forms.boundary_of(head.value("content-type"))
        source = forms.FormReader(reader.readinto, boundary)
        load = RequestBody()
        try:
            form = source.read_fields()
            form, caller, policy = self._identify_form(form, bucket)
            put = self._admit_put(forms.put_head(head, form, bucket), caller)
            on_admitted(put)
            load = self.loader.collected(source.readinto, reader, limit=policy.most if policy else None)
            source.drop_rest()
            if policy is not None:
                policy.check_size(load.length or 0)
        except BaseException as exc:
            load.release()
            if isinstance(exc, S3ErrorResponse):
                exc.closes = True  # nobody knows how much of the form was read
            raise
        return put, load, form

    def _identify_form(
        self, form: forms.UploadForm, bucket: str
    ) -> tuple[forms.UploadForm, auth.Caller, forms.Policy | None]:
        if self.settings.auth == OPEN:
            return forms.with_file_type(form), auth.Caller(auth.ANONYMOUS, None, UNSIGNED_PAYLOAD), None
        v2, anonymous = self.settings.sigv2 != "off", self.settings.anonymous == "pass"
        return forms.identify(form, bucket, self._verifier, allows_v2=v2, allows_anonymous=anonymous, now=self._now())

    def _admit_put(self, head: RequestHead, caller: auth.Caller) -> Admitted:
        target = read_target(head.path, None)
        operation = operations.operation_of(head, target)
        head = self._authorized(caller.client, operation, head, target)
        # The form's own signature ends here: the PUT is signed by header.
        caller = auth.Caller(auth.HEADER_V4, caller.client, caller.payload)
        return Admitted(head, target, caller, operation, self._signer_for(caller))

    def load(self, admitted: Admitted, stream: ClientStream) -> RequestBody:
        """Make the body ready for a node; a document is judged first. Raises S3ErrorResponse: it is not allowed."""
        self.node_facts.check_conditions(admitted)
        load = self.loader.load(admitted, stream)
        client = admitted.caller.client
        names = client is not None and bool(client.buckets) and admitted.operation.name in operations.DOCUMENTS
        passes_over = self.node_facts.ignores_batch_conditions(admitted)
        if not (names or passes_over):
            return load
        sink = _DocumentSink()
        try:
            load.body.send(sink)
            if names and client is not None:
                operations.check_document(bytes(sink.content), client.admits)
            if passes_over:
                conditions.check_batch(bytes(sink.content))
        except BaseException as exc:
            load.release()
            if isinstance(exc, S3ErrorResponse):
                exc.closes = True  # the body was taken, and nobody is left to say so
            raise
        if load.body.rewindable:
            return load
        load.release()
        return replace(load, body=BytesBody(sink.content), decoder=None, spooled=None)

    # -- what is sent on -----------------------------------------------------------------------

    def node_request(self, admitted: Admitted, load: RequestBody, peer: str) -> forward.NodeRequest:
        """Return the request to a node, whose head is built once the node is picked."""
        balancers = self.settings.trust_forwarded
        trusts = bool(balancers) and is_trusted(peer, balancers)
        head, caller, signer = admitted.head, admitted.caller, admitted.signer
        return forward.NodeRequest(
            forward.without_framing(head)
            if admitted.decodes and signer is not None and not load.is_rechunked
            else head,
            admitted.target,
            caller.form,
            signer,
            self._payload(admitted, load),
            load.length,
            self._origin(head, peer) if trusts else self._origins.get(peer) or self._keep_origin(peer),
            caller.access_key or ("" if self.settings.auth == VERIFY else peer),
            load.expects_continue,
            trusts,
            load.extra,
            self._kept_back[trusts],
        )

    def _keep_origin(self, peer: str) -> str:
        if len(self._origins) >= CACHE_SIZE:
            self._origins = {}
        return self._origins.setdefault(peer, f"X-Forwarded-For: {peer}\r\n{self._scheme_line}{self._via_line}")

    def _origin(self, head: RequestHead, peer: str) -> str:
        """Return the lines that tell of the client of a trusted balancer, which may have told of TLS itself."""
        hops = ", ".join([*head.values(FORWARDED_FOR), peer])
        has_told = FORWARDED_PROTO in head.index or "forwarded" in head.index
        return f"X-Forwarded-For: {hops}\r\n{'' if has_told else self._scheme_line}{self._via_line}"

    def _payload(self, admitted: Admitted, load: RequestBody) -> str:
        """Return x-amz-content-sha256 for the node, or an empty string for none."""
        caller = admitted.caller
        if load.is_rechunked or (caller.is_framed and not admitted.decodes):
            return auth.UNSIGNED_STREAM_TRAILER
        if caller.client is None and self.settings.auth != OPEN:
            return ""
        return UNSIGNED_PAYLOAD if admitted.decodes else caller.payload or UNSIGNED_PAYLOAD

    def settle(self, admitted: Admitted) -> operations.S3Operation:
        """Return the operation with its retry rules, which depend on the bucket's versioning."""
        operation, bucket = admitted.operation, admitted.target.bucket
        if operation.name == "PutBucketVersioning":
            self.node_facts.versioning.forget(bucket)
        is_plain = operation.name == "PutObject" and forward.CONDITIONS.isdisjoint(admitted.head.index)
        if not self.settings.retry_ambiguous_put or not is_plain:
            return operation
        return replace(operation, ambiguous=self.node_facts.keeps_no_versions(admitted), after_500=operation.after_500)

    def may_resume(self, admitted: Admitted) -> bool:
        """Return whether the rest of an answer may be asked of another node."""
        head, target = admitted.head, admitted.target
        if admitted.operation.name != "GetObject" or "partNumber" in target.names or "," in head.value("range"):
            return False
        return admitted.signer is not None or forward.signed_names(head, target).isdisjoint({"range", "if-match"})

    def learn_server(self, headers: Mapping[str, str]) -> None:
        """Note which server the nodes run, as far as an answer tells."""
        if headers.get("server") == self._mute_server and "x-amz-request-id" not in headers:
            return
        self.node_facts.server = server = conditions.kind_of(headers)
        self.loader.takes_trailers = self.loader.takes_trailers or server in conditions.TRAILER_SERVERS
        if not server and "x-amz-request-id" not in headers:
            self._mute_server = headers.get("server", "")

    def learn_upload(self, op: str, response: Response) -> None:
        """Note which node has a new upload."""
        if self.settings.sticky and op == "CreateMultipartUpload" and response.status == OK:
            self._uploads[parse_initiate(response.preload())] = response.endpoint
            if len(self._uploads) > MAX_REMEMBERED_UPLOADS:
                self._uploads.popitem(last=False)

    def answer_for(
        self, head: RequestHead, admitted: Admitted, response: Response, form: forms.UploadForm | None
    ) -> Response:
        """Return an answer as a client of this proxy is to see it, with the address of a new object here."""
        has_address = admitted.operation.name == "CompleteMultipartUpload" and admitted.signer is not None
        if form is None and (not has_address or response.status != OK or response.body is not None):
            return response
        scheme = "https" if self.settings.tls_cert else "http"
        if form is None:
            return with_location(response, scheme=scheme, host=head.host)
        path, bucket = admitted.target.path, virtual_bucket(head.host, self.settings.domains)
        path = path.removeprefix(f"/{bucket}") if bucket else path
        return forms.form_answer(form, admitted.target.bucket, response, url=f"{scheme}://{head.host}{path}")

    def owner_of(self, target: Target) -> Endpoint | None:
        """Return the node on which an upload was begun, in pools that keep to their keys."""
        upload_id = target.value("uploadId") if self._uploads else ""
        return self._uploads.get(upload_id) if upload_id else None

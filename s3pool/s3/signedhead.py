"""Signed request heads of which a run sends thousands alike: what is the same in all is written once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter

from s3pool.model import Endpoint, Request
from s3pool.s3.sigv4 import ALGORITHM, S3Rules, Signer, signed_names

BuildHead = Callable[[Request, Mapping[str, str]], bytes]

BODY_METHODS = frozenset({"PUT", "POST"})  # their Content-Length stands there when it is 0
PAYLOAD_FIELD = "x-amz-content-sha256"
TOKEN_FIELD = "x-amz-security-token"
# What signing adds itself; a request that brings it along is not an everyday one.
ADDED = frozenset({"host", "x-amz-date", PAYLOAD_FIELD, TOKEN_FIELD, "authorization", "content-length"})


class SignedHeads:
    """Builds heads, as build_head() builds them of what the signer gives.

    ``build_head`` is asked for all that is not an everyday request; so the two must agree.
    """

    def __init__(self, signer: Signer, build_head: BuildHead, defaults: Mapping[str, str]) -> None:
        self._signer = signer
        self._build_head = build_head
        self._defaults = defaults
        # One second's timestamp and forms, replaced as one.
        self._second: tuple[str, dict[tuple[object, ...], _Form | None]] = ("", {})

    def __call__(self, request: Request, endpoint: Endpoint, now: float) -> bytes:
        """Give the bytes of a request's head; ``now`` is seconds since 1970."""
        form = None if request.query else self._form_for(request, endpoint, now)
        head = form.fill(request) if form is not None else None
        return head or self._build_head(request, self._signer.sign(request, endpoint, now))

    def _form_for(self, request: Request, endpoint: Endpoint, now: float) -> _Form | None:
        timestamp = self._signer.timestamp(now)
        at, forms = self._second
        if at != timestamp:
            forms = {}
            self._second = timestamp, forms
        headers = request.headers
        host = request.host_header(endpoint)
        shape = request.method, host, request.body.length > 0, *headers
        try:
            return forms[shape]
        except KeyError:
            identity = self._signer.identity(timestamp)
            is_everyday = identity is not None and ADDED.isdisjoint(headers)
            form = _Form(request, host, identity, timestamp, self._defaults) if identity and is_everyday else None
            forms[shape] = form
            return form


class _Form:
    """The heads of requests that differ in path, values and payload alone, within one second."""

    __slots__ = ("_canonical", "_has_length", "_head", "_in_order", "_line_ends", "_moment")

    def __init__(
        self, request: Request, host: str, identity: S3Rules, timestamp: str, defaults: Mapping[str, str]
    ) -> None:
        names = tuple(request.headers)
        moment = identity.at(timestamp)
        token = {TOKEN_FIELD: _fixed(identity.session_token)} if identity.session_token else {}
        fixed = {"host": _fixed(host), "x-amz-date": timestamp} | token
        open_names = *names, PAYLOAD_FIELD
        signed, signed_text = signed_names((*fixed, *open_names))
        lines = [f"{name}:{fixed.get(name, '%s')}" for name in signed]
        self._canonical = f"{request.method}\n%s\n\n" + "\n".join(lines) + f"\n\n{signed_text}\n%s"
        places = [open_names.index(name) for name in signed if name not in fixed]
        self._in_order = itemgetter(*places, open_names.index(PAYLOAD_FIELD))
        credential = _fixed(f"{identity.access_id}/{moment.scope}")
        fields = {"host": fixed["host"]} | dict.fromkeys(names, "%s")
        fields |= {"x-amz-date": timestamp, PAYLOAD_FIELD: "%s"} | token
        fields["authorization"] = f"{ALGORITHM} Credential={credential}, SignedHeaders={signed_text}, Signature=%s"
        fields |= {name: _fixed(value) for name, value in defaults.items() if name not in fields}
        self._has_length = request.body.length > 0 or request.method in BODY_METHODS
        if self._has_length:
            fields["content-length"] = "%s"
        head = [f"{request.method} %s HTTP/1.1", *[f"{name}: {value}" for name, value in fields.items()]]
        self._head = "\r\n".join([*head, "", ""])
        self._line_ends = self._head.count("\n")
        self._moment = moment

    def fill(self, request: Request) -> bytes | None:
        """Give the head of a request of this shape; None when there is something odd about a value."""
        path, payload_hash = request.path, request.payload_hash
        values = *request.headers.values(), payload_hash
        canonical = self._canonical % (path, *self._in_order(values))
        if " " in canonical or "\t" in canonical:  # to be folded
            return None
        signature = self._moment.sign(canonical.encode("utf-8", "surrogateescape"))
        length = (request.body.length,) if self._has_length else ()
        head = self._head % (path, *values, signature, *length)
        if head.count("\n") != self._line_ends or head.count("\r") != self._line_ends or "\0" in head:
            return None
        return head.encode("utf-8", "surrogateescape")


def _fixed(text: str) -> str:
    return text.replace("%", "%%")

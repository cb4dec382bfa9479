"""Requests that try to get past the proxy, and a watch that sees whether one did.

A seeded generator spells buckets, keys, sub-resources, headers, copy sources, content types and
bodies in every way that some server is known to read otherwise, and signs them as a client with
limits rightly may. The watch compares what the proxy wrote into its log with what the store holds
afterwards, by a door of its own behind the proxy.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import random
import re
import socket
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote
from xml.sax.saxutils import unescape

from s3pool.model import Credentials
from s3pool.s3.signing import canonical_path, canonical_query, derive_key
from tests.support.proxying import GUEST_KEY, REGION, Answer, RunningProxy, parse_answer, read_to_end, signed_request
from tests.support.upload_form import form_body, signed_form

TOKEN = "canary-5b1d2f4c9e7a4830"  # stands in the bytes, metadata and names of what nobody may see
HIDDEN_KEY = f"hidden-{TOKEN}"
CONTENT = b"the content of everyday objects"
SECRET_KEYS = ("key", "dir/key", "a b", "k%2Fk", HIDDEN_KEY)
# Operations that leave something in the bucket's configuration.
CONFIGURATION = re.compile("(Put|Delete|Create)Bucket")
REFERENCE = re.compile("&#x([0-9A-Fa-f]+);")
LOG_DEADLINE_S = 10.0
TIMEOUT_S = 30.0

METHODS = ("GET", "GET", "GET", "HEAD", "PUT", "PUT", "PUT", "POST", "POST", "POST", "DELETE", "DELETE", "OPTIONS")
FLAGS = """
acl policy uploads delete restore append tagging versioning versions logging website cors lifecycle
replication notification location requestPayment torrent attributes legal-hold retention object-lock
encryption accelerate inventory analytics metrics intelligent-tiering ownershipControls publicAccessBlock
policyStatus renameObject mdsearch layout syncing usage select session metadataTable replication-metrics
""".split()  # noqa: SIM905
PARAMETERS = (
    "partNumber=1",
    "select-type=2",
    "select-type=1",
    "position=0",
    "versionId=null",
    "list-type=2",
    "list-type=1",
    "prefix=",
    "delimiter=/",
    "max-keys=2",
    "marker=a",
    "continuation-token=a",
    "Action=AssumeRole",
    "Action=ListUsers&Version=2010-05-08",
    "rgwx-uid=s3pool",
    "rgwx-zonegroup=default",
    "rgwx-stat=true",
    "uid=s3pool",
    "key=s3pool",
    "format=json",
    "lambdaArn=a",
    "x-amz-acl=public-read",
    "x-id=GetObject",
    "response-content-type=text/html",
    "part-number-marker=0",
    "fetch-owner=true",
    "metadata=true",
    "id=a",
    "ping=1",
    "bypassGovernanceRetention",
    "x-minio-force-delete=true",
)
CONTENT_TYPES = (
    "text/plain",
    "application/xml",
    "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxk",
    "multipart/form-data",
    "Multipart/UploadForm-Data; boundary=a",
    "application/x-www-form-urlencoded",
    "text/plain; multipart/form-data",
    "",
)
SELECT = (
    b"<SelectObjectContentRequest><Expression>select * from s3object</Expression><ExpressionType>SQL</ExpressionType>"
    b"<InputSerialization><CSV/></InputSerialization><OutputSerialization><CSV/></OutputSerialization>"
    b"</SelectObjectContentRequest>"
)
ADMIN_DOORS = frozenset({"minio", "admin", "swift", "auth"})
ADMIN_PATHS = (
    "/minio/admin/v3/info",
    "/minio/admin/v3/list-users",
    "/minio/admin/v3/service?action=restart&dry-run=true",
    "/minio/v2/metrics/cluster",
    "/minio/kms/v1/status",
    "/minio/health/cluster",
    "/admin/user?uid=s3pool",
    "/admin/metadata/user?key=s3pool",
    "/admin/bucket",
    "/admin/usage",
    "/swift/v1/SECRET",
    "/swift/v1/SECRET/key",
    "/auth/v1.0",
    "/?Action=ListUsers&Version=2010-05-08",
    "/?Action=AssumeRole&RoleArn=a&RoleSessionName=b",
    "/?usage",
    "/",
)


@dataclass(frozen=True)
class Attempt:
    """One request as it goes over the wire."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    kind: str = "header"
    unsigned: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        extra = [f"{name}: {value!r}" for name, value in (*self.headers, *self.unsigned)]
        return f"{self.kind} {self.method} {self.target} {extra} {self.body[:300]!r}"


class Generator:
    """Makes attempts from a seed; ``allowed`` and ``secret`` are the two buckets."""

    def __init__(self, seed: int, allowed: str, secret: str) -> None:
        self.random = random.Random(seed)
        self.allowed = allowed
        self.secret = secret
        self.upload_ids: list[str] = []

    def next(self) -> Attempt:
        """Return the next attempt: an everyday request with some of its parts spelled otherwise."""
        chance = self.random.random()
        if chance < 0.08:
            return self._form()
        if chance < 0.14:
            return self._admin()
        method, key, query, headers, body = self._everyday()
        bucket, changes = self.allowed, self.random.choice((0, 1, 1, 1, 2, 2, 3))
        for _ in range(changes):
            change = self._one("bkqqhhcbm")
            bucket = self._bucket() if change == "b" else bucket
            key = self._key() if change == "k" else key
            query = "&".join(filter(None, (query, self._word()))) if change == "q" else query
            headers = {**headers, **dict([self._odd_header()])} if change == "h" else headers
            headers = {**headers, "Content-Type": self._one(CONTENT_TYPES)} if change == "c" else headers
            headers = {**headers, "x-amz-copy-source": self._source()} if change == "c" and method == "PUT" else headers
            method = self._one(METHODS) if change == "m" else method
            body = self._body() if change == "m" or (change == "c" and method == "POST") else body
        path = f"/{bucket}/{key}" if key else f"/{bucket}{self._one(('', '', '/'))}"
        target = f"{path}?{query}" if query else path
        fields = tuple({name.lower(): (name, value) for name, value in headers.items()}.values())
        if chance < 0.3:
            return Attempt(method, target, (), body, "presigned", fields)
        return Attempt(method, target, fields, body, "header", self._unsigned())

    def _everyday(self) -> tuple[str, str, str, dict[str, str], bytes]:
        """Return method, key, query, headers and body of a request that its sender may well make."""
        upload = f"uploadId={self._one(self.upload_ids)}"
        copy = {"x-amz-copy-source": self._source()}
        deletion = b"<Delete><Object><Key>new</Key></Object></Delete>"
        return self.random.choice(
            [
                ("GET", "k", "", {}, b""),
                ("GET", "dir/key", "versionId=null", {}, b""),
                ("GET", "k", "tagging", {}, b""),
                ("GET", "", "list-type=2&prefix=", {}, b""),
                ("GET", "", self._one(("", "acl", "versions", "uploads", "location", "policy")), {}, b""),
                ("HEAD", "k", "", {}, b""),
                ("PUT", "new", "", {}, CONTENT),
                ("PUT", "new", "", copy, b""),
                ("PUT", "new", "", copy, b""),
                ("PUT", "up", f"{upload}&partNumber=1", copy, b""),
                ("PUT", "up", f"{upload}&partNumber=2", {}, CONTENT),
                ("PUT", "k", self._one(("acl", "tagging", "legal-hold")), {}, self._body()),
                ("PUT", "", self._one(FLAGS), {}, self._body()),
                ("PUT", "", "", {}, b""),
                ("POST", "k", "select&select-type=2", {}, SELECT),
                ("POST", "new", "uploads", {}, b""),
                ("POST", "k", self._word(), {"Content-Type": CONTENT_TYPES[2]}, form_body({"key": "new"}, CONTENT)),
                ("POST", "", "delete", {"content-md5": _md5(deletion)}, deletion),
                ("POST", "up", upload, {}, self._body()),
                ("DELETE", "new", "", {}, b""),
                ("DELETE", "", self._one(FLAGS), {}, b""),
                ("OPTIONS", "k", "", {"Origin": "http://a", "Access-Control-Request-Method": "GET"}, b""),
            ]
        )

    def _one(self, choices: Sequence[str]) -> str:
        return self.random.choice(choices)

    def _rarely(self, chance: float = 0.1) -> bool:
        return self.random.random() < chance

    # -- names -------------------------------------------------------------------------------

    def _bucket(self) -> str:
        """Return a bucket's raw spelling in a path."""
        a, s = self.allowed, self.secret
        chance = self.random.random()
        if chance < 0.5:
            return a
        if chance < 0.6:
            return self._spelled(a)
        odd = [s, s, self._spelled(s), f":{s}", f"t:{s}", f"{a}:", f"{a}:{s}", f"%3A{s}", f"{a}%00", f"{a}%00{s}"]
        odd += [f"{a}%2F..%2F{s}", f"..%2F{s}", f"./{s}", f"../{s}", f"/{s}", f"{a}/../{s}", f"{a}%2F{s}", f"{s}."]
        odd += [f"{a};{s}", f"{a}%20", f"%20{s}", f"{a}%5C..%5C{s}", quote(quote(s, safe=""), safe=""), s.upper()]
        odd += [f"{s}%0A", f"{s}%09", f"{a},{s}", f"{s}~", f"%2e%2e/{s}", f"{a}@{s}", f"arn:aws:s3:::{s}", f"%C0%AF{s}"]
        return self._one(odd)

    def _key(self) -> str:
        """Return a key's raw spelling in a path; empty for none."""
        s = self.secret
        chance = self.random.random()
        if chance < 0.25:
            return ""
        if chance < 0.6:
            return self._one(("k", "new", "key", "dir/key"))
        odd = [
            "a%20b",
            f"../{s}/key",
            f"..%2F{s}%2Fkey",
            f"%2e%2e/{s}/key",
            f"/{s}/key",
            "/",
            "k/",
            "a//b",
            "%00",
            "k%00",
        ]
        odd += [
            "%FF",
            "%252e%252e",
            "k%3Facl",
            "k;acl",
            "k%26uploads",
            "a+b",
            "%7Ek",
            f"x/../../{s}/key",
            "new%0D%0Aa",
            ".",
        ]
        odd += [
            "..",
            "dir%2Fkey",
            "__XLDIR__",
            ".minio.sys/config",
            "a%5Cb",
            f"..%5C{s}%5Ckey",
            "\u00e4".encode().hex(),
        ]
        return self._one(odd)

    def _spelled(self, text: str) -> str:
        """Return a name with some letters as escapes."""
        return "".join(f"%{ord(letter):02{self._one('xX')}}" if self._rarely(0.3) else letter for letter in text)

    def _word(self) -> str:
        chance = self.random.random()
        if chance < 0.15 and self.upload_ids:
            return f"uploadId={self._one(self.upload_ids)}&partNumber=1" if self._rarely(0.7) else "uploadId=none"
        if chance < 0.2:
            way = self._one(("../../../../", "..%2F..%2F", "..", f"../{self.secret}/")) + self.secret
            return f"{self._one(('uploadId', 'versionId', 'prefix', 'id', 'key-marker'))}={way}"
        if chance < 0.3:
            return self._one(
                ("select&select-type=2", "uploads", "delete", "select", "append&position=0", "list-type=2")
            )
        if chance < 0.6:
            return self._one(PARAMETERS)
        if chance < 0.64:
            return f"{self._one(('x-amz-copy-source', 'X-Amz-Copy-Source'))}={quote(self._source(), safe='')}"
        word = self._one(FLAGS)
        word = self._one((word, word, word, word.upper(), self._spelled(word), f"{word}%00", f"+{word}"))
        return word + self._one(("", "", "=", "=1", f"={self.secret}"))

    def _source(self) -> str:
        """Return a value for x-amz-copy-source."""
        a, s = self.allowed, self.secret
        chance = self.random.random()
        if chance < 0.25:
            return f"{a}/k"
        if chance < 0.5:
            return f"{self._one(('', '/', '//'))}{self._bucket()}/{self._key() or 'key'}"
        odd = [
            f"//{a}/{s}/key",
            f"{a}:/{s}/key",
            f"{a}+a.b://x/{s}/key",
            f"/:{s}/key",
            f"http://{a}/{s}/key",
            f"{s}/key",
        ]
        odd += [f"///{s}/key", f"/%2F{s}/key", f"{a}?/{s}/key", f"{a}#/{s}/key", f"{a}/k?versionId=null", f"{s}%2Fkey"]
        odd += [f"{a}/../{s}/key", f"{a}%2F..%2F{s}%2Fkey", f"//{a}@x/{s}/key", f"{a}/k#/../../{s}/key", f"\\{s}\\key"]
        odd += [f"{a}/{HIDDEN_KEY[:6]}", f"arn:aws:s3:::{s}/key", f"?versionId={s}", f"{a}/k?versionId=x/../../{s}/key"]
        return self._one(odd)

    # -- headers -----------------------------------------------------------------------------

    def _odd_header(self) -> tuple[str, str]:
        s = self.secret
        return self.random.choice(
            (
                ("x-amz-acl", "public-read"),
                ("x-amz-rename-source", f"/{s}/key"),
                ("x-amz-rename-source", "k"),
                ("x-amz-copy-source-range", "bytes=0-3"),
                ("x-amz-write-offset-bytes", "0"),
                ("x-amz-metadata-directive", "REPLACE"),
                ("x-amz-tagging", "a=b"),
                ("x-amz-website-redirect-location", f"/{s}/key"),
                ("x-amz-bypass-governance-retention", "true"),
                ("x-amz-meta-snowball-auto-extract", "true"),
                ("x-amz-meta-a", "b"),
                ("x-amz-security-token", "a"),
                ("x-minio-extract", "true"),
                ("x-minio-force-delete", "true"),
                ("x-minio-source-replication-request", "true"),
                ("x-goog-copy-source", f"{s}/key"),
                ("x-goog-meta-a", "b"),
                ("x-rgw-copy-source", f"{s}/key"),
                ("x-amz-source-bucket", s),
                ("X-HTTP-Method-Override", "DELETE"),
                ("X-Copy-From", f"/{s}/key"),
                ("Destination", f"/{s}/key"),
                ("x-auth-token", "a"),
                ("x-container-read", ".r:*"),
                ("Range", "bytes=0-3"),
                ("If-None-Match", "*"),
                ("Content-Encoding", "aws-chunked"),
                ("X-Forwarded-Host", f"{s}.example"),
                ("x-original-url", f"/{s}/key"),
            )
        )

    def _unsigned(self) -> tuple[tuple[str, str], ...]:
        """Return what somebody adds to a request that another one signed."""
        if not self._rarely(0.15):
            return ()
        name, value = self.random.choice((("x-amz-copy-source", self._source()), self._odd_header()))
        spelled = self._one((name, name.replace("-", "_"), name.replace("-", "_", 1), name.upper(), f"{name} "))
        return ((spelled, value),)

    # -- bodies ------------------------------------------------------------------------------

    def _body(self) -> bytes:
        s = self.secret
        keys = "".join(
            f"<Object><Key>{self._one(('k', 'new', f'../{s}/key', f'/{s}/key', 'key'))}</Key></Object>" for _ in "ab"
        )
        names = (s, f":{s}", f"arn:aws:s3:::{s}", self.allowed)
        bucket = self._one(names)
        choices: list[bytes] = [
            CONTENT,
            b"",
            f"<Delete>{keys}</Delete>".encode(),
            f"<BucketLoggingStatus><LoggingEnabled><TargetBucket>{bucket}</TargetBucket><TargetPrefix/></LoggingEnabled>"
            "</BucketLoggingStatus>".encode(),
            f"<ReplicationConfiguration><Role/><Rule><Status>Enabled</Status><Destination><Bucket>{bucket}</Bucket>"
            "</Destination></Rule></ReplicationConfiguration>".encode(),
            b"Action=AssumeRole&Version=2011-06-15&DurationSeconds=3600",
            b"Action=ListUsers&Version=2010-05-08",
            SELECT,
            b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>",
            b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>",
            json.dumps({"Version": "2012-10-17", "Statement": []}).encode(),
            form_body(signed_form({"key": "key", "bucket": s}, key=GUEST_KEY)),
            form_body({"key": self._one(("new", "k"))}, CONTENT),
            _archive(s),
        ]
        return self.random.choice(choices)

    def _form(self) -> Attempt:
        """Return an upload form, signed for the allowed bucket, that is sent to some place."""
        fields = {"key": self._one(("new", f"../{self.secret}/key", "k", "/new", f"{self.secret}/key"))}
        extra = (
            "acl",
            "x-amz-copy-source",
            "x_amz_acl",
            "bucket",
            "x-amz-rename-source",
            "tagging",
            "redirect",
            "x-amz-meta-a_b",
        )
        while self._rarely(0.4):
            fields[self._one(extra)] = self._one((self._source(), self.secret, "public-read"))
        form = signed_form(fields, key=GUEST_KEY, conditions=[{"bucket": self._one((self.allowed, self.secret))}])
        target = f"/{self._bucket()}{self._one(('', '', '/', '/k'))}"
        target += self._one(("", "", "", "?select", "?select&select-type=2", "?uploads", "?delete"))
        return Attempt("POST", target, (("Content-Type", CONTENT_TYPES[2]),), form_body(form, CONTENT), "form")

    def _admin(self) -> Attempt:
        path = self._one(ADMIN_PATHS).replace("SECRET", self.secret)
        if self._rarely(0.4):
            head, mark, rest = path.partition("?")
            path = "/".join(self._spelled(part) for part in head.split("/")) + mark + rest
        if self._rarely(0.2):
            path = self._one((f"/{self.allowed}/..{path}", f"/.{path}", f"/{path}", f"/{self.allowed}/%2e%2e{path}"))
        body = self._one(("", "Action=AssumeRole&Version=2011-06-15"))
        kind = (("Content-Type", "application/x-www-form-urlencoded"),) if body else ()
        return Attempt(self._one(("GET", "GET", "POST", "PUT", "DELETE")), path, kind, body.encode())


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _archive(secret: str) -> bytes:
    """Return an archive whose members lead out of the bucket that it is put into."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("extracted", f"../{secret}/key", f"/{secret}/key"):
            member = tarfile.TarInfo(name)
            member.size = len(CONTENT)
            archive.addfile(member, io.BytesIO(CONTENT))
    return packed.getvalue()


def wire_form(attempt: Attempt, host: str, key: Credentials) -> bytes:
    """Return an attempt's bytes, signed as its kind says; every header of its own is covered."""
    headers = {"host": host, **{name.lower(): value for name, value in attempt.headers}}
    target, extra = attempt.target, attempt.unsigned
    if attempt.kind == "presigned":
        target = _presign(attempt, host, key)
    elif attempt.kind == "header":
        headers["x-amz-content-sha256"] = hashlib.sha256(attempt.body).hexdigest()
        headers["x-amz-date"] = stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        names = ";".join(sorted(headers))
        credential = f"{key.access_key}/{stamp[:8]}/{REGION}/s3/aws4_request"
        signature = _signature(attempt.method, target, headers, headers["x-amz-content-sha256"], stamp, key)
        words = f"Credential={credential}, SignedHeaders={names}, Signature={signature}"
        headers["authorization"] = f"AWS4-HMAC-SHA256 {words}"
    lines = [f"{attempt.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"{name}: {value}" for name, value in extra]
    lines += [f"content-length: {len(attempt.body)}", "connection: close"]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + attempt.body


def _presign(attempt: Attempt, host: str, key: Credentials) -> str:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    pairs = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{key.access_key}/{stamp[:8]}/{REGION}/s3/aws4_request",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": "600",
        "X-Amz-SignedHeaders": "host",
    }
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs.items())
    target = attempt.target + ("&" if "?" in attempt.target else "?") + query
    signature = _signature(attempt.method, target, {"host": host}, "UNSIGNED-PAYLOAD", stamp, key)
    return f"{target}&X-Amz-Signature={signature}"


def _signature(method: str, target: str, headers: Mapping[str, str], payload: str, stamp: str, key: Credentials) -> str:
    path, _, query = target.partition("?")
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in sorted(headers))
    canonical = "\n".join(
        [method, canonical_path(path), canonical_query(query), lines, ";".join(sorted(headers)), payload]
    )
    scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signing_key = derive_key(key.secret_key, stamp[:8], region=REGION, service="s3")
    return hmac.new(signing_key, text.encode(), "sha256").hexdigest()


@dataclass
class Store:
    """The store behind the proxy, seen by its own door with the key that may do everything."""

    endpoint: str
    key: Credentials
    allowed: str
    secret: str
    etags: set[str] = field(default_factory=set)
    keeps_paths: bool = False  # where a//b is another name of a/b, as on versitygw

    def ask(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request past the proxy."""
        host = self.endpoint.partition("//")[2]
        request = signed_request(method, target, host=host, body=body, headers=headers, key=self.key, close=True)
        with socket.create_connection(tuple_of(host), TIMEOUT_S) as sock:
            sock.sendall(request)
            return parse_answer(read_to_end(sock), method)

    def fill(self) -> None:
        """Make the two buckets and what is in them."""
        for bucket in (self.allowed, self.secret):
            made = self.ask("PUT", f"/{bucket}")
            assert made.status in (200, 409), (made.status, made.body)
            self.keeps_paths = made.headers.get("server") == "VERSITYGW"
        for name in SECRET_KEYS:
            body = f"{TOKEN} of {name}".encode()
            stored = self.ask("PUT", f"/{self.secret}/{quote(name)}", body, {"x-amz-meta-canary": TOKEN})
            assert 200 == stored.status, stored.body
            self.etags.add(hashlib.md5(body, usedforsecurity=False).hexdigest())
        self.restore({}, is_config=False)

    def restore(self, objects: Mapping[str, str], *, is_config: bool) -> None:
        """Bring back what clients with limits may destroy; ``objects`` are those that are there."""
        etag = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
        if not objects:
            self.ask("PUT", f"/{self.allowed}")
        for name in ("policy", "lifecycle", "cors", "website") if is_config else ():
            self.ask("DELETE", f"/{self.allowed}?{name}")
        for name in ("k", "dir/key"):
            if etag not in objects.get(name, ""):
                self.ask("PUT", f"/{self.allowed}/{name}", CONTENT)

    def begin_upload(self) -> str:
        """Return a new upload's identifier."""
        return _found(self.ask("POST", f"/{self.allowed}/up?uploads").body, "UploadId")[0]

    def buckets(self) -> set[str]:
        """Return the names of all buckets."""
        return set(_found(self.ask("GET", "/").body, "Name"))

    def objects(self, bucket: str) -> dict[str, str]:
        """Return the ETags of a bucket's objects by their keys."""
        body = self.ask("GET", f"/{bucket}?list-type=2&encoding-type=url").body
        names = _found(body, "Key")
        if "url" in _found(body, "EncodingType"):  # versitygw leaves the names as they are
            names = [unquote(name.replace("+", " "), errors="surrogateescape") for name in names]
        return dict(zip(names, _found(body, "ETag"), strict=True))

    def secrets(self) -> tuple[object, ...]:
        """Return all that can be seen of the bucket that nobody may touch."""
        pages = [self.ask("GET", f"/{self.secret}{query}") for query in ("?acl", "?policy", "?versioning", "?versions")]
        stable = [re.sub(rb"<(RequestId|HostId|Resource)>.*?</\1>", b"", page.body) for page in pages]
        contents = [self.ask("GET", f"/{self.secret}/{quote(name)}") for name in SECRET_KEYS]
        return (*stable, *((page.status, page.body, page.headers.get("x-amz-meta-canary")) for page in contents))

    def clear(self) -> None:
        """Delete the buckets, and those that were made with their names."""
        own = self.allowed[1:].lower()
        for bucket in [name for name in self.buckets() if own in name.lower()]:
            for upload in _found(self.ask("GET", f"/{bucket}?uploads").body, "UploadId"):
                self.ask("DELETE", f"/{bucket}/up?uploadId={upload}")
            for name in self.objects(bucket):
                self.ask("DELETE", f"/{bucket}/{quote(name.encode('utf-8', 'surrogateescape'), safe='/')}")
            self.ask("DELETE", f"/{bucket}")


def tuple_of(netloc: str) -> tuple[str, int]:
    """Return a socket's address."""
    host, _, port = netloc.rpartition(":")
    return host, int(port)


def _found(body: bytes, name: str) -> list[str]:
    texts = re.findall(rb"<%b>(.*?)</%b>" % (name.encode(), name.encode()), body)
    return [unescape(REFERENCE.sub(_character, text.decode("utf-8", "surrogateescape"))) for text in texts]


def _character(reference: re.Match[str]) -> str:
    return chr(int(reference[1], 16))


class Watch:
    """Sends attempts through a proxy and holds what happened against what it believed."""

    def __init__(self, proxy: RunningProxy, store: Store, log: Path, *, reads_only: bool) -> None:
        self._proxy = proxy
        self._store = store
        self._log = log
        self._read = 0
        self._reads_only = reads_only
        self.records: list[dict[str, object]] = []
        self._secrets = store.secrets()
        self._buckets = store.buckets()
        self._objects = store.objects(store.allowed)
        self.passed: dict[str, int] = {}

    def send(self, attempt: Attempt) -> str:
        """Send one attempt; return what is wrong, or nothing."""
        host = self._proxy.host
        answer = parse_answer(self._proxy.talk(wire_form(attempt, host, GUEST_KEY)), attempt.method)
        record = self._record()
        if self._tells(answer):
            return f"the answer tells of what is secret: {answer.status} {answer.body[:500]!r}"
        believed = str(record["op"])
        first = unquote(attempt.target.partition("?")[0].lstrip("/").partition("/")[0]).lower()
        if answer.status < 300 and first in ADMIN_DOORS:
            return f"a door to the administration is open: {answer.status} {answer.body[:500]!r}"
        is_success = 200 <= answer.status < 300
        if is_success:
            self.passed[believed] = self.passed.get(believed, 0) + 1
        if not record["endpoint"] and not self._is_due():
            return ""  # no node heard of it
        if attempt.method in ("GET", "HEAD", "OPTIONS") and not self._is_due():
            return self._judge_read(record, answer, attempt) if is_success else ""
        return self._judge_change(record, answer)

    def _record(self) -> dict[str, object]:
        deadline = time.monotonic() + LOG_DEADLINE_S
        while len(lines := self._log.read_bytes()[self._read :].splitlines(keepends=True)) != 1:
            assert time.monotonic() < deadline, f"the proxy wrote {len(lines)} lines into its log"
            time.sleep(0.001)
        self._read += len(lines[0])
        record: dict[str, object] = json.loads(lines[0])
        self.records.append(record)
        return record

    def _tells(self, answer: Answer) -> bool:
        text = answer.body + repr(answer.headers).encode()
        words = {self._store.key.secret_key} | (set() if self._reads_only else {TOKEN, *self._store.etags})
        return any(word.encode() in text for word in words)

    def _is_due(self) -> bool:
        return len(self.records) % 50 == 0

    def _judge_read(self, record: Mapping[str, object], answer: Answer, attempt: Attempt) -> str:
        """Hold a download against the object that was believed to be asked for."""
        if record["op"] != "GetObject" or answer.status != 200 or record["method"] != "GET":
            return ""
        path = quote(f"/{record['bucket']}/{record['key']}".encode("utf-8", "surrogateescape"), safe="/")
        version = "?versionId=null" if "versionId=null" in attempt.target else ""
        stored = self._store.ask("GET", path + version)
        return "" if stored.body == answer.body else f"another object was read than {record}"

    def _judge_change(self, record: Mapping[str, object], answer: Answer) -> str:
        store = self._store
        before, after, buckets = self._objects, store.objects(store.allowed), store.buckets()
        secrets = store.secrets() if answer.status < 300 or self._is_due() else self._secrets
        gone = (buckets ^ self._buckets) - self._believed_buckets(record)
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        unexpected = changed - self._believed_keys(record, before)
        is_secret_safe, self._secrets = secrets == self._secrets, secrets
        if answer.status < 300 and record["method"] in ("PUT", "POST", "DELETE"):
            store.restore(after, is_config=bool(CONFIGURATION.match(str(record["op"]))))
            after, buckets = store.objects(store.allowed), store.buckets()
        self._objects, self._buckets = after, buckets
        if not is_secret_safe:
            return "what is secret was changed"
        if gone:
            return f"buckets came or went: {sorted(gone)}"
        return f"these objects changed: {sorted(unexpected)}" if unexpected else ""

    def _believed_buckets(self, record: Mapping[str, object]) -> set[str]:
        return {str(record["bucket"])} if record["op"] in ("CreateBucket", "DeleteBucket") else set()

    def _believed_keys(self, record: Mapping[str, object], before: Mapping[str, str]) -> set[str]:
        if record["bucket"] != self._store.allowed or self._reads_only:
            return set()
        if record["op"] == "DeleteObjects":
            return set(before)
        if record["op"] in KEYED:
            key = str(record["key"])
            return {key, re.sub("/+", "/", key)} if self._store.keeps_paths else {key}
        return set()


KEYED = frozenset(
    {
        "PutObject",
        "PostObject",
        "CopyObject",
        "AppendObject",
        "CompleteMultipartUpload",
        "DeleteObject",
        "DeleteObjectTagging",  # after which RGW 16 lists the object without its ETag
        "RestoreObject",
    }
)

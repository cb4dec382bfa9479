"""Signing and presigning against two other implementations, and under threads."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import pytest
import requests
import responses
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import example, given, settings
from hypothesis import strategies as st
from requests_aws4auth import AWS4Auth

from s3pool.errors import ConfigError, UsageError
from s3pool.model import UNSIGNED_PAYLOAD, Credentials, Endpoint, Request, encode_key, encode_query
from s3pool.s3 import signing
from s3pool.s3.signing import (
    Signer,
    canonical_path,
    canonical_query,
    canonical_request,
    derive_key,
    signature,
    string_to_sign,
)
from tests.support.signing import canonical_of

ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "FwoG/x+y=="
REGION = "eu-central-1"
CREDENTIALS = Credentials(ACCESS_KEY, SECRET_KEY)
TEMPORARY = Credentials(ACCESS_KEY, SECRET_KEY, TOKEN)
NODE = Endpoint("http", "node1.example", 8000)
NOW = 1_706_702_399.25  # 2024-01-31T11:59:59Z
TIMESTAMP = "20240131T115959Z"
MIDNIGHT = 1_706_745_600  # 2024-02-01T00:00:00Z
HASH = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
EVERY_BYTE = bytes(range(1, 256)).decode("utf-8", "surrogateescape")
AWKWARD_KEYS = [
    "a//b",
    "/a",
    "a/../b",
    "a/./b/",
    "..",
    "a;p=1",
    "a+b c",
    "a%2Fb",
    "a?b#c",
    "\u00e9\u4e2d\U0001f600",
    EVERY_BYTE,
]

keys = st.binary(min_size=1, max_size=60).filter(lambda raw: 0 not in raw)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
names = texts.filter(lambda name: not name.startswith("X-Amz-"))  # those are the signature's own
# The oracle folds Unicode's blanks too; S3 knows only ASCII's, so those are tested by example.
values = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], include_characters=" \"'\\"), max_size=30
)
metadata = st.dictionaries(st.from_regex(r"\Ax-amz-meta-[a-z0-9-]{1,8}\Z"), values, max_size=4)


def object_request(key: str, **fields: Any) -> Request:
    """Ask for an object of the bucket named bucket."""
    return Request("GET", f"/bucket/{encode_key(key)}", "GetObject", **fields)


def signature_of(headers: Mapping[str, str]) -> str:
    """Give the hex signature out of signed headers."""
    return headers["authorization"].rpartition("Signature=")[2]


def at_now() -> Any:
    """Stop botocore's clock at NOW."""
    moment = datetime.datetime.fromtimestamp(int(NOW), datetime.timezone.utc)
    return mock.patch.object(botocore.auth, "get_current_datetime", return_value=moment)


class GivenHash(botocore.auth.S3SigV4Auth):  # type: ignore[misc]
    """botocore's signer, told the payload hash in place of a body."""

    payload_hash = HASH

    def payload(self, request: AWSRequest) -> str:
        """Give the hash."""
        return self.payload_hash


def botocore_authorization(request: Request, credentials: Credentials = CREDENTIALS) -> str:
    """Give what botocore would send as Authorization."""
    theirs = AWSRequest(request.method, NODE.url + request.target, headers=dict(request.headers))
    keys = BotoCredentials(credentials.access_key, credentials.secret_key, credentials.session_token or None)
    auth = GivenHash(keys, "s3", REGION)
    auth.payload_hash = request.payload_hash
    with at_now():
        auth.add_auth(theirs)
    return str(theirs.headers["Authorization"])


def botocore_url(request: Request, credentials: Credentials = CREDENTIALS, *, expires_s: int) -> str:
    """Give the URL that botocore would presign."""
    theirs = AWSRequest(request.method, NODE.url + request.target, headers=dict(request.headers))
    keys = BotoCredentials(credentials.access_key, credentials.secret_key, credentials.session_token or None)
    with at_now():
        botocore.auth.S3SigV4QueryAuth(keys, "s3", REGION, expires=expires_s).add_auth(theirs)
    return str(theirs.url)


@pytest.fixture
def signer() -> Signer:
    """Sign with a permanent key pair."""
    return Signer(CREDENTIALS, region=REGION)


class TestAgainstBotocore:
    """botocore is what S3 servers are tested with."""

    signer = Signer(CREDENTIALS, region=REGION)

    def is_alike(self, request: Request, credentials: Credentials = CREDENTIALS) -> bool:
        """Say whether a request is signed in the same way."""
        headers = Signer(credentials, region=REGION).sign(request, NODE, NOW)
        return botocore_authorization(request, credentials) == headers["authorization"]

    @pytest.mark.parametrize("key", AWKWARD_KEYS)
    def test_awkward_key_is_signed_alike(self, key: str) -> None:
        """Each is an object that a normalising signer would miss; of a link the whole URL is compared."""
        request = object_request(key)

        assert self.is_alike(request)
        assert botocore_url(request, expires_s=900) == self.signer.presign(request, NODE, NOW, expires_s=900)

    @settings(deadline=None)
    @given(raw=keys)
    def test_any_key_is_signed_alike(self, raw: bytes) -> None:
        """Keys are bytes; no sequence of them may break the signature."""
        assert self.is_alike(object_request(raw.decode("utf-8", "surrogateescape")))

    @settings(deadline=None)
    @given(pairs=st.lists(st.tuples(names, texts), max_size=5))
    @example(pairs=[("a-", "1"), ("a", "2"), ("a", "1"), ("uploads", ""), ("A", "=&+ ~")])
    def test_any_query_is_signed_alike(self, pairs: list[tuple[str, str]]) -> None:
        """Order, repetition and emptiness of parameters follow rules of their own."""
        assert self.is_alike(object_request("key", query=tuple(pairs)))

    @settings(deadline=None)
    @given(fields=metadata)
    @example(fields={"x-amz-meta-a": '  "two  spaces"  and an \'odd quote" '})
    @example(fields={"x-amz-meta-a": "", "x-amz-meta-b": "gr\u00fc\u00dfe \u4e2d"})
    def test_any_metadata_is_signed_alike(self, fields: dict[str, str]) -> None:
        """Quotes, double blanks and text beyond ASCII stand in real metadata."""
        headers = {"content-type": "text/plain; a=b", "content-md5": "q==", **fields}
        assert self.is_alike(object_request("key", headers=headers))

    @pytest.mark.parametrize("payload_hash", [HASH, UNSIGNED_PAYLOAD, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"])
    def test_payload_hash_is_kept(self, payload_hash: str) -> None:
        """A proxy hands on its client's hash; nothing may put another in its place."""
        request = object_request("key", payload_hash=payload_hash)

        assert payload_hash == self.signer.sign(request, NODE, NOW)["x-amz-content-sha256"]
        assert self.is_alike(request)

    def test_session_token_is_sent_and_signed(self) -> None:
        """Temporary credentials are worthless without their token."""
        request = object_request("key")

        assert TOKEN == Signer(TEMPORARY, region=REGION).sign(request, NODE, NOW)["x-amz-security-token"]
        assert self.is_alike(request, TEMPORARY)

    @settings(deadline=None)
    @given(raw=keys, query=st.dictionaries(names, texts, max_size=4), expires_s=st.integers(1, 604800))
    def test_any_request_is_presigned_alike(self, raw: bytes, query: dict[str, str], expires_s: int) -> None:
        """Parameters of the operation stand before those of the signature and are covered."""
        request = object_request(raw.decode("utf-8", "surrogateescape"), query=tuple(query.items()))

        url = self.signer.presign(request, NODE, NOW, expires_s=expires_s)

        assert botocore_url(request, expires_s=expires_s) == url

    @pytest.mark.parametrize("credentials", [CREDENTIALS, TEMPORARY], ids=["permanent", "temporary"])
    def test_presigned_parameters_and_headers_are_covered(self, credentials: Credentials) -> None:
        """A versionId picks the object and response-* rewrites headers: neither may be changed."""
        request = object_request(
            "key",
            query=(("versionId", "null"), ("response-content-disposition", 'attachment; filename="a b"')),
            headers={"content-type": "text/plain", "x-amz-acl": "private"},
        )

        url = Signer(credentials, region=REGION).presign(request, NODE, NOW, expires_s=60)

        assert botocore_url(request, credentials, expires_s=60) == url
        assert ["content-type;host;x-amz-acl"] == parse_qs(urlsplit(url).query)["X-Amz-SignedHeaders"]

    def test_presigned_hash_pins_the_body(self) -> None:
        """An upload link may allow one content only."""
        request = object_request("key", headers={"x-amz-content-sha256": HASH})

        url = self.signer.presign(request, NODE, NOW, expires_s=60)

        assert botocore_url(request, expires_s=60) == url


class TestAgainstRequestsAws4auth:
    """The library that signing rests on, unmodified, where it is right."""

    @pytest.fixture(autouse=True)
    def network(self) -> Iterator[None]:
        """Answer every request, and keep what was sent."""
        with responses.RequestsMock() as wire:
            wire.add_callback(responses.GET, f"{NODE.url}/bucket/plain/key.txt", lambda _: (200, {}, ""))
            wire.add_callback(responses.PUT, f"{NODE.url}/bucket/plain/key.txt", lambda _: (200, {}, ""))
            wire.assert_all_requests_are_fired = False
            yield

    @pytest.mark.parametrize("credentials", [CREDENTIALS, TEMPORARY], ids=["permanent", "temporary"])
    def test_plain_request_is_signed_as_the_library_does(self, credentials: Credentials) -> None:
        """Plain keys, parameters and metadata leave no room for another opinion."""
        request = object_request(
            "plain/key.txt", query=(("b", "2"), ("a", "1")), headers={"x-amz-meta-a": "one  two", "content-type": "a/b"}
        )
        auth = AWS4Auth(ACCESS_KEY, SECRET_KEY, REGION, "s3", session_token=credentials.session_token or None)
        sent = requests.get(
            NODE.url + request.target, headers={**request.headers, "x-amz-date": TIMESTAMP}, auth=auth, timeout=1
        ).request

        headers = Signer(credentials, region=REGION).sign(request, NODE, NOW)

        assert sent.headers["Authorization"] == headers["authorization"]


class TestSign:
    """What goes on the wire beside the signature."""

    def test_without_credentials_nothing_is_added_but_host(self) -> None:
        """Public buckets are read without a key."""
        request = object_request("key", headers={"range": "bytes=0-9"})

        headers = Signer(None, region=REGION).sign(request, NODE, NOW)

        assert {"host": "node1.example:8000", "range": "bytes=0-9"} == headers

    def test_only_host_content_and_amz_headers_are_signed(self, signer: Signer) -> None:
        """A gateway in between may touch any other header."""
        names = ("range", "if-match", "content-md5", "content-type", "user-agent", "x-amz-acl")

        headers = signer.sign(object_request("key", headers=dict.fromkeys(names, "v")), NODE, NOW)

        expected = "content-md5;content-type;host;x-amz-acl;x-amz-content-sha256;x-amz-date"
        assert f"SignedHeaders={expected}, " in headers["authorization"]
        assert set(names) < set(headers)

    def test_host_goes_first_and_is_the_endpoints(self, signer: Signer) -> None:
        """A host header left over from elsewhere would void the signature; the request stays as it was."""
        given = {"range": "bytes=0-9", "host": "other.example"}
        request = object_request("key", headers=dict(given), bucket_host="bucket")

        headers = signer.sign(request, NODE, NOW)

        assert ("host", "bucket.node1.example:8000") == next(iter(headers.items()))
        assert given == request.headers

    def test_signing_again_replaces_the_signature(self, signer: Signer) -> None:
        """A retry goes to another node and must not carry the first one's signature."""
        first = signer.sign(object_request("key"), NODE, NOW)

        again = signer.sign(object_request("key", headers=first), NODE, NOW)

        assert first == again

    def test_timestamp_is_the_second_in_utc(self, signer: Signer) -> None:
        """Rounding up would date a request into the future."""
        headers = signer.sign(object_request("key"), NODE, NOW + 0.74)

        assert TIMESTAMP == headers["x-amz-date"]

    def test_bytes_that_are_no_utf8_are_signed_as_they_are(self, signer: Signer) -> None:
        """Metadata of another alphabet must verify on the receiver's raw bytes."""
        request = object_request(
            "key", headers={"x-amz-meta-a": b"caf\xe9\xa0 \x85".decode("utf-8", "surrogateescape")}
        )

        headers = signer.sign(request, NODE, NOW)

        assert signature_of(headers) == verify(request, wire(headers))


class TestPresign:
    """What a link refuses."""

    @pytest.mark.parametrize("expires_s", [-1, 0, 604_801])
    def test_lifetime_beyond_a_week_or_none_is_refused(self, signer: Signer, expires_s: int) -> None:
        """S3 would answer 400 to whoever opens the link, which is too late."""
        with pytest.raises(UsageError, match=f"{expires_s} seconds; choose 1 second to 7 days"):
            signer.presign(object_request("key"), NODE, NOW, expires_s=expires_s)

    def test_without_credentials_it_is_refused(self) -> None:
        """A link without a signature would look like one that works."""
        with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
            Signer(None, region=REGION).presign(object_request("key"), NODE, NOW, expires_s=60)


def wire(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Give headers as a receiver has them."""
    return [(name.title().encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers.items()]


def verify(request: Request, received: list[tuple[bytes, bytes]]) -> str:
    """Recompute a request's signature from raw bytes, as a receiver does."""
    fields = {name.lower(): value.decode("utf-8", "surrogateescape") for name, value in received}
    _, credential, signed, _ = fields[b"authorization"].replace(",", "").split(" ")
    scope = credential.partition("/")[2]
    canonical = canonical_of(
        request.method,
        canonical_path(request.path.encode()),
        query=encode_query(request.query).encode(),
        headers=received,
        signed=signed.partition("=")[2].split(";"),
        payload_hash=fields[b"x-amz-content-sha256"],
    )
    key = derive_key(SECRET_KEY, scope[:8], region=REGION, service="s3")
    return signature(key, string_to_sign(fields[b"x-amz-date"], scope, canonical))


class TestVerification:
    """The pure functions, fed with what a server receives."""

    signer = Signer(CREDENTIALS, region=REGION)

    @settings(deadline=None)
    @given(raw=keys, fields=metadata, pairs=st.lists(st.tuples(names, texts.filter(bool)), max_size=3))
    def test_own_requests_verify(self, raw: bytes, fields: dict[str, str], pairs: list[tuple[str, str]]) -> None:
        """Signing and verifying take different ways to one canonical form."""
        request = object_request(raw.decode("utf-8", "surrogateescape"), headers=fields, query=tuple(pairs))

        headers = self.signer.sign(request, NODE, NOW)

        assert signature_of(headers) == verify(request, wire(headers))

    @pytest.mark.parametrize(
        ("raw", "canonical"),
        [
            (b"/b/a//b/../c;d=1", "/b/a//b/../c%3Bd%3D1"),
            (b"/b/%7e%2e%2E/%e4%F6", "/b/~../%E4%F6"),
            (b"/b/a+b%20c%2Bd", "/b/a%2Bb%20c%2Bd"),
            (b"/b/\xff(1)", "/b/%FF%281%29"),
            ("/b/%2F%25", "/b//%25"),
        ],
    )
    def test_path_is_respelt_but_never_folded(self, raw: bytes | str, canonical: str) -> None:
        """Clients spell one key in several ways; two keys must never become one spelling."""
        assert canonical == canonical_path(raw)

    @pytest.mark.parametrize(
        ("raw", "canonical"),
        [
            (b"", ""),
            (b"uploads", "uploads="),
            (b"&&", ""),
            (b"b=2&a=1&a=0&a-=3", "a=0&a=1&a-=3&b=2"),
            (b"k=a;b&k=c=d", "k=a%3Bb&k=c%3Dd"),
            (b"p=a+b%2b%7E%ff", "p=a%20b%2B~%FF"),
            (b"b=1&X-Amz-Signature=0f&a=2", "a=2&b=1"),
            (b"X-Amz-Signature=0f", ""),
            ("p=\udcff\u00e9", "p=%FF%C3%A9"),
        ],
    )
    def test_query_is_sorted_and_respelt(self, raw: bytes | str, canonical: str) -> None:
        """Only ampersands part, and a signature does not cover itself."""
        assert canonical == canonical_query(raw)

    def test_signed_header_that_is_missing_is_an_error(self) -> None:
        """An absent header must not verify as an empty one."""
        with pytest.raises(KeyError, match="x-amz-date"):
            canonical_request("GET", "/", query="", values={}, signed=["x-amz-date"], payload_hash=HASH)


class TestMidnight:
    """Timestamp, scope and key of one request belong to one day."""

    @pytest.mark.parametrize(
        "act",
        [
            lambda signer: signature_of(signer.sign(object_request("key"), NODE, MIDNIGHT)),
            # A link names its date and its scope in the open; both must match the key.
            lambda signer: signer.presign(object_request("key"), NODE, MIDNIGHT, expires_s=60),
        ],
        ids=["sign", "presign"],
    )
    def test_signing_interrupted_at_any_line_stays_with_its_day(
        self, signer: Signer, act: Callable[[Signer], str]
    ) -> None:
        """Between any two lines another thread may sign for another day."""
        yesterday = itertools.cycle([MIDNIGHT - 2, MIDNIGHT - 1])
        expected = act(Signer(CREDENTIALS, region=REGION))

        with interrupted(lambda: signer.sign(object_request("other"), NODE, next(yesterday))) as times:
            found = act(signer)

        assert len(times) > 1
        assert expected == found

    @pytest.mark.usefixtures("switching")
    def test_many_threads_never_mix_two_days(self, signer: Signer) -> None:
        """Workers see midnight at different moments, to and fro."""
        moments = [MIDNIGHT - 2, MIDNIGHT, MIDNIGHT - 1, MIDNIGHT + 1]
        expected = {moment: fresh_signature(moment) for moment in moments}
        wrong: list[int] = []
        start = threading.Barrier(8)

        def work(turn: int) -> None:
            start.wait()
            for count in range(100):
                moment = moments[(count + turn) % len(moments)]
                if signature_of(signer.sign(object_request("key"), NODE, moment)) != expected[moment]:
                    wrong.append(moment)

        threads = [threading.Thread(target=work, args=(turn,)) for turn in range(start.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [] == wrong

    @pytest.fixture
    def switching(self) -> Iterator[None]:
        """Make threads take turns as often as they can."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(interval)

    def test_key_is_derived_once_a_day(self, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Four HMACs a request would be most of the cost of a signature."""
        derive = signing.make_signing_key
        dates: list[str] = []

        def counting(secret: str, date: str, **scope: str) -> Any:
            dates.append(date)
            return derive(secret, date, **scope)

        monkeypatch.setattr(signing, "make_signing_key", counting)

        for moment in (MIDNIGHT - 3, MIDNIGHT - 2, MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 1):
            signer.sign(object_request("key"), NODE, moment)

        assert ["20240131", "20240201"] == dates


@contextlib.contextmanager
def interrupted(act: Callable[[], object]) -> Iterator[list[str]]:
    """Act before every line that sigv4 runs; gives the lines' functions."""
    times: list[str] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != signing.__file__:
            return None
        if event == "line":
            times.append(frame.f_code.co_name)
            act()  # is not traced itself
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield times
    finally:
        sys.settrace(before)


def fresh_signature(moment: int) -> str:
    """Sign with a signer that never knew another day."""
    return signature_of(Signer(CREDENTIALS, region=REGION).sign(object_request("key"), NODE, moment))


class TestImports:
    """requests takes tens of milliseconds to import, which every short command would pay."""

    PROGRAM = """
import sys
from s3pool.s3 import signing
from s3pool.model import Credentials, Endpoint, Request
from s3pool.s3.signing import Signer
keys = Credentials("a", "b") if "signed" in sys.argv else None
signer = Signer(keys, region="us-east-1")
if "idle" not in sys.argv:
    signer.sign(Request("GET", "/", "ListBuckets"), Endpoint("http", "h", 80), 0.0)
print(sorted({"requests", "requests_aws4auth", "urllib3"} & sys.modules.keys()))
print(signing._key_class.cache_info().currsize)
"""

    @pytest.mark.parametrize(
        ("words", "loaded"),
        [(["signed", "idle"], "0"), (["anonymous"], "0"), (["signed"], "1")],
        ids=["made but idle", "unsigned", "signed"],
    )
    def test_key_is_loaded_by_the_first_signature_and_requests_never(self, words: list[str], loaded: str) -> None:
        """Neither the module nor a signer that signs nothing may load it."""
        root = Path(signing.__file__).parents[2]

        done = subprocess.run(
            [sys.executable, "-c", self.PROGRAM, *words],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )

        assert f"[]\n{loaded}\n" == done.stdout

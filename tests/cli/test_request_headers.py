"""--header, --request-payer and --sse-c: what is sent, and what must be seen nowhere."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, FakeS3
from tests.support.run_cli import CliRunner

KEY = bytes(range(32))
CUSTOMER = "x-amz-server-side-encryption-customer"
SOURCE = "x-amz-copy-source-server-side-encryption-customer"
SECRETS = (KEY, base64.b64encode(KEY), KEY.hex().encode(), base64.b64encode(hashlib.md5(KEY).digest()))
KEYED = {"CopyObject", "CreateMultipartUpload", "GetObject", "HeadObject", "PutObject", "UploadPart", "UploadPartCopy"}
MIB = 1 << 20


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    """Give a file with a key that only its owner may read."""
    path = tmp_path / "key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize(
    "words",
    [
        ("cp", "f", "s3/b/k"),
        ("cp", "large", "s3/b/k", "--part-size", "5M"),
        ("cp", "s3/b/stored", "down"),
        ("cp", "s3/b/stored", "s3/b/copied"),
        ("mv", "s3/b/stored", "s3/b/moved"),
        ("sync", "d", "s3/b/tree"),
        ("mirror", "d", "s3/b/tree"),
        ("pipe", "s3/b/piped"),
        ("cat", "s3/b/stored"),
    ],
)
def test_every_request_has_the_headers_signed(
    fake: FakeS3, call: Call, tmp_path: Path, key_file: str, words: tuple[str, ...]
) -> None:
    """Those of the key go with what reads and writes bytes; a copy has them for its source as well."""
    fake.store.add("b", "stored", b"content")
    (tmp_path / "f").write_bytes(b"content")
    (tmp_path / "large").write_bytes(bytes(11 * MIB))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"content")

    result = call(*words, "--header", "X-Tenant:  one", "--request-payer", "--sse-c", key_file, stdin=b"x")

    assert 0 == result.code, result.err
    for request in fake.requests:
        if request.op in ("Health", "ListBuckets"):
            continue  # probes of health, which nobody signs
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert ("one", "requester") == (headers.get("x-tenant"), headers.get("x-amz-request-payer")), request.op
        assert "x-tenant" in headers["authorization"]
        assert (request.op in KEYED) == (f"{CUSTOMER}-key" in headers), request.op
        assert (request.op in ("CopyObject", "UploadPartCopy")) == (f"{SOURCE}-key" in headers)
        if request.op in KEYED:
            assert [b"AES256", *SECRETS[1::2]] == [
                headers[f"{CUSTOMER}-{part}"].encode() for part in ("algorithm", "key", "key-md5")
            ]


def _keys_of(fake: FakeS3, op: str, key: str) -> set[tuple[str, str]]:
    """Give the keys of target and source that requests about an object had, as the names of their files."""
    names = {base64.b64encode(KEY).decode(): "key", base64.b64encode(KEY[::-1]).decode(): "old", "": ""}
    found = [{n.lower(): v for n, v in r.headers.items()} for r in fake.requests if (r.op, r.key) == (op, key)]
    return {(names[each.get(f"{CUSTOMER}-key", "")], names[each.get(f"{SOURCE}-key", "")]) for each in found}


@pytest.mark.parametrize(
    ("words", "flags", "expected"),
    [
        (("cp", "s3/b/stored", "s3/b/copied"), ("--sse-c", "key", "--sse-c-source", "old"),
         {("HeadObject", "stored"): ("old", ""), ("CopyObject", "copied"): ("key", "old")}),
        (("cp", "s3/b/stored", "s3/b/copied"), ("--sse-c-source", "old"),
         {("HeadObject", "stored"): ("old", ""), ("CopyObject", "copied"): ("", "old")}),
        (("cp", "s3/b/stored", "s3/b/copied"), ("--sse-c", "key", "--sse-c-source", "none"),
         {("HeadObject", "stored"): ("", ""), ("CopyObject", "copied"): ("key", "")}),
        (("cp", "s3/b/stored", "s3/b/stored"), ("--sse-c", "key", "--sse-c-source", "old"),
         {("HeadObject", "stored"): ("old", ""), ("CopyObject", "stored"): ("key", "old")}),
        (("cp", "--part-size", "5M", "s3/b/large", "s3/b/copied"), ("--sse-c", "key", "--sse-c-source", "old"),
         {("HeadObject", "large"): ("old", ""), ("CreateMultipartUpload", "copied"): ("key", ""),
          ("UploadPartCopy", "copied"): ("key", "old")}),
        (("mv", "s3/b/stored", "s3/b/copied"), ("--sse-c", "key", "--sse-c-source", "old"),
         {("HeadObject", "stored"): ("old", ""), ("CopyObject", "copied"): ("key", "old"),
          ("HeadObject", "copied"): ("key", ""), ("DeleteObject", "stored"): ("", "")}),
        (("sync", "s3/b/tree", "s3/b/other"), ("--sse-c", "key", "--sse-c-source", "old"),
         {("HeadObject", "tree/f"): ("old", ""), ("CopyObject", "other/f"): ("key", "old")}),
        (("cp", "--source-profile", "far", "s3/b/stored", "s3/b/copied"), ("--sse-c", "key", "--sse-c-source", "old"),
         {("GetObject", "stored"): ("old", ""), ("PutObject", "copied"): ("key", "")}),
    ],
)  # fmt: skip
def test_source_of_a_copy_has_its_own_key(
    fake: FakeS3,
    call: Call,
    tmp_path: Path,
    key_file: str,
    words: tuple[str, ...],
    flags: tuple[str, ...],
    expected: dict[tuple[str, str], tuple[str, str]],
) -> None:
    """Keys are changed by a copy, which is the server's where both sides are in one pool."""
    assert key_file.endswith("/key")
    (tmp_path / "old").write_bytes(KEY[::-1])
    (tmp_path / "old").chmod(0o600)
    for name, size in (("stored", 7), ("tree/f", 7), ("large", 11 * MIB)):
        fake.store.add("b", name, bytes(size))
    endpoints = ", ".join(fake.endpoints)
    (tmp_path / "config.yaml").write_text(
        f"profiles:\n  far:\n    endpoints: [{endpoints}]\n    sign: false\n  default: {{}}\n"
    )

    result = call(*words, *flags, "--config", "config.yaml")

    assert 0 == result.code, result.err
    assert {place: {keys} for place, keys in expected.items()} == {place: _keys_of(fake, *place) for place in expected}
    is_far = "--source-profile" in words
    assert is_far == bool(_keys_of(fake, "GetObject", "stored") | _keys_of(fake, "GetObject", "large"))


@pytest.mark.parametrize("words", [(), ("--part-size", "5M")], ids=["whole", "parts"])
def test_what_a_server_does_not_copy_goes_by_way_of_here(fake: FakeS3, call: Call, words: tuple[str, ...]) -> None:
    """Ceph RGW copies nothing that a customer's key encrypts."""
    fake.store.add("b", "stored", bytes(11 * MIB))
    for op in ("CopyObject", "UploadPartCopy"):
        fake.fault(Answer(501, "NotImplemented"), op=op, times=9)

    result = call("cp", *words, "s3/b/stored", "s3/b/copied")

    assert 0 == result.code, result.err
    assert fake.store.bodies("b")["stored"] == fake.store.bodies("b")["copied"]


def test_key_of_a_source_needs_a_copy(fake: FakeS3, call: Call, tmp_path: Path, key_file: str) -> None:
    """A file has no key, and would go unencrypted."""
    (tmp_path / "f").write_bytes(b"content")

    result = call("cp", "--sse-c-source", key_file, "f", "s3/b/k")

    assert 2 == result.code
    assert "is the key of a copy's source, and f is not in S3; with one key use --sse-c" in result.err
    assert [] == fake.ops()


def test_key_of_a_line_of_a_script_is_of_that_line(fake: FakeS3, call: Call, tmp_path: Path, key_file: str) -> None:
    """The session of the run has no key: the object would be stored as it is."""
    (tmp_path / "f").write_bytes(b"content")
    fake.store.add("b", "other")

    result = call("run", "-", stdin=f"cp f s3/b/plain\ncp --sse-c {key_file} f s3/b/keyed\n".encode())

    assert 0 == result.code, result.err
    found = [_keys_of(fake, "PutObject", name) for name in ("plain", "keyed")]
    assert [{("", "")}, {("key", "")}] == found


@pytest.mark.parametrize("form", ["raw", "hex", "base64"])
def test_key_is_seen_nowhere(fake: FakeS3, run_here: CliRunner, form: str) -> None:
    """Not on stdout or stderr with all logs on, not in JSON, not in what is remembered."""
    content = {"raw": KEY, "hex": KEY.hex().encode() + b"\n", "base64": base64.b64encode(KEY) + b"\n"}[form]
    (run_here.home / "key").write_bytes(content)
    (run_here.home / "key").chmod(0o600)
    (run_here.home / "d").mkdir()
    (run_here.home / "d" / "f").write_bytes(b"content")

    fake.store.add("b", "other")
    results = [
        run_here("sync", "-v", "--json", "--stats", "--sse-c", "key", "d", target, env=fake.environment)
        for target in ("s3/b/tree", "s3/missing/tree")
    ]

    assert 0 == results[0].code, results[0].err
    stored = next(request for request in fake.requests if request.op == "PutObject")
    assert base64.b64encode(KEY).decode() == {n.lower(): v for n, v in stored.headers.items()}[f"{CUSTOMER}-key"]
    remembered = [path.read_bytes() for path in run_here.home.rglob("*") if path.is_file() and path.name != "key"]
    for text in (*remembered, *(stream for result in results for stream in (result.stdout, result.stderr))):
        assert not [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--header", "nonsense"), "'nonsense' is not NAME: VALUE"),
        (("--header", "X: a\nb"), "is not NAME: VALUE"),
        (("--header", "Cache-Control: no-store"), "Cache-Control has a flag of its own: --cache-control"),
        (("--header", "Host: other"), "Host is set by s3pool itself"),
        (("--header", f"{CUSTOMER}-key: x"), "would show the key to everybody here: --sse-c reads it from a file"),
        (("--sse-c", "none"), "--sse-c: cannot read none: no such file or directory"),
        (("--sse-c", "open"), "--sse-c: others may read open; chmod 600 open"),
        (("--sse-c", "short"), "--sse-c: short holds no key of 32 bytes, raw, in hex or in base64"),
        (("--sse-c", "key", "--sse", "AES256"), "--sse and --sse-c exclude each other"),
        (("--sse-c", "key", "--endpoints", "http://s3.example.org"), "http://s3.example.org is not https"),
    ],
)
def test_bad_headers_and_keys_are_refused(
    fake: FakeS3, call: Call, tmp_path: Path, key_file: str, words: tuple[str, ...], message: str
) -> None:
    """Before anything is sent, exit code 2."""
    (tmp_path / "short").write_bytes(b"abc")
    (tmp_path / "short").chmod(0o600)
    (tmp_path / "open").write_bytes(KEY)
    os.chmod(tmp_path / "open", 0o644)

    result = call("pipe", "s3/b/k", *words, stdin=b"x")

    assert (2, "") == (result.code, result.out)
    assert message in result.err
    assert [] == fake.ops()


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["one", "two"])
def test_requests_a_second_are_limited(fake: FakeS3, run_here: CliRunner, processes: tuple[str, ...]) -> None:
    """Over all workers, and over all processes together: a loaded machine only makes it slower."""
    for number in range(60):
        fake.store.add("b", f"k{number}", b"x")

    result = run_here("cp", "-r", "s3/b", "d", "--tpslimit", "20", "--json", *processes, env=fake.environment)

    assert (0, 60) == (result.code, len(fake.ops(op="GetObject")))
    assert result.records[-1]["seconds"] > 2.5  # 60 requests at 20 a second, less the burst


def test_bandwidth_is_limited_each_way(fake: FakeS3, run_here: CliRunner) -> None:
    """A slow way up does not slow the way down."""
    fake.store.add("b", "down", bytes(4 * MIB))
    (run_here.home / "up").write_bytes(bytes(MIB))

    limits = ("--bwlimit", "512K:none", "--json")
    up = run_here("cp", "up", "s3/b/up", *limits, env=fake.environment).records[-1]
    down = run_here("cp", "s3/b/down", "down", *limits, env=fake.environment)

    assert up["seconds"] > 1.5
    assert 0 == down.code

"""--checksum on every way bytes go up: in one piece, in parts, as a stream."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from s3pool.body import CHECKSUMS, new_hasher
from tests.cli.conftest import Call
from tests.support.fake_s3 import MIB, FakeS3

PART = 5 * MIB
LARGE = PART + 1000
CRCS = ("crc32", "crc32c", "crc64nvme")


@pytest.fixture(autouse=True)
def _bucket(fake: FakeS3) -> None:
    """Have an empty bucket ``b``."""
    fake.store.add("b", "x")
    fake.store.bucket("b").remove("x", "null")


def value_of(name: str, content: bytes) -> str:
    """Give a checksum as S3 writes it."""
    hasher = new_hasher(name)
    hasher.update(memoryview(content))
    return base64.b64encode(hasher.digest()).decode()


def stored(fake: FakeS3, name: str) -> str:
    """Give the checksum that the server keeps of the object."""
    version = fake.store.bucket("b").current("k")
    assert version is not None
    return version.headers.get(f"x-amz-checksum-{name}", "")


@pytest.mark.parametrize("name", CHECKSUMS)
def test_one_piece_carries_its_checksum(call: Call, fake: FakeS3, tmp_path: Path, name: str) -> None:
    """The server compares it, and keeps it for whoever downloads."""
    (tmp_path / "f").write_bytes(b"123456789")

    result = call("cp", "f", "s3/b/k", "--checksum", name)

    assert (0, "") == (result.code, "".join(line for line in result.err.splitlines() if "WARN" in line))
    assert value_of(name, b"123456789") == stored(fake, name)


@pytest.mark.parametrize("way", ["cp", "pipe"])
@pytest.mark.parametrize("name", CHECKSUMS)
def test_parts_carry_theirs(call: Call, fake: FakeS3, tmp_path: Path, name: str, way: str) -> None:
    """CRCs make one of the whole content, which any download can check; the others one of the parts'."""
    content = os.urandom(LARGE)
    (tmp_path / "f").write_bytes(content)
    words = ("--part-size", "5MiB", "--checksum", name)

    up = call("cp", "f", "s3/b/k", *words) if way == "cp" else call("pipe", "s3/b/k", *words, stdin=content)
    down = call("cp", "s3/b/k", "back")

    pieces = [base64.b64decode(value_of(name, piece)) for piece in (content[:PART], content[PART:])]
    expected = value_of(name, content) if name in CRCS else value_of(name, b"".join(pieces)) + "-2"
    assert (0, 0, expected) == (up.code, down.code, stored(fake, name))
    assert content == (tmp_path / "back").read_bytes()


@pytest.mark.parametrize("way", ["cp", "pipe", "sync"])
def test_md5_is_sent_where_it_was_not(call: Call, fake: FakeS3, tmp_path: Path, way: str) -> None:
    """On plain HTTP the signature covers a SHA-256, so Content-MD5 is one more."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "k").write_bytes(b"x")
    words = {"cp": ("cp", "d/k", "s3/b/k", "--checksum", "md5"), "pipe": ("pipe", "s3/b/k", "--checksum", "md5")}

    result = call(*words.get(way, ("sync", "d", "s3/b/", "--upload-checksum", "md5")), stdin=b"x")

    sent = [request.headers.get("content-md5") for request in fake.requests if request.op == "PutObject"]
    assert (0, [value_of("md5", b"x")]) == (result.code, sent)


class Told(NamedTuple):
    """What a server and a user say of checksums; offers of cp, what is kept, and whether downloads ask for it."""

    quirks: tuple[tuple[str, object], ...] = ()
    env: str = ""
    config: str = ""
    offers: int = 2
    keeps: bool = True
    asks: bool = True


REFUSED = (("refused", frozenset(("x-amz-checksum-algorithm",))), ("refusal", (400, "InvalidArgument")))
REQUEST, ANSWER = "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"
BOTH = "request_checksum_calculation = when_required\nresponse_checksum_validation = when_required\n"
CHECKSUM_WORDS = {
    "a server that keeps them": Told(),
    "a server that forgets them": Told((("keeps_checksums", False),), offers=1, keeps=False),
    "a server that refuses them": Told(REFUSED, offers=1, keeps=False),
    "none in requests": Told(env=REQUEST, offers=0, keeps=False),
    "none in answers": Told(env=ANSWER, asks=False),
    "neither, by AWS's file": Told(config=BOTH, offers=0, keeps=False, asks=False),
}


@pytest.mark.parametrize("told", CHECKSUM_WORDS.values(), ids=list(CHECKSUM_WORDS))
@pytest.mark.parametrize("way", ["cp", "pipe"])
def test_parts_keep_a_crc_where_the_server_does(call: Call, fake: FakeS3, tmp_path: Path, way: str, told: Told) -> None:
    """A CRC costs a fraction of an MD5 in every later download; who keeps none is asked once."""
    for name, value in told.quirks:
        setattr(fake.quirks, name, value)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(f"[default]\nregion = us-east-1\n{told.config}")
    content = os.urandom(LARGE)
    for name in ("one", "two"):
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_bytes(content)
    words = ("--part-size", "5MiB")
    env = {told.env: "when_required"} if told.env else {}

    if way == "cp":
        up = [call("cp", "-r", "d", "s3/b", *words, "--workers", "1", env=env)]
    else:
        up = [call("pipe", f"s3/b/{name}", *words, stdin=content, env=env) for name in ("one", "two")]
    down = call("cp", "-r", "s3/b", "back", *words, env=env)

    assert [0] * len(up) + [0] == [*(result.code for result in up), down.code], up[0].err + down.err
    assert content == (tmp_path / "back" / "one").read_bytes() == (tmp_path / "back" / "two").read_bytes()
    crc = value_of("crc64nvme", content) if told.keeps else ""
    versions = [fake.store.bucket("b").current(name) for name in ("one", "two")]
    kept = [version.headers.get("x-amz-checksum-crc64nvme", "") for version in versions if version is not None]
    assert [crc, crc] == kept
    offered = [one for one in fake.requests if "x-amz-checksum-algorithm" in one.headers]
    assert len(offered) == (told.offers if way == "cp" else 2 * bool(told.offers))
    assert told.asks == any("x-amz-checksum-mode" in one.headers for one in fake.requests)


PUT_REFUSED = {"refused": frozenset(("x-amz-checksum-crc64nvme",)), "refusal": (400, "InvalidRequest")}
# The size of two objects, what the server does, the environment, and which PUTs of cp offer a CRC.
ONE_PIECE = {
    "large": (2 * MIB, {}, {}, [True, True]),
    "not worth it": (MIB, {}, {}, [False, False]),
    "refused": (2 * MIB, PUT_REFUSED, {}, [True, False, False]),
    "none in requests": (2 * MIB, {}, {REQUEST: "when_required"}, [False, False]),
}


@pytest.mark.parametrize("case", ONE_PIECE)
def test_one_piece_keeps_a_crc_that_spares_an_md5(call: Call, fake: FakeS3, tmp_path: Path, case: str) -> None:
    """Who refuses it is asked once, and stores the object without."""
    size, quirks, env, offers = ONE_PIECE[case]
    for name, value in quirks.items():
        setattr(fake.quirks, name, value)
    (tmp_path / "d").mkdir()
    for name in ("one", "two"):
        (tmp_path / "d" / name).write_bytes(os.urandom(size))

    up = call("cp", "-r", "d", "s3/b", "--workers", "1", env=env)
    puts = [one for one in fake.requests if one.op == "PutObject"]
    piped = call("pipe", "s3/b/three", stdin=os.urandom(size), env=env)
    down = call("cp", "-r", "s3/b", "back", env=env)

    assert (0, 0, 0) == (up.code, piped.code, down.code), up.err + piped.err + down.err
    assert offers == ["x-amz-checksum-crc64nvme" in one.headers for one in puts]
    kept = fake.store.bucket("b").current("three")
    assert kept is not None
    assert offers[-1] == ("x-amz-checksum-crc64nvme" in kept.headers)
    assert (tmp_path / "d" / "one").read_bytes() == (tmp_path / "back" / "one").read_bytes()


@pytest.mark.parametrize("size", [PART, 20 * MIB, LARGE])
def test_a_download_is_held_against_the_crc(call: Call, fake: FakeS3, tmp_path: Path, size: int) -> None:
    """Bytes that are not the object's never get its name, whichever digest tells."""
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    assert 0 == call("cp", "f", "s3/b/k", "--part-size", "5MiB", "--checksum", "crc64nvme").code
    version = fake.store.bucket("b").current("k")
    assert version is not None
    version.body = content[:-1] + bytes([content[-1] ^ 1])

    result = call("cp", "s3/b/k", "back")

    assert 1 == result.code, result.err
    assert f"have the CRC64NVME {value_of('crc64nvme', version.body)}, the object has" in result.err
    assert not (tmp_path / "back").exists()

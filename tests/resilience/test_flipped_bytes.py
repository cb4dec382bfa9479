"""A byte that changes on the wire, either way: that file fails, and what was there stays."""

from __future__ import annotations

import contextlib
import io
import os
import re
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from s3pool.cli.main import main
from s3pool.config.load import load_config
from s3pool.errors import S3Error
from s3pool.session import open_session
from s3pool.transfer.context import TransferContext, TransferOptions
from s3pool.transfer.executor import BoundedExecutor
from s3pool.transfer.tasks import UploadTask
from tests.support.fake_s3 import MIB, Call, CutXml, FakeS3, FlipByte, FlipStored
from tests.support.fake_s3.wire import Exchange, flip
from tests.support.relay import Relay
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliResult
from tests.support.transfers import upload

PART = 5 * MIB
MARKER = b"<this very byte!>"
IN_MEMORY, FROM_FILE, IN_PARTS = 100_000, 3 * MIB, 2 * PART + 99
SIZES = [IN_MEMORY, FROM_FILE, IN_PARTS]
SECRETS = {"KEY": "secret"}
TLS_DIR = Path(__file__).parents[1] / "support" / "tls"
Run = Callable[..., CliResult]


@dataclass
class Wire:
    """A server with two nodes, a relay before each, and a command line that goes through them."""

    run: Run
    relays: list[Relay]
    direct: dict[str, str]
    through: dict[str, str]
    bucket: str

    def flip(self, marker: bytes = MARKER) -> None:
        """Have both relays spoil the marker."""
        for relay in self.relays:
            relay.flip(marker)

    def cut_at(self, marker: bytes = MARKER) -> None:
        """Have both relays end answers at the marker."""
        for relay in self.relays:
            relay.cut_at(marker)

    @property
    def flips(self) -> int:
        """Give how many bytes were turned over."""
        return sum(relay.flips for relay in self.relays)

    def well(self, *argv: str, stdin: bytes = b"") -> CliResult:
        """Run a command that must do, past the relays."""
        result = self.run(*argv, env=self.direct, stdin=stdin)
        assert (0, "") == (result.code, "".join(error_lines(result)))
        return result

    def __call__(self, *argv: str, stdin: bytes = b"") -> CliResult:
        """Run a command through the relays."""
        return self.run(*argv, env=self.through, stdin=stdin)

    def object(self, key: str = "k") -> bytes:
        """Give what is stored."""
        return self.well("cat", f"s3/{self.bucket}/{key}").stdout


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command line in this process."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")

    def call(*argv: str, env: Mapping[str, str], stdin: bytes = b"") -> CliResult:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        code = main(list(argv), environ=dict(env))
        captured = capfdbinary.readouterr()
        return CliResult(argv, code, captured.out, captured.err)

    return call


@pytest.fixture(params=["fake", pytest.param("rgw", marks=pytest.mark.live)])
def wire(request: pytest.FixtureRequest, run: Run, bucket_name: str) -> Iterator[Wire]:
    """Give a server that checks what it is sent, and the means to spoil it on the way."""
    with contextlib.ExitStack() as stack:
        if request.param == "fake":
            server: FakeS3 | RgwCluster = stack.enter_context(FakeS3(2, secrets=SECRETS))
        else:
            server = request.getfixturevalue("rgw")
        relays = [stack.enter_context(Relay(url)) for url in server.endpoints[:2]]
        direct = dict(server.environment)
        through = {**direct, "S3_POOL": ",".join(relay.url for relay in relays), "LB_MAX_RETRIES": "1"}
        made = Wire(run, relays, direct, through, bucket_name)
        made.well("mb", f"s3/{bucket_name}")
        yield made
        made.well("rb", "--force", f"s3/{bucket_name}")


def content_of(size: int) -> bytes:
    """Give bytes with the marker in their middle."""
    content = bytearray(os.urandom(size))
    content[size // 2 : size // 2 + len(MARKER)] = MARKER
    return bytes(content)


def error_lines(result: CliResult) -> list[str]:
    """Give the lines that tell an error."""
    return [line for line in result.err.splitlines() if "error" in line.lower()]


def names_in(directory: Path) -> list[str]:
    """Give the names there, hidden ones too."""
    return sorted(os.listdir(directory))


# -- up ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "checksum"), [*((size, "") for size in SIZES), (IN_MEMORY, "crc32"), (IN_PARTS, "md5")]
)
def test_upload_that_flips_is_not_stored(wire: Wire, tmp_path: Path, size: int, checksum: str) -> None:
    """The signature covers the bytes: the server refuses them, in one piece and in parts."""
    (tmp_path / "f").write_bytes(content_of(size))
    wire.well("pipe", f"s3/{wire.bucket}/k", stdin=b"old")
    words = ("--checksum", checksum) if checksum else ()
    wire.flip()

    result = wire("cp", str(tmp_path / "f"), f"s3/{wire.bucket}/k", "--part-size", "5MiB", *words)

    assert (1, 1) == (result.code, len(error_lines(result)))
    assert f"s3/{wire.bucket}/k" in error_lines(result)[0]
    assert wire.flips
    assert b"old" == wire.object()
    assert "" == wire.well("ls", "--incomplete", f"s3/{wire.bucket}/").out


@pytest.mark.parametrize("size", [IN_MEMORY, IN_PARTS])
def test_stream_that_flips_is_not_stored(wire: Wire, size: int) -> None:
    """Nothing could be read again, and nothing wrong is kept."""
    wire.well("pipe", f"s3/{wire.bucket}/k", stdin=b"old")
    wire.flip()

    result = wire("pipe", f"s3/{wire.bucket}/k", "--part-size", "5MiB", stdin=content_of(size))

    assert (1, 1) == (result.code, len(error_lines(result)))
    assert b"old" == wire.object()
    assert "" == wire.well("ls", "--incomplete", f"s3/{wire.bucket}/").out


@pytest.mark.parametrize("command", ["cp", "sync"])
def test_one_file_that_flips_fails_alone(wire: Wire, tmp_path: Path, command: str) -> None:
    """The others are stored; a move or a sync with --delete removes nothing after that."""
    source = tmp_path / "d"
    source.mkdir()
    for name in ("a", "k", "z"):
        (source / name).write_bytes(content_of(IN_MEMORY) if name == "k" else name.encode())
    wire.well("pipe", f"s3/{wire.bucket}/p/extra", stdin=b"extra")
    words = ("cp", "-r") if command == "cp" else ("sync", "--delete")
    wire.flip()

    result = wire(*words, str(source), f"s3/{wire.bucket}/p")

    assert 1 == result.code
    assert [f"s3/{wire.bucket}/p/k"] == re.findall(r"s3/\S*/k\b", "".join(error_lines(result)))[:1]
    listed = wire.well("find", f"s3/{wire.bucket}/p").lines
    assert [f"s3/{wire.bucket}/p/{name}" for name in ("a", "extra", "z")] == listed


def test_source_of_a_move_stays_when_a_byte_flips(wire: Wire, tmp_path: Path) -> None:
    """It goes only once its copy is there and right."""
    content = content_of(IN_MEMORY)
    (tmp_path / "f").write_bytes(content)
    wire.flip()

    result = wire("mv", str(tmp_path / "f"), f"s3/{wire.bucket}/k")

    assert (1, content) == (result.code, (tmp_path / "f").read_bytes())
    assert "" == wire.well("find", f"s3/{wire.bucket}/").out


@pytest.mark.parametrize("size", SIZES)
def test_content_md5_protects_an_unsigned_body(wire: Wire, tmp_path: Path, size: int) -> None:
    """As behind TLS, where a byte may still flip before or after it."""
    (tmp_path / "f").write_bytes(content_of(size))
    wire.well("pipe", f"s3/{wire.bucket}/k", stdin=b"old")
    wire.flip()
    config = load_config({}, environ=wire.through, cwd=str(tmp_path), home=str(tmp_path))

    with open_session(config) as session, contextlib.closing(BoundedExecutor(2)) as executor:
        options = TransferOptions(part_size=PART, sign_payload=False)
        context = TransferContext(session.client, options=options, executor=executor)
        with pytest.raises(S3Error) as caught:
            upload(UploadTask(str(tmp_path / "f"), wire.bucket, "k", size), context)

    assert "BadDigest" == caught.value.code
    assert b"old" == wire.object()
    assert "" == wire.well("ls", "--incomplete", f"s3/{wire.bucket}/").out


# -- down ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "parts"), [*((size, False) for size in SIZES), (IN_PARTS, True)])
def test_download_that_flips_leaves_the_old_file(wire: Wire, tmp_path: Path, size: int, parts: bool) -> None:
    """In one answer and in ranges, of an object in one piece and of one in parts."""
    (tmp_path / "source").write_bytes(content_of(size))
    wire.well("cp", str(tmp_path / "source"), f"s3/{wire.bucket}/k", "--part-size", "5MiB" if parts else "64MiB")
    target = tmp_path / "d"
    target.mkdir()
    (target / "f").write_bytes(b"old")
    wire.flip()

    result = wire("cp", f"s3/{wire.bucket}/k", str(target / "f"), "--part-size", "5MiB")

    assert (1, 1) == (result.code, len(error_lines(result)))
    assert f"s3/{wire.bucket}/k: the bytes that arrived" in error_lines(result)[0]
    assert (["f"], b"old") == (names_in(target), (target / "f").read_bytes())


def test_download_that_flipped_once_is_right_the_next_time(wire: Wire, tmp_path: Path) -> None:
    """Nothing of the bad run is kept to go on with."""
    content = content_of(IN_PARTS)
    (tmp_path / "source").write_bytes(content)
    wire.well("cp", str(tmp_path / "source"), f"s3/{wire.bucket}/k", "--part-size", "5MiB")
    wire.flip()
    first = wire("cp", f"s3/{wire.bucket}/k", str(tmp_path / "d" / "f"), "--part-size", "5MiB")
    wire.flip(b"")

    second = wire("cp", f"s3/{wire.bucket}/k", str(tmp_path / "d" / "f"), "--part-size", "5MiB")

    assert (1, 0) == (first.code, second.code)
    assert content == (tmp_path / "d" / "f").read_bytes()
    assert ["f"] == names_in(tmp_path / "d")


def test_one_object_that_flips_fails_alone(wire: Wire, tmp_path: Path) -> None:
    """The others arrive, and nothing is deleted after an error."""
    for name in ("a", "k", "z"):
        content = content_of(IN_MEMORY) if name == "k" else name.encode()
        wire.well("pipe", f"s3/{wire.bucket}/p/{name}", stdin=content)
    target = tmp_path / "d"
    target.mkdir()
    (target / "extra").write_bytes(b"extra")
    wire.flip()

    result = wire("sync", "--delete", f"s3/{wire.bucket}/p", str(target))

    assert 1 == result.code
    assert ["a", "extra", "z"] == names_in(target)


@pytest.mark.parametrize("size", [IN_MEMORY, IN_PARTS])
def test_cat_tells_a_flipped_byte(wire: Wire, tmp_path: Path, size: int) -> None:
    """What was written cannot be taken back, but nobody takes it for right."""
    (tmp_path / "source").write_bytes(content_of(size))
    wire.well("cp", str(tmp_path / "source"), f"s3/{wire.bucket}/k", "--part-size", "5MiB")
    wire.flip()

    result = wire("cat", f"s3/{wire.bucket}/k")

    assert (1, size, 1) == (result.code, len(result.stdout), len(error_lines(result)))


@pytest.mark.parametrize("size", SIZES)
def test_answers_that_all_end_early_leave_the_old_file(wire: Wire, tmp_path: Path, size: int) -> None:
    """A connection that is cut is taken up again, but not for ever without a byte of progress."""
    (tmp_path / "source").write_bytes(content_of(size))
    wire.well("cp", str(tmp_path / "source"), f"s3/{wire.bucket}/k", "--part-size", "5MiB")
    target = tmp_path / "d"
    target.mkdir()
    (target / "f").write_bytes(b"old")
    wire.cut_at()

    result = wire("cp", f"s3/{wire.bucket}/k", str(target / "f"), "--part-size", "5MiB")

    assert (1, 1) == (result.code, len(error_lines(result)))
    assert b"old" == (target / "f").read_bytes()


# -- behind the wire: only a server that is scripted does that -----------------------------


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3]) -> FakeS3:
    """Give one store behind two addresses, with an object to replace."""
    server = fake_s3(2)
    server.store.add("b", "k", b"old")
    return server


@pytest.mark.parametrize("size", SIZES)
def test_half_an_answer_that_looks_whole_fails(fake: FakeS3, run: Run, tmp_path: Path, size: int) -> None:
    """Its Content-Length agrees with what came; the ETag, or the range that was asked for, does not."""
    fake.store.add("b", "k", content_of(size))
    fake.fault(CutXml(), op="GetObject", times=0)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"old")

    result = run("cp", "s3/b/k", str(tmp_path / "d" / "f"), "--part-size", "5MiB", env=fake.environment)

    assert (1, 1) == (result.code, len(error_lines(result)))
    assert (["f"], b"old") == (names_in(tmp_path / "d"), (tmp_path / "d" / "f").read_bytes())


def test_part_that_is_stored_wrongly_makes_no_object(fake: FakeS3, run: Run, tmp_path: Path) -> None:
    """The sums were right on arrival, so only the part's ETag could tell."""
    (tmp_path / "f").write_bytes(content_of(IN_PARTS))
    fake.fault(FlipStored(at=7), op="UploadPart", nth=2)

    result = run("cp", str(tmp_path / "f"), "s3/b/k", "--part-size", "5MiB", "--checksum", "md5", env=fake.environment)

    assert (1, 1) == (result.code, len(error_lines(result)))
    assert b"old" == fake.store.bodies("b")["k"]


def test_flip_in_an_answer_is_told_with_both_digests(fake: FakeS3, run: Run, tmp_path: Path) -> None:
    """One line says what came and what should have come."""
    fake.fault(FlipByte(at=1), op="GetObject", times=0)

    result = run("cp", "s3/b/k", str(tmp_path / "f"), env=fake.environment)

    expected = (
        "s3pool: error: s3/b/k: the bytes that arrived have the MD5 [0-9a-f]{32},"
        " the object has 149603e6c03516362a8da23f624db945; where ETags are no MD5s, --no-verify checks the length alone"
    )
    assert 1 == result.code
    assert re.fullmatch(expected, error_lines(result)[0])
    assert not (tmp_path / "f").exists()


# -- behind TLS ----------------------------------------------------------------------------


@pytest.fixture
def tls_fake(fake_s3: Callable[..., FakeS3]) -> FakeS3:
    """Give a store behind HTTPS, which checks signatures, with an object to replace."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS_DIR / "server.pem")
    server = fake_s3(2, secrets=SECRETS, tls=context)
    server.store.add("b", "k", b"old")
    return server


def spoil(exchange: Exchange) -> None:
    """Turn over a bit of a body before anybody has looked at it."""
    exchange.received = flip(exchange.body(), len(exchange.body()) // 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", ["arrived", "stored"])
def test_upload_that_flips_behind_tls_fails(tls_fake: FakeS3, run: Run, tmp_path: Path, size: int, way: str) -> None:
    """Content-MD5 covers the bytes until the server has checked them, the ETag what became of them."""
    (tmp_path / "f").write_bytes(content_of(size))
    op = "UploadPart" if size == IN_PARTS else "PutObject"
    tls_fake.fault(Call(spoil) if way == "arrived" else FlipStored(at=9), op=op, times=0)
    environment = {**tls_fake.environment, "AWS_CA_BUNDLE": str(TLS_DIR / "cert.pem")}

    result = run("cp", str(tmp_path / "f"), "s3/b/k", "--part-size", "5MiB", env=environment)

    hashes = {request.headers["x-amz-content-sha256"] for request in tls_fake.requests if request.op == op}
    assert (1, 1, {"UNSIGNED-PAYLOAD"}) == (result.code, len(error_lines(result)), hashes)
    assert {} == tls_fake.store.bucket("b").uploads
    assert way == "stored" or tls_fake.store.bodies("b")["k"] == b"old"


@pytest.mark.parametrize("size", SIZES)
def test_download_that_flips_behind_tls_fails(tls_fake: FakeS3, run: Run, tmp_path: Path, size: int) -> None:
    """TLS ends where the server hands it the bytes."""
    tls_fake.store.add("b", "k", content_of(size))
    tls_fake.fault(FlipByte(at=9), op="GetObject", times=0)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"old")
    environment = {**tls_fake.environment, "AWS_CA_BUNDLE": str(TLS_DIR / "cert.pem")}

    result = run("cp", "s3/b/k", str(tmp_path / "d" / "f"), "--part-size", "5MiB", env=environment)

    assert (1, 1) == (result.code, len(error_lines(result)))
    assert (["f"], b"old") == (names_in(tmp_path / "d"), (tmp_path / "d" / "f").read_bytes())

"""An answer that is bad for one request is no illness of the node: others go on as if nothing had been."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_s3 import Answer as Refusal
from tests.support.fake_s3 import CutBody, FakeS3, Fault, Raw
from tests.support.proxying import RunningProxy, checking_fake
from tests.support.run_cli import CliRunner

GOOD = [f"good{number:03}" for number in range(150)]  # more than can be under way when the first one fails
MANY = 1000
TIMES = 8  # more failures in a row than open a circuit
REFUSALS = {
    411: "MissingContentLength",
    413: "EntityTooLarge",
    501: "NotImplemented",
    505: "HTTPVersionNotSupported",
    507: "XMinioStorageFull",
    508: "LoopDetected",
}
FAULTS: dict[str, Fault] = {str(status): Refusal(status, code) for status, code in REFUSALS.items()}
FAULTS |= {"short body": CutBody(4), "no body": CutBody(0)}
HEAD = b'HTTP/1.1 200 OK\r\nETag: "781e5e245d69b566979b86e28d23f2c7"\r\n'
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
FAULTS |= {
    "interim heads and no other": Raw(b"HTTP/1.1 102 Processing\r\n\r\n" * 5000),
    "garbage said to be gzip": Raw(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n\x1f\x8bgarbage!"),
    "chunk without a size": Raw(CHUNKED + b"ten\r\n0123456789\r\n0\r\n\r\n"),
    "chunk of a negative size": Raw(CHUNKED + b"-a\r\n0123456789\r\n0\r\n\r\n"),
    "chunk that is longer than its size": Raw(CHUNKED + b"5\r\n0123456789\r\n0\r\n\r\n"),
    "chunk that is cut": Raw(CHUNKED + b"a\r\n01234"),
    "chunks without an end": Raw(CHUNKED + b"a\r\n0123456789\r\n"),
    "length above the body's": Raw(HEAD + b"Content-Length: 20\r\n\r\n0123456789"),
    "length below the body's": Raw(HEAD + b"Content-Length: 5\r\n\r\n0123456789"),
    "two lengths": Raw(HEAD + b"Content-Length: 10\r\nContent-Length: 11\r\n\r\n0123456789"),
    "no HTTP": Raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
}


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    """Return three nodes, of which none can answer for one key."""
    with checking_fake(3) as made:
        for key in ("bad", *GOOD):
            made.store.add("b", f"p/{key}", b"0123456789")
        yield made


@pytest.mark.parametrize("name", FAULTS)
def test_proxy_keeps_its_nodes(fake: FakeS3, name: str) -> None:
    """One client with one key must not shut the service for everybody."""
    fake.fault(FAULTS[name], op="GetObject", key="p/bad", times=0)

    with RunningProxy(fake.endpoints) as proxy:
        for _ in range(TIMES):
            proxy.talk(proxy.signed("GET", "/b/p/bad", close=True))
        answer = proxy.ask("GET", "/b/p/good000", close=True)
        states = {row["state"] for row in proxy.stats()["endpoints"]}

    assert (200, b"0123456789", {"closed"}) == (answer.status, answer.body, states)


@pytest.mark.parametrize("name", FAULTS)
def test_command_fails_for_one_object_alone(fake: FakeS3, run_cli: CliRunner, tmp_path: Path, name: str) -> None:
    """And does not ask again where no repetition helps."""
    fake.fault(FAULTS[name], op="GetObject", key="p/bad", times=0)

    result = run_cli("cp", "-r", "s3/b/p", str(tmp_path / "down"), "--retries", "2", env=fake.environment)

    assert 1 == result.code, result.err
    assert GOOD == sorted(path.name for path in (tmp_path / "down").iterdir() if path.name[0] != ".")
    asked = [request for request in fake.requests if request.op == "GetObject" and request.key == "p/bad"]
    assert len(asked) <= (2 if name == "501" else 1) or not name.isdecimal()
    assert "leaves the pool" not in result.err
    assert "stalled" not in result.err


@pytest.fixture
def many_faults(fake: FakeS3) -> FakeS3:
    """Give each fault a key of its own."""
    fake.store.buckets["b"].versions.pop("p/bad")
    for number, fault in enumerate(FAULTS.values()):
        fake.store.add("b", f"p/bad{number:02}", b"0123456789")
        fake.fault(fault, op="GetObject", key=f"p/bad{number:02}", times=0)
    return fake


def test_sync_fails_for_these_objects_alone(many_faults: FakeS3, run_cli: CliRunner, tmp_path: Path) -> None:
    """Nineteen of them must not look like the end of all nodes."""
    result = run_cli("sync", "s3/b/p", str(tmp_path / "down"), "--retries", "2", env=many_faults.environment)

    assert 1 == result.code, result.err
    assert GOOD == sorted(path.name for path in (tmp_path / "down").iterdir() if path.name[0] != ".")
    assert f" {len(FAULTS)} failed" in result.err
    assert "leaves the pool" not in result.err


def test_cat_prints_the_others(many_faults: FakeS3, run_cli: CliRunner) -> None:
    """One body alone can be put together, of its pieces; of the others nothing is printed that they do not have."""
    bad = [f"s3/b/p/bad{number:02}" for number in range(len(FAULTS))]
    paths = [path for each in bad for path in (each, "s3/b/p/good000")]

    result = run_cli("cat", *paths, "--retries", "2", env=many_faults.environment)

    assert 1 == result.code, result.err
    assert len(FAULTS) - 1 == result.err.count("s3pool: error: ")
    assert len(FAULTS) + 1 <= result.stdout.count(b"0123456789")
    assert "leaves the pool" not in result.err


def test_store_that_answers_nothing_of_use_is_found_out(fake: FakeS3, run_cli: CliRunner, tmp_path: Path) -> None:
    """Three objects without a success are the store's fault, and the rest is not asked for."""
    fake.fault(CutBody(4), op="GetObject", times=0)
    for number in range(MANY):
        fake.store.add("b", f"p/more{number:04}", b"0123456789")

    result = run_cli("cp", "-r", "s3/b/p", str(tmp_path / "down"), "--retries", "1", env=fake.environment)

    assert 5 == result.code
    assert len({request.key for request in fake.requests if request.op == "GetObject"}) < MANY / 2
    assert "no endpoint gave a usable answer" in result.err

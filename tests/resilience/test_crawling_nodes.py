"""A node that is a hundred times slower than the others: it answers, and a body takes minutes there."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import s3pool
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3
from tests.support.proxying import RunningProxy
from tests.support.relay import Relay
from tests.support.run_cli import CliRunner

TLS = Path(__file__).parents[1] / "support" / "tls"
MIB = 1 << 20
LARGE_BYTES, LONG_BYTES = 48 * MIB, 12 * MIB  # in parts of 16 MiB, and as one body
LAG_S = 0.3  # of 64 KiB: 12 MiB take a minute
LIMIT_S = 30.0  # on a machine that has other work; the slow node costs some seconds
ROUNDS = 4  # one of them begins at the slow node


class Cluster:
    """Four addresses of one store; the first is a relay that can be slow."""

    def __init__(self, fake: FakeS3, slow: Relay, *, scheme: str) -> None:
        self._fake, self.slow = fake, slow
        self.urls = [slow.url.replace("http:", f"{scheme}:"), *fake.endpoints[1:]]
        self.environment = {**fake.environment, "S3_POOL": ",".join(self.urls), "AWS_CA_BUNDLE": str(TLS / "cert.pem")}

    def holds(self, key: str, content: bytes) -> bool:
        """Return whether an object is stored."""
        return self._fake.store.bodies("b")[key] == content


@pytest.fixture(name="cluster", params=["http", "https"])
def _cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with ExitStack() as stack:
        context = None
        if request.param == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(str(TLS / "server.pem"))
        fake = stack.enter_context(FakeS3(4, secrets={ACCESS_KEY: SECRET_KEY}, tls=context))
        fake.store.add("b", "long", os.urandom(MIB) * (LONG_BYTES // MIB))
        yield Cluster(fake, stack.enter_context(Relay(fake.endpoints[0])), scheme=request.param)


@pytest.fixture(name="timed")
def _timed(run_cli: CliRunner, cluster: Cluster, tmp_path: Path) -> Callable[..., float]:
    """Return a call that runs a command and returns its seconds."""

    def run(*words: str) -> float:
        started = time.monotonic()
        result = run_cli(*words, env=cluster.environment, cwd=tmp_path)
        assert 0 == result.code, result.err
        return time.monotonic() - started

    return run


def test_part_of_an_upload_is_sent_elsewhere(cluster: Cluster, timed: Callable[..., float], tmp_path: Path) -> None:
    """The last part at the slow node must not be the time of the whole upload."""
    content = os.urandom(MIB) * (LARGE_BYTES // MIB)
    (tmp_path / "large").write_bytes(content)
    cluster.slow.lag_s = LAG_S

    seconds = timed("cp", "large", "s3/b/large")

    assert seconds < LIMIT_S
    assert cluster.holds("large", content)


@pytest.mark.parametrize("words", [("cat", "s3/b/long"), ("cp", "s3/b/long", "down")], ids=lambda words: words[0])
def test_download_goes_on_elsewhere(cluster: Cluster, timed: Callable[..., float], words: tuple[str, ...]) -> None:
    """A body that has begun at the slow node is read on where it comes faster."""
    cluster.slow.lag_s = LAG_S

    assert max(timed(*words) for _ in range(ROUNDS)) < LIMIT_S


def test_client_of_the_proxy_gets_its_object_in_seconds(cluster: Cluster) -> None:
    """An SDK cannot know that another node would be faster."""
    options = {"ca_bundle": str(TLS / "cert.pem")}
    with RunningProxy(cluster.urls, read_timeout_s=60.0, options=options) as proxy:
        cluster.slow.lag_s = LAG_S
        started = time.monotonic()
        answers = [proxy.ask("GET", "/b/long", close=True) for _ in range(ROUNDS)]
        seconds = time.monotonic() - started

    assert {(200, LONG_BYTES)} == {(answer.status, len(answer.body)) for answer in answers}
    assert seconds < LIMIT_S


def test_files_of_the_library_are_read_in_seconds(cluster: Cluster) -> None:
    """Each block is a request of its own, asked again whole where it comes faster."""
    cluster.slow.lag_s = LAG_S
    keys = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY, "ca_bundle": str(TLS / "cert.pem")}
    started = time.monotonic()
    with s3pool.connect(endpoints=cluster.urls, **keys) as pool:
        for _ in range(ROUNDS):
            with pool.open("s3://b/long") as stream:
                assert LONG_BYTES == len(stream.read())

    assert time.monotonic() - started < LIMIT_S

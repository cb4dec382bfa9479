"""Large bodies under way when the proxy is told to end, or when their node dies.

S3POOL_TEST_LARGE_MIB makes them larger: the tests take a gibibyte as well.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPResponse

import pytest

from s3pool.model import Credentials
from tests.proxy.test_running import Process, running
from tests.support.proxying import LIVE_TIMEOUT_S, RunningProxy, signed_request
from tests.support.relay import Relay
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

MIB = 1 << 20
SIZE_MIB = int(os.environ.get("S3POOL_TEST_LARGE_MIB", "24"))  # more than is kept for a second try
BLOCK = os.urandom(MIB)
TIMEOUT_S = 120.0

pytestmark = pytest.mark.live


def keys_of(rgw: RgwCluster) -> Credentials:
    """Give the cluster's key pair."""
    return Credentials(rgw.access_key, rgw.secret_key)


def blocks(count: int) -> Iterator[bytes]:
    """Give the content, a mebibyte at a time, each one different."""
    for number in range(count):
        yield number.to_bytes(8, "big") + BLOCK[8:]


def digest(count: int) -> str:
    """Give the content's hash."""
    made = hashlib.sha256()
    for block in blocks(count):
        made.update(block)
    return made.hexdigest()


class Client:
    """One connection for one request whose body goes and comes in pieces."""

    def __init__(self, port: int, keys: Credentials) -> None:
        self._host = f"127.0.0.1:{port}"
        self._keys = keys
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)

    def begin(self, method: str, target: str, *, mib: int = 0) -> None:
        """Send a head, which announces so many mebibytes."""
        request = signed_request(method, target, host=self._host, payload="UNSIGNED-PAYLOAD", key=self._keys)
        self.sock.sendall(request.replace(b"content-length: 0", b"content-length: %d" % (mib * MIB)))

    def end(self, method: str) -> tuple[int, str]:
        """Read the answer; give its status and its body's hash."""
        with HTTPResponse(self.sock, method=method) as response:
            response.begin()
            made = hashlib.sha256()
            while piece := response.read(MIB):
                made.update(piece)
            return response.status, made.hexdigest()


def ask(port: int, keys: Credentials, method: str, target: str) -> tuple[int, str]:
    """Send a request without a body and read its answer."""
    client = Client(port, keys)
    with client.sock:
        client.begin(method, target)
        return client.end(method)


def upload(port: int, keys: Credentials, target: str) -> int:
    """Store the large object and give the status."""
    client = Client(port, keys)
    with client.sock:
        client.begin("PUT", target, mib=SIZE_MIB)
        for block in blocks(SIZE_MIB):
            client.sock.sendall(block)
        return client.end("PUT")[0]


def await_drain(proxy: Process) -> None:
    """Tell a proxy to end, and wait until it lets nobody in."""
    proxy.child.send_signal(signal.SIGTERM)
    with suppress(ConnectionError):
        while True:
            proxy.connect().close()


def test_download_goes_on_to_its_end_after_sigterm(rgw: RgwCluster, run_cli: CliRunner, bucket_name: str) -> None:
    """Whoever restarts the proxy breaks no transfer."""
    keys, target = keys_of(rgw), f"/{bucket_name}/large"
    with running(run_cli, rgw) as proxy:
        ask(proxy.port, keys, "PUT", f"/{bucket_name}")
        upload(proxy.port, keys, target)
        client = Client(proxy.port, keys)
        with client.sock:
            client.begin("GET", target)
            client.sock.recv(1, socket.MSG_PEEK)
            await_drain(proxy)
            result = client.end("GET")

        assert (200, digest(SIZE_MIB)) == result
        assert 143 == proxy.child.wait(TIMEOUT_S)  # and not 1: every request could finish


def test_upload_goes_on_to_its_end_after_sigterm(rgw: RgwCluster, run_cli: CliRunner, bucket_name: str) -> None:
    """The same with half of the bytes still at the client."""
    keys, target = keys_of(rgw), f"/{bucket_name}/large"
    with running(run_cli, rgw) as proxy:
        ask(proxy.port, keys, "PUT", f"/{bucket_name}")
        client = Client(proxy.port, keys)
        with client.sock:
            client.begin("PUT", target, mib=SIZE_MIB)
            for number, block in enumerate(blocks(SIZE_MIB)):
                if number == SIZE_MIB // 2:
                    await_drain(proxy)
                client.sock.sendall(block)
            status, _ = client.end("PUT")

        assert 200 == status
        assert 143 == proxy.child.wait(TIMEOUT_S)  # and not 1: every request could finish
    assert (200, digest(SIZE_MIB)) == ask(rgw.ports[0], keys, "GET", target)


@pytest.fixture
def relayed(rgw: RgwCluster, bucket_name: str) -> Iterator[tuple[RunningProxy, list[Relay]]]:
    """Give a proxy before gateways that can die, and a bucket."""
    with ExitStack() as stack:
        relays = [stack.enter_context(Relay(url)) for url in rgw.endpoints[:3]]
        proxy = stack.enter_context(
            RunningProxy([relay.url for relay in relays], credentials=keys_of(rgw), read_timeout_s=LIVE_TIMEOUT_S)
        )
        ask(proxy.port, keys_of(rgw), "PUT", f"/{bucket_name}")
        yield proxy, relays


def kill_the_busy_one(proxy: RunningProxy, relays: list[Relay]) -> None:
    """Kill the node that has a request."""
    busy = {found["endpoint"] for found in proxy.stats()["endpoints"] if found["in_flight"]}
    (victim,) = [relay for relay in relays if relay.url in busy]
    victim.kill()


def test_download_survives_its_node(
    relayed: tuple[RunningProxy, list[Relay]], rgw: RgwCluster, bucket_name: str
) -> None:
    """The rest comes from another node, and the client sees one whole object."""
    proxy, relays = relayed
    keys, target = keys_of(rgw), f"/{bucket_name}/large"
    upload(rgw.ports[0], keys, target)
    client = Client(proxy.port, keys)

    with client.sock:
        client.begin("GET", target)
        client.sock.recv(1, socket.MSG_PEEK)
        kill_the_busy_one(proxy, relays)
        result = client.end("GET")

    assert (200, digest(SIZE_MIB)) == result


@pytest.mark.parametrize(("mib", "statuses"), [(8, {200}), (SIZE_MIB, {502, 503})], ids=["kept", "streamed"])
def test_upload_survives_its_node_or_is_refused(
    relayed: tuple[RunningProxy, list[Relay]], rgw: RgwCluster, bucket_name: str, mib: int, statuses: set[int]
) -> None:
    """What was kept is sent again elsewhere; what was not is refused, and nothing of it is stored."""
    proxy, relays = relayed
    keys, target = keys_of(rgw), f"/{bucket_name}/large"
    client = Client(proxy.port, keys)

    with client.sock:
        client.begin("PUT", target, mib=mib)
        # Whoever is refused early may find the connection closed while it still sends.
        with suppress(ConnectionError):
            for number, block in enumerate(blocks(mib)):
                client.sock.sendall(block)
                if number == mib // 2:
                    kill_the_busy_one(proxy, relays)
        status, _ = client.end("PUT")

    stored = ask(rgw.ports[0], keys, "GET", target)
    assert status in statuses
    assert (200, digest(mib)) == stored if status == 200 else 404 == stored[0]

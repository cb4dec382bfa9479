"""A name stands for the nodes of the pool, and they come and go while it is used."""

from __future__ import annotations

import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from s3pool.endpoint import Endpoint
from s3pool.errors import NoEndpointError
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.connections import ConnectionPool, ConnectionSettings
from s3pool.pool.node import CircuitBreaker, Node
from s3pool.pool.resolver import FoundNodes, NodeKeeper, ResolveError, Resolver
from tests.support.clock import Clock
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, Delay, FakeS3, Fault
from tests.support.proxying import RunningProxy
from tests.support.run_cli import CliRunner

pytest.importorskip("dns", reason="the extra 'dns' is not installed")

from tests.support.name_server import NameServer

HOSTS = [f"127.0.0.{number}" for number in range(2, 10)]
TLS = Path(__file__).parents[1] / "support" / "tls"
PATIENCE_S = 30.0


@pytest.fixture
def names() -> Iterator[NameServer]:
    """Give a name server whose answers hold for a second."""
    with NameServer() as server:
        yield server


@pytest.fixture
def fake(fake_s3: Any, names: NameServer) -> FakeS3:
    """Give eight addresses of one store with one port; the name has the first four."""
    made: FakeS3 = fake_s3(hosts=HOSTS, secrets={ACCESS_KEY: SECRET_KEY})
    made.store.add("b", "there", b"0123456789" * 100)
    names.set("s3.test", "A", HOSTS[:4])
    return made


def environ(fake: FakeS3, names: NameServer, url: str = "") -> dict[str, str]:
    """Give the variables of a pool that is one name."""
    endpoint = url or f"dns+http://s3.test:{fake.nodes[0].port}"
    return {**fake.environment, "S3_POOL": endpoint, "S3POOL_RESOLVER": names.address}


def served(fake: FakeS3, *, since: int = 0) -> Counter[int]:
    """Give how many requests of clients each node got."""
    kinds = ("Health", "ListBuckets")
    return Counter(request.endpoint for request in fake.requests[since:] if request.op not in kinds)


def await_true(check: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_every_address_of_a_name_is_a_node(fake: FakeS3, names: NameServer, run_cli: CliRunner) -> None:
    """Host stays the name, which the signature covers; ping and config show the addresses."""
    port = fake.nodes[0].port
    nodes = [f"http://s3.test:{port}[{host}]" for host in HOSTS[:4]]

    pinged = run_cli("ping", "--json", env=environ(fake, names))
    config = run_cli("config", env=environ(fake, names))
    listed = run_cli("ls", "-r", "s3/b", env=environ(fake, names))

    assert nodes == [record["url"] for record in pinged.records]
    assert nodes == [line.split()[1] for line in config.lines if line.startswith("node ")]
    assert f"dns+http://s3.test:{port}" in config.out
    assert (0, {f"s3.test:{port}"}) == (listed.code, {request.headers["host"] for request in fake.requests})


def test_certificate_is_that_of_the_name(fake_s3: Any, names: NameServer, run_cli: CliRunner) -> None:
    """Whatever the address: it stands in no certificate, and name servers are not to be trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem")
    fake = fake_s3(hosts=HOSTS[:1], tls=context)
    for name in ("localhost", "other.test"):
        names.set(name, "A", HOSTS[:1])
    trust = {"AWS_CA_BUNDLE": str(TLS / "cert.pem"), "LB_MAX_RETRIES": "0"}

    mine, others = (
        run_cli("ls", env={**environ(fake, names, f"dns+https://{name}:{fake.nodes[0].port}"), **trust})
        for name in ("localhost", "other.test")
    )

    assert (0, 5) == (mine.code, others.code), mine.err
    assert "the certificate is not trusted: Hostname mismatch, certificate is not valid for 'other.test'" in others.err


class Moves(Fault):
    """Lets the name have other addresses from this request on."""

    def __init__(self, names: NameServer, hosts: list[str]) -> None:
        self._names, self._hosts = names, hosts

    def receive(self, exchange: Any) -> None:
        """Change the records, then let the operation act."""
        self._names.set("s3.test", "A", self._hosts)


def test_sync_follows_the_nodes(fake: FakeS3, names: NameServer, run_cli: CliRunner, tmp_path: Path) -> None:
    """Four, then eight, then three others: new ones get traffic, those that left none, and nothing fails."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(1500):
        (tree / f"f{number:04d}").write_bytes(b"%d" % number * 20)
    fake.fault(Delay(0.05), op="PutObject", times=1500)
    fake.fault(Moves(names, HOSTS), op="PutObject", nth=200)
    fake.fault(Moves(names, HOSTS[5:]), op="PutObject", nth=800)

    result = run_cli("sync", "--workers", "8", str(tree), "s3/b/t", env=environ(fake, names))

    puts = [request.endpoint for request in fake.requests if request.op == "PutObject"]
    assert (0, 1500) == (result.code, len(fake.store.bodies("b")) - 1), result.err
    assert "0 failed" in result.err
    assert [set(range(4)), set(range(5, 8))] == [set(puts[:150]), set(puts[-100:])]
    assert set(range(8)) == set(puts)
    assert len(puts) == 1500  # no request was lost, and none repeated


def test_proxy_follows_the_nodes(fake: FakeS3, names: NameServer) -> None:
    """Clients see no error, and idle connections to nodes that left are closed."""
    url = f"dns+http://s3.test:{fake.nodes[0].port}"
    statuses: Counter[int] = Counter()
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            statuses[proxy.ask("GET", "/b/there").status] += 1

    with RunningProxy([url], options={"resolver": (names.address,)}) as proxy, ThreadPoolExecutor(4) as readers:
        for _ in range(4):
            readers.submit(read)
        try:
            await_true(lambda: set(served(fake)) == set(range(4)))
            names.set("s3.test", "A", HOSTS)
            await_true(lambda: set(served(fake)) == set(range(8)))
            names.set("s3.test", "A", HOSTS[5:])
            await_true(lambda: len(proxy.stats()["endpoints"]) == 3)
            await_true(lambda: not any(node.open_connections for node in fake.nodes[:5]))
            before = len(fake.requests)
            await_true(lambda: served(fake, since=before).total() > 50)
        finally:
            ended.set()
        after = served(fake, since=before)

    assert {200} == set(statuses)
    assert {5, 6, 7} == set(after)


def test_proxy_keeps_its_nodes_while_names_fail(fake: FakeS3, names: NameServer) -> None:
    """A name server that is down, or knows nothing, must not take the service with it."""
    url = f"dns+http://s3.test:{fake.nodes[0].port}"
    with RunningProxy([url], options={"resolver": (names.address,)}) as proxy:
        for mode in ("fails", "nothing"):
            names.mode = mode
            names.set("s3.test", "A", HOSTS[:4] if mode == "fails" else [])
            asked = len(names.asked)
            await_true(lambda asked=asked: len(names.asked) > asked)  # type: ignore[misc]

            assert 200 == proxy.ask("GET", "/b/there").status

        assert 4 == len(proxy.stats()["endpoints"])
        assert [1, 4, 0] == [proxy.proxy.set_drained(name, True) for name in (HOSTS[2], url.partition("//")[2], "")]


def test_listing_without_a_thread_finds_the_new_nodes(fake: FakeS3, names: NameServer, run_cli: CliRunner) -> None:
    """When a node fails, the names are looked up again: all nodes of a deployment may have been exchanged."""
    for number in range(40):
        fake.store.add("b", f"k{number:02d}", b"x")
    fake.quirks.short_pages = 2

    class Exchanged(Moves):
        def receive(self, exchange: Any) -> None:
            super().receive(exchange)
            for node in fake.nodes[:4]:
                if node is not exchange.node:
                    node.kill()

    fake.fault(Delay(0.2), op="ListObjectsV2", times=6)  # longer than the first answer of the name server holds
    fake.fault(Exchanged(names, HOSTS[4:]), op="ListObjectsV2", nth=7)

    result = run_cli("ls", "-r", "s3/b", env={**environ(fake, names), "LB_MAX_RETRIES": "2"})

    assert (0, 41) == (result.code, len(result.lines)), result.err
    assert set(served(fake)) & set(range(4, 8))


def test_service_records_name_hosts_and_ports(fake_s3: Any, names: NameServer, run_cli: CliRunner) -> None:
    """Priorities are tiers, weights are weights, and a target that is gone is passed over."""
    fake = fake_s3(4, secrets={ACCESS_KEY: SECRET_KEY})
    fake.store.add("b", "there", b"x")
    ports = [node.port for node in fake.nodes]
    names.set(
        "_s3._tcp.store.test",
        "SRV",
        [
            f"0 30 {ports[0]} n0.test.",
            f"0 10 {ports[1]} n1.test.",
            f"0 10 {ports[2]} gone.test.",
            f"1 10 {ports[3]} n3.test.",
        ],
    )
    for number in (0, 1, 3):
        names.set(f"n{number}.test", "A", ["127.0.0.1"])
    env = environ(fake, names, "srv+http://_s3._tcp.store.test")

    shown = run_cli("config", env=env)
    read = run_cli("cat", *["s3/b/there"] * 40, env=env)

    nodes = [line.split()[1] for line in shown.lines if line.startswith("node ")]
    assert [
        f"http://n0.test:{ports[0]}[127.0.0.1];weight=3",
        f"http://n1.test:{ports[1]}[127.0.0.1]",
        f"http://n3.test:{ports[3]}[127.0.0.1]",
    ] == nodes
    counts = served(fake)
    assert (0, {0, 1}) == (read.code, set(counts))
    assert counts[0] > 2 * counts[1]


@pytest.mark.parametrize(
    ("url", "mode", "message"),
    [
        ("dns+http://other.test", "", "dns+http://other.test: The DNS query name does not exist: other.test"),
        ("srv+http://_s3._tcp.other.test", "fails", "srv+http://_s3._tcp.other.test: All nameservers failed to answer"),
        ("dns+http://s3.test", "silent", "dns+http://s3.test: The resolution lifetime expired after"),
    ],
)
def test_name_without_nodes_is_one_line(
    fake: FakeS3, names: NameServer, run_cli: CliRunner, url: str, mode: str, message: str
) -> None:
    """Which name, why, and what to look at; status 5."""
    names.mode = mode

    result = run_cli("ls", "s3/b", env=environ(fake, names, url))

    (line,) = result.err.splitlines()
    assert 5 == result.code
    assert line.startswith(f"s3pool: error: no node was found: {message}")
    assert line.endswith("; check the name, and --resolver")


def test_missing_package_is_named(fake: FakeS3, names: NameServer, run_cli: CliRunner, tmp_path: Path) -> None:
    """It is needed for service records and for name servers of one's own alone."""
    (tmp_path / "dns.py").write_text("raise ImportError\n")
    path = f"{tmp_path}:{run_cli.full_environ()['PYTHONPATH']}"
    env = {**environ(fake, names), "PYTHONPATH": path}

    refused = run_cli("ls", "s3/b", env=env)
    by_system = {**env, "S3POOL_RESOLVER": "", "S3_POOL": f"dns+http://127.0.0.2:{fake.nodes[0].port}"}
    listed = run_cli("ls", "s3/b", env=by_system)

    message = "SRV records and --resolver need the package dnspython; run: pip install 's3pool[dns]'"
    assert (2, f"s3pool: error: {message}\n") == (refused.code, refused.err)
    assert 0 == listed.code


def test_all_names_can_be_looked_up(fake_s3: Any, run_cli: CliRunner) -> None:
    """By the system, which knows its hosts file; an address stays what it is."""
    fake = fake_s3(1)
    port = fake.nodes[0].port
    env = {**fake.environment, "S3_POOL": f"http://localhost:{port},http://127.0.0.1:{port}"}

    plain = run_cli("ping", "--json", env=env)
    found = run_cli("ping", "--json", "--resolve", "all", env=env)

    assert [f"http://localhost:{port}", f"http://127.0.0.1:{port}"] == [row["url"] for row in plain.records]
    urls = [row["url"] for row in found.records]
    assert f"http://localhost:{port}[127.0.0.1]" in urls
    assert f"http://127.0.0.1:{port}" == urls[-1]


class Book(Resolver):
    """Tells what a test has written for the next questions."""

    def __init__(self, *answers: FoundNodes | ResolveError) -> None:
        super().__init__()
        self.answers = list(answers)

    def find(self, endpoint: Endpoint) -> FoundNodes:
        """Give the next answer."""
        answer = self.answers.pop(0)
        if isinstance(answer, ResolveError):
            raise answer
        return answer


def at(*addresses: str, weight: int = 1) -> FoundNodes:
    """Give an answer that holds for five seconds."""
    nodes = tuple(Endpoint("http", "s3.test", 80, address=address, weight=weight) for address in addresses)
    return FoundNodes(nodes, 5.0)


def make_node(endpoint: Endpoint) -> Node:
    """Make a node that connects to nothing."""
    return Node(endpoint, ConnectionPool(endpoint, ConnectionSettings()), CircuitBreaker())


def test_refresh_keeps_what_it_can(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A node that stays is the same node; one that comes back goes on counting; one line tells of many failures."""
    gone = ResolveError("dns+http://s3.test: nobody knows")
    book = Book(at("1", "2"), at("2", "3"), gone, gone, at("1", "3", weight=2))
    keeper = NodeKeeper([Endpoint.parse("dns+http://s3.test")], book, make_node, now=clock)
    balancer = LoadBalancer(keeper.find())
    keeper.attend(balancer)
    first = balancer.nodes
    first[0].counters.add(requests=1)

    def after(seconds: float) -> list[str]:
        clock.advance(seconds)
        return [node.endpoint.address for node in keeper.tend()]

    assert [["1", "2"], ["2", "3"], ["2", "3"], ["2", "3"]] == [after(4.9), after(0.2), after(5.1), after(10.1)]
    assert first[1] is balancer.nodes[0]
    kept = balancer.nodes[1]
    assert ["1", "3"] == after(10.1)
    assert (1, kept, 2) == (balancer.nodes[0].counters.requests, balancer.nodes[1], kept.endpoint.weight)
    assert ["2"] == [node.endpoint.address for node in balancer.former]
    assert ["dns+http://s3.test: nobody knows; the 2 nodes that were found before stay"] == caplog.messages


def test_pool_goes_on_without_a_name_that_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    """Others are there; without any there is no pool."""
    unknown = ResolveError("dns+http://a: unknown")
    endpoints = [Endpoint.parse("dns+http://a"), Endpoint.parse("http://b")]

    nodes = NodeKeeper(endpoints, Book(unknown), make_node).find()
    with pytest.raises(NoEndpointError, match=r"no node was found: dns\+http://a: unknown"):
        NodeKeeper(endpoints[:1], Book(unknown), make_node).find()

    assert ["http://b"] == [str(node.endpoint) for node in nodes]
    assert ["dns+http://a: unknown; the pool goes on without"] == caplog.messages

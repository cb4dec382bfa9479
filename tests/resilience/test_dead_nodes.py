from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3
from tests.support.relay import Relay
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

Environment = dict[str, str]
IMPATIENT = {"POOL_CONNECT_TIMEOUT": "0.3", "LB_REQUEST_TIMEOUT": "5"}
SIZES = {"empty": 0, "small": 1000, "dir/odd name+%.txt": 70_000, "dir/deep/big": 3 << 20, "dir/deep/more": 12_345}
_TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^],\"]*|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} [\d:]{8} GMT")
_SIGNED = re.compile(
    r"http://127\.0\.0\.1:\d+/|X-Amz-(Date|Credential|Signature)=[^&\s]+|\"x-amz-request-id\": \"[^\"]*\""
)
_SECONDS = re.compile(r"[\d.]+ ?(s|seconds|[KMG]iB/s|B/s)\b|\"seconds\": [\d.e-]+")


@contextmanager
def fake_pools() -> Iterator[tuple[Environment, Environment]]:
    """Give a healthy pool of the fake and a hurt one, signatures checked, each its own store."""
    secrets = {ACCESS_KEY: SECRET_KEY}
    with FakeS3(4, secrets=secrets) as healthy, FakeS3(4, secrets=secrets) as hurt:
        hurt.nodes[1].kill()
        hurt.nodes[2].black_hole()
        yield healthy.environment, hurt.environment


@contextmanager
def rgw_pools(rgw: RgwCluster) -> Iterator[tuple[Environment, Environment]]:
    """Give a real cluster as it is, and the same behind relays of which two are hurt."""
    with ExitStack() as stack:
        relays = [stack.enter_context(Relay(url)) for url in rgw.endpoints]
        relays[1].kill()
        relays[2].black_hole()
        yield rgw.environment, {**rgw.environment, "S3_POOL": ",".join(relay.url for relay in relays)}


@pytest.fixture(params=["fake", pytest.param("rgw", marks=pytest.mark.live)])
def pools(request: pytest.FixtureRequest) -> Iterator[tuple[Environment, Environment]]:
    """Give a healthy pool and a hurt one: one node refuses, one is a black hole."""
    made = fake_pools() if request.param == "fake" else rgw_pools(request.getfixturevalue("rgw"))
    with made as environments:
        yield environments


def fill(root: Path) -> None:
    """Write a small tree whose bytes are the same every time."""
    for name, size in SIZES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.sha256(name.encode()).digest() * (size // 32) + b"x" * (size % 32))
        os.utime(path, (1_769_114_673, 1_769_114_673))


def read_tree(root: Path) -> dict[str, bytes]:
    """Give every file below a directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def everyday(bucket: str) -> list[tuple[str, ...]]:
    """Give a day's work, one command line after the other; it leaves nothing behind."""
    return [
        ("mb", f"s3/{bucket}"),
        ("cp", "-r", "tree", f"s3/{bucket}/up"),
        ("cp", "tree/small", f"s3/{bucket}/single/"),
        ("ls",),
        ("ls", f"s3/{bucket}"),
        ("ls", "-r", f"s3/{bucket}/up/"),
        ("ls", "--json", "-r", f"s3/{bucket}"),
        ("stat", f"s3/{bucket}/up/small"),
        ("stat", f"s3/{bucket}"),
        ("du", f"s3/{bucket}"),
        ("find", f"s3/{bucket}", "--larger", "10K"),
        ("cat", f"s3/{bucket}/up/dir/odd name+%.txt"),
        ("cp", f"s3/{bucket}/up/dir/deep/big", "one-file"),
        ("cp", "-r", f"s3/{bucket}/up", "back"),
        ("cp", f"s3/{bucket}/up/small", f"s3/{bucket}/copy"),
        ("mv", f"s3/{bucket}/copy", f"s3/{bucket}/moved"),
        ("pipe", f"s3/{bucket}/piped"),
        ("presign", f"s3/{bucket}/moved"),
        ("rm", f"s3/{bucket}/moved"),
        ("rm", "-r", "--force", f"s3/{bucket}/up/dir/"),
        ("ls", "-r", f"s3/{bucket}"),
        ("rb", "--force", f"s3/{bucket}"),
        ("ls", "--json"),
    ]


def work(runner: CliRunner, environment: Environment, home: Path) -> list[tuple[str, int, list[str]]]:
    """Do a day's work in one directory; give every command with its code and its lines, sorted."""
    bucket = f"day-{os.getpid()}-{os.urandom(4).hex()}"
    home.mkdir()
    fill(home / "tree")
    done = []
    for argv in everyday(bucket):
        result = runner(*argv, env={**environment, **IMPATIENT}, cwd=home, stdin=b"piped content")
        # The list of buckets shows those of other tests, too.
        lines = [line for line in result.lines if bucket in line or argv[0] != "ls" or len(argv) > 2]
        done.append((argv[0], result.code, sorted(neutral(line).replace(bucket, "BUCKET") for line in lines)))
        assert 0 == result.code, (argv, result.err)
    return done


def neutral(line: str) -> str:
    """Take out of a line what differs between two runs by nature."""
    return _SECONDS.sub("S", _SIGNED.sub("U", _TIMES.sub("T", line)))


def test_day_with_two_dead_nodes_is_like_any_other(
    pools: tuple[Environment, Environment], run_cli: CliRunner, tmp_path: Path
) -> None:
    """One node refuses, one is a black hole: every command does the same and ends with 0."""
    homes = tmp_path / "healthy", tmp_path / "hurt"

    with ThreadPoolExecutor(2) as both:
        healthy, hurt = both.map(lambda pool, home: work(run_cli, pool, home), pools, homes)

    assert healthy == hurt
    assert read_tree(homes[0]) == read_tree(homes[1])
    assert {**SIZES} == {name: len(content) for name, content in read_tree(homes[1] / "back").items()}


@pytest.mark.parametrize("down", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)], ids=str)
def test_any_node_left_is_enough(fake_s3: Any, run_cli: CliRunner, down: Sequence[int]) -> None:
    """Wherever the random start falls, the command finds a node that lives."""
    fake: FakeS3 = fake_s3(3)
    fake.store.add("bucket", "key", b"content")
    for index in down:
        fake.nodes[index].kill()

    result = run_cli("cat", "s3/bucket/key", env=fake.environment)

    assert (0, b"content", b"") == (result.code, result.stdout, result.stderr)


def test_all_nodes_dead_is_said_in_one_line(fake_s3: Any, run_cli: CliRunner, tmp_path: Path) -> None:
    """Exit code 5, no traceback, nothing on stdout, nothing left on disk."""
    fake: FakeS3 = fake_s3(3)
    for node in fake.nodes:
        node.kill()

    results = [
        run_cli(*argv, env=fake.environment, cwd=tmp_path)
        for argv in (("ls",), ("stat", "s3/bucket/key"), ("-q", "cp", "s3/bucket/key", "local"))
    ]

    assert [(5, b"", 1)] * 3 == [(result.code, result.stdout, len(result.err.splitlines())) for result in results]
    assert [] == [path.name for path in tmp_path.iterdir() if path.name != "home"]


def test_nobody_listens_is_exit_code_five(run_cli: CliRunner) -> None:
    """A wrong address in the configuration is the commonest of all faults."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = run_cli(
            "ls",
            env={
                "S3_POOL": f"http://127.0.0.1:{unused.getsockname()[1]}",
                "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b",
            },
        )

    assert (5, b"", 1) == (result.code, result.stdout, len(result.err.splitlines()))


def test_black_hole_is_asked_once(fake_s3: Any, run_cli: CliRunner) -> None:
    """Its circuit says so from then on: a long listing does not wait for it on every page."""
    fake: FakeS3 = fake_s3(2)
    for number in range(40):
        fake.store.add("bucket", f"k{number:02d}")
    fake.quirks.short_pages = 1
    fake.nodes[1].black_hole()

    result = run_cli("ls", "-r", "s3/bucket", env={**fake.environment, **IMPATIENT})

    assert (0, 40) == (result.code, len(result.lines))
    assert fake.nodes[1].accepted <= 2


def test_full_queue_is_one_connect_timeout(fake_s3: Any, run_cli: CliRunner) -> None:
    """A node that does not even accept: the connect times out, the next node answers."""
    fake: FakeS3 = fake_s3(2)
    fake.store.add("bucket", "key", b"content")
    fake.nodes[0].swallow()

    results = [run_cli("cat", "s3/bucket/key", env={**fake.environment, **IMPATIENT}) for _ in range(4)]

    assert [(0, b"content")] * 4 == [(result.code, result.stdout) for result in results]


def test_stats_tell_what_happened_per_endpoint(fake_s3: Any, run_cli: CliRunner) -> None:
    """A person sees which node is ill; stdout stays clean."""
    fake: FakeS3 = fake_s3(2)
    fake.store.add("bucket", "key", b"content")
    fake.nodes[0].kill()

    results = [run_cli("--stats", "cat", "s3/bucket/key", env=fake.environment) for _ in range(6)]

    assert [(0, b"content")] * 6 == [(result.code, result.stdout) for result in results]
    assert all(fake.endpoints[1] in result.err for result in results)
    assert any(fake.endpoints[0] in result.err for result in results)

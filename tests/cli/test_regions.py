"""A storage that wants requests signed for another region than the configured one, and says which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_s3 import Answer as Refusal
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import RunningProxy, checking_fake
from tests.support.run_cli import CliRunner

REGION = "garage"
WARNING = f"s3pool: warning: the storage's region is {REGION}: signing for it; --region {REGION} spares the refusal\n"
SMALL_FILES = 40


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    """Return nodes that check signatures, and take them for one region only."""
    with checking_fake() as made:
        made.store.add("b", "there", b"0123456789")
        made.quirks.region = REGION
        yield made


@pytest.mark.parametrize("tells", ["element", "header", "message", "minio"])
@pytest.mark.parametrize("command", ["ls", "cat", "cp", "stat", "rm", "mb"])
def test_region_that_the_storage_names_is_taken(fake: FakeS3, run_here: CliRunner, tells: str, command: str) -> None:
    """The first refusal says all that is needed to go on, whether it has a body or is the answer to HEAD."""
    fake.quirks.tells_region = tells if command not in ("stat", "rm") or tells == "minio" else "header"
    (run_here.home / "file").write_bytes(b"content")
    operands = {"cp": ("file", "s3/b/new"), "ls": ("s3/b/",), "mb": ("s3/new",)}

    words = operands.get(command, ("s3/b/there",))
    result = run_here(command, *words, "--retries", "0", env=fake.environment)

    assert (0, 1) == (result.code, result.err.count(WARNING)), result.err


def test_many_requests_at_once_warn_once(fake: FakeS3, run_here: CliRunner, tmp_path: Path) -> None:
    """All that are under way are refused together."""
    (tmp_path / "tree").mkdir()
    for number in range(SMALL_FILES):
        (tmp_path / "tree" / str(number)).write_bytes(b"%d" % number)

    result = run_here("cp", "-r", str(tmp_path / "tree"), "s3/b/tree", env=fake.environment)

    assert (0, 1) == (result.code, result.err.count(WARNING)), result.err
    assert SMALL_FILES == sum(key.startswith("tree/") for key in fake.store.bucket("b").versions)


def test_region_that_was_right_is_refused_once(fake: FakeS3, run_here: CliRunner) -> None:
    """Servers name their region with other refusals too: nothing is learned from that, and nobody asks again."""
    fake.fault(Refusal(403, "AccessDenied", headers={"x-amz-bucket-region": REGION}), times=0)

    refused = run_here("ls", "s3/b/", "--region", REGION, env=fake.environment)

    assert (4, "", 1) == (refused.code, refused.out, len(refused.err.splitlines()))
    assert ["ListObjectsV2"] == fake.ops()


def test_proxy_signs_for_the_region_of_its_nodes(fake: FakeS3) -> None:
    """Its clients know nothing of the nodes' region, and sign for their own."""
    with RunningProxy(fake.endpoints) as proxy:
        answers = [
            proxy.ask("PUT", "/b/new", body=b"content"),
            proxy.ask("GET", "/b/new"),
            proxy.ask("HEAD", "/b/there"),
        ]

    assert [(200, b""), (200, b"content"), (200, b"")] == [(answer.status, answer.body) for answer in answers]
    assert 1 == [request.op for request in fake.requests].count("GetObject")

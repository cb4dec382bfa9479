from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_s3 import (
    ACCESS_KEY,
    MIB,
    SECRET_KEY,
    Call,
    CloseAfter,
    CutBody,
    CutXml,
    Die,
    DieReceiving,
    Drip,
    EmptyBody,
    FakeS3,
    Fault,
    Hang,
    NoToken,
    Reset,
    Vanish,
    error_in_200,
    internal_error,
    slow_down,
)
from tests.support.relay import Relay
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

IMPATIENT = {"POOL_CONNECT_TIMEOUT": "0.3", "LB_REQUEST_TIMEOUT": "3"}
KEYS = [f"k{number:02d}" for number in range(20)]
BIG = 5 * MIB + 777


@pytest.fixture
def fake(fake_s3: Any) -> FakeS3:
    """Give three nodes, signatures checked, twenty keys on pages of two, and a big one."""
    server: FakeS3 = fake_s3(3, secrets={ACCESS_KEY: SECRET_KEY})
    for key in KEYS:
        server.store.add("bucket", key, key.encode())
    server.store.add("other", "big", os.urandom(BIG))
    server.quirks.short_pages = 2
    return server


def body_of(fake: FakeS3) -> bytes:
    """Give the big object's content."""
    return fake.store.bodies("other")["big"]


PAGE_FAULTS = [
    pytest.param(Reset(), id="reset"),
    pytest.param(Reset(reset=False), id="closed"),
    pytest.param(Die(100), id="node dies"),
    pytest.param(CutBody(0), id="cut before the body"),
    pytest.param(CutBody(200), id="cut"),
    pytest.param(CutBody(200, reset=False), id="cut politely"),
    pytest.param(CutXml(), id="half of the XML"),
    pytest.param(EmptyBody(), id="empty"),
    pytest.param(NoToken(), id="no token"),
    pytest.param(Vanish(), id="vanished"),
    pytest.param(internal_error(), id="500"),
    pytest.param(slow_down(), id="503"),
    pytest.param(error_in_200(), id="error in 200"),
    pytest.param(CloseAfter(), id="stale connection"),
]


@pytest.mark.parametrize("fault", PAGE_FAULTS)
@pytest.mark.parametrize("page", [1, 4])
def test_listing_survives_one_bad_page(fake: FakeS3, run_cli: CliRunner, fault: Fault, page: int) -> None:
    """The page is asked for again, from another node; no key is lost and none comes twice."""
    fake.fault(fault, op="ListObjectsV2", nth=page)

    result = run_cli("ls", "-r", "s3/bucket", env={**fake.environment, **IMPATIENT})

    assert (0, b"") == (result.code, result.stderr)
    assert KEYS == [line.split()[-1] for line in result.lines]


@pytest.mark.parametrize("page", [1, 4])
def test_listing_survives_a_silent_page(fake: FakeS3, run_cli: CliRunner, page: int) -> None:
    """From a node that has not proved itself, and from one that has answered before."""
    fake.fault(Hang(), op="ListObjectsV2", nth=page)

    result = run_cli("ls", "-r", "s3/bucket", env={**fake.environment, **IMPATIENT, "LB_REQUEST_TIMEOUT": "1"})

    assert (0, b"") == (result.code, result.stderr)
    assert KEYS == [line.split()[-1] for line in result.lines]


def test_silent_body_ends_by_the_read_timeout(fake: FakeS3, run_cli: CliRunner, tmp_path: Path) -> None:
    """Silence in the middle of a body is as good as a cut: the rest comes from elsewhere."""
    fake.fault(Drip(MIB, 60.0), op="GetObject")

    result = run_cli("cp", "s3/other/big", str(tmp_path / "big"), env={**fake.environment, "LB_REQUEST_TIMEOUT": "1"})

    assert 0 == result.code, result.err
    assert body_of(fake) == (tmp_path / "big").read_bytes()


@pytest.mark.parametrize(
    "fault", [CutXml(), EmptyBody(), internal_error(), error_in_200()], ids=lambda f: type(f).__name__
)
@pytest.mark.parametrize("command", ["ls", "du", "find"])
def test_listing_that_stays_broken_fails(fake: FakeS3, run_cli: CliRunner, fault: Fault, command: str) -> None:
    """Half of a listing must never pass for the whole."""
    fake.fault(fault, op="ListObjectsV2", nth=3, times=0)
    words = {"ls": ("ls", "-r"), "du": ("du",), "find": ("find",)}[command]

    result = run_cli(*words, "s3/bucket", "--retries", "2", env={**fake.environment, **IMPATIENT})

    assert 0 != result.code
    assert 1 == len(result.err.splitlines()), result.err


def test_node_dies_in_the_middle_of_a_download(fake: FakeS3, run_cli: CliRunner, tmp_path: Path) -> None:
    """The rest comes from another node, and the file is whole."""
    fake.fault(Die(2 * MIB), op="GetObject")

    result = run_cli("cp", "s3/other/big", str(tmp_path / "big"), env=fake.environment)

    assert 0 == result.code, result.err
    assert body_of(fake) == (tmp_path / "big").read_bytes()
    assert ["big", "home"] == sorted(path.name for path in tmp_path.iterdir())


def test_node_dies_in_the_middle_of_cat(fake: FakeS3, run_cli: CliRunner) -> None:
    """What was written cannot be taken back: it goes on at that very byte."""
    fake.fault(Die(2 * MIB), op="GetObject")

    result = run_cli("cat", "s3/other/big", env=fake.environment)

    assert 0 == result.code, result.err
    assert body_of(fake) == result.stdout


def test_cat_does_not_mix_two_versions(fake: FakeS3, run_cli: CliRunner) -> None:
    """An object that is replaced while it is read ends the command, not in a mixture."""
    before = body_of(fake)
    fake.fault(CutBody(2 * MIB), op="GetObject")
    fake.fault(Call(lambda _: fake.store.add("other", "big", bytes(BIG))), op="GetObject", nth=2)

    result = run_cli("cat", "s3/other/big", env=fake.environment)

    assert 0 != result.code
    assert before.startswith(result.stdout)


def test_node_dies_in_the_middle_of_an_upload(fake: FakeS3, run_cli: CliRunner, tmp_path: Path) -> None:
    """The body is rewound and sent to another node."""
    content = os.urandom(BIG)
    (tmp_path / "big").write_bytes(content)
    fake.fault(DieReceiving(MIB), op="PutObject")

    result = run_cli("cp", str(tmp_path / "big"), "s3/other/sent", env=fake.environment)

    assert 0 == result.code, result.err
    assert content == fake.store.bodies("other")["sent"]
    assert 2 == len(fake.ops(op="PutObject"))


@pytest.mark.parametrize("fault", [Vanish(), internal_error(acted=True)], ids=["vanished", "500"])
def test_upload_with_a_lost_answer_is_sent_again(
    fake: FakeS3, run_cli: CliRunner, tmp_path: Path, fault: Fault
) -> None:
    """The same bytes under the same key: acting twice does no harm."""
    (tmp_path / "small").write_bytes(b"content")
    fake.fault(fault, op="PutObject")

    result = run_cli("cp", str(tmp_path / "small"), "s3/other/sent", env=fake.environment)

    assert 0 == result.code, result.err
    assert b"content" == fake.store.bodies("other")["sent"]


def test_nodes_die_one_after_the_other(fake: FakeS3, run_cli: CliRunner, tmp_path: Path) -> None:
    """The last one does the work."""
    for node, nth in ((0, 1), (1, 2)):
        fake.fault(Die(1), op="GetObject", endpoint=node, nth=nth)

    result = run_cli("cp", "-r", "s3/bucket", str(tmp_path / "down"), env={**fake.environment, **IMPATIENT})

    assert 0 == result.code, result.err
    assert {key: key.encode() for key in KEYS} == {
        path.name: path.read_bytes() for path in (tmp_path / "down").iterdir()
    }
    assert 1 == sum(node.listening for node in fake.nodes)


def test_removal_goes_on_without_a_node(fake: FakeS3, run_cli: CliRunner) -> None:
    """Deleting twice is deleting once."""
    fake.fault(Vanish(), op="DeleteObjects")
    fake.fault(Die(50), op="ListObjectsV2", nth=3)

    result = run_cli("rm", "-r", "--force", "s3/bucket", env={**fake.environment, **IMPATIENT})

    assert 0 == result.code, result.err
    assert {} == fake.store.bodies("bucket")


def test_throttled_pool_is_waited_for(fake: FakeS3, run_cli: CliRunner) -> None:
    """503 SlowDown is load, not illness: the request goes elsewhere, and comes through."""
    fake.fault(slow_down(), op="HeadObject", times=2)

    result = run_cli("stat", "s3/bucket/k00", env=fake.environment)

    assert 0 == result.code, result.err
    assert 3 == len(fake.ops(op="HeadObject"))
    assert 3 == len({request.endpoint for request in fake.requests if request.op == "HeadObject"})


def test_skewed_clock_is_learned(fake: FakeS3, run_cli: CliRunner) -> None:
    """The servers' time signs, one warning says so, the command is done."""
    fake.quirks.max_skew_s = 900
    for node in fake.nodes:
        node.clock_offset_s = 3600

    result = run_cli("ls", "-r", "s3/bucket", env=fake.environment)

    assert (0, len(KEYS)) == (result.code, len(result.lines))
    assert 1 == len(result.err.splitlines())
    assert "clock" in result.err
    assert 1 == sum(request.status == 403 for request in fake.requests)


@pytest.mark.live
def test_real_download_is_cut_again_and_again(
    rgw: RgwCluster, run_cli: CliRunner, tmp_path: Path, bucket_name: str
) -> None:
    """Three of four connections to a real gateway die within the body; the file is whole."""
    content = os.urandom(BIG)
    (tmp_path / "big").write_bytes(content)
    relays = [Relay(url) for url in rgw.endpoints]
    environment = {**rgw.environment, "S3_POOL": ",".join(relay.url for relay in relays)}
    run_cli("mb", f"s3/{bucket_name}", env=environment)
    sent = run_cli("cp", str(tmp_path / "big"), f"s3/{bucket_name}/big", env=environment)
    for relay in relays[:3]:
        relay.cut_after(MIB)

    result = run_cli("cp", f"s3/{bucket_name}/big", str(tmp_path / "down"), env=environment)
    removed = run_cli("rb", "--force", f"s3/{bucket_name}", env=rgw.environment)
    for relay in relays:
        relay.stop()

    assert (0, 0, 0) == (sent.code, result.code, removed.code), result.err
    assert content == (tmp_path / "down").read_bytes()

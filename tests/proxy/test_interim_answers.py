"""Servers say 1xx, and more than once, before they answer: nothing ends early, and nothing waits."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.fake_s3 import Drop, Exchange, FakeS3, Interim, Reply
from tests.support.proxying import RunningProxy, arrived, parse_answer, stored
from tests.support.run_cli import CliRunner

CONTENT = os.urandom(6 << 20)  # more than the sockets between them hold
CONTINUE = b"HTTP/1.1 100 CONTINUE\r\n\r\n"
PROCESSING = b"HTTP/1.1 102 Processing\r\nX-A: b\r\n\r\n"
HEADS = [(CONTINUE, CONTINUE), (PROCESSING, CONTINUE, PROCESSING), (CONTINUE,) * 12]
SOON_S = 20.0  # much less than the timeouts of the commands and servers here


@pytest.mark.parametrize("heads", HEADS, ids=["twice", "others", "many"])
@pytest.mark.parametrize("size", [1000, len(CONTENT)])
def test_upload_of_a_file_goes_through(
    fake: FakeS3, run_cli: CliRunner, tmp_path: Path, heads: tuple[bytes, ...], size: int
) -> None:
    """From a file, while the kernel sends it."""
    (tmp_path / "f").write_bytes(CONTENT[:size])
    fake.fault(Interim(heads), op="PutObject", times=0)
    started = time.monotonic()

    result = run_cli("cp", str(tmp_path / "f"), "s3/b/new", env=fake.environment)

    assert (0, CONTENT[:size]) == (result.code, stored(fake, "b", "new"))
    assert 1 == arrived(fake).count("PutObject")
    assert time.monotonic() - started < SOON_S


@pytest.mark.parametrize("heads", HEADS, ids=["twice", "others", "many"])
def test_upload_from_a_pipe_goes_through(fake: FakeS3, run_cli: CliRunner, heads: tuple[bytes, ...]) -> None:
    """From memory."""
    fake.fault(Interim(heads), op="PutObject", times=0)

    result = run_cli("pipe", "s3/b/new", env=fake.environment, stdin=CONTENT[: 3 << 20])

    assert (0, CONTENT[: 3 << 20]) == (result.code, stored(fake, "b", "new"))
    assert 1 == arrived(fake).count("PutObject")


@pytest.mark.parametrize("heads", HEADS, ids=["twice", "others", "many"])
@pytest.mark.parametrize("auth", ["verify", "passthrough"])
@pytest.mark.parametrize("expect", [{}, {"Expect": "100-continue"}])
@pytest.mark.parametrize("keeps", [0, 16 << 20])
def test_proxied_upload_goes_through(
    fake: FakeS3, heads: tuple[bytes, ...], auth: str, expect: dict[str, str], keeps: int
) -> None:
    """Kept, copied or moved by the kernel; asked for or not."""
    fake.secrets.clear()
    fake.fault(Interim(heads), op="PutObject", times=0)
    with RunningProxy(fake.endpoints, auth=auth, replay_buffer=keeps) as proxy:
        request = proxy.signed("PUT", "/b/new", body=CONTENT, headers=expect, payload="UNSIGNED-PAYLOAD", close=True)

        answer = parse_answer(proxy.talk(request))

        assert (200, CONTENT) == (answer.status, stored(fake, "b", "new"))
        assert 1 == arrived(fake).count("PutObject")


def test_connection_that_ends_after_an_interim_answer_is_no_stale_one(fake: FakeS3) -> None:
    """The node had the request: it is not sent again without a thought."""
    with RunningProxy(fake.endpoints[:1], replay_buffer=0) as proxy:
        proxy.ask("GET", "/b/there")
        proxy.ask("GET", "/b/there")  # the connection is a kept one
        fake.forget()
        fake.fault(_Deaf(), op="CreateMultipartUpload", times=0)

        answer = proxy.ask("POST", "/b/new?uploads")

        assert (502, 1) == (answer.status, arrived(fake).count("CreateMultipartUpload"))


class _Deaf(Interim):
    """Ends after one interim answer."""

    def receive(self, exchange: Exchange) -> Reply | None:
        """Say it, and go."""
        exchange.say(CONTINUE)
        raise Drop(reset=False)

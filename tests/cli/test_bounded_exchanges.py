"""A node that never comes to an end: every command says so, in seconds."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from tests.proxy.test_strangers import TURNS, trickle
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY
from tests.support.run_cli import CliResult, CliRunner
from tests.support.scripted import ScriptedServer

FLAGS = ("--read-timeout", "0.5", "--retries", "0")
NO_ENDPOINT = 5


def run(run_here: CliRunner, node: ScriptedServer, *words: str) -> CliResult:
    """Run a command on one node, without a second try."""
    env = {"S3_POOL": str(node.endpoint), "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    return run_here(*words, *FLAGS, env=env)


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_listing_of_an_endless_answer_ends(run_here: CliRunner, turn: Callable[[socket.socket], None]) -> None:
    """Bytes that keep coming are no sign of life."""
    with ScriptedServer([turn]) as node:
        result = run(run_here, node, "ls", "s3/b")

    assert (True, "") == (result.code in (1, NO_ENDPOINT), result.out)
    assert 1 == len([line for line in result.err.splitlines() if "error" in line])


def test_object_that_trickles_in_ends(run_here: CliRunner) -> None:
    """It would have taken weeks."""
    turn = trickle(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 9000000\r\n\r\n')
    with ScriptedServer([turn]) as node:
        result = run(run_here, node, "cat", "s3/b/k")

    assert result.code in (1, NO_ENDPOINT)
    assert len(result.stdout) < 1000


def page(token: str) -> bytes:
    """Return an answer of ListBuckets with a token that leads on."""
    body = (
        "<ListAllMyBucketsResult><Buckets><Bucket><Name>b</Name><CreationDate>2026-01-01T00:00:00.000Z</CreationDate>"
        f"</Bucket></Buckets><ContinuationToken>{token}</ContinuationToken></ListAllMyBucketsResult>"
    )
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_buckets_that_come_again_for_ever_end(run_here: CliRunner) -> None:
    """Two tokens that lead to each other were followed for ever."""
    with ScriptedServer([page("one"), page("two")] * 500) as node:
        result = run(run_here, node, "ls", "s3")

    assert (1, 3) == (result.code, len(node.requests))
    assert "the server stopped advancing while it listed buckets" in result.err

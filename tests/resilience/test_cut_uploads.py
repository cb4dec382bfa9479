"""Uploads that end early. versitygw stores the half of a body behind which a connection ends in good order."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.support.listening import close_listener, serve_each
from tests.support.proxying import RunningProxy
from tests.support.run_cli import CliRunner

MIB = 1 << 20
SIZE = 32 * MIB  # more than the kernel keeps between two sockets
WAIT_S = 30.0
EMPTY_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class CutNode:
    """A node that reads a mebibyte of a body, and the rest when it may; ``ends`` tells how each body ended."""

    def __init__(self) -> None:
        self.has_begun, self.may_read = threading.Event(), threading.Event()
        self.ends: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        serve_each(self._listener, self._serve)

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            received = b""
            while block := sock.recv(65536):
                received += block
                if received.startswith(b"PUT /b/"):
                    self.ends.put(self._read_on(sock, len(received)))
                    return
                if b"\r\n\r\n" in received:
                    sock.sendall(EMPTY_ANSWER)
                    received = b""

    def _read_on(self, sock: socket.socket, count: int) -> str:
        try:
            while block := sock.recv(65536):
                count += len(block)
                if count >= MIB and not self.has_begun.is_set():
                    self.has_begun.set()
                    self.may_read.wait(WAIT_S)
        except ConnectionResetError:
            return "reset"
        return "in order"

    def close(self) -> None:
        """End it."""
        self.may_read.set()
        close_listener(self._listener)


@pytest.fixture
def node() -> Iterator[CutNode]:
    """Give a node."""
    started = CutNode()
    yield started
    started.close()


def test_the_node_of_a_client_that_is_gone_is_reset(node: CutNode) -> None:
    """Else a client that dies in the middle of a PUT replaces its object by the half of it."""
    with RunningProxy([node.url], read_timeout_s=WAIT_S, probe="tcp") as proxy:
        with proxy.connect() as client:
            head = proxy.signed("PUT", "/b/large", payload="UNSIGNED-PAYLOAD")
            client.sendall(head.replace(b"content-length: 0", b"content-length: %d" % SIZE))
            client.sendall(bytes(2 * MIB))
            assert node.has_begun.wait(WAIT_S)
        node.may_read.set()

        assert "reset" == node.ends.get(timeout=WAIT_S)


def test_the_node_of_a_killed_command_is_reset(run_cli: CliRunner, node: CutNode) -> None:
    """The kernel ends the connections of a process that is killed: in good order, if nothing else was asked for."""
    with start_upload(run_cli, node) as child:
        assert node.has_begun.wait(WAIT_S)
        child.kill()
        node.may_read.set()

        assert "reset" == node.ends.get(timeout=WAIT_S)


def test_the_node_of_a_file_that_shrank_is_reset(run_cli: CliRunner, node: CutNode) -> None:
    """There is nothing more to send; what was sent is no object."""
    with start_upload(run_cli, node) as child:
        assert node.has_begun.wait(WAIT_S)
        os.truncate(run_cli.home / "file", 0)
        node.may_read.set()

        assert "reset" == node.ends.get(timeout=WAIT_S)
        child.kill()


def start_upload(run_cli: CliRunner, node: CutNode) -> subprocess.Popen[bytes]:
    """Start the upload of one file in one request."""
    (run_cli.home / "file").write_bytes(bytes(SIZE))
    env = {"S3_POOL": node.url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    return run_cli.start("cp", "file", "s3/b/large", "--part-size", "32M", "--retries", "0", env=env)

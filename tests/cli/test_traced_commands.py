"""Traces of commands: a span for each, with its requests and their tries; nothing where they are off."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import Answer, FakeS3
from tests.support.run_cli import CliResult

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from tests.support.collector import PARENT, TOLD, TRACE, Collector, collector

__all__ = ["collector"]  # a fixture

INTERNAL = 1
Call = Callable[..., CliResult]


def test_command_is_a_span_with_its_requests(
    call: Call, fake: FakeS3, collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one thread and from many, within the trace of whoever started the command; tries are below requests."""
    monkeypatch.setenv("TRACEPARENT", TOLD["traceparent"])
    (tmp_path / "tree").mkdir()
    for number in range(5):
        (tmp_path / "tree" / str(number)).write_text("content")
    fake.store.add("b", "x")
    fake.fault(Answer(500, "InternalError"), op="PutObject")

    result = call("cp", "-r", "tree", "s3/b/t", "--tracing")

    assert 0 == result.code, result.err
    (root,) = [span for span in collector.spans if span.kind == INTERNAL]
    assert ("s3pool cp", TRACE, PARENT) == (root.name, root.trace, root.parent)
    puts = [span for span in collector.tries_of(root) if span.name == "PutObject"]
    assert [f"t/{number}" for number in range(5)] == sorted(str(span.values["aws.s3.key"]) for span in puts)
    assert {200} == {span.values["http.response.status_code"] for span in puts}
    assert 6 == sum(len(collector.tries_of(span)) for span in puts)
    assert "s3pool" == collector.resources[0]["service.name"]


def test_missing_collector_changes_no_result(call: Call, fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ends soon, with the same output; the traces are lost."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    fake.store.add("b", "x")
    plain, started = call("ls", "s3/b"), time.monotonic()

    traced = call("ls", "s3/b", "--tracing")

    assert (plain.code, plain.stdout) == (traced.code, traced.stdout)
    assert time.monotonic() - started < 20


def test_missing_extra_is_one_line(call: Call, fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names what to install, before anything is sent."""
    monkeypatch.delitem(sys.modules, "s3pool.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    result = call("ls", "s3/b", "--tracing")

    assert (2, 1, []) == (result.code, result.err.count("\n"), fake.ops())
    assert "pip install 's3pool[otel]'" in result.err


def test_nothing_is_loaded_where_tracing_is_off(fake: FakeS3) -> None:
    """Neither by a command nor by the proxy, though the environment names a collector."""
    fake.store.add("b", "x")
    program = (
        "import sys; from s3pool.cli.main import main; import s3pool.proxy.run\n"
        f"code = main(['ls', 's3/b', '--endpoints', '{fake.endpoints[0]}', '--no-sign-request'])\n"
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))"
    )
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "PATH": "/usr/bin"}

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ, check=True)

    assert "[]" == done.stdout.splitlines()[-1]

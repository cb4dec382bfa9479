"""s3pool ping: a table; with --watch a live one on a terminal, a line a round elsewhere; and the clock."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import FakeS3
from tests.support.run_cli import CliRunner

WAIT_S = 60.0
STAMP = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\]"
LATENCY = r"\d+\.\dms"


def test_ping_shows_a_line_per_node(fake: FakeS3, call: Call) -> None:
    """In the order of the configuration; a dead one does not make it fail."""
    fake.nodes[1].kill()

    result = call("ping")

    header, first, second = result.lines
    assert ["node", "state", "keys", "latency", "TLS", "clock", "server", "error"] == header.split()
    assert [fake.endpoints[0], "up", "ok"] == first.split()[:3]
    assert [fake.endpoints[1], "down", *"-----", "connection", "refused"] == second.split()
    assert 0 == result.code


def test_ping_json(fake: FakeS3, call: Call) -> None:
    """Null where nothing was learned."""
    fake.nodes[1].kill()

    alive, dead = call("ping", "--json").records

    assert ("endpoint", fake.endpoints[0], True, "") == tuple(alive[k] for k in ("type", "url", "healthy", "error"))
    assert alive["latency_ms"] > 0
    assert (False, None, None) == (dead["healthy"], dead["latency_ms"], dead["status"])


def test_ping_without_any_node_is_exit_5(fake: FakeS3, call: Call) -> None:
    """The code for a cluster that is gone."""
    for node in fake.nodes:
        node.kill()

    assert 5 == call("ping").code


def test_ping_silent_node_is_down(fake: FakeS3, call: Call) -> None:
    """A port that accepts and says nothing, judged within the connect timeout."""
    fake.nodes[0].black_hole()

    states = [line.split()[1] for line in call("ping", "--connect-timeout", "0.3").lines[1:]]

    assert ["down", "up"] == states


def test_ping_counts_rounds(call: Call) -> None:
    """So many tables, with a gap between."""
    result = call("ping", "--count", "2", "--interval", "0s")

    assert 2 == sum(line.startswith("node") for line in result.lines)
    assert 2 == len(call("ping", "--count", "1", "--json").records)


def test_watch_in_a_pipe_is_a_line_a_round(fake: FakeS3, call: Call) -> None:
    """For logs: who is up, how fast, in the order of the configuration."""
    first, second = fake.endpoints
    fake.nodes[1].kill()

    result = call("ping", "--watch", "--count", "2", "--interval", "0s")

    line = rf"{STAMP} 1 of 2 up: {re.escape(first)} {LATENCY}, {re.escape(second)} down"
    assert 2 == len(result.lines)
    assert all(re.fullmatch(line, found) for found in result.lines)
    assert 0 == result.code


def test_watch_in_json_is_a_record_a_node(fake: FakeS3, call: Call) -> None:
    """As without --watch."""
    records = call("ping", "--json", "--watch", "--count", "2", "--interval", "0s").records

    assert [*fake.endpoints, *fake.endpoints] == [record["url"] for record in records]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_ends_a_watch(fake: FakeS3, run_cli: CliRunner, number: signal.Signals, code: int, word: str) -> None:
    """That is how it is meant to end."""
    process = run_cli.start("ping", "--watch", "--interval", "60s", env=fake.environment)
    assert process.stdout is not None
    first = process.stdout.readline()

    process.send_signal(number)
    rest, error = process.communicate(timeout=WAIT_S)

    assert b" 2 of 2 up: " in first
    assert (code, b"", f"s3pool: {word}\n".encode()) == (process.returncode, rest, error)


class Terminal:
    """A terminal of 80 columns with a command on it."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, cwd=cwd)
        os.close(slave)
        self.text = ""

    def read_until(self, word: str, *, times: int = 1) -> None:
        """Gather what is shown until a word stood there so many times, or the command ended."""
        deadline = time.monotonic() + WAIT_S
        while self.text.count(word) < times and time.monotonic() < deadline:
            if not select.select([self._master], [], [], 1.0)[0]:
                continue
            try:
                self.text += os.read(self._master, 1 << 16).decode()
            except OSError:
                return

    def close(self) -> None:
        """End the command and the terminal."""
        self.process.kill()
        self.process.wait(WAIT_S)
        os.close(self._master)


def test_watch_on_a_terminal_redraws_its_table(fake: FakeS3, run_cli: CliRunner) -> None:
    """In its place, a dead node in red and cut to the width; Ctrl-C leaves the last one and the cursor."""
    fake.nodes[1].kill()
    env = run_cli.full_environ({**fake.environment, "TERM": "xterm-256color", "COLUMNS": "60"})
    terminal = Terminal(run_cli.command("ping", "--watch", "--interval", "0.05"), env, str(run_cli.home))
    try:
        terminal.read_until("down", times=3)
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until("interrupted\r\n")
        code = terminal.process.wait(WAIT_S)
    finally:
        terminal.close()

    assert 130 == code
    first, second = fake.endpoints
    assert re.search(rf"\x1b\[32m{re.escape(first)}  up ", terminal.text)
    assert re.search(rf"\x1b\[31m{re.escape(second)}  down .*…\x1b\[0m", terminal.text)
    assert "\x1b[1A" in terminal.text
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
    assert terminal.text.endswith("s3pool: interrupted\r\n")


def test_watch_on_a_dumb_terminal_writes_lines(fake: FakeS3, run_cli: CliRunner) -> None:
    """It cannot go back."""
    env = run_cli.full_environ({**fake.environment, "TERM": "dumb"})
    command = run_cli.command("ping", "--watch", "--count", "2", "--interval", "0")
    terminal = Terminal(command, env, str(run_cli.home))
    try:
        terminal.read_until(" 2 of 2 up: ", times=2)
    finally:
        terminal.close()

    assert 2 == terminal.text.count(" 2 of 2 up: ")
    assert "\x1b" not in terminal.text


@pytest.mark.parametrize(("offset_s", "expected"), [(0.0, "0s"), (90.0, "+90s"), (-3600.0, "-3600s")])
def test_clock_is_compared(fake: FakeS3, call: Call, offset_s: float, expected: str) -> None:
    """The header that tells the time knows whole seconds only: a fraction is no difference."""
    fake.nodes[0].clock_offset_s = offset_s

    clock = call("ping").lines[1].split()[5]

    assert expected == clock if not offset_s else abs(int(clock[:-1]) - offset_s) <= 1

"""Where words go, and in what shape."""

from __future__ import annotations

import errno
import io
import json

import pytest

from s3pool.cli.output import Output, StdoutError, combined, escape
from s3pool.errors import AccessDeniedError, ConnectError, UsageError


class Broken(io.BytesIO):
    """A stream that cannot be written."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, block: object) -> int:
        """Fail as the system would."""
        raise OSError(self._number, "broken")


class Terminal(io.BytesIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def output(**settings: object) -> tuple[Output, io.BytesIO, io.StringIO]:
    """Give an output on memory."""
    out, err = io.BytesIO(), io.StringIO()
    return Output(stdout=out, stderr=err, **settings), out, err  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é ☃ \U0001f600", "plain é ☃ \U0001f600"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x00\x1b\x7f\x9b", "\\x00\\x1b\\x7f\\x9b"),
        ("\u2028", "\\u2028"),
        ("caf\udce9", "caf\\xe9"),
        ("exe.\u202egpj", "exe.\\u202egpj"),
        ("\ufeffk", "\\ufeffk"),
        ("\ud800", "\\ud800"),
        ("back\\slash", "back\\slash"),
        ("no\u00a0break", "no\u00a0break"),
    ],
)
def test_escape(text: str, expected: str) -> None:
    """What could end a line or steer a terminal becomes visible; the rest stays."""
    assert expected == escape(text)


@pytest.mark.parametrize("text", ["plain", 'q"\\', "é☃", "a\nb\x00", "\x7f\x85", "caf\udce9", "\ud800", "\u2028"])
def test_json_lines_are_one_line_of_utf8_that_gives_the_text_back(text: str) -> None:
    """Whatever a key holds."""
    out, stdout, _ = output()

    out.record({"key": text})
    out.flush()

    line = stdout.getvalue()
    assert (1, {"key": text}) == (len(line.splitlines()), json.loads(line.decode("utf-8")))
    assert not any(byte in line for byte in (b"\x7f", b"\x00", b"\x1b"))


def test_readable_characters_stay_readable_in_json() -> None:
    """Only what could do harm is escaped."""
    out, stdout, _ = output()

    out.record({"key": "é☃"})
    out.flush()

    assert '{"key":"é☃"}\n' == stdout.getvalue().decode()


def test_lines_are_gathered_until_flushed() -> None:
    """A write for each line would cost more than the listing."""
    out, stdout, _ = output()

    out.line("one")
    before = stdout.getvalue()
    out.lines(["two", "three"])

    assert (b"", b"one\ntwo\nthree\n") == (before, stdout.getvalue())


def test_terminal_sees_each_line_at_once() -> None:
    """Somebody is waiting."""
    stdout = Terminal()
    out = Output(stdout=stdout, stderr=io.StringIO())

    out.line("one")

    assert b"one\n" == stdout.getvalue()


def test_raw_bytes_keep_their_place() -> None:
    """Behind the lines before them."""
    out, stdout, _ = output()

    out.line("first")
    out.raw(b"\x00\xff")
    out.flush()

    assert b"first\n\x00\xff" == stdout.getvalue()


@pytest.mark.parametrize(("number", "is_pipe"), [(errno.EPIPE, True), (errno.ENOSPC, False), (errno.EIO, False)])
def test_lost_stdout_has_an_error_of_its_own(number: int, is_pipe: bool) -> None:
    """It must not pass for the failure of one object."""
    out = Output(stdout=Broken(number), stderr=io.StringIO())

    with pytest.raises(StdoutError) as caught:
        out.lines(["x"])

    assert is_pipe == caught.value.broken_pipe


def test_errors_come_after_the_results_before_them() -> None:
    """The order on a terminal is part of the message."""
    out, stdout, stderr = output()

    out.line("result")
    out.error(UsageError("no"))

    assert (b"result\n", "s3pool: error: no\n") == (stdout.getvalue(), stderr.getvalue())


def test_a_summary_comes_after_the_results_it_sums_up() -> None:
    """With 2>&1 a log reads from top to bottom."""
    out, stdout, stderr = output()

    out.line("result")
    out.note("1 copied")

    assert (b"result\n", "1 copied\n") == (stdout.getvalue(), stderr.getvalue())


def test_error_record() -> None:
    """All fields, null only for a missing status."""
    out, _, stderr = output(json=True, op="ls")

    out.error(AccessDeniedError(403, "AccessDenied", resource="s3/b/k", endpoint="http://n:1", op="GetObject"))
    out.error(ConnectError("refused", endpoint="http://n:1"), source="a", target="b", op="cp")

    first, second = map(json.loads, stderr.getvalue().splitlines())
    assert {
        "type": "error",
        "op": "ls",
        "source": "s3/b/k",
        "target": "",
        "code": "AccessDenied",
        "message": "GetObject s3/b/k at http://n:1: 403 AccessDenied; check the keys and their policy",
        "endpoint": "http://n:1",
        "status": 403,
    } == first
    assert ("cp", "a", "b", "Connect", None) == tuple(second[k] for k in ("op", "source", "target", "code", "status"))


def test_messages_cannot_forge_lines() -> None:
    """A server's text or a key in it is escaped."""
    out, _, stderr = output()

    out.error(UsageError("a\nb\x1b"))

    assert "s3pool: error: a\\nb\\x1b\n" == stderr.getvalue()


def test_quiet_drops_acts_notes_and_warnings() -> None:
    """Errors stay, and so do results."""
    out, stdout, stderr = output(quiet=True)

    out.act("Deleted: x", {})
    out.note("note")
    out.warn("warning")
    out.error(UsageError("no"))
    out.result("result", {})
    out.flush()

    assert (b"result\n", "s3pool: error: no\n") == (stdout.getvalue(), stderr.getvalue())


def test_dry_run_marks_acts() -> None:
    """In text and in JSON."""
    text, stdout, _ = output(dry_run=True)
    records, json_stdout, _ = output(dry_run=True, json=True)

    for out in (text, records):
        out.act("Deleted: x", {"type": "delete"})
        out.flush()

    assert b"(dry run) Deleted: x\n" == stdout.getvalue()
    assert {"type": "delete", "dry_run": True} == json.loads(json_stdout.getvalue())


def test_closed_stderr_is_no_error() -> None:
    """Nobody can be told that nobody can be told."""
    stderr = io.StringIO()
    stderr.close()
    stdout = io.BytesIO()
    out = Output(stdout=stdout, stderr=stderr)

    out.line("result")
    out.warn("x")
    out.error(UsageError("y"))

    assert b"result\n" == stdout.getvalue()


@pytest.mark.parametrize(
    ("color", "environ", "painted"),
    [("always", {}, True), ("never", {}, False), ("auto", {}, True), ("auto", {"NO_COLOR": "1"}, False)],
)
def test_colours_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, color: str, environ: dict[str, str], painted: bool
) -> None:
    """NO_COLOR counts where no flag spoke."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    out = Output(stdout=Terminal(), stderr=io.StringIO(), color=color)

    assert painted == ("\x1b" in out.paint("x", "good"))


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 3], 3),
        ([3, 3], 3),
        ([3, 4], 1),
        ([6, 0], 6),
        ([6, 3], 3),
        ([6, 3, 4], 1),
        ([1, 3], 1),
    ],
)
def test_many_operands_give_one_code(codes: list[int], expected: int) -> None:
    """The one that all failures share; a skip counts less than a failure."""
    assert expected == combined(codes)

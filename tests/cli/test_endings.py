"""How a command ends: signals, closed and full outputs, errors of every kind."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, FakeS3, Hang
from tests.support.fake_s3 import Call as CallHook
from tests.support.run_cli import CliRunner

WAIT_S = 60.0
KEYS = 3000  # more lines than a pipe holds


@pytest.fixture
def filled(fake: FakeS3) -> FakeS3:
    """Give a fake with several pages of keys."""
    for number in range(KEYS):
        fake.store.add("b", f"key-{number:06}")
    return fake


def full_device() -> IO[bytes]:
    """Open what is always full."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    return open("/dev/full", "wb")


# -- outputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [["-r"], ["-r", "--json"], ["-r", "-0"]])
def test_broken_pipe_ends_quietly(filled: FakeS3, run_cli: CliRunner, flags: list[str]) -> None:
    """As in `s3pool ls | head`: no word, and the shell's own code."""
    with run_cli.start("ls", *flags, "s3/b", env=filled.environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()

        error = process.stderr.read()
        code = process.wait(WAIT_S)

    assert (141, b"") == (code, error)


@pytest.mark.parametrize("argv", [["ls", "-r", "s3/b"], ["--help"], ["--version"], ["cat", "s3/b/key-000000"]])
def test_full_disk_is_one_line(filled: FakeS3, run_cli: CliRunner, argv: list[str]) -> None:
    """Results that were lost must not look like success; help is written the same way."""
    filled.store.add("b", "key-000000", b"content")
    with full_device() as full:
        process = run_cli.start(*argv, env=filled.environment, stdout=full)
        _, error = process.communicate(timeout=WAIT_S)

    assert 1 == process.returncode
    advice = "make room (df -h shows what is left), or write elsewhere"
    assert f"s3pool: error: cannot write to standard output: {os.strerror(errno.ENOSPC)}; {advice}\n" == error.decode()


def test_closed_stdout_is_one_line(filled: FakeS3, run_cli: CliRunner) -> None:
    """As with `>&-`: and no socket may take the place of the stream."""
    command = run_cli.command("ls", "s3/b")
    process = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command],
        env=run_cli.full_environ(filled.environment),
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )

    assert 1 == process.returncode
    assert f"s3pool: error: cannot write to standard output: {os.strerror(errno.EBADF)}\n" == process.stderr.decode()


def test_closed_stderr_still_gives_the_code(fake: FakeS3, run_cli: CliRunner) -> None:
    """Nobody can be told, but the code speaks; nothing leaks to the storage's sockets."""
    command = run_cli.command("ls", "s3/none")
    process = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&- <&-', "sh", *command],
        env=run_cli.full_environ(fake.environment),
        stdout=subprocess.PIPE,
        timeout=WAIT_S,
        check=False,
    )

    assert (3, b"") == (process.returncode, process.stdout)
    assert {"ListObjectsV2"} == set(fake.ops(op="ListObjectsV2"))


def test_closed_stdin_is_one_line(fake: FakeS3, run_cli: CliRunner) -> None:
    """Nothing to read is not the same as nothing in it."""
    fake.store.add("b", "other")
    process = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *run_cli.command("pipe", "s3/b/k")],
        env=run_cli.full_environ(fake.environment),
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )

    assert (1, b"") == (process.returncode, process.stdout)
    assert b"s3pool: error: cannot read standard input: it is closed\n" == process.stderr
    assert ["other"] == list(fake.store.bodies("b"))


# -- signals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, b"interrupted"), (signal.SIGTERM, 143, b"terminated"), (signal.SIGHUP, 129, b"terminated")],
)
def test_signal_ends_with_one_line(
    fake: FakeS3, run_cli: CliRunner, number: signal.Signals, code: int, word: bytes
) -> None:
    """While it waits for a node that never answers."""
    fake.store.add("b", "k")
    arrived = threading.Event()
    fake.fault(CallHook(lambda _: arrived.set()), op="ListObjectsV2", times=0)
    fake.fault(Hang(), op="ListObjectsV2", times=0)
    process = run_cli.start("ls", "s3/b", env=fake.environment)
    assert arrived.wait(WAIT_S)

    process.send_signal(number)
    out, error = process.communicate(timeout=WAIT_S)

    assert (code, b"", b"s3pool: " + word + b"\n") == (process.returncode, out, error)


def test_results_before_a_signal_are_written(fake: FakeS3, run_cli: CliRunner) -> None:
    """What was listed was listed; the third page is asked for while the second one is worked on."""
    for number in range(2500):
        fake.store.add("b", f"{number:04}")
    arrived = threading.Event()
    fake.fault(CallHook(lambda _: arrived.set()), op="ListObjectsV2", nth=3, times=0)
    fake.fault(Hang(), op="ListObjectsV2", nth=3, times=0)
    process = run_cli.start("ls", "-r", "s3/b", env=fake.environment)
    assert arrived.wait(WAIT_S)

    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=WAIT_S)

    assert 1000 <= out.count(b"\n") <= 2000


def test_ignored_sigterm_stays_ignored(fake: FakeS3, run_cli: CliRunner) -> None:
    """A parent that ignores a signal for its children means it."""
    fake.store.add("b", "k")
    arrived, go_on = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        arrived.set()
        go_on.wait(WAIT_S)

    fake.fault(CallHook(hold), op="ListObjectsV2")
    process = run_cli.start(
        "ls", "s3/b", env=fake.environment, preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)
    )
    assert arrived.wait(WAIT_S)

    process.send_signal(signal.SIGTERM)
    go_on.set()
    out, _ = process.communicate(timeout=WAIT_S)

    assert 0 == process.returncode
    assert out.endswith(b" k\n")


# -- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchBucket", 3),
        (403, "AccessDenied", 4),
        (403, "InvalidAccessKeyId", 4),
        (403, "SignatureDoesNotMatch", 4),
        (400, "InvalidBucketName", 1),
        (409, "BucketNotEmpty", 1),
    ],
)
def test_storage_errors_have_their_codes(fake: FakeS3, call: Call, status: int, code: str, expected: int) -> None:
    """One line with status, code and where."""
    fake.fault(Answer(status, code, "why"), op="ListObjectsV2", times=0)

    result = call("ls", "s3/b")

    assert expected == result.code
    assert 1 == result.err.count("\n")
    assert f": {status} {code}: why" in result.err


def test_error_in_json(fake: FakeS3, call: Call) -> None:
    """The fields that cli users rely on, on stderr."""
    result = call("stat", "--json", "s3/none/k")

    record = json.loads(result.err)
    assert ("error", "stat", "s3/none/k", "", 404) == tuple(
        record[name] for name in ("type", "op", "source", "target", "status")
    )
    assert record["endpoint"] in fake.endpoints
    assert "NoSuch" in record["code"]
    assert "" == result.out


def test_usage_error_in_json(call: Call) -> None:
    """Scripts get JSON even when the words make no sense."""
    result = call("ls", "--bogus", "--json")

    record = json.loads(result.err)
    assert (2, "error", "ls", "Usage", None) == (
        result.code,
        *(record[name] for name in ("type", "op", "code", "status")),
    )


def test_usage_error_in_json_names_the_command_behind_a_flags_value(call: Call) -> None:
    """Not the value of a global flag that stands before it."""
    result = call("--region", "mars", "ls", "--bogus", "--json")

    assert (2, "ls") == (result.code, json.loads(result.err)["op"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lss"], "unknown command 'lss'; did you mean ls?"),
        (["frobnicate"], "unknown command 'frobnicate'; see s3pool --help"),
        (["ls", "--recurs"], "unrecognized arguments: --recurs; did you mean --recursive? see s3pool ls --help"),
        (["--bogus", "ls"], "unrecognized arguments: --bogus; see s3pool --help"),
        (["ls", "--max-keys", "x"], "argument --max-keys: invalid number value: 'x'; see s3pool ls --help"),
        (
            ["cp", "f", "s3/b/k", "--part-size", "0"],
            "argument --part-size: a part has 5 MiB to 5 GiB, not 0 bytes; see s3pool cp --help",
        ),
        (["stat"], "the following arguments are required: PATH; see s3pool stat --help"),
    ],
)
def test_usage_errors_are_one_line(call: Call, argv: list[str], message: str) -> None:
    """With a hint where to read on."""
    result = call(*argv)

    assert (2, "", f"s3pool: error: {message}\n") == (result.code, result.out, result.err)


def test_no_endpoint_is_exit_5(fake: FakeS3, call: Call) -> None:
    """All nodes refuse."""
    for node in fake.nodes:
        node.kill()

    result = call("ls", "s3/b", "--retries", "0")

    assert (5, 1) == (result.code, result.err.count("\n"))
    assert "refused" in result.err


def test_no_endpoint_configured_is_exit_2(call: Call) -> None:
    """The message says how to set it."""
    result = call("ls", env={"S3_POOL": ""})

    assert (2, 1) == (result.code, result.err.count("\n"))
    assert "S3_POOL" in result.err


def test_broken_configuration_is_one_line(call: Call, tmp_path: Path) -> None:
    """A file that is no YAML."""
    path = tmp_path / "broken.yaml"
    path.write_text("endpoints: [")

    result = call("ls", "--config", str(path))

    assert (2, 1) == (result.code, result.err.count("\n"))
    assert "broken.yaml" in result.err


def test_removed_working_directory_is_one_line(
    fake: FakeS3, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is relative to it cannot be found; what lies in S3 can."""
    fake.store.add("b", "k", b"x")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    result = call("cp", "s3/b/k", "f")

    assert (2, "") == (result.code, result.out)
    message = "f is relative, and the working directory was removed: go to another one"
    assert f"s3pool: error: {message}\n" == result.err
    assert 0 == call("cat", "s3/b/k").code


def test_operands_that_fail_differently_are_exit_1(fake: FakeS3, call: Call) -> None:
    """There is no one reason to name."""
    fake.store.add("b", "k")
    fake.fault(Answer(403, "AccessDenied"), op="ListObjectsV2", nth=2)

    assert 1 == call("ls", "s3/none", "s3/b").code


def test_unexpected_error_is_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug shows its traceback only to who asked for it."""
    from s3pool.s3.client import S3Client

    def broken(self: S3Client) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(S3Client, "list_buckets", broken)

    assert "s3pool: error: ZeroDivisionError: a bug\n" == call("ls").err
    assert 1 == call("ls").code
    assert "Traceback" in call("ls", "-v").err


# -- around every command ------------------------------------------------------------------


def test_stats_tell_of_every_endpoint(fake: FakeS3, call: Call) -> None:
    """A failure is named, although the command went well."""
    fake.store.add("b", "k")
    fake.fault(Answer(500, "InternalError"), op="HeadObject")

    result = call("stat", "s3/b/k", "--stats", "--json")

    rows = [record for record in map(json.loads, result.err.splitlines()) if record["type"] == "stats"]
    assert 0 == result.code
    assert list(fake.endpoints) == [row["endpoint"] for row in rows]
    assert [0, 1] == sorted(row["failures"] for row in rows)
    assert [{}, {"http 500": 1}] == sorted((row["failure_kinds"] for row in rows), key=len)


def test_stats_table(fake: FakeS3, call: Call) -> None:
    """For people, on stderr, behind everything else."""
    result = call("--stats", "ls", "s3/none")

    lines = result.err.splitlines()
    assert lines[1].split()[:3] == ["endpoint", "tries", "failed"]
    assert list(fake.endpoints) == [line.split()[0] for line in lines[2:-1]]
    assert "listings: names 0, requests 1, extra requests 0" == lines[-1]


def test_global_flags_work_on_both_sides(fake: FakeS3, call: Call) -> None:
    """Before and after the command, and both at once."""
    fake.store.add("b", "k")

    before = call("--json", "ls", "s3/b").records
    after = call("ls", "s3/b", "--json").records
    both = call("--endpoints", fake.endpoints[0], "ls", "--endpoints", fake.endpoints[1], "s3/b", env={"S3_POOL": ""})

    assert before == after
    assert 0 == both.code


def test_log_format_json(fake: FakeS3, call: Call) -> None:
    """Logs as objects, results as text."""
    fake.store.add("b", "k")
    fake.fault(Answer(500, "InternalError"), op="HeadObject")

    result = call("stat", "-v", "--log-format", "json", "s3/b/k")

    records = [json.loads(line) for line in result.err.splitlines()]
    assert {"log"} == {record["type"] for record in records}
    assert "Name: s3/b/k" == result.lines[0]


@pytest.mark.parametrize(
    "flags", [["-v"], ["--log-level", "debug"], ["--log-level", "DEBUG"], ["--log-level", "trace"]]
)
def test_verbose_logs_every_attempt(fake: FakeS3, call: Call, flags: list[str]) -> None:
    """With node, answer and seconds, also of an attempt that went well."""
    fake.store.add("b", "k")
    fake.fault(Answer(500, "InternalError"), op="HeadObject")

    result = call("stat", *flags, "s3/b/k")

    nodes = "|".join(map(re.escape, fake.endpoints))
    attempts = re.findall(rf"s3pool: debug: HeadObject s3/b/k at (?:{nodes}): (\d+) in \d+\.\d{{3}} s\n", result.err)
    assert (0, ["500", "200"]) == (result.code, attempts)


def test_quiet_keeps_errors(call: Call) -> None:
    """And drops the lines of acts and notes."""
    assert ("", "") == (call("mb", "-q", "s3/one").out, call("mb", "-qp", "s3/one").err)
    assert 1 == call("-q", "ls", "s3/none").err.count("\n")


def test_version_and_help(call: Call) -> None:
    """On stdout, exit 0."""
    from s3pool import __version__

    assert f"s3pool {__version__}\n" == call("--version").out
    assert call("--help").out == call("-h").out
    assert call("help").out.startswith("usage: s3pool [global flags] COMMAND ")
    assert call("ls", "--help").out == call("help", "ls").out
    assert call("ls", "-h").out.startswith("usage: s3pool ls ")


def test_color_always_paints_prefixes(fake: FakeS3, call: Call) -> None:
    """And auto does not, off a terminal."""
    fake.store.add("b", "p/k")

    assert "\x1b[1;34mp/\x1b[0m\n" in call("ls", "--color", "always", "s3/b").out
    assert "\x1b" not in call("ls", "s3/b").out


def test_start_up_imports_only_what_is_needed(filled: FakeS3, run_cli: CliRunner) -> None:
    """A short command on a large node count must stay short; and one thread must do."""
    probe = (
        "import sys, threading\n"
        "from s3pool.cli.main import main\n"
        "most = [1]\n"
        "start = threading.Thread.start\n"
        "def counted(self):\n"
        "    most[0] += 1\n"
        "    start(self)\n"
        "threading.Thread.start = counted\n"
        "code = main(sys.argv[1:])\n"
        "late = {'rich', 'concurrent.futures', 'http.server', 'yaml', 'sqlite3'} & set(sys.modules)\n"
        "print(code, most[0], sorted(late), file=sys.stderr)\n"
    )
    for argv in (["ls", "s3/b"], ["stat", "s3/b/key-000001"], ["du", "s3/b"], ["find", "s3/b", "--name", "x"]):
        command = [run_cli.command()[0], "-c", probe, *argv]
        done = subprocess.run(
            command, env=run_cli.full_environ(filled.environment), capture_output=True, timeout=WAIT_S, check=False
        )

        assert b"0 1 []\n" == done.stderr, argv


def test_mb_and_rb_start_no_thread(fake: FakeS3, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when a bucket is emptied."""
    fake.store.add("full", "k")
    serving = threading.Thread.start

    def forbidden(self: threading.Thread) -> None:
        if not self.daemon or self.name.startswith("s3pool"):
            raise AssertionError(f"{self.name} was started")
        serving(self)

    monkeypatch.setattr(threading.Thread, "start", forbidden)

    assert [0, 0] == [call("mb", "s3/one").code, call("rb", "--force", "s3/full").code]


@pytest.mark.parametrize(
    ("words", "names", "requests", "extra"),
    [
        (("ls", "-r", "s3/b"), 2500, 3, 0),
        (("ls", "s3/b"), 3, 1, 0),
        (("ls", "s3/b/none/"), 0, 1, 0),
        (("ls", "s3/b/0/0000"), 1, 2, 0),
        (("ls", "-r", "--max-keys", "7", "s3/b"), 7, 1, 0),
        (("du", "--versions", "s3/b"), 2500, 3, 0),
        (("find", "s3/b"), 2500, 3, 0),
        (("rm", "-r", "--dry-run", "--jobs", "1", "s3/b/"), 2500, 3, 0),
    ],
)
def test_stats_tell_what_listings_took(
    fake: FakeS3, call: Call, words: tuple[str, ...], names: int, requests: int, extra: int
) -> None:
    """As many requests as full pages, and how many more."""
    for number in range(2500):
        fake.store.add("b", f"{number // 1000}/{number:04}")

    text = call(*words, "--stats").err.splitlines()[-1]
    record = json.loads(call(*words, "--stats", "--json").err.splitlines()[-1])

    assert f"listings: names {names}, requests {requests}, extra requests {extra}" == text
    assert {"type": "list_stats", "names": names, "requests": requests, "extra_requests": extra} == record


def test_stats_count_the_requests_that_parts_of_a_listing_cost(fake: FakeS3, call: Call) -> None:
    """Every request of every thread; those that were repeated count once, for the pool has them in its table."""
    for number in range(9000):
        fake.store.add("b", f"{number:05}")
    fake.fault(Answer(500, "InternalError"), op="ListObjectsV2", nth=3)

    result = call("ls", "-r", "--jobs", "8", "--stats", "--json", "s3/b")

    counts = json.loads(result.err.splitlines()[-1])
    assert 9000 == len(result.records) == counts["names"]
    assert len(fake.ops(op="ListObjectsV2")) - 1 == counts["requests"] == 9 + counts["extra_requests"]


def test_commands_without_a_listing_have_no_word_about_one(fake: FakeS3, call: Call) -> None:
    """A line of zeros would tell nothing."""
    fake.store.add("b", "k")

    assert "listings" not in call("stat", "s3/b/k", "--stats").err

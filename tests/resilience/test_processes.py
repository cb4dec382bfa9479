"""--processes N: several shards of one command on this machine look like one run."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import FakeS3
from tests.support.run_cli import CliRunner

N = ("--processes", "3")
NAMES = sorted(f"{top}/{number:04d}" for top in "abcdefgh" for number in range(600))


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3]) -> FakeS3:
    """Give one store behind two addresses."""
    return fake_s3(2)


@pytest.fixture
def run_cli(fake: FakeS3, tmp_path: Path) -> CliRunner:
    """Run commands on the fake."""
    return CliRunner(tmp_path, fake.environment)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a tree of a few thousand files of one byte."""
    root = tmp_path / "tree"
    for name in NAMES[::4]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def store(fake: FakeS3, names: list[str] = NAMES, prefix: str = "p/") -> None:
    """Store one byte under each name."""
    for name in names:
        fake.store.add("b", prefix + name, b"x")


def alike(text: str) -> str:
    """Leave out which node answered which request."""
    return re.sub(r"127.0.0.1:\d+|request fake-\d+", "-", text)


LISTINGS = (
    ("ls", "-r", "s3/b/p/"),
    ("ls", "-r", "s3/b/p/", "--json", "--summarize"),
    ("ls", "-r", "s3/b/p/", "--csv"),
    ("ls", "s3/b/p/", "--json"),
    ("find", "s3/b/p", "--name", "*7"),
    ("find", "s3/b/p", "--type", "d"),
    ("find", "s3/b/p", "--print0"),
    ("find", "s3/b/nothing"),
    ("du", "s3/b/p"),
    ("du", "-d", "1", "s3/b/p"),
    ("du", "-d", "1", "s3/b/p", "--json"),
    ("ls", "s3/b/nothing"),
    ("ls", "-r", "s3/b/p/a/", "s3/b/nothing", "s3/none/x", "s3/b/p/b*"),
    ("ls", "s3", "s3/b/p/a/"),
    ("ls", "-r", "s3/b/p/a", "s3/b/p/a", "--csv"),
    ("find", "s3/b/p/a", "s3/none/x", "s3/b/p/b*", "--csv"),
    ("du", "s3/b/p/a", "s3/none/x", "s3/b/p/b"),
    ("du", "-d", "1", "s3/b/p/a", "s3/b/p", "--json"),
    ("du", "s3"),
)


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_listings_are_those_of_one_process(run_cli: CliRunner, fake: FakeS3, words: tuple[str, ...]) -> None:
    """The same bytes in the same order, the same words on stderr and the same code."""
    store(fake)

    one, many = run_cli(*words), run_cli(*words, *N)

    assert one.stdout == many.stdout
    assert one.code == many.code
    assert alike(one.err) == alike(many.err)


def test_unordered_listings_have_every_line_once(run_cli: CliRunner, fake: FakeS3) -> None:
    """Whole lines, as they come."""
    store(fake)

    one, many = run_cli("ls", "-r", "s3/b/p/"), run_cli("ls", "-r", "s3/b/p/", *N, "--unordered")

    assert sorted(one.lines) == sorted(many.lines)


def test_a_listing_costs_few_requests_more(run_cli: CliRunner, fake: FakeS3) -> None:
    """The ranges are listed once, beside the sample."""
    store(fake)

    result = run_cli("ls", "-r", "s3/b/p/", *N, "--stats", "--json")

    stats = [json.loads(line) for line in result.err.splitlines()]
    assert [len(NAMES)] == [record["names"] for record in stats if record["type"] == "list_stats"]
    assert len(fake.requests) == sum(record["requests"] for record in stats if record["type"] == "stats")


@pytest.mark.parametrize("command", [("cp", "-r"), ("sync",), ("mv", "-r")])
def test_transfers_have_one_summary(run_cli: CliRunner, fake: FakeS3, tree: Path, command: tuple[str, ...]) -> None:
    """Each file is copied once, and one line says so."""
    store(fake, ["x"], "")
    result = run_cli(*command, str(tree), "s3/b/q", *N, "--json")

    assert (0, "") == (result.code, result.err)
    copied = [record["target"] for record in result.records[:-1]]
    assert sorted(copied) == [f"s3/b/q/{name}" for name in NAMES[::4]]
    assert ("summary", len(copied)) == (result.records[-1]["type"], result.records[-1]["copied"])


def test_a_sync_of_processes_is_one_run(run_cli: CliRunner, fake: FakeS3, tree: Path, tmp_path: Path) -> None:
    """Record, deletes and metrics are those of the pair, however many processes the next run has."""
    store(fake, ["a/gone", "h/gone", *NAMES[::4][:50]], "q/")

    metrics = tmp_path / "metrics.prom"
    first = run_cli("sync", str(tree), "s3/b/q", "--delete", *N, "--json", "--metrics-file", str(metrics))
    again = [
        run_cli("sync", str(tree), "s3/b/q", "--json", "--processes", number).records[-1] for number in ("2", "1", "4")
    ]

    assert (0, 2) == (first.code, first.records[-1]["deleted"])
    assert f's3pool_sync_objects_checked{{source="{tree}",target="s3/b/q/"}} {len(NAMES[::4])}' in metrics.read_text()
    assert [(len(NAMES[::4]), 0)] * 3 == [(record["unchanged"], record["copied"]) for record in again]


def test_guards_judge_the_whole_run(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """A range whose names all go is no reason to hold deletes back, and few ranges full of them no way round it."""
    store(fake)
    for name in NAMES[:3000]:
        (tmp_path / "most" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "most" / name).write_bytes(b"x")
    few = tmp_path / "few" / "a" / "0000"
    few.parent.mkdir(parents=True)
    few.write_bytes(b"x")

    held = run_cli("sync", str(tmp_path / "few"), "s3/b/p", "--delete", *N)
    done = run_cli("sync", str(tmp_path / "most"), "s3/b/p", "--delete", *N, "--json")

    assert 6 == held.code
    assert 1 == held.err.count(f"{len(NAMES) - 1} of {len(NAMES)} objects would go, more than --max-delete 50% allows")
    assert (0, len(NAMES) - 3000) == (done.code, done.records[-1]["deleted"])


def test_a_failure_holds_all_deletes_back(run_cli: CliRunner, fake: FakeS3, tree: Path) -> None:
    """Also those of the shards in which all went well."""
    store(fake, ["a/gone", "h/gone"], "p/")
    (tree / "d" / "pipe").unlink(missing_ok=True)
    os.mkfifo(tree / "d" / "pipe")

    result = run_cli("sync", str(tree), "s3/b/p", "--delete", *N, "--json")

    assert 6 == result.code
    assert (0, len(NAMES[::4])) == (result.records[-1]["deleted"], result.records[-1]["copied"])


def test_a_wildcard_copy_that_matches_nothing_fails_once(run_cli: CliRunner, fake: FakeS3) -> None:
    """As with one process."""
    store(fake)

    one, many = run_cli("cp", "s3/b/p/*.absent", "out"), run_cli("cp", "s3/b/p/*.absent", "out", *N)

    assert 3 == one.code == many.code
    assert 1 == many.err.count("error:")


def test_a_removal_asks_once_and_removes_all(run_cli: CliRunner, fake: FakeS3) -> None:
    """Nobody can be asked without a terminal; --force needs no question."""
    store(fake)

    refused = run_cli("rm", "-r", "s3/b/p", *N)
    done = run_cli("rm", "-r", "--force", "s3/b/p", *N, "--json")

    assert (2, 1) == (refused.code, refused.err.count("error:"))
    assert (0, len(NAMES)) == (done.code, done.records[-1]["deleted"])
    assert not run_cli("find", "s3/b").lines


def test_lists_of_names_are_divided(run_cli: CliRunner, fake: FakeS3) -> None:
    """Standard input is read once, for all of them."""
    store(fake)
    listed = "".join(f"s3/b/p/{name}\n" for name in NAMES[:100]).encode()

    done = run_cli("rm", "--stdin", *N, "--json", stdin=listed)

    assert (0, 100) == (done.code, done.records[-1]["deleted"])


def test_an_error_of_all_is_told_once(run_cli: CliRunner) -> None:
    """Each process meets it."""
    result = run_cli("sync", "s3/none/p", "there", *N)

    assert 3 == result.code
    assert 1 == result.err.count("error:")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ls", "s3/b/p", "--shard", "0/2"), "exclude each other"),
        (("ls", "s3/b/p", "--max-keys", "3"), "--max-keys and --processes"),
        (("cp", "-", "s3/b/k"), "is one stream"),
    ],
)
def test_what_cannot_be_divided_is_refused(run_cli: CliRunner, words: tuple[str, ...], message: str) -> None:
    """Before anything is done."""
    result = run_cli(*words, *N)

    assert 2 == result.code
    assert message in result.err


def test_a_killed_shard_costs_its_names_and_a_rerun_brings_them(
    run_cli: CliRunner, fake: FakeS3, tmp_path: Path
) -> None:
    """The others end, the code and a line tell, and the next run does the rest."""
    store(fake, ["x"], "")
    large = tmp_path / "large"
    for name in NAMES[::40]:
        (large / name).parent.mkdir(parents=True, exist_ok=True)
        (large / name).write_bytes(bytes(64 << 10))
    parent = run_cli.start("cp", "-r", "large", "s3/b/q", *N, "--json", "--workers", "3", "--bwlimit", "2M")
    victim = wait_for_shards(parent.pid)[1]
    while len(fake.requests) < 9:
        time.sleep(0.05)
    os.kill(victim, signal.SIGKILL)
    out, err = parent.communicate(timeout=120)

    assert 1 == parent.returncode
    assert b"was killed by SIGKILL" in err
    done = [json.loads(line)["target"] for line in out.splitlines()[:-1]]
    assert {"a", "h"} <= {target.split("/")[3] for target in done}
    assert len(done) < len(NAMES[::40])
    assert 0 == run_cli("sync", "large", "s3/b/q", *N).code
    assert len(NAMES[::40]) == len(run_cli("find", "s3/b/q").lines)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_all_processes(
    run_cli: CliRunner, fake: FakeS3, tree: Path, number: signal.Signals, code: int
) -> None:
    """One summary says how far they came, and none is left."""
    store(fake, ["x"], "")
    parent = run_cli.start("cp", "-r", str(tree), "s3/b/q", *N, "--workers", "3", "--bwlimit", "1K")
    children = wait_for_shards(parent.pid)
    while not fake.requests:
        time.sleep(0.05)
    parent.send_signal(number)
    _, err = parent.communicate(timeout=60)

    assert code == parent.returncode
    assert 1 == err.count(b"the same command again goes on")
    assert 1 == err.count(b"interrupted") + err.count(b"terminated")
    assert not any(Path(f"/proc/{child}").exists() for child in children)


# At the start of a process: the last shard interrupts the parent, and each waits until the signal is passed on.
WHILE_SHARDS_LOAD = f"""
import os, signal, sys
if "-c" in sys.orig_argv:
    open(f"{{os.environ['SHARDS']}}/{{os.getpid()}}", "w").close()
    if len(os.listdir(os.environ["SHARDS"])) == {N[1]}:
        os.kill(os.getppid(), signal.NUMBER)
    while not signal.sigpending():
        pass
"""


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, b"interrupted"), (signal.SIGTERM, b"terminated")])
def test_a_signal_while_shards_load_is_told_in_a_word(
    run_cli: CliRunner, fake: FakeS3, tmp_path: Path, number: signal.Signals, word: bytes
) -> None:
    """No traceback of what was being imported, and no talk of shards that were killed."""
    store(fake, ["x"])
    shards = tmp_path / "shards"
    shards.mkdir()
    (tmp_path / "sitecustomize.py").write_text(WHILE_SHARDS_LOAD.replace("NUMBER", number.name))
    env = {"PYTHONPATH": f"{tmp_path}:{run_cli.full_environ()['PYTHONPATH']}", "SHARDS": str(shards)}
    result = run_cli("rm", "-r", "--force", "s3/b/p", *N, env=env)

    assert 128 + number == result.code
    assert b"Traceback" not in result.stderr
    assert b"was killed by" not in result.stderr
    assert 1 == result.stderr.count(word)


def test_a_closed_pipe_ends_all_processes(run_cli: CliRunner, fake: FakeS3) -> None:
    """As head(1) does it."""
    store(fake)
    parent = run_cli.start("ls", "-r", "s3/b/p/", *N)
    assert parent.stdout is not None
    parent.stdout.read(10)
    parent.stdout.close()

    assert parent.stderr is not None
    assert b"" == parent.stderr.read()
    assert parent.wait(60) in (0, 141)
    parent.stderr.close()


def children_of(pid: int) -> list[int]:
    """Give the processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_shards(pid: int) -> list[int]:
    """Wait until all shards have started, and give their numbers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = children_of(pid)
        if len(found) == int(N[1]):
            return found
        time.sleep(0.05)
    raise AssertionError("no shard has started")

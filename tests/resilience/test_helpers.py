"""Runs in several processes: the same results as in one, whatever becomes of the others."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from s3pool.cli.helpers import CONNECTIONS_PER_PROCESS, WORKERS_PER_PROCESS
from tests.support.fake_s3 import Call, Exchange, FakeS3
from tests.support.fake_s3.faults import Script
from tests.support.fake_s3.store import S3Fault
from tests.support.run_cli import CliResult, ProcessorsRunner

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="helpers are for Linux")

COUNT = 400  # more than a lane has under way
HALF_WAY = 20  # requests of a helper
WAIT_S = 60.0
HELPER = "helper/"
_VARYING = re.compile(r" in [\d.]+m?s.*|127\.0\.0\.1:\d+|fake-[\d-]+")
_STOPPED = re.compile(
    rb"s3pool: stopped: (\d+) copied, .*; the same command again goes on\n(?:s3pool: (?:interrupted|terminated)\n)?"
)

HalfWay = Callable[[int], object]
Run = Callable[..., CliResult]


def is_of_helper(exchange: Exchange) -> bool:
    """Say whether a request comes from a helper, not from the command's own process."""
    return exchange.headers.get("user-agent", "").startswith(HELPER)


class Gate:
    """Lets nobody through before a helper has come; ``half_way`` gets its process when it has done a part."""

    def __init__(self, fake: FakeS3, half_way: HalfWay = lambda _: None) -> None:
        self._half_way = half_way
        # Guards the number of a helper's requests.
        self._lock = threading.Lock()
        self._count = 0
        self._came = threading.Event()
        self.pids: set[int] = set()
        for op in ("PutObject", "GetObject"):
            fake.fault(Call(self._pass), op=op, times=0)

    def _pass(self, exchange: Exchange) -> None:
        if not is_of_helper(exchange):
            self._came.wait(WAIT_S)
            return
        pid = int(exchange.headers["user-agent"].removeprefix(HELPER))
        with self._lock:
            self.pids.add(pid)
            self._count += 1
            is_half_way = self._count == HALF_WAY
        self._came.set()
        if is_half_way:
            self._half_way(pid)


@contextmanager
def gate_for(fake: FakeS3, processors: int) -> Iterator[None]:
    """Have a gate where there will be a helper."""
    script = fake.script
    if processors > 1:
        fake.script = Script()
        Gate(fake)
    yield
    fake.script = script


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3]) -> FakeS3:
    """Give one store behind two addresses, with an empty bucket ``b``."""
    return with_bucket(fake_s3(2))


def with_bucket(fake: FakeS3) -> FakeS3:
    """Give a fake that has an empty bucket ``b``."""
    fake.store.add("b", "x")
    fake.store.bucket("b").remove("x", "null")
    return fake


@pytest.fixture
def run(tmp_path: Path, fake: FakeS3) -> ProcessorsRunner:
    """Run the command line on the fake as if there were two processors."""
    return runner(tmp_path, fake, processors=2)


def runner(tmp_path: Path, fake: FakeS3, *, processors: int) -> ProcessorsRunner:
    """Run the command line as if there were so many processors."""
    home = tmp_path / f"home{processors}"
    home.mkdir()
    made = ProcessorsRunner(home, fake.environment)
    made.processors = processors
    return made


@pytest.fixture
def contents(tmp_path: Path) -> dict[str, bytes]:
    """Give many small files, in ``src`` below the test's directory."""
    (tmp_path / "src").mkdir()
    made = {f"f{number:03}": b"%d" % number * (number % 50) for number in range(COUNT)}
    for name, content in made.items():
        (tmp_path / "src" / name).write_bytes(content)
    return made


def store(fake: FakeS3, contents: dict[str, bytes]) -> None:
    """Store the same as objects."""
    for name, content in contents.items():
        fake.store.add("b", f"src/{name}", content, mtime=1_600_000_000)


def found_in(directory: Path) -> dict[str, bytes]:
    """Give all files, hidden ones as well."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@contextmanager
def watched(pid: int) -> Iterator[select.poll]:
    """Give what waits for the end of any process."""
    descriptor = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        yield poller
    finally:
        os.close(descriptor)


# -- all goes well -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["cp -r", "sync"])
def test_uploads_of_two_processes_are_one_run(
    fake: FakeS3, run: ProcessorsRunner, tmp_path: Path, contents: dict[str, bytes], command: str
) -> None:
    """Each file is stored and told once, and --stats counts the requests of both."""
    Gate(fake)

    result = run(*command.split(), "--json", "--stats", str(tmp_path / "src"), "s3/b/src/")

    assert contents == {key.removeprefix("src/"): body for key, body in fake.store.bodies("b").items()}
    check_one_run(fake, result, [f"{tmp_path}/src/{name}" for name in contents])


@pytest.mark.parametrize("command", ["cp -r", "sync"])
def test_downloads_of_two_processes_are_one_run(
    fake: FakeS3, run: ProcessorsRunner, tmp_path: Path, contents: dict[str, bytes], command: str
) -> None:
    """Each object is written and told once, and --stats counts the requests of both."""
    store(fake, contents)
    Gate(fake)

    result = run(*command.split(), "--json", "--stats", "s3/b/src/", str(tmp_path / "out"))

    assert contents == found_in(tmp_path / "out")
    check_one_run(fake, result, [f"s3/b/src/{name}" for name in contents])


def check_one_run(fake: FakeS3, result: CliResult, sources: list[str]) -> None:
    """See to it that what was told is the work of more than one process, each thing once."""
    agents = {request.headers.get("user-agent", "") for request in fake.requests if request.op != "ListBuckets"}
    told = [record["source"] for record in result.records if record["type"] == "copy"]
    summary = result.records[-1]
    requests = sum(record.get("requests", 0) for record in read_stats(result) if record["type"] == "stats")
    assert (0, 2) == (result.code, len(agents)), result.err
    assert sources == sorted(told)
    assert ("summary", len(sources), 0) == (summary["type"], summary["copied"], summary["failed"])
    # The probes of the background are no requests of the run.
    assert len([op for op in fake.ops() if op != "ListBuckets"]) == requests


def read_stats(result: CliResult) -> list[dict[str, Any]]:
    """Give the JSON objects on standard error."""
    return [json.loads(line) for line in result.err.splitlines()]


def test_four_processors_have_three_helpers(fake: FakeS3, tmp_path: Path, contents: dict[str, bytes]) -> None:
    """If the user allows as many workers."""
    gate = Gate(fake)
    run = runner(tmp_path, fake, processors=4)

    result = run("cp", "-r", "--workers", "32", str(tmp_path / "src"), "s3/b/src/")

    assert (0, COUNT) == (result.code, len(fake.store.bodies("b")))
    assert 1 <= len(gate.pids) <= 3


@pytest.mark.usefixtures("contents")
@pytest.mark.parametrize(
    "words",
    [
        "cp -r --dry-run src s3/b/",
        "cp -r --bwlimit 100M src s3/b/",
        f"cp -r --workers {2 * WORKERS_PER_PROCESS - 1} src s3/b/",
        f"cp -r --max-connections {2 * CONNECTIONS_PER_PROCESS - 1} src s3/b/",
        "cp -r --no-clobber src s3/b/",
        "cp src/f007 s3/b/",
        "mv src/f007 s3/b/",
        "sync --dry-run src s3/b/",
    ],
)
def test_gentle_and_single_runs_have_one_process(run: ProcessorsRunner, tmp_path: Path, words: str) -> None:
    """A user who wants little of it wants no more processes either."""
    assert "" == forks_of(run, tmp_path, words)


@pytest.mark.usefixtures("contents")
@pytest.mark.parametrize(
    "words",
    [
        "cp -r src s3/b/",
        f"cp -r --workers {2 * WORKERS_PER_PROCESS} src s3/b/",
        f"cp -r --max-connections {2 * CONNECTIONS_PER_PROCESS} src s3/b/",
        "sync src s3/b/",
    ],
)
def test_runs_of_many_files_have_two_processes(run: ProcessorsRunner, tmp_path: Path, words: str) -> None:
    """Or the test before this one would prove nothing."""
    assert 1 == forks_of(run, tmp_path, words).count("\n")


def forks_of(run: ProcessorsRunner, tmp_path: Path, words: str) -> str:
    """Run a command that goes well; give a line for each helper that it started."""
    forks = tmp_path / "forks"
    forks.touch()

    result = run(*words.split(), env={"FORKS_TO": str(forks)}, cwd=tmp_path)

    assert 0 == result.code, result.err
    return forks.read_text()


# -- processes that end --------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["up", "down"])
def test_helper_that_is_killed_costs_nothing(
    fake: FakeS3, run: ProcessorsRunner, tmp_path: Path, contents: dict[str, bytes], direction: str
) -> None:
    """What it had is done again, and nobody need know."""
    gate = Gate(fake, lambda pid: os.kill(pid, signal.SIGKILL))
    if direction == "down":
        store(fake, contents)
    source, target = (str(tmp_path / "src"), "s3/b/src/") if direction == "up" else ("s3/b/src/", str(tmp_path / "out"))

    result = run("cp", "-r", source, target)

    assert (0, COUNT, 1) == (result.code, len(set(result.lines)), len(gate.pids))
    assert (COUNT, 1) == (len(result.lines), result.err.count("\n"))
    there = fake.store.bodies("b") if direction == "up" else found_in(tmp_path / "out")
    assert contents == {name.removeprefix("src/"): body for name, body in there.items() if not name.startswith(".")}


class Held:
    """Holds a helper's request half-way until it is let go."""

    def __init__(self, fake: FakeS3) -> None:
        self._reached = threading.Event()
        self._go_on = threading.Event()
        self._pid = 0
        Gate(fake, self._hold)

    def _hold(self, pid: int) -> None:
        self._pid = pid
        self._reached.set()
        self._go_on.wait(WAIT_S)

    def helper(self) -> int:
        """Give the number of the helper, when it is half-way."""
        assert self._reached.wait(WAIT_S)
        return self._pid

    def let_go(self) -> None:
        """Answer it."""
        self._go_on.set()


@pytest.fixture
def held(fake: FakeS3) -> Iterator[Held]:
    """Give what holds a helper half-way."""
    made = Held(fake)
    yield made
    made.let_go()


@pytest.fixture
def started(run: ProcessorsRunner, tmp_path: Path, contents: dict[str, bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Start an upload of many files, in a group of processes of its own."""
    with run.start("cp", "-r", str(tmp_path / "src"), "s3/b/src/", start_new_session=True) as process:
        yield process
        process.kill()


@pytest.mark.usefixtures("contents")
def test_killed_command_leaves_no_helper(held: Held, started: subprocess.Popen[bytes]) -> None:
    """And who reads its output sees the end at once."""
    with watched(held.helper()) as helper:
        started.kill()
        started.communicate(timeout=WAIT_S)
        held.let_go()

        assert helper.poll(WAIT_S * 1000)


@pytest.mark.usefixtures("contents")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_to_the_group_ends_all_of_it(
    fake: FakeS3, held: Held, started: subprocess.Popen[bytes], number: signal.Signals, code: int
) -> None:
    """As from a terminal: what is told is done, and one line says how to go on."""
    with watched(held.helper()) as helper:
        os.killpg(started.pid, number)
        held.let_go()
        out, error = started.communicate(timeout=WAIT_S)

        assert helper.poll(WAIT_S * 1000)
    assert code == started.returncode
    match = _STOPPED.fullmatch(error)
    assert match, error
    told = [line.partition(" -> ")[2].removeprefix("s3/b/") for line in out.decode().splitlines()]
    assert int(match[1]) == len(told) == len(set(told))
    assert set(told) <= set(fake.store.bodies("b"))


@pytest.mark.usefixtures("contents")
def test_helper_that_hangs_does_not_keep_the_command_from_ending(held: Held, started: subprocess.Popen[bytes]) -> None:
    """It is ended, too."""
    with watched(held.helper()) as helper:
        os.kill(held.helper(), signal.SIGSTOP)
        started.send_signal(signal.SIGINT)
        _, error = started.communicate(timeout=WAIT_S)

        assert helper.poll(WAIT_S * 1000)
    assert (130, True) == (started.returncode, _STOPPED.fullmatch(error) is not None), error


# -- what fails is told as ever ------------------------------------------------------------


def told(result: CliResult) -> tuple[int, list[str], list[str]]:
    """Give code, results and errors of a run, but for what differs from run to run."""
    out, error = (sorted(_VARYING.sub("", text).splitlines()) for text in (result.out, result.err))
    return result.code, out, error


class Refusal:
    """Refuses the object that a helper asks for first, whoever asks for it."""

    def __init__(self, fake: FakeS3) -> None:
        self.key = ""
        self.agents: list[str] = []
        for op in ("PutObject", "GetObject"):
            fake.fault(Call(self._look), op=op, times=0)

    def _look(self, exchange: Exchange) -> None:
        if is_of_helper(exchange) and not self.key:
            self.key = exchange.target
        if exchange.target == self.key:
            exchange.body()
            self.agents.append(exchange.headers["user-agent"].partition("/")[0])
            raise S3Fault(403, "AccessDenied", "not this one")


@pytest.mark.parametrize("direction", ["up", "down"])
def test_object_that_is_refused_to_a_helper_is_one_error(
    fake: FakeS3, run: ProcessorsRunner, tmp_path: Path, contents: dict[str, bytes], direction: str
) -> None:
    """Named, with the code that it would have without helpers; all others are copied."""
    refusal = Refusal(fake)
    Gate(fake)
    if direction == "down":
        store(fake, contents)
    source, target = (str(tmp_path / "src"), "s3/b/src/") if direction == "up" else ("s3/b/src/", str(tmp_path / "out"))

    result = run("cp", "-r", source, target)

    name = refusal.key.rpartition("/")[2]
    errors = [line for line in result.err.splitlines() if "error" in line]
    assert ["helper", "s3pool"] == refusal.agents
    assert (1, 1) == (result.code, len(errors)), result.err
    assert f"src/{name}" in errors[0]
    assert "403 AccessDenied: not this one" in errors[0]
    there = fake.store.bodies("b") if direction == "up" else found_in(tmp_path / "out")
    if direction == "up":
        assert {f"src/{each}" for each in contents} - {f"src/{name}"} == set(there)
    else:
        assert set(contents) - {name} == set(there)


def test_directory_in_the_way_is_told_as_without_helpers(
    fake: FakeS3, tmp_path: Path, contents: dict[str, bytes]
) -> None:
    """In the same words, and the others are written."""
    store(fake, contents)
    results = []
    for processors in (1, 2):
        out = tmp_path / "out"
        for name in list(contents)[::7]:
            (out / name / "full").mkdir(parents=True)
        with gate_for(fake, processors):
            results.append(told(runner(tmp_path, fake, processors=processors)("cp", "-r", "s3/b/src/", str(out))))
        out.rename(tmp_path / f"out{processors}")

    assert results[0] == results[1]
    assert 1 == results[1][0]
    assert len(list(contents)[::7]) == sum("error" in line for line in results[1][2])


@pytest.mark.usefixtures("contents")
def test_dead_pool_is_told_as_without_helpers(fake: FakeS3, tmp_path: Path) -> None:
    """Once, with the same code."""
    for node in fake.nodes:
        node.kill()

    one, two = (
        told(
            runner(tmp_path, fake, processors=processors)(
                "cp", "-r", "--retries", "1", str(tmp_path / "src"), "s3/b/src/"
            )
        )
        for processors in (1, 2)
    )

    assert (5, []) == two[:2]
    assert (one[0], len(one[2])) == (two[0], len(two[2])), two


def odd_names() -> list[bytes]:
    """Give names as they may be, many of each kind."""
    kinds = [b"line\nbreak \xe2\x82\xac &<%+'\"", b"\xff\xfe", b"/".join([b"d" * 240] * 4), b"plain"]
    return [b"%03d-%b" % (number, kinds[number % len(kinds)]) for number in range(COUNT)]


def test_odd_names_are_copied_and_told_as_without_helpers(fake_s3: Callable[..., FakeS3], tmp_path: Path) -> None:
    """Long ones, those with line ends, and those that are no text."""
    for name in odd_names():
        path = os.fsencode(tmp_path) + b"/src/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
    results = [copied_there_and_back(with_bucket(fake_s3(2)), tmp_path, processors=count) for count in (1, 2)]

    assert results[0] == results[1]
    assert COUNT * 3 // 4 <= len(results[1][-1])


def copied_there_and_back(fake: FakeS3, tmp_path: Path, *, processors: int) -> list[object]:
    """Copy ``src`` to the bucket, and all from there; give what was told, and what is stored and written."""
    run = runner(tmp_path, fake, processors=processors)
    out = tmp_path / "out"
    results: list[object] = []
    for words in (("cp", "-r", str(tmp_path / "src"), "s3/b/"), ("cp", "-r", "s3/b/", str(out))):
        with gate_for(fake, processors):
            results.append(told(run(*words)))
    out.rename(tmp_path / f"out{processors}")
    written = {path.relative_to(tmp_path / f"out{processors}") for path in (tmp_path / f"out{processors}").rglob("*")}
    return [*results, fake.store.bodies("b"), written]


def test_leftovers_go_from_where_only_helpers_write(fake: FakeS3, run: ProcessorsRunner, tmp_path: Path) -> None:
    """A killed run may have left parts of files in any directory."""
    names = [f"d{number:03}" for number in range(COUNT)]
    for name in names:
        fake.store.add("b", f"{name}/k", b"x")
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / ".s3pool-0123456789ab.part").write_bytes(b"half")
    Gate(fake)

    result = run("cp", "-r", "s3/b/", str(tmp_path / "out"))

    assert 0 == result.code
    assert {"k"} == {path.name for path in (tmp_path / "out").glob("*/*")}
    by_helper = [request.key for request in fake.requests if request.headers.get("user-agent", "").startswith(HELPER)]
    assert len(by_helper) >= HALF_WAY

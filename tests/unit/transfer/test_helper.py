"""A second process for small transfers: each of its ends against another end that is scripted."""

from __future__ import annotations

import errno
import logging
import marshal
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s3pool.transfer import helper as helper_module
from s3pool.transfer.engine import Engine
from s3pool.transfer.helper import IN_VAIN, LOOK_EVERY, NAME_OF_ALL, WINDOW, Helper, Pipe, _Desk, start_helper
from s3pool.transfer.small import SMALL_BYTES
from s3pool.transfer.tasks import DONE, Done, DownloadTask, Item, Outcome, UploadTask
from tests.support.fake_s3 import Answer, FakeS3

EngineFactory = Callable[..., Engine]
PATIENCE_S = 10.0
QUICK_S = 0.01
NO_PROCESS = 2**30  # more than Linux gives; -1 would be every process there is
TASKS = [UploadTask(f"/src/{number}", "b", f"k{number}", number) for number in range(5)]
NOTHING: tuple[list[Any], list[int], list[Any], bool, None] = ([], [], [], False, None)


def answer_with(**changes: object) -> tuple[object, ...]:
    """Give an answer in which nothing is told but what is named."""
    names = ("done", "back", "lines", "is_hopeless", "counts")
    return tuple(changes.get(name, nothing) for name, nothing in zip(names, NOTHING, strict=True))


def done_of(number: int) -> tuple[object, ...]:
    """Give what is told of a transfer that was made."""
    return (number, 100 + number, f"etag{number}", 7000 + number, f"v{number}", None, 0.25)


class Work:
    """What a helper gets and gives, as the lanes have it."""

    def __init__(self, tasks: Sequence[Item] = TASKS) -> None:
        self.waiting = iter(tasks)
        self.outcomes: list[Outcome] = []
        self.returned: list[Item] = []
        self.counts: list[Sequence[Any]] = []
        self.stop = threading.Event()

    def do(self, helper: Helper) -> bool:
        """Have it done."""
        return helper.work(
            lambda: next(self.waiting, None),
            self.outcomes.extend,
            give_back=self.returned.append,
            depth=lambda: 3,
            stop=self.stop,
        )


Script = Callable[[Pipe, socket.socket], None]
WithOther = Callable[[Script, Work], Helper]


@pytest.fixture
def with_other() -> Iterator[WithOther]:
    """Make a helper whose other end is a function, which gets its pipe and its socket."""
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def make(script: Script, work: Work) -> Helper:
        here, there = socket.socketpair()
        sockets.extend((here, there))

        def play() -> None:
            with there:
                script(Pipe(there), there)

        threads.append(threading.Thread(target=play, daemon=True))
        threads[-1].start()
        return Helper(NO_PROCESS, Pipe(here), work.counts.append)

    yield make
    for each in sockets:
        each.close()
    for thread in threads:
        thread.join(PATIENCE_S)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have little time left after a stop."""
    monkeypatch.setattr(helper_module, "TICK_S", QUICK_S)
    monkeypatch.setattr(helper_module, "END_WITHIN_S", QUICK_S)


# -- this process's end --------------------------------------------------------------------


def test_what_is_done_comes_with_all_that_is_told_of_it(with_other: WithOther) -> None:
    """As if a lane of this process had done it."""
    seen: list[object] = []

    def other(pipe: Pipe, _: socket.socket) -> None:
        seen.append(pipe.receive(wait_s=PATIENCE_S))
        pipe.send(answer_with(done=[done_of(1), done_of(0)]))
        pipe.send(answer_with(done=[done_of(number) for number in (2, 3, 4)]))

    work = Work()
    is_of_use = work.do(with_other(other, work))

    assert [(3, [tuple(task) for task in TASKS])] == seen
    assert is_of_use
    assert [
        Outcome(TASKS[number], DONE, Done(100 + number, f"etag{number}", 7000 + number, f"v{number}"), None, 0.25)
        for number in (1, 0, 2, 3, 4)
    ] == work.outcomes
    assert [] == work.returned


def test_what_comes_back_is_given_back(with_other: WithOther) -> None:
    """For a lane to do it; the helper is of use for others."""

    def other(pipe: Pipe, _: socket.socket) -> None:
        pipe.receive(wait_s=PATIENCE_S)
        pipe.send(answer_with(done=[done_of(0)], back=[3, 1]))
        pipe.send(answer_with(done=[done_of(2), done_of(4)]))

    work = Work()
    is_of_use = work.do(with_other(other, work))

    assert (True, [TASKS[3], TASKS[1]]) == (is_of_use, work.returned)
    assert [TASKS[0], TASKS[2], TASKS[4]] == [outcome.task for outcome in work.outcomes]


def test_names_of_any_bytes_get_there(with_other: WithOther) -> None:
    """Names of files need not be UTF-8."""
    seen: list[Any] = []

    def other(pipe: Pipe, _: socket.socket) -> None:
        seen.append(pipe.receive(wait_s=PATIENCE_S))
        pipe.send(answer_with(done=[done_of(0)]))

    task = UploadTask("/src/\udcff\n\u00e9", "b", "\udcff\n\u00e9", 1)
    work = Work([task])
    work.do(with_other(other, work))

    assert [(3, [tuple(task)])] == seen


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "half a message": struct.pack(">I", 100) + b"half",
    "half a length": b"\0\0",
    "no marshal": struct.pack(">I", 4) + b"\xff\xff\xff\xff",
    "nothing in it": struct.pack(">I", 0),
    "no answer": struct.pack(">I", len(marshal.dumps(7))) + marshal.dumps(7),
    "done that is not known": struct.pack(">I", len(marshal.dumps(answer_with(done=[done_of(0), done_of(99)]))))
    + marshal.dumps(answer_with(done=[done_of(0), done_of(99)])),
    "back that is not known": struct.pack(">I", len(marshal.dumps(answer_with(back=[0, 99]))))
    + marshal.dumps(answer_with(back=[0, 99])),
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN.keys())
def test_what_a_broken_helper_had_is_done_here(with_other: WithOther, sent: bytes) -> None:
    """Nothing is lost that was given to it, and no more is."""

    def other(pipe: Pipe, sock: socket.socket) -> None:
        pipe.receive(wait_s=PATIENCE_S)
        sock.sendall(sent)

    work = Work()
    helper = with_other(other, work)

    assert not work.do(helper)
    assert (sorted(TASKS), []) == (sorted(work.returned), work.outcomes)


def test_what_was_done_before_a_helper_broke_is_not_done_again(with_other: WithOther) -> None:
    """It was told, and it is so."""

    def other(pipe: Pipe, _: socket.socket) -> None:
        pipe.receive(wait_s=PATIENCE_S)
        pipe.send(answer_with(done=[done_of(1)], back=[2]))

    work = Work()
    is_of_use = work.do(with_other(other, work))

    assert not is_of_use
    assert [TASKS[1]] == [outcome.task for outcome in work.outcomes]
    assert [TASKS[0], TASKS[2], TASKS[3], TASKS[4]] == sorted(work.returned)


def test_helper_without_hope_gets_no_more(with_other: WithOther) -> None:
    """No endpoint answers it: each task would take it as long to find out."""

    def other(pipe: Pipe, _: socket.socket) -> None:
        pipe.receive(wait_s=PATIENCE_S)
        pipe.send(answer_with(back=list(range(WINDOW - 1)), is_hopeless=True))
        pipe.send(answer_with(done=[done_of(WINDOW - 1)]))

    tasks = [UploadTask(f"/src/{number}", "b", f"k{number}", 1) for number in range(WINDOW + 5)]
    work = Work(tasks)
    is_of_use = work.do(with_other(other, work))

    assert not is_of_use
    assert tasks[: WINDOW - 1] == work.returned
    assert [tasks[WINDOW - 1]] == [outcome.task for outcome in work.outcomes]
    assert tasks[WINDOW:] == list(work.waiting)


@pytest.mark.usefixtures("hasty")
def test_stopped_run_does_not_wait_for_a_helper_that_hangs(with_other: WithOther) -> None:
    """What it has comes back, and it is not used again."""
    over = threading.Event()
    work = Work()

    def other(pipe: Pipe, _: socket.socket) -> None:
        pipe.receive(wait_s=PATIENCE_S)
        work.stop.set()
        over.wait(PATIENCE_S)

    is_of_use = work.do(with_other(other, work))
    over.set()

    assert (False, [], TASKS) == (is_of_use, work.outcomes, work.returned)


def test_what_a_helper_has_under_way_at_a_stop_is_told(with_other: WithOther) -> None:
    """It hears of the stop, and what it has not begun comes back."""
    work = Work()

    def other(pipe: Pipe, _: socket.socket) -> None:
        pipe.receive(wait_s=PATIENCE_S)
        work.stop.set()
        with pytest.raises(EOFError):
            pipe.receive(wait_s=PATIENCE_S)
        pipe.send(answer_with(done=[done_of(0)], back=[1, 2, 3, 4]))

    is_of_use = work.do(with_other(other, work))

    assert not is_of_use
    assert [TASKS[0]] == [outcome.task for outcome in work.outcomes]
    assert TASKS[1:] == work.returned


def test_stopped_run_begins_nothing_in_a_helper(with_other: WithOther) -> None:
    """The tasks stay where they are."""
    work = Work()
    work.stop.set()
    is_of_use = work.do(with_other(lambda _pipe, _sock: None, work))

    assert (False, TASKS) == (is_of_use, list(work.waiting))


def test_helper_has_only_so_many_tasks(with_other: WithOther) -> None:
    """The rest is for the others, in the order in which it comes."""
    had: list[int] = []
    count = 3 * WINDOW

    def other(pipe: Pipe, _: socket.socket) -> None:
        has: list[int] = []
        came = 0
        while came < count:
            _, tasks = pipe.receive(wait_s=PATIENCE_S)
            has += range(came, came + len(tasks))
            came += len(tasks)
            had.append(len(has))
            pipe.send(answer_with(done=[done_of(number) for number in has[:20]]))
            del has[:20]
        pipe.send(answer_with(back=has))

    work = Work([UploadTask(f"/src/{number}", "b", f"k{number}", 1) for number in range(count)])
    work.do(with_other(other, work))

    assert WINDOW == max(had)
    assert count == len(work.outcomes) + len(work.returned)


def test_lines_of_a_helper_are_written_here(with_other: WithOther, caplog: pytest.LogCaptureFixture) -> None:
    """With their level and their logger; who filters by these gets what is meant."""

    def other(pipe: Pipe, _: socket.socket) -> None:
        pipe.receive(wait_s=PATIENCE_S)
        lines = [(logging.WARNING, "s3pool.pool", "a node: 100 % silent"), (logging.DEBUG, "s3pool.x", "")]
        pipe.send(answer_with(done=[done_of(number) for number in range(5)], lines=lines))

    work = Work()
    work.do(with_other(other, work))

    assert [("s3pool.pool", logging.WARNING, "a node: 100 % silent"), ("s3pool.x", logging.DEBUG, "")] == (
        caplog.record_tuples
    )


def test_counts_of_a_helper_are_added(with_other: WithOther) -> None:
    """Or --stats would tell of a part of the requests."""

    def other(pipe: Pipe, _: socket.socket) -> None:
        pipe.receive(wait_s=PATIENCE_S)
        pipe.send(answer_with(done=[done_of(number) for number in range(5)], counts=[(1, 2), (3, 4)]))

    work = Work()
    work.do(with_other(other, work))

    assert [[(1, 2), (3, 4)]] == work.counts


@pytest.fixture
def process() -> Iterator[int]:
    """Give a process that does not end by itself."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "600"], {})
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except OSError:
        return  # it has ended


def is_there(pid: int) -> bool:
    """Say whether a process is there, if only to be asked how it ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_end_of_a_helper_brings_its_counts(process: int) -> None:
    """Requests of other processes are requests of the run; nothing of the process stays."""
    here, there = socket.socketpair()
    Pipe(there).send(answer_with(counts=[(5,)]))
    Pipe(there).end()
    counts: list[Sequence[Any]] = []

    Helper(process, Pipe(here), counts.append).close()

    with there:
        assert b"" == there.recv(1)
    assert ([[(5,)]], False, -1) == (counts, is_there(process), here.fileno())


@pytest.mark.usefixtures("hasty")
def test_helper_that_does_not_end_is_ended(process: int) -> None:
    """It may be in a request that nobody answers."""
    here, there = socket.socketpair()

    with there:
        Helper(process, Pipe(here), lambda _: None).close()

    assert not is_there(process)


@pytest.mark.usefixtures("hasty")
def test_helper_that_somebody_waits_for_is_ended(process: int) -> None:
    """A worker that hangs does not keep the command from ending, nor hears it of an error."""
    here, there = socket.socketpair()
    helper = Helper(process, Pipe(here), lambda _: None)

    with there, helper._lock:
        helper.close()

    assert not is_there(process)


# -- its start -----------------------------------------------------------------------------


def no_fork() -> int:
    """Be a fork that must not be."""
    raise AssertionError("a fork")


def start() -> Helper | None:
    """Start one that would have nothing to work with."""
    return start_helper(SimpleNamespace, add_counts=lambda _: None)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a process with one thread, whatever servers of other tests are at work in it."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)


def test_process_with_threads_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy would have their locks, and not them."""
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    monkeypatch.setattr(os, "fork", no_fork)

    assert start() is None


@pytest.mark.usefixtures("alone")
def test_process_whose_children_vanish_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SIGCHLD is ignored the number of a child may be another's when it is to be ended."""
    monkeypatch.setattr(os, "fork", no_fork)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    try:
        assert start() is None
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("alone")
def test_other_systems_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a fork is not to be had, or is not safe after all."""
    monkeypatch.setattr(helper_module, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(os, "fork", no_fork)

    assert start() is None


@pytest.mark.usefixtures("alone")
def test_refused_fork_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of processes are no reason to fail; signals come as before."""
    during: list[set[signal.Signals]] = []

    def refused() -> int:
        during.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refused)
    before = (signal.pthread_sigmask(signal.SIG_BLOCK, []), len(os.listdir("/proc/self/fd")))

    started = start()

    after = (signal.pthread_sigmask(signal.SIG_BLOCK, []), len(os.listdir("/proc/self/fd")))
    assert (None, before) == (started, after)
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= during[0]


@pytest.mark.usefixtures("alone")
def test_process_without_descriptors_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transfers themselves may do with what there is."""

    def refused() -> tuple[socket.socket, socket.socket]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", refused)
    monkeypatch.setattr(os, "fork", no_fork)

    assert start() is None


# -- the other process's end ---------------------------------------------------------------


@pytest.fixture
def desk_logger() -> Iterator[logging.Logger]:
    """Give the logger that a desk takes over, and give it back."""
    log = logging.getLogger(NAME_OF_ALL)
    handlers = log.handlers
    yield log
    log.handlers = handlers


class Told:
    """What a desk has answered."""

    def __init__(self) -> None:
        self.done: dict[int, tuple[Any, ...]] = {}
        self.back: list[int] = []
        self.lines: list[Any] = []
        self.is_hopeless = False
        self.counts: list[Any] = []

    def add(self, answer: Any) -> None:
        """Take one answer."""
        done, back, lines, self.is_hopeless, counts = answer
        self.done.update((each[0], each) for each in done)
        self.back += back
        self.lines += lines
        self.counts += counts or []


def at_desk(engine: Engine, tasks: Sequence[Item], *, is_stopped: bool = False) -> Told:
    """Have tasks done by a desk in this process; with ``is_stopped`` their sender ends when it has sent them."""
    here, there = socket.socketpair()
    pipe, told = Pipe(here), Told()
    means = SimpleNamespace(engine=engine, tell_counts=lambda: [("counted",)])

    def run() -> None:
        with there:
            _Desk(Pipe(there), lambda: means).run()

    # In two batches, as when there is more to take later.
    for batch in (tasks[:1], tasks[1:]):
        pipe.send((4, [tuple(task) for task in batch]))  # type: ignore[arg-type] # all small ones are tuples
    if is_stopped:
        pipe.end()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with here:
        while len(told.done) + len(told.back) < len(tasks):
            told.add(pipe.receive(wait_s=PATIENCE_S))
        if not is_stopped:
            pipe.end()
        told.add(pipe.receive(wait_s=PATIENCE_S))
        thread.join(PATIENCE_S)
    return told


def files_in(directory: Path, count: int) -> list[UploadTask]:
    """Write files and give a task for each."""
    directory.mkdir()
    for number in range(count):
        (directory / f"f{number:03}").write_bytes(b"%d" % number)
    return [UploadTask(str(directory / f"f{number:03}"), "b", f"k{number:03}", 3) for number in range(count)]


def downloads(fake: FakeS3, root: Path, count: int) -> list[DownloadTask]:
    """Store objects and give a task for each."""
    for number in range(count):
        fake.store.add("b", f"k{number:03}", b"%d" % number, mtime=1_600_000_000)
    return [
        DownloadTask("b", f"k{number:03}", str(root), f"d/f{number:03}", len(str(number))) for number in range(count)
    ]


@pytest.mark.usefixtures("desk_logger")
def test_desk_uploads(fake: FakeS3, make_engine: EngineFactory, tmp_path: Path) -> None:
    """And tells size and ETag of what is stored, by the order in which the tasks came."""
    tasks = files_in(tmp_path / "src", 40)

    told = at_desk(make_engine(), tasks)

    assert {f"k{number:03}": b"%d" % number for number in range(40)} == fake.store.bodies("b")
    assert [(1 + (number > 9), tasks[number].path) for number in range(40)] == [
        (told.done[number][1], tasks[number].path) for number in range(40)
    ]
    assert [fake.store.bucket("b").current(f"k{number:03}").etag for number in range(40)] == [
        told.done[number][2] for number in range(40)
    ]
    assert [os.stat(task.path).st_mtime_ns for task in tasks] == [told.done[number][3] for number in range(40)]


@pytest.mark.usefixtures("desk_logger")
def test_desk_downloads(fake: FakeS3, make_engine: EngineFactory, tmp_path: Path) -> None:
    """With all of the ways of a download: directories, times, whole files."""
    told = at_desk(make_engine(), downloads(fake, tmp_path / "out", 40))

    assert set(range(40)) == set(told.done)
    assert {f"f{number:03}": b"%d" % number for number in range(40)} == {
        path.name: path.read_bytes() for path in (tmp_path / "out" / "d").iterdir()
    }


@pytest.mark.usefixtures("desk_logger")
def test_desk_gives_back_what_fails_or_is_unusual(fake: FakeS3, make_engine: EngineFactory, tmp_path: Path) -> None:
    """One place makes errors into words: who sent the task."""
    tasks = files_in(tmp_path / "src", 10)
    os.unlink(tasks[2].path)
    (tmp_path / "src" / "f003").write_bytes(bytes(SMALL_BYTES + 1))
    fake.fault(Answer(403, "AccessDenied"), op="PutObject", key="k004", times=0)

    told = at_desk(make_engine(), tasks)

    assert [2, 3, 4] == sorted(told.back)
    assert {0, 1, 5, 6, 7, 8, 9} == set(told.done)
    assert not told.is_hopeless


@pytest.mark.usefixtures("desk_logger")
def test_desk_gives_back_where_something_is_in_the_way(
    fake: FakeS3, make_engine: EngineFactory, tmp_path: Path
) -> None:
    """A directory in place of the file is not touched."""
    (tmp_path / "out" / "d" / "f001" / "full").mkdir(parents=True)

    told = at_desk(make_engine(), downloads(fake, tmp_path / "out", 3))

    assert ([1], {0, 2}) == (told.back, set(told.done))
    assert (tmp_path / "out" / "d" / "f001" / "full").is_dir()


@pytest.mark.usefixtures("desk_logger")
def test_desk_begins_nothing_when_its_sender_has_ended(
    fake: FakeS3, make_engine: EngineFactory, tmp_path: Path
) -> None:
    """The run was stopped: what had begun ends, the rest comes back."""
    tasks = files_in(tmp_path / "src", 3 * LOOK_EVERY)

    told = at_desk(make_engine(), tasks, is_stopped=True)

    assert set(told.done) == {int(key[1:]) for key in fake.store.bodies("b")}
    assert set(range(len(tasks))) == {*told.done, *told.back}
    assert set(range(LOOK_EVERY, len(tasks))) <= set(told.back)


def test_desk_without_a_task_makes_nothing(desk_logger: logging.Logger) -> None:
    """A run of few objects does not pay for connections and signatures of a second process."""
    here, there = socket.socketpair()
    Pipe(here).end()
    made: list[object] = []

    with here, there:
        _Desk(Pipe(there), lambda: made.append(desk_logger)).run()  # type: ignore[arg-type,func-returns-value]

    assert [] == made


def test_desk_sends_its_lines(
    fake: FakeS3, make_engine: EngineFactory, tmp_path: Path, desk_logger: logging.Logger
) -> None:
    """The other process has the terminal, and the file that --log-file names."""
    tasks = files_in(tmp_path / "src", 2)
    engine = make_engine()
    in_flight = engine.client.in_flight

    def warned() -> object:
        desk_logger.getChild("x").warning("%d words", 2)
        return in_flight()

    engine.client.in_flight = warned  # type: ignore[method-assign,assignment]

    told = at_desk(engine, tasks)

    assert (logging.WARNING, "s3pool.x", "2 words") in told.lines
    assert len(set(told.lines)) == len(told.lines)


@pytest.mark.usefixtures("desk_logger")
def test_desk_tells_its_counts_at_the_end(make_engine: EngineFactory, tmp_path: Path) -> None:
    """Once: they are added to those of the other process."""
    told = at_desk(make_engine(), files_in(tmp_path / "src", 40))

    assert [("counted",)] == told.counts


@pytest.mark.usefixtures("desk_logger")
def test_desk_to_which_nothing_succeeds_has_no_hope(fake: FakeS3, make_engine: EngineFactory, tmp_path: Path) -> None:
    """Or everything would be tried twice: here and there."""
    fake.fault(Answer(403, "AccessDenied"), op="PutObject", times=0)

    told = at_desk(make_engine(), files_in(tmp_path / "src", IN_VAIN))

    assert (set(), list(range(IN_VAIN)), True) == (set(told.done), sorted(told.back), told.is_hopeless)


@pytest.mark.usefixtures("desk_logger")
def test_desk_keeps_hope_while_something_succeeds(fake: FakeS3, make_engine: EngineFactory, tmp_path: Path) -> None:
    """Objects that are refused here and there do not end the help for the others."""
    for number in range(0, 2 * IN_VAIN, 2):
        fake.fault(Answer(403, "AccessDenied"), op="PutObject", key=f"k{number:03}", times=0)

    told = at_desk(make_engine(), files_in(tmp_path / "src", 2 * IN_VAIN))

    assert (IN_VAIN, IN_VAIN, False) == (len(told.done), len(told.back), told.is_hopeless)

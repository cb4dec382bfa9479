"""A second process that does small transfers beside this one.

One interpreter keeps one processor busy, however many threads it has. A helper gets tasks by
the handful, does them in a lane of its own, over connections of its own, and tells what is
done. Whatever fails or is unusual comes back, and is done here, from the start: a run has one
place where errors are made into words.

It is a fork, made while this process has one thread: that takes 2 ms, where a new interpreter
takes 200 before it can begin. The two ends are one program, so they speak marshal.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from s3pool.transfer.lane import Lane
from s3pool.transfer.tasks import DONE, NOT_STARTED, Done, DownloadTask, FileStamp, Item, Outcome, UploadTask

if TYPE_CHECKING:
    from s3pool.transfer.engine import Engine

logger = logging.getLogger(__name__)

WINDOW = 128  # tasks that a helper has, under way or waiting: two of its answers' worth
LOOK_EVERY = 32  # tasks that a helper takes before it looks whether it is to stop
IN_VAIN = WINDOW  # tasks that come to nothing, one after the other: then all would be tried twice
TICK_S = 0.25  # how often the one who waits for a helper looks whether the run was stopped
END_WITHIN_S = 2.5  # what a helper has under way has this long after that
RECEIVE_BYTES = 256 * 1024
LENGTH = struct.Struct(">I")
INTERRUPTS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
NAME_OF_ALL = "s3pool"  # every logger of the program is below this one

Take = Callable[[], "Item | None"]
Give = Callable[[list[Outcome]], None]
_Line = tuple[int, str, str]  # level, logger, text


class Means(Protocol):
    """What a helper works with, made in its process."""

    @property
    def engine(self) -> Engine:
        """Give an engine with connections of its own."""

    def tell_counts(self) -> Sequence[Any]:
        """Give the counters of its pool, as values that marshal knows."""


class Helper:
    """This process's end of it; one thread at a time has it at work.

    ``begin`` is called before it gets its first tasks; ``add_counts`` takes what the other
    process has counted, when that ends.
    """

    def __init__(
        self,
        pid: int,
        pipe: Pipe,
        add_counts: Callable[[Sequence[Any]], None],
        *,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._pid = pid
        self._pipe = pipe
        self._add_counts = add_counts
        self._begin = begin
        # Held by the thread that has it at work.
        self._lock = threading.Lock()
        self._given: dict[int, Item] = {}  # what it has, by number
        self._number = 0
        self._is_over = False

    def work(
        self,
        take: Take,
        give: Give,
        *,
        give_back: Callable[[Item], None],
        depth: Callable[[], int],
        stop: threading.Event,
    ) -> bool:
        """Have tasks done until ``take`` gives None and all are done; say whether it is of use for more.

        ``give_back`` gets those that are to be done here. ``depth`` tells how many requests
        the helper may have under way.
        """
        with self._lock:
            try:
                deadline = float("inf")
                while time.monotonic() < deadline:
                    if stop.is_set() and deadline == float("inf"):
                        self._pipe.end()
                        self._is_over, deadline = True, time.monotonic() + END_WITHIN_S
                    if not self._is_over:
                        self._hand_out(take, depth())
                    if not self._given:
                        break
                    answer = self._pipe.receive(wait_s=TICK_S)
                    for task in self._sort(answer, give) if answer is not None else ():
                        give_back(task)
            except (OSError, EOFError, ValueError, TypeError, KeyError) as exc:
                logger.debug("the helping process %d is of no use any more: %r", self._pid, exc)
                self._is_over = True
            for task in self._given.values():
                give_back(task)
            self._given.clear()
            return not self._is_over

    def _hand_out(self, take: Take, depth: int) -> None:
        batch: list[Item] = []
        while len(self._given) + len(batch) < WINDOW and (task := take()) is not None:
            batch.append(task)
        if not batch:
            return
        if not self._number:
            self._begin()
        for task in batch:
            self._given[self._number] = task
            self._number += 1
        self._pipe.send((depth, [tuple(task) for task in batch]))  # type: ignore[arg-type] # all small ones are tuples

    def _sort(self, answer: Any, give: Give) -> list[Item]:
        """Pass on what an answer tells; give the tasks that come back."""
        done, back, lines, is_hopeless, counts = answer
        given = self._given
        for level, name, text in lines:
            _log(level, name, text)
        if counts:
            self._add_counts(counts)
        if is_hopeless:
            self._is_over = True
        outcomes = [
            Outcome(
                given[number],
                DONE,
                Done(size, etag, mtime_ns, version_id, sent=sent and FileStamp(*sent)),
                None,
                seconds,
            )
            for number, size, etag, mtime_ns, version_id, sent, seconds in done
        ]
        returned = [given[number] for number in back]
        # Only now, when all of it was understood: what is in no answer is done here.
        for number in (*(each[0] for each in done), *back):
            del given[number]
        if outcomes:
            give(outcomes)
        return returned

    def close(self) -> None:
        """End the process, and take over what it has counted."""
        if self._lock.acquire(timeout=TICK_S):
            with contextlib.suppress(OSError):
                self._pipe.end()
            with contextlib.suppress(OSError, EOFError, ValueError, TypeError, KeyError):
                deadline = time.monotonic() + (TICK_S if self._is_over else END_WITHIN_S)
                while not self._given and (left_s := deadline - time.monotonic()) > 0:
                    answer = self._pipe.receive(wait_s=left_s)
                    if answer is not None:
                        self._sort(answer, lambda _: None)
            self._lock.release()
        self.kill()  # it has ended, or will not do so by itself
        os.waitpid(self._pid, 0)
        self._pipe.close()

    def kill(self) -> None:
        """End the process now, for who cannot wait until close()."""
        os.kill(self._pid, signal.SIGKILL)


def start_helper(
    make_means: Callable[[], Means],
    *,
    add_counts: Callable[[Sequence[Any]], None],
    begin: Callable[[], None] = lambda: None,
) -> Helper | None:
    """Start a process beside this one; None where that cannot be, or is not safe.

    ``make_means`` is called in the other process, when it is needed.
    """
    if sys.platform != "linux" or threading.active_count() > 1 or signal.getsignal(signal.SIGCHLD) != signal.SIG_DFL:
        return None
    try:
        here, there = socket.socketpair()
    except OSError:
        return None
    # Python calls back around a fork, with logging's lock held: an interrupt there would be lost, the lock kept.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
        pid = os.fork()
        if pid == 0:
            _be_helper(there, here, make_means, mask)
    except OSError:
        here.close()
        there.close()
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    there.close()
    return Helper(pid, Pipe(here), add_counts, begin=begin)


def _log(level: int, name: str, text: str) -> None:
    log = logging.getLogger(name)
    log.handle(log.makeRecord(name, level, "", 0, text, (), None))


class Pipe:
    """Whole messages over a pair of sockets."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = bytearray()

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            OSError: the other end is gone.
        """
        body = marshal.dumps(message)
        self._sock.sendall(LENGTH.pack(len(body)) + body)

    def receive(self, *, wait_s: float | None) -> Any:
        """Give the next message; None when there is none within a time, which None does not limit.

        Raises:
            EOFError: the other end will send no more.
            OSError: it is gone.
        """
        while (message := self._next()) is None:
            self._sock.settimeout(wait_s)
            try:
                piece = self._sock.recv(RECEIVE_BYTES)
            except (BlockingIOError, TimeoutError):
                return None
            finally:
                self._sock.settimeout(None)
            if not piece:
                raise EOFError
            self._received += piece
        return message

    def _next(self) -> Any:
        received = self._received
        if len(received) < LENGTH.size:
            return None
        end = LENGTH.size + int(LENGTH.unpack_from(received)[0])
        if len(received) < end:
            return None
        message = marshal.loads(received[LENGTH.size : end])
        del received[:end]
        return message

    def wait_for_end(self) -> None:
        """Wait until the other end will send no more, whether or not all was received."""
        poller = select.poll()
        poller.register(self._sock, select.POLLRDHUP)
        poller.poll()

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end."""
        self._sock.close()


# -- in the other process ------------------------------------------------------------------


def _be_helper(
    sock: socket.socket, of_other: socket.socket, make_means: Callable[[], Means], mask: Iterable[int]
) -> NoReturn:
    code = 1
    try:
        of_other.close()
        pipe = Pipe(sock)
        for each in INTERRUPTS:  # which are often sent to a whole group; the other process decides
            signal.signal(each, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _leave_streams()
        threading.Thread(target=_end_in_time, args=(pipe,), daemon=True).start()
        _Desk(pipe, make_means).run()
        code = 0
    finally:
        # What this process has from the other one is not its own, to flush or to close.
        os._exit(code)


def _end_in_time(pipe: Pipe) -> None:
    """End this process some time after the other one has ended, or has said that it stops."""
    pipe.wait_for_end()
    time.sleep(END_WITHIN_S)
    os._exit(1)


def _leave_streams() -> None:
    """Let who reads the output see its end when the other process has ended."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


class _Desk:
    """Does the tasks that come in, and tells of them."""

    def __init__(self, pipe: Pipe, make_means: Callable[[], Means]) -> None:
        self._pipe = pipe
        self._make_means = make_means
        self._stop: Callable[[], None] = lambda: None
        self._depth = 1
        self._waiting: deque[UploadTask | DownloadTask] = deque()
        self._numbers: dict[int, int] = {}  # by the identity of the task
        self._number = 0
        self._taken = 0
        self._in_vain = 0  # tasks that came to nothing since the last that was done
        self._lines: list[_Line] = []
        log = logging.getLogger(NAME_OF_ALL)
        log.handlers = [_Forward(self._lines)]

    def run(self) -> None:
        """Work until the other process ends this one, or itself."""
        if not self._look(wait_s=None):
            return  # there is not so much to do
        means = self._make_means()
        self._stop = means.engine.stop.set
        while self._waiting or self._look(wait_s=None):
            lane = Lane(
                means.engine,
                depth=lambda: self._depth,
                more=lambda: None,
                take=self._take,
                give=self._give,
                perform=lambda task: Outcome(task, NOT_STARTED),
                fail=lambda task, *_: Outcome(task, NOT_STARTED),
            )
            lane.run()
        self._send([], [], means.tell_counts())

    def _look(self, *, wait_s: float | None) -> bool:
        """Look for tasks; say whether some have come."""
        try:
            message = self._pipe.receive(wait_s=wait_s)
        except EOFError:
            self._stop()
            return False
        if message is None:
            return False
        self._depth, tasks = message
        for fields in tasks:
            task = UploadTask(*fields) if len(fields) == len(UploadTask._fields) else DownloadTask(*fields)
            self._numbers[id(task)] = self._number
            self._number += 1
            self._waiting.append(task)
        return True

    def _take(self) -> Item | None:
        self._taken += 1
        if not self._waiting or self._taken % LOOK_EVERY == 0:
            self._look(wait_s=0.0)
        return self._waiting.popleft() if self._waiting else None

    def _give(self, outcomes: list[Outcome]) -> None:
        done: list[tuple[object, ...]] = []
        back: list[int] = []
        for task, state, facts, _, seconds in outcomes:
            number = self._numbers.pop(id(task))
            if state == DONE:
                sent = facts.sent and tuple(facts.sent)
                done.append((number, facts.size, facts.etag, facts.mtime_ns, facts.version_id, sent, seconds))
            else:
                back.append(number)
        self._send(done, back, None)

    def _send(self, done: list[tuple[object, ...]], back: list[int], counts: Sequence[Any] | None) -> None:
        self._in_vain = 0 if done else self._in_vain + len(back)
        self._pipe.send((done, back, self._lines, self._in_vain >= IN_VAIN, counts))
        self._lines.clear()


class _Forward(logging.Handler):
    """Keeps lines for the other process, which writes them."""

    def __init__(self, lines: list[_Line]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lines.append((record.levelno, record.name, record.getMessage()))

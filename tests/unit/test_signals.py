"""Signals are raised at once, but for the lines that belong together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from s3pool import errors
from s3pool.errors import signals_held, signals_raise

PATIENCE_S = 10.0


class Stopped(KeyboardInterrupt):
    """What the signal is turned into here."""


@pytest.fixture
def raising() -> Iterator[None]:
    """Have SIGHUP raise."""
    with signals_raise([(signal.SIGHUP, Stopped)]):
        yield


def hang_up() -> None:
    """Send the signal to this process, and let Python notice it."""
    os.kill(os.getpid(), signal.SIGHUP)
    os.sched_yield()


def hold(*acts: Callable[[], object]) -> None:
    """Do something while signals are held."""
    with signals_held:
        for act in acts:
            act()


@pytest.mark.usefixtures("raising")
def test_signal_raises_at_once() -> None:
    """Nobody waits for what nobody needs."""
    with pytest.raises(Stopped):
        hang_up()


@pytest.mark.usefixtures("raising")
def test_signal_waits_for_the_lines_that_belong_together() -> None:
    """What is counted and not told would be missing in the output."""
    done: list[str] = []

    with pytest.raises(Stopped):
        hold(hang_up, lambda: done.append("all"))

    assert ["all"] == done


@pytest.mark.usefixtures("raising")
def test_signal_does_not_wait_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines may be written to a pipe that nobody reads."""
    monkeypatch.setattr(errors, "HELD_AT_MOST_S", 0.01)

    done: list[str] = []

    with pytest.raises(Stopped):
        hold(hang_up, lambda: threading.Event().wait(PATIENCE_S), lambda: done.append("all"))

    assert [] == done


@pytest.mark.usefixtures("raising")
def test_second_signal_raises_at_once() -> None:
    """Who asks twice is in a hurry."""
    done: list[str] = []

    with pytest.raises(Stopped):
        hold(hang_up, hang_up, lambda: done.append("all"))

    assert [] == done


def test_handlers_are_as_before_afterwards() -> None:
    """A program that calls this one has handlers of its own."""
    before = signal.getsignal(signal.SIGHUP)

    with signals_raise([(signal.SIGHUP, Stopped)]):
        assert before != signal.getsignal(signal.SIGHUP)

    assert before == signal.getsignal(signal.SIGHUP)


def test_ignored_signal_stays_ignored() -> None:
    """As nohup wants it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_raise([(signal.SIGHUP, Stopped)]):
            hang_up()
    finally:
        signal.signal(signal.SIGHUP, before)


class _Finalized:
    """Is interrupted in its finalizer, from which no exception comes out."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def _finalize_and_wait() -> None:
    _Finalized()
    threading.Event().wait(PATIENCE_S)


def test_interrupt_inside_a_finalizer_is_not_lost() -> None:
    """The import system has callbacks of this kind, and a command went on as if nobody had interrupted it."""
    with signals_raise([(signal.SIGINT, Stopped)]), pytest.raises(Stopped):
        _finalize_and_wait()

"""Signals that end the program: as exceptions in the main thread, held back where lines belong together."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
SOON_S = 0.001  # long enough to be out of a finalizer
# A signal that comes right before a wait does not end it: the main thread looks so often whether there was one.
LOOK_FOR_SIGNALS_S = 1.0
HELD_AT_MOST_S = 0.5  # a write to a pipe that nobody reads must not hold a signal back for good


class _Held:
    """A context in which signals wait; it may be entered in any thread, and holds them in the main one."""

    def __init__(self) -> None:
        self._main = threading.main_thread().ident
        self._depth = 0
        self._waiting: BaseException | None = None

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._depth += 1

    def __exit__(self, *_exception: object) -> None:
        if threading.get_ident() != self._main:
            return
        self._depth -= 1
        if self._waiting is not None and not self._depth:
            self.release()

    def raise_or_hold(self, error: BaseException) -> None:
        """Raise an error now, or at the end of the context."""
        is_second = self._waiting is not None
        self._waiting = error
        if is_second or not self._depth:
            self.release()
        else:
            signal.setitimer(signal.ITIMER_REAL, HELD_AT_MOST_S)

    def raise_soon(self, error: BaseException) -> None:
        """Raise an error that was raised where it could not be passed on."""
        self._waiting = error
        signal.setitimer(signal.ITIMER_REAL, SOON_S)

    def release(self) -> None:
        """Raise what has waited."""
        error, self._waiting = self._waiting, None
        if error is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise error


signals_held = _Held()


@contextmanager
def signals_raise(errors: Iterable[tuple[int, Callable[[], BaseException]]]) -> Iterator[None]:
    """Raise an error for each of some signals, unless the signal is ignored or somebody else's.

    An error that is raised inside a finalizer or a weak reference's callback, as imports have them,
    would be printed and forgotten by the interpreter: it is raised again after the callback.
    """
    makers = dict(errors)
    unraisable_hook = sys.unraisablehook

    def on_signal(number: int, _frame: FrameType | None) -> None:
        signals_held.raise_or_hold(makers[number]())

    def on_alarm(_number: int, _frame: FrameType | None) -> None:
        signals_held.release()

    def on_unraisable(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):
            signals_held.raise_soon(lost.exc_value)
        else:
            unraisable_hook(lost)

    handlers = [*((number, on_signal) for number in makers), (signal.SIGALRM, on_alarm)]
    changed = [(number, handler) for number, handler in handlers if signal.getsignal(number) in DEFAULTS]
    before = [(number, signal.signal(number, handler)) for number, handler in changed]
    if signal.getsignal(signal.SIGALRM) is on_alarm:
        sys.unraisablehook = on_unraisable
    try:
        yield
    finally:
        sys.unraisablehook = unraisable_hook
        for number, handler_before in before:
            signal.signal(number, handler_before)

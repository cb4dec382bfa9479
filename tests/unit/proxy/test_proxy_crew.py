"""Threads that wait for work."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import pytest

from s3pool.proxy import crew
from s3pool.proxy.crew import Crew

TIMEOUT_S = 20.0


def test_as_many_threads_as_jobs_at_a_time() -> None:
    """No job waits for another."""
    team, all_here = Crew("s3pool-test"), threading.Barrier(21)

    for _ in range(20):
        team.give(lambda: all_here.wait(TIMEOUT_S))  # type: ignore[arg-type, return-value]

    all_here.wait(TIMEOUT_S)


def test_resting_thread_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what it rests for."""
    monkeypatch.setattr(crew, "REST_S", TIMEOUT_S)
    team, seen, done = Crew("s3pool-test"), [], threading.Semaphore(0)

    def note() -> None:
        seen.append(threading.get_ident())
        done.release()

    for _ in range(10):
        team.give(note)
        assert done.acquire(timeout=TIMEOUT_S)
        await_rest(team)

    assert 1 == len(set(seen))
    assert 10 == len(seen)


def await_rest(team: Crew) -> None:
    """Wait until a thread rests."""
    pause = threading.Event()
    while not team._resting:
        pause.wait(0.001)


def test_thread_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet proxy has no threads to spare."""
    monkeypatch.setattr(crew, "REST_S", 0.01)
    team, threads = Crew("s3pool-test"), []

    team.give(lambda: threads.append(threading.current_thread()))

    while not threads:
        threading.Event().wait(0.001)
    threads[0].join(TIMEOUT_S)
    assert (False, 0) == (threads[0].is_alive(), team._resting)


def test_failing_job_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and its thread goes on."""
    team, done = Crew("s3pool-test"), threading.Event()

    team.give(lambda: int("none"))  # type: ignore[arg-type, return-value]
    await_rest(team)
    team.give(done.set)

    assert done.wait(TIMEOUT_S)
    assert "a job failed" in caplog.text


@pytest.mark.parametrize("most", [0, 1])
def test_few_threads_rest(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """After a rush most of them end."""
    monkeypatch.setattr(crew, "MOST_RESTING", most)
    monkeypatch.setattr(crew, "REST_S", TIMEOUT_S)
    team, all_here, threads = Crew("s3pool-test"), threading.Barrier(5), []

    def note() -> None:
        threads.append(threading.current_thread())
        all_here.wait(TIMEOUT_S)

    job: Callable[[], None] = note
    for _ in range(5):
        team.give(job)

    while sum(thread.is_alive() for thread in threads) > most or len(threads) < 5:
        threading.Event().wait(0.001)
    assert most == sum(thread.is_alive() for thread in threads)


def test_resting_thread_keeps_nothing_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy proxy would hold every thread's first connection for ever."""
    monkeypatch.setattr(crew, "REST_S", TIMEOUT_S)
    team, done = Crew("s3pool-test"), threading.Event()

    def job() -> None:
        done.set()

    remains = weakref.ref(job)
    team.give(job)
    del job
    assert done.wait(TIMEOUT_S)
    await_rest(team)

    assert remains() is None

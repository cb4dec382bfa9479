"""Threads that wait for work."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import pytest

from s3pool.proxy.event_loop import ThreadCache

TIMEOUT_S = 20.0


def test_as_many_threads_as_jobs_at_a_time() -> None:
    """No job waits for another."""
    cache, all_here = ThreadCache("s3pool-test"), threading.Barrier(21)

    for _ in range(20):
        cache.submit(lambda: all_here.wait(TIMEOUT_S))  # type: ignore[arg-type, return-value]

    all_here.wait(TIMEOUT_S)


def test_resting_thread_is_used_again() -> None:
    """That is what it rests for."""
    cache, seen, done = ThreadCache("s3pool-test", rest_s=TIMEOUT_S), [], threading.Semaphore(0)

    def note() -> None:
        seen.append(threading.get_ident())
        done.release()

    for _ in range(10):
        cache.submit(note)
        assert done.acquire(timeout=TIMEOUT_S)
        await_rest(cache)

    assert 1 == len(set(seen))
    assert 10 == len(seen)


def await_rest(cache: ThreadCache) -> None:
    """Wait until a thread rests."""
    pause = threading.Event()
    while not cache.resting:
        pause.wait(0.001)


def test_thread_without_work_ends() -> None:
    """A quiet proxy has no threads to spare."""
    cache, threads = ThreadCache("s3pool-test", rest_s=0.01), []

    cache.submit(lambda: threads.append(threading.current_thread()))

    while not threads:
        threading.Event().wait(0.001)
    threads[0].join(TIMEOUT_S)
    assert (False, 0) == (threads[0].is_alive(), cache.resting)


def test_failing_job_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and its thread goes on."""
    cache, done = ThreadCache("s3pool-test"), threading.Event()

    cache.submit(lambda: int("none"))  # type: ignore[arg-type, return-value]
    await_rest(cache)
    cache.submit(done.set)

    assert done.wait(TIMEOUT_S)
    assert "a job failed" in caplog.text


@pytest.mark.parametrize("most", [0, 1])
def test_few_threads_rest(most: int) -> None:
    """After a rush most of them end."""
    cache, all_here, threads = ThreadCache("s3pool-test", rest_s=TIMEOUT_S, most_resting=most), threading.Barrier(5), []

    def note() -> None:
        threads.append(threading.current_thread())
        all_here.wait(TIMEOUT_S)

    job: Callable[[], None] = note
    for _ in range(5):
        cache.submit(job)

    while sum(thread.is_alive() for thread in threads) > most or len(threads) < 5:
        threading.Event().wait(0.001)
    assert most == sum(thread.is_alive() for thread in threads)


def test_resting_thread_keeps_nothing_of_its_work() -> None:
    """A busy proxy would hold every thread's first connection for ever."""
    cache, done = ThreadCache("s3pool-test", rest_s=TIMEOUT_S), threading.Event()

    def job() -> None:
        done.set()

    remains = weakref.ref(job)
    cache.submit(job)
    del job
    assert done.wait(TIMEOUT_S)
    await_rest(cache)

    assert remains() is None

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache

import pytest

from s3pool.s3.key_ranges import ConcurrencyLimit, Counts
from s3pool.s3.list_all import list_pages
from s3pool.s3.range_scheduler import RangeScheduler
from tests.support.memory_lister import MemoryLister, order

PAGE = 100
KEYS = 10_000
MOST_PERCENT = 115
WORDS = ("alpha", "build", "cache", "delta", "events", "files", "geo", "house", "img", "job", "kit", "log", "media")
CJK = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
CYRILLIC = [chr(code) for code in range(0x430, 0x450)]
LATIN = list("abcdefghijklmnopqrstuvwxyzäöüéèß")
EMOJI = [chr(code) for code in range(0x1F600, 0x1F640)]

Shape = Callable[[random.Random], Sequence[str]]


def hashes(chance: random.Random) -> Sequence[str]:
    """Give names like checksums."""
    return [f"{chance.getrandbits(128):032x}" for _ in range(KEYS)]


def numbers(_: random.Random) -> Sequence[str]:
    """Give one sequence of padded numbers."""
    return [f"obj-{number:08d}" for number in range(KEYS)]


def round_numbers(_: random.Random) -> Sequence[str]:
    """Give numbers whose round ones stand where pages end."""
    return [f"obj-{number:08d}.jpg" for number in range(100 * PAGE)]


def dates(chance: random.Random) -> Sequence[str]:
    """Give logs below years, months, days, hours and hosts, more by day than by night."""
    hours = [min(23, int(abs(chance.gauss(13, 5)))) for _ in range(KEYS)]
    return [
        f"logs/2026/{chance.randint(1, 12):02d}/{chance.randint(1, 28):02d}/{hour:02d}"
        f"/host-{chance.randrange(12):02d}/part-{chance.getrandbits(32):08x}.json.gz"
        for hour in hours
    ]


def one_directory(chance: random.Random) -> Sequence[str]:
    """Give a directory that holds nine keys of ten."""
    hot = [f"data/hot/{number:012d}" for number in range(KEYS * 9 // 10)]
    return [*hot, *(f"archive/{chance.randrange(300):04d}/x-{number}" for number in range(KEYS // 10))]


def many_directories(chance: random.Random) -> Sequence[str]:
    """Give directories of very different size, most of a few keys."""
    keys: list[str] = []
    for number in range(3000):
        stem = f"{chance.choice(WORDS)}/{chance.choice(WORDS)}-{chance.getrandbits(16):04x}"
        keys += [f"{stem}/obj_{chance.getrandbits(40)}.bin" for _ in range(1 + 1500 // (number + 1))]
    return keys


def tiny_directories(chance: random.Random) -> Sequence[str]:
    """Give a few keys for each of very many directories."""
    return [
        f"{chance.choice('abcdefghij')}/u-{chance.randrange(KEYS):06d}/{name}"
        for _ in range(KEYS // 2)
        for name in "xy"
    ]


def scripts(chance: random.Random) -> Sequence[str]:
    """Give names in Chinese, Russian, German and emoji below one directory."""
    keys = []
    for _ in range(KEYS):
        letters = chance.choices((CJK, CYRILLIC, LATIN, EMOJI), (50, 25, 20, 5))[0]
        keys.append(f"写真/{''.join(chance.choices(letters, k=2))}/{''.join(chance.choices(letters, k=6))}.jpg")
    return keys


def chinese(chance: random.Random) -> Sequence[str]:
    """Give one flat directory of Chinese names."""
    return ["".join(chr(chance.randrange(0x4E00, 0x9FA5)) for _ in range(6)) for _ in range(KEYS)]


def emoji(chance: random.Random) -> Sequence[str]:
    """Give names beyond the first plane."""
    return [f"{chance.choice(EMOJI)}/{''.join(chance.choices(EMOJI, k=4))}" for _ in range(KEYS)]


def extensions(chance: random.Random) -> Sequence[str]:
    """Give keys that are beginnings of one another."""
    names = [f"{chance.getrandbits(48):012x}" for _ in range(KEYS // 4)]
    return [name + end for name in names for end in ("", "/", "/a", "a")]


def long_names(chance: random.Random) -> Sequence[str]:
    """Give names that differ only far behind."""
    return [f"{'x' * 200}/{'y' * 100}/{chance.getrandbits(64):016x}" for _ in range(KEYS // 2)]


def odd_characters(chance: random.Random) -> Sequence[str]:
    """Give names full of what URLs and XML change."""
    return ["".join(chance.choices(" +%41&'~\n\x01\ufffe!<>", k=8)) for _ in range(KEYS)]


SHAPES: dict[str, Shape] = {
    shape.__name__: shape
    for shape in (
        hashes,
        numbers,
        round_numbers,
        dates,
        one_directory,
        many_directories,
        tiny_directories,
        scripts,
        chinese,
        emoji,
        extensions,
        long_names,
        odd_characters,
    )
}


@cache
def keys_of(shape: str) -> tuple[str, ...]:
    """Give the keys of a shape, always the same, in order."""
    return tuple(sorted(set(SHAPES[shape](random.Random(7))), key=order))


def run(lister: MemoryLister, jobs: int, *, ordered: bool) -> tuple[list[str], Counts]:
    """List everything; answers come about in the order in which they were asked for."""
    chance = random.Random(jobs)
    scheduler = RangeScheduler("b", prefix="", limit=ConcurrencyLimit(jobs), ordered=ordered)
    under_way = []
    found: list[str] = []
    while not scheduler.is_finished:
        while (request := scheduler.take()) is not None:
            page = lister.list_objects_page(
                "b", prefix=request.prefix, start_after=request.start_after, token=request.token
            )
            under_way.append((request, page))
        scheduler.apply(*under_way.pop(chance.randrange(min(2, len(under_way)))))
        while (ready := scheduler.pop()) is not None:
            found += [info.key for info in ready.objects]
    return found, scheduler.counts


@pytest.mark.parametrize("jobs", [2, 4, 8])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_extra_requests_stay_below_15_percent(shape: str, ordered: bool, jobs: int) -> None:
    """Every request costs the servers, whatever the keys look like."""
    keys = keys_of(shape)
    found, counts = run(MemoryLister(keys, page_size=PAGE), jobs, ordered=ordered)

    assert sorted(keys) == sorted(found)
    assert 100 * counts.requests <= MOST_PERCENT * -(-len(keys) // PAGE)


@pytest.mark.parametrize("pages", [15, 20, 30, 50])
@pytest.mark.parametrize("shape", SHAPES)
def test_short_listing_is_shared_with_care(shape: str, pages: int) -> None:
    """While nobody knows how much is to come, a cut may turn out to be for nothing."""
    keys = keys_of(shape)[: pages * PAGE]
    _, counts = run(MemoryLister(keys, page_size=PAGE), 8, ordered=True)

    assert 100 * counts.requests <= MOST_PERCENT * pages
    assert counts.cuts >= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_one_job_asks_for_nothing_in_vain(shape: str) -> None:
    """One request after another needs one for each page."""
    lister = MemoryLister(keys_of(shape), page_size=PAGE)

    assert list(keys_of(shape)) == [info.key for page in list_pages(lister, "b") for info in page.objects]
    assert -(-len(lister.keys) // PAGE) == len(lister.asked)


@pytest.mark.parametrize("shape", ["hashes", "numbers", "dates", "one_directory", "chinese", "tiny_directories"])
def test_work_is_shared_all_the_same(shape: str) -> None:
    """To ask for little is easy for one who never cuts."""
    _, counts = run(MemoryLister(keys_of(shape), page_size=PAGE), 8, ordered=True)

    assert counts.cuts >= 7


@pytest.mark.parametrize(("count", "requests"), [(0, 1), (1, 1), (PAGE, 1), (PAGE + 1, 2)])
def test_small_listing_is_not_cut(count: int, requests: int) -> None:
    """A listing that might have been large must not cost more when it was not."""
    lister = MemoryLister([f"{number:04d}" for number in range(count)], page_size=PAGE)
    _, counts = run(lister, 64, ordered=True)

    assert requests <= counts.requests <= 2 * requests - 1

from __future__ import annotations

from random import Random

import pytest

from s3pool.errors import RefusedError
from s3pool.transfer.safe_path import KeyMapper


def refused(keys: list[str]) -> list[str]:
    """Give the keys of a sorted listing that the mapper refuses."""
    mapper = KeyMapper(lambda bucket, key: key in keys)
    found = []
    for key in sorted(keys, key=str.encode):
        try:
            mapper.check("b", "", key)
        except RefusedError:
            found.append(key)
    return found


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["a", "b/c", "b-c", "b/d"], []),
        (["a//b", "a/b"], ["a/b"]),
        (["a/./b", "a//b", "a/b"], ["a//b", "a/b"]),
        (["a/+b", "a//+b"], ["a//+b"]),
        (["a//b"], []),
        (["x", "x-y", "x/y", "x0"], ["x/y"]),
        (["x", "x/y/z", "x/y"], ["x/y", "x/y/z"]),
        (["x/", "x/y"], []),
        (["x", "x/"], ["x/"]),
        (["../a", "b"], ["../a"]),
    ],
)
def test_keys_that_cannot_have_their_own_file_are_refused(keys: list[str], expected: list[str]) -> None:
    """The first of two keys for one file stays, whichever spelling comes first."""
    assert expected == refused(keys)


def test_memory_does_not_grow_with_plain_keys() -> None:
    """A listing may have a billion of them."""
    mapper = KeyMapper(lambda bucket, key: False)

    for number in range(1000):
        mapper.check("b", "", f"dir/{number:05}")

    assert (0, 1) == (len(mapper._unusual), len(mapper._above))


def test_another_listing_starts_anew() -> None:
    """Two sources are two orders."""
    mapper = KeyMapper(lambda bucket, key: False)
    mapper.check("b", "p/", "x")

    mapper.restart()

    mapper.check("b", "q/", "x/y")


def refused_in_blocks(keys: list[str], random: Random) -> list[str]:
    """Give the keys that are refused when they come many at once."""
    mapper = KeyMapper(lambda bucket, key: key in keys)
    left, found = sorted(keys, key=str.encode), []
    while left:
        count = random.randint(1, 8)
        block, left = left[:count], left[count:]
        if mapper.check_all(block):
            continue
        for key in block:
            try:
                mapper.check("b", "", key)
            except RefusedError:
                found.append(key)
    return found


def test_many_keys_at_once_are_judged_as_one_by_one() -> None:
    """The short way must not let a key pass that the long way refuses, wherever a block ends."""
    random = Random(7)
    for _ in range(2000):
        letters = random.choice(("ab/", "ab/.", "ab-/", "a/\0."))
        keys = list({"".join(random.choices(letters, k=random.randint(1, 5))) for _ in range(random.randint(1, 25))})

        assert refused(keys) == refused_in_blocks(keys, random)


def test_plain_keys_go_the_short_way() -> None:
    """A listing of a million of them must not be taken in hand one by one."""
    mapper = KeyMapper(lambda bucket, key: False)

    assert mapper.check_all(["a", "a-b", "b/c.d", "b/..d", "b/.d", "c/d/e"])
    assert not mapper.check_all(["c/d/e/f", "c/x"])

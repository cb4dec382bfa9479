from __future__ import annotations

import pytest

from s3pool.errors import RefusedError
from s3pool.transfer.mapping import KeyMapper


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

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from s3pool.location import name_bytes
from s3pool.model import ListPage, ObjectInfo
from s3pool.s3.key_ranges import HeldPage, KeyRange, Position
from s3pool.s3.paging import LoopGuard
from s3pool.s3.split_points import KeyStatistics, SplitPoints, is_safe, shared_length, successor

TEXT = st.text(max_size=12)


def range_after(keys: Sequence[str], *, end: str | None = None) -> KeyRange:
    """Give a range that has shown one page."""
    found = KeyRange(keys[-1], end, LoopGuard("b"))
    found.first = found.page_first = keys[0]
    found.pages = 1
    return found


def split_points_after(keys: Sequence[str], prefix: str = "") -> SplitPoints:
    """Give a split_points that has seen one page."""
    split_points = SplitPoints(prefix)
    split_points.learn(keys)
    return split_points


def test_numbers_are_cut_where_they_have_not_moved_yet() -> None:
    """The far digits say how much may follow; guesses inside the last ones do not."""
    keys = [f"logs/{number:06d}" for number in range(1000)]
    span = range_after(keys, end="m")

    names = split_points_after(keys).choose(span, 1)

    assert 1 == len(names)
    assert names[0] in {"logs/099999", "logs/009999"}


def test_numbers_are_cut_at_the_key_before_a_round_one() -> None:
    """A range that ends in a key is over with the page that shows it; else one more must be asked for."""
    keys = [f"obj-{number:06d}.jpg" for number in range(2000)]

    names = split_points_after(keys).choose(range_after(keys, end="obj-01"), 2)

    assert names
    assert all(name.endswith("999.jpg") for name in names)


def test_letters_are_cut_where_they_stand() -> None:
    """No key below a letter can be foretold."""
    keys = [f"{letter}{number:02d}" for letter in "abcd" for number in range(50)]
    keys += [f"d{number:02d}" for number in range(50, 60)]

    names = split_points_after(keys).choose(range_after(keys[:60], end="d"), 3)

    assert names
    assert all(not name.endswith("9") for name in names)


def test_open_end_is_looked_for_behind_a_whole_script() -> None:
    """Behind one character of thousands there is nearly always another."""
    keys = [chr(0x4E00 + 7 * number) for number in range(300)]

    names = split_points_after(keys).choose(range_after(keys), 1)

    assert [chr(0xA000)] == names


def test_empty_half_is_followed_by_letters_in_between() -> None:
    """That nothing follows far beyond says little about the letters before it."""
    keys = [f"a/{number:03d}" for number in range(50)] + [f"b/{number:03d}" for number in range(50)]
    span = range_after(keys, end="o")
    span.is_upper_empty = True

    names = split_points_after(keys).choose(span, 1)

    assert 1 == len(names)
    assert "b" < names[0] < "o"
    assert 1 == len(names[0])


def test_open_end_is_tested_first() -> None:
    """Whether anything follows the first tree decides about all else."""
    keys = [f"logs/{number:06d}" for number in range(1000)]

    assert ["m"] == split_points_after(keys).choose(range_after(keys), 4)


def test_cut_never_leaves_the_prefix() -> None:
    """What lies outside was not asked for."""
    keys = [f"a/b/{number:04d}" for number in range(1000)]
    names = split_points_after(keys, "a/b/").choose(range_after(keys), 4)

    assert names
    assert all(name.startswith("a/b/") for name in names)


def test_nothing_is_cut_where_nothing_can_be() -> None:
    """Between a key and itself with a character more there is no name worth a request."""
    span = range_after(["a"], end="a\x01")

    assert [] == split_points_after(["a"]).choose(span, 4)


def test_one_cut_ahead_is_near() -> None:
    """In order, pages far from the front would only wait."""
    keys = [f"{number:04d}" for number in range(0, 1000, 10)]
    near = split_points_after(keys).choose(range_after(["0000", "0300"], end="9999"), 1, ahead=2.0)
    far = split_points_after(keys).choose(range_after(["0000", "0300"], end="9999"), 1, ahead=1000.0)

    assert near <= far


@given(keys=st.lists(TEXT.filter(bool), min_size=1, max_size=30), end=TEXT, count=st.integers(1, 8))
def test_cuts_lie_inside_in_order_and_can_be_sent(keys: list[str], end: str, count: int) -> None:
    """A cut at or below the cursor would list keys twice, one beyond the end would lose some."""
    keys = sorted(set(keys), key=name_bytes)
    bound = end if name_bytes(end) > name_bytes(keys[-1]) else None

    names = split_points_after(keys).choose(range_after(keys, end=bound), count)

    orders = [name_bytes(keys[-1]), *map(name_bytes, names), *([name_bytes(bound)] if bound else [])]
    assert all(low < high for low, high in pairwise(orders))
    assert all(is_safe(name[-1]) for name in names)


@given(one=TEXT, other=TEXT)
def test_shared_length_is_that_of_the_common_beginning(one: str, other: str) -> None:
    """Everything else counts on it."""
    length = shared_length(one, other)

    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


def test_successor_leaves_out_what_servers_refuse() -> None:
    """Controls, surrogates and the percent sign have all broken a listing."""
    assert ("&", "!", "\xa1", "\ue000", "") == (
        successor("$"),
        successor("\x20"),
        successor("\xa0"),
        successor("\ud7ff"),
        successor("\U0010fffd"),
    )


def test_alphabet_knows_the_letters_of_a_place() -> None:
    """Digits stand where digits stood, letters where letters did."""
    statistics = KeyStatistics()
    statistics.learn(["day-1/a", "day-2/b", "day-3/c"], fixed=4)

    assert (["1", "2", "3"], ["a", "b", "c"]) == (statistics.letters("day-9/z", 4), statistics.letters("day-9/z", 6))


def test_alphabet_is_complete_when_nothing_new_turns_up() -> None:
    """Then guessing is over."""
    statistics = KeyStatistics()
    statistics.learn([f"k{number % 4}" for number in range(40)], fixed=1)

    assert (True, False) == (statistics.is_complete("k0", 1), statistics.is_complete("x0", 0))


@given(keys=st.lists(st.text(st.characters(), min_size=1), min_size=1, max_size=5))
def test_packed_page_is_the_same_page(keys: list[str]) -> None:
    """Pages that wait are packed to save memory, whatever their names hold."""
    objects = tuple(ObjectInfo(key, 7, "2026-01-22T20:44:33.219Z", "abc", "COLD") for key in keys)
    held = HeldPage(ListPage(objects, (), truncated=True), Position(""))

    held.pack()
    held.pack()

    assert objects == held.open().objects

"""Whether the ranges of a listing fit together: what one has read beyond its end, the next must begin with.

Some servers skip a subtree when start-after names its directory exactly (SeaweedFS 4.44), and
a cut may well be such a name. Nothing else would show that keys are missing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

from s3pool.s3.columns import name_order
from s3pool.s3.keyrange import KeyRange


def link(r: KeyRange, made: Sequence[KeyRange]) -> None:
    """Put new ranges between a range and its right neighbour."""
    made[-1].right, made[-1].excludes_end = r.right, r.excludes_end
    r.excludes_end = False
    for left, right in pairwise([r, *made]):
        left.right = right
    _tell_right(made[-1])


def absorb(left: KeyRange, r: KeyRange) -> None:
    """Let a range end where its right neighbour does."""
    left.end, left.excludes_end, left.right = r.end, r.excludes_end, r.right
    left.estimate, left.is_upper_empty = None, False
    _tell_right(left)


def _tell_right(left: KeyRange) -> None:
    """Let the right neighbour give its keys back to this range, as long as it may have to."""
    if left.right is not None and not left.right.is_begun:
        left.right.left = left


def begins_well(r: KeyRange, keys: Sequence[str], *, is_last: bool) -> bool:
    """Note the first key of a range; False when it leaves out what the range before has read.

    ``is_last`` says that there is nothing behind the keys of this page.
    """
    if r.opens_with is not None:
        return True
    place = bisect_right(keys, name_order(r.cursor), key=name_order) if keys else 0
    if place == len(keys) and not is_last:
        return True  # nothing is known yet
    first = keys[place] if place < len(keys) else ""
    if r.expected and (not first or name_order(first) > name_order(r.expected)):
        r.expected = r.token = ""  # whoever takes the keys again begins anew, and may find others
        r.is_led = False
        return False
    r.opens_with = first
    return True


def widens(r: KeyRange, beyond: str) -> bool:
    """Compare the first key beyond a range's end with what the next ones began with; close a gap between them.

    True when there was one: the range then ends later, where the gap ends.
    """
    right = r.right
    if right is None:
        return False
    if right.opens_with is None:
        right.expected = beyond
        return False
    opens_with = right.opens_with
    if opens_with and name_order(opens_with) <= name_order(beyond):
        return False
    if opens_with and (right.end is None or name_order(opens_with) <= name_order(right.end)):
        r.end = right.floor = opens_with
        r.excludes_end, r.estimate = True, None
    else:
        absorb(r, right)  # which is empty, as far as was told
    return True


def first_beyond(r: KeyRange, keys: Sequence[str], start: int) -> int:
    """Return the place of the first key beyond the end of a range, the number of keys for none."""
    if r.end is None or name_order(keys[-1]) < name_order(r.end):
        return len(keys)
    return (bisect_left if r.excludes_end else bisect_right)(keys, name_order(r.end), lo=start, key=name_order)

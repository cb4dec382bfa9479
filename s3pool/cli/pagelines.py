"""The plain lines of a whole page of a listing at once, column by column.

It gives what ``lines`` gives for each object, and costs a third: no step is done line by
line that can be done for a column in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from operator import methodcaller

from s3pool.cli.lines import HUMAN_WIDTH, exact_size, human_size
from s3pool.model import ObjectInfo
from s3pool.s3.columns import Times, columns_of
from s3pool.units import FIRST_OF_NEXT, LAST_WITH_DECIMAL, STEP, STEP_BITS

HALF = STEP // 2
TENTHS_END = int(LAST_WITH_DECIMAL * STEP) + 1  # sizes from here on have no decimal
WHOLES_END = int(FIRST_OF_NEXT * STEP)  # and from here on another unit
WORTH_A_TABLE = 200  # sizes; less are done before the table is made
COLUMNS = 4  # of a plain line: stamp, size, class, name
STAMP_START = len("\n[")
STAMP = b"\n[YYYY-MM-DD hh:mm:ss UTC] \0"  # with the line break before it, and a sign at which a column is split
STAMP_DIGITS = tuple(place for place, sign in enumerate(STAMP) if sign in b"YMDhms")
PRINTABLE = bytes(range(ord(" "), 0x7F))


def page_formatter(base: str, *, exact: bool) -> Callable[[Sequence[ObjectInfo]], str | None]:
    """Give what makes the plain lines of a whole page at once, names relative to a base.

    It gives None for a page with a name that is not below the base, is the base, or needs to
    be escaped, or with a time of another shape: such a page is formatted line by line.
    """
    start, is_below = len(base), methodcaller("startswith", base)

    def lines(objects: Sequence[ObjectInfo]) -> str | None:
        columns = columns_of(objects)
        if columns is None:
            return None
        keys, sizes, times, classes = columns
        names = [key[start:] for key in keys] if base else keys
        if "" in names or not _are_printable(names) or (base and not all(map(is_below, keys))):
            return None
        # Many objects have the same size, of parts and blocks.
        different = set(sizes)
        texts = list(map(exact_size, map(int, different))) if exact else human_sizes(list(map(int, different)))
        cells = [""] * (COLUMNS * len(names))
        cells[0::COLUMNS] = stamp_column(times)
        cells[1::COLUMNS] = map(dict(zip(different, texts, strict=True)).__getitem__, sizes)
        cells[2::COLUMNS] = _spaced(classes)
        cells[3::COLUMNS] = names
        # The break stands before each line, and belongs behind it.
        return "".join(cells)[1:] + "\n"

    return lines


def _spaced(texts: Sequence[str]) -> list[str]:
    """Put blanks around each text; nearly always all are the same."""
    if texts.count(texts[0]) == len(texts):
        return [f" {texts[0]} "] * len(texts)
    return [f" {text} " for text in texts]


def _are_printable(names: Sequence[str]) -> bool:
    text = "".join(names)
    return not text.encode().translate(None, PRINTABLE) if text.isascii() else text.isprintable()


def stamp_column(times: Times) -> list[str]:
    """Give the stamp of each time, with a line break before it and a blank behind it.

    The digits at one place are put into all stamps at once.
    """
    count = len(times.text) // times.width
    column = bytearray(STAMP * count)
    for place in STAMP_DIGITS:
        column[place :: len(STAMP)] = times.text[len(times.lead) + place - STAMP_START :: times.width]
    return column.decode().split("\0")[:count]


def human_sizes(sizes: Sequence[int]) -> list[str]:
    """Give human_size of each size.

    What is below a MiB, as most objects are, is rounded to a number of which the text is
    looked up. A half goes to the even neighbour, as it does in formatting.
    """
    if len(sizes) < WORTH_A_TABLE:
        return list(map(human_size, sizes))
    tenths, wholes = _kib_texts()
    return [
        f"{size:{HUMAN_WIDTH - 1}}B"
        if size < STEP
        else tenths[(size * 10 + HALF - 1 + (size >> STEP_BITS - 1 & 1)) >> STEP_BITS]
        if size < TENTHS_END
        else wholes[(size + HALF - 1 + (size >> STEP_BITS & 1)) >> STEP_BITS]
        if size < WHOLES_END
        else human_size(size)
        for size in sizes
    ]


@cache
def _kib_texts() -> tuple[list[str], list[str]]:
    """Give the columns of all tenths of a KiB that have a decimal, and of whole ones."""
    tenths = [human_size(-(-tenth * STEP // 10)) for tenth in range(100)]
    wholes = [human_size(whole * STEP) for whole in range(STEP)]
    return tenths, wholes

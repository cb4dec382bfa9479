"""The plain lines of a whole page of a listing at once, column by column.

It gives what ``lines`` gives for each object, and costs a third: no step is done line by
line that can be done for a column in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from operator import methodcaller

from s3pool.cli.lines import HUMAN_WIDTH, exact_size, human_size
from s3pool.model import ObjectInfo
from s3pool.s3.page_table import TIME_LENGTH, Times, columns_of
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


def page_formatter(base: str, *, exact: bool) -> Callable[[Sequence[ObjectInfo]], bytes | None]:
    """Give what makes the plain lines of a whole page at once, names relative to a base.

    It gives None for a page with a name that is not below the base, is the base, or needs to
    be escaped, as a class may, or with a time of another shape: such a page is formatted line
    by line.
    """
    above = base.encode("utf-8", "surrogateescape")
    start, is_below = len(above), methodcaller("startswith", above)

    def lines(objects: Sequence[ObjectInfo]) -> bytes | None:
        columns = columns_of(objects)
        if columns is None:
            return None
        keys, sizes, times, classes = columns
        names = [key[start:] for key in keys] if base else keys
        if not (
            _are_printable(names)
            and _are_printable(list(set(classes)))
            and all(names)
            and (not base or all(map(is_below, keys)))
        ):
            return None
        cells = [b""] * (COLUMNS * len(names))
        cells[0::COLUMNS] = stamp_column(times)
        cells[1::COLUMNS] = size_column(sizes, exact=exact)
        cells[2::COLUMNS] = _spaced(classes)
        cells[3::COLUMNS] = names
        # The break stands before each line, and belongs behind it.
        cells[0] = cells[0][1:]
        cells.append(b"\n")
        return b"".join(cells)

    return lines


def _spaced(texts: Sequence[bytes]) -> list[bytes]:
    """Put blanks around each text; nearly always all are the same."""
    if texts.count(texts[0]) == len(texts):
        return [b" %b " % texts[0]] * len(texts)
    return [b" %b " % text for text in texts]


def _are_printable(names: Sequence[bytes]) -> bool:
    text = b"".join(names)
    if text.isascii():
        return not text.translate(None, PRINTABLE)
    try:
        return text.decode().isprintable()
    except UnicodeDecodeError:
        return False


def size_column(sizes: Sequence[bytes], *, exact: bool) -> Iterator[bytes]:
    """Give the text of each size; many objects have the same one, of parts and blocks."""
    different = set(sizes)
    numbers = list(map(int, different))
    texts = map(exact_size, numbers) if exact else human_sizes(numbers)
    return map(dict(zip(different, map(str.encode, texts), strict=True)).__getitem__, sizes)


def stamp_column(times: Times) -> list[bytes]:
    """Give the stamp of each time, with a line break before it and a blank behind it.

    The digits at one place are put into all stamps at once.
    """
    column = bytearray(STAMP * (len(times.text) // TIME_LENGTH))
    for place in STAMP_DIGITS:
        column[place :: len(STAMP)] = times.text[place - STAMP_START :: TIME_LENGTH]
    return bytes(column).split(b"\0")[:-1]


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

"""Where to cut a tree of keys into parts of like size, from a few of its pages.

A page is read at a name, and tells how many keys lie between its first and its last one. How many lie between two
pages is guessed: a character that the page has passed stands for so many keys, and so does each of its neighbours.
The gap with most keys is cut next, where the parallel listing would cut it. Guesses are high rather than low: a gap
that is guessed too large is looked at, one that is guessed too small is not.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence

from s3pool.record import dataclass, field
from s3pool.s3.split_points import SplitPoints, shared_length

Fetch = Callable[[str, "str | None"], tuple[Sequence[str], bool]]

KINDS = ("0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
PAGE_KEYS = 1000
TAIL = 4  # the last quarter of a page tells how dense its end is
AT_ONCE = 8  # requests of one round
LEAST_PAGES = 16  # of a sample, and some for each part
LEAST_PAGES_PER_PART = 2
MOST_PAGES_PER_PART = 24
SHARE_OF_PAGES = 0.05  # of all pages, as far as they are known
FINE_PARTS = 10  # a sample is good when no gap holds more than such a piece of a part
MOST_KEYS_OF_GAP = 1e6  # times the keys that its page had
KEYS_PER_LETTER = 1e6  # the most that one character is taken to stand for, times the keys of its page
PLACES_LOOKED_AT = 4  # behind the first one that differs: how far a page has come
SAMPLES_PER_PAGE = 50
MARKS_PER_PAGE = 20  # keys at which a part may end
NO_CLIP = 10**6  # pages: the split points judge by what is guessed here, not by what was seen


@dataclass(slots=True, eq=False)
class _Piece:
    """The keys from the first one of a page up to the next page; a RangeState for the split points."""

    cursor: str
    end: str | None
    start: str = ""
    first: str = ""
    page_first: str = ""
    tail: str = ""  # a key of the last quarter of the page
    pages: int = 0
    keys: int = 0
    page_keys: int = 0
    lineage: int = NO_CLIP
    is_done: bool = False
    is_open_tried: bool = False
    is_upper_empty: bool = False
    weight: float = 0.0
    marks: list[tuple[str, int]] = field(default_factory=list)  # some keys, and how many follow before the next


def choose_borders(fetch: Fetch, count: int, *, prefix: str = "") -> list[str]:
    """Return up to ``count`` - 1 keys in order that cut the keys below a prefix into parts of like size.

    ``fetch(after, until)`` reads the first keys in a range, and tells whether these are all; it is
    called by up to eight threads.
    """
    return _Sample(fetch, count, prefix).borders() if count > 1 else []


class _Sample:
    """The pieces that the pages so far have made of the keys, in order."""

    def __init__(self, fetch: Fetch, count: int, prefix: str) -> None:
        self._fetch, self._count = fetch, count
        self._points = SplitPoints(prefix)
        self._letters = _Letters()
        self._asked = 0
        self._pieces = [_Piece("", None)]

    def borders(self) -> list[str]:
        self._read(self._pieces)
        self._pieces = [piece for piece in self._pieces if piece.keys]
        while self._wants_more() and (new := self._cut_largest()):
            self._read(new)
            self._place(new)
        return self._choose()

    def _wants_more(self) -> bool:
        self._weigh()
        whole = sum(piece.weight for piece in self._pieces)
        least = LEAST_PAGES + LEAST_PAGES_PER_PART * self._count
        most = max(least, min(MOST_PAGES_PER_PART * self._count, SHARE_OF_PAGES * whole / PAGE_KEYS))
        largest = max((piece.weight for piece in self._pieces if not piece.is_done), default=0.0)
        is_fine = largest * self._count * FINE_PARTS < whole
        return largest > 0 and self._asked < (least if is_fine else most)

    def _cut_largest(self) -> list[_Piece]:
        """Cut the largest gaps; a piece that cannot be cut is read on."""
        able = sorted((piece for piece in self._pieces if not piece.is_done), key=lambda piece: -piece.weight)
        least = able[0].weight / 2 if able else 0.0
        new = []
        for piece in able[:AT_ONCE]:
            if piece.weight >= least:
                names = self._points.choose(piece, 1)
                new.append(_Piece(names[0], piece.end, names[0]) if names else piece)
        return new

    def _read(self, pieces: Sequence[_Piece]) -> None:
        self._asked += len(pieces)
        errors: list[Exception] = []

        def read(piece: _Piece) -> None:
            try:
                keys, is_last = self._fetch(piece.cursor, piece.end)
            except Exception as exc:  # noqa: BLE001 - raised again below
                errors.append(exc)
            else:
                pages.append((piece, keys, is_last))

        pages: list[tuple[_Piece, Sequence[str], bool]] = []
        threads = [threading.Thread(target=read, args=(piece,), daemon=True) for piece in pieces[1:]]
        for thread in threads:
            thread.start()
        read(pieces[0])
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        for piece, keys, is_last in pages:
            self._learn(piece, keys, is_last=is_last)

    def _learn(self, piece: _Piece, keys: Sequence[str], *, is_last: bool) -> None:
        piece.is_done = is_last
        if keys:
            self._points.learn(keys)
            self._letters.learn(keys)
            piece.first = piece.first or keys[0]
            piece.page_first, piece.tail, piece.cursor = keys[0], keys[(len(keys) - 1) * (TAIL - 1) // TAIL], keys[-1]
            piece.pages += 1
            step = -(-len(keys) // MARKS_PER_PAGE)
            piece.marks += ((keys[place], min(step, len(keys) - place)) for place in range(0, len(keys), step))
            piece.page_keys = len(keys)
            piece.keys += len(keys)

    def _place(self, new: Sequence[_Piece]) -> None:
        """Put the pieces that were cut off behind those that they were cut from."""
        known = {id(piece) for piece in self._pieces}
        for piece in new:
            if id(piece) in known:
                continue
            start = piece.page_first or piece.cursor
            place = bisect_left(self._pieces, start, key=lambda other: other.first)
            left = self._pieces[place - 1]
            left.is_upper_empty = not piece.keys
            left.end = piece.start
            if piece.keys:
                self._pieces.insert(place, piece)

    # -- how many keys -----------------------------------------------------------------------

    def _weigh(self) -> None:
        for place, piece in enumerate(self._pieces):
            right = self._pieces[place + 1] if place + 1 < len(self._pieces) else None
            gap = 0.0 if piece.is_done else max(1.0, self._gap(piece, right))
            piece.weight = piece.keys + min(gap, MOST_KEYS_OF_GAP * piece.keys)

    def _gap(self, piece: _Piece, right: _Piece | None) -> float:
        """Guess the keys between the page of a piece and the next page, or the end."""
        cursor, fork = piece.cursor, shared_length(piece.tail, piece.cursor)
        border = right.first if right is not None else piece.end or ""
        is_open = right is None
        place = shared_length(cursor, border)
        passed = self._letters.position(cursor, fork)
        rates = self._rates(piece)
        if fork <= place:
            if fork < place:
                return 0.0
            last = len(self._letters.at(cursor, fork, is_open=is_open))
            stop = self._letters.position(border, fork) if border else last
            return max(0.0, stop - passed) * rates[fork]
        keys = (len(self._letters.at(cursor, fork)) - passed) * rates[fork]
        for between in range(place + 1, fork):
            letters = self._letters.at(cursor, between)
            keys += (len(letters) - 1 - bisect_left(letters, cursor[between])) * rates[between]
        letters = self._letters.at(cursor, place, is_open=is_open)
        stop_at = bisect_left(letters, border[place]) if place < len(border) else len(letters)
        rate = rates[place]
        if right is not None and place in (others := self._rates(right)):
            rate = (rate * others[place]) ** 0.5
        return keys + max(0, stop_at - bisect_left(letters, cursor[place]) - 1) * rate

    def _rates(self, piece: _Piece) -> dict[int, float]:
        """Return how many keys one character stands for, by place, up to the one that the page's end moves.

        What the page has passed is known for its own first place; deeper ones go by its last keys.
        """
        coarse, rate = self._rate(piece.page_first, piece.cursor, piece.page_keys)
        fine, fine_rate = self._rate(piece.tail, piece.cursor, piece.page_keys // TAIL)
        rates = {fine: fine_rate}
        for place in range(fine - 1, -1, -1):
            grown = rates[place + 1] * len(self._letters.at(piece.cursor, place + 1))
            rates[place] = rate if place == coarse else min(grown, piece.page_keys * KEYS_PER_LETTER)
        return rates

    def _rate(self, first: str, last: str, count: int) -> tuple[int, float]:
        """Return the first place at which two keys differ, and the keys between them by each character there."""
        place = shared_length(first, last)
        steps = self._letters.position(last, place) - self._letters.position(first, place)
        return place, max(1, count) / max(steps, 0.05)

    def _choose(self) -> list[str]:
        """Return the marks that stand nearest to the ends of the parts."""
        whole = sum(piece.weight for piece in self._pieces)
        ends = [whole * (part + 1) / self._count for part in range(self._count - 1)]
        before = 0.0
        found: list[str] = []
        for piece in self._pieces:
            left = piece.weight
            for place, (key, count) in enumerate(piece.marks):
                weight = left if place == len(piece.marks) - 1 else count
                while before and len(found) < len(ends) and before + weight / 2 >= ends[len(found)]:
                    found.append(key)
                before += weight
                left -= weight
        return list(dict.fromkeys(found))


class _Letters:
    """The characters that stand at each place of a component, by its depth; digits are taken to be all ten."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], set[str]] = {}
        self._expected: dict[tuple[int, int, str, bool], list[str]] = {}  # answers of at(), until more is learned

    def learn(self, keys: Sequence[str]) -> None:
        self._expected.clear()
        for key in (*keys[:: max(1, len(keys) // SAMPLES_PER_PAGE)], keys[-1]):
            depth = start = 0
            for place, letter in enumerate(key):
                self._seen.setdefault((depth, place - start), set()).add(letter)
                if letter == "/":
                    depth, start = depth + 1, place + 1

    def at(self, key: str, place: int, is_open: bool = False) -> list[str]:
        """Return the characters to expect at a place; ``is_open`` if larger ones than were seen may come."""
        depth, offset, letter = key.count("/", 0, place), place - key.rfind("/", 0, place) - 1, key[place : place + 1]
        known = self._expected.get((depth, offset, letter, is_open))
        if known is None:
            seen = self._seen.get((depth, offset), set()) | set(letter)
            known = self._expected[depth, offset, letter, is_open] = self._of(seen, is_open=is_open)
        return known

    @staticmethod
    def _of(seen: set[str], *, is_open: bool) -> list[str]:
        found = set(seen)
        for kind in KINDS:
            mine = [kind.index(letter) for letter in seen if letter in kind]
            if len(mine) > 1 or (mine and is_open):
                is_whole = is_open or kind[0] == "0"
                found.update(kind[min(mine) : len(kind) if is_whole else max(mine) + 1])
        return sorted(found)

    def position(self, key: str, place: int) -> float:
        """Return how far a key is among its neighbours, in characters of a place; what follows is the fraction."""
        found, scale = 0.0, 1.0
        for here in range(place, min(place + PLACES_LOOKED_AT, len(key))):
            letters = self.at(key, here)
            if here > place:
                scale /= len(letters)
            found += scale * bisect_left(letters, key[here])
        return found

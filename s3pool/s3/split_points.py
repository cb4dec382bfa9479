"""Where to cut a key range, and how many pages are still to come in it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol

from s3pool.location import name_bytes

MAX_CONTEXTS = 4096  # bounds the memory on names that are all different
MAX_LETTERS = 32768
# With enough samples, and hardly one of them new, the characters to come are known (Good-Turing).
ENOUGH_SAMPLES = 16
SINGLETON_SHARE = 8
LAST_CHARACTER = "\U0010ffff"
LAST_ASCII = "\x7f"
SEARCH_SPAN = 0x2000  # how far above a letter beyond ASCII others of its script are expected

# Letters to try where only smaller ones have been seen: of names in ASCII, and the beginnings of Unicode's blocks.
_ASCII_GUESSES = "0123456789ACEGIKMOQSUWYZacegikmoqsuwyz"
_BLOCKS = (
    *(0xC0, 0x180, 0x370, 0x410, 0x430, 0x440, 0x530, 0x5D0, 0x620, 0x900, 0xE00, 0x1100, 0x2000, 0x3040, 0x30A0),
    *range(0x4E00, 0xA000, 0x200),
    *range(0xAC00, 0xD7A4, 0x800),
    *(0xF900, 0xFF00, 0x10000, 0x1F300, 0x1F400, 0x1F500, 0x1F600, 0x1F680, 0x1F900, 0x20000, 0x30000),
)
# The last characters of what is written with Unicode's blocks; names rarely use two of these.
_SCRIPT_ENDS = (
    *(0x24F, 0x3FF, 0x52F, 0x58F, 0x5FF, 0x6FF, 0x109F, 0x1FFF, 0x2FFF, 0x30FF, 0x9FFF, 0xD7AF, 0xFAFF, 0xFFEF),
    *(0x1F2FF, 0x1FAFF, 0x3134F, 0x10FFFD),
)
_PLAIN_KINDS = frozenset("9aA")

Context = tuple[int, str, str]


def is_safe(letter: str) -> bool:
    """Return whether every server takes a character in start-after: no controls, ``%``, noncharacters."""
    code = ord(letter)
    if code < 0x7F:
        return code >= 0x20 and letter != "%"
    return code > 0x9F and not 0xD800 <= code < 0xE000 and not 0xFDD0 <= code < 0xFDF0 and code & 0xFFFE != 0xFFFE


def successor(letter: str) -> str:
    """Return the least safe character above one, "" when there is none."""
    return next((chr(code) for code in range(ord(letter) + 1, ord(LAST_CHARACTER)) if is_safe(chr(code))), "")


def script_end(letter: str) -> str:
    """Return the last character of a letter's script, or of scripts used together; ASCII stays."""
    return letter if letter <= LAST_ASCII else chr(_SCRIPT_ENDS[bisect_left(_SCRIPT_ENDS, ord(letter))])


def shared_length(one: str, other: str) -> int:
    """Count the characters that two names have in common from the start."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(place for place in range(shorter) if one[place] != other[place])


def kind_of(letter: str) -> str:
    """Return the class of a character in a context: digits are alike, and so are letters."""
    if "0" <= letter <= "9":
        return "9"
    if "a" <= letter <= "z":
        return "a"
    if "A" <= letter <= "Z":
        return "A"
    return letter if letter < LAST_ASCII else "\x80"


class KeyStatistics:
    """The characters seen, by context: the depth of directories and the two characters before."""

    def __init__(self) -> None:
        self._letters: dict[Context, dict[str, int]] = {}  # how often, in places that vary
        self._samples: dict[Context, int] = {}
        self._sorted: dict[Context, list[str]] = {}
        self._count = 0
        self._is_wide = False  # something beyond ASCII was seen

    def learn(self, keys: Sequence[str], *, fixed: int) -> None:
        """Learn from sample keys; their first ``fixed`` characters are equal and show no variety."""
        for key in keys:
            depth, before, last = 0, "", ""
            for place, letter in enumerate(key):
                self._note((depth, before, last), letter, varies=place >= fixed)
                if letter == "/":
                    depth += 1
                before, last = kind_of(last) if last else "", _narrow(letter)

    def _note(self, context: Context, letter: str, *, varies: bool) -> None:
        letters = self._letters.get(context)
        if letters is None:
            if len(self._letters) >= MAX_CONTEXTS:
                return
            letters = self._letters[context] = {}
        if letter not in letters:
            if self._count >= MAX_LETTERS:
                return
            self._count += 1
            letters[letter] = 0
            self._sorted.pop(context, None)
            self._is_wide = self._is_wide or letter > LAST_ASCII
        if varies:
            letters[letter] += 1
            self._samples[context] = self._samples.get(context, 0) + 1

    def letters(self, key: str, place: int) -> list[str]:
        """Return the characters known to stand where ``key[place]`` does, in order."""
        context = _context(key, place)
        known = self._sorted.get(context)
        if known is None:
            known = self._sorted[context] = sorted(self._letters.get(context, ()))
        return known

    def is_complete(self, key: str, place: int) -> bool:
        """Return whether hardly a new character will turn up in a place."""
        context = _context(key, place)
        samples = self._samples.get(context, 0)
        if samples < ENOUGH_SAMPLES:
            return False
        return sum(count == 1 for count in self._letters[context].values()) * SINGLETON_SHARE <= samples

    def guesses(self, letter: str, bound: str, known: Sequence[str]) -> list[str]:
        """Return characters between two that were never seen in a place but are likely.

        First come the kinds that are known there, then the beginnings of scripts, then the middle of what is left.
        """
        kinds = {kind_of(other) for other in known} | {kind_of(letter)}
        is_plain = kinds <= _PLAIN_KINDS
        found: list[str] = []
        if letter < LAST_ASCII:
            found = [g for g in _ASCII_GUESSES if letter < g < bound and (not is_plain or kind_of(g) in kinds)]
            if found or (is_plain and len(known) > 1 and not self._is_wide):
                return found
        if self._is_wide or letter > LAST_ASCII:
            found = [chr(code) for code in _BLOCKS if letter < chr(code) < bound]
        return found if len(found) > 2 else sorted({*found, *_quarters(letter, bound)})


def _quarters(letter: str, bound: str) -> list[str]:
    low = ord(letter)
    high = min(ord(bound), low + SEARCH_SPAN if letter > LAST_ASCII else ord(LAST_ASCII))
    middles = {low + (high - low) * quarter // 4 for quarter in (1, 2, 3)}
    return [chr(code) for code in middles if low < code < high and is_safe(chr(code))]


def _narrow(letter: str) -> str:
    """Return the character before as contexts have it: exact, but for digits and non-ASCII."""
    return letter if letter < "0" or "9" < letter < LAST_ASCII else kind_of(letter)


def _context(key: str, place: int) -> Context:
    if not place:
        return 0, "", ""
    before = kind_of(_narrow(key[place - 2])) if place > 1 else ""
    return key.count("/", 0, place), before, _narrow(key[place - 1])


SAMPLES_PER_PAGE = 11
# Estimates are capped at this times what was seen.
TRUST = 16.0
RATE_TRUST = 64.0
OPEN_TRUST = 4.0  # the same for what may follow the first subtree of a range without an end
LAST_OF_KIND = {"9": "9", "A": "Z", "a": "z"}
DIGITS = "0123456789"
LITTLE = 2.0  # pages; with fewer expected, what may follow unseen counts more
WIDE_STEP = 16  # neighbours beyond ASCII counted as one: scripts are used thinly
# The characters around one beyond ASCII that count as its script.
SCRIPT_MASK = 0xFFF
SCRIPT_ABOVE = 0x3000
SCRIPT_BELOW = 0x1000


class RangeState(Protocol):
    """What the choice of split points depends on."""

    cursor: str
    end: str | None
    first: str
    page_first: str
    pages: int
    lineage: int
    is_open_tried: bool
    is_upper_empty: bool


class Candidate(NamedTuple):
    """A place in the cursor at which larger characters may follow."""

    mass: float  # pages expected there above the cursor
    place: int
    letters: list[str]
    rate: float  # pages per letter


class SplitPoints:
    """Chooses cuts by what it has learned from the pages so far.

    A cut is the cursor up to a place and a larger character there. Which place is found by the rates of the characters
    seen: those of the last page deep in the name, those of the whole range at the places where its names began to vary.
    """

    def __init__(self, prefix: str) -> None:
        self.statistics = KeyStatistics()
        self._prefix = prefix
        self._sample = ""  # any key
        self._fixed = 0  # number of characters that all keys so far share with it

    def learn(self, keys: Sequence[str]) -> None:
        """Learn from the keys of a page."""
        if not self._sample:
            self._sample, self._fixed = keys[0], len(keys[0])
        self._fixed = min(self._fixed, *(shared_length(self._sample, key) for key in (keys[0], keys[-1])))
        step = max(1, len(keys) // SAMPLES_PER_PAGE)
        self.statistics.learn(keys[::step], fixed=shared_length(keys[0], keys[-1]))

    def estimate(self, span: RangeState) -> float:
        """Estimate the pages still to come in a range that has had some."""
        seen = span.pages + span.lineage
        expected = min(TRUST * max(1, seen), sum(candidate.mass for candidate in self._candidates(span)))
        if self._is_open(span, expected) or self._unmoved(span):
            return max(expected, OPEN_TRUST * span.pages)
        return expected

    def choose(self, span: RangeState, count: int, *, ahead: float | None = None) -> list[str]:
        """Return up to ``count`` names inside a range, in order; none when no cut is worth it.

        ``ahead`` asks for one cut that many pages from the cursor instead of in the middle.
        """
        ways = self._ways(span, count, self._candidates(span), ahead)
        return next((names for names in ways if names), [])

    def _ways(
        self, span: RangeState, count: int, candidates: list[Candidate], ahead: float | None
    ) -> Iterator[list[str]]:
        """Yield the cuts of each kind, the most useful kind first."""
        if self._is_open(span, sum(candidate.mass for candidate in candidates)):
            span.is_open_tried = True
            yield self._cut_open(span)
        if span.is_upper_empty and candidates and candidates[-1].place == self._fork(span):
            # That nothing follows far beyond says little about the letters before it.
            yield self._cut_at(span, candidates[-1], 1)
        for places in self._scales(span):
            yield self._cut_scale(span, places, count)
        if ahead is not None and candidates:
            yield self._cut_ahead(span, candidates, ahead)
        for candidate in sorted(candidates, reverse=True):
            yield self._cut_at(span, candidate, count)

    @staticmethod
    def _is_open(span: RangeState, expected: float) -> bool:
        """Return whether anything may follow beyond what is known."""
        return span.end is None and (not span.is_open_tried or expected < LITTLE)

    # -- kinds of cuts ---------------------------------------------------------------------

    def _cut_open(self, span: RangeState) -> list[str]:
        """Cut behind the first subtree: whether anything follows it decides about all else.

        Where several subtrees are known the cut is behind all that their kind may hold.
        """
        place = len(self._prefix)
        if place >= len(span.cursor):
            return []
        last = span.cursor[place]
        if self._fixed <= place:
            last = LAST_OF_KIND.get(kind_of(last), script_end(last))
        return self._inside(span, [_bumped(span.cursor[:place] + last, place)])

    def _scales(self, span: RangeState) -> Iterator[list[int]]:
        """Yield places among which the one that moves is searched, by halves."""
        yield self._unmoved(span)
        if span.is_upper_empty:
            low = self._fork(span) + 1
            high = min(shared_length(span.page_first, span.cursor) + 1, len(span.cursor))
            yield [place for place in range(low, high) if not self._is_used_up(span.cursor, place)]

    def _unmoved(self, span: RangeState) -> list[int]:
        """Return the places below the range's fork that have not changed yet but are likely to.

        Numbers count up, and names differ from their beginning on; the rest of a word stays.
        """
        cursor = span.cursor
        places = range(self._fork(span) + 1, min(self._fixed, len(cursor)))
        return [place for place in places if cursor[place].isdigit() or (cursor[place - 1] == "/" != cursor[place])]

    def _cut_scale(self, span: RangeState, places: list[int], count: int) -> list[str]:
        """Cut behind all that shares the cursor up to a place."""
        if len(places) > count:
            places = [places[i] for i in sorted({(len(places) * (2 * i + 1)) // (2 * count) for i in range(count)})]
        # A deeper place makes a smaller name.
        return self._inside(span, [self._rounded(span, _bumped(span.cursor, place)) for place in reversed(places)])

    def _is_used_up(self, cursor: str, place: int) -> bool:
        if cursor[place] == "/":
            return True
        known = self.statistics.letters(cursor, place)
        return self.statistics.is_complete(cursor, place) and cursor[place] >= known[-1]

    def _cut_ahead(self, span: RangeState, candidates: Sequence[Candidate], ahead: float) -> list[str]:
        fitting = [candidate for candidate in candidates if candidate.rate <= ahead]
        by_rate = attrgetter("rate")
        candidate = max(fitting, key=by_rate) if fitting else min(candidates, key=by_rate)
        stem, letter = span.cursor[: candidate.place], span.cursor[candidate.place]
        if letter > LAST_ASCII:
            code = min(ord(letter) + max(1, int(WIDE_STEP * ahead / candidate.rate)), ord(LAST_CHARACTER))
            return self._inside(span, [stem + chr(code)])
        name = stem + candidate.letters[min(len(candidate.letters) - 1, int(ahead / candidate.rate))]
        return self._inside(span, [self._rounded(span, name)])

    def _cut_at(self, span: RangeState, candidate: Candidate, count: int) -> list[str]:
        stem, letters = span.cursor[: candidate.place], candidate.letters
        parts = min(count, len(letters)) + 1
        names = [stem + letters[len(letters) * part // parts] for part in range(1, parts)]
        return self._inside(span, [self._rounded(span, name) for name in names])

    def _rounded(self, span: RangeState, name: str) -> str:
        """Return the key that numbers would have just below a name, or the name.

        A range that ends in a key ends with the page that this key is on. Behind it no page
        could tell that there is nothing more, and one more request would have to.
        """
        place = len(name) - 1
        last, rest = name[-1:], span.cursor[len(name) :]
        suffix = rest.lstrip(DIGITS)
        known = self.statistics.letters(span.cursor, place) if name else []
        if not "0" < last <= "9" or any(map(str.isalpha, known)) or any(c in DIGITS or c == "/" for c in suffix):
            return name
        return f"{name[:-1]}{chr(ord(last) - 1)}{'9' * (len(rest) - len(suffix))}{suffix}"

    @staticmethod
    def _inside(span: RangeState, names: Iterable[str]) -> list[str]:
        """Keep the names that lie inside a range, in order, and that every server takes."""
        kept: list[str] = []
        last = name_bytes(span.cursor)
        end = None if span.end is None else name_bytes(span.end)
        for name in names:
            if name and all(map(is_plain, name)) and is_safe(name[-1]):
                order = name_bytes(name)
                if last < order and (end is None or order < end):
                    kept.append(name)
                    last = order
        return kept

    # -- what is expected where ------------------------------------------------------------

    def _fork(self, span: RangeState) -> int:
        """Return the first place at which keys above the cursor may differ from it."""
        return len(self._prefix) if span.end is None else shared_length(span.cursor, span.end)

    def _candidates(self, span: RangeState) -> list[Candidate]:
        """Return the places worth a cut, the deepest first.

        The characters still to come in a place are taken to be as large as those seen there.
        """
        cursor, fork = span.cursor, self._fork(span)
        deepest = min(shared_length(span.page_first, cursor), len(cursor) - 1)
        widest = min(shared_length(span.first, cursor), deepest)
        seen = max(1, span.pages)
        limit = float(span.pages + span.lineage)
        rate = 1.0 / max(1, self._passed(cursor, deepest, span.page_first))
        candidates = []
        for place in range(deepest, max(fork, self._fixed) - 1, -1):
            if place == widest:
                rate = seen / max(1, self._passed(cursor, widest, span.first))
            candidate = self._candidate(span, place, rate, widest=widest, moves=place in (deepest, widest))
            if candidate is not None:
                candidates.append(candidate._replace(mass=min(TRUST * limit, candidate.mass)))
            rate = min(rate * max(1, len(self.statistics.letters(cursor, place))), RATE_TRUST * limit)
        return candidates

    def _candidate(self, span: RangeState, place: int, rate: float, *, widest: int, moves: bool) -> Candidate | None:
        letter = span.cursor[place]
        known = self.statistics.letters(span.cursor, place)
        is_literal = len(known) < 2
        if is_literal and not moves:
            return None
        fork = self._fork(span)
        bound = LAST_CHARACTER
        if span.end is not None and place == fork and place < len(span.end):
            bound = span.end[place]
        letters = [other for other in known if letter < other < bound and is_safe(other)]
        count = self._count(span.cursor, place, letter, bound) if letter > LAST_ASCII else float(len(letters))
        following = successor(letter)
        may_guess = place <= max(widest, fork) and not (is_literal and place < widest)
        if not letters and may_guess and following and following < bound:
            letters = self.statistics.guesses(letter, bound, known)
            count = max(count, float(min(3, len(letters))))
        return Candidate(count * rate, place, letters, rate) if count and letters else None

    def _passed(self, cursor: str, place: int, since: str) -> float:
        """Count the characters that went by in a place since another key."""
        return self._count(cursor, place, since[place : place + 1], cursor[place])

    def _count(self, cursor: str, place: int, low: str, high: str) -> float:
        """Count the characters above ``low`` and up to ``high``; beyond ASCII take their distance."""
        if cursor[place] > LAST_ASCII:
            code = ord(cursor[place])
            top = min(ord(high), (code | SCRIPT_MASK) + SCRIPT_ABOVE)
            bottom = max(ord(low or "\0"), (code & ~SCRIPT_MASK) - SCRIPT_BELOW)
            return max(0, top - bottom) / WIDE_STEP
        known = self.statistics.letters(cursor, place)
        return float(bisect_right(known, high) - bisect_right(known, low))


def is_plain(letter: str) -> bool:
    """Return whether XML can hold a character, so that an answer can echo it."""
    code = ord(letter)
    return code >= 0x20 and not 0xD800 <= code < 0xE000 and code & 0xFFFE != 0xFFFE


def _bumped(cursor: str, place: int) -> str:
    """Return the least name behind all that share the cursor up to a place."""
    following = successor(cursor[place])
    return cursor[:place] + following if following else ""

"""Which characters stand where in a bucket's keys, learned from the keys seen so far.

A key range is cut at names that are likely to have keys on both sides. Real names use a few
dozen of all characters at a few of their places, so the halves of the byte range are mostly
empty, and the characters seen in like places are the better guide.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

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

"""The lines of a script: their words, their arguments, and which of them are about one object alone."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from typing import IO, NamedTuple

from s3pool.cli.parser import HelpRequested, add_global_flags, parse
from s3pool.errors import UsageError
from s3pool.units import word_set

BLOCK_BYTES = 1 << 20  # of lines that are read, and worked on, at once
WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""")
SPECIAL = frozenset("\"'\\#")  # what makes a line more than words between spaces
NOT_IN_SCRIPTS = ("run", "proxy", "completion")
# Operands that one line after another only differs in, and flags with which it is still about one object.
OPERANDS = {"cp": 2, "rm": 1}
SIMPLE_FLAGS = word_set(
    "acl cache_control content_disposition content_encoding content_language content_type checksum expires "
    "metadata no_clobber no_verify part_size sse storage_class tags bypass_governance force no_glob"
)
STANDINS = ("\x01", "\x02")


class Line(NamedTuple):
    """One command of a script; ``number`` counts all lines, from 1."""

    number: int
    text: str

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"line {self.number} ({self.text})"


def iter_blocks(stream: IO[bytes]) -> Iterator[list[Line]]:
    """Yield the lines as they come, as many at once as are there; empty ones and comments are left out."""
    number, rest = 0, b""
    while block := stream.read1(BLOCK_BYTES):  # type: ignore[attr-defined]
        *whole, rest = (rest + block).split(b"\n")
        if lines := list(_lines(whole, number)):
            yield lines
        number += len(whole)
    if lines := list(_lines([rest], number)):
        yield lines


def _lines(raw: list[bytes], before: int) -> Iterator[Line]:
    for number, line in enumerate(raw, before + 1):
        text = line.decode("utf-8", "surrogateescape").lstrip("\ufeff" if number == 1 else "").strip()
        if text and not text.startswith("#"):
            yield Line(number, text)


def split_words(text: str) -> list[str]:
    """Split a line as a shell would: quotes, backslashes and comments, nothing else."""
    if SPECIAL.isdisjoint(text):
        return text.split()
    words: list[str] = []
    end = 0
    for match in WORD.finditer(text):
        if text[end : match.start()].strip():
            break
        if match[0].startswith("#"):  # in the middle of a word it is part of a name
            return words
        words += shlex.split(match[0])
        end = match.end()
    if text[end:].strip():
        raise UsageError("a quote is not closed, or a backslash ends the line: quotes are read as a shell reads them")
    return words


class Template(NamedTuple):
    """Lines that differ in their last operands alone; ``args`` has stand-ins in their place."""

    words: tuple[str, ...]
    args: argparse.Namespace


class LineReader:
    """Reads the words of lines; lines that are alike are parsed once.

    ``given`` are the global flags of the run, which count for every line.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = {name: value for name, value in vars(given).items() if name in _global_names()}
        self._templates: dict[tuple[str, ...], Template | None] = {}

    def template(self, words: list[str]) -> Template | None:
        """Return what a line has in common with others about one object; None for any other line."""
        count = OPERANDS.get(words[0], 0)
        if not count or len(words) <= count or any(word.startswith("-") for word in words[-count:]):
            return None
        key = tuple(words[:-count])
        if key not in self._templates:
            self._templates[key] = self._template(key, count)
        return self._templates[key]

    def _template(self, words: tuple[str, ...], count: int) -> Template | None:
        standins = STANDINS[:count]
        args = self.parse([*words, *standins])
        operands = args.paths if words[0] == "rm" else [*args.sources, args.target]
        plain = vars(self.parse([words[0], *standins]))
        changed = {name for name, value in vars(args).items() if plain[name] != value}
        return Template(words, args) if operands == list(standins) and changed <= SIMPLE_FLAGS else None

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Return the arguments of one line."""
        if words[0] in NOT_IN_SCRIPTS:
            raise UsageError(f"{words[0]} does not belong into a script")
        try:
            args = parse(words)
        except HelpRequested as exc:
            raise UsageError("help does not belong into a script") from exc
        if own := sorted(vars(args).keys() & _global_names()):
            flag = f"--{own[0].replace('_', '-')}"
            raise UsageError(f"{flag} counts for all lines: write it before run")
        for flag_name, value in self._given.items():
            setattr(args, flag_name, value)
        return args


_names: set[str] = set()


def _global_names() -> set[str]:
    if not _names:
        parser = argparse.ArgumentParser(add_help=False)
        add_global_flags(parser, hidden=True)
        _names.update(action.dest for action in parser._actions)
    return _names

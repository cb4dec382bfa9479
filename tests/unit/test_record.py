"""Make values as the standard library's dataclasses do: every case is played to both."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from s3pool import record

WORDS = textwrap.dedent(
    """
    @dataclass(frozen=True, slots=True)
    class Frozen:
        '''A doc.'''
        name: str
        size: int = 0
        secret: str = field(default="s", repr=False)
        parts: dict = field(default_factory=dict)
        text: str = field(init=False, repr=False, compare=False)

        def __post_init__(self):
            object.__setattr__(self, "text", f"{self.name}!")

        @property
        def double(self):
            return 2 * self.size

    @dataclass(slots=True)
    class Open:
        name: str
        parts: list = field(default_factory=list)

    @dataclass(slots=True, eq=False)
    class Single:
        name: str = ""

    @dataclass(frozen=True, slots=True)
    class Empty:
        pass

    @dataclass(frozen=True, slots=True)
    class Named:
        name: str

        def __repr__(self):
            return "own"

    @dataclass(frozen=True, slots=True)
    class Derived(Frozen):
        kind: str = "k"

        @property
        def double(self):
            return self.kind
    """
)
CASES: dict[str, Callable[[dict[str, Any]], object]] = {
    "text": lambda m: repr(m["Frozen"]("a", 1)),
    "text of none": lambda m: repr(m["Empty"]()),
    "own text": lambda m: repr(m["Named"]("a")),
    "places": lambda m: (m["Frozen"]("a", 1, "b", {"c": 2}).parts, m["Frozen"]("a", 4).double),
    "names": lambda m: m["Frozen"](size=3, name="a").size,
    "after it": lambda m: m["Frozen"]("a").text,
    "equal": lambda m: (m["Frozen"]("a") == m["Frozen"]("a"), m["Frozen"]("a") == m["Frozen"]("b")),
    "equal to others": lambda m: (m["Open"]("a") == m["Named"]("a"), m["Open"]("a") == "a", m["Open"]("a") != "a"),
    "equal when empty": lambda m: m["Empty"]() == m["Empty"](),
    "equal by identity": lambda m: m["Single"]() == m["Single"](),
    "hash": lambda m: hash(m["Named"]("a")) == hash(m["Named"]("a")),
    "hash by identity": lambda m: len({m["Single"](), m["Single"]()}),
    "no hash": lambda m: hash(m["Open"]("a")),
    "no hash of a part": lambda m: hash(m["Frozen"]("a")),
    "lists of their own": lambda m: m["Open"]("a").parts is m["Open"]("a").parts,
    "too few": lambda m: m["Frozen"](),
    "too many": lambda m: m["Open"]("a", [], 3),
    "unknown": lambda m: m["Open"]("a", other=1),
    "not to be given": lambda m: m["Frozen"]("a", text="b"),
    "assigned": lambda m: setattr(m["Frozen"]("a"), "size", 2),
    "deleted": lambda m: delattr(m["Frozen"]("a"), "size"),
    "new attribute": lambda m: setattr(m["Open"]("a"), "other", 2),
    "changed": lambda m: (setattr(one := m["Open"]("a"), "name", "b"), one.name),
    "copied": lambda m: (m["replace"](m["Frozen"]("a", 1), size=5).size, m["replace"](m["Frozen"]("a"), name="b").text),
    "copied wrongly": lambda m: m["replace"](m["Frozen"]("a"), other=5),
    "derived": lambda m: (repr(m["Derived"]("a", kind="b")), m["Derived"]("a", 3).text, m["Derived"]("a").double),
    "derived is another": lambda m: m["Derived"]("a") == m["Frozen"]("a"),
    "derived and copied": lambda m: m["replace"](m["Derived"]("a"), kind="b", size=7).size,
    "derived and assigned": lambda m: setattr(m["Derived"]("a"), "size", 2),
    "no dictionary": lambda m: hasattr(m["Frozen"]("a"), "__dict__"),
    "matched": lambda m: m["Frozen"].__match_args__,
    "doc": lambda m: (m["Frozen"].__doc__, m["Frozen"].__name__, m["Frozen"].__qualname__, m["Frozen"].__module__),
}


def play(case: str, library: Any) -> object:
    """Give what a case gives, or the kind of error, with the classes made by a library."""
    members = {"dataclass": library.dataclass, "field": library.field, "replace": library.replace, "__name__": __name__}
    exec(WORDS, members)
    try:
        return CASES[case](members)
    except (TypeError, AttributeError) as exc:
        return next(kind for kind in (TypeError, AttributeError) if isinstance(exc, kind))


@pytest.mark.parametrize("case", CASES)
def test_values_are_like_the_librarys(case: str) -> None:
    """Who reads the word dataclass must not be surprised by anything."""
    assert play(case, dataclasses) == play(case, record)


def test_frozen_values_say_so() -> None:
    """The message names the class and the field."""
    members: dict[str, Any] = {"dataclass": record.dataclass, "field": record.field, "__name__": __name__}
    exec(WORDS, members)

    with pytest.raises(AttributeError, match=r"^Named\.name cannot be changed: it is frozen$"):
        members["Named"]("a").name = "b"


@pytest.mark.parametrize("slots", [False, True])
def test_what_it_does_not_do_is_refused(slots: bool) -> None:
    """A class without slots, or with two lines of fields, would be made wrongly."""
    decorate: Any = record.dataclass
    bases = tuple(decorate(slots=True)(type(name, (), {"__slots__": ()})) for name in "AB") if slots else ()
    child = SimpleNamespace(__name__="Child", __bases__=bases)

    with pytest.raises(TypeError, match=r"^Child: only classes with slots and at most one base with fields are made"):
        decorate(slots=slots)(child)

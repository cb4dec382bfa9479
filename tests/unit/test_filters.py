"""Name, size and age filters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.errors import UsageError
from s3pool.filters import NameFilter, ObjectFilter

RULES = st.lists(
    st.tuples(st.sampled_from(["include", "exclude"]), st.text("ab*?/[]", min_size=1, max_size=5)), max_size=4
)


@pytest.mark.parametrize(
    ("expected", "rules"),
    [
        (["a.log", "d/b.log", "d/c.txt"], []),
        (["d/c.txt"], [("exclude", "*.log")]),
        (["a.log", "d/b.log"], [("include", "*.log")]),
        (["a.log", "d/b.log"], [("exclude", "*"), ("include", "*.log")]),
        ([], [("include", "*.log"), ("exclude", "*")]),
        (["a.log"], [("include", "*.log"), ("exclude", "d/*")]),
        (["a.log"], [("exclude", "d/")]),
        (["a.log", "d/b.log"], [("exclude", "d/*"), ("include", "d/b.log")]),
    ],
)
def test_last_match_decides(expected: list[str], rules: list[tuple[str, str]]) -> None:
    """Order is the user's; an include that stands first leaves the rest out."""
    names = NameFilter(rules)

    assert expected == [name for name in ("a.log", "d/b.log", "d/c.txt") if names.admits(name)]
    assert bool(rules) == names.active


@pytest.mark.parametrize(
    ("expected", "rules", "directory"),
    [
        (True, [], "d"),
        (False, [("exclude", "*")], "d"),
        (False, [("exclude", "d/*")], "d"),
        (False, [("exclude", "d/*")], "d/e/"),
        (False, [("exclude", "d/")], "d"),
        (False, [("exclude", "d*")], "d"),
        (False, [("exclude", "[c-e]/*")], "d"),
        (True, [("exclude", "d/*")], "dd"),
        (True, [("exclude", "*.log")], "d"),
        (True, [("exclude", "*"), ("include", "d/e/*.log")], "d"),
        (True, [("exclude", "*"), ("include", "d/e/*.log")], "d/e"),
        (False, [("exclude", "*"), ("include", "d/e/*.log")], "f"),
        (False, [("include", "d/*")], "e"),
        (True, [("include", "*.log")], "e"),
        (True, [("exclude", "*")], ""),
    ],
)
def test_directory_is_pruned_when_nothing_below_can_pass(
    expected: bool, rules: list[tuple[str, str]], directory: str
) -> None:
    """A walk skips it; an excluded tree of millions costs nothing."""
    assert expected == NameFilter(rules).may_contain(directory)


@given(RULES, st.text("ab", min_size=1, max_size=3), st.text("ab/", max_size=4))
def test_pruning_never_loses_a_name(rules: list[tuple[str, str]], directory: str, rest: str) -> None:
    """No must be certain."""
    names = NameFilter(rules)

    assert names.may_contain(directory) or not names.admits(f"{directory}/{rest}")


def test_empty_pattern_is_a_usage_error() -> None:
    """An unset shell variable must not match nothing in silence."""
    with pytest.raises(UsageError, match="--exclude needs a pattern"):
        NameFilter([("exclude", "")])


def test_unknown_kind_of_rule_is_a_mistake_of_ours() -> None:
    """Only the two flags make rules."""
    with pytest.raises(ValueError, match="include or exclude"):
        NameFilter([("only", "*")])


@pytest.mark.parametrize(
    ("expected", "tests"),
    [
        (True, ObjectFilter()),
        (True, ObjectFilter(larger=9)),
        (False, ObjectFilter(larger=10)),
        (True, ObjectFilter(smaller=11)),
        (False, ObjectFilter(smaller=10)),
        (True, ObjectFilter(older_than=101.0)),
        (False, ObjectFilter(older_than=100.0)),
        (True, ObjectFilter(newer_than=99.0)),
        (False, ObjectFilter(newer_than=100.0)),
        (False, ObjectFilter(larger=9, newer_than=200.0)),
    ],
)
def test_object_tests_are_strict_and_anded(expected: bool, tests: ObjectFilter) -> None:
    """As mc's find does it."""
    assert expected == tests.admits(10, 100.0)
    assert (tests != ObjectFilter()) == tests.active

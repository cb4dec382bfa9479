"""Name, size and age filters, and shards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.errors import UsageError
from s3pool.filters import FLAG, WHOLE, NameFilter, ObjectFilter, Shard, choose_shard, parse_shard
from tests.support.hostile import ALL_CHARACTERS_KEY, EVERY_CHARACTER_KEYS, HOSTILE_KEYS, LEADING_BYTES_KEY

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


NAMES = [
    *(f"dir{number % 7}/file-{number:04d}.bin" for number in range(1000)),
    *HOSTILE_KEYS,
    *EVERY_CHARACTER_KEYS,
    ALL_CHARACTERS_KEY,
    LEADING_BYTES_KEY,
    "",
    "\udcff",
]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 30])
def test_every_name_is_in_exactly_one_shard(count: int) -> None:
    """N machines do disjoint parts of one job, and together all of it."""
    shards = [Shard(index, count) for index in range(count)]

    holders = [sum(shard.holds(name) for shard in shards) for name in NAMES]

    assert holders == [1] * len(NAMES)


def test_shards_are_of_like_size() -> None:
    """A shard that holds most names would leave the other machines idle."""
    sizes = [sum(Shard(index, 8).holds(name) for name in NAMES) for index in range(8)]

    assert min(sizes) > len(NAMES) / 8 / 2


def test_a_shard_never_moves() -> None:
    """Machines of different versions of Python, or of s3pool, must agree."""
    assert [7, 1, 7] == [
        next(index for index in range(8) if Shard(index, 8).holds(name)) for name in ("a", "dir/b", "ü")
    ]


@pytest.mark.parametrize(("text", "index", "count"), [("0/1", 0, 1), ("3/8", 3, 8), ("8/8", 0, 8), ("0/8", 0, 8)])
def test_a_shard_is_written_as_index_and_count(text: str, index: int, count: int) -> None:
    """N/N is 0/N, so that arrays that count from 1 are whole, too."""
    shard = parse_shard(text)

    assert (index, count) == (shard.index, shard.count)


@pytest.mark.parametrize("text", ["", "1", "a/b", "-1/4", "5/4", "1/0", "1/", "/2", "1/2/3", "²/4"])
def test_a_shard_that_makes_no_sense_is_refused(text: str) -> None:
    """A wrong share would leave names to nobody."""
    with pytest.raises(UsageError, match="write I/N"):
        parse_shard(text)


def test_without_a_word_everything_is_taken() -> None:
    """Sharding is for those who ask for it."""
    assert WHOLE == choose_shard("", {"SLURM_ARRAY_TASK_ID": "3"})


@pytest.mark.parametrize(
    ("environ", "index", "count"),
    [
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, 3, 8),
        ({"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "1"}, 7, 8),
        (
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            2,
            3,
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_COUNT": "8",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_MAX": "14",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            7,
            8,
        ),
        ({"JOB_COMPLETION_INDEX": "0", "S3POOL_SHARD_COUNT": "4"}, 0, 4),
    ],
)
def test_cluster_managers_choose_the_shard(environ: dict[str, str], index: int, count: int) -> None:
    """A Slurm array or a Kubernetes job tells which share is meant."""
    shard = choose_shard("auto", environ)

    assert (index, count) == (shard.index, shard.count)


def test_the_flag_goes_before_the_environment() -> None:
    """A script inside an array may still want everything."""
    environ = {"JOB_COMPLETION_INDEX": "2", "S3POOL_SHARD_COUNT": "4"}

    assert choose_shard("0/1", environ).is_whole


@pytest.mark.parametrize("index", ["8", "x", "-1"])
def test_an_environment_that_makes_no_sense_is_refused(index: str) -> None:
    """Guessing would leave names to nobody, or do them twice."""
    with pytest.raises(UsageError):
        choose_shard("auto", {"JOB_COMPLETION_INDEX": index, "S3POOL_SHARD_COUNT": "8"})


@pytest.mark.parametrize("index", ["1", "2", "4"])
def test_every_task_of_an_uneven_array_is_refused(index: str) -> None:
    """If only the last one were, the others would leave its share undone and say nothing."""
    environ = {
        "SLURM_ARRAY_TASK_ID": index,
        "SLURM_ARRAY_TASK_COUNT": "3",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_MAX": "4",
        "SLURM_ARRAY_TASK_STEP": "1",
    }

    with pytest.raises(UsageError, match="say which one with --shard I/N"):
        choose_shard("auto", environ)


def test_an_index_between_two_steps_is_refused() -> None:
    """Two tasks would take the same share, and nobody another one."""
    environ = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_STEP": "2"}

    with pytest.raises(UsageError, match="make no shard"):
        choose_shard("auto", environ)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "neither a Slurm array nor an indexed Kubernetes job"),
        ({"JOB_COMPLETION_INDEX": "1"}, "JOB_COMPLETION_INDEX is set, S3POOL_SHARD_COUNT is not"),
    ],
)
def test_auto_demands_that_the_environment_tells(environ: dict[str, str], message: str) -> None:
    """A script that counts on it must not do everything on every machine."""
    with pytest.raises(UsageError, match=message):
        choose_shard("auto", environ)


def test_auto_takes_what_the_environment_tells() -> None:
    """And where it came from."""
    shard = choose_shard("auto", {"JOB_COMPLETION_INDEX": "3", "S3POOL_SHARD_COUNT": "4"})

    assert ("3/4", "JOB_COMPLETION_INDEX") == (shard.text, shard.origin)


def test_only_the_flag_divides_what_was_named() -> None:
    """A script in an array that names one object means it, on every machine."""
    by_flag = [Shard(index, 8, FLAG).holds_named("config") for index in range(8)]
    by_environment = [Shard(index, 8, "SLURM_ARRAY_TASK_ID").holds_named("config") for index in range(8)]

    assert (1, 8) == (sum(by_flag), sum(by_environment))

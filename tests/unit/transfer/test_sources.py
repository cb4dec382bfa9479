from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s3pool.errors import LocalNotFoundError, NotFoundError, UsageError
from s3pool.filters import NameFilter
from s3pool.location import LocalPath, Location, S3Path, parse
from s3pool.transfer.sources import SourceRules, SourceTasks
from s3pool.transfer.tasks import Problem
from tests.support.fake_s3 import FakeS3
from tests.unit.transfer.conftest import Make

Pairs = Callable[..., list[tuple[str, str]]]
KEYS = ("p", "p/a", "p/d/b", "p2/x", "pfile", "q/[x]")


@pytest.fixture
def tree(fake: FakeS3, tmp_path: Path) -> Path:
    """Give a local tree and keys."""
    for key in KEYS:
        fake.store.add("b", key, key.encode())
    (tmp_path / "src/d").mkdir(parents=True)
    (tmp_path / "src/a").write_bytes(b"1")
    (tmp_path / "src/d/b").write_bytes(b"2")
    return tmp_path


@pytest.fixture
def pairs(make_context: Make, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Pairs:
    """Give source and target of every task that words mean."""
    monkeypatch.chdir(tree)
    client = make_context().client

    def expand(*words: str, **rules: object) -> list[tuple[str, str]]:
        *sources, target = map(parse, words)
        items = SourceTasks(client, sources, target, rules=SourceRules(**rules))  # type: ignore[arg-type]
        return [(item.source, item.target) for item in items if not isinstance(item, Problem)]

    return expand


@pytest.mark.parametrize("source", ["src", "src/"])
@pytest.mark.parametrize("target", ["s3/b/n", "s3/b/n/"])
def test_directory_copies_its_content_whatever_the_slashes(pairs: Pairs, source: str, target: str) -> None:
    """One rule, the same as sync's."""
    found = pairs(source, target, recursive=True)

    assert ["s3/b/n/a", "s3/b/n/d/b"] == [place for _, place in found]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("src/a", "s3/b/n"), [("src/a", "s3/b/n")]),
        (("src/a", "s3/b/n/"), [("src/a", "s3/b/n/a")]),
        (("src/a", "s3/b"), [("src/a", "s3/b/a")]),
        (("src/a", "src/d/b", "s3/b/n"), [("src/a", "s3/b/n/a"), ("src/d/b", "s3/b/n/b")]),
        (("s3/b/p/a", "new"), [("s3/b/p/a", "new")]),
        (("s3/b/p/a", "new/"), [("s3/b/p/a", "new/a")]),
        (("s3/b/p/a", "src"), [("s3/b/p/a", "src/a")]),
        (("s3/b/p/a", "."), [("s3/b/p/a", "./a")]),
        (("s3/b/p/a", "s3/b/p2", "new"), [("s3/b/p/a", "new/a")]),
        (("s3/b/p/a", "s3/c/"), [("s3/b/p/a", "s3/c/a")]),
        (("s3/b/p*", "new"), [("s3/b/p", "new/p"), ("s3/b/p2/x", "new/p2/x"), ("s3/b/pfile", "new/pfile")]),
        (("s3/b/p/*", "new"), [("s3/b/p/a", "new/a"), ("s3/b/p/d/b", "new/d/b")]),
        (("s3/b/p/d/?", "s3/c/n"), [("s3/b/p/d/b", "s3/c/n/b")]),
    ],
)
def test_words_mean_what_the_manual_says(pairs: Pairs, words: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    """Files by name, directories by slash, wildcards across slashes."""
    found = pairs(*words)

    assert set(expected) <= set(found)


def test_recursive_work_stays_within_the_directory_of_keys(pairs: Pairs) -> None:
    """`p` means `p` and `p/...`, never `p2/...`."""
    found = pairs("s3/b/p", "s3/c/n", recursive=True)

    assert [("s3/b/p", "s3/c/n/p"), ("s3/b/p/a", "s3/c/n/a"), ("s3/b/p/d/b", "s3/c/n/d/b")] == found


def test_key_with_wildcards_is_reached_without_glob(pairs: Pairs) -> None:
    """--no-glob takes the key as it stands."""
    assert [("s3/b/q/[x]", "new")] == pairs("s3/b/q/[x]", "new", glob=False)


def test_filters_hold_for_all_kinds_of_sources(pairs: Pairs) -> None:
    """The name below the source is what is tested."""
    names = NameFilter([("exclude", "d/*")])

    assert ["s3/b/n/a"] == [place for _, place in pairs("src", "s3/b/n", recursive=True, names=names)]
    assert ["s3/b/p/a"] == [place for place, _ in pairs("s3/b/p/", "new", recursive=True, names=names)]


@pytest.mark.parametrize(
    ("words", "rules"),
    [
        (("src/a", "src/b"), {}),
        (("src", "s3/b/n"), {}),
        (("s3/b", "new"), {}),
        (("s3", "new"), {"recursive": True}),
        (("src/a", "s3"), {}),
        (("s3/b/p", "s3/b/p/n"), {"recursive": True}),
        (("s3/b", "s3/b/n"), {"recursive": True}),
        (("s3/b/p", "s3/b/p/"), {"recursive": True}),
        (("-", "src/a", "s3/b/n"), {}),
        (("s3/b/p", "s3/b/q", "-"), {}),
        (("src/a", "s3/b/n"), {"version_id": "v"}),
        (("s3/b/p*", "new"), {"version_id": "v"}),
    ],
)
def test_words_that_make_no_sense_are_refused_before_anything_is_done(
    make_context: Make,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    rules: dict[str, object],
) -> None:
    """Half of a run would be worse than none."""
    monkeypatch.chdir(tree)
    *sources, target = map(parse, words)

    with pytest.raises(UsageError):
        SourceTasks(make_context().client, sources, target, rules=SourceRules(**rules))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "rules", "kind"),
    [
        (LocalPath("missing"), {}, LocalNotFoundError),
        (LocalPath("missing"), {"recursive": True}, LocalNotFoundError),
        (S3Path("b", "missing"), {}, NotFoundError),
        (S3Path("b", "missing"), {"recursive": True}, NotFoundError),
        (S3Path("b", "missing*"), {}, NotFoundError),
        (S3Path("missing", "k"), {"recursive": True}, NotFoundError),
    ],
)
def test_missing_source_is_a_problem_and_the_others_go_on(
    make_context: Make,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Location,
    rules: dict[str, object],
    kind: type[Exception],
) -> None:
    """Each is told with its own error."""
    monkeypatch.chdir(tree)
    target: Location = S3Path("c", "n/") if isinstance(source, LocalPath) else LocalPath("new")
    other: Location = LocalPath("src/a") if isinstance(source, LocalPath) else S3Path("b", "pfile")
    items = list(SourceTasks(make_context().client, [source, other], target, rules=SourceRules(**rules)))  # type: ignore[arg-type]

    problems = [item for item in items if isinstance(item, Problem)]
    assert [kind] == [type(problem.error) for problem in problems]
    assert len(items) > len(problems) or rules.get("recursive")


def test_prefix_without_recursion_says_what_helps(make_context: Make, tree: Path, fake: FakeS3) -> None:
    """`No such key` alone would be puzzling beside a listing that shows it."""
    items = list(SourceTasks(make_context().client, [S3Path("b", "p2")], LocalPath("new"), rules=SourceRules()))

    assert "-r copies them" in str(items[0].error)  # type: ignore[union-attr]

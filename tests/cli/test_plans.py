"""--plan: key ranges instead of a hash, with which a shard lists and walks nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from s3pool.filters import plan_record, ranges_between
from tests.cli.test_sharding import HOSTILE, PLAIN, below, keys_of, store
from tests.support.fake_s3 import FakeS3
from tests.support.memory_lister import order
from tests.support.run_cli import CliResult

Call = Callable[..., CliResult]
BORDERS = ("a/b", "c/40-@-", "c/80-\x80-", "d1/", "d1/file-13", "new\nline", "\U0001f600 emoji")
COUNT = len(BORDERS) + 1


@pytest.fixture
def plan(tmp_path: Path) -> list[tuple[str, ...]]:
    """Write a plan, and return the flags of each of its shards."""
    ranges = ranges_between(sorted(BORDERS, key=order))
    lines = [json.dumps(plan_record(index, len(ranges), part)) for index, part in enumerate(ranges)]
    (tmp_path / "plan").write_text("\n".join(lines) + "\n")
    return [("--shard", f"{index}/{COUNT}", "--plan", "plan") for index in range(COUNT)]


@pytest.fixture(params=["plan", "hash"])
def shards(request: pytest.FixtureRequest, plan: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the flags of each shard, by the ranges of the plan or by hashes."""
    return plan if request.param == "plan" else [flags[:2] for flags in plan]


def make_files(root: Path, names: Sequence[str]) -> None:
    """Make a file of one byte for each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


SEARCHES = (
    ("find", "s3/b/p"),
    ("find", "s3/b/p*"),
    ("find", "s3/b/p", "--maxdepth", "2"),
    ("find", "s3/b/p", "--maxdepth", "1"),
    ("find", "s3/b/p", "--jobs", "4"),
    ("find", "s3/b/p", "--jobs", "4", "--unordered"),
    ("find", "s3/b/p", "--versions"),
    ("find", "s3/b/p", "--type", "d"),
    ("find", "s3/b/p*", "--type", "d"),
    ("find", "s3/b/p", "--type", "d", "--maxdepth", "1"),
    ("ls", "s3/b/p/"),
    ("ls", "-r", "s3/b/p"),
    ("ls", "s3/b/p/d*"),
    ("ls", "-r", "--versions", "s3/b/p"),
)


@pytest.mark.parametrize("words", SEARCHES, ids=" ".join)
def test_shards_show_everything_once(
    call: Call, fake: FakeS3, shards: list[tuple[str, ...]], words: tuple[str, ...]
) -> None:
    """Key or prefix, by whatever way it is listed, each is shown by one shard; by ranges also in order."""
    store(fake, [*PLAIN, *HOSTILE])
    fake.store.add("b", "p", b"x")

    whole = call(*words, "--json").lines
    shares = [line for flags in shards for line in call(*words, *flags, "--json").lines]

    assert sorted(whole) == sorted(shares)
    if "--plan" in shards[0] and "--unordered" not in words:
        assert whole == shares


def test_a_shard_asks_for_its_own_pages(call: Call, fake: FakeS3, plan: list[tuple[str, ...]]) -> None:
    """All shards together make about the requests of one run."""
    store(fake, [f"{first}/{number:04d}" for first in "aceg" for number in range(2000)])

    lists = []
    for flags in ((), *plan):
        fake.requests.clear()
        call("find", "s3/b/p/", *flags)
        lists.append(len(fake.requests))

    assert 8 == lists[0]
    assert sum(lists[1:]) <= lists[0] + COUNT


@pytest.mark.parametrize("depth", [(), ("-d", "1")])
def test_counts_add_up(call: Call, fake: FakeS3, shards: list[tuple[str, ...]], depth: tuple[str, ...]) -> None:
    """The sums of all machines are the sum of one."""
    store(fake, HOSTILE)

    counts = [call("du", *depth, "s3/b/p", *flags, "--json").records[-1]["objects"] for flags in shards]

    assert len(HOSTILE) == sum(counts)


@pytest.mark.parametrize("extra", [(), ("--versions",)])
def test_shards_remove_everything_once(
    call: Call, fake: FakeS3, shards: list[tuple[str, ...]], extra: tuple[str, ...]
) -> None:
    """No key is left, none is asked for twice, and the neighbour stays."""
    store(fake, HOSTILE)
    fake.store.add("b", "p", b"x")
    fake.store.add("b", "p2", b"x")

    shares = [call("rm", "-r", "--force", "s3/b/p", *extra, *flags, "--json").records[:-1] for flags in shards]

    assert len(HOSTILE) + 1 == sum(map(len, shares))
    assert ["p2"] == [str(r["key"]) for r in call("find", "s3/b", "--json").records]


@pytest.mark.parametrize("command", [("sync", "--delete"), ("cp", "-r"), ("mv", "-r")])
@pytest.mark.parametrize("way", ["up", "down", "across"])
def test_shards_copy_everything_once(
    call: Call, fake: FakeS3, tmp_path: Path, plan: list[tuple[str, ...]], command: tuple[str, ...], way: str
) -> None:
    """One plan serves every direction: its names are relative to the tree."""
    store(fake, PLAIN)
    make_files(tmp_path / "tree", PLAIN)
    source = "tree" if way == "up" else "s3/b/p"
    target = "there" if way == "down" else "s3/b/q"

    done = [call(*command, source, target, *flags, "--json") for flags in plan]

    kind = "move" if command[0] == "mv" else "copy"
    copied = [str(r["target"]) for result in done for r in result.records if r["type"] == kind]
    assert sorted(PLAIN) == below(copied, f"{target}/")
    assert {0} == {result.code for result in done}


@pytest.mark.parametrize("way", ["up", "down", "across"])
def test_shards_delete_what_the_source_lost(
    call: Call, fake: FakeS3, tmp_path: Path, plan: list[tuple[str, ...]], way: str
) -> None:
    """Also in a range of which the source has nothing left, and though it changed since the plan was made."""
    source = "tree" if way == "up" else "s3/b/p"
    target = "there" if way == "down" else "s3/b/q"
    kept = [name for name in PLAIN if not name.startswith("d1/")] + ["d2/new"]
    extra = ["d0/gone", "zz/gone"]
    if way == "up":
        make_files(tmp_path / "tree", kept)
    else:
        store(fake, kept)
    if way == "down":
        make_files(tmp_path / "there", [*PLAIN, *extra])
    else:
        store(fake, [*PLAIN, *extra], "q/")

    codes = [call("sync", source, target, "--delete", *flags).code for flags in plan]

    found = [
        str(path.relative_to(tmp_path / "there")) for path in (tmp_path / "there").rglob("*") if path.is_file()
    ] or keys_of(call("find", "s3/b/q", "--json").records)
    assert sorted(kept) == sorted(found)
    assert [0] * COUNT == codes
    assert [0] * COUNT == [call("sync", source, target, "--delete", "--dry-run", *flags).code for flags in plan]


def test_an_empty_source_empties_no_target_by_shards(
    call: Call, fake: FakeS3, tmp_path: Path, plan: list[tuple[str, ...]]
) -> None:
    """The guard looks at the whole source where a range has nothing."""
    (tmp_path / "tree").mkdir()
    store(fake, PLAIN)

    codes = {call("sync", "tree", "s3/b/p", "--delete", *flags).code for flags in plan}

    assert codes <= {0, 6}
    assert 6 in codes
    assert len(PLAIN) == len(call("find", "s3/b/p", "--json").records)


@pytest.mark.parametrize("target", ["s3/b/q/", "out"])
def test_a_wildcard_that_matches_nothing_is_not_found_by_every_shard(
    call: Call, fake: FakeS3, plan: list[tuple[str, ...]], target: str
) -> None:
    """One that matches in a single range is done by that shard, and is no failure of the others."""
    store(fake, PLAIN)

    missing = [call("cp", "s3/b/p/*.absent", target, *flags) for flags in plan]
    found = [call("cp", "s3/b/p/d1/file-1*", target, *flags) for flags in plan]

    assert {3} == {result.code for result in missing}
    assert all("s3/b/p/*.absent" in result.err for result in missing)
    assert {0} == {result.code for result in found}


def test_a_file_of_an_unusual_key_in_another_range_stays(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """The key d//x needs the file d/x, and the two names may be of two shards."""
    store(fake, ["a", "d//x"])
    make_files(tmp_path / "there", ["a", "d/x", "d/y"])
    ranges = ranges_between(["d/0"])
    lines = [json.dumps(plan_record(index, 2, part)) for index, part in enumerate(ranges)]
    (tmp_path / "plan").write_text("\n".join(lines))

    for index in range(2):
        call("sync", "s3/b/p", "there", "--delete", "--shard", f"{index}/2", "--plan", "plan")

    assert ["a", "d/x"] == sorted(str(p.relative_to("there")) for p in Path("there").rglob("*") if p.is_file())


def test_ranges_are_synced_where_no_unusual_key_can_be(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """MinIO refuses to list d// and d/./, so that no file is there for the sake of such a key."""
    store(fake, ["a", "e"])
    fake.quirks.refuses_odd_prefixes = True
    make_files(tmp_path / "there", ["a", "d/x", "d/y", "e"])
    lines = [json.dumps(plan_record(index, 2, part)) for index, part in enumerate(ranges_between(["d/x"]))]
    (tmp_path / "plan").write_text("\n".join(lines))

    codes = [
        call("sync", "s3/b/p", "there", "--delete", "--shard", f"{index}/2", "--plan", "plan").code
        for index in range(2)
    ]

    assert [0, 0] == codes
    assert ["a", "e"] == sorted(str(p.relative_to("there")) for p in Path("there").rglob("*") if p.is_file())


def test_a_walk_enters_no_directory_of_another_shard(
    call: Call, fake: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: list[tuple[str, ...]]
) -> None:
    """A shard of a large tree reads its own directories."""
    make_files(tmp_path / "tree", [f"{top}/{number}" for top in "abcdef" for number in range(3)])
    fake.store.add("b", "x", b"x")
    read: list[str] = []
    scandir = os.scandir

    def noted(path: object = ".") -> object:
        read.append(os.fsdecode(path))  # type: ignore[arg-type]
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", noted)
    call("sync", "tree", "s3/b/p", "--dry-run", *plan[1])

    assert {"a/", "b/", "c/"} == {path.removeprefix("tree/") for path in read if path.startswith("tree/")}


def test_a_plan_may_lie_in_s3(call: Call, fake: FakeS3, tmp_path: Path, plan: list[tuple[str, ...]]) -> None:
    """Machines without a common file system have the bucket."""
    store(fake, PLAIN)
    fake.store.add("plans", "deep/plan", (tmp_path / "plan").read_bytes())

    by_file = call("find", "s3/b/p", *plan[4]).lines
    by_object = call("find", "s3/b/p", "--shard", f"4/{COUNT}", "--plan", "s3/plans/deep/plan").lines

    assert by_file
    assert by_file == by_object


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("", ("--shard", "0/2"), "no whole plan"),
        ("nonsense", ("--shard", "0/2"), "no JSON object"),
        ('{"type":"object"}', ("--shard", "0/2"), "no shard"),
        (None, ("--shard", "0/2"), f"a plan of {COUNT} shards"),
        (None, (), "--plan needs --shard"),
    ],
)
def test_bad_plans_are_refused(
    call: Call, tmp_path: Path, plan: list[tuple[str, ...]], text: str | None, words: tuple[str, ...], message: str
) -> None:
    """Nothing is done by half of a plan, or by another file."""
    assert plan
    if text is not None:
        (tmp_path / "plan").write_text(text)

    result = call("find", "s3/b/p", "--plan", "plan", *words)

    assert 2 == result.code
    assert message in result.err

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from s3pool.sync import content as contents
from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, FakeS3
from tests.support.manual import proxy_metrics
from tests.support.run_cli import CliResult

TREE = {"a": b"A", "d/b": b"BB", "d-e": b"DE", "d/c/deep": b"deep", "empty": b"", "ü\nx": b"odd"}
OLD = 1_500_000_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a small tree with old times."""
    return plant(tmp_path / "source", TREE)


@pytest.fixture(autouse=True)
def bucket(fake: FakeS3) -> None:
    """Give an empty bucket ``b``."""
    fake.store.add("b", "x")
    fake.store.bucket("b").remove("x", "null")


def plant(root: Path, files: dict[str, bytes], *, mtime: float = OLD) -> Path:
    """Make a tree."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        os.utime(root / name, (mtime, mtime))
    return root


def tree_of(root: Path) -> dict[str, bytes]:
    """Give the files below a directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def summary_of(result: CliResult) -> dict[str, object]:
    """Give the last record."""
    return result.records[-1]


def heads(fake: FakeS3) -> list[str]:
    """Give the HEAD requests for objects."""
    return fake.ops(op="HeadObject")


def test_sync_copies_a_tree_up(call: Call, fake: FakeS3, source: Path) -> None:
    """The contents of the directory land below the prefix, whatever the slashes."""
    result = call("sync", "source/", "s3/b/p", "--json")

    assert 0 == result.code
    assert {f"p/{name}": content for name, content in TREE.items()} == fake.store.bodies("b")
    assert [] == heads(fake)
    assert {
        "type": "summary",
        "version": 1,
        "checked": 6,
        "copied": 6,
        "deleted": 0,
        "skipped": 0,
        "failed": 0,
        "bytes": 12,
        "retries": 0,
        "unchanged": 0,
        "looked_at": 0,
        "not_finished": 0,
        "held_back": "",
    } == {name: value for name, value in summary_of(result).items() if name != "seconds"}


def test_the_summary_is_one_line_on_stderr(call: Call, source: Path) -> None:
    """Cron mails it; results alone are on stdout."""
    call("sync", "source", "s3/b/p")

    result = call("sync", "source", "s3/b/p")

    assert b"" == result.stdout
    (line,) = result.err.splitlines()
    assert line.startswith("s3pool: 6 checked, 0 copied, 0 deleted, 0 skipped, 0 failed, 0B in ")
    assert line.endswith(", 0 retries")


def test_a_run_without_a_source_has_a_summary(call: Call) -> None:
    """There is always one, so that nobody needs to look for it."""
    text = call("sync", "missing", "s3/b/p")
    result = call("sync", "--json", "missing", "s3/b/p")

    error, summary = text.err.splitlines()
    assert "s3pool: error: cannot read missing: No such file or directory" == error
    assert summary.startswith("s3pool: 0 checked, 0 copied, 0 deleted, 0 skipped, 0 failed, 0B in ")
    assert (3, 3, "summary") == (text.code, result.code, summary_of(result)["type"])
    told = json.loads(result.err)
    assert ("sync", "missing", "s3/b/p/") == (told["op"], told["source"], told["target"])


def test_a_second_sync_in_either_direction_copies_nothing_and_makes_no_head(
    call: Call, fake: FakeS3, source: Path, tmp_path: Path
) -> None:
    """What one direction has left in sync is known to the other."""
    call("sync", "source", "s3/b/p")
    call("sync", "s3/b/p", "copy")
    assert [] == heads(fake)
    fake.forget()

    results = [
        call("sync", *words, "--json")
        for words in (("source", "s3/b/p"), ("s3/b/p", "source"), ("s3/b/p", "copy"), ("copy", "s3/b/p"))
    ]

    assert [(0, 0, 6)] * 4 == [(r.code, summary_of(r)["copied"], summary_of(r)["unchanged"]) for r in results]
    assert {"ListObjects"} == {op.removesuffix("V2") for op in fake.ops()}
    assert TREE == tree_of(tmp_path / "copy")
    assert OLD == (tmp_path / "copy" / "a").stat().st_mtime


def test_sync_copies_inside_s3(call: Call, fake: FakeS3) -> None:
    """Odd keys are legal there: they stay as they are."""
    keys = ["p/", "p/a//b", "p/../x", "p/./y", "p/dir/", "p/z"]
    for key in keys:
        fake.store.add("b", key, key.encode(), mtime=OLD)
    fake.store.add("b", "p2/other", b"not of the tree", mtime=OLD)

    first = call("sync", "s3/b/p", "s3/b/q", "--json")
    of_copies = heads(fake)
    second = call("sync", "s3/b/p", "s3/b/q", "--json")

    assert (0, 6) == (first.code, summary_of(first)["copied"])
    assert (0, 0) == (second.code, summary_of(second)["copied"])
    assert sorted(f"q{key[1:]}" for key in keys) == sorted(k for k in fake.store.bodies("b") if k.startswith("q"))
    assert (6, of_copies) == (len(of_copies), heads(fake))  # one each, for what CopyObject forgets


def test_a_change_of_equal_size_with_an_older_time_is_found(call: Call, fake: FakeS3, source: Path) -> None:
    """Restoring an older version of a file is a change; most tools miss it."""
    call("sync", "source", "s3/b/p")
    plant(source, {"a": b"Z"}, mtime=OLD - 1000)

    result = call("sync", "source", "s3/b/p", "--json")

    assert 1 == summary_of(result)["copied"]
    assert b"Z" == fake.store.bodies("b")["p/a"]


def test_a_changed_object_is_fetched_and_an_edited_file_replaced(
    call: Call, fake: FakeS3, source: Path, tmp_path: Path
) -> None:
    """The target becomes like the source, whoever changed it."""
    call("sync", "source", "s3/b/p")
    call("sync", "s3/b/p", "copy")
    fake.store.add("b", "p/a", b"Y", mtime=OLD)
    plant(tmp_path / "copy", {"d/b": b"CC"}, mtime=OLD - 7)
    os.utime(tmp_path / "copy" / "d-e", (OLD, OLD + 5))

    result = call("sync", "s3/b/p", "copy", "--json")

    assert 3 == summary_of(result)["copied"]  # the file that was only touched, too
    assert {**TREE, "a": b"Y"} == tree_of(tmp_path / "copy")


def test_losing_the_state_loses_no_correctness(call: Call, fake: FakeS3, source: Path, tmp_path: Path) -> None:
    """Uploads go by time then, downloads are made again; the result is the same."""
    call("sync", "source", "s3/b/p")
    call("sync", "s3/b/p", "copy")
    shutil.rmtree(tmp_path / ".local")
    plant(source, {"a": b"N"}, mtime=time.time() + 60)

    up = call("sync", "source", "s3/b/p", "--json")
    down = call("sync", "s3/b/p", "copy", "--json")

    assert (0, 1) == (up.code, summary_of(up)["copied"])
    assert 0 == down.code
    assert {**TREE, "a": b"N"} == tree_of(tmp_path / "copy")


def test_a_corrupt_state_is_set_aside_with_a_warning(call: Call, source: Path, tmp_path: Path) -> None:
    """A sync that stops at its own notes would be worse than none."""
    call("sync", "source", "s3/b/p")
    (state,) = (tmp_path / ".local/state/s3pool/sync").glob("*.sqlite")
    state.write_bytes(b"rubbish" * 1000)

    result = call("sync", "source", "s3/b/p")

    assert 0 == result.code
    assert "is corrupt" in result.err
    assert 1 == len(list(state.parent.glob("*.corrupt-*")))


def test_objects_of_others_are_taken_by_their_time(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """Without a stored time a download sets Last-Modified, and knows it again without state."""
    fake.store.add("b", "p/a", b"A", mtime=OLD)
    call("sync", "s3/b/p", "copy")
    shutil.rmtree(tmp_path / ".local")

    result = call("sync", "s3/b/p", "copy", "--json")

    assert 0 == summary_of(result)["copied"]
    assert OLD == (tmp_path / "copy" / "a").stat().st_mtime


def test_size_only_leaves_what_has_the_size(call: Call, fake: FakeS3, source: Path) -> None:
    """For who knows that sizes tell enough."""
    call("sync", "source", "s3/b/p")
    plant(source, {"a": b"Z", "d/b": b"longer"}, mtime=time.time() + 100)

    result = call("sync", "source", "s3/b/p", "--size-only", "--json")

    assert 1 == summary_of(result)["copied"]
    assert (b"A", b"longer") == (fake.store.bodies("b")["p/a"], fake.store.bodies("b")["p/d/b"])


def test_checksum_compares_content_and_remembers_hashes(
    call: Call, fake: FakeS3, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was only touched is not sent; one with the old time and other bytes is."""
    call("sync", "source", "s3/b/p")
    os.utime(source / "d" / "b", (OLD + 99, OLD + 99))
    facts = (source / "a").stat()
    (source / "a").write_bytes(b"Z")
    os.utime(source / "a", ns=(facts.st_atime_ns, facts.st_mtime_ns))

    first = call("sync", "source", "s3/b/p", "--checksum", "--json")
    monkeypatch.setattr(contents, "digest_of", lambda *_: pytest.fail("a known file was hashed again"))
    second = call("sync", "source", "s3/b/p", "--checksum", "--json", "--exclude", "a")

    assert (0, 1, 5) == (first.code, summary_of(first)["copied"], summary_of(first)["unchanged"])
    assert b"Z" == fake.store.bodies("b")["p/a"]
    assert (0, 0, 5) == (second.code, summary_of(second)["copied"], summary_of(second)["unchanged"])


def test_checksum_knows_objects_made_of_parts(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """Their ETag is no MD5 of the file, but it can be computed with the size of the parts."""
    plant(tmp_path / "big", {"f": os.urandom(11 << 20)})
    call("sync", "big", "s3/b/p", "--part-size", "5M")
    os.utime(tmp_path / "big" / "f", (OLD + 9, OLD + 9))

    same = call("sync", "big", "s3/b/p", "--checksum", "--json")
    down = call("sync", "s3/b/p", "big", "--checksum", "--json")
    plant(tmp_path / "big", {"f": os.urandom(11 << 20)})
    other = call("sync", "big", "s3/b/p", "--checksum", "--json")

    assert [0, 0, 1] == [summary_of(result)["copied"] for result in (same, down, other)]


def test_exact_timestamps_compare_the_stored_time(call: Call, fake: FakeS3, source: Path, tmp_path: Path) -> None:
    """An older time counts as well as a newer one; it costs a HEAD for each object."""
    call("sync", "source", "s3/b/p")
    call("sync", "s3/b/p", "copy")
    os.utime(source / "a", (OLD - 9, OLD - 9))
    os.utime(tmp_path / "copy" / "empty", (OLD - 9, OLD - 9))

    up = call("sync", "source", "s3/b/p", "--exact-timestamps", "--json")
    down = call("sync", "s3/b/p", "copy", "--exact-timestamps", "--json")
    across = [call("sync", "s3/b/p", "s3/b/q", "--exact-timestamps", "--json") for _ in range(2)]

    assert [1, 2, 6, 0] == [summary_of(result)["copied"] for result in (up, down, *across)]
    assert OLD - 9 == (tmp_path / "copy" / "a").stat().st_mtime


def test_update_never_replaces_a_newer_target(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """The edit at the target stays, even when the sizes differ."""
    fake.store.add("b", "p/a", b"from S3", mtime=OLD)
    fake.store.add("b", "p/new", b"new", mtime=OLD)
    plant(tmp_path / "copy", {"a": b"mine"}, mtime=OLD + 50)

    result = call("sync", "s3/b/p", "copy", "-u", "--json")

    assert (1, 1) == (summary_of(result)["copied"], summary_of(result)["skipped"])
    assert {"a": b"mine", "new": b"new"} == tree_of(tmp_path / "copy")


def test_no_clobber_only_adds(call: Call, fake: FakeS3, source: Path) -> None:
    """What exists stays, and is counted."""
    fake.store.add("b", "p/a", b"theirs", mtime=OLD)

    result = call("sync", "source", "s3/b/p", "-n", "--json")

    assert (5, 1) == (summary_of(result)["copied"], summary_of(result)["skipped"])
    assert b"theirs" == fake.store.bodies("b")["p/a"]


# -- deletes -------------------------------------------------------------------------------


def test_delete_removes_what_the_source_does_not_have(call: Call, fake: FakeS3, source: Path, tmp_path: Path) -> None:
    """In all three directions, and nothing else; directories that became empty go, too."""
    call("sync", "source", "s3/b/p")
    call("sync", "s3/b/p", "copy")
    call("sync", "s3/b/p", "s3/b/q")
    fake.store.add("b", "p2/neighbour", b"stays", mtime=OLD)
    shutil.rmtree(source / "d")

    results = [
        call("sync", *words, "--delete", "--json")
        for words in (("source", "s3/b/p"), ("s3/b/p", "copy"), ("s3/b/p", "s3/b/q"))
    ]

    left = {name: content for name, content in TREE.items() if not name.startswith("d/")}
    assert [(0, 2)] * 3 == [(result.code, summary_of(result)["deleted"]) for result in results]
    assert {"type": "delete", "url": "s3/b/p/d/b"} in results[0].records
    assert left == tree_of(tmp_path / "copy")
    assert not (tmp_path / "copy" / "d").exists()
    stored = {f"{side}/{name}": content for side in "pq" for name, content in left.items()}
    assert {**stored, "p2/neighbour": b"stays"} == fake.store.bodies("b")


def test_without_delete_nothing_goes(call: Call, fake: FakeS3, source: Path) -> None:
    """Extra objects are none of its business."""
    fake.store.add("b", "p/extra", b"x", mtime=OLD)

    result = call("sync", "source", "s3/b/p")

    assert 0 == result.code
    assert "p/extra" in fake.store.bodies("b")


def test_deletes_come_after_all_transfers(call: Call, fake: FakeS3, source: Path) -> None:
    """A rename must never leave the target without the content."""
    fake.store.add("b", "p/0-old-name", b"A", mtime=OLD)

    call("sync", "source", "s3/b/p", "--delete")

    # A node that is silent for a second, as on a loaded machine, is probed with GET /.
    assert "DeleteObject" == [op for op in fake.ops() if op != "ListBuckets"][-1]
    assert 6 == len(fake.ops(op="PutObject"))


def test_a_rehearsal_says_what_would_be_done_and_does_nothing(
    call: Call, fake: FakeS3, source: Path, tmp_path: Path
) -> None:
    """The answers come from real listings; not even a state is left."""
    fake.store.add("b", "p/extra", b"x", mtime=OLD)

    result = call("sync", "source", "s3/b/p", "--delete", "--dry-run")

    assert 0 == result.code
    assert "(dry run) Deleted: s3/b/p/extra" in result.lines
    assert "(dry run) source/a -> s3/b/p/a" in result.lines
    assert "s3pool: dry run: 6 checked, 6 copied, 1 deleted" in result.err
    assert ["p/extra"] == list(fake.store.bodies("b"))
    assert not (tmp_path / ".local").exists()


def test_excluded_names_are_left_alone_on_both_sides(call: Call, fake: FakeS3, source: Path, tmp_path: Path) -> None:
    """An exclude is a promise; --delete-excluded takes it back."""
    for key in ("p/x.log", "p/d/y.log", "p/extra"):
        fake.store.add("b", key, b"x", mtime=OLD)
    plant(source, {"mine.log": b"L"})

    first = call("sync", "source", "s3/b/p", "--delete", "--exclude", "*.log")
    kept = set(fake.store.bodies("b"))
    second = call("sync", "source", "s3/b/p", "--delete-excluded", "--exclude", "*.log")

    assert (0, 0) == (first.code, second.code)
    assert {"p/x.log", "p/d/y.log", *(f"p/{name}" for name in TREE)} == kept
    assert {f"p/{name}" for name in TREE} == set(fake.store.bodies("b"))


def test_the_last_filter_that_matches_decides(call: Call, fake: FakeS3, source: Path) -> None:
    """Include and exclude are one ordered list."""
    call("sync", "source", "s3/b/p", "--exclude", "*", "--include", "d/*", "--exclude", "d/c/*")

    assert ["p/d/b"] == list(fake.store.bodies("b"))


def test_excluded_directories_are_not_even_read(call: Call, source: Path) -> None:
    """Their errors are nobody's concern."""
    (source / "d" / "c" / "loop").symlink_to("/nowhere")

    result = call("sync", "source", "s3/b/p", "--exclude", "d/*")

    assert 0 == result.code


def test_keys_that_stand_for_directories_are_kept_while_there_is_one(call: Call, fake: FakeS3, source: Path) -> None:
    """Other tools make them; the directory d is there, the directory gone is not."""
    for key in ("p/", "p/d/", "p/gone/"):
        fake.store.add("b", key, mtime=OLD)

    result = call("sync", "source", "s3/b/p", "--delete", "--json")

    assert (0, 1) == (result.code, summary_of(result)["deleted"])
    assert {"p/", "p/d/", *(f"p/{name}" for name in TREE)} == set(fake.store.bodies("b"))


def test_keys_that_stand_for_directories_become_directories_once(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """The second sync finds them there."""
    for key in ("p/", "p/d/", "p/e/f/"):
        fake.store.add("b", key, mtime=OLD)
    fake.store.add("b", "p/d/x", b"x", mtime=OLD)

    first = call("sync", "s3/b/p", "copy", "--json")
    second = call("sync", "s3/b/p", "copy", "--delete", "--json")

    assert (0, 4) == (first.code, summary_of(first)["copied"])
    assert (0, 0, 4) == (second.code, summary_of(second)["copied"], summary_of(second)["unchanged"])
    assert (tmp_path / "copy" / "e" / "f").is_dir()


def test_the_file_of_an_unusual_key_is_known_and_never_deleted(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """a//b lies at a/b, which no key is called: it must not be taken for an extra file."""
    fake.store.add("b", "p/a//b", b"x", mtime=OLD)
    fake.store.add("b", "p/c/./d", b"y", mtime=OLD)

    results = [call("sync", "s3/b/p", "copy", "--delete", "--json") for _ in range(3)]

    assert [(0, 2), (0, 0), (0, 0)] == [(result.code, summary_of(result)["copied"]) for result in results]
    assert {"a/b": b"x", "c/d": b"y"} == tree_of(tmp_path / "copy")


def test_keys_that_lead_out_are_refused_one_by_one(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """The rest goes on, nothing is deleted, and the exit code tells."""
    for key in ("p/../../evil", "p//abs", "p/ok"):
        fake.store.add("b", key, b"x", mtime=OLD)
    plant(tmp_path / "copy", {"extra": b"stays"})

    result = call("sync", "s3/b/p", "copy", "--delete", "--json")

    assert (6, 1, 2) == (result.code, summary_of(result)["copied"], summary_of(result)["skipped"])
    assert {"ok": b"x", "extra": b"stays"} == tree_of(tmp_path / "copy")
    assert not (tmp_path.parent / "evil").exists()


def test_two_keys_for_one_file_are_reported(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """The first stays."""
    for key in ("p/a/./b", "p/a/b", "p/x", "p/x/y"):
        fake.store.add("b", key, key.encode(), mtime=OLD)

    result = call("sync", "s3/b/p", "copy", "--json")

    assert (6, 2) == (result.code, summary_of(result)["skipped"])
    assert {"a/b": b"p/a/./b", "x": b"p/x"} == tree_of(tmp_path / "copy")


def test_links_at_the_target_are_replaced_and_never_followed(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """A link must not lead a download out of the target, and a delete not through it."""
    fake.store.add("b", "p/file", b"new", mtime=OLD)
    fake.store.add("b", "p/dir/x", b"x", mtime=OLD)
    outside = plant(tmp_path / "outside", {"file": b"mine", "x": b"mine", "y": b"mine"})
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "file").symlink_to(outside / "file")
    (tmp_path / "copy" / "dir").symlink_to(outside)

    result = call("sync", "s3/b/p", "copy", "--delete")

    assert 6 == result.code
    assert {"file": b"mine", "x": b"mine", "y": b"mine"} == tree_of(outside)
    assert not (tmp_path / "copy" / "file").is_symlink()


# -- words that make no sense --------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("source", "other"), "both local"),
        (("-", "s3/b/p"), "no streams"),
        (("s3/b/p", "-"), "no streams"),
        (("source", "s3"), "names no bucket"),
        (("s3/b/p*", "copy"), "wildcards"),
        (("s3/b/p", "s3/b/p/"), "same tree"),
        (("s3/b/p", "s3/b/p/q"), "inside the other"),
        (("s3/b/p/q", "s3/b/p"), "inside the other"),
        (("s3/b", "s3/b/p"), "inside the other"),
        (("source/a", "s3/b/p"), "no directory"),
        (("s3/b/p", "source/a"), "no directory"),
        (("source", "s3/b/p", "--max-delete", "much"), "bad limit"),
        (("source", "s3/b/p", "--shard", "9/8"), "bad shard"),
        (("source", "s3/b/p", "--max-duration", "soon"), "duration"),
    ],
)
def test_senseless_words_are_refused(
    call: Call, fake: FakeS3, source: Path, words: tuple[str, ...], message: str
) -> None:
    """Before anything is asked of the server."""
    result = call("sync", *words)

    assert 2 == result.code
    assert message in result.err
    assert [] == fake.ops()


def test_a_neighbour_with_the_same_beginning_is_no_overlap(call: Call, fake: FakeS3) -> None:
    """The trees p and p2 have nothing in common."""
    fake.store.add("b", "p/a", b"A", mtime=OLD)

    result = call("sync", "s3/b/p", "s3/b/p2")

    assert 0 == result.code
    assert b"A" == fake.store.bodies("b")["p2/a"]


# -- the run -------------------------------------------------------------------------------


def test_failures_are_told_and_the_rest_goes_on(call: Call, fake: FakeS3, source: Path) -> None:
    """One object that is denied is one error line, exit code 1, and no deletes."""
    fake.store.add("b", "p/extra", b"x", mtime=OLD)
    fake.fault(Answer(403, "AccessDenied"), op="PutObject", key="p/d/b", times=0)

    result = call("sync", "source", "s3/b/p", "--delete", "--json")

    assert (1, 5, 1, 0) == (result.code, *(summary_of(result)[name] for name in ("copied", "failed", "deleted")))
    errors = [json.loads(line) for line in result.err.splitlines()]
    assert ["AccessDenied", "Refused"] == [error["code"] for error in errors]
    assert "p/extra" in fake.store.bodies("b")
    assert "1 failed" in str(summary_of(result)["held_back"])


def test_what_failed_is_tried_again_next_time(call: Call, fake: FakeS3, source: Path) -> None:
    """A failure leaves no record behind."""
    fake.fault(Answer(403, "AccessDenied"), op="PutObject", key="p/d/b")
    call("sync", "source", "s3/b/p")

    result = call("sync", "source", "s3/b/p", "--json")

    assert (0, 1) == (result.code, summary_of(result)["copied"])


def test_max_duration_takes_no_new_work(call: Call, fake: FakeS3, source: Path) -> None:
    """The time is up before the first file: nothing is copied, nothing deleted, and it says so."""
    fake.store.add("b", "p/extra", b"x", mtime=OLD)

    result = call("sync", "source", "s3/b/p", "--delete", "--max-duration", "0.000001s", "--json")

    assert (6, 0) == (result.code, summary_of(result)["copied"])
    assert "time was up" in str(summary_of(result)["held_back"])
    assert ["p/extra"] == list(fake.store.bodies("b"))


def test_metrics_tell_of_the_run(call: Call, fake: FakeS3, source: Path, tmp_path: Path) -> None:
    """A failure keeps the time of the last success, so that an alert can count from it."""
    path = tmp_path / "m.prom"
    call("sync", "source", "s3/b/p", "--metrics-file", "m.prom")
    good = path.read_text().splitlines()
    fake.fault(Answer(403, "AccessDenied"), op="PutObject", times=0)
    plant(source, {"a": b"changed"})

    failed = call("sync", "source", "s3/b/p", "--metrics-file", "m.prom")

    bad = path.read_text().splitlines()
    labels = '{source="source",target="s3/b/p/"}'
    success = [line for line in good if line.startswith("s3pool_sync_last_success_timestamp_seconds{")]
    assert f"s3pool_sync_objects_copied{labels} 6" in good
    assert f"s3pool_sync_exit_code{labels} 0" in good
    assert any(
        line.startswith('s3pool_sync_endpoint_retries{source="source",target="s3/b/p/",endpoint=') for line in good
    )
    assert f"s3pool_sync_objects_failed{labels} 1" in bad
    assert f"s3pool_sync_exit_code{labels} {failed.code}" in bad
    assert success == [line for line in bad if line.startswith("s3pool_sync_last_success_timestamp_seconds{")]


def test_metrics_of_nodes_have_the_names_of_the_proxys(call: Call, fake: FakeS3, source: Path, tmp_path: Path) -> None:
    """One dashboard for both: but for the program's name and for _total, since a run does not count on."""
    fake.fault(Answer(500, "InternalError"), op="PutObject")

    call("sync", "source", "s3/b/p", "--metrics-file", "m.prom")

    families = {family.name: family for family in text_string_to_metric_families((tmp_path / "m.prom").read_text())}
    ours = {name.removeprefix("s3pool_sync_"): family for name, family in families.items() if "_endpoint_" in name}
    theirs = {name.removeprefix("s3pool_proxy_"): labels for name, _, labels, _ in proxy_metrics()}
    for name, family in ours.items():
        labels = {label for sample in family.samples for label in sample.labels} - {"source", "target"}
        assert ("gauge", {*theirs[f"{name}_total"]}) == (family.type, labels)
    assert {name.removesuffix("_total") for name in theirs if name.startswith("endpoint_") and "_total" in name} == {
        *ours,
        "endpoint_connections",
    }
    assert [("http 500", 1.0)] == [(each.labels["kind"], each.value) for each in ours["endpoint_failures"].samples]
    assert {"version", "python"} <= {*families["s3pool_sync_build_info"].samples[0].labels}


def test_metrics_are_written_when_nothing_could_begin(call: Call, tmp_path: Path) -> None:
    """An unmounted source must be visible to who watches the metrics only."""
    result = call("sync", "missing", "s3/b/p", "--metrics-file", "m.prom")

    assert 3 == result.code
    assert 's3pool_sync_exit_code{source="missing",target="s3/b/p/"} 3' in (tmp_path / "m.prom").read_text()


def test_upload_checksum_sends_one_more(call: Call, fake: FakeS3, source: Path) -> None:
    """In sync --checksum is a way to compare, so the upload's has a name of its own."""
    call("sync", "source", "s3/b/p", "--upload-checksum", "sha256")

    puts = [request for request in fake.requests if request.op == "PutObject"]
    assert all("x-amz-checksum-sha256" in request.headers for request in puts)
    assert 6 == len(puts)


def test_a_list_of_names_takes_the_place_of_the_tree(call: Call, fake: FakeS3, source: Path, tmp_path: Path) -> None:
    """Other names are untouched on both sides; a listed one that is missing is told."""
    for key in ("p/other", "p/d/gone"):
        fake.store.add("b", key, b"x", mtime=OLD)
    (tmp_path / "list").write_bytes(b"a\nd/b\nd/c/deep\n")
    (tmp_path / "more").write_bytes(b"a\nmissing\n")

    good = call("sync", "source", "s3/b/p", "--files-from", "list", "--delete", "--json")
    down = call("sync", "s3/b/p", "copy", "--files-from", "list", "--json")
    bad = call("sync", "source", "s3/b/p", "--files-from", "more", "--json")
    piped = call("sync", "source", "s3/b/p", "--files-from", "-", "--json", stdin=b"empty\n")

    assert [(0, 3), (0, 3), (3, 0), (0, 1)] == [(r.code, summary_of(r)["copied"]) for r in (good, down, bad, piped)]
    assert "missing is on the list, and not there" in bad.err
    assert {"p/a", "p/d/b", "p/d/c/deep", "p/empty", "p/other", "p/d/gone"} == set(fake.store.bodies("b"))
    assert {"a": b"A", "d/b": b"BB", "d/c/deep": b"deep"} == tree_of(tmp_path / "copy")


def test_shard_auto_needs_somebody_who_tells(call: Call, source: Path) -> None:
    """Without a job array it would mean nothing."""
    words = ("sync", "source", "s3/b/p", "--shard", "auto")

    lost = call(*words)
    told = call(*words, env={"JOB_COMPLETION_INDEX": "0", "S3POOL_SHARD_COUNT": "1"})

    assert (2, 0) == (lost.code, told.code)

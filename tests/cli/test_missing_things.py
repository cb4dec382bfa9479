"""What is not there: each command says what to do, ends with the right code, and changes nothing."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import FakeS3

SHOWN = "; s3pool ls shows the buckets there are"
MADE = "; s3pool mb s3/none makes it, s3pool ls shows the buckets there are"
KEYS = "; s3pool ls shows the keys there are"
BELOW = "; but keys lie below it: s3pool ls s3/b/p/ shows them"
COPIES = "there is no such key, but there are keys below it: -r copies them"
NO_FILE = "cannot read none: No such file or directory"
# The words, and how the error's line ends.
MISSING = {
    **dict.fromkeys(
        (
            *(f"{name} s3/none" for name in ("ls", "tree", "find", "stat", "du", "rb", "rb --force", "check --nodes")),
            *(f"{name} s3/none/k" for name in ("stat", "head", "cat", "rm", "tag ls")),
            *("diff d s3/none", "check d s3/none", "shards s3/none --into 2", "undo s3/none --since 1h --force"),
            *("cp s3/none/k .", "cp -r s3/none/p d", "mv s3/none/k .", "sync s3/none d", "cp s3/none/k s3/b/"),
        ),
        SHOWN,
    ),
    **dict.fromkeys(
        (
            *("cp f s3/none/", "cp -r d s3/none", "cp s3/b/k s3/none/k", "cp -r s3/b s3/none", "cp -n f s3/none/k"),
            *("mv f s3/none/k", "mv -r d s3/none/", "mv s3/b/k s3/none/k", "pipe s3/none/k", "speedtest s3/none"),
            *("sync d s3/none", "sync s3/b s3/none/p", "mirror d s3/none", "version enable s3/none"),
        ),
        MADE,
    ),
    **dict.fromkeys(
        ("stat s3/b/none", "head s3/b/none", "cat s3/b/none", "cp s3/b/none .", "mv s3/b/none .", "tag ls s3/b/none"),
        KEYS,
    ),
    **dict.fromkeys(
        ("stat s3/b/p", "head s3/b/p", "cat s3/b/p", "head s3/b/p/", "cat s3/b/p/", "tag ls s3/b/p"), BELOW
    ),
    **dict.fromkeys(("cp s3/b/p .", "cp s3/b/p/ d", "mv s3/b/p .", "cp s3/b/p s3/b/q"), COPIES),
    "rm s3/b/p": "there is no such key, but there are keys below it: -r deletes them",
    "tree s3/b/none": "NoSuchKey: nothing lies below it",
    "sync s3/b/none d": "NoSuchKey: no key has that prefix",
    "diff s3/b/none s3/b/other": "nothing has that name or lies below it, on either side",
    **dict.fromkeys(
        ("cp none s3/b/", "cp -r none s3/b/", "mv none s3/b/", "sync none s3/b/", "mirror none s3/b"), NO_FILE
    ),
}


@pytest.fixture
def filled(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Give a bucket with a key, keys below a prefix, and a local tree."""
    for key in ("k", "p/a", "p/deep/b", "silver", "since/x"):
        fake.store.add("b", key, b"1")
    (tmp_path / "d").mkdir()
    for name in ("f", "d/f"):
        (tmp_path / name).write_bytes(b"1")
    return fake


def _tree(place: Path) -> set[Path]:
    return {path for top in place.glob("[!.]*") for path in (top, *top.rglob("*"))}


@pytest.mark.parametrize("words", MISSING)
def test_missing_things_say_what_to_do(filled: FakeS3, call: Call, tmp_path: Path, words: str) -> None:
    """One line for it, exit code 3, and nothing was stored, deleted or left on disk."""
    stored, files = filled.store.bodies("b"), _tree(tmp_path)

    result = call(*shlex.split(words), stdin=b"x")

    errors = [line for line in result.err.splitlines() if ": error: " in line]
    assert (3, 1) == (result.code, len(errors)), result.err
    assert errors[0].endswith(MISSING[words])
    assert (stored, files) == (filled.store.bodies("b"), _tree(tmp_path))


def test_ls_shows_what_begins_with_a_name(filled: FakeS3, call: Call) -> None:
    """As aws, mc and s5cmd show it; a key or a directory of that name comes first, alone."""
    filled.store.add("b", "p2", b"1")

    assert ["silver", "since/"] == [line.split()[-1] for line in call("ls", "s3/b/si").lines]
    assert ["silver", "since/x"] == [line.split()[-1] for line in call("ls", "-r", "s3/b/si").lines]
    assert ["deep/b"] == [line.split()[-1] for line in call("ls", "-r", "s3/b/p/de").lines]
    assert ["a", "deep/"] == [line.split()[-1] for line in call("ls", "s3/b/p").lines]
    assert ["silver"] == [record["key"] for record in call("ls", "--json", "s3/b/silv").records]
    nothing = call("ls", "s3/b/x")
    assert (0, "", "s3pool: nothing found: s3/b/x\n") == (nothing.code, nothing.out, nothing.err)


@pytest.mark.parametrize("spelling", ["{}", "s3/{}", "s3/{}/", "s3://{}", "s3://{}/"])
def test_a_bucket_is_spelled_alike_everywhere(filled: FakeS3, call: Call, spelling: str) -> None:
    """Bare only where no local path can stand."""
    bucket = spelling.format("new-bucket")

    made = call("mb", bucket)
    copied = call("cp", "f", bucket if "/" in bucket else "s3/new-bucket")
    listed = call("ls", bucket)
    removed = call("rb", "--force", bucket)

    assert ("Bucket created: s3/new-bucket\n", "f -> s3/new-bucket/f\n") == (made.out, copied.out)
    assert (["f"], "Bucket deleted: s3/new-bucket\n") == ([line.split()[-1] for line in listed.lines], removed.out)

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from json import loads
from pathlib import Path

import pytest

from tests.support.fake_s3 import FakeS3
from tests.support.run_cli import CliRunner

KEYS = ("a", "p", "p/a", "p/d/b", "p2/x")


@pytest.fixture
def run_cli(run_here: CliRunner) -> CliRunner:
    """Run commands in this process: none of these tests needs one of its own."""
    return run_here


@pytest.fixture
def fake(run_cli: CliRunner) -> Iterator[FakeS3]:
    """Give a store with some keys in ``b``, known to the commands."""
    with FakeS3(2) as server:
        for key in KEYS:
            server.store.add("b", key, key.encode())
        run_cli.environ.update(server.environment)
        yield server


def left(fake: FakeS3) -> list[str]:
    """Give the keys that are there."""
    return sorted(fake.store.bodies("b"))


def test_one_key_goes(run_cli: CliRunner, fake: FakeS3) -> None:
    """And nothing below it."""
    result = run_cli("rm", "s3/b/p")

    assert (0, "Deleted: s3/b/p\n") == (result.code, result.out)
    assert ["a", "p/a", "p/d/b", "p2/x"] == left(fake)


def test_missing_key_is_no_error(run_cli: CliRunner, fake: FakeS3) -> None:
    """It is not there, as was wanted."""
    assert 0 == run_cli("rm", "s3/b/missing").code


def test_missing_bucket_is_not_found(run_cli: CliRunner, fake: FakeS3) -> None:
    """A mistyped name must not look like success."""
    assert 3 == run_cli("rm", "s3/missing/k").code
    assert 3 == run_cli("rm", "-r", "--force", "s3/missing").code


def test_tree_without_force_is_refused_where_nobody_can_answer(run_cli: CliRunner, fake: FakeS3) -> None:
    """Cron must not delete by accident."""
    result = run_cli("rm", "-r", "s3/b/p")

    assert (2, "") == (result.code, result.out)
    assert "--force" in result.err
    assert sorted(KEYS) == left(fake)


def test_tree_with_force_goes(run_cli: CliRunner, fake: FakeS3) -> None:
    """`p2` is not below `p`."""
    result = run_cli("rm", "-r", "--force", "s3/b/p")

    assert {"Deleted: s3/b/p", "Deleted: s3/b/p/a", "Deleted: s3/b/p/d/b"} == set(result.lines)
    assert (0, ["a", "p2/x"]) == (result.code, left(fake))


@pytest.mark.parametrize(("answer", "code", "expected"), [("y", 0, ["a", "p2/x"]), ("n", 6, sorted(KEYS))])
def test_tree_asks_on_a_terminal(
    run_cli: CliRunner, fake: FakeS3, tmp_path: Path, answer: str, code: int, expected: list[str]
) -> None:
    """The question is on stderr; the default is no."""
    controller, terminal = pty.openpty()
    process = run_cli.start(
        "rm", "-r", "s3/b/p", cwd=tmp_path, stdin=terminal, stderr=terminal, stdout=subprocess.DEVNULL
    )
    os.close(terminal)
    asked = b""
    while b"[y/N]" not in asked:
        asked += os.read(controller, 1000)

    os.write(controller, f"{answer}\n".encode())
    returned = process.wait(timeout=30)
    os.close(controller)

    assert (code, expected) == (returned, left(fake))


def test_bucket_needs_recursion(run_cli: CliRunner, fake: FakeS3) -> None:
    """A key that was forgotten must not cost a bucket."""
    assert 2 == run_cli("rm", "s3/b").code
    assert 2 == run_cli("rm", "s3/b", "--force").code
    assert sorted(KEYS) == left(fake)


def test_glob_and_filters(run_cli: CliRunner, fake: FakeS3) -> None:
    """The last match decides."""
    run_cli("rm", "s3/b/p/*", "--exclude", "*b")

    assert ["a", "p", "p/d/b", "p2/x"] == left(fake)


def test_raw_prefix_asks_too_and_takes_neighbours(run_cli: CliRunner, fake: FakeS3) -> None:
    """It reaches further than -r."""
    refused = run_cli("rm", "--prefix", "s3/b/p")
    done = run_cli("rm", "--prefix", "--force", "s3/b/p")

    assert (2, 0, ["a"]) == (refused.code, done.code, left(fake))


def test_names_on_standard_input_are_taken_as_they_stand(run_cli: CliRunner, fake: FakeS3) -> None:
    """No wildcards, and with -0 any byte."""
    fake.store.add("b", "*")
    fake.store.add("b", "new\nline")

    lines = run_cli("rm", "--stdin", stdin=b"s3/b/*\ns3/b/a\n")
    nulls = run_cli("rm", "--stdin", "-0", stdin=b"s3/b/new\nline\0s3/b/p")

    assert (0, 0, ["p/a", "p/d/b", "p2/x"]) == (lines.code, nulls.code, left(fake))
    assert {"Deleted: s3/b/new\\nline", "Deleted: s3/b/p"} == set(nulls.lines)


def test_bad_line_of_standard_input_is_told_and_the_rest_goes_on(run_cli: CliRunner, fake: FakeS3) -> None:
    """One among a thousand must not decide which of the others are tried; it is found by its number."""
    lines = run_cli("rm", "--stdin", stdin=b"s3/b/a\n\nlocal/file\ns3/b\ns3/b/\xff\ns3/b/p\n")

    assert (1, ["p/a", "p/d/b", "p2/x"]) == (lines.code, left(fake))
    assert ["Deleted: s3/b/a", "Deleted: s3/b/p"] == sorted(lines.lines)
    said = lines.err.splitlines()
    assert [f"s3pool: error: line {number} of standard input: " for number in (3, 4, 5)] == [
        text[: len("s3pool: error: line 3 of standard input: ")] for text in said[:3]
    ]
    assert said[3].startswith("s3pool: 2 deleted, 3 failed in ")


def test_standard_input_without_a_good_line_is_a_usage_error(run_cli: CliRunner, fake: FakeS3) -> None:
    """Nothing was done, and each line says so with --json, too; in a dry run as well."""
    json = run_cli("rm", "--stdin", "-0", "--json", stdin=b"no\nlist\0s3/\0")
    rehearsed = run_cli("rm", "--stdin", "--dry-run", stdin=b"no\n")

    assert (2, 2, sorted(KEYS)) == (json.code, rehearsed.code, left(fake))
    assert [("delete", "no\nlist", "Usage"), ("delete", "s3/", "Usage")] == [
        (error["op"], error["source"], error["code"]) for error in map(loads, json.err.splitlines())
    ]


def test_json_gives_records(run_cli: CliRunner, fake: FakeS3) -> None:
    """One a key, and the summary."""
    result = run_cli("rm", "s3/b/a", "--json")

    deleted, summary = result.records
    assert {"type": "delete", "url": "s3/b/a"} == deleted
    assert ("summary", 1, 0) == (summary["type"], summary["deleted"], summary["failed"])


def test_dry_run_deletes_nothing(run_cli: CliRunner, fake: FakeS3) -> None:
    """And needs nobody's consent."""
    result = run_cli("rm", "-r", "s3/b/p", "--dry-run")

    assert (0, sorted(KEYS)) == (result.code, left(fake))
    assert "(dry run) Deleted: s3/b/p/d/b" in result.lines


def test_age_decides(run_cli: CliRunner, fake: FakeS3) -> None:
    """Keys were stored in 1970; one is of today."""
    import time

    fake.store.add("b", "p/new", mtime=time.time())

    run_cli("rm", "-r", "--force", "s3/b/p", "--older-than", "1d")

    assert ["a", "p/new", "p2/x"] == left(fake)


def test_unfinished_uploads_are_aborted(run_cli: CliRunner, fake: FakeS3) -> None:
    """Keys stay."""
    from s3pool.config.load import load_config
    from s3pool.session import open_session

    with open_session(load_config({}, environ=fake.environment, cwd="/", home="/")) as session:
        session.client.create_multipart_upload("b", "p/u")

    young = run_cli("rm", "--incomplete", "--older-than", "1d", "s3/b")
    result = run_cli("rm", "--incomplete", "s3/b")

    assert (0, "") == (young.code, young.out)
    assert result.out.startswith("Deleted: s3/b/p/u (unfinished upload ")
    assert ({}, sorted(KEYS)) == (fake.store.bucket("b").uploads, left(fake))


def test_all_versions_go(run_cli: CliRunner, fake: FakeS3) -> None:
    """Markers too, so that nothing is left of the key."""
    fake.store.bucket("b").versioning = "Enabled"
    fake.store.add("b", "a", b"second")
    run_cli("rm", "s3/b/a")

    result = run_cli("rm", "--versions", "s3/b/a")

    assert 3 == len(result.lines)
    assert "a" not in fake.store.bucket("b").keys_from("", inclusive=True)


def test_nothing_to_remove_is_a_usage_error(run_cli: CliRunner, fake: FakeS3) -> None:
    """An empty variable in a script must be noticed."""
    assert 2 == run_cli("rm").code
    assert 2 == run_cli("rm", "--versions", "--incomplete", "s3/b/a").code


def test_one_version_goes(run_cli: CliRunner, fake: FakeS3) -> None:
    """The others stay; a delete marker is a version as well, and what is not there is gone already."""
    fake.store.bucket("b").versioning = "Enabled"
    first = fake.store.add("b", "k*", b"one").version_id
    fake.store.add("b", "k*", b"two")
    run_cli("rm", "--no-glob", "s3/b/k*")
    marker = fake.store.bucket("b").versions["k*"][0].version_id

    for version_id in (marker, first, first):
        result = run_cli("rm", "--version-id", version_id, "s3/b/k*")
        assert (0, f"Deleted: s3/b/k* (version {version_id})\n") == (result.code, result.out)
    assert b"two" == fake.store.bodies("b")["k*"]
    for words in (["-r", "s3/b/k"], ["s3/b/k", "s3/b/a"], ["--versions", "s3/b/k"], ["s3/b"]):
        assert 2 == run_cli("rm", "--version-id", "x", *words).code


def test_governance_is_bypassed_on_demand_alone(run_cli: CliRunner, fake: FakeS3) -> None:
    """One key, a batch and a key that XML cannot hold alike; never without the flag."""
    run_cli("rm", "s3/b/a")
    assert not [request for request in fake.requests if "x-amz-bypass-governance-retention" in request.headers]
    fake.store.add("b", "p/\x01", b"")
    fake.forget()

    run_cli("rm", "--bypass-governance", "--version-id", "null", "s3/b/p2/x")
    run_cli("rm", "--bypass-governance", "-r", "--force", "s3/b/p/")

    deletes = [request for request in fake.requests if request.op in ("DeleteObject", "DeleteObjects")]
    assert ["DeleteObject", "DeleteObject", "DeleteObjects"] == sorted(request.op for request in deletes)
    assert {"true"} == {request.headers.get("x-amz-bypass-governance-retention", "") for request in deletes}

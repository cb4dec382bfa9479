"""What find finds, in which order, and what it does with it."""

from __future__ import annotations

import sys

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, FakeS3

DAY = 86400.0
KEYS = {"a.txt": 1, "b/c.txt": 20, "b/d/e.gz": 300, "b2": 4000, "logs/1.gz": 50000}


@pytest.fixture
def filled(fake: FakeS3) -> FakeS3:
    """Give a fake with a small tree; each object is a day younger than the one before."""
    for day, (key, size) in enumerate(KEYS.items()):
        fake.store.add("b", key, b"x" * size, mtime=day * DAY)
    return fake


def found(call: Call, *flags: str, path: str = "s3/b") -> list[str]:
    """Give the keys that find prints."""
    result = call("find", path, *flags)
    assert (0, "") == (result.code, result.err)
    return [line.removeprefix("s3/b/") for line in result.lines]


def test_paths_in_key_order(filled: FakeS3, call: Call) -> None:
    """One s3/bucket/key a line."""
    assert [f"s3/b/{key}" for key in KEYS] == call("find", "s3/b").lines


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--name", "*.txt"], ["a.txt", "b/c.txt"]),
        (["--name", "?.txt", "--name", "a*"], ["a.txt"]),
        (["--path", "b/*"], ["b/c.txt", "b/d/e.gz"]),
        (["--regex", r"^b/|gz$"], ["b/c.txt", "b/d/e.gz", "logs/1.gz"]),
        (["--ignore", "b/*", "--ignore", "*.txt"], ["b2", "logs/1.gz"]),
        (["--larger", "300"], ["b2", "logs/1.gz"]),
        (["--smaller", "300"], ["a.txt", "b/c.txt"]),
        (["--larger", "1K", "--smaller", "40KiB"], ["b2"]),
        (["--older-than", "1970-01-02"], ["a.txt"]),
        (["--newer-than", "1970-01-04"], ["logs/1.gz"]),
        (["--older-than", "7d10h", "--name", "b2"], ["b2"]),
        (["--newer-than", "7d"], []),
        (["--maxdepth", "1"], ["a.txt", "b2"]),
        (["--maxdepth", "2"], ["a.txt", "b/c.txt", "b2", "logs/1.gz"]),
        (["--maxdepth", "0"], []),
        (["--type", "d"], ["b/", "b/d/", "logs/"]),
        (["--type", "d", "--name", "d"], ["b/d/"]),
        (["--type", "d", "--maxdepth", "1"], ["b/", "logs/"]),
        (["--type", "d", "--larger", "1"], []),
        (["--name", "nothing"], []),
    ],
)
def test_tests_are_anded(filled: FakeS3, call: Call, flags: list[str], expected: list[str]) -> None:
    """Every test alone, and some together; nothing found is silent and no failure."""
    assert expected == found(call, *flags)


def test_names_are_relative_to_the_operand(filled: FakeS3, call: Call) -> None:
    """Globs of paths and depths begin below it; what is printed does not."""
    assert ["b/d/e.gz"] == found(call, "--path", "d/*", path="s3/b/b")
    assert ["b/c.txt"] == found(call, "--maxdepth", "1", path="s3/b/b/")
    assert ["b2"] == found(call, path="s3/b/b2")


def test_maxdepth_does_not_list_what_is_deeper(filled: FakeS3, call: Call) -> None:
    """Pruned at the server, not behind it."""
    found(call, "--maxdepth", "1")

    listed = [request for request in filled.requests if request.op == "ListObjectsV2"]
    assert ["/"] == [request.query.get("delimiter") for request in listed]


def test_glob_operand(filled: FakeS3, call: Call) -> None:
    """Across slashes, and off when asked."""
    assert ["b/d/e.gz", "logs/1.gz"] == found(call, path="s3/b/*.gz")
    assert [] == found(call, "--no-glob", path="s3/b/*.gz")


def test_long_lines(filled: FakeS3, call: Call) -> None:
    """Time, bytes, class, path."""
    assert ["[1970-01-04 00:00:00 UTC]          4000 STANDARD s3/b/b2"] == call(
        "find", "s3/b", "-l", "--name", "b2"
    ).lines


def test_print_puts_words_into_a_format(filled: FakeS3, call: Call) -> None:
    """Every word, plain and quoted."""
    result = call("find", "s3/b", "--name", "e.gz", "--print", '{}|{base}|{dir}|{size}|{time}|{version}|{"base"}|{ x }')

    assert 's3/b/b/d/e.gz|e.gz|s3/b/b/d|300|1970-01-03T00:00:00.000Z||"e.gz"|{ x }\n' == result.out


def test_print_url_is_presigned(filled: FakeS3, call: Call) -> None:
    """A link to hand on."""
    result = call("find", "s3/b", "--name", "b2", "--print", "{url}")

    assert result.out.startswith(f"{filled.endpoints[0]}/b/b2?X-Amz-Algorithm=")


def test_print0_is_raw(fake: FakeS3, call: Call) -> None:
    """The key as it is, for xargs -0."""
    fake.store.add("b", "a\nb")

    assert b"s3/b/a\nb\0" == call("find", "s3/b", "-0").stdout
    assert b"s3/b/a\\nb\n" == call("find", "s3/b").stdout


def test_json_is_the_object_record(filled: FakeS3, call: Call) -> None:
    """The same as of ls; prefixes as prefixes."""
    assert call("ls", "-r", "--json", "s3/b").records == call("find", "--json", "s3/b").records
    assert {"type": "prefix", "url": "s3/b/logs/", "prefix": "logs/", "bucket": "b"} in call(
        "find", "--json", "s3/b", "--type", "d"
    ).records


def test_exec_runs_without_a_shell(fake: FakeS3, call: Call) -> None:
    """One word stays one word, whatever is in the key."""
    fake.store.add("b", "a b;$(c)")
    program = f"{sys.executable} -c 'import sys; print(sys.argv[1:])' {{}} x{{base}}x"

    result = call("find", "s3/b", "--exec", program)

    assert "['s3/b/a b;$(c)', 'xa b;$(c)x']\n" == result.out


def test_exec_keeps_the_exit_code(filled: FakeS3, call: Call) -> None:
    """The first failure's, after the program ran for all."""
    program = (
        f"{sys.executable} -c 'import sys; print(sys.argv[1]); sys.exit(7 if sys.argv[1] == \"b2\" else 0)' {{base}}"
    )

    result = call("find", "s3/b", "--exec", program)

    assert 7 == result.code
    assert ["a.txt", "c.txt", "e.gz", "b2", "1.gz"] == result.lines


def test_exec_of_a_missing_program(filled: FakeS3, call: Call) -> None:
    """One line, at once."""
    result = call("find", "s3/b", "--exec", "no-such-program-anywhere {}")

    assert 2 == result.code
    assert "s3pool: error: --exec: cannot run 'no-such-program-anywhere': No such file or directory\n" == result.err


def test_delete_reports_each_key(filled: FakeS3, call: Call) -> None:
    """In one batch."""
    result = call("find", "s3/b", "--name", "*.gz", "--delete")

    assert ["Deleted: s3/b/b/d/e.gz", "Deleted: s3/b/logs/1.gz"] == result.lines
    assert ["a.txt", "b/c.txt", "b2"] == list(filled.store.bodies("b"))
    assert ["DeleteObjects"] == filled.ops(op="DeleteObjects")


def test_delete_takes_a_thousand_at_a_time(fake: FakeS3, call: Call) -> None:
    """While the listing goes on, and without losing its place."""
    for number in range(2100):
        fake.store.add("b", f"{number:04}")

    result = call("find", "s3/b", "--delete", "--json")

    assert {} == fake.store.bodies("b")
    assert 2100 == len(result.records)
    assert {"type": "delete", "url": "s3/b/0000"} in result.records
    assert 3 == len(fake.ops(op="DeleteObjects"))


def test_delete_needs_no_second_connection(fake: FakeS3, call: Call) -> None:
    """A page that is asked for ahead must not hold the only one."""
    for number in range(1001):
        fake.store.add("b", f"{number:04}")

    result = call("find", "s3/b", "--delete", "--max-connections", "1", env={"S3_POOL": fake.endpoints[0]})

    assert (0, {}) == (result.code, fake.store.bodies("b"))


def test_dry_run_deletes_nothing(filled: FakeS3, call: Call) -> None:
    """And says what it would."""
    result = call("find", "s3/b", "--name", "b2", "--delete", "--dry-run")

    assert "(dry run) Deleted: s3/b/b2\n" == result.out
    assert "b2" in filled.store.bodies("b")
    assert [] == filled.ops(op="DeleteObjects")


def test_failed_delete_is_reported(filled: FakeS3, call: Call) -> None:
    """The batch fails as a whole here."""
    filled.fault(Answer(403, "AccessDenied", "no"), op="DeleteObjects", times=0)

    result = call("find", "s3/b", "--delete")

    assert 4 == result.code
    assert "403 AccessDenied: no" in result.err


@pytest.mark.parametrize(
    "flags",
    [
        ["--regex", "("],
        ["--larger", "big"],
        ["--older-than", "5"],
        ["--maxdepth", "-1"],
        ["--exec", "'"],
        ["--exec", ""],
        ["--print", "x", "--json"],
        ["--print", "x", "-l"],
        ["--print", "{typo}"],
        ["--exec", "x", "--delete"],
        ["--print0", "--json"],
        ["--type", "d", "--delete"],
        ["--type", "x"],
    ],
)
def test_senseless_flags_are_usage_errors(call: Call, flags: list[str]) -> None:
    """One line, exit 2, nothing asked of anybody."""
    result = call("find", "s3/b", *flags)

    assert (2, "") == (result.code, result.out)
    assert 1 == result.err.count("\n")


def test_all_buckets_cannot_be_searched(call: Call) -> None:
    """A forgotten operand must not begin to walk everything."""
    assert 2 == call("find").code
    assert 2 == call("find", "s3").code


def test_versions_have_their_ids(call: Call) -> None:
    """One line for each version."""
    call("mb", "s3/bkt", "--versioning")
    call("pipe", "s3/bkt/k", stdin=b"one")
    call("pipe", "s3/bkt/k", stdin=b"two")

    lines = call("find", "--versions", "s3/bkt", "--print", "{version}").lines

    assert 2 == len(set(lines))
    assert "" not in lines


def test_tags_and_metadata_are_asked_for(fake: FakeS3, call: Call) -> None:
    """A request for what has passed all other tests, and for nothing else."""
    rows = (("a.log", "web", "blue"), ("b.log", "web", "red"), ("c.log", "db", "blue"), ("d", "web", "blue"))
    for key, team, colour in rows:
        fake.store.add("b", key, b"x", x_amz_meta_colour=colour).tags["team"] = team

    found = call("find", "s3/b", "--name", "*.log", "--tags", "team=w*", "--metadata", "Colour=blue")

    assert (0, ["s3/b/a.log"]) == (found.code, found.lines)
    assert (3, 2) == (len(fake.ops(op="HeadObject")), len(fake.ops(op="GetObjectTagging")))
    assert [] == call("find", "s3/b", "--tags", "none=1").lines


def test_tags_of_versions(fake: FakeS3, call: Call) -> None:
    """Each version has its own; a delete marker has none."""
    call("mb", "s3/versioned", "--versioning")
    for team in ("web", "db"):
        fake.store.add("versioned", "k", b"x").tags["team"] = team
    call("rm", "s3/versioned/k")

    records = call("find", "s3/versioned", "--versions", "--tags", "team=web", "--json").records

    assert [("k", False)] == [(record["key"], record["is_latest"]) for record in records]


@pytest.mark.parametrize("words", [("--tags", "novalue"), ("--metadata", "=x"), ("--type", "d", "--tags", "a=b")])
def test_tests_that_make_no_sense(fake: FakeS3, call: Call, words: tuple[str, ...]) -> None:
    """Refused before anything is listed."""
    assert (2, []) == (call("find", "s3/b", *words).code, fake.ops())

"""s3pool speedtest: what it measures, whom it names, and that nothing stays behind."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import threading
from collections import Counter

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, Delay, FakeS3, Hang
from tests.support.fake_s3 import Call as CallHook
from tests.support.run_cli import CliRunner

WAIT_S = 60.0
SHORT = ("--duration", "0.2", "--size", "4K", "--concurrency", "4")
FIELDS = {
    *("type", "phase", "endpoint", "alone", "bytes", "objects", "seconds", "throughput", "requests"),
    *("requests_per_s", "objects_per_s", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms", "errors", "error"),
}
PREFIX = re.compile(r"p/\.s3pool-speedtest-[0-9a-f]{12}/\d{8}")


@pytest.fixture
def bucket(fake: FakeS3) -> FakeS3:
    """Give a bucket with one object that is not the test's."""
    fake.store.add("b", "p/mine", b"mine")
    return fake


def left_in(fake: FakeS3) -> list[str]:
    """Give the keys of the bucket."""
    return list(fake.store.bodies("b"))


# -- measurements --------------------------------------------------------------------------


def test_tables_show_all_phases(bucket: FakeS3, call: Call) -> None:
    """A table each, a row for all and one per node; then the words, and nothing stays."""
    result = call("speedtest", *SHORT, "s3/b/p")

    blocks = [block.split("\n") for block in result.out.rstrip("\n").split("\n\n")]
    assert [
        "upload: objects of 4.0KiB, 4 at a time",
        "download: objects of 4.0KiB, 4 at a time",
        "list: 4 at a time",
        "delete: 4 at a time",
    ] == [block[0] for block in blocks[:4]]
    assert ["node", "bytes/s", "req/s", "p50", "p90", "p99", "max", "errors"] == blocks[0][1].split()
    assert ["node", "objects/s"] == blocks[2][1].split()[:2]
    assert all(["all", *bucket.endpoints] == [line.split()[0] for line in block[2:]] for block in blocks[:4])
    assert {"0"} == {line.split()[-1] for block in blocks[:4] for line in block[2:]}
    assert 0 == result.code
    assert ["p/mine"] == left_in(bucket)


def test_tables_fit_80_columns(bucket: FakeS3, call: Call) -> None:
    """With the addresses of this machine, which are not the shortest."""
    assert max(map(len, call("speedtest", *SHORT, "s3/b/p").lines)) <= 80


def test_json_has_an_object_per_row(bucket: FakeS3, call: Call) -> None:
    """The fields that scripts rely on; what they say agrees."""
    result = call("--json", "speedtest", *SHORT, "s3/b/p")

    rows = [record for record in result.records if record["type"] == "speedtest"]
    assert ["upload", "download", "list", "delete"] == list(dict.fromkeys(row["phase"] for row in rows))
    assert ["all", *bucket.endpoints] == [row["endpoint"] for row in rows if row["phase"] == "upload"]
    assert {frozenset(FIELDS)} == {frozenset(row) for row in rows}
    assert all(row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"] for row in rows)
    total, *shares = [row for row in rows if row["phase"] == "download"]
    assert total["bytes"] == 4096 * total["requests"] == sum(share["bytes"] for share in shares)
    assert "" == result.err


def test_objects_lie_below_a_prefix_of_their_own(bucket: FakeS3, call: Call) -> None:
    """Two tests at once, or a real object, must never meet."""
    call("speedtest", *SHORT, "s3/b/p/")

    touched = {request.key for request in bucket.requests if request.method in ("PUT", "DELETE")}
    assert touched
    assert all(PREFIX.fullmatch(key) for key in touched)


def test_objects_are_different_and_of_the_size(bucket: FakeS3, call: Call) -> None:
    """A store that finds equal blocks would win otherwise."""
    call("speedtest", *SHORT, "s3/b")

    sent = [request.body_sha256 for request in bucket.requests if request.op == "PutObject"]
    assert len(sent) == len(set(sent))
    assert {4096} == {request.body_length for request in bucket.requests if request.op == "PutObject"}


def test_large_objects_are_sent_in_pieces(bucket: FakeS3, call: Call) -> None:
    """Beyond what is made at once; they come back whole."""
    result = call("--json", "speedtest", "--duration", "10ms", "--size", "3M", "--concurrency", "2", "s3/b")

    rows = {record["phase"]: record for record in result.records if record.get("endpoint") == "all"}
    assert (0, 0) == (result.code, sum(row["errors"] for row in rows.values()))
    assert rows["download"]["bytes"] == 3 * (1 << 20) * rows["download"]["requests"] > 0


def test_nodes_alone_get_the_whole_load(bucket: FakeS3, call: Call) -> None:
    """In a table of their own, and every node has something to delete."""
    result = call("--json", "speedtest", *SHORT, "--per-endpoint", "s3/b")

    alone = [record for record in result.records if record.get("alone")]
    assert [
        (phase, endpoint) for phase in ("upload", "download", "list", "delete") for endpoint in bucket.endpoints
    ] == [(row["phase"], row["endpoint"]) for row in alone]
    assert all(row["requests"] for row in alone)


# -- who stands out ------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--per-endpoint"]])
def test_slow_node_is_named_in_words(bucket: FakeS3, call: Call, flags: list[str]) -> None:
    """Whether it shares a load or gets one for itself."""
    bucket.fault(Delay(0.3), op="GetObject", endpoint=1, times=0)

    result = call("speedtest", *SHORT, "--duration", "1.2", *flags, "s3/b")

    slow = [line for line in result.lines if line.endswith("slower than the median of the others in download")]
    assert 1 == len(slow)
    assert re.fullmatch(rf"{re.escape(bucket.endpoints[1])} is \d+\.\dx slower than .*", slow[0])


def test_slow_node_in_json(bucket: FakeS3, call: Call) -> None:
    """With the factor as a number."""
    bucket.fault(Delay(0.3), op="PutObject", endpoint=0, times=0)

    result = call("--json", "speedtest", *SHORT, "--duration", "1.2", "s3/b")

    found = [r for r in result.records if r["type"] == "speedtest_finding" and r["phase"] == "upload"]
    assert [("slow", bucket.endpoints[0])] == [(finding["kind"], finding["endpoint"]) for finding in found]
    assert found[0]["factor"] > 2
    assert found[0]["message"].startswith(bucket.endpoints[0])


def test_dead_node_is_named_and_the_rest_measured(bucket: FakeS3, call: Call) -> None:
    """The pool goes around it; alone it is left out, with the reason."""
    bucket.nodes[1].kill()

    pooled = call("speedtest", *SHORT, "s3/b")
    alone = call("speedtest", *SHORT, "--per-endpoint", "s3/b")

    dead = bucket.endpoints[1]
    assert any(re.fullmatch(rf"{dead} answered none of the pool's \d+ requests in upload", li) for li in pooled.lines)
    assert f"{dead} was left out of upload: {dead}: connection refused" in alone.lines
    assert (0, 0, ["p/mine"]) == (pooled.code, alone.code, left_in(bucket))


# -- what stays ----------------------------------------------------------------------------


class Terminal(io.FileIO):
    """A file that is taken for a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def test_dead_node_has_no_time_in_the_bars(bucket: FakeS3, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the shorter bar is the better one, zero would be the best of all."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Terminal(1, "wb", closefd=False)))
    bucket.nodes[1].kill()

    result = call("speedtest", *SHORT, "--color", "never", "--progress", "none", "s3/b/p")

    _, _, bars = result.out.partition("upload: mean time of a request, shorter is better")
    alive, dead = bars.splitlines()[1:3]
    assert alive.endswith("ms")
    assert [bucket.endpoints[1], "-"] == dead.split()


def test_keep_leaves_the_objects(bucket: FakeS3, call: Call) -> None:
    """And says where; deleting is not measured."""
    result = call("speedtest", *SHORT, "--keep", "s3/b/p")

    kept = [key for key in left_in(bucket) if PREFIX.fullmatch(key)]
    assert kept
    assert result.err.endswith(f"s3pool: the objects stay below s3/b/{kept[0].rpartition('/')[0]}/\n")
    assert "delete" not in result.out


def test_versions_are_removed_too(bucket: FakeS3, call: Call) -> None:
    """A delete in such a bucket only hides."""
    bucket.store.buckets["b"].versioning = "Enabled"

    code = call("speedtest", *SHORT, "s3/b").code

    assert (0, ["p/mine"]) == (code, list(bucket.store.buckets["b"].versions))


def test_advice_knows_of_versions(bucket: FakeS3, call: Call) -> None:
    """Without that word the removal would only hide them."""
    bucket.store.buckets["b"].versioning = "Enabled"
    bucket.fault(Answer(403, "AccessDenied"), op="DeleteObjects", times=0)

    assert "; s3pool rm -r --versions --force s3/b/" in call("speedtest", *SHORT, "s3/b").err


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_leaves_nothing_behind(
    bucket: FakeS3, run_cli: CliRunner, number: signal.Signals, code: int, word: str
) -> None:
    """In the middle of the uploads."""
    arrived = threading.Event()
    bucket.fault(CallHook(lambda _: arrived.set()), op="PutObject", nth=20)
    process = run_cli.start("speedtest", "--duration", "60", "--size", "64K", "s3/b/p", env=bucket.environment)
    assert arrived.wait(WAIT_S)

    process.send_signal(number)
    out, error = process.communicate(timeout=WAIT_S)

    assert (code, b"") == (process.returncode, out)
    assert ["s3pool: stopping; what was stored is removed", f"s3pool: {word}"] == error.decode().splitlines()[1:]
    assert bucket.ops(op="PutObject")
    assert ["p/mine"] == left_in(bucket)


def test_signal_does_not_wait_for_silent_nodes(bucket: FakeS3, run_cli: CliRunner) -> None:
    """Nobody knows what they will still store; that is said, with the command that looks."""
    arrived = threading.Event()
    bucket.fault(CallHook(lambda _: arrived.set()), op="PutObject", nth=3)
    bucket.fault(Hang(), op="PutObject", nth=3, times=0)
    process = run_cli.start("speedtest", *SHORT, "--duration", "60", "s3/b/p", env=bucket.environment)
    assert arrived.wait(WAIT_S)

    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=WAIT_S)

    told = error.decode().splitlines()[-2]
    assert 130 == process.returncode
    assert re.fullmatch(
        r"s3pool: error: requests of the test that were not answered and may still store something: [1-4]; "
        r"s3pool rm -r --force s3/b/p/\.s3pool-speedtest-[0-9a-f]{12}/ removes what is there",
        told,
    )
    assert ["p/mine"] == left_in(bucket)


def test_signal_in_a_later_phase_keeps_the_tables_before(bucket: FakeS3, run_cli: CliRunner) -> None:
    """What was measured was measured."""
    arrived = threading.Event()
    bucket.fault(CallHook(lambda _: arrived.set()), op="ListObjectsV2")
    process = run_cli.start("speedtest", *SHORT, "--duration", "1s", "--json", "s3/b", env=bucket.environment)
    assert arrived.wait(WAIT_S)

    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=WAIT_S)

    assert 130 == process.returncode
    assert Counter(upload=3, download=3) == Counter(json.loads(line)["phase"] for line in out.splitlines())
    assert ["p/mine"] == left_in(bucket)


def test_broken_pipe_leaves_nothing_behind(bucket: FakeS3, run_cli: CliRunner) -> None:
    """As in `s3pool speedtest | head -1`."""
    with run_cli.start("speedtest", *SHORT, "s3/b", env=bucket.environment) as process:
        assert process.stdout is not None
        process.stdout.close()
        code = process.wait(WAIT_S)

    assert (141, ["p/mine"]) == (code, left_in(bucket))


def test_what_cannot_be_removed_is_told(bucket: FakeS3, call: Call) -> None:
    """With the command that does it, and exit 1."""
    bucket.fault(Answer(403, "AccessDenied"), op="Delete*", times=0)

    result = call("speedtest", *SHORT, "s3/b/p")

    place = next(key for key in left_in(bucket) if PREFIX.fullmatch(key)).rpartition("/")[0]
    count = len(left_in(bucket)) - 1
    last = result.err.splitlines()[-1]
    assert 1 == result.code
    assert last.startswith(f"s3pool: error: objects of the test that could not be removed: {count}: DeleteObjects ")
    assert last.endswith(f"; s3pool rm -r --force s3/b/{place}/ removes what is there")


# -- errors and words ----------------------------------------------------------------------


def test_failed_requests_are_counted_and_exit_1(bucket: FakeS3, call: Call) -> None:
    """The others are measured all the same."""
    bucket.fault(Answer(400, "InvalidRequest", "no"), op="GetObject", endpoint=0, nth=2)

    result = call("--json", "speedtest", *SHORT, "s3/b")

    rows = [r for r in result.records if r["type"] == "speedtest" and r["phase"] == "download"]
    assert (1, [1, 1, 0]) == (result.code, [row["errors"] for row in rows])
    assert "400 InvalidRequest: no" in rows[1]["error"]


def test_missing_bucket_is_exit_3(call: Call) -> None:
    """One line, with advice, before anything is measured."""
    result = call("speedtest", "s3/none")

    assert (3, "", 1) == (result.code, result.out, result.err.count("\n"))
    assert result.err.endswith("s3pool ls shows the buckets there are\n")


def test_no_right_to_write_is_exit_4(bucket: FakeS3, call: Call) -> None:
    """Said once, not once per attempt."""
    bucket.fault(Answer(403, "AccessDenied"), op="PutObject", times=0)

    result = call("speedtest", *SHORT, "s3/b")

    assert 4 == result.code
    assert 1 == result.err.count("s3pool: error:")


def test_no_endpoint_is_exit_5(bucket: FakeS3, call: Call) -> None:
    """Nothing is left to measure."""
    for node in bucket.nodes:
        node.kill()

    assert 5 == call("speedtest", "--retries", "0", "s3/b").code


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["s3"], "speedtest needs a bucket; write s3/BUCKET or s3/BUCKET/PREFIX"),
        (["local"], "'local' is not in S3: write s3/BUCKET/KEY or s3://BUCKET/KEY"),
        (["--duration", "0", "s3/b"], "--duration must be more than nothing"),
        (["--size", "6G", "s3/b"], "--size: an upload in one piece takes 5.0GiB at most"),
        (
            ["--list", "--keep", "s3/b"],
            "--list stores nothing: --size, --per-endpoint and --keep do not go with it",
        ),
    ],
)
def test_senseless_words_are_exit_2(bucket: FakeS3, call: Call, argv: list[str], message: str) -> None:
    """Before a request is made."""
    result = call("speedtest", *argv)

    assert (2, f"s3pool: error: {message}\n") == (result.code, result.err)
    assert [] == bucket.ops()


@pytest.mark.parametrize("flags", [[], ["--keep"], ["--per-endpoint"], ["--list"]])
def test_dry_run_changes_nothing(bucket: FakeS3, call: Call, flags: list[str]) -> None:
    """It looks whether the bucket is there, and says what it would do."""
    result = call("--dry-run", "speedtest", *flags, "s3/b/p")

    assert (0, {"HeadBucket"}) == (result.code, set(bucket.ops()))
    assert 1 == len(result.lines)
    assert result.out.startswith("(dry run) speedtest: ")


def test_dry_run_line(bucket: FakeS3, call: Call) -> None:
    """Whole, for once."""
    line = call("--dry-run", "speedtest", "--duration", "5s", "--concurrency", "8", "s3/b/p").out

    assert re.fullmatch(
        r"\(dry run\) speedtest: upload, download, list, delete of objects of 1\.0MiB on 2 nodes, 8 at a time, "
        r"about 20s in all, below s3/b/p/\.s3pool-speedtest-[0-9a-f]{12}/; then remove what was stored\n",
        line,
    )


# -- --list --------------------------------------------------------------------------------


@pytest.fixture
def filled(fake: FakeS3) -> FakeS3:
    """Give three pages of keys below a prefix."""
    for number in range(2500):
        fake.store.add("b", f"p/{number:05}")
    fake.store.add("b", "p2")
    return fake


def test_list_compares_three_ways(filled: FakeS3, call: Call) -> None:
    """Each lists everything below the prefix; nothing is stored."""
    result = call("speedtest", "--list", "--duration", "60", "s3/b/p")

    header, *rows = [re.split(r"  +", line) for line in result.lines]
    assert ["listing", "objects", "pages", "seconds", "objects/s", "factor"] == header
    assert [("one connection", "2500"), ("rotation", "2500"), ("parallel, 8 jobs", "2500")] == [
        tuple(row[:2]) for row in rows
    ]
    assert "1.0x" == rows[0][-1]
    assert (0, {"HeadBucket", "ListObjectsV2"}) == (result.code, set(filled.ops()))


def test_one_connection_is_one(filled: FakeS3, call: Call) -> None:
    """The first three pages come over it."""
    call("speedtest", "--list", "--duration", "60", "s3/b/p")

    pages = [(request.endpoint, request.connection) for request in filled.requests if request.op == "ListObjectsV2"]
    assert 1 == len(set(pages[:3]))
    assert 0 == pages[0][0]
    assert {0, 1} == {endpoint for endpoint, _ in pages[3:6]}


def test_list_counts_the_requests_of_each_way(filled: FakeS3, call: Call) -> None:
    """Their sum is what the nodes saw, and each way begins over new connections."""
    records = call("--json", "speedtest", "--list", "--duration", "60", "s3/b/p").records

    pages = [(request.endpoint, request.connection) for request in filled.requests if request.op == "ListObjectsV2"]
    assert [3, 3] == [record["requests"] for record in records[:2]]
    assert len(pages) == sum(record["requests"] for record in records)
    assert not {*pages[:3]} & {*pages[3:6]}


def test_list_goes_on_without_a_dead_node(filled: FakeS3, call: Call) -> None:
    """The one connection goes to a node that lives."""
    filled.nodes[0].kill()

    records = call("--json", "speedtest", "--list", "--duration", "60", "s3/b/p", "--retries", "1").records

    assert [("one connection", filled.endpoints[1], True), ("rotation", "all", True), ("parallel", "all", True)] == [
        (record["way"], record["endpoint"], record["complete"]) for record in records
    ]
    assert {2500} == {record["objects"] for record in records}


def test_list_stops_at_its_duration(filled: FakeS3, call: Call) -> None:
    """A large bucket must not take hours; the row says that there is more."""
    result = call("speedtest", "--list", "--duration", "1ms", "--concurrency", "3", "s3/b/p")

    assert "1000+" == re.split(r"  +", result.lines[1])[1]
    assert result.lines[3].startswith("parallel, 3 jobs")


def test_list_of_nothing_has_no_factor(filled: FakeS3, call: Call) -> None:
    """There is nothing to be faster at."""
    rows = [line.split()[-1] for line in call("speedtest", "--list", "s3/b/none").lines[1:]]

    assert ["1.0x", "-", "-"] == rows

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fake_s3 import MIB, Answer, Call, CutBody, Exchange, FakeS3, FlipByte, Hang, internal_error
from tests.support.hostile import HOSTILE_KEYS
from tests.support.run_cli import CliResult, CliRunner

Cli = Callable[..., CliResult]


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    """Give three addresses of one store with a bucket ``b``."""
    with FakeS3(3) as server:
        server.store.add("b", "gone")
        server.store.bucket("b").remove("gone", "null")
        yield server


@pytest.fixture
def cli(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> Cli:
    """Run a command in a directory of its own."""
    work = tmp_path / "work"
    work.mkdir()
    run_cli.environ.update(fake.environment)
    return lambda *words, **options: run_cli(*words, cwd=work, **options)


@pytest.fixture
def work(tmp_path: Path, cli: Cli) -> Path:
    """Give the working directory of the commands."""
    return tmp_path / "work"


def stop(
    run_cli: CliRunner,
    fake: FakeS3,
    cwd: Path,
    *words: str,
    number: int = signal.SIGINT,
    op: str = "GetObject",
    nth: int = 1,
) -> tuple[int, bytes, bytes]:
    """Send a signal to a command when the nth request of a kind has come; return its code and what it said."""
    process = run_cli.start(*words, env=fake.environment, cwd=cwd)
    while fake.ops().count(op) < nth:
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_one_file_goes_up_and_comes_down(cli: Cli, work: Path) -> None:
    """The line on stdout is the result, the summary on stderr is for people."""
    (work / "f.txt").write_bytes(b"hello")

    up = cli("cp", "f.txt", "s3/b/k")
    down = cli("cp", "s3/b/k", "copy.txt")

    assert (0, "f.txt -> s3/b/k\n") == (up.code, up.out)
    assert (0, "s3/b/k -> copy.txt\n") == (down.code, down.out)
    assert up.err.startswith("s3pool: 1 copied, 5B in ")
    assert b"hello" == (work / "copy.txt").read_bytes()


def test_json_gives_a_record_a_file_and_a_summary(cli: Cli, work: Path) -> None:
    """Scripts read lines of JSON and nothing else."""
    (work / "f").write_bytes(b"hello")

    result = cli("cp", "f", "s3/b/k", "--json")

    copied, summary = result.records
    assert ("copy", "f", "s3/b/k", 5) == (copied["type"], copied["source"], copied["target"], copied["size"])
    assert copied["seconds"] >= 0
    assert ("summary", 1, 0, 0, 5) == tuple(summary[name] for name in ("type", "copied", "skipped", "failed", "bytes"))
    assert "" == result.err


def test_tree_goes_up_and_comes_down(cli: Cli, work: Path) -> None:
    """Byte for byte, with times."""
    for name in ("a", "d/b", "d/e/c"):
        (work / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "src" / name).write_bytes(name.encode())
    os.utime(work / "src/a", (0, 1_500_000_000))

    cli("cp", "-r", "src", "s3/b/p")
    result = cli("cp", "-r", "s3/b/p/", "out")

    assert 0 == result.code
    assert {"s3/b/p/a -> out/a", "s3/b/p/d/b -> out/d/b", "s3/b/p/d/e/c -> out/d/e/c"} == set(result.lines)
    assert b"d/e/c" == (work / "out/d/e/c").read_bytes()
    assert 1_500_000_000 == (work / "out/a").stat().st_mtime


def test_dry_run_tells_and_changes_nothing(cli: Cli, work: Path, fake: FakeS3) -> None:
    """What would be done, in the same words."""
    (work / "f").write_bytes(b"hello")

    result = cli("--dry-run", "cp", "f", "s3/b/k")

    assert (0, "(dry run) f -> s3/b/k\n") == (result.code, result.out)
    assert {} == fake.store.bodies("b")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("cp", "missing", "s3/b/k"), 3),
        (("cp", "s3/b/missing", "f"), 3),
        (("cp", "s3/missing/k", "f"), 3),
        (("cp", "present", "s3/missing/k"), 3),
        (("cp", "-r", "s3/b/missing", "out"), 3),
        (("cp", "s3/b/missing*", "out"), 3),
        (("cp", "present", "other"), 2),
        (("cp", ".", "s3/b/k"), 2),
        (("cp", "present"), 2),
        (("cp", "present", "s3/b/k", "--part-size", "1M"), 2),
        (("cp", "present", "s3/b/k", "--metadata", "novalue"), 2),
        (("cp", "-r", "s3/b", "s3/b/x"), 2),
        (("mv", "s3/b/k", "new", "--version-id", "v"), 2),
        (("mv", "-", "s3/b/k"), 2),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_code(cli: Cli, work: Path, words: tuple[str, ...], code: int) -> None:
    """No traceback, nothing on stdout, nothing left behind."""
    (work / "present").write_bytes(b"x")

    result = cli(*words)

    errors = [line for line in result.err.splitlines() if line.startswith("s3pool: error:")]
    assert (code, "", 1) == (result.code, result.out, len(errors))
    assert ["present"] == os.listdir(work)


def test_failure_of_some_is_one(cli: Cli, work: Path, fake: FakeS3) -> None:
    """The others are copied."""
    for name in ("a", "b", "c"):
        (work / name).write_bytes(b"x")
    fake.fault(Answer(403, "AccessDenied"), op="PutObject", key="b")

    result = cli("cp", "a", "b", "c", "s3/b/")

    assert 1 == result.code
    assert {"a -> s3/b/a", "c -> s3/b/c"} == set(result.lines)
    assert "403 AccessDenied" in result.err


def test_error_with_json_is_a_line_of_json(cli: Cli) -> None:
    """Scripts find the reason without parsing prose."""
    result = cli("--json", "cp", "s3/b/missing", "f")

    record = json.loads(result.err.splitlines()[0])
    assert ("error", "s3/b/missing", "NoSuchKey", 404) == tuple(
        record[name] for name in ("type", "source", "code", "status")
    )


def test_standard_streams(cli: Cli, fake: FakeS3) -> None:
    """A dash is a stream on either side."""
    up = cli("cp", "-", "s3/b/k", stdin=b"piped")
    down = cli("cp", "s3/b/k", "-")

    assert (0, {"k": b"piped"}) == (up.code, fake.store.bodies("b"))
    assert (0, b"piped") == (down.code, down.stdout)


@pytest.mark.parametrize(
    "words", ["-r - s3/b/p", "-r - -", "- - -", "--files-from names - s3/b", "--files-from names - -"]
)
def test_a_stream_goes_with_one_source_and_one_target(cli: Cli, fake: FakeS3, words: str) -> None:
    """There are no names in a stream to choose from."""
    result = cli("cp", *words.split())

    error = "s3pool: error: - stands for one stream; it goes with one source and one target, without -r\n"
    assert (2, "", error) == (result.code, result.out, result.err)


def test_pipes_are_read_and_devices_written(cli: Cli, work: Path, fake: FakeS3) -> None:
    """A device must not be replaced by a file."""
    fake.store.add("b", "k", b"content")

    null = cli("cp", "s3/b/k", "/dev/null")
    alias = cli("cp", "s3/b/k", "/dev/stdout")

    assert 0 == null.code
    assert not Path("/dev/null").is_file()
    assert (0, b"content") == (alias.code, alias.stdout)


def test_files_in_shared_memory_are_files(cli: Cli, fake: FakeS3) -> None:
    """They lie below /dev, but are no devices: a download makes them, a move removes them."""
    fake.store.add("b", "k", b"content")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory, "file")

        down = cli("cp", "s3/b/k", str(path))

        assert (0, b"content") == (down.code, path.read_bytes())
        assert 0 == cli("mv", str(path), "s3/b/moved").code
        assert not path.exists()


def test_hostile_keys_stay_within_the_target(cli: Cli, work: Path, fake: FakeS3) -> None:
    """What leads out is refused key by key (exit 6), and the rest is exact."""
    for key in HOSTILE_KEYS:
        fake.store.add("b", key, b"" if key.endswith("/") else key.encode())

    result = cli("cp", "-r", "s3/b", "t/out")

    files = {str(path.relative_to(work / "t/out")) for path in (work / "t/out").rglob("*") if path.is_file()}
    refused = {"../x", "p/../../x", "a/../b", ".", "..", "/abs", "//two", "a//b", "a/b", "x/y"}
    assert 6 == result.code
    assert {key for key in HOSTILE_KEYS if key not in refused and key not in ("dir/", "a/./b")} | {"a/b"} == files
    assert len(refused) == result.err.count("s3pool: error:")
    assert all(f"s3pool: error: s3/b/{key}: " in result.err for key in refused - {"a//b", "a/b"})
    assert {"out"} == set(os.listdir(work / "t"))
    assert (work / "t/out/dir").is_dir()


def test_hostile_keys_are_copied_exactly_inside_s3(cli: Cli, fake: FakeS3) -> None:
    """There a key is nothing but its bytes."""
    for key in HOSTILE_KEYS:
        fake.store.add("b", key, key.encode())
    fake.store.add("c", "n")

    result = cli("cp", "-r", "s3/b", "s3/c/copy")

    assert 0 == result.code
    assert {f"copy/{key}": key.encode() for key in HOSTILE_KEYS} | {"n": b""} == fake.store.bodies("c")


def test_link_in_the_target_leads_nowhere(cli: Cli, work: Path, fake: FakeS3) -> None:
    """Whoever can write to the target must not be able to redirect the copy."""
    (work / "out").mkdir()
    (work / "elsewhere").mkdir()
    (work / "out/link").symlink_to("../elsewhere")
    fake.store.add("b", "link/evil", b"x")
    fake.store.add("b", "fine", b"x")

    result = cli("cp", "-r", "s3/b", "out")

    assert (6, []) == (result.code, os.listdir(work / "elsewhere"))
    assert (work / "out/fine").exists()


def test_flipped_byte_fails_and_keeps_the_old_file(cli: Cli, work: Path, fake: FakeS3) -> None:
    """Exit 1, and nothing but the old file is there."""
    fake.store.add("b", "k", b"content")
    (work / "f").write_bytes(b"old")
    fake.fault(FlipByte(), op="GetObject")

    result = cli("cp", "s3/b/k", "f")

    assert (1, b"old") == (result.code, (work / "f").read_bytes())
    assert ["f"] == os.listdir(work)


def test_dead_node_and_cut_bodies_are_survived(cli: Cli, work: Path, fake: FakeS3) -> None:
    """The pool's purpose."""
    (work / "src").mkdir()
    for number in range(20):
        (work / f"src/{number}").write_bytes(b"%d" % number)
    fake.nodes[1].kill()

    up = cli("cp", "-r", "src", "s3/b/p")
    fake.fault(CutBody(after=1), op="GetObject", times=3)
    fake.fault(internal_error(), op="GetObject", nth=5, times=2)
    down = cli("cp", "-r", "s3/b/p", "out")

    assert (0, 0) == (up.code, down.code)
    assert 20 == len(os.listdir(work / "out"))


def test_skipped_files_of_a_tree_give_six(cli: Cli, work: Path) -> None:
    """Done, but not all of it."""
    (work / "src").mkdir()
    (work / "src/a").write_bytes(b"x")
    (work / "src/broken").symlink_to("nowhere")

    result = cli("cp", "-r", "src", "s3/b/p")

    assert (6, ["src/a -> s3/b/p/a"]) == (result.code, result.lines)
    assert "broken link" in result.err


def test_flags_are_stored(cli: Cli, work: Path, fake: FakeS3) -> None:
    """What was asked for is asked of the server."""
    (work / "f").write_bytes(b"x")

    result = cli(
        *("cp", "f", "s3/b/k", "--metadata", "Colour=blue", "--content-type", "x/y", "--storage-class", "COLD"),
        *("--acl", "public-read", "--sse", "AES256", "--tags", "a=1&b=2", "--tags", "c=3", "--checksum", "crc32"),
    )

    headers = next(request.headers for request in fake.requests if request.op == "PutObject")
    assert 0 == result.code
    assert ("blue", "x/y", "COLD") == (
        headers["x-amz-meta-colour"],
        headers["content-type"],
        headers["x-amz-storage-class"],
    )
    assert ("public-read", "AES256", "a=1&b=2&c=3") == (
        headers["x-amz-acl"],
        headers["x-amz-server-side-encryption"],
        headers["x-amz-tagging"],
    )
    assert "x-amz-checksum-crc32" in headers


def test_version_is_fetched_by_its_id(cli: Cli, work: Path, fake: FakeS3) -> None:
    """And nothing newer."""
    bucket = fake.store.bucket("b")
    bucket.versioning = "Enabled"
    first = fake.store.add("b", "k", b"first")
    fake.store.add("b", "k", b"second")

    result = cli("cp", "s3/b/k", "f", "--version-id", first.version_id)

    assert (0, b"first") == (result.code, (work / "f").read_bytes())


@pytest.mark.parametrize("words", [("cp", "f", "s3/b/k"), ("rm", "s3/b/k"), ("sync", ".", "s3/b/p")])
def test_logs_in_json_have_the_summary(cli: Cli, work: Path, words: tuple[str, ...]) -> None:
    """Who collects lines of JSON from stderr needs it more than anybody."""
    (work / "f").write_bytes(b"x")

    result = cli("--log-format", "json", *words)

    (record,) = map(json.loads, result.err.splitlines())
    assert (0, 1, "summary") == (result.code, len(result.lines), record["type"])


def test_signal_with_json_leaves_a_summary(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """Programs, too, want to know what was done."""
    fake.store.add("b", "k", b"new")
    fake.fault(Hang(), op="GetObject")

    code, out, _ = stop(run_cli, fake, tmp_path, "--json", "cp", "s3/b/k", "f")

    record = json.loads(out)
    assert (130, "summary", 0) == (code, record["type"], record["copied"])


def test_failure_that_ends_the_run_is_told_once(cli: Cli, work: Path) -> None:
    """All that is under way meets it: a hundred lines about one bucket would bury what to do."""
    for number in range(40):
        (work / f"f{number}").write_bytes(b"x")

    text = cli("cp", "-r", ".", "s3/missing/p", "--workers", "8")
    json = cli("cp", "-r", ".", "s3/missing/p", "--workers", "8", "--json")

    assert (3, 3) == (text.code, json.code)
    said = text.err.splitlines()
    assert ["s3pool: error: PutObject s3/missing/", "s3pool: 0 copied, "] == [said[0][:36], said[1][:18]]
    assert 2 == len(said)
    assert json.records[-1]["failed"] == json.err.count('"code":"NoSuchBucket"') > 0


@pytest.mark.parametrize(("words", "op"), [(("none", "s3/b/k"), "upload"), (("s3/b/none", "f"), "download")])
def test_missing_source_names_the_operation(cli: Cli, words: tuple[str, ...], op: str) -> None:
    """It is the one that its outcome would have had."""
    result = cli("--json", "cp", *words)

    assert (3, op) == (result.code, json.loads(result.err)["op"])


@pytest.mark.parametrize("words", [("-r", ".", "s3/b/p"), (os.fsdecode(b"bad\xff"), "s3/b/p/")])
def test_name_that_no_key_can_have_is_shown_by_its_bytes(cli: Cli, work: Path, words: tuple[str, ...]) -> None:
    """As it is everywhere else."""
    (work / os.fsdecode(b"bad\xff")).write_bytes(b"x")

    result = cli("cp", *words)

    assert (1, True) == (result.code, "bad\\xff" in result.err)


def test_quiet_says_nothing_when_all_goes_well(cli: Cli, work: Path) -> None:
    """For cron."""
    (work / "f").write_bytes(b"x")

    result = cli("-q", "cp", "f", "s3/b/k")

    assert (0, "", "") == (result.code, result.out, result.err)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_without_resume_leaves_nothing(
    run_cli: CliRunner, fake: FakeS3, tmp_path: Path, number: int, code: int
) -> None:
    """Uploads that nobody will take up are aborted, and the code says what happened."""
    (tmp_path / "f").write_bytes(os.urandom(20 * MIB))
    fake.fault(Hang(after=0), op="UploadPart", nth=2, times=1)

    ended, _, err = stop(
        run_cli, fake, tmp_path, "cp", "--no-resume", "f", "s3/b/k", number=number, op="UploadPart", nth=2
    )

    assert (code, True) == (ended, b"stopped: 0 copied" in err)
    assert ({}, {}) == (fake.store.bodies("b"), fake.store.bucket("b").uploads)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_leaves_an_upload_that_the_next_run_takes_up(
    run_cli: CliRunner, fake: FakeS3, tmp_path: Path, number: int, code: int
) -> None:
    """Parts that were stored are not sent again."""
    (tmp_path / "f").write_bytes(os.urandom(20 * MIB))
    fake.fault(Hang(after=0), op="UploadPart", nth=2, times=1)

    ended, _, err = stop(run_cli, fake, tmp_path, "cp", "f", "s3/b/k", number=number, op="UploadPart", nth=2)

    assert (code, True) == (ended, b"stopped: 0 copied" in err)
    kept = list(fake.store.bucket("b").uploads)
    again = run_cli("cp", "f", "s3/b/k", env=fake.environment, cwd=tmp_path)
    assert (1, 0) == (len(kept), again.code)
    assert 1 == fake.ops().count("CreateMultipartUpload")
    assert ({"k": (tmp_path / "f").read_bytes()}, {}) == (fake.store.bodies("b"), fake.store.bucket("b").uploads)


def test_signal_leaves_no_temporary_file(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """And the old file is as it was."""
    fake.store.add("b", "k", b"new")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/f").write_bytes(b"old")
    fake.fault(Hang(), op="GetObject")

    assert 130 == stop(run_cli, fake, tmp_path, "cp", "s3/b/k", "out/f")[0]

    assert (["f"], b"old") == (os.listdir(tmp_path / "out"), (tmp_path / "out/f").read_bytes())


def test_broken_pipe_ends_quietly(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """`s3pool cp s3/b/k - | head` is no error."""
    fake.store.add("b", "k", os.urandom(8 * MIB))
    process = run_cli.start("cp", "s3/b/k", "-", env=fake.environment, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()

    assert (141, b"") == (process.wait(timeout=30), err)


def test_names_in_a_file_are_all_that_is_copied(cli: Cli, work: Path, fake: FakeS3) -> None:
    """For who knows better than a walk what has changed."""
    for name in ("a", "d/b", "d/c"):
        (work / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "src" / name).write_bytes(name.encode())

    up = cli("cp", "--files-from", "-", "src", "s3/b/p", stdin=b"d/b\n\nmissing\n../x\na")
    (work / "names").write_bytes(b"d/b\n")
    down = cli("cp", "--files-from", "names", "s3/b/p", "out")
    inside = cli("cp", "--files-from", "names", "s3/b/p", "s3/b/q")

    assert 3 == up.code
    assert 2 == up.err.count("s3pool: error:")
    assert (["s3/b/p/d/b -> out/d/b"], ["s3/b/p/d/b -> s3/b/q/d/b"]) == (down.lines, inside.lines)
    assert {"p/a": b"a", "p/d/b": b"d/b", "q/d/b": b"d/b"} == fake.store.bodies("b")


def test_shards_do_disjoint_parts_of_one_job(cli: Cli, work: Path, fake: FakeS3) -> None:
    """Every machine takes its own, and together they take all."""
    for number in range(40):
        fake.store.add("b", f"p/{number}", b"x")

    taken = [cli("cp", "-r", "s3/b/p", "out", "--shard", f"{index}/3").lines for index in range(2)]
    slurm = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}
    last = cli("cp", "-r", "s3/b/p", "out", "--shard", "auto", env=slurm)

    assert 40 == sum(map(len, [*taken, last.lines])) == len(os.listdir(work / "out"))
    assert 2 == cli("cp", "-r", "s3/b/p", "out", "--shard", "auto").code


def test_terminal_shows_a_bar_and_the_summary(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """The bar goes away, the summary stays."""
    import pty

    (tmp_path / "f").write_bytes(b"x")
    controller, terminal = pty.openpty()
    process = run_cli.start(
        "cp", "f", "s3/b/k", env={**fake.environment, "TERM": "xterm"}, cwd=tmp_path, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    try:
        while block := os.read(controller, 4096):
            shown += block
    except OSError:  # Linux's way to say that the other side is closed
        pass
    os.close(controller)

    assert 0 == process.wait(timeout=30)
    assert b"all" in shown
    assert shown.rstrip().splitlines()[-1].split(b"\x1b[2K")[-1].startswith(b"s3pool: 1 copied")


def test_cp_removes_what_a_killed_one_left(call: Callable[..., CliResult], fake: FakeS3, tmp_path: Path) -> None:
    """Nobody else would, until some sync comes by."""
    fake.store.add("b", "d/f", b"content")
    fake.store.add("b", "g", b"content")
    (tmp_path / "t" / "d").mkdir(parents=True)
    left = [tmp_path / "t" / name for name in (".s3pool-0123456789ab.part", "d/.s3pool-ba9876543210.part")]
    for path in left:
        path.write_bytes(b"half")

    rehearsed = call("cp", "--dry-run", "-r", "s3/b", "t")
    before = [path.exists() for path in left]
    copied = call("cp", "-r", "s3/b", "t")

    assert (0, 0, [True, True]) == (rehearsed.code, copied.code, before)
    assert ["d", "d/f", "g"] == sorted(str(path.relative_to(tmp_path / "t")) for path in (tmp_path / "t").rglob("*"))


def test_large_downloads_that_wait_all_come_in(call: Callable[..., CliResult], fake: FakeS3, tmp_path: Path) -> None:
    """Two begin, for they may keep the processors busy; where the network is slow all are to be under way."""
    names = {f"{number}" for number in range(6)}
    for name in names:
        fake.store.add("b", f"d/{name}", bytes(17 * MIB))
    asked: set[str] = set()
    were_together: list[bool] = []
    change = threading.Condition()

    def wait_for_all(exchange: Exchange) -> None:
        with change:
            asked.add(exchange.target.partition("?")[0].rpartition("/")[2])
            change.notify_all()
            were_together.append(change.wait_for(lambda: asked == names, timeout=30))

    fake.fault(Call(wait_for_all), op="GetObject", times=100)
    copied = call("cp", "-r", "s3/b/d", "t")

    assert (0, True) == (copied.code, all(were_together))
    assert [17 * MIB] * 6 == [path.stat().st_size for path in (tmp_path / "t").iterdir()]

"""Several runs of sync at once, one after another, and cut short."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import MIB, Call, FakeS3, Hang
from tests.support.run_cli import CliResult, CliRunner

OLD = 1_500_000_000
SHARDS = 8
NAMES = [f"d{number % 5}/file-{number:03d}" for number in range(120)] + ["ü", "a b", "top"]

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3], run_cli: CliRunner) -> FakeS3:
    """Give two addresses of one store with a bucket ``b``."""
    server = fake_s3(2)
    server.store.add("b", "x")
    server.store.bucket("b").remove("x", "null")
    run_cli.environ.update(server.environment)
    return server


def plant(root: Path, names: list[str], content: bytes = b"") -> Path:
    """Make files; without content each holds its own name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content or name.encode())
        os.utime(root / name, (OLD, OLD))
    return root


def tree_of(root: Path) -> dict[str, bytes]:
    """Give the files below a directory, hidden ones too."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def finish(processes: list[subprocess.Popen[bytes]]) -> list[CliResult]:
    """Wait for all of them."""
    return [
        CliResult((), process.returncode, out, err) for process in processes for out, err in (process.communicate(),)
    ]


def run_shards(run_cli: CliRunner, *words: str) -> list[CliResult]:
    """Run a sync as eight processes at once."""
    return finish([run_cli.start("sync", *words, "--json", "--shard", f"{n}/{SHARDS}") for n in range(SHARDS)])


def copied_by(result: CliResult) -> set[str]:
    """Give the targets that one process wrote."""
    return {record["target"] for record in result.records if record["type"] == "copy"}


def test_shards_copy_everything_once(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """Eight machines do disjoint parts of one job, and together all of it, up and down."""
    plant(tmp_path / "source", NAMES)

    up = run_shards(run_cli, str(tmp_path / "source"), "s3/b/p")
    down = run_shards(run_cli, "s3/b/p", str(tmp_path / "copy"))

    for results in (up, down):
        shares = [copied_by(result) for result in results]
        assert [(0, "")] * SHARDS == [(result.code, result.err) for result in results]
        assert len(NAMES) == sum(map(len, shares)) == len(set().union(*shares))
        assert all(shares)
    assert {f"p/{name}": name.encode() for name in NAMES} == fake.store.bodies("b")
    assert {name: name.encode() for name in NAMES} == tree_of(tmp_path / "copy")


def test_shards_delete_their_own_share_only(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """One shard's view never makes another's objects extra, nor a small source empty."""
    plant(tmp_path / "source", NAMES[:2])
    for name in NAMES:
        fake.store.add("b", f"p/{name}", name.encode(), mtime=OLD)

    one = run_cli("sync", str(tmp_path / "source"), "s3/b/p", "--delete", "--json", "--shard", "0/8")
    after_one = set(fake.store.bodies("b"))
    rest = run_shards(run_cli, str(tmp_path / "source"), "s3/b/p", "--delete")

    assert 0 == one.code
    assert len(NAMES) - one.records[-1]["deleted"] == len(after_one)
    assert 0 < one.records[-1]["deleted"] < len(NAMES) - 2
    assert [0] * SHARDS == [result.code for result in rest]
    assert {f"p/{name}" for name in NAMES[:2]} == set(fake.store.bodies("b"))


def test_cluster_managers_shard_by_auto(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """The shard is named on stderr, so that nobody takes a share for the whole."""
    plant(tmp_path / "source", NAMES)
    words = ("sync", str(tmp_path / "source"), "s3/b/p", "--shard", "auto")

    shares = [
        run_cli(*words, env={"SLURM_ARRAY_TASK_ID": str(n), "SLURM_ARRAY_TASK_COUNT": "2"}, timeout=60)
        for n in range(2)
    ]

    assert [0, 0] == [share.code for share in shares]
    assert "shard 1/2 by SLURM_ARRAY_TASK_ID" in shares[1].err
    assert len(NAMES) == len(fake.store.bodies("b")) == sum(len(share.lines) for share in shares)


def test_a_second_run_is_turned_away_at_once(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """Cron starts the next run while the last one still works; other pairs are free."""
    plant(tmp_path / "source", ["a"])
    second: list[CliResult] = []
    other: list[CliResult] = []

    def start_second(_exchange: object) -> None:
        second.append(run_cli("sync", "s3/b/p", str(tmp_path / "source")))
        other.append(run_cli("sync", str(tmp_path / "source"), "s3/b/q"))

    fake.fault(Call(start_second), op="PutObject", key="p/a")

    first = run_cli("sync", str(tmp_path / "source"), "s3/b/p")

    assert (0, 75, 0) == (first.code, second[0].code, other[0].code)
    assert "another run works on this source and target" in second[0].err


def test_a_lock_file_can_be_chosen(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """Two jobs that must not run together share one."""
    plant(tmp_path / "source", ["a"])
    words = ("sync", str(tmp_path / "source"), "s3/b/p", "--lock", str(tmp_path / "lock"))

    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        busy = run_cli(*words)
    free = run_cli(*words)

    assert (75, 0) == (busy.code, free.code)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_a_summary(
    run_cli: CliRunner, fake: FakeS3, tmp_path: Path, number: int, code: int
) -> None:
    """What was done is told, nothing is deleted, and the next run goes on."""
    plant(tmp_path / "source", NAMES)
    fake.store.add("b", "p/extra", b"x", mtime=OLD)
    running: list[subprocess.Popen[bytes]] = []
    fake.fault(Call(lambda _: running[0].send_signal(number)), op="PutObject", nth=20)
    metrics = tmp_path / "m.prom"
    words = ("sync", str(tmp_path / "source"), "s3/b/p", "--delete")

    running.append(run_cli.start(*words, "--metrics-file", str(metrics)))
    (stopped,) = finish(running)
    kept = fake.store.bodies("b")
    again = run_cli(*words, "--json")

    assert code == stopped.code
    assert " checked, " in stopped.err
    assert "goes on" in stopped.err
    assert "p/extra" in kept
    assert f"}} {code}\n" in metrics.read_text()
    assert 0 == again.code
    assert again.records[-1]["copied"] <= len(NAMES) - len(kept) + 1
    assert {f"p/{name}": name.encode() for name in NAMES} == fake.store.bodies("b")


def test_a_killed_upload_goes_on(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """Kill -9 leaves whole objects or none; the next run completes the tree."""
    plant(tmp_path / "source", NAMES)
    running: list[subprocess.Popen[bytes]] = []
    fake.fault(Call(lambda _: running[0].kill()), op="PutObject", nth=30)

    running.append(run_cli.start("sync", str(tmp_path / "source"), "s3/b/p"))
    (killed,) = finish(running)
    again = run_cli("sync", str(tmp_path / "source"), "s3/b/p", "--json")
    third = run_cli("sync", str(tmp_path / "source"), "s3/b/p", "--json")

    assert -signal.SIGKILL == killed.code
    assert (0, 0) == (again.code, third.code)
    assert 0 == third.records[-1]["copied"]
    assert {f"p/{name}": name.encode() for name in NAMES} == fake.store.bodies("b")


def test_a_killed_download_leaves_the_old_files_intact(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """At the moment of death every file is old or new as a whole, never a piece."""
    old, new = b"o" * MIB, b"n" * MIB
    copy = plant(tmp_path / "copy", ["a", "b", "c"], old)
    for key in ("a", "b", "c"):
        fake.store.add("b", f"p/{key}", new)
    running: list[subprocess.Popen[bytes]] = []
    fake.fault(Call(lambda _: running[0].kill()), op="GetObject", nth=2)

    running.append(run_cli.start("sync", "s3/b/p", str(copy)))
    finish(running)
    after = {name: content for name, content in tree_of(copy).items() if not name.startswith(".")}
    again = run_cli("sync", "s3/b/p", str(copy))

    assert {"a", "b", "c"} == set(after)
    assert set(after.values()) <= {old, new}
    assert 0 == again.code
    assert {"a": new, "b": new, "c": new} == tree_of(copy)


def test_a_hanging_network_does_not_hold_an_interrupt_back(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """Five seconds are given, then the process goes."""
    plant(tmp_path / "source", ["a"])
    running: list[subprocess.Popen[bytes]] = []
    fake.fault(Call(lambda _: running[0].send_signal(signal.SIGINT)), op="PutObject")
    fake.fault(Hang(), op="PutObject", times=0)

    running.append(run_cli.start("sync", str(tmp_path / "source"), "s3/b/p"))
    (stopped,) = finish(running)

    assert 130 == stopped.code
    assert "1 not finished" in stopped.err or "0 copied" in stopped.err

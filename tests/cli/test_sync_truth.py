"""In sync is what was proved, and stays so: pairs of one age, odd orders, hidden digests, coarse clocks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from s3pool.body import new_hasher
from s3pool.transfer.digests import checksum_text
from tests.cli.conftest import Call
from tests.support.fake_s3 import MIB, FakeS3
from tests.support.fake_s3 import Call as CallOut
from tests.support.fake_s3.store import md5_hex
from tests.support.run_cli import CliResult

OLD = 1_500_000_000
KEYS = ["a-b", "a/x", "a/y", "a0", "b.c/k", "b/k-l", "b/k/m", "b/l", "c"]


def plant(root: Path, names: Sequence[str], *, mtime: float = OLD, content: bytes = b"kept") -> Path:
    """Make files of one content and time."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        os.utime(root / name, (mtime, mtime))
    return root


def figures(result: CliResult) -> tuple[int, int, int, int]:
    """Return exit code, copied, deleted and looked at."""
    record = result.records[-1]
    return result.code, record["copied"], record["deleted"], record["looked_at"]


def rewrite_content(path: Path, content: bytes) -> None:
    """Change a file and put its time back; a tick of the file system's clock goes by until that is done."""
    before = path.stat()
    path.write_bytes(content)
    while path.stat().st_ctime_ns == before.st_ctime_ns or path.stat().st_mtime_ns != before.st_mtime_ns:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# -- pairs of one age ----------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-1.9, 0.0, 1.9])
def test_a_change_of_one_size_within_the_tolerance_is_found(
    fake: FakeS3, call: Call, tmp_path: Path, seconds: float
) -> None:
    """No record and about one age is no proof: it is looked at once, and copied when it differs."""
    fake.store.add("b", "p/k", b"old!", mtime=OLD)
    plant(tmp_path / "up", ["k"], mtime=OLD + seconds, content=b"new!")
    assert figures(call("sync", "--json", "up", "s3/b/p")) == (0, 1, 0, 1)
    assert fake.store.bodies("b") == {"p/k": b"new!"}
    assert figures(call("sync", "--json", "up", "s3/b/p")) == (0, 0, 0, 0)


def test_a_pair_of_one_age_is_looked_at_once_without_a_request(fake: FakeS3, call: Call, tmp_path: Path) -> None:
    """The listing's ETag and the file itself prove it; the record then stands for that."""
    names = [f"k{number}" for number in range(50)]
    for name in names:
        fake.store.add("b", f"p/{name}", b"kept", mtime=OLD)
    plant(tmp_path / "up", names)
    assert figures(call("sync", "--json", "up", "s3/b/p")) == (0, 0, 0, 50)
    assert figures(call("sync", "--json", "up", "s3/b/p")) == (0, 0, 0, 0)
    assert {"HeadObject", "PutObject", "GetObject"}.isdisjoint(fake.ops())
    rewrite_content(tmp_path / "up" / "k7", b"diff")
    os.utime(tmp_path / "up" / "k7", (OLD - 9, OLD - 9))
    assert figures(call("sync", "--json", "up", "s3/b/p")) == (0, 1, 0, 0)


def test_copies_of_one_age_are_the_same_when_their_etags_are(fake: FakeS3, call: Call) -> None:
    """Between buckets both listings tell; an ETag that differs is copied."""
    for name, other in (("same", b"kept"), ("other", b"old!")):
        fake.store.add("b", f"p/{name}", b"kept", mtime=OLD)
        fake.store.add("b", f"q/{name}", other, mtime=OLD + 1)
    assert figures(call("sync", "--json", "s3/b/p", "s3/b/q")) == (0, 1, 0, 0)
    assert fake.store.bodies("b")["q/other"] == b"kept"
    assert figures(call("sync", "--json", "s3/b/p", "s3/b/q")) == (0, 0, 0, 0)


def test_an_edit_that_restores_its_time_is_found_by_checksum(fake: FakeS3, call: Call, tmp_path: Path) -> None:
    """A hash that is remembered is of the file as it was: ctime tells of every edit."""
    fake.store.add("b", "other")
    plant(tmp_path / "up", ["k"], content=b"old!")
    for _ in range(2):
        assert call("sync", "--checksum", "up", "s3/b/p").code == 0
    rewrite_content(tmp_path / "up" / "k", b"new!")
    assert figures(call("sync", "--checksum", "--json", "up", "s3/b/p"))[:2] == (0, 1)
    assert fake.store.bodies("b")["p/k"] == b"new!"
    assert call("sync", "--checksum", "s3/b/p", "down").code == 0
    assert figures(call("sync", "--checksum", "--json", "s3/b/p", "down"))[:2] == (0, 0)
    rewrite_content(tmp_path / "down" / "k", b"edit")
    assert figures(call("sync", "--checksum", "--json", "s3/b/p", "down"))[:2] == (0, 1)
    assert (tmp_path / "down" / "k").read_bytes() == b"new!"


# -- digests that nobody tells -------------------------------------------------------------


@pytest.fixture
def kms(fake: FakeS3) -> FakeS3:
    """Make the store one whose ETags look like digests and are none."""
    fake.quirks.opaque_etags = True
    fake.store.add("b", "x", b"")
    fake.store.bucket("b").remove("x", "null")
    return fake


@pytest.mark.parametrize("flags", [("--checksum",), ("--checksum", "--sse", "aws:kms"), ()], ids=" ".join)
def test_under_kms_the_second_run_copies_nothing(
    kms: FakeS3, call: Call, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """An ETag that is no digest says at least that it is still the object that was sent or fetched."""
    plant(tmp_path / "up", [*KEYS, "large"], content=b"x")
    (tmp_path / "up" / "large").write_bytes(b"x" * 70_000)
    ways = (("up", "s3/b/p"), ("s3/b/p", "down"), ("s3/b/p", "s3/b/q"))
    for copied in (10, 0):
        for source, target in ways:
            given = flags if target.startswith("s3/") else flags[:1]  # --sse is for what is stored in S3
            assert figures(call("sync", "--json", *given, source, target))[:2] == (0, copied)
    if "--checksum" in flags:
        rewrite_content(tmp_path / "up" / "a0", b"y")
        assert figures(call("sync", "--json", *flags, "up", "s3/b/p"))[:2] == (0, 1)
        assert kms.store.bodies("b")["p/a0"] == b"y"


@pytest.mark.parametrize("size", [4, 300_000, 6 * MIB], ids=["small", "file", "parts"])
def test_under_kms_a_change_while_the_file_is_sent_is_found(kms: FakeS3, call: Call, tmp_path: Path, size: int) -> None:
    """What is remembered is the state that was sent, not the one that is found afterwards."""
    file = plant(tmp_path / "up", ["k"], content=b"x" * size) / "k"
    kms.fault(CallOut(lambda _: rewrite_content(file, b"y" * size)), op="PutObject" if size < MIB else "UploadPart")

    flags = ("--json", "--checksum", "--part-size", "5M", "--workers", "1")
    call("sync", *flags, "up", "s3/b/p")
    call("sync", *flags, "up", "s3/b/p")

    assert kms.store.bodies("b")["p/k"] == b"y" * size


@pytest.mark.parametrize(
    "etag", [lambda key: f"CRC64NVME-{key}", lambda key: md5_hex(key.encode())], ids=["odd", "MD5"]
)
@pytest.mark.parametrize("name", ["crc64nvme", "crc32c", "sha256"])
def test_a_checksum_that_the_server_tells_spares_the_copy(
    kms: FakeS3, call: Call, tmp_path: Path, name: str, etag: Callable[[str], str]
) -> None:
    """Where the ETag is no digest: other clients store one, and what it proved is remembered."""

    def told(content: bytes) -> str:
        hasher = new_hasher(name)
        hasher.update(memoryview(content))
        return checksum_text(hasher.digest())

    plant(tmp_path / "up", ["same", "other"], content=b"kept")
    for key, content in (("same", b"kept"), ("other", b"old!")):
        headers = {"x_amz_server_side_encryption": "aws:kms", f"x_amz_checksum_{name}": told(content)}
        kms.store.add("b", f"p/{key}", content, **headers).etag = etag(key)
    (tmp_path / "down").mkdir()
    for key in ("same", "other"):
        (tmp_path / "down" / key).write_bytes(b"kept")

    assert figures(call("sync", "--json", "--checksum", "s3/b/p", "down"))[:2] == (0, 1)
    assert (tmp_path / "down" / "other").read_bytes() == b"old!"
    assert figures(call("sync", "--json", "--checksum", "up", "s3/b/p"))[:2] == (0, 1)
    assert kms.store.bodies("b") == {"p/same": b"kept", "p/other": b"kept"}
    before = kms.ops().count("HeadObject")
    assert figures(call("sync", "--json", "--checksum", "up", "s3/b/p"))[:2] == (0, 0)
    assert kms.ops().count("HeadObject") == before


# -- clocks of file systems ----------------------------------------------------------------


@pytest.mark.parametrize("step_ns", [1, 1000, 10**9, 2 * 10**9], ids=["ns", "us", "s", "2 s"])
@pytest.mark.parametrize("flags", [(), ("--exact-timestamps",)], ids=["plain", "exact"])
def test_on_a_coarse_file_system_the_second_run_copies_nothing(
    fake: FakeS3, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_ns: int, flags: tuple[str, ...]
) -> None:
    """FAT keeps two seconds, NFS servers one: what was set is compared as it was kept."""
    for number in range(5):
        told = f"{OLD + number}.{number}23456789"
        fake.store.add("b", f"p/{number}", b"kept", mtime=OLD, x_amz_meta_mtime=told)
    set_time = os.utime
    monkeypatch.setattr(os, "utime", lambda file, ns: set_time(file, ns=(ns[0], ns[1] // step_ns * step_ns)))
    assert figures(call("sync", "--json", *flags, "s3/b/p", "down"))[:2] == (0, 5)
    assert figures(call("sync", "--json", *flags, "s3/b/p", "down"))[:2] == (0, 0)
    set_time(tmp_path / "down" / "1", ns=(0, (OLD + 77) * 10**9))
    assert figures(call("sync", "--json", *flags, "s3/b/p", "down"))[:2] == (0, 1)


def test_on_a_coarse_file_system_an_edit_in_the_second_of_the_upload_is_found(
    fake: FakeS3, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves size and time as they were, so such a pair is looked at once more before it is noted."""
    second = int(time.time())
    plant(tmp_path / "up", ["k"], mtime=second, content=b"old!")
    fake.store.add("b", "x")
    monkeypatch.setattr(time, "time_ns", lambda: second * 10**9 + 5 * 10**8)
    assert figures(call("sync", "--json", "up", "s3/b/p"))[:2] == (0, 1)
    version = fake.store.bucket("b").current("p/k")
    assert version is not None
    version.mtime = second + 0.5

    plant(tmp_path / "up", ["k"], mtime=second, content=b"new!")
    monkeypatch.setattr(time, "time_ns", lambda: (second + 60) * 10**9)

    assert figures(call("sync", "--json", "up", "s3/b/p")) == (0, 1, 0, 1)
    assert fake.store.bodies("b")["p/k"] == b"new!"
    assert figures(call("sync", "--json", "up", "s3/b/p")) == (0, 0, 0, 0)


def test_on_a_coarse_file_system_no_hash_of_this_very_second_is_remembered(
    fake: FakeS3, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the time of change is no proof either, so --checksum reads such a file again."""
    second = int(time.time())
    stat_of, fstat_of = os.stat, os.fstat

    def coarse(facts: os.stat_result) -> os.stat_result:
        times = {name: getattr(facts, name) for name in ("st_atime_ns", "st_mtime_ns", "st_blksize", "st_blocks")}
        return os.stat_result(tuple(facts), times | {"st_ctime_ns": second * 10**9})

    monkeypatch.setattr(os, "stat", lambda *args, **words: coarse(stat_of(*args, **words)))
    monkeypatch.setattr(os, "fstat", lambda fd: coarse(fstat_of(fd)))
    monkeypatch.setattr(time, "time_ns", lambda: second * 10**9 + 5 * 10**8)
    fake.store.add("b", "p/k", b"old!", mtime=OLD)
    file = plant(tmp_path / "up", ["k"], content=b"old!") / "k"
    assert figures(call("sync", "--json", "--checksum", "up", "s3/b/p"))[:2] == (0, 0)

    file.write_bytes(b"new!")
    os.utime(file, (OLD, OLD))

    assert figures(call("sync", "--json", "--checksum", "up", "s3/b/p"))[:2] == (0, 1)


# -- orders of listings --------------------------------------------------------------------


@pytest.fixture(params=[0, 2], ids=["one page", "many pages"])
def tree_order(fake: FakeS3, request: pytest.FixtureRequest) -> FakeS3:
    """Make the store list as a walk over directories does."""
    fake.quirks.tree_order = True
    fake.quirks.short_pages = request.param
    fake.store.add("b", "x", b"")
    fake.store.bucket("b").remove("x", "null")
    return fake


@pytest.mark.parametrize("way", [("up", "s3/b/p"), ("s3/b/q", "s3/b/p"), ("s3/b/q", "down")], ids=" ".join)
def test_a_server_that_lists_by_directories_is_sorted_here(
    tree_order: FakeS3, call: Call, tmp_path: Path, way: tuple[str, str]
) -> None:
    """The first run brings all, the second nothing, and --delete takes what the source has lost alone."""
    plant(tmp_path / "up", KEYS)
    for key in KEYS:
        tree_order.store.add("b", f"q/{key}", b"kept", mtime=OLD)
    first = call("sync", "--json", *way)
    second = call("sync", "--json", "--delete", *way)
    assert (figures(first)[:2], figures(second)[:3]) == ((0, len(KEYS)), (0, 0, 0))
    assert second.err.count("without order") == sum(side.startswith("s3") for side in way), second.err
    tree_order.store.bucket("b").remove("q/a-b", "null")
    (tmp_path / "up" / "a-b").unlink()
    third = call("sync", "--json", "--delete", *way)
    assert figures(third)[:3] == (0, 0, 1)
    left = {key for key in tree_order.store.bodies("b") if key.startswith("p/")}
    if way[1] == "down":
        left = {f"p/{path.relative_to(tmp_path / 'down')}" for path in (tmp_path / "down").rglob("*") if path.is_file()}
    assert left == {f"p/{key}" for key in KEYS if key != "a-b"}


@pytest.mark.parametrize("kind", ["tree_order", "unsorted"])
@pytest.mark.parametrize("short_pages", [0, 1, 2, 3])
def test_update_never_replaces_what_is_newer_whatever_the_order(
    fake: FakeS3, call: Call, tmp_path: Path, short_pages: int, kind: str
) -> None:
    """A key that is listed late is there all the same."""
    setattr(fake.quirks, kind, True)
    fake.quirks.short_pages = short_pages
    for key in KEYS:
        fake.store.add("b", f"p/{key}", b"newer", mtime=time.time())
    plant(tmp_path / "up", [*KEYS, "new"])
    done = call("sync", "-u", "--json", "up", "s3/b/p")
    assert figures(done)[:3] == (0, 1, 0)
    assert fake.store.bodies("b") == {**{f"p/{key}": b"newer" for key in KEYS}, "p/new": b"kept"}


def test_a_disorder_that_shows_late_ends_in_order_all_the_same(fake: FakeS3, call: Call, tmp_path: Path) -> None:
    """What began before the first key out of order is counted once, and nothing that exists is deleted."""
    fake.quirks.tree_order = True
    fake.quirks.short_pages = 100
    names = [f"k{number:04}" for number in range(700)] + ["z-b", "z/1", "z/2"]
    for name in names:
        fake.store.add("b", f"p/{name}", b"kept", mtime=OLD - 99)
    fake.store.add("b", "p/k0004extra", b"kept", mtime=OLD)
    plant(tmp_path / "up", names, mtime=OLD - 999)
    done = call("sync", "--delete", "--json", "up", "s3/b/p")
    assert figures(done)[0::2] == (0, 1)
    assert set(fake.store.bodies("b")) == {f"p/{name}" for name in names}
    assert figures(call("sync", "--delete", "--json", "up", "s3/b/p"))[:3] == (0, 0, 0)


# -- sources that are not there ------------------------------------------------------------


@pytest.mark.parametrize("source", ["s3/b/missing", "s3/b/missing/", "s3/b/pre", "s3/b/p/k", "s3/none", "s3/none/p"])
@pytest.mark.parametrize("target", ["down", "s3/b/q"])
@pytest.mark.parametrize("flags", [(), ("--delete",), ("--dry-run",)], ids=["plain", "delete", "dry"])
def test_a_source_that_does_not_exist_is_not_found(
    fake: FakeS3, call: Call, tmp_path: Path, source: str, target: str, flags: tuple[str, ...]
) -> None:
    """A typing error is no empty tree, and cp -r says so, too."""
    fake.store.add("b", "p/k", b"kept", mtime=OLD)
    fake.store.add("b", "prefix", b"kept", mtime=OLD)
    fake.store.add("b", "q/k", b"kept", mtime=OLD)
    plant(tmp_path / "down", ["k"])
    done = call("sync", *flags, source, target)
    assert done.code == 3, done.err
    assert len([line for line in done.err.splitlines() if "error" in line]) == 1, done.err
    assert (tmp_path / "down" / "k").read_bytes() == fake.store.bodies("b")["q/k"] == b"kept"


def test_an_empty_bucket_is_there(fake: FakeS3, call: Call) -> None:
    """It has nothing to copy, which is no error; an empty tree empties a target when that is asked for."""
    fake.store.add("b", "x", b"")
    fake.store.bucket("b").remove("x", "null")
    fake.store.add("c", "p/k", b"kept")
    fake.store.add("c", "marked/", b"")
    assert call("sync", "s3/b", "down").code == 0
    assert call("sync", "s3/c/marked", "down").code == 0
    assert call("sync", "s3/c/missing", "s3/c/p", "--delete", "--allow-empty-source").code == 0
    assert set(fake.store.bodies("c")) == {"marked/"}


def test_a_filter_that_admits_nothing_finds_the_source(fake: FakeS3, call: Call) -> None:
    """What is there and excluded is there."""
    fake.store.add("b", "p/k", b"kept")
    assert call("sync", "s3/b/p", "down", "--exclude", "*").code == 0

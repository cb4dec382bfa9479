"""The library: what s3pool.connect() gives."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import s3pool
from s3pool.errors import (
    AccessDeniedError,
    ConfigError,
    IntegrityError,
    NotFoundError,
    ReplacedError,
    S3PoolError,
    UsageError,
)
from tests.support.fake_s3 import ACCESS_KEY, MIB, SECRET_KEY, Answer, CutBody, FakeS3, FlipByte

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = 64 * 1024
ARRIVES_WITHIN_S = 30.0


def test_the_readmes_example_runs(fake: FakeS3, tmp_path: Path) -> None:
    """It is what people copy."""
    example = re.search(r"```python\n(import s3pool\n.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "report.csv").write_text("a,b\n1,2\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"jpg")
    fake.store.bucket("b")
    nodes = ",".join(fake.endpoints)
    text = example[1].replace("http://node{1...4}:9000", nodes).replace("s3://data/", "s3://b/")

    exec(compile(text, "README.md", "exec"), {})

    assert {"report.csv": b"a,b\n1,2\n", "photos/1.jpg": b"jpg"}.items() <= fake.store.bodies("b").items()


def test_importing_loads_nothing_and_starts_no_thread() -> None:
    """A program that may use it pays when it does."""
    text = (
        "import sys, threading; before = set(sys.modules); import s3pool; s3pool.__version__;"
        "print(sorted(m for m in set(sys.modules) - before if m.startswith('s3pool') or m == 'urllib3'));"
        "print(threading.active_count())"
    )

    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)

    assert ["['s3pool']", "1"] == done.stdout.splitlines()


# -- connect -----------------------------------------------------------------------------------


def test_connect_reads_what_the_command_line_reads(
    fake: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script gets the profile that its user has; what it gives itself comes first."""
    (tmp_path / ".s3pool").mkdir()
    config = tmp_path / ".s3pool" / "config.yaml"
    pair = f"access_key: {ACCESS_KEY}, secret_key: '{SECRET_KEY}'"
    config.write_text(f"profiles:\n  p: {{endpoints: '{fake.endpoints[2]}', {pair}}}\n")
    config.chmod(0o600)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "S3_POOL"):
        monkeypatch.delenv(name, raising=False)

    with s3pool.connect(profile="p", workers=3) as by_profile:
        names = [entry.path for entry in by_profile.list("s3://b")]
    with s3pool.connect(endpoints=fake.endpoints[:2], access_key=ACCESS_KEY, secret_key=SECRET_KEY) as given:
        found = given.exists("s3/b/k")
    with s3pool.connect(endpoints=fake.endpoints[0], sign=False) as unsigned, pytest.raises(AccessDeniedError):
        unsigned.head("s3://b/k")

    assert (["s3://b/k"], 3, 2, True) == (names, by_profile.config.workers, len(given.config.endpoints), found)


def test_connect_refuses_what_it_does_not_know(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt option would be another one's default."""
    with pytest.raises(UsageError, match=r"connect\(\) knows no option 'worker'; there are: .*workers"):
        s3pool.connect(worker=3)
    monkeypatch.delenv("S3_POOL")
    with pytest.raises(ConfigError, match="no endpoint is set"):
        s3pool.connect()


# -- objects ------------------------------------------------------------------------------------


def test_objects_are_listed_told_copied_and_deleted(pool: s3pool.Pool, fake: FakeS3, tmp_path: Path) -> None:
    """One of each, and many at once."""
    (tmp_path / "t" / "d").mkdir(parents=True)
    for name in ("1", "2", "d/3"):
        (tmp_path / "t" / name).write_text(name)

    put = pool.put(tmp_path / "t", "s3://b/t", recursive=True, metadata={"who": "me"})
    pool.copy("s3://b/t/1", "s3://b/copy")
    pool.get("s3://b/t/", tmp_path / "back", recursive=True)
    level = [(entry.key, entry.is_object) for entry in pool.list("s3://b/t")]
    below = [entry.key for entry in pool.list("s3/b/t/", recursive=True)]
    single = list(pool.list("s3://b/t/1"))
    head = pool.head("s3://b/t/1")
    gone = pool.delete("s3://b/t", recursive=True)
    pool.delete("s3://b/copy")

    assert (3, 3, "me") == (put.copied, gone, head.metadata["who"])
    assert [("t/1", True), ("t/2", True), ("t/d/", False)] == level
    assert ["t/1", "t/2", "t/d/3"] == below
    assert [("t/1", 1, hashlib.md5(b"1").hexdigest())] == [(each.key, each.size, each.etag) for each in single]
    assert "d/3" == (tmp_path / "back" / "d" / "3").read_text()
    assert {"k": b"content"} == fake.store.bodies("b")
    assert ["b"] == [entry.bucket for entry in pool.list()]


def test_failures_are_errors_of_ours(pool: s3pool.Pool, fake: FakeS3, tmp_path: Path) -> None:
    """A program catches S3PoolError, and knows the kinds."""
    fake.store.add("b", "t/1", b"1")
    fake.store.add("b", "t/2", b"2")
    fake.fault(Answer(403, "AccessDenied"), op="GetObject", key="t/1", times=9)

    with pytest.raises(NotFoundError):
        pool.open("s3://b/none")
    with pytest.raises(AccessDeniedError):
        pool.get("s3://b/t", tmp_path / "t", recursive=True)
    with pytest.raises(UsageError, match="names no object"):
        pool.head("s3://b")
    with pytest.raises(UsageError, match="there are rb and wb"):
        pool.open("s3://b/k", "ab")  # type: ignore[call-overload]
    with pytest.raises(S3PoolError):
        pool.put(tmp_path / "none", "s3://b/none")
    assert ["2"] == [path.name for path in (tmp_path / "t").iterdir()]


def test_presigned_urls_work_without_keys(pool: s3pool.Pool) -> None:
    """They are for who has none."""
    with urllib.request.urlopen(pool.presign("s3://b/k", expires=60)) as answer:
        assert b"content" == answer.read()


def test_what_cannot_be_meant_is_refused(pool: s3pool.Pool) -> None:
    """A half pair of keys would be another user, silently; no server takes a URL of an invented method."""
    with pytest.raises(UsageError, match="takes secret_key and session_token together with access_key"):
        s3pool.connect(endpoints="http://127.0.0.1:1", secret_key="half")
    with pytest.raises(UsageError, match=r"presign\(\) signs GET, HEAD, PUT, POST, DELETE, not 'FOO BAR'"):
        pool.presign("s3/b/k", method="FOO BAR")


def test_presigned_urls_name_a_node_that_answers(fake: FakeS3, pool: s3pool.Pool) -> None:
    """The first one may be dead."""
    fake.nodes[0].kill()

    assert pool.presign("s3://b/k").startswith(f"{fake.endpoints[1]}/b/k?")


def test_sync_is_the_command_lines(pool: s3pool.Pool, fake: FakeS3, tmp_path: Path) -> None:
    """With its guards and its memory."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "1").write_text("1")
    fake.store.add("b", "s/old", b"")

    first = pool.sync(str(tmp_path / "t"), "s3://b/s/", delete=True)
    second = pool.sync(str(tmp_path / "t"), "s3://b/s/", delete=True)
    (tmp_path / "t" / "1").unlink()
    third = pool.sync(str(tmp_path / "t"), "s3://b/s/", delete=True)

    assert [(1, 1), (0, 0), (0, 0)] == [(each.summary.copied, each.summary.deleted) for each in (first, second, third)]
    assert "empty" in third.held_back
    assert {"k", "s/1"} == set(fake.store.bodies("b"))


def test_many_threads_share_a_pool_and_a_child_gets_its_own(pool: s3pool.Pool, fake: FakeS3) -> None:
    """Loaders fork their workers from a process that has connections open."""
    for number in range(40):
        fake.store.add("b", f"n/{number}", str(number).encode())

    def read(number: int) -> bytes:
        with pool.open(f"s3://b/n/{number}") as stream:
            return stream.read()

    with ThreadPoolExecutor(8) as threads:
        contents = list(threads.map(read, range(40)))
    out, into = os.pipe()
    if not (child := os.fork()):
        os.write(into, b"".join(read(number) for number in range(3)))
        os._exit(0)
    os.waitpid(child, 0)

    assert [str(number).encode() for number in range(40)] == contents
    assert b"012" == os.read(out, 100)
    assert b"39" == read(39)


# -- streams -----------------------------------------------------------------------------------


def test_a_reader_seeks_and_reads_like_a_file(pool: s3pool.Pool, fake: FakeS3) -> None:
    """Whatever reads a file reads an object."""
    content = os.urandom(3 * BLOCK) + b"\nlast line"
    fake.store.add("b", "big", content)
    local = io.BytesIO(content)

    with pool.open("s3://b/big", block_size=BLOCK) as stream:
        assert (len(content), True, True, False) == (
            stream.size,
            stream.seekable(),
            stream.readable(),
            stream.writable(),
        )
        for offset, whence, size in ((-9, 2, 100), (BLOCK - 1, 0, 2), (5, 1, 0), (0, 0, 2 * BLOCK + 1), (9, 2, 1)):
            assert local.seek(offset, whence) == stream.seek(offset, whence)
            assert local.read(size) == stream.read(size)
        stream.seek(0)
        buffer = bytearray(BLOCK + 7)
        assert (len(buffer), content[: len(buffer)]) == (stream.readinto(buffer), bytes(buffer))
        stream.seek(3 * BLOCK + 1)
        assert [b"last line"] == list(stream)
        with pytest.raises(ValueError, match="whence is 0, 1 or 2, not 9"):
            stream.seek(0, 9)
    for use in (lambda: stream.read(1), lambda: stream.seek(0), stream.tell):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_lines_are_found_in_blocks(pool: s3pool.Pool, fake: FakeS3) -> None:
    """One look at the object a line, not two a byte: for line in a file of bytes is what scripts do."""
    fake.store.add("b", "lines", b"x" * 999 + b"\n" + b"end")

    with pool.open("s3://b/lines") as stream:
        assert (len(stream.peek(1)), 999 + 1) == (1003, len(stream.readline()))
        assert [b"end"] == list(stream)


def test_a_reader_reads_ahead_only_of_who_reads_on(pool: s3pool.Pool, fake: FakeS3) -> None:
    """A footer costs one request; a whole object costs one for each block."""
    fake.store.add("b", "big", os.urandom(16 * BLOCK))

    with pool.open("s3://b/big", block_size=BLOCK) as stream:
        stream.seek(9 * BLOCK)
        stream.read(10)
        jumps = len(fake.ops(op="GetObject"))
        stream.seek(0)
        stream.read()

    assert (2, 2 + 16) == (jumps, len(fake.ops(op="GetObject")))


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2 * BLOCK, 2 * BLOCK + 1])
def test_what_was_written_is_read(pool: s3pool.Pool, fake: FakeS3, size: int) -> None:
    """The ends of blocks are where such code goes wrong."""
    content = os.urandom(size)

    with pool.open("s3://b/new", "wb", content_type="text/x") as out:
        out.write(content[:7])
        out.write(memoryview(content)[7:])
        assert size == out.tell()
    with pool.open("s3://b/new", block_size=BLOCK) as stream:
        assert content == stream.read()

    assert (out.etag, "text/x") == (hashlib.md5(content).hexdigest(), pool.head("s3://b/new").content_type)


def test_a_long_writer_uploads_while_it_is_written_to(pool: s3pool.Pool, fake: FakeS3) -> None:
    """Its memory is a few parts, whatever the length."""
    content = os.urandom(5 * MIB) + b"x" * (12 * MIB)

    with pool.open("s3://b/long", "wb", part_size=5 * MIB) as out:
        for start in range(0, len(content), MIB):
            out.write(content[start : start + MIB])
        deadline = time.monotonic() + ARRIVES_WITHIN_S
        while "UploadPart" not in fake.ops() and time.monotonic() < deadline:
            os.sched_yield()
        assert "UploadPart" in fake.ops()

    assert content == fake.store.bodies("b")["long"]


@pytest.mark.parametrize("length", [10, 12 * MIB])
def test_a_writer_stores_the_type_that_a_name_tells(pool: s3pool.Pool, fake: FakeS3, length: int) -> None:
    """A long page is no less a page than a short one."""
    with pool.open("s3://b/page.html", "wb", part_size=5 * MIB) as out:
        out.write(bytes(length))

    assert "text/html" == pool.head("s3://b/page.html").content_type


@pytest.mark.parametrize("length", [10, 12 * MIB])
def test_a_writer_that_ends_by_an_exception_stores_nothing(pool: s3pool.Pool, fake: FakeS3, length: int) -> None:
    """Half a file under its full name is the worst that a writer can leave."""
    with pytest.raises(TypeError), pool.open("s3://b/half", "wb", part_size=5 * MIB) as out:
        out.writelines([b"x" * length, "what is no bytes"])  # type: ignore[list-item]
    forgotten = pool.open("s3://b/half", "wb", part_size=5 * MIB)
    forgotten.write(b"x" * length)
    del forgotten

    assert {"k": b"content"} == fake.store.bodies("b")
    assert [] == list(fake.store.bucket("b").uploads)


def test_a_part_that_fails_is_an_error_of_the_writer(pool: s3pool.Pool, fake: FakeS3) -> None:
    """At the next write or at close: never silently."""
    fake.fault(Answer(403, "AccessDenied"), op="UploadPart", times=99)

    with pytest.raises(AccessDeniedError), pool.open("s3://b/long", "wb", part_size=5 * MIB) as out:
        out.write(b"x" * 12 * MIB)

    assert ({"k": b"content"}, []) == (fake.store.bodies("b"), list(fake.store.bucket("b").uploads))


def test_a_reader_goes_on_where_connections_are_cut(pool: s3pool.Pool, fake: FakeS3) -> None:
    """A node that dies in the middle of a block is nothing that a program should know of."""
    content = os.urandom(8 * BLOCK)
    fake.store.add("b", "big", content)
    fake.fault(CutBody(1000), op="GetObject", times=3)

    with pool.open("s3://b/big", block_size=BLOCK) as stream:
        assert content == stream.read()


def test_flipped_bytes_are_found_before_the_last_block_is_given(pool: s3pool.Pool, fake: FakeS3) -> None:
    """Who has read to the end has read what is stored."""
    content = os.urandom(2 * BLOCK)
    fake.store.add("b", "big", content)
    fake.fault(FlipByte(at=5), op="GetObject", nth=2)

    with pool.open("s3://b/big", block_size=BLOCK) as stream:
        assert content[:BLOCK] == stream.read(BLOCK)
        with pytest.raises(IntegrityError):
            stream.read()


def test_an_object_that_is_replaced_meanwhile_is_no_mixture(pool: s3pool.Pool, fake: FakeS3) -> None:
    """The first half of one and the second of another is neither."""
    fake.store.add("b", "big", b"1" * 2 * BLOCK)

    with pool.open("s3://b/big", block_size=BLOCK) as stream:
        fake.store.add("b", "big", b"2" * 2 * BLOCK)
        with pytest.raises(ReplacedError, match="replaced while it was read"):
            stream.read()

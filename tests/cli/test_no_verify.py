from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fake_s3 import MIB, FakeS3, FlipByte
from tests.support.run_cli import CliResult, CliRunner

Cli = Callable[..., CliResult]
SIZES = {"small": 100, "middle": MIB, "large": 17 * MIB}


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    """Give two addresses of one store."""
    with FakeS3(2) as server:
        yield server


@pytest.fixture
def cli(run_here: CliRunner, fake: FakeS3, tmp_path: Path) -> Cli:
    """Run a command in a directory of its own."""
    run_here.environ.update(fake.environment)
    return lambda *words: run_here(*words, cwd=tmp_path)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("words", [("cp", "s3/b/p/k", "d/k"), ("sync", "s3/b/p", "d")], ids=["cp", "sync"])
def test_no_verify_computes_no_digest(
    cli: Cli, fake: FakeS3, tmp_path: Path, size: int, words: tuple[str, ...]
) -> None:
    """That is what saves the CPU; and so a damaged byte goes unseen, which is why it is asked for."""
    fake.store.add("b", "p/k", bytes(size))
    fake.fault(FlipByte(at=50), op="GetObject", times=0)

    result = cli(*words, "--no-verify")

    content = (tmp_path / "d" / "k").read_bytes()
    assert (0, size) == (result.code, len(content))
    assert any(content)


def test_no_verify_to_a_stream(cli: Cli, fake: FakeS3) -> None:
    """Nothing is compared there either."""
    fake.store.add("b", "k", b"content")
    fake.fault(FlipByte(at=2), op="GetObject")

    result = cli("cp", "s3/b/k", "-", "--no-verify")

    assert (0, 7) == (result.code, len(result.out))


@pytest.mark.parametrize("size", [100, 17 * MIB])
def test_without_it_the_same_byte_is_found(cli: Cli, fake: FakeS3, tmp_path: Path, size: int) -> None:
    """The default checks."""
    fake.store.add("b", "k", bytes(size))
    fake.fault(FlipByte(at=50), op="GetObject", times=0)

    result = cli("cp", "s3/b/k", "k")

    assert 1 == result.code
    assert not (tmp_path / "k").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("cp", "here", "s3/b/k"), "--no-verify is for downloads, and s3/b/k is in S3"),
        (("sync", ".", "s3/b/p"), "--no-verify is for downloads, and s3/b/p is in S3"),
        (("mv", "s3/b/k", "k"), "mv deletes its source: what it brought must be checked; use cp --no-verify and rm"),
    ],
)
def test_no_verify_where_it_has_no_sense_is_refused(cli: Cli, fake: FakeS3, words: tuple[str, ...], line: str) -> None:
    """A flag that is passed over would be trusted."""
    fake.store.add("b", "k", b"content")

    result = cli(*words, "--no-verify")

    assert (2, f"s3pool: error: {line}\n") == (result.code, result.err)
    assert {"k": b"content"} == fake.store.bodies("b")

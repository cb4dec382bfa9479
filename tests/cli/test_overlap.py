"""Trees that lie inside each other, by whatever names: a copy must not copy itself, nor a delete its source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3, Quirks
from tests.support.run_cli import CliResult

Run = Callable[..., CliResult]
SAME = ("--source-profile", "same")


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3], tmp_path: Path) -> FakeS3:
    """Give a store with a tree, which ``same`` and ``:b`` are other names of."""
    fake = fake_s3(2, quirks=Quirks(tenants=True))
    for key in ("p/1", "p/2", "p/q/3", "p/q/4"):
        fake.store.add("b", key, key.encode(), mtime=1000)
    urls = [url.replace("127.0.0.1", "localhost") for url in fake.endpoints]
    config = tmp_path / ".s3pool" / "config.yaml"
    config.parent.mkdir()
    same = {"endpoints": urls, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
    config.write_text(json.dumps({"profiles": {"same": same}}))
    config.chmod(0o600)
    return fake


@pytest.mark.parametrize("command", [("cp", "-r"), ("mv", "-r"), ("sync",), ("sync", "--delete")])
@pytest.mark.parametrize(("flags", "bucket"), [((), "b"), ((), ":b"), (SAME, "b"), (SAME, ":b")])
def test_tree_into_itself_is_refused_by_any_name(
    call: Run, fake: FakeS3, command: tuple[str, ...], flags: tuple[str, ...], bucket: str
) -> None:
    """A store that shows the source's own objects at the target is the source's store."""
    before = fake.store.bodies("b")

    result = call(*command, *flags, "s3/b/p", f"s3/{bucket}/p/r")

    assert (2, before) == (result.code, fake.store.bodies("b")), result.err
    assert f"s3/{bucket}/p/r" in result.err


@pytest.mark.parametrize(("flags", "bucket"), [((), "b"), ((), ":b"), (SAME, "b"), (SAME, ":b")])
def test_sync_into_the_tree_around_its_source_is_refused_by_any_name(
    call: Run, fake: FakeS3, flags: tuple[str, ...], bucket: str
) -> None:
    """--delete would take the source, of which the target has more than enough."""
    before = fake.store.bodies("b")

    result = call("sync", "--delete", "--max-delete", "none", *flags, "s3/b/p/q", f"s3/{bucket}/p")

    assert (2, before) == (result.code, fake.store.bodies("b")), result.err


@pytest.mark.parametrize("command", ["cp", "mv"])
@pytest.mark.parametrize("target", ["s3/b//p/r", "s3/b/./p/r", "s3/:b//p//r"])
def test_tree_into_itself_is_refused_where_keys_have_several_spellings(
    call: Run, fake: FakeS3, command: str, target: str
) -> None:
    """On a store whose keys are names of files."""
    fake.quirks.folds_keys = True
    before = fake.store.bodies("b")

    result = call(command, "-r", "s3/b/p", target)

    assert (2, before) == (result.code, fake.store.bodies("b")), result.err


@pytest.mark.parametrize("command", [("cp", "-r"), ("mv", "-r"), ("sync",)])
@pytest.mark.parametrize("target", ["s3/c/p/r", "s3/b//p/r"])
def test_tree_of_like_names_in_another_place_is_no_mistake(
    call: Run, fake: FakeS3, command: tuple[str, ...], target: str
) -> None:
    """Another bucket may well have the same names, and most stores tell all spellings apart."""
    for key in ("p/1", "p/2"):
        fake.store.add("c", key, key.encode(), mtime=2000)

    result = call(*command, "s3/b/p", target)

    assert 0 == result.code, result.err
    bucket, _, prefix = target.removeprefix("s3/").partition("/")
    assert {"p/1", "p/2", "p/q/3", "p/q/4"} == {
        body.decode() for key, body in fake.store.bodies(bucket).items() if key.startswith(f"{prefix}/")
    }


@pytest.mark.parametrize(("flags", "bucket"), [((), "b"), ((), ":b"), (SAME, "b")])
@pytest.mark.parametrize("command", ["cp", "mv"])
def test_target_that_is_a_source_is_not_overwritten(
    call: Run, fake: FakeS3, command: str, flags: tuple[str, ...], bucket: str
) -> None:
    """p/q/q/3 would become p/q/3, which is to become p/3: its content would be nowhere."""
    fake.store.add("b", "p/q/q/3", b"deep", mtime=1000)

    result = call(command, "-r", *flags, "s3/b/p/q", f"s3/{bucket}/p")

    bodies = fake.store.bodies("b")
    assert 1 == result.code, result.err
    assert (b"deep", b"p/q/3", b"p/q/4") == (bodies["p/q/q/3"], bodies["p/3"], bodies["p/4"])
    assert f"s3/b/p/q/q/3 would become s3/{bucket}/p/q/3, which lies in the source s3/b/p/q" in result.err


@pytest.mark.parametrize(("flags", "bucket"), [((), "b"), ((), ":b"), (SAME, "b")])
@pytest.mark.parametrize("command", ["cp", "mv"])
def test_wildcard_leaves_its_own_copies_alone(
    call: Run, fake: FakeS3, command: str, flags: tuple[str, ...], bucket: str
) -> None:
    """A star crosses slashes: what lies in the target is no source, or copies would be copied without end."""
    result = call(command, *flags, "s3/b/p/*", f"s3/{bucket}/p/q/")

    assert 0 == result.code, result.err
    kept = {"p/1", "p/2"} if command == "cp" else set()
    assert {"p/q/1", "p/q/2", "p/q/3", "p/q/4"} | kept == set(fake.store.bodies("b"))

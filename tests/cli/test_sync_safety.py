"""Nothing is deleted unless everything is known: every way in which a source can seem empty."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import (
    Answer,
    CutBody,
    CutXml,
    EmptyBody,
    FakeS3,
    Fault,
    NoToken,
    error_in_200,
    internal_error,
)

Files = dict[str, bytes]
OLD = 1_500_000_000
KEYS = [f"k{number}" for number in range(9)]
TARGET = {**dict.fromkeys(KEYS, b"kept"), "extra": b"stays"}
IMPATIENT = ("--retries", "1", "--connect-timeout", "1", "--read-timeout", "2")

LIST_FAULTS = [
    pytest.param(internal_error(), id="500"),
    pytest.param(CutBody(200), id="cut"),
    pytest.param(CutBody(200, reset=False), id="short body"),
    pytest.param(CutXml(), id="cut XML"),
    pytest.param(error_in_200(), id="error in 200"),
    pytest.param(EmptyBody(), id="empty body"),
    pytest.param(NoToken(), id="no token"),
    pytest.param(Answer(403, "AccessDenied"), id="denied"),
]


@pytest.fixture
def remote_source(fake: FakeS3) -> None:
    """Store nine keys at ``b/p``, on pages of three."""
    for key in KEYS:
        fake.store.add("b", f"p/{key}", b"kept", mtime=OLD)
    fake.quirks.short_pages = 3


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Give a directory with the nine files and one more."""
    root = tmp_path / "target"
    root.mkdir()
    for name, content in TARGET.items():
        (root / name).write_bytes(content)
        os.utime(root / name, (OLD, OLD))
    return root


@pytest.fixture
def remote_target(fake: FakeS3) -> dict[str, bytes]:
    """Store the nine keys and one more at ``b/t``."""
    for name, content in TARGET.items():
        fake.store.add("b", f"t/{name}", content, mtime=OLD)
    return stored(fake)


def stored(fake: FakeS3) -> dict[str, bytes]:
    """Give what is at ``b/t``."""
    return {key: content for key, content in fake.store.bodies("b").items() if key.startswith("t/")}


def files(root: Path) -> dict[str, bytes]:
    """Give what is in a directory."""
    return {path.name: path.read_bytes() for path in root.iterdir()}


def make_source(tmp_path: Path) -> Path:
    """Give a local directory with the nine files."""
    root = tmp_path / "source"
    root.mkdir()
    for key in KEYS:
        (root / key).write_bytes(b"kept")
        os.utime(root / key, (OLD, OLD))
    return root


def test_the_extra_file_goes_when_all_is_well(call: Call, remote_source: None, target: Path) -> None:
    """The tests below would prove nothing if it stayed in any case."""
    result = call("sync", "s3/b/p", "target", "--delete")

    assert 0 == result.code
    assert "extra" not in files(target)


@pytest.mark.parametrize(
    ("way", "page"),
    [(("s3/b/p", "target"), 1), (("s3/b/p", "target"), 2), (("source", "s3/b/t"), 2), (("s3/b/p", "s3/b/t"), 4)],
)
@pytest.mark.parametrize("fault", LIST_FAULTS)
def test_a_broken_page_of_either_side_deletes_nothing(
    call: Call,
    fake: FakeS3,
    remote_source: None,
    remote_target: Files,
    target: Path,
    tmp_path: Path,
    fault: Fault,
    way: tuple[str, str],
    page: int,
) -> None:
    """A listing that ends before its end is not an end, and of two either may fail at any moment."""
    make_source(tmp_path)
    fake.fault(fault, op="ListObjects*", nth=page, times=0)

    result = call("sync", *way, "--delete", *IMPATIENT)

    assert result.code in (1, 4, 5)
    assert (TARGET, remote_target) == (files(target), stored(fake))


def test_an_empty_directory_deletes_nothing(call: Call, fake: FakeS3, remote_target: Files, tmp_path: Path) -> None:
    """A disk that is not mounted is an empty directory."""
    (tmp_path / "source").mkdir()

    result = call("sync", "source", "s3/b/t", "--delete", "--json")

    assert 6 == result.code
    assert "the source is empty" in result.records[-1]["held_back"]
    assert "Refused" == json.loads(result.err)["code"]
    assert remote_target == stored(fake)


def test_an_empty_source_can_be_meant(call: Call, fake: FakeS3, remote_target: Files, tmp_path: Path) -> None:
    """With two words, a target is emptied; so few objects are not weighed."""
    (tmp_path / "source").mkdir()

    result = call("sync", "source", "s3/b/t", "--delete", "--allow-empty-source")

    assert 0 == result.code
    assert {} == stored(fake)


def test_an_empty_source_without_delete_is_no_failure(call: Call, remote_target: None, tmp_path: Path) -> None:
    """There is nothing to copy, and nothing to lose."""
    (tmp_path / "source").mkdir()

    assert 0 == call("sync", "source", "s3/b/t").code


def test_a_missing_directory_deletes_nothing(call: Call, fake: FakeS3, remote_target: Files) -> None:
    """It is told before the target is even listed."""
    result = call("sync", "missing", "s3/b/t", "--delete")

    assert 3 == result.code
    assert "cannot read missing" in result.err
    assert [] == fake.ops()
    assert remote_target == stored(fake)


@pytest.mark.parametrize("key", [None, "nothing/"], ids=["no keys", "only its own marker"])
def test_a_prefix_without_keys_deletes_nothing(call: Call, fake: FakeS3, target: Path, key: str | None) -> None:
    """S3 does not know whether a prefix was ever there."""
    fake.store.add("b", key or "other", mtime=OLD)

    result = call("sync", "s3/b/nothing", "target", "--delete")

    assert (6 if key else 3) == result.code
    assert TARGET == files(target)


def test_a_prefix_without_keys_deletes_nothing_inside_s3(call: Call, fake: FakeS3, remote_target: Files) -> None:
    """The same between two prefixes."""
    result = call("sync", "s3/b/nothing", "s3/b/t", "--delete")

    assert 3 == result.code
    assert remote_target == stored(fake)


def test_a_missing_bucket_deletes_nothing(call: Call, target: Path) -> None:
    """It is not found, and that is no empty source."""
    result = call("sync", "s3/nowhere/p", "target", "--delete")

    assert 3 == result.code
    assert TARGET == files(target)


def test_a_missing_target_bucket_is_not_found(call: Call, tmp_path: Path) -> None:
    """There is nothing to list; sync makes no buckets."""
    make_source(tmp_path)

    assert 3 == call("sync", "source", "s3/nowhere/t", "--delete").code


def test_filters_that_leave_nothing_delete_nothing(
    call: Call, fake: FakeS3, remote_target: Files, tmp_path: Path
) -> None:
    """A slip in a pattern must not empty what it still lets through at the target."""
    make_source(tmp_path)

    result = call("sync", "source", "s3/b/t", "--delete", "--include", "ext*")

    assert 6 == result.code
    assert remote_target == stored(fake)


def unusable_link(root: Path) -> None:
    """Put a link that leads nowhere."""
    (root / "link").symlink_to("/nowhere/at/all")


def unusable_loop(root: Path) -> None:
    """Put a link to the directory itself."""
    (root / "loop").symlink_to(root)


def unusable_pipe(root: Path) -> None:
    """Put a pipe."""
    os.mkfifo(root / "pipe")


def unusable_name(root: Path) -> None:
    """Put a name that is not UTF-8."""
    (root / os.fsdecode(b"\xff")).write_bytes(b"x")


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (unusable_link, 6, ()),
        (unusable_loop, 6, ()),
        (unusable_loop, 6, ("--links", "follow")),
        (unusable_pipe, 6, ()),
        (unusable_name, 1, ()),
    ],
)
def test_what_cannot_be_sent_fails_alone_and_deletes_nothing(
    call: Call,
    fake: FakeS3,
    remote_target: Files,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    code: int,
    words: tuple[str, ...],
) -> None:
    """The other files are copied; what the target has under such a name is not known to be extra."""
    root = make_source(tmp_path)
    spoil(root)
    (root / "zz-new").write_bytes(b"new")

    result = call("sync", "source", "s3/b/t", "--delete", *words)

    assert code == result.code
    assert {**remote_target, "t/zz-new": b"new"} == stored(fake)


def test_links_can_be_skipped_without_a_word(call: Call, fake: FakeS3, remote_target: None, tmp_path: Path) -> None:
    """Who says so does not want them at the target."""
    unusable_link(make_source(tmp_path))

    result = call("sync", "source", "s3/b/t", "--delete", "--links", "skip")

    assert 0 == result.code
    assert "t/extra" not in stored(fake)


def test_a_directory_that_cannot_be_read_deletes_nothing(
    call: Call, fake: FakeS3, remote_target: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are not known to be gone."""
    root = make_source(tmp_path)
    (root / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: object = ".") -> object:
        if os.fsencode(path).rstrip(b"/").endswith(b"locked"):  # type: ignore[call-overload]
            raise PermissionError(13, "Permission denied")
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)

    result = call("sync", "source", "s3/b/t", "--delete")

    assert 1 == result.code
    assert "Permission denied" in result.err
    assert remote_target == stored(fake)


@pytest.mark.parametrize(
    ("extra", "words", "code"),
    [
        (100, (), 0),
        (101, (), 6),
        (101, ("--max-delete", "none"), 0),
        (101, ("--max-delete", "100%"), 0),
        (101, ("--max-delete", "101"), 0),
        (3, ("--max-delete", "3"), 0),
        (3, ("--max-delete", "2"), 6),
        (3, ("--max-delete", "0"), 6),
    ],
)
def test_too_many_deletes_are_refused_as_a_whole(
    call: Call, fake: FakeS3, tmp_path: Path, extra: int, words: tuple[str, ...], code: int
) -> None:
    """Half of the target, when that is more than a hundred objects; or what the user says."""
    make_source(tmp_path)
    for number in range(extra):
        fake.store.add("b", f"t/x{number:03d}", b"x", mtime=OLD)

    result = call("sync", "source", "s3/b/t", "--delete", *words, "--json")

    assert code == result.code
    assert (extra if code else 0) == sum(key.startswith("t/x") for key in stored(fake))
    assert (f"{extra} of {extra} objects would go" in result.records[-1]["held_back"]) == bool(code)


def test_a_delete_that_fails_is_told(call: Call, fake: FakeS3, remote_target: None, tmp_path: Path) -> None:
    """The rest goes on."""
    make_source(tmp_path)
    fake.store.add("b", "t/extra2", b"x", mtime=OLD)
    fake.fault(Answer(403, "AccessDenied"), op="DeleteObject*", times=0)

    result = call("sync", "source", "s3/b/t", "--delete", "--json")

    assert result.code in (1, 4, 5)
    assert 2 == result.records[-1]["failed"]


def test_a_link_in_the_way_of_a_local_delete_is_not_followed(
    call: Call, fake: FakeS3, remote_source: None, target: Path, tmp_path: Path
) -> None:
    """What lies behind a link is not the target's."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    (target / "way").symlink_to(outside)

    result = call("sync", "s3/b/p", "target", "--delete")

    assert 0 == result.code
    assert {"mine": b"mine"} == files(outside)


def test_names_no_key_can_have_stay_at_a_local_target(call: Call, remote_source: None, target: Path) -> None:
    """They did not come from S3, and they do not stop the rest."""
    odd = os.path.join(os.fsencode(target), b"\xff\xfe")
    with open(odd, "wb") as stream:
        stream.write(b"odd")

    result = call("sync", "s3/b/p", "target", "--delete")

    assert 0 == result.code
    assert os.path.exists(odd)

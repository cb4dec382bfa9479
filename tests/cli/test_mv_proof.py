"""mv deletes a source only after proof: the target is there, is right and is another object."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import (
    ACCESS_KEY,
    MIB,
    SECRET_KEY,
    Answer,
    Call,
    FakeS3,
    FlipStored,
    Quirks,
    Rewrite,
    Vanish,
    WrongETag,
    internal_error,
)
from tests.support.run_cli import CliResult

Run = Callable[..., CliResult]
LARGE = ("--part-size", "5M")
AGAIN = b"put by another client"


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3]) -> FakeS3:
    """Give a store that knows its buckets and keys by several names."""
    fake = fake_s3(2, quirks=Quirks(tenants=True, folds_keys=True))
    fake.store.add("b", "al/k", b"content", mtime=1000)
    return fake


@pytest.fixture
def profiles(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Let ``same`` be another name of the fake's own pool, by another host name."""
    config = tmp_path / ".s3pool" / "config.yaml"
    config.parent.mkdir()
    urls = ", ".join(url.replace("127.0.0.1", "localhost") for url in fake.endpoints)
    config.write_text(
        f"profiles:\n  same: {{endpoints: [{urls}], access_key: {ACCESS_KEY}, secret_key: '{SECRET_KEY}'}}\n"
    )
    config.chmod(0o600)
    return fake


# -- another name of the same object -------------------------------------------------------


@pytest.mark.parametrize("target", ["s3/:b/al/k", "s3/b/al//k", "s3/b/al/./k", "s3/b//al/k"])
@pytest.mark.parametrize("flags", [(), ("--metadata", "x=1"), LARGE, ("--source-profile", "same")])
def test_object_that_is_moved_onto_itself_by_another_name_stays(
    call: Run, profiles: FakeS3, target: str, flags: tuple[str, ...]
) -> None:
    """No name tells that two names mean one object: what came of the copy does."""
    content = os.urandom(6 * MIB) if flags == LARGE else b"content"
    profiles.store.add("b", "al/k", content, mtime=1000)

    result = call("mv", *flags, "s3/b/al/k", target)

    assert 1 == result.code, result.err
    assert {"al/k": content} == profiles.store.bodies("b")
    assert "1 moved" not in result.err


def test_object_that_is_moved_onto_itself_in_another_profile_stays(call: Run, profiles: FakeS3) -> None:
    """Two profiles may mean one cluster: the delete would take the only copy."""
    result = call("mv", "--source-profile", "same", "s3/b/al/k", "s3/b/al/k")

    assert (1, {"al/k": b"content"}) == (result.code, profiles.store.bodies("b"))
    assert "s3/b/al/k was copied to s3/b/al/k, and stays: it seems to be the same object by another name" in result.err


@pytest.mark.parametrize("target", ["s3/:b/al/k", "s3/b/al//k"])
def test_versioned_object_that_is_moved_onto_itself_stays(call: Run, profiles: FakeS3, target: str) -> None:
    """Nor does a delete marker hide the last version."""
    profiles.store.bucket("b").versioning = "Enabled"
    profiles.store.add("b", "al/k", b"newest", mtime=2000)

    result = call("mv", "--metadata", "x=1", "s3/b/al/k", target)

    assert (1, {"al/k": b"newest"}) == (result.code, profiles.store.bodies("b"))


def test_objects_of_this_very_second_move_to_another_bucket(call: Run, fake: FakeS3, tmp_path: Path) -> None:
    """Their times are the copy's own, and they are other objects all the same."""
    fake.store.add("c", "x", b"")
    for name in "pqr":
        (tmp_path / name).write_bytes(name.encode())

    up = call("cp", "p", "q", "r", "s3/b/new/")
    moved = call("mv", "-r", "s3/b/new/", "s3/c/new/")

    assert (0, 0) == (up.code, moved.code), moved.err
    assert {"al/k": b"content"} == fake.store.bodies("b")
    assert {"x": b"", "new/p": b"p", "new/q": b"q", "new/r": b"r"} == fake.store.bodies("c")


# -- a target that is not there, or not right ----------------------------------------------


@pytest.mark.parametrize("argv", [("f", "s3/b/n"), (*LARGE, "large", "s3/b/n")])
@pytest.mark.parametrize("wrong", [WrongETag("f" * 32), Answer(404, "NoSuchKey")])
def test_file_stays_when_the_target_cannot_be_shown(
    call: Run, fake: FakeS3, tmp_path: Path, argv: tuple[str, ...], wrong: WrongETag | Answer
) -> None:
    """An answer to PUT is a promise, HEAD is the proof."""
    (tmp_path / "f").write_bytes(b"mine")
    (tmp_path / "large").write_bytes(os.urandom(6 * MIB))
    fake.fault(wrong, op="HeadObject", key="n", times=0)

    result = call("mv", *argv)

    assert 1 == result.code
    assert argv[-2] in result.err
    assert (tmp_path / argv[-2]).exists()


@pytest.mark.parametrize("flags", [(), LARGE, ("--source-profile", "same")])
def test_object_stays_when_its_copy_cannot_be_shown(call: Run, profiles: FakeS3, flags: tuple[str, ...]) -> None:
    """Inside S3 as well."""
    profiles.store.add("b", "large", os.urandom(6 * MIB), mtime=1000)
    profiles.fault(Answer(404, "NoSuchKey"), op="HeadObject", key="n", times=0)

    result = call("mv", *flags, "s3/b/large", "s3/b/n")

    assert 1 == result.code
    assert {"al/k", "large", "n"} == set(profiles.store.bodies("b"))


def test_file_that_does_not_reach_the_disk_keeps_its_object(
    call: Run, fake: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only copy must not be in memory alone when its source goes."""
    synced: list[str] = []

    def fsync(fd: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        if len(synced) == 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)

    failed = call("mv", "s3/b/al/k", "d/got")
    kept = fake.store.bodies("b")
    moved = call("mv", "s3/b/al/k", "d/got")

    assert (1, {"al/k": b"content"}) == (failed.code, kept)
    assert (0, {}) == (moved.code, fake.store.bodies("b")), moved.err
    assert {"d", tmp_path.name} <= set(synced)


@pytest.mark.parametrize("target", ["got", "s3/c/t/"])
def test_tree_with_directories_moves_whole(call: Run, fake: FakeS3, tmp_path: Path, target: str) -> None:
    """Markers of directories are objects, and become directories on disk."""
    fake.store.add("c", "x", b"")
    for key in ("t/", "t/d/", "t/d/e/", "t/d/f"):
        fake.store.add("b", key, b"" if key.endswith("/") else b"mine", mtime=1000)

    result = call("mv", "-r", "s3/b/t/", target)

    assert (0, {"al/k": b"content"}) == (result.code, fake.store.bodies("b")), result.err
    if target == "got":
        assert (b"mine", True) == ((tmp_path / "got/d/f").read_bytes(), (tmp_path / "got/d/e").is_dir())
    else:
        assert {"x", "t/", "t/d/", "t/d/e/", "t/d/f"} == set(fake.store.bodies("c"))


def test_listed_names_move_with_what_lies_below_them(call: Run, fake: FakeS3, tmp_path: Path) -> None:
    """Of a name in a list nothing is known but the name."""
    for key in ("t/d/", "t/f"):
        fake.store.add("b", key, b"", mtime=1000)
    (tmp_path / "list").write_text("d/\nf\n")

    down = call("mv", "--files-from", "list", "s3/b/t/", "got")

    assert (0, {"al/k": b"content"}) == (down.code, fake.store.bodies("b")), down.err
    assert {"d", "f"} == {path.name for path in (tmp_path / "got").iterdir()}


# -- a source that is another one now ------------------------------------------------------


@pytest.mark.parametrize("target", ["got", "s3/b/n", "s3/c/n"])
@pytest.mark.parametrize("flags", [(), LARGE, ("--source-profile", "same")])
def test_object_that_another_client_puts_meanwhile_stays(
    call: Run, profiles: FakeS3, tmp_path: Path, target: str, flags: tuple[str, ...]
) -> None:
    """It was never read, so it must not go."""
    if flags[:1] == ("--source-profile",) and target == "got":
        pytest.skip("a profile of the source is for copies inside S3")
    profiles.store.add("b", "k", os.urandom(8 * MIB), mtime=1000)
    profiles.store.add("c", "x", b"")

    def replace(_: object) -> None:
        profiles.store.add("b", "k", AGAIN, mtime=2000)

    op = "HeadObject"  # the target's proof comes before the last look at the source
    if target == "got":
        profiles.fault(Rewrite(lambda reply: replace(None) or reply), op="GetObject", key="k")  # type: ignore[func-returns-value]
    else:
        profiles.fault(Call(replace), op=op, key="n")

    result = call("mv", *flags, "s3/b/k", target)

    if result.code == 0:  # it was seen while ranges were read, and the whole was read anew
        assert (LARGE, AGAIN) == (flags, (tmp_path / "got").read_bytes())
        return
    assert 1 == result.code, result.err
    assert AGAIN == profiles.store.bodies("b")["k"]
    assert "s3/b/k" in result.err


def test_same_bytes_that_another_client_puts_meanwhile_stay(call: Run, fake: FakeS3) -> None:
    """Its metadata may be what was new."""

    def touch(_: object) -> None:
        fake.store.add("b", "al/k", b"content", mtime=2000, **{"x-amz-meta-new": "yes"})

    fake.fault(Call(touch), op="HeadObject", key="n")

    result = call("mv", "s3/b/al/k", "s3/b/n")

    assert 1 == result.code
    assert {"al/k", "n"} == set(fake.store.bodies("b"))


@pytest.mark.parametrize("target", ["got", "s3/b/n"])
@pytest.mark.parametrize("rule", ["ignored", "honoured", "refused"])
def test_delete_is_bound_to_what_was_read_where_the_server_can(call: Run, fake: FakeS3, target: str, rule: str) -> None:
    """Between the last look and the delete there is still a moment."""
    fake.quirks.delete_if_match = rule
    calm = call("mv", "s3/b/al/k", target)
    fake.store.add("b", "al/k", b"content", mtime=1000)
    fake.fault(Call(lambda _: fake.store.add("b", "al/k", AGAIN)), op="DeleteObject", nth=2 if rule == "refused" else 1)

    result = call("mv", "s3/b/al/k", target)

    assert 0 == calm.code, calm.err
    if rule == "honoured":
        assert (1, AGAIN) == (result.code, fake.store.bodies("b")["al/k"])


def test_delete_without_an_answer_is_asked_for_again_only_after_a_look(call: Run, fake: FakeS3) -> None:
    """The first one was carried out, and another client's object came after it."""
    hidden = Vanish()
    fake.fault(hidden, op="DeleteObject")
    fake.fault(Call(lambda _: fake.store.add("b", "al/k", AGAIN)), op="HeadObject", key="al/k", nth=3)

    result = call("mv", "s3/b/al/k", "s3/b/n")

    assert 1 == result.code
    assert {"al/k": AGAIN, "n": b"content"} == fake.store.bodies("b")


@pytest.mark.parametrize("fault", [Vanish(), internal_error(acted=True), internal_error()])
def test_delete_without_a_clear_answer_ends_well(call: Run, fake: FakeS3, fault: Vanish | Answer) -> None:
    """Whether it was carried out can be seen."""
    fake.fault(fault, op="DeleteObject")

    result = call("mv", "s3/b/al/k", "s3/b/n")

    assert (0, {"n": b"content"}) == (result.code, fake.store.bodies("b")), result.err


def test_versioned_object_that_moved_is_hidden_not_destroyed(call: Run, fake: FakeS3) -> None:
    """A bucket that keeps versions keeps this one: the marker is what aws s3 mv leaves, too."""
    fake.store.bucket("b").versioning = "Enabled"

    result = call("mv", "s3/b/al/k", "s3/b/n")

    assert (0, {"n": b"content"}) == (result.code, fake.store.bodies("b")), result.err
    assert [True, False] == [version.marker for version in fake.store.bucket("b").versions["al/k"]]


@pytest.mark.parametrize("target", ["got", "s3/c/n"])
def test_version_that_another_client_puts_before_the_delete_is_not_hidden(call: Run, fake: FakeS3, target: str) -> None:
    """A server that knows no conditions for deletes puts a marker on what it was not meant for."""
    fake.store.bucket("b").versioning = "Enabled"
    fake.store.add("b", "al/k", b"newest", mtime=1000)
    fake.store.add("b", "al/k2", b"another", mtime=1000)
    fake.store.add("c", "x", b"")
    fake.fault(Call(lambda _: fake.store.add("b", "al/k", AGAIN, mtime=2000)), op="DeleteObject")

    result = call("mv", "s3/b/al/k", target)

    assert (1, AGAIN) == (result.code, fake.store.bodies("b")["al/k"])


# -- local sources -------------------------------------------------------------------------


def test_file_that_took_the_place_of_the_one_that_was_sent_stays(call: Run, fake: FakeS3, tmp_path: Path) -> None:
    """With the same size and time: its inode and its time of change are others."""
    (tmp_path / "f").write_bytes(b"mine")
    os.utime(tmp_path / "f", (1000, 1000))

    def swap(_: object) -> None:
        (tmp_path / "new").write_bytes(b"new!")
        os.utime(tmp_path / "new", (1000, 1000))
        os.replace(tmp_path / "new", tmp_path / "f")

    fake.fault(Call(swap), op="PutObject", key="n")

    result = call("mv", "f", "s3/b/n")

    assert (1, b"new!") == (result.code, (tmp_path / "f").read_bytes())
    assert b"mine" == fake.store.bodies("b")["n"]
    assert "f" in result.err


def test_file_that_was_written_to_with_its_time_restored_stays(call: Run, fake: FakeS3, tmp_path: Path) -> None:
    """The time of change cannot be restored."""
    (tmp_path / "f").write_bytes(b"mine")
    os.utime(tmp_path / "f", (1000, 1000))

    def edit(_: object) -> None:
        (tmp_path / "f").write_bytes(b"new!")
        os.utime(tmp_path / "f", (1000, 1000))

    fake.fault(Call(edit), op="HeadObject", key="n")

    result = call("mv", "f", "s3/b/n")

    assert (1, b"new!") == (result.code, (tmp_path / "f").read_bytes())


def test_file_that_another_one_has_removed_was_moved(call: Run, fake: FakeS3, tmp_path: Path) -> None:
    """It is where it should be, and not where it should not."""
    (tmp_path / "f").write_bytes(b"mine")
    fake.fault(Call(lambda _: (tmp_path / "f").unlink()), op="HeadObject", key="n")

    result = call("mv", "f", "s3/b/n")

    assert (0, b"mine") == (result.code, fake.store.bodies("b")["n"]), result.err


def test_directory_that_became_a_link_keeps_its_file(call: Run, fake: FakeS3, tmp_path: Path) -> None:
    """The way to what is removed leads through no link that was not there."""
    (tmp_path / "tree" / "d").mkdir(parents=True)
    (tmp_path / "tree" / "d" / "f").write_bytes(b"mine")

    def relink(_: object) -> None:
        os.rename(tmp_path / "tree" / "d", tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", tmp_path / "tree" / "d")

    fake.fault(Call(relink), op="PutObject")

    result = call("mv", "-r", "tree", "s3/b/t/")

    assert 1 == result.code
    assert b"mine" == (tmp_path / "elsewhere" / "f").read_bytes()


@pytest.mark.parametrize("workers", ["1", "8"])
def test_tree_with_hard_links_moves_whole(call: Run, fake: FakeS3, tmp_path: Path, workers: str) -> None:
    """Removing one name of a file changes the time of the others, which is no edit of theirs."""
    for number in range(5):
        first = tmp_path / "tree" / f"a{number}"
        first.parent.mkdir(exist_ok=True)
        first.write_bytes(f"{number}".encode())
        for name in "bcd":
            os.link(first, tmp_path / "tree" / f"{name}{number}")
    os.link(tmp_path / "tree" / "a0", tmp_path / "elsewhere")

    result = call("mv", "-r", "--workers", workers, "tree", "s3/b/t/")

    assert (0, []) == (result.code, os.listdir(tmp_path / "tree")), result.err
    assert 20 == sum(key.startswith("t/") for key in fake.store.bodies("b"))
    assert b"0" == (tmp_path / "elsewhere").read_bytes()


def test_hard_link_that_was_written_to_after_another_name_went_stays(call: Run, fake: FakeS3, tmp_path: Path) -> None:
    """What the removal of one name changed is known, and anything else is an edit."""
    (tmp_path / "tree").mkdir()
    first, second = tmp_path / "tree" / "a", tmp_path / "tree" / "b"
    first.write_bytes(b"read")
    os.link(first, second)
    before = first.stat()

    def edit(_: object) -> None:
        assert not first.exists()
        second.write_bytes(b"edit")
        os.utime(second, ns=(before.st_atime_ns, before.st_mtime_ns))

    fake.fault(Call(edit), op="HeadObject", key="t/b")
    result = call("mv", "-r", "--workers", "1", "tree", "s3/b/t/")

    assert (1, b"edit") == (result.code, second.read_bytes()), result.err
    assert "tree/b was copied to s3/b/t/b, and stays: it changed since it was read" in result.err


def test_link_goes_whose_target_was_moved_before_it(call: Run, fake: FakeS3, tmp_path: Path) -> None:
    """A link that leads nowhere by now was moved as well as what it led to."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_bytes(b"f")
    (tmp_path / "tree" / "link").symlink_to("f")

    fake.fault(Call(lambda _: (tmp_path / "tree" / "f").unlink()), op="PutObject", key="t/link")
    result = call("mv", "-r", "--exclude", "f", "tree", "s3/b/t/")

    assert (0, []) == (result.code, os.listdir(tmp_path / "tree")), result.err


@pytest.mark.parametrize("links", ["files", "follow"])
def test_links_that_were_followed_go_and_their_targets_stay(
    call: Run, fake: FakeS3, tmp_path: Path, links: str
) -> None:
    """Mv moves what the tree holds, and it holds the link."""
    (tmp_path / "kept").write_bytes(b"mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "g").write_bytes(b"far")
    (tmp_path / "tree").mkdir()
    os.symlink(tmp_path / "kept", tmp_path / "tree" / "f")
    if links == "follow":
        os.symlink(tmp_path / "other", tmp_path / "tree" / "d")

    result = call("mv", "-r", "--links", links, "tree", "s3/b/t/")

    assert 0 == result.code, result.err
    assert not (tmp_path / "tree" / "f").is_symlink()
    assert b"mine" == (tmp_path / "kept").read_bytes()


def test_moves_take_two_looks_more_for_each_object_than_copies(call: Run, fake: FakeS3) -> None:
    """The proof costs what it must and no more."""
    for number in range(3):
        fake.store.add("b", f"p/{number}", b"x", mtime=1000)
    fake.forget()

    copied = call("cp", "-r", "s3/b/p/", "s3/b/q/")
    looks_of_copy = len(fake.ops(op="HeadObject"))
    fake.forget()
    moved = call("mv", "-r", "s3/b/p/", "s3/b/r/")

    assert (0, 0) == (copied.code, moved.code)
    assert 6 == len(fake.ops(op="HeadObject")) - looks_of_copy


@pytest.mark.parametrize(("source", "target"), [("f", "s3/b/f"), ("s3/b/al/k", "got"), ("s3/b/al/k", "s3/b/new")])
def test_lines_of_moves_are_of_the_type_move(call: Run, fake: FakeS3, tmp_path: Path, source: str, target: str) -> None:
    """Who reads the lines knows what is gone."""
    (tmp_path / "f").write_bytes(b"content")

    result = call("--json", "mv", source, target)

    assert ("move", source, target) == tuple(result.records[0][name] for name in ("type", "source", "target"))


@pytest.mark.parametrize("target", ["got", "s3/b/new"])
def test_refused_delete_tells_that_the_copy_is_there(call: Run, fake: FakeS3, target: str) -> None:
    """An error about a delete alone would leave open where the content is."""
    fake.fault(Answer(403, "AccessDenied"), op="DeleteObject", times=0)

    result = call("mv", "s3/b/al/k", target)

    assert (4, b"content") == (result.code, fake.store.bodies("b")["al/k"])
    assert f"; check the keys and their policy; s3/b/al/k was copied to {target}, and stays\n" in result.err


def test_refused_look_tells_that_the_copy_is_there(call: Run, fake: FakeS3, tmp_path: Path) -> None:
    """Who may write and not read sees that the file was stored."""
    (tmp_path / "f").write_bytes(b"content")
    fake.fault(Answer(403, "AccessDenied"), op="HeadObject", times=0)

    result = call("mv", "f", "s3/b/f")

    assert (4, True) == (result.code, (tmp_path / "f").exists())
    assert "; f was copied to s3/b/f, and stays\n" in result.err


@pytest.mark.parametrize(("size", "op"), [(100, "PutObject"), (3 * MIB, "PutObject"), (6 * MIB, "UploadPart")])
def test_file_stays_when_other_bytes_were_stored(call: Run, fake: FakeS3, tmp_path: Path, size: int, op: str) -> None:
    """The ETag tells, whatever digest the processor makes best."""
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    fake.fault(FlipStored(), op=op, times=0)

    result = call("mv", *LARGE, "f", "s3/b/f")

    assert (1, content) == (result.code, (tmp_path / "f").read_bytes()), result.err


@pytest.mark.parametrize("name", ["s3/b/f", "s3/b/d/"])
@pytest.mark.parametrize(("size", "words"), [(2048, ()), (3 * MIB, ("--checksum", "md5"))])
def test_cp_tells_that_other_bytes_were_stored(
    call: Run, fake: FakeS3, tmp_path: Path, size: int, words: tuple[str, ...], name: str
) -> None:
    """An MD5 of so few bytes costs nothing that could be measured; for more it is asked for."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(os.urandom(size))
    fake.fault(FlipStored(), op="PutObject", times=0)

    result = call("cp", *words, *(("-r", "d") if name.endswith("/") else ("d/f",)), name)

    assert (1, True) == (result.code, "; what was sent makes " in result.err), result.err

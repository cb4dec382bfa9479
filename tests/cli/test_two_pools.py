"""--source-profile: cp, mv and sync between two pools, each with keys of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fake_s3 import ACCESS_KEY, MIB, SECRET_KEY, Call, FakeS3, FlipByte
from tests.support.parts import parts_etag
from tests.support.run_cli import CliResult, CliRunner

Run = Callable[..., CliResult]
SECRETS = {"SOURCEKEY": "source-secret"}


@pytest.fixture
def there(fake: FakeS3, tmp_path: Path) -> Iterator[FakeS3]:
    """Give another pool, known as the profile ``old``; both let in nobody but their own."""
    fake.secrets.update({ACCESS_KEY: SECRET_KEY})
    fake.store.add("b", "x")
    fake.store.bucket("b").remove("x", "null")
    with FakeS3(2, secrets=SECRETS) as server:
        config = tmp_path / ".s3pool" / "config.yaml"
        config.parent.mkdir()
        config.write_text(
            "default_profile: old\nprofiles:\n"
            f"  old: {{endpoints: [{', '.join(server.endpoints)}], bucket: src,"
            " access_key: SOURCEKEY, secret_key: source-secret}\n"
            f"  alias: {{endpoints: [{', '.join(fake.endpoints)}],"
            f" access_key: {ACCESS_KEY}, secret_key: {SECRET_KEY}}}\n"
        )
        config.chmod(0o600)
        yield server


OLD = ("--source-profile", "old")


def test_cp_brings_a_tree_from_another_pool(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """Nothing but the profile tells the two pools apart: names are the same on both sides."""
    for name, size in (("a", 0), ("d/b", 3), ("d/c", 2 * MIB)):
        there.store.add("src", f"p/{name}", os.urandom(size))

    result = call("cp", *OLD, "-r", "s3/src/p/", "s3/b/p/")

    assert 0 == result.code, result.err
    assert there.store.bodies("src") == fake.store.bodies("b")
    assert "s3/src/p/d/b -> s3/b/p/d/b" in result.out


def test_cp_takes_the_default_bucket_of_the_profile(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """A bucket of the first pool's is not meant."""
    there.store.add("src", "k", b"content")

    result = call("cp", *OLD, "s3:///k", "s3/b/", env={"S3_BUCKET": "b"})

    assert (0, {"k": b"content"}) == (result.code, fake.store.bodies("b"))


def test_mv_empties_the_old_pool(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """What failed stays where it was."""
    for key in ("p/a", "p/b"):
        there.store.add("src", key, key.encode())
    there.fault(FlipByte(at=1), op="GetObject", key="p/b")

    result = call("mv", *OLD, "-r", "s3/src/p/", "s3/b/p/")

    assert 1 == result.code
    assert "the bytes that arrived" in result.err
    assert ({"p/b": b"p/b"}, {"p/a": b"p/a"}) == (there.store.bodies("src"), fake.store.bodies("b"))


def test_cp_with_glob_and_list_of_names_reads_the_other_pool(
    call: Run, fake: FakeS3, there: FakeS3, tmp_path: Path
) -> None:
    """Every way to name sources looks there."""
    for key in ("a.txt", "b.txt", "c.bin"):
        there.store.add("src", key, key.encode())
    (tmp_path / "list").write_text("c.bin\n")

    by_glob = call("cp", *OLD, "s3/src/*.txt", "s3/b/")
    by_list = call("cp", *OLD, "--files-from", "list", "s3/src/", "s3/b/")

    assert (0, 0) == (by_glob.code, by_list.code)
    assert there.store.bodies("src") == fake.store.bodies("b")


def test_sync_compares_with_the_listing_of_the_other_pool(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """A second run copies nothing; what the source lost goes at the target alone."""
    for number in range(5):
        there.store.add("src", f"p/{number}", os.urandom(number))
    fake.store.add("src", "p/others", b"of this pool")
    args = ("sync", *OLD, "--delete", "--max-delete", "none", "s3/src/p/", "s3/b/p/")

    first = call(*args)
    copied = fake.store.bodies("b")
    fake.forget()
    second = call(*args)
    there.store.bucket("src").remove("p/3", "null")
    third = call(*args)

    assert (0, 0, 0) == (first.code, second.code, third.code), first.err
    assert copied == {**there.store.bodies("src"), "p/3": copied["p/3"]}
    assert "5 checked, 0 copied" in second.err
    assert "HeadObject" not in fake.ops() + there.ops()
    assert there.store.bodies("src") == fake.store.bodies("b")
    assert {"p/others": b"of this pool"} == fake.store.bodies("src")


def test_sync_of_the_same_tree_in_two_pools_is_no_mistake(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """It is what a mirror is."""
    there.store.add("b", "k", b"content")

    result = call("sync", *OLD, "s3/b/", "s3/b/")

    assert (0, {"k": b"content"}) == (result.code, fake.store.bodies("b"))


def test_exact_timestamps_asks_both_pools(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """The stored time of the source is at the source."""
    there.store.add("src", "k", b"content", mtime=1_000, **{"x-amz-meta-mtime": "5"})
    fake.store.add("b", "k", b"CONTENT", mtime=2_000, **{"x-amz-meta-mtime": "5"})
    there.store.add("src", "l", b"content", mtime=1_000, **{"x-amz-meta-mtime": "6"})
    fake.store.add("b", "l", b"CONTENT", mtime=2_000, **{"x-amz-meta-mtime": "5"})

    result = call("sync", *OLD, "--exact-timestamps", "s3/src/", "s3/b/")

    assert (0, {"k": b"CONTENT", "l": b"content"}) == (result.code, fake.store.bodies("b"))


@pytest.mark.parametrize("command", ["cp", "mv", "sync"])
def test_both_sides_must_be_in_s3(call: Run, there: FakeS3, tmp_path: Path, command: str) -> None:
    """A profile that has no part in the work is a mistake in the words."""
    (tmp_path / "f").mkdir()

    up = call(command, *OLD, "f", "s3/b/")
    down = call(command, *OLD, "s3/src/k", "f")

    assert (2, 2) == (up.code, down.code)
    assert "--source-profile old copies from one pool to another, and f is not in S3" in up.err
    assert "with one pool use --profile" in down.err


def test_stream_with_a_source_profile_is_refused(call: Run, there: FakeS3) -> None:
    """Standard output has no pool."""
    result = call("cp", *OLD, "s3/src/k", "-")

    assert (2, True) == (result.code, "- is not in S3" in result.err)


def test_unknown_profile_is_one_clear_line(call: Run, there: FakeS3) -> None:
    """It names those that there are."""
    result = call("cp", "--source-profile", "odl", "s3/src/k", "s3/b/")

    assert (2, "") == (result.code, result.out)
    assert "no profile 'odl'; there are: alias, old" in result.err


def test_wrong_key_of_the_source_is_told_as_such(call: Run, there: FakeS3) -> None:
    """The exit code is the one of bad credentials, and the line names the source's node."""
    there.secrets.clear()
    there.secrets["ANOTHER"] = "secret"
    there.store.add("src", "k", b"content")

    result = call("cp", *OLD, "s3/src/k", "s3/b/")

    assert 4 == result.code
    assert any(url in result.err for url in there.endpoints)


def test_tree_into_itself_is_refused_where_two_profiles_mean_one_pool(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """The endpoints tell, not the names of the profiles."""
    fake.store.add("b", "p/k", b"content")

    copied = call("cp", "--source-profile", "alias", "-r", "s3/b/p/", "s3/b/p/q/")
    synced = call("sync", "--source-profile", "alias", "s3/b/p/", "s3/b/p/q/")

    assert (2, 2) == (copied.code, synced.code)
    assert {"p/k": b"content"} == fake.store.bodies("b")


def test_stats_tell_of_both_pools(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """Which pool was slow is what one wants to know."""
    there.store.add("src", "k", b"content")

    result = call("cp", "--stats", "--json", *OLD, "s3/src/k", "s3/b/")

    rows = [json.loads(line) for line in result.err.splitlines() if '"stats"' in line]
    assert {*fake.endpoints, *there.endpoints} == {row["endpoint"] for row in rows}


def test_dry_run_reads_and_changes_nothing(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """It tells what would be copied, from the other pool's listing."""
    there.store.add("src", "p/k", b"content")

    result = call("cp", "--dry-run", *OLD, "-r", "s3/src/p/", "s3/b/")

    assert (0, {}) == (result.code, fake.store.bodies("b"))
    assert "s3/src/p/k -> s3/b/k" in result.out


def test_upload_that_was_cut_short_goes_on(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """The parts that are there are not sent again, and the ETag of the whole tells that they were right."""
    content = os.urandom(20 * MIB)
    version = there.store.add("src", "k", content, **{"x-amz-meta-s3pool-part-size": str(5 * MIB)})
    version.etag = parts_etag(content, 5 * MIB)
    fake.fault(Call(lambda _: [node.kill() for node in fake.nodes]), op="UploadPart", nth=3)
    args = ("cp", *OLD, "--workers", "1", "--retries", "0", "s3/src/k", "s3/b/")

    cut = call(*args)
    stored = sum(len(upload.parts) for upload in fake.store.bucket("b").uploads.values())
    for node in fake.nodes:
        node.start()
    fake.script.clear()
    fake.forget()
    whole = call(*args)

    assert (5, 0) == (cut.code, whole.code), whole.err
    assert 1 <= stored <= 2
    assert 4 - stored == len(fake.ops(op="UploadPart"))
    assert {"k": content} == fake.store.bodies("b")
    assert {} == fake.store.bucket("b").uploads


@pytest.mark.parametrize("command", [("cp", "-r"), ("mv", "-r"), ("sync",)])
@pytest.mark.parametrize(
    "keys", [("p/a//k", "p/a/k"), ("p/a/./k", "p/a/k"), ("p/a///k", "p/a//k"), ("p/x/../k", "p/k")]
)
@pytest.mark.parametrize("merges", [True, False])
def test_keys_that_the_other_store_takes_for_one_do_not_share_a_target(
    call: Run, fake: FakeS3, there: FakeS3, command: tuple[str, ...], keys: tuple[str, ...], merges: bool
) -> None:
    """Where keys are names of files a//k is a/k: one content would be nowhere."""
    fake.quirks.folds_keys = merges
    for key in keys:
        there.store.add("src", key, key.encode(), mtime=1000)
    if merges and ".." in keys[0]:
        pytest.skip("the fake folds no '..'")

    result = call(*command, *OLD, "s3/src/p/", "s3/b/p/")

    everything = {*fake.store.bodies("b").values(), *there.store.bodies("src").values()}
    assert {key.encode() for key in keys} <= everything
    if merges:
        assert 1 == result.code, result.err
        assert "would both be" in result.err
        assert 1 == len(fake.store.bodies("b"))
    else:
        assert (0, {key: key.encode() for key in keys}) == (result.code, fake.store.bodies("b"))


def test_key_of_unusual_spelling_goes_where_it_has_no_twin(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """It is found there by its own name, too."""
    fake.quirks.folds_keys = True
    there.store.add("src", "p/a//k", b"content", mtime=1000)

    result = call("mv", *OLD, "-r", "s3/src/p/", "s3/b/p/")

    assert (0, {"p/a/k": b"content"}, {}) == (result.code, fake.store.bodies("b"), there.store.bodies("src"))


def test_probe_of_a_killed_run_goes_with_the_next_one(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """Whether a//k is a/k is asked by an empty object, which a kill -9 leaves behind."""
    there.store.add("src", "p/a//k", b"content", mtime=1000)
    call("cp", *OLD, "-r", "s3/src/p/", "s3/b/p/")
    probe = next(request.key for request in fake.requests if request.key.endswith(".probe"))
    fake.store.add("b", probe, b"")

    result = call("cp", *OLD, "-r", "s3/src/p/", "s3/b/p/")

    assert (0, {"p/a//k": b"content"}) == (result.code, fake.store.bodies("b"))


def test_key_of_unusual_spelling_overwrites_no_twin_that_has_moved(call: Run, fake: FakeS3, there: FakeS3) -> None:
    """The twin's source is gone, and its only copy is the target."""
    fake.quirks.folds_keys = True
    there.store.add("src", "p/a/k", b"plain", mtime=1000)

    first = call("mv", *OLD, "-r", "s3/src/p/", "s3/b/p/")
    there.store.add("src", "p/a//k", b"unusual", mtime=1000)
    second = call("mv", *OLD, "-r", "s3/src/p/", "s3/b/p/")

    assert (0, 1) == (first.code, second.code)
    assert ({"p/a/k": b"plain"}, {"p/a//k": b"unusual"}) == (fake.store.bodies("b"), there.store.bodies("src"))


# -- paths that name a profile ----------------------------------------------------------------


def test_a_profile_stands_before_its_buckets(call: Run, fake: FakeS3, there: FakeS3, tmp_path: Path) -> None:
    """As other tools' aliases do: whatever the environment says, it is the profile's pool."""
    there.store.add("src", "p/a", b"content")

    listed = call("ls", "old/src/p/")
    buckets = call("ls", "old")
    shown = call("cat", "old/src/p/a")
    down = call("cp", "-r", "old/src/p/", "local")
    up = call("cp", "local/a", "old/src/up")
    inside = call("cp", "old/src/up", "old/src/again")
    gone = call("rm", "old/src/up")
    piped = call("pipe", "old/src/piped", stdin=b"piped")
    made = call("mb", "old/made", "old/more")
    usual = call("stat", "s3/b")

    codes = [each.code for each in (listed, buckets, shown, down, up, inside, gone, piped, made, usual)]
    assert [0] * 10 == codes, (listed.err, up.err, inside.err, piped.err, made.err)
    assert (["a"], ["src/"]) == (
        [line.split()[-1] for line in listed.lines],
        [each.split()[-1] for each in buckets.lines],
    )
    assert (b"content", b"content") == (shown.stdout, (tmp_path / "local" / "a").read_bytes())
    assert {"p/a": b"content", "again": b"content", "piped": b"piped"} == there.store.bodies("src")
    assert {} == fake.store.bodies("b")


@pytest.mark.parametrize("command", ["cp", "mv", "sync"])
@pytest.mark.parametrize(("source", "target"), [("old", "s3"), ("s3", "old"), ("old", "alias"), ("alias", "old")])
def test_two_profiles_are_two_pools(
    call: Run, fake: FakeS3, there: FakeS3, command: str, source: str, target: str
) -> None:
    """Each path has its pool; no flag is needed."""
    one, other = (there, fake) if source == "old" else (fake, there)
    for store in (one, other):
        store.store.bucket("b") if store is fake else store.store.add("b", "x")
    there.store.bucket("b").remove("x", "null")
    one.store.add("b", "p/k", b"content")

    result = call(command, *(() if command == "sync" else ("-r",)), f"{source}/b/p/", f"{target}/b/q/")

    assert 0 == result.code, result.err
    assert {"q/k": b"content"} == other.store.bodies("b")
    assert ({} if command == "mv" else {"p/k": b"content"}) == one.store.bodies("b")


def test_two_named_profiles_need_no_usual_one(run_cli: CliRunner, fake: FakeS3, there: FakeS3, tmp_path: Path) -> None:
    """Where each path says its pool, nothing asks which one s3/... would be."""
    there.store.add("b", "k", b"content")
    fake.store.bucket("b")
    lines = [
        f"  {name}: {{endpoints: {json.dumps(','.join(pool.endpoints))}, access_key: {json.dumps(access)}, "
        f"secret_key: {json.dumps(secret)}}}\n"
        for name, pool in (("one", there), ("two", fake))
        for access, secret in pool.secrets.items()
    ]
    (tmp_path / "two.yaml").write_text("profiles:\n" + "".join(lines))
    (tmp_path / "two.yaml").chmod(0o600)
    run_cli.environ.clear()

    copied = run_cli("--config", str(tmp_path / "two.yaml"), "cp", "one/b/k", "two/b/k", cwd=tmp_path)

    assert 0 == copied.code, copied.err
    assert {"k": b"content"} == fake.store.bodies("b")


def test_a_path_that_may_be_two_things_is_not_guessed(call: Run, fake: FakeS3, there: FakeS3, tmp_path: Path) -> None:
    """One clear line; both meanings have a spelling of their own."""
    (tmp_path / "old" / "src").mkdir(parents=True)
    (tmp_path / "old" / "src" / "f").write_bytes(b"local")
    there.store.add("src", "f", b"remote")

    either = call("cp", "old/src/f", "s3/b/1")
    local = call("cp", "./old/src/f", "s3/b/2")
    only_s3 = call("cat", "old/src/f")

    assert (2, 1, "") == (either.code, len(either.err.splitlines()), either.out)
    assert (
        "old/src/f may be the profile old or what is called old here: write ./old/src/f for the latter, "
        "else s3/src/f with --profile old" in either.err
    )
    assert (0, 0, b"remote") == (local.code, only_s3.code, only_s3.stdout)
    assert {"2": b"local"} == fake.store.bodies("b")


def test_a_bare_name_is_local_where_it_may_be(call: Run, fake: FakeS3, there: FakeS3, tmp_path: Path) -> None:
    """A download to a new file is one, whatever the file is called."""
    fake.store.add("b", "k", b"content")

    result = call("cp", "s3/b/k", "old")

    assert (0, b"content") == (result.code, (tmp_path / "old").read_bytes())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ls", "old/src", "s3/b"), "the paths are of several pools (s3, old): one command copies or compares"),
        (("cp", "old/src/k", "s3/b/k", "alias/b/"), "the paths are of several pools (s3, alias, old)"),
        (("cp", *OLD, "alias/b/k", "s3/b/k"), "--source-profile and paths of several pools (s3, alias) exclude"),
        (("ls", "nobody/src"), "is not in S3: write s3/BUCKET/KEY"),
    ],
)
def test_paths_of_more_pools_than_a_command_has_are_refused(
    call: Run, fake: FakeS3, there: FakeS3, words: tuple[str, ...], message: str
) -> None:
    """Half of them would be looked for in the wrong pool."""
    result = call(*words)

    assert (2, 1, []) == (result.code, len(result.err.splitlines()), fake.ops() + there.ops())
    assert message in result.err

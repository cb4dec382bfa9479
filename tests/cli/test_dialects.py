"""Every quirk of dialect on a fake that has it, and on the real server in the suites of that server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.conftest import Call
from tests.cli.test_deletion_errors import Refuse
from tests.support.fake_s3 import MIB, Answer, Delay, FakeS3, FlipByte, Quirks, Reply, Reset, Rewrite
from tests.support.fake_s3.store import Upload
from tests.support.proxying import RunningProxy, parse_answer
from tests.support.quirks import QUIRKS
from tests.support.run_cli import CliRunner

ROOT = Path(__file__).resolve().parents[2]
PART = 5 * MIB
MINIO = {"server": "MinIO"}
SEAWEED = {"server": "SeaweedFS 30GB 4.44", "own_multipart_etags": True}
REFUSALS = [(501, "NotImplemented"), (405, "MethodNotAllowed"), (400, "InvalidArgument")]


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3]) -> FakeS3:
    """Return three nodes of one store with the bucket ``b``; each test gives them their quirks."""
    made = fake_s3(3, quirks=Quirks())
    made.store.add("b", "there", b"12345")
    return made


def speak(fake: FakeS3, **quirks: object) -> None:
    """Make the fake do as a server does."""
    for name, value in quirks.items():
        assert hasattr(fake.quirks, name)
        setattr(fake.quirks, name, value)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """Return a file of three parts."""
    path = tmp_path / "big"
    path.write_bytes(hashlib.sha256(b"seed").digest() * (2 * PART // 32) + b"end")
    return path


def test_the_table_names_a_test_of_every_quirk() -> None:
    """A quirk that nobody provokes is a rumour."""
    for quirk in QUIRKS:
        path, _, name = quirk.test.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / "cli" / path).read_text(), quirk.test


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_header_is_not_sent_again(fake: FakeS3, call: Call, tmp_path: Path, refusal: tuple[int, str]) -> None:
    """Once per run and header, whatever word a gateway has for what it does not know."""
    names = frozenset(("x-amz-checksum-mode", "x-amz-copy-if-match"))
    speak(fake, refused=names, refusal=refusal)
    for number in range(5):
        fake.store.add("b", f"d/{number}", bytes([number]) * 9)

    results = [
        call("cp", "-r", "s3/b/d", "down", "--workers", "1"),
        call("cp", "-r", "s3/b/d", "s3/b/e", "--workers", "1"),
    ]

    assert [0, 0] == [result.code for result in results], results[0].err + results[1].err
    assert 5 == len(list((tmp_path / "down").iterdir()))
    assert {"b/there"} | {f"b/{place}/{number}" for place in "de" for number in range(5)} == {
        f"b/{key}" for key in fake.store.bodies("b")
    }
    for name in names:
        assert len([one for one in fake.requests if name in one.headers]) <= 2, name  # two were under way at once


def test_a_delete_goes_on_without_a_refused_condition(fake: FakeS3, call: Call, tmp_path: Path) -> None:
    """Mv binds each deletion to what it copied, where that is understood."""
    speak(fake, delete_if_match="refused")
    for number in range(3):
        fake.store.add("b", f"d/{number}", b"x")

    moved = call("mv", "-r", "s3/b/d", "down", "--workers", "1")

    assert (0, ["there"]) == (moved.code, list(fake.store.bodies("b"))), moved.err
    assert len([one for one in fake.requests if one.op == "DeleteObject" and "if-match" in one.headers]) <= 2


def test_a_refusal_of_something_else_stays_an_error(fake: FakeS3, call: Call) -> None:
    """The header was not the reason, so nothing is learned of it."""
    speak(fake, refused=frozenset(("x-amz-date",)), refusal=(400, "InvalidArgument"))

    result = call("cat", "s3/b/there")

    assert (1, b"") == (result.code, result.stdout)
    assert "400 InvalidArgument: A header you provided implies functionality that is missing" in result.err


def test_no_clobber_fails_honestly_where_it_cannot_be_kept(fake: FakeS3, call: Call, tmp_path: Path) -> None:
    """To send the object without the condition could replace one that came meanwhile."""
    speak(fake, refused=frozenset(("if-none-match",)))
    (tmp_path / "f").write_bytes(b"new")

    result = call("cp", "-n", "f", "s3/b/k")

    assert (1, None) == (result.code, fake.store.bodies("b").get("k"))
    assert "this server cannot keep an object that comes meanwhile: leave -n out where it may be replaced" in result.err


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_server_without_batch_delete_is_served_one_by_one(fake: FakeS3, call: Call, refusal: tuple[int, str]) -> None:
    """One batch is refused, and no second one is sent."""
    speak(fake, batch_delete=False, refusal=refusal)
    for number in range(2500):
        fake.store.add("b", f"d/{number:04}")

    result = call("rm", "-r", "--force", "s3/b/d", "--workers", "1")

    assert (0, 2500, ["there"]) == (result.code, len(result.lines), list(fake.store.bodies("b"))), result.err
    assert len(fake.ops(op="DeleteObjects")) <= 2


@pytest.mark.parametrize("size", [9, 2 * PART])
def test_a_locked_bucket_gets_its_digests(fake: FakeS3, call: Call, tmp_path: Path, size: int) -> None:
    """The first refusal tells, and from then on each body goes with its MD5."""
    assert 0 == call("mb", "--lock", "s3/locked").code
    speak(fake, lock_wants_md5=True, keeps_checksums=False)
    (tmp_path / "tree").mkdir()
    for number in range(4):
        (tmp_path / "tree" / str(number)).write_bytes(bytes([number]) * size)

    result = call("cp", "-r", "tree", "s3/locked", "--part-size", "5M", "--workers", "1", "--part-workers", "1")

    assert (0, 4) == (result.code, len(fake.store.bodies("locked"))), result.err
    refused = [one for one in fake.requests if one.status == 400]
    assert 1 <= len(refused) <= 4
    assert all("content-md5" not in one.headers for one in refused)


@pytest.mark.parametrize(("quirks", "reads_back"), [(SEAWEED, False), ({"own_multipart_etags": True}, True)])
def test_an_upload_with_an_etag_of_its_own_is_proved(
    fake: FakeS3, call: Call, big: Path, quirks: dict[str, object], reads_back: bool
) -> None:
    """The object is right, and says so itself: its size, or all of it where the server's ways are unknown."""
    speak(fake, **quirks)

    result = call("cp", "big", "s3/b/big", "--part-size", "5M")

    assert (0, big.read_bytes()) == (result.code, fake.store.bodies("b")["big"]), result.err
    assert (3 if reads_back else 0) == len(fake.ops(op="GetObject"))
    assert 0 == call("cp", "s3/b/big", "back", "--no-verify").code


def test_an_object_of_other_parts_is_found_by_its_bytes(fake: FakeS3, call: Call, big: Path) -> None:
    """An ETag that differs may be the server's way, or the truth."""
    speak(fake, own_multipart_etags=True)
    fake.fault(FlipByte(7), op="GetObject", nth=2)

    result = call("cp", "big", "s3/b/big", "--part-size", "5M")

    assert 1 == result.code
    assert "its parts make" in result.err


def test_a_random_etag_is_no_failure_of_an_upload(fake: FakeS3, call: Call, tmp_path: Path) -> None:
    """What was stored is read back, until it is certain that the ETags are none."""
    speak(fake, random_etags=True, **MINIO)
    (tmp_path / "tree").mkdir()
    for number in range(9):
        (tmp_path / "tree" / str(number)).write_bytes(bytes([number]) * 100)

    result = call("cp", "-r", "tree", "s3/b/d", "--workers", "1")

    assert (0, 10) == (result.code, len(fake.store.bodies("b"))), result.err
    assert 3 <= len(fake.ops(op="GetObject")) <= 9
    plain = call("cp", "s3/b/d/1", "back")
    assert 1 == plain.code
    assert "where ETags are no MD5s, --no-verify checks the length alone" in plain.err
    assert 0 == call("cp", "--no-verify", "s3/b/d/1", "back").code


def test_a_told_checksum_decides_and_not_the_etag(fake: FakeS3, call: Call, tmp_path: Path) -> None:
    """A CRC is what it says; an ETag may only look like an MD5."""
    speak(fake, random_etags=True)
    (tmp_path / "f").write_bytes(b"content")
    assert 0 == call("cp", "--checksum", "crc32c", "f", "s3/b/k").code

    assert [0, b"content"] == [call("cp", "s3/b/k", "back").code, (tmp_path / "back").read_bytes()]
    assert b"content" == call("cat", "s3/b/k").stdout


def test_unfinished_uploads_of_all_nodes_are_found(fake: FakeS3, call: Call) -> None:
    """A node that knows its own alone would leave the others' parts, which are paid for."""
    speak(fake, uploads_by_node=True, **MINIO)
    keys = [f"{place}{number}" for number in range(3) for place in ("a/", "a/b/", "z")]
    for key in keys:
        begin_upload(fake, key)

    listed = call("ls", "-r", "--incomplete", "s3/b")
    below = call("ls", "-r", "--incomplete", "s3/b/a/b/")
    removed = call("rm", "-r", "--incomplete", "--force", "s3/b")

    assert (9, 3) == (len(listed.lines), len(below.lines))
    assert sorted(keys) == [line.split()[-1] for line in listed.lines]
    assert (0, 9, {}) == (removed.code, len(removed.lines), fake.store.bucket("b").uploads)


def test_a_dead_node_is_named_whose_uploads_are_not_listed(fake: FakeS3, call: Call) -> None:
    """What cannot be looked for is not silently left out."""
    speak(fake, uploads_by_node=True, **MINIO)
    for key in ("a", "b", "c"):
        begin_upload(fake, key)
    fake.nodes[1].kill()

    result = call("ls", "-r", "--incomplete", "s3/b", "--retries", "1")

    assert 2 == len(result.lines)
    assert f"the unfinished uploads that {fake.endpoints[1]} began are not listed" in result.err


def begin_upload(fake: FakeS3, key: str) -> None:
    """Begin an upload at each node in turn."""
    uploads = fake.store.bucket("b").uploads
    upload_id = fake.store.new_id("upload")
    uploads[upload_id] = Upload(upload_id, key, 0.0, {}, {}, "STANDARD", node=len(uploads) % 3)


def test_a_list_of_uploads_without_istruncated_is_whole(fake: FakeS3, call: Call) -> None:
    """It came whole, and names no key to go on from."""
    speak(fake, bare_uploads=True)
    begin_upload(fake, "k")

    result = call("ls", "--incomplete", "s3/b")

    assert (0, 1, ["ListMultipartUploads"]) == (result.code, len(result.lines), fake.ops()), result.err


HIDDEN = ("x", "x/y", "x/y/z", "x/y/z/deep")


class Bared(NamedTuple):
    """A command that lists again, what it leaves in the bucket and in another one, and what it says."""

    words: tuple[str, ...]
    left: tuple[str, ...] = ("there",)
    made: tuple[str, ...] = ()
    told: str = ""


BARED = {
    "rb": Bared(("rb", "--force", "--yes", "s3/b"), left=()),
    "rm": Bared(("rm", "-r", "--force", "s3/b"), left=(), told="5 deleted"),
    "rm of a tree": Bared(("rm", "-r", "--force", "s3/b/x"), told="4 deleted"),
    "rm of a key": Bared(("rm", "s3/b/x"), left=("there", *HIDDEN[1:])),
    "mv": Bared(("mv", "-r", "s3/b/x", "s3/c"), made=("x", "y", "y/z", "y/z/deep"), told="4 moved"),
    "mv of nothing more": Bared(("mv", "-r", "s3/b/there", "s3/c"), left=HIDDEN, made=("there",), told="1 moved"),
    "sync": Bared(("sync", "--delete", "--max-delete", "none", "d", "s3/b"), told="1 copied, 5 deleted", left=("new",)),
    "rm by processes": Bared(("rm", "-r", "--force", "--processes", "2", "s3/b"), left=(), told="5 deleted"),
    "mv by processes": Bared(
        ("mv", "-r", "--processes", "2", "s3/b/x", "s3/c"), made=("x", "y", "y/z", "y/z/deep"), told="4 moved"
    ),
    "sync by processes": Bared(
        ("sync", "--delete", "--processes", "2", "--max-delete", "none", "d", "s3/b"),
        left=("new", *HIDDEN[1:]),
        told="what was hidden in s3/b takes another run",
    ),
}


@pytest.mark.parametrize("bared", BARED.values(), ids=list(BARED))
def test_what_a_deletion_bares_goes_too(fake: FakeS3, call: Call, tmp_path: Path, bared: Bared) -> None:
    """An object hides what lies below its name until it is gone: nothing is done before that is gone as well."""
    speak(fake, hides_below=True, **MINIO)
    for key in HIDDEN:
        fake.store.add("b", key)
    fake.store.add("c", "kept")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "new").write_bytes(b"1")

    result = call(*bared.words)

    left = fake.store.bodies("b") if "b" in fake.store.buckets else {}
    assert (0, set(bared.left)) == (result.code, set(left)), result.err
    assert {"kept", *bared.made} == set(fake.store.bodies("c"))
    assert bared.told in result.err


@pytest.mark.parametrize("way", ["down", "across"])
def test_sync_keeps_what_the_source_hides(
    fake: FakeS3, fake_s3: Callable[..., FakeS3], call: Call, tmp_path: Path, way: str
) -> None:
    """The listing of the source lacks x/y, and x/y is there: --delete deletes what is not."""
    speak(fake, hides_below=True, **MINIO)
    other = fake_s3(1, quirks=Quirks())
    for key in ("x", "x/y", "z"):
        fake.store.add("b", key, b"1")
    for key in ("x/y", "x/gone", "z", "w"):
        other.store.add("b", key, b"1")
    assert 0 == call("cp", "-r", "s3/b", "local", env=other.environment).code
    source = tmp_path / "source.yaml"
    source.write_text(
        "profiles:\n  minio: {endpoints: ["
        + ", ".join(fake.endpoints)
        + f"], access_key: {fake.environment['AWS_ACCESS_KEY_ID']}, "
        + f"secret_key: {fake.environment['AWS_SECRET_ACCESS_KEY']}}}\n"
    )
    source.chmod(0o600)

    if way == "down":
        call("sync", "--delete", "s3/b", "local", "--max-delete", "none")
        left = {path.relative_to(tmp_path / "local").as_posix() for path in (tmp_path / "local").rglob("*")}
    else:
        words = ("sync", "--delete", "--config", str(source), "--source-profile", "minio", "s3/b", "s3/b")
        result = call(*words, "--max-delete", "none", env=other.environment)
        assert 0 == result.code, result.err
        left = set(other.store.bodies("b"))

    assert "x/y" in left
    assert not {"x/gone", "w"} & left


@pytest.mark.parametrize(("server", "attempts"), [("MinIO", 1), ("", 3)])
def test_a_name_that_no_disk_holds_ends_at_once(
    fake: FakeS3, call: Call, tmp_path: Path, server: str, attempts: int
) -> None:
    """MinIO counts letters, and its disks count bytes: then it is "busy" for ever."""
    speak(fake, server=server)
    fake.fault(Answer(503, "SlowDownWrite", "Resource requested is unwritable"), op="PutObject", times=0)
    (tmp_path / "f").write_bytes(b"1")

    result = call("cp", "f", f"s3/b/{'é' * 150}/k", "--retries", "2")

    assert (1, attempts) == (result.code, len(fake.ops(op="PutObject")))
    told = "a name between slashes has 300 bytes, and MinIO stores at most 255" in result.err
    assert (attempts == 1) == told


def test_ping_tells_of_a_lost_quorum(fake: FakeS3, call: Call) -> None:
    """Each node is alive, and none can work."""
    speak(fake, has_quorum=False, **MINIO)

    result = call("ping")
    records = call("ping", "--json").records

    assert 5 == result.code
    assert ["no quorum"] * 3 == [line[line.index("no quorum") :][:9] for line in result.lines[1:]]
    assert [(False, "no quorum")] * 3 == [(record["healthy"], record["error"]) for record in records]


def test_stat_shows_nothing_of_the_way(fake: FakeS3, call: Call) -> None:
    """Rate limits and the like are of the answer."""
    way = {
        "X-Ratelimit-Limit": "9",
        "Strict-Transport-Security": "max-age=1",
        "Seaweed-Tag": "1",
        "X-Amzn-RequestId": "1",
        "X-Amz-Cf-Pop": "1",
        "X-Trans-Id": "1",
        "X-Served-By": "1",
        "X-Amz-Expiration": "x",
    }

    def with_more(reply: Reply) -> Reply:
        reply.headers.update(way)
        return reply

    fake.fault(Rewrite(with_more), op="HeadObject", times=0)

    shown = call("stat", "s3/b/there")
    told = call("stat", "--json", "s3/b/there").records[0]["headers"]

    assert ["X-Amz-Expiration: x"] == [line for line in shown.lines if line.startswith(("X-", "S3", "Str", "Sea"))]
    assert {"etag", "last-modified", "x-amz-expiration"} == set(told)


def test_tree_order_loses_nothing(fake: FakeS3, call: Call) -> None:
    """Servers on directories list as a walk goes."""
    speak(fake, tree_order=True, short_pages=3, **{**SEAWEED, "own_multipart_etags": False})
    keys = {f"{place}{number}" for place in ("a", "a/", "a-", "a/b/", "a0") for number in range(9)}
    for key in keys:
        fake.store.add("b", key)

    for jobs in ("1", "8"):
        listed = call("ls", "-r", "--jobs", jobs, "--json", "s3/b")
        assert keys | {"there"} == {record["key"] for record in listed.records}, jobs


def test_a_worm_is_no_matter_of_keys(fake: FakeS3, call: Call) -> None:
    """Other keys would not help, and the message names version, node and request."""
    for key in ("d/a", "d/b"):
        fake.store.add("b", key)
    said = "Object is WORM protected and cannot be overwritten"
    rows = [
        f"<Error><Key>{key}</Key><VersionId>v1</VersionId><Code>AccessDenied</Code><Message>{said}</Message></Error>"
        for key in ("d/a", "d/b")
    ]
    fake.fault(Refuse("".join(rows)), op="DeleteObjects", times=0)

    result = call("rm", "-r", "--versions", "--force", "s3/b/d")

    assert 1 == result.code
    lines = [line for line in result.err.splitlines() if "error" in line]
    assert 2 == len(lines)
    for key, line in zip(("d/a", "d/b"), sorted(lines), strict=True):
        assert f"DeleteObjects s3/b/{key} (version null) at http://127.0.0.1:" in line
        assert f"403 AccessDenied: {said} (request fake-" in line
        assert line.endswith("; a retention or a legal hold keeps this version; it goes when that has ended")


def test_the_proxy_answers_what_mc_ready_asks(fake: FakeS3) -> None:
    """It waits for ever for a server that does not know the question."""
    with RunningProxy(fake.endpoints) as proxy:
        for word in ("live", "ready", "cluster", "cluster/read"):
            raw = proxy.talk(f"GET /minio/health/{word} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert 200 == parse_answer(raw).status, word
        assert [] == fake.ops(op="GetObject")
        for node in proxy.proxy.opened.nodes:
            node.breaker.trip()
        statuses = []
        for word in ("live", "cluster"):
            raw = proxy.talk(f"GET /minio/health/{word} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            statuses.append(parse_answer(raw).status)
        assert [200, 503] == statuses


def test_a_write_waits_for_the_locks_of_a_node_that_died(fake: FakeS3, run_cli: CliRunner, tmp_path: Path) -> None:
    """A third node would store it once more, and have it wait as long."""
    speak(fake, **MINIO)
    (tmp_path / "file").write_bytes(b"content")
    fake.fault(Reset(after=7), op="PutObject", nth=1)
    fake.fault(Delay(5.0), op="PutObject", nth=2)

    result = run_cli("cp", str(tmp_path / "file"), "s3/b/new", "--read-timeout", "2", env=fake.environment)

    assert 0 == result.code, result.err
    assert 2 == len([request for request in fake.requests if request.op == "PutObject"])

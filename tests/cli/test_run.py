"""run: many commands, one a line."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Call as Calling
from tests.support.fake_s3 import Exchange, FakeS3, internal_error
from tests.support.run_cli import CliRunner


@pytest.fixture
def files(fake: FakeS3, tmp_path: Path) -> Path:
    """Give some files and a bucket."""
    fake.store.add("bkt", "old", b"old")
    for name in ("a", "b", "sp ace", "x#y", "it's"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def script(call: Call, text: str, *flags: str) -> tuple[int, list[str], list[str]]:
    """Run lines from standard input; give the code and the lines of both outputs."""
    result = call(*flags, "run", "-", stdin=text.encode())
    return result.code, result.lines, result.err.splitlines()


def test_lines_run_and_tell_what_they_did(call: Call, files: Path, fake: FakeS3) -> None:
    """Words as a shell reads them, comments, empty lines, and the program's own name."""
    text = (
        "# a comment\n\n"
        "cp a s3/bkt/one\n"
        "  s3pool cp 'sp ace' \"s3/bkt/sp ace\"  # and why\n"
        "cp sp\\ ace s3/bkt/again\r\n"
        "cp x#y s3/bkt/x#y\n"
        'cp "it\'s" s3/bkt/quote\n'
        "cp --storage-class COLD b s3/bkt/\n"
        "ls s3/bkt/one\n"
        "rm s3/bkt/old"
    )

    code, out, err = script(call, text)

    assert 0 == code, err
    assert {
        "one": b"a",
        "sp ace": b"sp ace",
        "again": b"sp ace",
        "x#y": b"x#y",
        "quote": b"it's",
        "b": b"b",
    } == fake.store.bodies("bkt")
    assert "COLD" == fake.store.bucket("bkt").versions["b"][0].storage_class
    assert {"a -> s3/bkt/one", "x#y -> s3/bkt/x#y", "Deleted: s3/bkt/old"} <= set(out)
    assert any(line.endswith(" one") for line in out)
    assert err[-1].startswith("s3pool: 8 lines, 0 failed, 21B in ")


FAILURES: list[tuple[str, int, str]] = [
    ("cp missing s3/bkt/k", 3, "s3pool: error: line 2 (cp missing s3/bkt/k): "),
    ("cp s3/bkt/none here", 3, "s3pool: error: line 2 (cp s3/bkt/none here): "),
    ("cp a s3/none/k", 3, "s3pool: error: line 2 (cp a s3/none/k): "),
    ("rm s3/none/k", 3, "s3pool: error: line 2 (rm s3/none/k): "),
    ("stat s3/bkt/none", 3, "s3pool: error: line 2 (stat s3/bkt/none): "),
    ("frobnicate x", 2, "s3pool: error: line 2 (frobnicate x): unknown command 'frobnicate'"),
    ("'' x", 2, "s3pool: error: line 2 ('' x): unknown command ''"),
    ("cp --frob a s3/bkt/k", 2, "s3pool: error: line 2 (cp --frob a s3/bkt/k): "),
    ("cp 'a s3/bkt/k", 2, "s3pool: error: line 2 (cp 'a s3/bkt/k): a quote is not closed"),
    ("cp a", 2, "s3pool: error: line 2 (cp a): "),
    ("cp a b", 2, "s3pool: error: line 2 (cp a b): a and b are both local"),
    ("rm -r s3/bkt/none", 2, "s3pool: error: line 2 (rm -r s3/bkt/none): "),
    ("rm s3/bkt", 2, "s3pool: error: line 2 (rm s3/bkt): s3/bkt is a bucket"),
    ("run -", 2, "s3pool: error: line 2 (run -): run does not belong into a script"),
    ("proxy", 2, "s3pool: error: line 2 (proxy): proxy does not belong"),
    ("cp --dry-run a s3/bkt/k", 2, "--dry-run counts for all lines: write it before run"),
    ("ls --profile x s3/bkt", 2, "--profile counts for all lines"),
    ("ls --help", 2, "help does not belong"),
    ("pipe s3/bkt/k", 2, "standard input is where the lines come from"),
    ("cp - s3/bkt/k", 2, "standard input is where the lines come from"),
]


@pytest.mark.parametrize(("bad", "code", "message"), FAILURES, ids=[line for line, _, _ in FAILURES])
def test_a_line_that_fails_is_named_and_the_rest_goes_on(
    call: Call, files: Path, fake: FakeS3, bad: str, code: int, message: str
) -> None:
    """Its number, its words, the message, and the exit code it would have had alone."""
    found, _, err = script(call, f"cp a s3/bkt/before\n{bad}\ncp b s3/bkt/after\n")

    assert (code, {"old": b"old", "before": b"a", "after": b"b"}) == (found, fake.store.bodies("bkt"))
    assert any(message in line for line in err), err
    assert any(", 1 failed" in line for line in err)


def test_different_failures_are_1(call: Call, files: Path) -> None:
    """As with the operands of one command."""
    assert 1 == script(call, "cp missing s3/bkt/k\nfrobnicate\n")[0]


def test_errors_as_json_have_the_line(call: Call, files: Path) -> None:
    """For who starts the failed lines again."""
    code, out, err = script(call, "cp a s3/bkt/k\ncp a s3/none/k\nstat s3/none\n", "--json")

    assert 3 == code
    records = [json.loads(line) for line in err]
    assert [(2, "line 2 (cp a s3/none/k)"), (3, "line 3 (stat s3/none)")] == [
        (record["line"], record["command"]) for record in records if record["type"] == "error"
    ]
    assert ["copy", "summary"] == [json.loads(line)["type"] for line in out]


ORDERS = [
    # What happens to one name happens in the order of the lines, whatever runs beside it.
    ("cp a s3/bkt/k\nrm s3/bkt/k\n", {"old": b"old"}),
    ("rm s3/bkt/old\ncp a s3/bkt/old\n", {"old": b"a"}),
    ("cp s3/bkt/old s3/bkt/new\nrm s3/bkt/old\n", {"new": b"old"}),
    ("cp a s3/bkt/k\ncp b s3/bkt/k\n", {"old": b"old", "k": b"b"}),
    ("cp s3/bkt/old down\ncp down s3/bkt/up\n", {"old": b"old", "up": b"old"}),
    ("cp s3/bkt/old ./down\ncp a s3/bkt/old\ncp down s3/bkt/up\n", {"old": b"a", "up": b"old"}),
    ("cp a s3/bkt/p/k\ncp -r s3/bkt/p s3/bkt/q\nrm -r --force s3/bkt/p\n", {"old": b"old", "q/k": b"a"}),
    ("mv s3/bkt/old s3/bkt/new\ncp s3/bkt/new s3/bkt/newer\n", {"new": b"old", "newer": b"old"}),
]


@pytest.mark.parametrize(("text", "expected"), ORDERS)
def test_lines_about_one_name_keep_their_order(
    call: Call, files: Path, fake: FakeS3, text: str, expected: dict[str, bytes]
) -> None:
    """In the end there is what there would be if each line had waited."""
    code, _, err = script(call, text)

    assert (0, expected) == (code, fake.store.bodies("bkt")), err


def test_many_lines_take_the_requests_of_one_command(call: Call, files: Path, fake: FakeS3) -> None:
    """Removals go in batches, uploads as those of cp -r, downloads and copies without a listing."""
    count = 1200
    for number in range(count):
        (files / f"f{number}").write_bytes(b"%d" % number)

    up = script(call, "".join(f"cp f{n} s3/bkt/p/{n}\n" for n in range(count)))
    uploads = len(fake.ops(op="PutObject"))
    fake.forget()
    down = script(call, "".join(f"cp s3/bkt/p/{n} down/{n}\n" for n in range(count)))
    downloads = len(fake.ops(op="HeadObject")) + len(fake.ops(op="GetObject"))
    fake.forget()
    gone = script(call, "".join(f"rm s3/bkt/p/{n}\n" for n in range(count)))

    assert [(0, count)] * 3 == [(code, len(out)) for code, out, _ in (up, down, gone)]
    assert (count, True) == (uploads, downloads <= 2 * count + 5)
    assert ["DeleteObjects"] * 2 == [op for op in fake.ops() if op.startswith(("Delete", "Head"))]
    assert {f"{n}": b"%d" % n for n in range(count)} == {
        path.name: path.read_bytes() for path in (files / "down").iterdir()
    }


def test_a_file_of_lines_and_a_rehearsal(call: Call, files: Path, fake: FakeS3) -> None:
    """Global flags before or after run count for all lines; a byte order mark is what editors write."""
    (files / "lines").write_text("\ufeffcp a s3/bkt/k\nrm s3/bkt/old\nrm -r --force s3/bkt\n")

    result = call("run", "lines", "--dry-run")

    assert (0, {"old": b"old"}) == (result.code, fake.store.bodies("bkt"))
    assert ["(dry run) a -> s3/bkt/k", "(dry run) Deleted: s3/bkt/old"] == result.lines[:2]
    assert 3 == call("run", "missing").code
    assert (0, "s3pool: 0 lines, 0 failed in ") == (call("run", "-").code, call("run", "-").err[:29])


def test_a_server_error_fails_its_line_alone(call: Call, files: Path, fake: FakeS3) -> None:
    """Of a batch, each key has its own line."""
    fake.fault(internal_error(), op="PutObject", key="k7", times=0)

    code, out, err = script(call, "".join(f"cp a s3/bkt/k{n}\n" for n in range(20)), "--retries", "0")

    assert (1, 19) == (code, len(out))
    assert [True] == ["line 8 (cp a s3/bkt/k7)" in line for line in err if "error:" in line]


def test_lines_run_as_they_come(run_cli: CliRunner, fake: FakeS3) -> None:
    """A slow producer is not waited for to its end; an interrupt says how far it came."""
    run_cli.environ.update(fake.environment)
    fake.store.add("bkt", "one")
    fake.store.add("bkt", "two")
    first = threading.Event()

    def seen(_exchange: Exchange) -> None:
        first.set()

    fake.fault(Calling(seen), op="Delete*")
    process = run_cli.start("run", "-", stdin=-1)
    assert process.stdin is not None
    process.stdin.write(b"rm s3/bkt/one\nrm s3/b")
    process.stdin.flush()
    assert first.wait(60)
    assert process.stdout is not None
    assert b"Deleted: s3/bkt/one\n" == process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert (130, {"two": b""}) == (process.returncode, fake.store.bodies("bkt"))


def test_a_line_may_be_of_another_pool(call: Call, files: Path, fake: FakeS3) -> None:
    """By the name of a profile, as anywhere; a directory of that name is not made."""
    with FakeS3(1, secrets={"OTHER": "secret"}) as there:
        there.store.add("far", "k", b"far")
        config = files / ".s3pool" / "config.yaml"
        config.parent.mkdir()
        config.write_text(
            f"profiles:\n  berlin: {{endpoints: {there.endpoints[0]}, access_key: OTHER, secret_key: secret}}\n"
            f"  home: {{endpoints: {fake.endpoints[0]}, access_key: x, secret_key: y}}\ndefault_profile: home\n"
        )
        config.chmod(0o600)

        code, _, err = script(call, "cp berlin/far/k s3/bkt/near\ncp a berlin/far/b\nrm s3/bkt/old\nrm berlin/far/k\n")

        assert (0, {"b": b"a"}) == (code, there.store.bodies("far")), err
    assert {"near": b"far"} == fake.store.bodies("bkt")


def test_without_a_node_it_ends(call: Call, files: Path, fake: FakeS3) -> None:
    """Every further line would fail alike."""
    for node in fake.nodes:
        node.kill()

    code, _, err = script(call, "cp a s3/bkt/k\nls s3/bkt\nls s3/bkt\n", "--retries", "0", "--connect-timeout", "1")

    assert 5 == code
    assert len([line for line in err if "error:" in line]) < 3

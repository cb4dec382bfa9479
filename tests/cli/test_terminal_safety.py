"""Nothing that a server stores or answers may speak to the terminal: every column of every command."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import MIB, FakeS3, Reply, Rewrite
from tests.support.fake_s3.store import Upload, Version
from tests.support.run_cli import CliRunner

# An escape sequence, a line end, a C1 control, a change of direction, a line separator.
EVIL = "e\x1b[31mv\ni\x9bl\u202eX\u2028"
IN_HEADER = "e\x1b[31mvil"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069]")
COMMANDS = {
    "ls": ("ls", "s3/b/t/"),
    "ls -r": ("ls", "-r", "s3/b"),
    "ls -l": ("ls", "-l", "s3/b/t/"),
    "ls --etag": ("ls", "--etag", "-r", "s3/b"),
    "ls --versions": ("ls", "--versions", "-r", "--etag", "s3/b"),
    "ls --incomplete": ("ls", "--incomplete", "-r", "s3/b"),
    "ls --incomplete -l": ("ls", "--incomplete", "-l", "-r", "s3/b"),
    "ls --summarize": ("ls", "-r", "--summarize", "s3/b"),
    "ls of buckets": ("ls",),
    "ls of one": ("ls", f"s3/b/t/{EVIL}"),
    "du": ("du", "-d", "3", "s3/b"),
    "find": ("find", "s3/b"),
    "find -l": ("find", "-l", "s3/b"),
    "find --versions": ("find", "-l", "--versions", "s3/b"),
    "find --type d": ("find", "--type", "d", "s3/b"),
    "find --print": ("find", "--print", "{url} {key} {etag} {class} {version} {name}", "s3/b"),
    "find --delete": ("find", "s3/b", "--delete"),
    "find --versions --delete": ("find", "--versions", "s3/b", "--delete"),
    "stat": ("stat", f"s3/b/t/{EVIL}"),
    "stat --versions": ("stat", "--versions", f"s3/b/t/{EVIL}"),
    "stat of a bucket": ("stat", "s3/b"),
    "rm": ("rm", f"s3/b/t/{EVIL}"),
    "rm -r": ("rm", "-r", "--force", "s3/b"),
    "rm --versions": ("rm", "-r", "--force", "--versions", "s3/b"),
    "rm --incomplete": ("rm", "-r", "--force", "--incomplete", "s3/b"),
    "rm of nothing": ("rm", "s3/b/t"),
    "cp down": ("cp", "-r", "s3/b/t", "down"),
    "cp inside": ("cp", "-r", "s3/b/t", "s3/b/u"),
    "mv": ("mv", "-r", "s3/b/t", "s3/b/u"),
    "sync": ("sync", "s3/b/t", "down"),
    "sync --delete": ("sync", "d", "s3/b/t", "--delete", "--max-delete", "none", "--allow-empty-source"),
    "rb": ("rb", "s3/b"),
    "rb --force": ("rb", "--force", "s3/b"),
    "mb": ("mb", f"s3/{EVIL}"),
    "presign": ("presign", f"s3/b/t/{EVIL}"),
    "ping": ("ping",),
    "verbose": ("-v", "--stats", "ls", "-r", "s3/b"),
}
ANSWERS = ("ListObjectsV2", "ListObjects", "ListObjectVersions", "ListMultipartUploads", "ListBuckets")


def reference(text: str) -> bytes:
    """Return a text as XML has it: control characters as the references that RGW writes."""
    return "".join(char if char.isprintable() else f"&#{ord(char)};" for char in text).encode()


@pytest.fixture
def evil(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Return a store in which every text that a client may see is hostile."""
    (tmp_path / "d").mkdir()
    versions = [fake.store.add("b", key, b"1") for key in (f"t/{EVIL}", f"t/{EVIL}/x", "t/plain", f"{EVIL}/y")]
    for version in versions:
        version.headers |= {"content-type": IN_HEADER, "cache-control": IN_HEADER, "x-amz-meta-a": IN_HEADER}
    room = fake.store.buckets["b"]
    room.versioning = "Enabled"
    room.put(Version(f"t/{EVIL}", "v1", 0.0, b"2", "feed"))
    room.put(Version("t/gone", "v2", 0.0, marker=True))
    room.uploads["u1"] = Upload("u1", f"t/{EVIL}", 0.0, {}, {}, "STANDARD")

    def poison(reply: Reply) -> Reply:
        body = reply.body
        for word in (b"STANDARD", b"feed", b">v1<", b">v2<", b">u1<", b"fake-owner"):
            hostile = b">" + reference(EVIL) + b"<" if word.startswith(b">") else reference(EVIL)
            body = body.replace(word, hostile)
        body = re.sub(rb"<ETag>&quot;[0-9a-f]{32}&quot;</ETag>", b"<ETag>" + reference(EVIL) + b"</ETag>", body)
        if b"<Buckets>" in body:
            body = body.replace(b"<Name>b</Name>", b"<Name>" + reference(EVIL) + b"</Name>")
        return Reply(reply.status, body, {**reply.headers, "Server": IN_HEADER, "x-amz-request-id": IN_HEADER})

    fake.fault(Rewrite(poison), times=0)
    return fake


@pytest.mark.parametrize("command", list(COMMANDS))
def test_no_command_lets_a_server_speak_to_the_terminal(evil: FakeS3, call: Call, command: str) -> None:
    """Neither on stdout nor on stderr, and no value makes a line of its own."""
    result = call(*COMMANDS[command])

    assert [] == UNSAFE.findall(result.out)
    assert [] == UNSAFE.findall(result.err)
    assert "v\ni" not in result.out + result.err
    assert "Traceback" not in result.err


def refuse(reply: Reply) -> Reply:
    """Answer with an error of which every word is hostile."""
    words = b"".join(
        b"<%b>%b</%b>" % (name, reference(EVIL), name) for name in (b"Code", b"Message", b"Resource", b"RequestId")
    )
    headers = {"Content-Type": "application/xml", "x-amz-request-id": IN_HEADER, "x-amz-bucket-region": IN_HEADER}
    return Reply(400 if reply.status != 301 else 301, b"<Error>" + words + b"</Error>", headers)


@pytest.mark.parametrize("command", [*COMMANDS, "cat", "pipe"])
@pytest.mark.parametrize("flags", [(), ("-v", "--stats"), ("--log-format", "json")])
def test_no_error_of_a_server_speaks_to_the_terminal(
    fake: FakeS3, call: Call, tmp_path: Path, command: str, flags: tuple[str, ...]
) -> None:
    """Code, message, resource and request id are the server's words."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"1")
    fake.store.add("b", "t/k", b"1")
    fake.fault(Rewrite(refuse), times=0)

    result = call(*flags, *COMMANDS.get(command, (command, "s3/b/k")))

    assert [] == UNSAFE.findall(result.out + result.err)
    assert "v\ni" not in result.out + result.err


@pytest.mark.parametrize("color", [(), ("--color", "never"), ("--color", "always")])
@pytest.mark.parametrize("no_color", ["", "1"])
def test_bars_have_colours_only_when_wanted(
    run_cli: CliRunner, tmp_path: Path, color: tuple[str, ...], no_color: str
) -> None:
    """--color never and NO_COLOR hold for them too; moving the cursor is no colour."""
    (tmp_path / "large").write_bytes(bytes(4 * MIB))
    with FakeS3(1) as fake:
        fake.store.add("b", "other")
        controller, terminal = pty.openpty()
        env = {**fake.environment, "TERM": "xterm-256color", "NO_COLOR": no_color}
        process = run_cli.start(
            *color, "cp", "--progress", "bar", "--bwlimit", "16M", str(tmp_path / "large"), "s3/b/k",
            env=env, stdin=terminal, stderr=terminal, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(terminal)
        shown = b""
        try:
            while block := os.read(controller, 1 << 16):
                shown += block
        except OSError:  # EIO: the other end is closed
            pass
        os.close(controller)

        assert 0 == process.wait(timeout=60)

    is_plain = "never" in color or (no_color and "always" not in color)
    assert b"files" in shown
    assert bool(re.search(rb"\x1b\[[0-9;]*[1-9][0-9;]*m", shown)) != bool(is_plain)

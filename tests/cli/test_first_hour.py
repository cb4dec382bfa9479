"""Errors of the first hour: each line says what was tried, on what, what happened, and what to do."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, FakeS3
from tests.support.run_cli import CliRunner

LONG, SPACED = "n" * 200 + "end" * 20, "a b " * 65 + "end"
CUT, SPACED_CUT = (f"{name[:70]}...{name[-70:]}" for name in (LONG, SPACED))
LARGE, FILE_LIMIT = 500_000, 200_000
TOO_LONG = "File name too long; a local name has at most 255 bytes: choose a shorter one"
SHUT = "Permission denied; check owner and mode (ls -ld), or run as another user"
TOO_LARGE = "File too large; raise ulimit -f, or write to a file system that holds larger files"
FULL = "No space left on device; make room (df -h shows what is left), or write elsewhere"
READ_ONLY = "Read-only file system; the file system is mounted for reading only: write elsewhere"
NAMES = "a bucket's name has 3 to 63 lower-case letters, digits, dots and dashes"
URL = "write http://host:port or https://host:port"
NO_ANSWER, PING = "ListObjectsV2 s3/b: no endpoint gave an answer in 6 attempts", "check the endpoints with s3pool ping"
KEY_TOO_LONG = "400 KeyTooLongError: Your key is too long; a key has at most 1024 bytes: choose a shorter one"
NO_DIRECTORY = "cannot write below f: it is a file, not a directory; name another one"
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_VERSION = 1 << 1, 1 << 2, 0x20080522

# The words, the code, and the whole line.
LOCAL = {
    f"cp s3/b/k {LONG}": (1, f"cannot write {CUT}: {TOO_LONG}"),
    f"cp s3/b/k '{SPACED}'": (1, f"cannot write {SPACED_CUT}: {TOO_LONG}"),
    f"mv s3/b/k {LONG}": (1, f"cannot write {CUT}: {TOO_LONG}"),
    f"cp {LONG} s3/b/": (1, f"cannot read {CUT}: {TOO_LONG}"),
    f"sync {LONG} s3/b/p": (1, f"cannot read {CUT}: {TOO_LONG}"),
    "cp -r s3/c out": (1, f"s3/c/{LONG[:65]}...{LONG[-68:]}/a: cannot open directory {CUT}: {TOO_LONG}"),
    "cp s3/b/k shut/": (1, f"cannot write shut/k: {SHUT}"),
    "mv s3/b/k shut/": (1, f"cannot write shut/k: {SHUT}"),
    "cp -r s3/b/p shut": (1, f"cannot write shut/a: {SHUT}"),
    "sync s3/b/p shut/x": (1, f"s3/b/p/a: cannot open shut/x: {SHUT}"),
    "cp closed s3/b/": (1, f"cannot read closed: {SHUT}"),
    "mv closed s3/b/": (1, f"cannot read closed: {SHUT}"),
    "sync shut/closed s3/b/p": (1, f"cannot read shut/closed: {SHUT}"),
    "cp -r shut/closed s3/b/p": (1, f"cannot read shut/closed: {SHUT}"),
    "sync --lock shut/x d s3/b/p": (1, f"cannot lock shut/x: {SHUT}"),
    "ls --config closed s3/b": (2, f"cannot read {{cwd}}/closed (flag --config): {SHUT}"),
    "ls --config d s3/b": (2, "cannot read {cwd}/d (flag --config): Is a directory; name a file"),
    "cp s3/b/large .": (1, f"cannot write ./large: {TOO_LARGE}"),
    "mv s3/b/large .": (1, f"cannot write ./large: {TOO_LARGE}"),
    "sync s3/b/large-ones d": (1, f"cannot write d/one: {TOO_LARGE}"),
    "cp s3/b/k f/x": (1, f"s3/b/k: {NO_DIRECTORY}"),
    "cp -r s3/b/p f": (1, f"s3/b/p/a: {NO_DIRECTORY}"),
    "cp s3/b/d .": (1, "s3/b/d: cannot write d: a directory has that name; remove or rename it"),
    "cp d s3/b/": (2, "d is a directory: -r copies what is in it"),
    "ls --endpoints ftp://node s3/b": (2, f"flag --endpoints: bad endpoint 'ftp://node': {URL}"),
    "ls --endpoints node:7480 s3/b": (2, f"flag --endpoints: bad endpoint 'node:7480': {URL}"),
    "ls --endpoints http://no.invalid s3/b": (5, f"{NO_ANSWER}: http://no.invalid: the host name is unknown; {PING}"),
    "mb s3/A": (1, f"CreateBucket s3/A at NODE: 400 InvalidBucketName: The specified bucket is not valid; {NAMES}"),
    f"cp f s3/b/{LONG * 4}": (1, f"PutObject s3/b/{CUT} at NODE: {KEY_TOO_LONG}"),
}
# What servers say, the code, and what to do.
CODES = {
    (403, "RequestTimeTooSkewed"): (4, "check this machine's clock"),
    (400, "AuthorizationHeaderMalformed"): (4, "check --region"),
    (301, "PermanentRedirect"): (1, "check --region and --endpoints: the bucket is kept elsewhere"),
    (400, "IllegalLocationConstraintException"): (1, "check --region"),
    (403, "SignatureDoesNotMatch"): (4, "check AWS_SECRET_ACCESS_KEY and the region"),
    (403, "InvalidAccessKeyId"): (4, "check AWS_ACCESS_KEY_ID"),
    (403, "AccessDenied"): (4, "check the keys and their policy"),
    (403, "QuotaExceeded"): (1, "make room, or ask for a larger quota"),
    (400, "XMinioAdminBucketQuotaExceeded"): (1, "make room, or ask for a larger quota"),
    (507, "XMinioStorageFull"): (1, "the storage is full: make room there"),
    (400, "InvalidStorageClass"): (1, "check --storage-class"),
    (503, "SlowDown"): (1, "the storage is at its limit: run it again later, or with fewer --workers"),
    (400, "EntityTooLarge"): (1, "the server takes no object of this size: cut it up, or ask for a higher limit"),
}
BY_COMMAND = {
    "cp f s3/b/new": "PutObject s3/b/new",
    "mv f s3/b/new": "PutObject s3/b/new",
    "sync d s3/b/n": "PutObject s3/b/n/x",
    "pipe s3/b/n": "PutObject s3/b/n",
    "mb s3/new": "CreateBucket s3/new",
}


@contextmanager
def _poor_user() -> Iterator[None]:
    """Let modes count for root too, and no file grow large; both for this thread and those it starts."""
    bits, libc = CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH, ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(CAP_VERSION, 0), (ctypes.c_uint32 * 6)()
    is_root = os.geteuid() == 0
    if is_root and libc.capget(header, sets):
        pytest.skip("root's rights cannot be taken away here")
    had, limits, handler = sets[0], resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, limits[1]))
    try:
        if is_root:
            sets[0] = had & ~bits
            assert 0 == libc.capset(header, sets)
        yield
    finally:
        if is_root:
            sets[0] = had
            assert 0 == libc.capset(header, sets)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def filled(fake: FakeS3, tmp_path: Path) -> Iterator[FakeS3]:
    """Give keys, and files and directories that nobody may read or write."""
    for key in ("k", "d", "p/a"):
        fake.store.add("b", key, b"1")
    fake.store.add("c", f"{LONG}/a", b"1")
    for key in ("large", "large-ones/one"):
        fake.store.add("b", key, bytes(LARGE))
    for name in ("d", "shut", "shut/closed"):
        (tmp_path / name).mkdir()
    for name in ("f", "closed", "d/x"):
        (tmp_path / name).write_bytes(b"1")
    for name, mode in (("closed", 0), ("shut/closed", 0), ("shut", 0o555)):
        (tmp_path / name).chmod(mode)
    yield fake
    for name in ("shut", "shut/closed"):
        (tmp_path / name).chmod(0o755)


def _errors(err: str) -> list[str]:
    plain = re.sub(r" \(request [^)]*\)", "", re.sub(r"http://127\.0\.0\.1:\d+", "NODE", err))
    return [line.partition("s3pool: error: ")[2] for line in plain.splitlines() if ": error: " in line]


@pytest.mark.parametrize("words", LOCAL)
def test_one_line_says_what_to_do(filled: FakeS3, call: Call, tmp_path: Path, words: str) -> None:
    """And nothing was stored, and no half of a file is left."""
    code, line = LOCAL[words]
    stored = filled.store.bodies("b")

    with _poor_user():
        result = call(*shlex.split(words))

    assert (code, [line.format(cwd=tmp_path)]) == (result.code, _errors(result.err))
    assert stored == filled.store.bodies("b")
    assert [] == [path for path in tmp_path.rglob("*") if path.name.startswith(".s3pool") and path.is_file()]


@pytest.mark.parametrize("answer", CODES)
def test_what_a_server_refuses_says_what_to_do(filled: FakeS3, call: Call, answer: tuple[int, str]) -> None:
    """The same advice whatever command met it; a JSON record has it as well."""
    code, advice = CODES[answer]
    filled.fault(Answer(*answer), op="PutObject", times=0)
    filled.fault(Answer(*answer), op="CreateBucket", times=0)

    for words, what in BY_COMMAND.items():
        result = call(*shlex.split(words), stdin=b"1")
        assert (code, [f"{what} at NODE: {answer[0]} {answer[1]}; {advice}"]) == (result.code, _errors(result.err))
    record = call("--json", "cp", "f", "s3/b/new").err
    assert f'; {advice}","' in record


@pytest.mark.parametrize(("options", "reason"), [("size=64k", FULL), ("ro", READ_ONLY)])
@pytest.mark.parametrize("words", ["cp s3/b/large disk/", "mv s3/b/large disk/", "sync s3/b/large-ones disk"])
def test_disk_says_what_to_do(filled: FakeS3, run_cli: CliRunner, words: str, options: str, reason: str) -> None:
    """A file system of its own, which is full or cannot be written; nothing is left on it, the source stays."""
    within = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*within, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file systems can be mounted here")
    (run_cli.home / "disk").mkdir()
    command = shlex.join([*run_cli.command(), *words.split()])
    script = f"mount -t tmpfs -o {options} none disk && {command}; code=$?; ls -A disk; exit $code"
    environ = run_cli.full_environ(filled.environment)

    argv = [*within, "sh", "-c", script]
    done = subprocess.run(argv, cwd=run_cli.home, env=environ, capture_output=True, text=True, check=False)

    name = "disk/one" if "sync" in words else "disk/large"
    assert (1, [f"cannot write {name}: {reason}"], "") == (done.returncode, _errors(done.stderr), done.stdout)
    assert "large" in filled.store.bodies("b")


AGAIN_WITHOUT_DESCRIPTORS = """
import os, resource, sys
from s3pool.cli.main import main
main(sys.argv[1:])
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
sys.exit(main(sys.argv[1:]))
"""


def test_too_many_open_files_say_what_to_do(filled: FakeS3, run_cli: CliRunner) -> None:
    """Of a shell whose limit leaves nothing for a connection, once all that the command needs is loaded."""
    argv = [sys.executable, "-c", AGAIN_WITHOUT_DESCRIPTORS, "du", "s3/b", "--retries", "0"]
    environ = run_cli.full_environ(filled.environment)

    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)

    what = "ListObjectsV2 s3/b: no endpoint gave an answer in 1 attempt: NODE: too many open files"
    assert (5, [f"{what}; raise ulimit -n, or use fewer --workers"]) == (done.returncode, _errors(done.stderr))

"""The functional suites of minio-go, mc, s5cmd and minio-py: fetched once, told of a server, asked what failed.

Their sources come from Go's module proxy, or from GitHub where a module holds no tests; nothing of them is
kept in the repository. Each run needs a server of its own: some tests remove every bucket.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from s3pool.model import Credentials
from tests.s3tests.suite import PASSED, own_python

MINIO_GO = "github.com/minio/minio-go/v7@v7.4.1"
MC = "github.com/minio/mc@v0.0.0-20250313080218-cf909e1063a9"
S5CMD = "https://github.com/peak/s5cmd"
S5CMD_COMMIT = "54d6a8a9"
MINIO_PY = "https://github.com/minio/minio-py"
MINIO_PY_COMMIT = "c8f6ef3"
TEST_LIMIT_S = 300.0
SUITE_LIMIT_S = 1500.0
SKIPPED = "skipped"
# What differs between two runs of one failing test: names that were drawn by lot, ports, times, addresses.
CHANCE = re.compile(
    r"<(?:RequestId|HostId)>[^<]*|(?:request|host)_id: [^,]*|127\.0\.0\.1:\d+"
    r"|\b[0-9a-fA-F-]{6,}\b|\d+|\b[a-z]+-test-\w+|\b\w{26,}\b"
)
Outcomes = Mapping[str, str]

# Runs one test where ONLY names it, so that none takes others with it when it panics.
ONE_TEST = """
func one(name string, test func()) {
	if os.Getenv("ONLY") == name {
		test()
	}
}
"""
# Everything of the script but its last two lines, and one of its tests in a bucket of its own.
ONE_SCRIPT_TEST = """
. "$1"
__init__ >/dev/null
(setup)
("$2"); outcome=$?
(teardown) >/dev/null
rm -rf "$MC_CONFIG_DIR"
exit $outcome
"""


class Place(NamedTuple):
    """A server, and a directory for what a suite writes."""

    url: str
    keys: Credentials
    directory: Path

    @property
    def mint(self) -> dict[str, str]:
        """Return what MinIO's suites find the server by."""
        return {
            "SERVER_ENDPOINT": self.url.removeprefix("http://"),
            "ACCESS_KEY": self.keys.access_key,
            "SECRET_KEY": self.keys.secret_key,
            "ENABLE_HTTPS": "0",
            "ENABLE_KMS": "0",
            "MINT_MODE": "full",
            "TMPDIR": str(self.directory),
        }


def run(words: list[str], *, env: Mapping[str, str] | None = None, cwd: Path, limit_s: float) -> tuple[int, str]:
    """Run a program; return its exit code and what it printed. One that takes too long has failed."""
    home = {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])), "HOME": str(cwd)}
    kept = {name: os.environ[name] for name in ("GOCACHE", "GOPATH") if name in os.environ}
    try:
        done = subprocess.run(
            words, env={**home, **kept, **(env or {})}, cwd=cwd, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, f"took more than {limit_s:.0f} s"
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def must(*words: str, cwd: Path | None = None) -> str:
    """Run a program that fetches or builds, and return what it printed."""
    return subprocess.run(words, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def module(name: str) -> Path:
    """Return the directory of a Go module's source."""
    return Path(json.loads(must("go", "mod", "download", "-json", name))["Dir"])


def checkout(source: str, commit: str, cache: Path) -> Path:
    """Return the directory of a repository's commit, which is fetched once."""
    directory = cache / f"{source.rpartition('/')[2]}-{commit}"
    if not directory.exists():
        must("git", "clone", "--quiet", source, str(directory))
        must("git", "checkout", "--quiet", commit, cwd=directory)
    return directory


def failure(text: str) -> str:
    """Return the outcome of a failed test, with the end of its output as it is in every run."""
    return f"failed: {CHANCE.sub('#', text.strip()[-1500:])}"


class MinioGo:
    """minio-go's functional tests, each in a process of its own."""

    def __init__(self, cache: Path) -> None:
        """Build the program."""
        source = module(MINIO_GO)
        text = (source / "functional_tests.go").read_text()
        self._names = [name for name in called_tests(text) if "SSE" not in name and "Encrypt" not in name]
        self._program = cache / "minio-go" / "functional"
        if not self._program.exists():
            self._program.parent.mkdir(parents=True, exist_ok=True)
            patched = self._program.with_name("functional_tests.go")
            patched.write_text(re.sub(r"^\t+(test\w+)\(\)$", r'one("\1", \1)', text, flags=re.MULTILINE) + ONE_TEST)
            must("go", "build", "-o", str(self._program), str(patched), cwd=source)

    def run(self, place: Place, only: Collection[str]) -> Outcomes:
        """Run the tests, or those alone that are named; those for TLS and KMS are left out."""
        found = {}
        for name in self._names:
            if only and name not in only:
                continue
            words = [str(self._program)]
            code, text = run(words, env={**place.mint, "ONLY": name}, cwd=place.directory, limit_s=TEST_LIMIT_S)
            reasons = re.findall(r'"message":"(.*?)"}?$|"error":(.*?)}?$|took more.*', text, re.MULTILINE)
            is_ignored = '"status":"NA"' in text
            found[name] = failure(str(reasons or text)) if code else SKIPPED if is_ignored else PASSED
        return found


class Mc:
    """The functional tests of MinIO's client mc, each in a shell of its own."""

    def __init__(self, cache: Path) -> None:
        """Build mc, and take what its script defines."""
        self._program = cache / "bin" / "mc"
        if not self._program.exists():
            subprocess.run(["go", "install", MC], env={**os.environ, "GOBIN": str(self._program.parent)}, check=True)
        lines = (module(MC) / "functional-tests.sh").read_text().splitlines(keepends=True)
        self._names = [name for name in called_tests("".join(lines)) if "_sse" not in name]
        self._script = cache / "mc-functions.sh"
        self._script.write_text("".join(lines[:-2]))

    def run(self, place: Place, only: Collection[str]) -> Outcomes:
        """Run the tests, or those alone that are named; those for TLS are left out."""
        data = place.directory / "data"
        data.mkdir()
        (place.directory / "mc").symlink_to(self._program)
        found = {}
        for name in self._names:
            if only and name not in only:
                continue
            words = ["bash", "-c", ONE_SCRIPT_TEST, "bash", str(self._script), name]
            env = {**place.mint, "MINT_DATA_DIR": str(data)}
            code, text = run(words, env=env, cwd=place.directory, limit_s=TEST_LIMIT_S)
            found[name] = failure(text) if code else PASSED
        return found


class S5cmd:
    """s5cmd's tests of its program from end to end."""

    def __init__(self, cache: Path) -> None:
        """Fetch the source and build the tests."""
        self._source = checkout(S5CMD, S5CMD_COMMIT, cache)
        helpers = self._source / "e2e" / "util_test.go"
        # Its buckets are made without an ACL, which versitygw refuses: tests without signatures fail everywhere then.
        helpers.write_text(helpers.read_text().replace(" aws.String(s3.BucketCannedACLPublicRead)", " nil"))
        self._program = cache / "s5cmd-e2e"
        if not self._program.exists():
            must("go", "test", "-mod=vendor", "-c", "-o", str(self._program), "./e2e", cwd=self._source)

    def run(self, place: Place, only: Collection[str]) -> Outcomes:
        """Run the tests, or those alone that are named."""
        env = {
            "S5CMD_BUILD_BINARY_WITHOUT_RACE_FLAG": "1",
            "S5CMD_ACCESS_KEY_ID": place.keys.access_key,
            "S5CMD_SECRET_ACCESS_KEY": place.keys.secret_key,
            "S5CMD_TEST_ENDPOINT_URL": place.url,
            "S5CMD_REGION": "us-east-1",
            "S5CMD_IS_VIRTUAL_HOST": "false",
            "S5CMD_I_KNOW_WHAT_IM_DOING": "1",
            "TMPDIR": str(place.directory),
            "GOCACHE": must("go", "env", "GOCACHE").strip(),
        }
        tops = sorted({name.partition("/")[0] for name in only})
        words = [str(self._program), "-test.v", "-test.parallel=4", f"-test.run=^({'|'.join(tops) or '.*'})$"]
        _, text = run(words, env=env, cwd=self._source / "e2e", limit_s=SUITE_LIMIT_S)
        found = {}
        for outcome, name in re.findall(r"^ *--- (PASS|FAIL|SKIP): (\S+)", text, re.MULTILINE):
            found[name] = {"PASS": PASSED, "SKIP": SKIPPED}.get(outcome, "failed")
        return found


class MinioPy:
    """minio-py's functional tests, in one process that goes on behind a failure."""

    def __init__(self, cache: Path) -> None:
        """Fetch the source, and its libraries."""
        self._source = checkout(MINIO_PY, MINIO_PY_COMMIT, cache)
        client = self._source / "minio" / "minio.py"
        # This commit names us-east-1 where it makes a bucket, which RGW and versitygw refuse, as Amazon does.
        body = "            CreateBucketConfiguration(\n                location_constraint=location,"
        client.write_text(
            client.read_text().replace(
                f"body = marshal(\n{body}", f"body = None if location == 'us-east-1' else marshal(\n{body}"
            )
        )
        self._python = own_python(cache / "minio-py-venv", ["minio"])
        tests = (self._source / "tests/functional/tests.py").read_text()
        self._script = cache / "minio-py-tests.py"
        self._script.write_text(tests.replace("        raise TestFailed()\n", "        pass\n"))

    def run(self, place: Place, only: Collection[str]) -> Outcomes:
        """Run the tests; where some are named the outcomes of these alone count."""
        env = {**place.mint, "PYTHONPATH": str(self._source)}
        code, text = run([self._python, str(self._script)], env=env, cwd=place.directory, limit_s=SUITE_LIMIT_S)
        found = {} if code == 0 else {"all tests": failure(text)}
        for line in text.splitlines():
            if line.startswith("{"):
                told = json.loads(line)
                name = told["name"].removeprefix("minio-py:")
                found[name] = {"PASS": PASSED, "NA": SKIPPED}.get(told["status"]) or failure(told["message"])
        return {name: outcome for name, outcome in found.items() if not only or name in only}


def called_tests(text: str) -> list[str]:
    """Return the names of the tests that a Go program's or a script's last function calls, line by line."""
    return list(dict.fromkeys(re.findall(r"^\t+(test\w+)(?:\(\))?$", text, re.MULTILINE)))


Suite = MinioGo | Mc | S5cmd | MinioPy
SUITES: dict[str, Callable[[Path], Suite]] = {"minio-go": MinioGo, "mc": Mc, "s5cmd": S5cmd, "minio-py": MinioPy}

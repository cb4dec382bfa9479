"""The S3 tests of the Ceph project: where they come from, how they are told of a server, what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from configparser import RawConfigParser
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

SOURCE = "https://github.com/ceph/s3-tests"
COMMIT = "8f0ae7b"
REQUIREMENTS = ("boto3", "httplib2", "isodate", "lxml", "munch", "pytest", "pytz", "PyYAML", "requests")
MODULES = ("s3tests/functional/test_s3.py", "s3tests/functional/test_headers.py")
# Each of these wants a cluster that was set up for it, or fails on RGW by its own admission.
LEFT_OUT_MARKS = (
    "bucket_logging",
    "bucket_logging_cleanup",
    "cloud_restore",
    "cloud_transition",
    "encryption",
    "fails_on_rgw",
    "iam_account",
    "iam_user",
    "lifecycle",
    "lifecycle_expiration",
    "lifecycle_transition",
    "sse_s3",
    "target_by_bucket",
    "test_of_sts",
    "webidentity_test",
)
LEFT_OUT_TESTS = (
    # Aborts radosgw before 19 (Ceph's tracker, 71458): the node would be missing for all that follow.
    "s3tests/functional/test_s3.py::test_upload_part_copy_percent_encoded_key",
    # Sets one bucket's ACL fifty times at once. Spread over several gateways it leaves an entry in the
    # list of buckets that outlives the bucket, and the cleaning before every later test fails.
    "s3tests/functional/test_s3.py::test_bucket_concurrent_set_canned_acl",
)
PASSED = "passed"
LIMIT_S = 3600.0


@dataclass(frozen=True)
class User:
    """A user of the tests: a section of their configuration, and a user of the cluster."""

    section: str
    uid: str
    name: str
    email: str
    access_key: str
    secret_key: str
    tenant: str = ""
    caps: str = ""

    @property
    def options(self) -> dict[str, str]:
        """Give the section's lines."""
        user_id = f"{self.tenant}${self.uid}" if self.tenant else self.uid
        lines = {"display_name": self.name, "user_id": user_id, "email": self.email}
        lines |= {"access_key": self.access_key, "secret_key": self.secret_key, "api_name": "default"}
        return {**lines, "tenant": self.tenant} if self.tenant else lines


# The keys and names of the tests' own sample configuration; they open nothing but a cluster made for them.
USERS = (
    User(
        "s3 main",
        "testid",
        "M. Tester",
        "tester@ceph.com",
        "0555b35654ad1656d804",
        "h7GhxuBLTrlhVUyxSPUKUV8r/2EI4ngqJxD7iBdBYLhwluN30JaT3Q==",
    ),
    User(
        "s3 alt",
        "56789abcdef0123456789abcdef0123456789abcdef0123456789abcdef01234",
        "john.doe",
        "john.doe@example.com",
        "NOPQRSTUVWXYZABCDEFG",
        "nopqrstuvwxyzabcdefghijklmnabcdefghijklm",
    ),
    User(
        "s3 tenant",
        "9876543210abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "tenanteduser",
        "tenanteduser@example.com",
        "HIJKLMNOPQRSTUVWXYZA",
        "opqrstuvwxyzabcdefghijklmnopqrstuvwxyzab",
        tenant="testx",
    ),
    User(
        "iam",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "youruseridhere",
        "s3@example.com",
        "ABCDEFGHIJKLMNOPQRST",
        "abcdefghijklmnopqrstuvwxyzabcdefghijklmn",
        caps="user-policy=*;roles=*",
    ),
)


@dataclass(frozen=True)
class Suite:
    """A checkout of the tests and a Python that can run them."""

    checkout: Path
    python: str

    def run(self, name: str, port: int, *, directory: Path, tests: Sequence[str] = ()) -> dict[str, str]:
        """Run the selection against a port of 127.0.0.1, and give each test's outcome.

        ``directory`` takes the configuration, the junit file and the log, all called ``name``.
        """
        conf, junit = directory / f"{name}.conf", directory / f"{name}.xml"
        junit.unlink(missing_ok=True)
        write_config(conf, port, prefix=name[:6])
        marks = f"not ({' or '.join(LEFT_OUT_MARKS)})"
        skips = [word for test in LEFT_OUT_TESTS for word in ("--deselect", test)]
        options = ["-q", "-p", "no:cacheprovider", "-m", marks, *skips, f"--junitxml={junit}"]
        with (directory / f"{name}.log").open("wb") as log:
            subprocess.run(
                [self.python, "-m", "pytest", *options, *(tests or MODULES)],
                cwd=self.checkout,
                # One attempt: a client that tries again would hide a first one that failed.
                env={**os.environ, "S3TEST_CONF": str(conf), "AWS_MAX_ATTEMPTS": "1", "AWS_RETRY_MODE": "standard"},
                stdout=log,
                stderr=log,
                timeout=LIMIT_S,
                check=False,
            )
        if not junit.exists():
            raise RuntimeError(f"the tests did not run; see {directory / f'{name}.log'}")
        return read_outcomes(junit)


def write_config(path: Path, port: int, *, prefix: str) -> None:
    """Write the tests' configuration for a server on a port of 127.0.0.1."""
    parser = RawConfigParser()
    parser["DEFAULT"] = {"host": "127.0.0.1", "port": str(port), "is_secure": "False", "ssl_verify": "False"}
    fixtures = {"bucket prefix": f"{prefix}-{{random}}-", "iam name prefix": "s3-tests-"}
    parser["fixtures"] = {**fixtures, "iam path prefix": "/s3-tests/"}
    for user in USERS:
        parser[user.section] = user.options
    for section in ("iam root", "iam alt root"):  # they must be there, and no test of the selection uses them
        parser[section] = USERS[-1].options
    with path.open("w") as file:
        parser.write(file)


def read_outcomes(junit: Path) -> dict[str, str]:
    """Give passed, failed or skipped for each test of a junit file; an error in its fixtures is a failure."""
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        words = {child.tag for child in case}
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}"
        outcome = "failed" if words & {"failure", "error"} else "skipped" if "skipped" in words else PASSED
        outcomes[name] = "failed" if outcomes.get(name) == "failed" else outcome
    return outcomes


def prepare(checkout: str, python: str, *, cache: Path) -> Suite:
    """Give the suite; what is not named is fetched into the cache, once."""
    source = Path(checkout) if checkout else cache / f"s3-tests-{COMMIT}"
    if not (source / MODULES[0]).exists():
        if checkout:
            raise RuntimeError(f"{checkout} is no checkout of {SOURCE}")
        shutil.rmtree(source, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", SOURCE, str(source)], check=True)
        subprocess.run(["git", "-C", str(source), "checkout", "--quiet", COMMIT], check=True)
    return Suite(source, python or own_python(cache / "s3-tests-venv", REQUIREMENTS))


def own_python(venv: Path, requirements: Sequence[str]) -> str:
    """Return a Python beside ours: the tests want libraries that s3pool does not."""
    python = venv / "bin" / "python"
    if not (venv / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "--quiet", "install", *requirements], check=True)
        (venv / "ready").touch()
    return str(python)


def read_differences(path: Path) -> Mapping[tuple[str, str], str]:
    """Read the list of what may differ: (mode, test) and the reason.

    A line is ``mode test reason``; lines that begin with ``#`` explain groups of them.
    """
    found: dict[tuple[str, str], str] = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            mode, test, reason = line.split(maxsplit=2)
            found[mode, test] = reason
    return found

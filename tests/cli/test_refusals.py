"""What a server refuses ends with the right exit code, and with as many lines as the summary counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, FakeS3

CREDENTIAL_CODES = (
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
)
RUNS = {
    "upload": ("cp", "-r", "d", "s3/b/up"),
    "download": ("cp", "-r", "s3/b/d", "down"),
    "copy": ("cp", "-r", "s3/b/d", "s3/b/copy"),
    "move": ("mv", "-r", "s3/b/d", "s3/b/moved"),
    "move up": ("mv", "-r", "d", "s3/b/up"),
    "sync up": ("sync", "d", "s3/b/up"),
    "sync down": ("sync", "s3/b/d", "down"),
    "rm": ("rm", "-r", "--force", "s3/b/d"),
    "find": ("find", "s3/b/d", "--delete"),
    "rb": ("rb", "--force", "s3/b"),
}
WORKING_OPS = ("PutObject", "GetObject", "CopyObject", "DeleteObjects")


@pytest.fixture
def filled(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Return 30 objects and 30 files."""
    (tmp_path / "d").mkdir()
    for number in range(30):
        fake.store.add("b", f"d/{number:02}", b"1")
        (tmp_path / "d" / f"{number:02}").write_bytes(b"1")
    return fake


def refuse(fake: FakeS3, status: int, code: str) -> None:
    """Let listings work, and refuse all else."""
    for op in WORKING_OPS:
        fake.fault(Answer(status, code, "no"), op=op, times=0)


@pytest.mark.parametrize("code", CREDENTIAL_CODES)
@pytest.mark.parametrize("run", list(RUNS))
def test_bad_credentials_end_a_run_at_once(filled: FakeS3, call: Call, run: str, code: str) -> None:
    """Every further object would fail alike: one line, not thirty."""
    refuse(filled, 400, code)

    result = call(*RUNS[run])

    assert 4 == result.code
    assert 1 == result.err.count(f"400 {code}")
    assert [] == result.lines


@pytest.mark.parametrize("code", CREDENTIAL_CODES)
@pytest.mark.parametrize(
    "words",
    [("ls", "s3/b"), ("cat", "s3/b/d/01"), ("du", "s3/b"), ("pipe", "s3/b/k"), ("mb", "s3/one"), ("rb", "s3/b")],
)
def test_bad_credentials_are_denial_for_every_command(
    filled: FakeS3, call: Call, words: tuple[str, ...], code: str
) -> None:
    """Whatever the status that they come with."""
    filled.fault(Answer(400, code, "no"), times=0)

    assert 4 == call(*words).code


@pytest.mark.parametrize(
    "words",
    [
        ("stat", "s3/b/d/01"),
        ("cp", "s3/b/d/01", "out"),
        ("mv", "s3/b/d/01", "out"),
        ("rm", "s3/b/d/01"),
        ("cp", "-r", "s3/b/d", "s3/b/copy"),
        ("cp", "s3/b/d/01", "s3/b/q"),
    ],
)
def test_reason_that_no_head_can_tell_is_asked_for(filled: FakeS3, call: Call, words: tuple[str, ...]) -> None:
    """A HEAD that was refused has no word for why: AWS answers 400 and no more."""
    filled.fault(Answer(400, "ExpiredToken", "no"), op="*Object", times=0)

    result = call(*words)

    assert 4 == result.code
    assert 1 == result.err.count("400 ExpiredToken: no")


@pytest.mark.parametrize("run", list(RUNS))
def test_bucket_name_that_is_refused_ends_a_run_at_once(filled: FakeS3, call: Call, run: str) -> None:
    """No other object could be stored there either."""
    refuse(filled, 400, "InvalidBucketName")

    result = call(*RUNS[run])

    assert (1, 1) == (result.code, result.err.count("400 InvalidBucketName"))


@pytest.mark.parametrize("code", ["InvalidObjectState", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"])
@pytest.mark.parametrize("run", list(RUNS))
def test_state_and_quota_are_no_denial(filled: FakeS3, call: Call, run: str, code: str) -> None:
    """No other keys would help."""
    refuse(filled, 403, code)

    assert 1 == call(*RUNS[run]).code


@pytest.mark.parametrize(("status", "code"), [(400, "ExpiredToken"), (403, "AccessDenied"), (404, "NoSuchBucket")])
@pytest.mark.parametrize("run", [run for run in RUNS if run not in ("rb", "find")])
def test_each_failure_of_the_summary_has_a_line(filled: FakeS3, call: Call, run: str, status: int, code: str) -> None:
    """Six that failed come with six lines, and in JSON with six objects."""
    refuse(filled, status, code)

    text = call(*RUNS[run])
    failed = re.search(r"(\d+) failed", text.err)
    records = call("--json", *RUNS[run])

    assert failed
    assert int(failed[1]) == text.err.count("s3pool: error: ")
    assert records.records[-1]["failed"] == records.err.count('"type":"error"')

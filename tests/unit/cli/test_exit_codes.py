"""Which error means which code."""

from __future__ import annotations

import pytest

from s3pool import errors
from s3pool.cli.exit_codes import combined, exit_code_for


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), 2),
        (errors.ConfigError("x"), 2),
        (errors.LocalNotFoundError("x"), 3),
        (errors.LocalFileError("x"), 1),
        (errors.NotFoundError(404, "NoSuchKey"), 3),
        (errors.AccessDeniedError(403, "AccessDenied"), 4),
        (errors.NoEndpointError("x"), 5),
        (errors.TLSError("x"), 5),
        (errors.RefusedError("x"), 6),
        (errors.JournalLockedError("x"), 75),
        (errors.S3Error(500, "InternalError"), 1),
        (errors.IntegrityError("x"), 1),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_codes(error: BaseException, code: int) -> None:
    """The table of the manual."""
    assert code == exit_code_for(error)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 3], 3),
        ([3, 3], 3),
        ([3, 4], 1),
        ([6, 0], 6),
        ([6, 3], 3),
        ([6, 3, 4], 1),
        ([1, 3], 1),
    ],
)
def test_many_operands_give_one_code(codes: list[int], expected: int) -> None:
    """The one that all failures share; a skip counts less than a failure."""
    assert expected == combined(codes)

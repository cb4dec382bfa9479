"""Which error means which code."""

from __future__ import annotations

import inspect

import pytest

from s3pool import errors
from s3pool.cli.exit_codes import TABLE, combined, exit_code_for


def every_class(root: type[BaseException] = errors.S3PoolError) -> list[type[BaseException]]:
    """Give the whole tree of errors."""
    return [root, *(found for child in root.__subclasses__() for found in every_class(child))]


def make(kind: type[BaseException]) -> BaseException:
    """Make an error of any class."""
    # Exceptions without an __init__ of their own have no signature to look at.
    takes_code = inspect.isfunction(kind.__init__) and "code" in inspect.signature(kind.__init__).parameters
    return kind(404, "Code") if takes_code else kind("message")


@pytest.mark.parametrize("kind", every_class(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_of_the_table(kind: type[BaseException]) -> None:
    """None of them means success."""
    assert exit_code_for(make(kind)) in {code for code, _ in TABLE} - {0}


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

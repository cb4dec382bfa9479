from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3pool import errors
from s3pool.cli.output import TABLE, exit_code_for
from s3pool.errors import S3PoolError
from tests.support.run_cli import CliRunner

ROOT = Path(__file__).resolve().parents[2]
EXPECTED_CODES = [0, 1, 2, 3, 4, 5, 6, 75, 129, 130, 141, 143]
EXPECTED = {
    "UsageError": 2,
    "ConfigError": 2,
    "CredentialsError": 4,
    "LocalNotFoundError": 3,
    "NotFoundError": 3,
    "AccessDeniedError": 4,
    "NoEndpointError": 5,
    "ConnectError": 5,
    "TLSError": 5,
    "RequestTimeoutError": 5,
    "RefusedError": 6,
    "JournalLockedError": 75,
    "S3Error": 1,
    "IntegrityError": 1,
    "LocalFileError": 1,
    "ThrottledError": 1,
}


def iter_classes(root: type[S3PoolError] = S3PoolError) -> Iterator[type[S3PoolError]]:
    """Yield the whole tree of errors."""
    yield root
    for child in root.__subclasses__():
        yield from iter_classes(child)


def make(kind: type[S3PoolError]) -> S3PoolError:
    """Make an error of any class."""
    # Exceptions without an __init__ of their own have no signature to look at.
    known = inspect.signature(kind.__init__).parameters if inspect.isfunction(kind.__init__) else {}
    if "code" in known:
        return kind(404, "Some")
    needed = [name for name, told in known.items() if told.kind is told.KEYWORD_ONLY and told.default is told.empty]
    return kind("some", **dict.fromkeys(needed, object()))


@pytest.mark.parametrize("kind", sorted(set(iter_classes()), key=lambda kind: kind.__name__))
def test_every_error_has_an_exit_code_of_the_table(kind: type[S3PoolError]) -> None:
    """A script that reads the manual must know every code that it can meet."""
    code = exit_code_for(make(kind))

    assert code in dict(TABLE)
    assert 0 != code


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_error_ends_with_its_code(name: str) -> None:
    """These are what scripts rely on; they never change."""
    assert EXPECTED[name] == exit_code_for(make(getattr(errors, name)))


def test_interrupt_ends_as_shells_report_it() -> None:
    """128 and the signal's number."""
    assert 130 == exit_code_for(KeyboardInterrupt())


def test_table_holds_every_code() -> None:
    """In ascending order, each once, each explained."""
    assert EXPECTED_CODES == [code for code, _ in TABLE]
    assert all(meaning for _, meaning in TABLE)


def test_help_shows_the_table(run_cli: CliRunner) -> None:
    """The same words in the same order."""
    shown = re.findall(r"^ +(\d+) +(.+)$", run_cli("help").out.partition("exit codes:")[2], re.MULTILINE)

    assert [(str(code), meaning) for code, meaning in TABLE] == shown


def test_manual_shows_the_table() -> None:
    """EXIT STATUS is written by hand, and so compared."""
    page = (ROOT / "man" / "s3pool.1").read_text()
    section = re.search(r'^\.SH "?EXIT STATUS"?\n(.*?)(?=^\.SH )', page, re.MULTILINE | re.DOTALL)
    assert section is not None, "the manual has no EXIT STATUS"

    rows = re.findall(r"^\.TP\n(?:\.B )?(\d+)\n(.+?)(?=^\.TP|^\.PP|\Z)", section[1], re.MULTILINE | re.DOTALL)
    shown = [(int(code), " ".join(text.replace("\\-", "-").split()).lower()) for code, text in rows]

    assert EXPECTED_CODES == [code for code, _ in shown]
    assert [meaning for _, meaning in TABLE] == [
        meaning for (_, meaning), (_, text) in zip(TABLE, shown, strict=True) if text.startswith(meaning.lower())
    ]

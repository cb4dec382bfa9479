"""Commands that look at many keys and need no object for each of them: a million objects cost a second."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from s3pool.s3.pages import ObjectTable
from tests.cli.conftest import Call

KEYS = ("d/a", "d/b", "e")


@pytest.mark.parametrize(
    ("words", "last_line"),
    [
        ("ls -r s3/inbox", "e"),
        ("ls -r --summarize s3/inbox", "Total size: 3 B (3)"),
        ("ls -r --json s3/inbox", '"e"'),
        ("du s3/inbox", "Total size: 3 B (3)"),
        ("find --type d s3/inbox", "s3/inbox/d/"),
        ("sync {tree} s3/inbox", ""),
        ("sync s3/inbox {tree}", ""),
    ],
)
def test_pages_are_read_by_columns(call: Call, tmp_path: Path, words: str, last_line: str) -> None:
    """A page's rows are made when one is asked for, and then all of them."""
    call("mb", "s3/inbox")
    for key in KEYS:
        path = tmp_path / "tree" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert call("sync", str(tmp_path / "tree"), "s3/inbox").code == 0

    with mock.patch.object(ObjectTable, "rows", mock.PropertyMock(side_effect=AssertionError("a row was made"))):
        result = call(*words.format(tree=tmp_path / "tree").split())

    assert result.code == 0
    assert last_line in (result.out + result.err).rpartition("\n")[0].rpartition("\n")[2]

"""Tables and templates of results."""

from __future__ import annotations

import io
import json

import pytest

from s3pool.cli.output import Output
from s3pool.cli.search import Found, check_words, fill
from s3pool.cli.tables import print_stats, table
from s3pool.errors import UsageError
from s3pool.model import ObjectInfo
from s3pool.pool.node import EndpointStats

TIME = "2026-01-22T20:44:33.219Z"


def test_table_aligns_columns() -> None:
    """Numbers to the right, no blanks at the end of a line."""
    lines = table(("name", "n", "note"), [("a", "1", ""), ("long name", "100", "x")], right=frozenset((1,)))

    assert ["name         n  note", "a            1", "long name  100  x"] == lines


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{}", "s3/b/d/k.txt"),
        ("{base}-{base}", "k.txt-k.txt"),
        ("{dir}", "s3/b/d"),
        ("{size} {time} {version}", f"3 {TIME} v"),
        ('{"base"} {""}', '"k.txt" "s3/b/d/k.txt"'),
        ("{url}", "signed:s3/b/d/k.txt"),
        ("{unknown} {{}} {", "{unknown} {s3/b/d/k.txt} {"),
    ],
)
def test_templates(template: str, expected: str) -> None:
    """Each word once, and nothing else touched."""
    found = Found("b", "d/k.txt", "d/k.txt", ObjectInfo("d/k.txt", 3, TIME, version_id="v"))

    assert expected == fill(template, found, lambda path: f"signed:{path}")


def test_template_does_not_read_its_own_words() -> None:
    """A key may hold braces."""
    found = Found("b", "{size}", "{size}", ObjectInfo("{size}", 3, TIME))

    assert "s3/b/{size} 3" == fill("{} {size}", found, str)


def test_stats_for_people_and_machines() -> None:
    """Kinds of failure and the last one are named."""
    row = EndpointStats("http://n:1", "open", 4, 2, 1, 1, 2048, 10, 0.5, "it refused", {"connect": 2}, 4)
    text, records = io.StringIO(), io.StringIO()

    print_stats([row], Output(stdout=io.BytesIO(), stderr=text))
    print_stats([row], Output(stdout=io.BytesIO(), stderr=records, json=True))

    assert [
        "endpoint    tries  failed  slow  again    sent  got     ms  circuit",
        "http://n:1      4       2     1      1  2.0KiB  10B  125.0  open",
        "http://n:1 failed: 2 x connect; last: it refused",
    ] == text.getvalue().splitlines()
    assert {"type": "stats", "endpoint": "http://n:1", "mean_ms": 125.0, "failure_kinds": {"connect": 2}}.items() <= (
        json.loads(records.getvalue()).items()
    )


@pytest.mark.parametrize("template", ["{typo}", '{"typo"}', "{} {Size}", "{base_name}"])
def test_unknown_word_is_refused_with_the_known_ones(template: str) -> None:
    """A typing error would be printed once for each object."""
    with pytest.raises(UsageError, match=r"unknown word .*\{base\} \{dir\} \{size\}"):
        check_words(template)


@pytest.mark.parametrize("template", ["{}", '{"base"}', '{"key": {"base"}}', "{{}}", "{ print $1 }", "{1}", "{"])
def test_braces_around_no_word_are_text(template: str) -> None:
    """Who prints JSON needs them."""
    check_words(template)

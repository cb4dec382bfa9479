"""Templates of results."""

from __future__ import annotations

import pytest

from s3pool.cli.commands.find import Found, check_words, fill
from s3pool.errors import UsageError
from s3pool.model import ObjectInfo

TIME = "2026-01-22T20:44:33.219Z"


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


@pytest.mark.parametrize("template", ["{typo}", '{"typo"}', "{} {Size}", "{base_name}"])
def test_unknown_word_is_refused_with_the_known_ones(template: str) -> None:
    """A typing error would be printed once for each object."""
    with pytest.raises(UsageError, match=r"unknown word .*\{base\} \{dir\} \{size\}"):
        check_words(template)


@pytest.mark.parametrize("template", ["{}", '{"base"}', '{"key": {"base"}}', "{{}}", "{ print $1 }", "{1}", "{"])
def test_braces_around_no_word_are_text(template: str) -> None:
    """Who prints JSON needs them."""
    check_words(template)

"""How the text of each option is read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.config.options import Config, Option, Setting
from s3pool.config.values import (
    expand_ranges,
    parse_bool,
    parse_bwlimit,
    parse_choice,
    parse_count,
    parse_endpoints,
    parse_seconds,
    parse_signed_text,
    parse_sticky,
    parse_text,
    parse_workers,
)
from s3pool.errors import ConfigError

count = parse_count(0, 10)
choice = parse_choice(("path", "virtual"))


@pytest.mark.parametrize(
    ("expected", "url"),
    [
        (["http://a"], "http://a"),
        (["http://n1:9", "http://n2:9", "http://n3:9"], "http://n{1...3}:9"),
        (["http://n08", "http://n09", "http://n10"], "http://n{08...10}"),
        (["http://n001", "http://n002"], "http://n{001...2}"),
        (["http://n0", "http://n1"], "http://n{0...1}"),
        (["http://n5"], "http://n{5...5}"),
        (["http://a1:80", "http://a1:81", "http://a2:80", "http://a2:81"], "http://a{1...2}:{80...81}"),
        (["http://n{1..3}"], "http://n{1..3}"),
    ],
)
def test_ranges_expand(expected: list[str], url: str) -> None:
    """Every range of a URL, zero padded when a bound is, the last running fastest."""
    assert expected == expand_ranges(url)


@given(st.integers(0, 500), st.integers(0, 500))
def test_range_stands_for_every_number(low: int, length: int) -> None:
    """Both bounds are included."""
    urls = expand_ranges(f"http://n{{{low}...{low + length}}}")

    assert [f"http://n{number}" for number in range(low, low + length + 1)] == urls


@pytest.mark.parametrize(
    "value", ["http://a:1,http://b", ["http://a:1", "http://b"], [" http://a:1 ,http://b/", "http://a:1"]]
)
def test_endpoints_are_a_list_or_a_text(value: object) -> None:
    """Blanks and repetitions drop out, the order stays."""
    assert ["http://a:1", "http://b"] == [endpoint.url for endpoint in parse_endpoints(value)]


@pytest.mark.parametrize(
    "value",
    [
        "http://a:1;zone=z1;weight=3,http://b{1...2};zone=2",
        ["http://a:1 ; weight=3 ; zone=z1", {"url": "http://b{1...2}", "zone": 2}],
        [{"url": "http://a:1;weight=3", "zone": "z1"}, {"url": "http://b1,http://b2", "zone": "2", "weight": 1}],
    ],
)
def test_endpoints_have_zones_and_weights(value: object) -> None:
    """In one spelling for the command line and one for YAML; what config shows can be given again."""
    endpoints = parse_endpoints(value)

    found = [(each.host, each.zone, each.weight) for each in endpoints]
    assert [("a", "z1", 3), ("b1", "2", 1), ("b2", "2", 1)] == found
    shown = Config.endpoints.text(endpoints)
    assert "http://a:1;zone=z1;weight=3,http://b1;zone=2,http://b2;zone=2" == shown
    assert found == [(each.host, each.zone, each.weight) for each in parse_endpoints(shown)]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("http://a;zone", "write zone=NAME or weight=N"),
        ("http://a;zone=b c", "bad endpoint 'http://a': zone: bad zone 'b c'"),
        ("http://a;weight=0", "weight: '0' is not between 1 and 100"),
        ("http://a;region=x", "has a zone and a weight, and no 'region'"),
        ("http://a;zone=1;weight=2;zone=2", "zone and weight can stand there once each"),
        ([{"url": "http://a;zone=1", "zone": "2"}], "zone and weight can stand there once each"),
        ([{"url": "http://a", "weight": 1.5}], "weight: 1.5 is not a whole number"),
        ([{"zone": "a"}], "holds nothing as url"),
        ([["http://a"]], "holds a list"),
        ("", "names no endpoint"),
        ([], "names no endpoint"),
        (5, "must be a list of URLs, not a number"),
        ([5], "holds a number"),
        ([None], "holds nothing"),
        ({"url": "http://a"}, "not a map"),
        ("node1:9000", "write http://host:port"),
        ("ftp://a", "write http://host:port"),
        ("http://", "write http://host:port"),
        ("http://a/path", "only scheme, host and port"),
        ("http://a:99999", "bad endpoint"),
        ("http://a b", "blanks and control characters"),
        ("http://a\nb", "blanks and control characters"),
        ("http://n{1..3}", r"write a range as \{1...4\}"),
        ("http://n{a,b}", r"write a range as \{1...4\}"),
        ("http://n{4...1}", "runs backwards"),
        ("http://n{1...999999}", "too long"),
        ("http://n{1...100}:{1...100}", "more than 1024"),
        ("http://a{1...1000},http://b{1...1000}", "more than 1024"),
        ("http://user:hush@a", "no user or password"),
    ],
)
def test_wrong_endpoints_say_why(value: object, match: str) -> None:
    """Nothing is guessed: a node without a scheme might be meant for TLS."""
    with pytest.raises((ValueError, ConfigError), match=match) as caught:
        parse_endpoints(value)

    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "parse", "value"),
    [
        ("x y", parse_text, "x y"),
        (True, parse_bool, True),
        (True, parse_bool, "YES"),
        (True, parse_bool, 1),
        (False, parse_bool, "off"),
        (False, parse_bool, "0"),
        (3.0, parse_seconds, 3),
        (0.25, parse_seconds, 0.25),
        (0.25, parse_seconds, "250ms"),
        (90.0, parse_seconds, "1m30s"),
        (0.0001, parse_seconds, 0.0001),
        (7, count, "7"),
        (7, count, " +7 "),
        (0, count, 0),
        (0, parse_workers, "auto"),
        (8, parse_workers, "8"),
        (0, parse_bwlimit, "none"),
        (0, parse_bwlimit, 0),
        (1536, parse_bwlimit, "1.5K/s"),
        ((1 << 20, 1024), parse_bwlimit, "1M:1K"),
        ((0, 1024), parse_bwlimit, ":1K"),
        ((1024, 0), parse_bwlimit, "1K:none"),
        (0, parse_bwlimit, "none:"),
        ("path", choice, "PATH"),
        ("", parse_sticky, False),
        ("", parse_sticky, "none"),
        ("key", parse_sticky, "key"),
    ],
)
def test_value_is_read(expected: object, parse: Callable[[object], object], value: object) -> None:
    """Texts of variables and values of YAML alike."""
    assert expected == parse(value)


@pytest.mark.parametrize(
    ("match", "parse", "value"),
    [
        ("must be text, not a number; put it in quotes", parse_text, 12),
        ("must be text, not a truth value", parse_text, True),
        ("must be text, not a list", parse_text, ["a"]),
        ("must not be empty", parse_text, ""),
        ("must be one line", parse_text, "a\r\nb: c"),
        ("must be UTF-8", parse_signed_text, "mars\udcff"),
        ("neither true nor false", parse_bool, "maybe"),
        ("neither true nor false", parse_bool, 2),
        ("neither true nor false", parse_bool, 1.0),
        ("not a number of seconds", parse_seconds, "soon"),
        ("must be a number, not a truth value", parse_seconds, True),
        ("more than 0", parse_seconds, 0),
        ("not a number of seconds", parse_seconds, -1),
        ("not a number of seconds", parse_seconds, float("inf")),
        ("not a number of seconds", parse_seconds, float("nan")),
        ("at most 86400", parse_seconds, "2d"),
        ("not a whole number", count, "1.5"),
        ("not a whole number", count, 1.5),
        ("not a whole number", count, ""),
        ("not between 0 and 10", count, -1),
        ("not between 0 and 10", count, "11"),
        ("must be a number, not a list", count, [1]),
        ("not a whole number", parse_workers, "many"),
        ("bad rate", parse_bwlimit, "fast"),
        ("choose one of path, virtual", choice, "pathh"),
        ("choose one of path, virtual", choice, 5),
        ("choose one of key", parse_sticky, "bucket"),
    ],
)
def test_value_that_cannot_be_read(match: str, parse: Callable[[object], object], value: object) -> None:
    """The problem in words; the option puts the place in front."""
    broken = Option(parse, None, "help")

    with pytest.raises(ConfigError, match=match) as caught:
        broken.read(Setting(value, "the place"))

    assert caught.value.message.startswith("the place: ")


def test_names_of_options_are_unique() -> None:
    """Two options with one name, key or variable would shadow each other."""
    names = [option.name for option in Config.OPTIONS]
    keys = [option.key for option in Config.OPTIONS]
    variables = [name for option in Config.OPTIONS for name in option.env]

    assert [len(set(names)), len(set(keys)), len(set(variables))] == [len(names), len(keys), len(variables)]

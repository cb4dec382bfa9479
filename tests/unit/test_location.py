"""Paths, joins and globs."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from s3pool.errors import RefusedError, UsageError
from s3pool.location import (
    LocalPath,
    Location,
    S3Path,
    StdStream,
    compile_glob,
    dest_for,
    glob_prefix,
    has_glob,
    parse,
    parse_s3,
)

KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (S3Path("", ""), "s3"),
        (S3Path("", ""), "s3/"),
        (S3Path("", ""), "s3://"),
        (S3Path("b", ""), "s3/b"),
        (S3Path("b", ""), "s3/b/"),
        (S3Path("b", ""), "s3://b"),
        (S3Path("b", "k"), "s3/b/k"),
        (S3Path("b", "k"), "s3://b/k"),
        (S3Path("b", "/k"), "s3/b//k"),
        (S3Path("b", "p/"), "s3/b/p/"),
        (S3Path("Big_Bucket.1", "k"), "s3/Big_Bucket.1/k"),
        (S3Path("tenant:b", "k"), "s3/tenant:b/k"),
        (S3Path("main", "k"), "s3:///k"),
        (S3Path("main", "a/b"), "s3//a/b"),
        (S3Path("main", ""), "s3:///"),
        (LocalPath("./s3/b"), "./s3/b"),
        (LocalPath("s3x/b"), "s3x/b"),
        (LocalPath("s3:b"), "s3:b"),
        (LocalPath("/tmp/a b"), "/tmp/a b"),
        (LocalPath("./-"), "./-"),
        (LocalPath("\udcff"), "\udcff"),
        (StdStream(), "-"),
    ],
)
def test_path_forms(expected: Location, text: str) -> None:
    """Both S3 forms are one; everything else is local or a stream."""
    assert expected == parse(text, default_bucket="main")


@pytest.mark.parametrize(
    "key", ["a//b", "a/../b", "a/./b", "..", "p/", "100%25", "a+b", "a;b", "new\nline", "\x01", "ä", "a\u0308", "?x=1"]
)
def test_keys_are_never_normalised(key: str) -> None:
    """Each of these is another object."""
    assert key == parse_s3(f"s3/bucket/{key}").key
    assert key == parse_s3(f"s3://bucket/{key}").key


@given(KEYS)
def test_text_of_a_path_means_the_same_path(key: str) -> None:
    """What a result shows can be pasted into the next command."""
    path = S3Path("bucket", key)

    assert path == parse_s3(path.text)
    assert path == parse_s3(f"s3://bucket/{key}")


@pytest.mark.parametrize("path", [S3Path("", ""), S3Path("bucket", "")])
def test_text_without_a_key_means_the_same_path(path: S3Path) -> None:
    """All buckets and one bucket have texts too."""
    assert path == parse_s3(path.text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("s3:///k", "S3_BUCKET"),
        ("s3//k", "S3_BUCKET"),
        ("", "empty"),
        ("S3://b/k", "bad path"),
        ("http://node1/b", "bad path"),
        ("a\0b", "NUL"),
        ("s3/../k", "bad bucket name"),
        ("s3/b\n/k", "bad bucket name"),
        ("s3/b*/k", "wildcards"),
        (f"s3/{'b' * 256}/k", "255"),
    ],
)
def test_path_without_sense_is_a_usage_error(text: str, match: str) -> None:
    """Before any request, with what to write instead."""
    with pytest.raises(UsageError, match=match):
        parse(text)


@pytest.mark.parametrize("text", ["dir/file", "-", "./s3/b"])
def test_s3_is_required_where_only_s3_makes_sense(text: str) -> None:
    """A local path given to ls is a slip."""
    with pytest.raises(UsageError, match="not in S3"):
        parse_s3(text)


def test_kinds_of_places() -> None:
    """Root, bucket, directory of keys and key are told apart."""
    root, bucket, prefix, key = S3Path(""), S3Path("b"), S3Path("b", "p/"), S3Path("b", "p")

    assert [True, False, False, False] == [path.is_root for path in (root, bucket, prefix, key)]
    assert [False, True, False, False] == [path.is_bucket for path in (root, bucket, prefix, key)]
    assert [True, True, True, False] == [path.is_prefix for path in (root, bucket, prefix, key)]


@pytest.mark.parametrize(("expected", "key"), [("", ""), ("p/", "p"), ("p/", "p/"), ("p//", "p//"), ("a/b/", "a/b")])
def test_tree_of_a_key_ends_at_a_slash(expected: str, key: str) -> None:
    """Recursive work on p never touches p2."""
    assert expected == S3Path("b", key).tree_prefix


@pytest.mark.parametrize(
    ("expected", "root", "key"),
    [
        ("a", "p", "p/a"),
        ("a", "p/", "p/a"),
        ("p/a", "", "p/a"),
        ("p", "p", "p"),
        ("c", "a/b/c", "a/b/c"),
        ("", "p/", "p/"),
        ("/a", "p", "p//a"),
    ],
)
def test_relative_key(expected: str, root: str, key: str) -> None:
    """The key itself counts as one file of its tree."""
    assert expected == S3Path("b", root).relative(key)


def test_relative_key_of_another_tree_is_a_mistake_of_ours() -> None:
    """p2 is not below p."""
    with pytest.raises(ValueError, match="not below s3/b/p"):
        S3Path("b", "p").relative("p2/a")


@pytest.mark.parametrize(("expected", "key"), [("p/a", "p"), ("p/a", "p/"), ("a", "")])
def test_join_goes_below(expected: str, key: str) -> None:
    """Copying a directory copies its contents, whatever the trailing slash."""
    assert S3Path("b", expected) == S3Path("b", key).join("a")


@pytest.mark.parametrize(
    ("expected", "source", "target"),
    [
        ("s3/b/p", "dir/f.txt", "s3/b/p"),
        ("s3/b/p/f.txt", "dir/f.txt", "s3/b/p/"),
        ("s3/b/f.txt", "dir/f.txt", "s3/b"),
        ("s3/b/f.txt", "dir/f.txt", "s3/b/"),
        ("s3/b/p/k", "s3/a/x/k", "s3/b/p/"),
        ("s3/b/p/x/", "s3/a/x/", "s3/b/p/"),
        ("s3/b/p", "-", "s3/b/p"),
        ("out/k", "s3/a/x/k", "out/"),
        ("here/k", "s3/a/x/k", "here"),
        ("out", "s3/a/x/k", "out"),
        ("-", "s3/a/x/k", "-"),
    ],
)
def test_one_file_lands_by_the_slash(expected: str, source: str, target: str) -> None:
    """A trailing slash or an existing directory appends the base name."""
    place = dest_for(parse(source), parse(target), is_directory=lambda path: path == "here")

    assert expected == place.text


def test_existing_directory_is_found_on_disk(tmp_path: object) -> None:
    """The real test of a directory is the default."""
    assert LocalPath(f"{tmp_path}/k") == dest_for(S3Path("b", "k"), LocalPath(str(tmp_path)))


def test_stream_needs_the_name_of_its_target() -> None:
    """Standard input has no base name to append."""
    with pytest.raises(UsageError, match="needs the name"):
        dest_for(StdStream(), S3Path("b", "p/"))


@pytest.mark.parametrize("key", ["..", "a/..", "a/.", "a/../", "//"])
def test_base_name_that_leaves_the_directory_is_refused(key: str) -> None:
    """A hostile key must not choose where it is written."""
    with pytest.raises(RefusedError, match="cannot be a file"):
        dest_for(S3Path("b", key), LocalPath("out/"))


@pytest.mark.parametrize(
    ("expected", "pattern"),
    [
        (("", True), "*"),
        (("a/", True), "a/*.log"),
        (("a", True), "a?"),
        (("a", True), "a[0-9]"),
        (("a[", False), "a["),
        (("a[", True), "a[*"),
        (("a]b", False), "a]b"),
        (("plain", False), "plain"),
        (("", True), "[]]"),
        (("[]", False), "[]"),
        (("[!]", False), "[!]"),
    ],
)
def test_literal_part_before_the_first_wildcard(expected: tuple[str, bool], pattern: str) -> None:
    """A listing starts from it; a bracket that never closes is a plain character."""
    assert expected == (glob_prefix(pattern), has_glob(pattern))


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("*", ["", "a", "a/b", "a\nb"], []),
        ("*.log", [".log", "a/b.log"], ["a.log2", "log"]),
        ("a?c", ["abc", "a/c", "a\nc", "aäc"], ["ac", "abbc"]),
        ("[abc]x", ["ax", "cx"], ["dx", "x"]),
        ("[!a]x", ["bx", "/x"], ["ax", "x"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("[a-c-]", ["b", "-"], ["d"]),
        ("[]a]", ["]", "a"], ["b"]),
        ("[!]a]", ["b"], ["]", "a"]),
        ("[z-a]", [], ["a", "z", "-"]),
        ("[!z-a]", ["a", "\n"], ["", "ab"]),
        (r"[\d]", ["\\", "d"], ["1"]),
        ("[[&&|~~--]", ["[", "&", "|", "~"], ["a"]),
        ("[", ["["], ["a"]),
        ("a.b+c", ["a.b+c"], ["axb+c", "a.bbc"]),
        ("a*b*c", ["abc", "a/b/c", "abbcc"], ["acb", "abcd"]),
        ("**", ["", "a/b"], []),
        ("*a*", ["a", "bab"], ["b"]),
    ],
)
def test_glob(pattern: str, names: list[str], others: list[str]) -> None:
    """Stars cross slashes, sets negate with ! and ^, all else is literal."""
    matches = compile_glob(pattern)

    assert names == [name for name in names if matches(name)]
    assert [] == [name for name in others if matches(name)]


@given(st.text("ab*?[]!-/\n", max_size=10), st.text("ab!-/[]\n", max_size=10))
def test_glob_agrees_with_fnmatch(pattern: str, name: str) -> None:
    """The standard library's translation is the oracle."""
    # fnmatch takes out ranges that run backwards, and then a ! that comes to stand first for a negation (Python 3.11).
    assume("!" not in pattern or all(low <= high for low, high in re.findall(r"(?=(.)-(.))", pattern, re.DOTALL)))
    expected = re.match(fnmatch.translate(pattern), name) is not None

    assert expected == compile_glob(pattern)(name)


@given(st.text("ab*?[]!-/", max_size=12), st.text("ab/", max_size=12))
def test_every_match_starts_with_the_literal_part(pattern: str, name: str) -> None:
    """Else a listing that starts there would miss it."""
    assert not compile_glob(pattern)(name) or name.startswith(glob_prefix(pattern))


def test_many_stars_take_no_exponential_time() -> None:
    """A naive translation would run for years on this one."""
    assert not compile_glob("*a" * 40 + "b")("a" * 2000)

"""The fast page parser: what it takes, what it leaves, and that it agrees with expat on everything."""

from __future__ import annotations

import os
import re
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pool.errors import ProtocolError
from s3pool.model import ListPage
from s3pool.s3 import page_scanner
from s3pool.s3.page_scanner import split_page
from s3pool.s3.pages import ObjectTable, parse_list_page, parse_versions_page
from tests.support.list_pages import MARKER, SERVERS, URL, VERSION, page, versions_page

FUZZ_EXAMPLES = int(os.environ.get("S3POOL_FUZZ_EXAMPLES", "400"))  # millions: test_damaged_pages


def slowly(body: bytes) -> ListPage:
    """Read a list page with expat alone."""
    with mock.patch.object(page_scanner, "split_page", return_value=None):
        return parse_list_page(body)


def outcome(body: bytes, *, fast: bool) -> ListPage | str:
    """Give a page, or that it is refused."""
    try:
        return parse_list_page(body) if fast else slowly(body)
    except ProtocolError:
        return "refused"


def is_taken(body: bytes) -> bool:
    """Say whether the fast parser reads the page by itself."""
    answer = outcome(body, fast=True)
    return isinstance(answer, ListPage) and isinstance(answer.objects, ObjectTable)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    "keys",
    [
        ["a", "b"],
        ["d%2Fa+b%20c", "%C3%A9%F0%9F%98%80", "%FF"],
        ["a%2B%2541%25", "x%01"],
        ["&apos;&amp;&lt;&gt;&quot;amp;"],
        [" lead", "trail ", "é\U0001f600"],
        [f"%{value:02X}{value}" for value in range(0x80, 0xD0)],
    ],
)
def test_the_pages_of_real_servers_are_taken(server: str, keys: list[str]) -> None:
    """Each in its own order of fields, its own quotes and its own encoding, as expat reads it."""
    body = page(server, keys)

    assert is_taken(body)
    assert slowly(body) == parse_list_page(body)


def test_a_page_without_encoding_is_taken_as_it_is() -> None:
    """Percent signs then are characters."""
    body = page("aws", ["a%41+b"], encoding="")

    assert is_taken(body)
    assert ["a%41+b"] == [entry.key for entry in parse_list_page(body).objects]


def test_a_page_with_several_storage_classes_is_taken() -> None:
    """The first object's class is only a guess for the others."""
    body = page("rgw", ["a", "b"]).replace(b"STANDARD", b"COLD", 1)

    assert is_taken(body)
    assert ["COLD", "STANDARD"] == [entry.storage_class for entry in parse_list_page(body).objects]


def test_a_page_with_several_owners_is_taken() -> None:
    """Nothing is made of them, and so they may differ."""
    body = page("minio", ["a", "b"]).replace(b"<ID>02d6176d</ID>", b"<ID>other</ID>", 1)

    assert is_taken(body)
    assert slowly(body) == parse_list_page(body)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<Type>Normal</Type>", b"<Typo>Normal</Typo>"),
        (b"<Type>Normal</Type>", b"<Type>No<!>l</Type>"),
        (b"&quot;</ETag>", b"&quat;</ETag>"),
        (b"</Key><LastModified>", b"</Kez><LastModified>"),
        (b"T20:44:33.219Z</Last", b"T20:44x33.219Z</Last"),
        (b"<Contents>", b"<Cantents>"),
        (b"<Key>b", b"<Kay>b"),
    ],
)
def test_text_of_the_same_length_is_no_substitute(old: bytes, new: bytes) -> None:
    """What is passed by its length is compared afterwards, in each block."""
    head, _, last = page("rgw", ["a", "b"]).rpartition(b"<Contents>")
    body = head + (b"<Contents>" + last).replace(old, new, 1)

    assert old in b"<Contents>" + last
    assert not is_taken(body)
    assert outcome(body, fast=False) == outcome(body, fast=True)


@pytest.mark.parametrize("child", [b"LastModified", b"Size", b"ETag"])
def test_a_page_with_keys_in_another_place_is_taken(child: bytes) -> None:
    """The order of children is each server's own."""
    body = with_first(child, page("rgw", ["a", "b"]))

    assert is_taken(body)
    assert slowly(body) == parse_list_page(body)


def with_first(child: bytes, body: bytes) -> bytes:
    """Move a child to the front of each block."""
    element = rb"<%b>[^<]*</%b>" % (child, child)
    return re.sub(rb"<Contents>(.*?)(%b)" % element, rb"<Contents>\2\1", body)


def test_times_of_odd_lengths_are_left_to_expat() -> None:
    """Two that are too short and too long together are as long as two sound ones."""
    body = with_first(b"LastModified", page("rgw", ["a", "b"]))
    first, second = body.split(b"</Contents><Contents>")
    body = first.replace(b"Z</Last", b"</Last") + b"</Contents><Contents>" + second.replace(b"fied>2", b"fied>Z2", 1)

    assert b"<LastModified>Z2" in body
    assert not is_taken(body)
    assert outcome(body, fast=False) == outcome(body, fast=True)


def test_times_with_and_without_milliseconds_are_left_to_expat() -> None:
    """A server tells all in one way, or nobody knows what it means."""
    body = page("versitygw", ["a", "b"]).replace(b"33Z", b"33.219Z", 1)

    assert not is_taken(body)
    assert outcome(body, fast=False) == outcome(body, fast=True)


def test_children_that_are_missing_have_defaults() -> None:
    """ETag and storage class may be absent."""
    body = page("rgw", ["a"])
    for child in (
        b"<StorageClass>STANDARD</StorageClass>",
        b"<ETag>&quot;9dd4e461268c8034f5c8564e155c67a6&quot;</ETag>",
    ):
        body = body.replace(child, b"")

    assert is_taken(body)
    assert slowly(body) == parse_list_page(body)


ONE = page("rgw", ["a", "b"])
KEY = b"<Key>a</Key>"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (KEY, b"<Key><![CDATA[a]]></Key>"),
        (KEY, b"<Key>a<!-- c --></Key>"),
        (KEY, b"<Key>a&#65;</Key>"),
        (KEY, b"<Key>a&#x01;</Key>"),
        (KEY, b"<Key>a%0A</Key>"),
        (KEY, b"<Key>a%zz</Key>"),
        (KEY, b"<Key>a>b</Key>"),
        (KEY, b"<Key>a\rb</Key>"),
        (KEY, b"<Key>a\xef\xbf\xbe</Key>"),
        (KEY, b"<Key x='1'>a</Key>"),
        (KEY, KEY + b" "),
        (KEY, KEY + KEY),
        (KEY, KEY + b"<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress></RestoreStatus>"),
        (KEY, b"<Key/>"),
        (KEY, b"<Key></Key>"),
        (KEY, b"<Key>\xff</Key>"),
        (b"<Size>0</Size>", b""),
        (b"<Size>0</Size>", b"<Size>0000000000000000000</Size>"),
        (b"33.219Z", b"33.2Z"),
        (b"</Contents><Contents>", b"</Contents>\n<Contents>"),
        (b"</Contents><Contents>", b"</Contents><x/><Contents>"),
        (b"</Contents><Contents>", b"</Contents><Contents/><Contents>"),
        (b"<Contents><Key>b", b"<Contents a='1'><Key>b"),
        (b"<?xml version", b"<!-- c --><?xml version"),
        (b"<Name>", b"<!DOCTYPE x><Name>"),
        (b"<ListBucketResult ", b"<!DOCTYPE x [<!ENTITY quot 'x'>]><ListBucketResult "),
        (b"<ListBucketResult ", b"<ListBucketResult a='<Contents>' "),
        (b"<Name>bkt</Name>", b"<Name>bkt"),
        (b"<Name>bkt</Name>", b"<Wrap>"),
        (b'encoding="UTF-8"', b'encoding="ISO-8859-1"'),
        (b"<Type>Normal</Type>", b"<Type>&unknown;</Type>"),
        (b"<Type>Normal</Type>", b"<Type>No\x01rmal</Type>"),
    ],
)
def test_anything_unusual_is_left_to_expat(old: bytes, new: bytes) -> None:
    """And both then give the same, be it a page or a refusal."""
    body = ONE.replace(old, new)

    assert body != ONE
    assert not is_taken(body)
    assert outcome(body, fast=False) == outcome(body, fast=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"</ListBucketResult>", b"<Contents/></ListBucketResult>"),
        (b"</ListBucketResult>", b"<Contents x='1'></Contents></ListBucketResult>"),
        (b"</ListBucketResult>", b""),
        (b"</ListBucketResult>", b"</ListBucketResult>x"),
        (b"<IsTruncated>true</IsTruncated>", b""),
        (b"<NextContinuationToken>a&#x01;</NextContinuationToken>", b""),
        (b"<EncodingType>url</EncodingType>", b"<EncodingType>other</EncodingType>"),
    ],
)
def test_the_rest_of_a_page_is_checked_as_ever(old: bytes, new: bytes) -> None:
    """A page that is cut or incomplete does not count, whoever reads its objects."""
    body = ONE.replace(old, new)

    assert body != ONE
    assert "refused" == outcome(body, fast=True)
    assert "refused" == outcome(body, fast=False)


@pytest.mark.parametrize(
    "blocks",
    [
        [VERSION, VERSION],
        [MARKER, MARKER],
        [VERSION, MARKER, VERSION],
        [MARKER, VERSION, VERSION.replace("COLD", "STANDARD")],
    ],
)
def test_versions_and_delete_markers_are_taken_in_their_order(blocks: list[str]) -> None:
    """Also when both kinds stand on one page."""
    body = versions_page(blocks)

    with mock.patch.object(page_scanner, "split_page", return_value=None):
        expected = parse_versions_page(body)

    assert split_page(body, "Version", "DeleteMarker") is not None
    assert expected == parse_versions_page(body)


KEY_TEXT = st.one_of(
    st.text(alphabet="abc/ .-~*'", min_size=1, max_size=8),
    st.lists(
        st.sampled_from(
            [
                "a",
                "%2F",
                "%20",
                "+",
                "%C3%A9",
                "%c3",
                "%25",
                "%4",
                "%%",
                "%3D",
                "=",
                "=41",
                "%2541",
                "%0A",
                "%01",
                "%",
                "&amp;",
                "&lt;",
                "&#65;",
                "&#x1;",
                "é",
                "]]",
                "\U0001f600",
                "\ufffe",
            ]
        ),
        min_size=1,
        max_size=6,
    ).map("".join),
)
FRAGMENTS = st.sampled_from(
    [
        *(bytes([byte]) for byte in b'<>&/%" \n\r\x00\x01\xff'),
        *(b"&amp;", b"&#65;", b"&#x1;", b"&x;", b"\xef\xbf\xbe", b"]]>", b" xmlns='u'", b" a='b'", b"<x:Key>"),
        *(b"&quot;", b"&#34;", b"&#56;", b"0", b"2026-01-22T20:44:33.219Z", b"STANDARD"),
        *(b"<Contents>", b"</Contents>", b"<Contents/>", b"<Key>", b"</Key>", b"<Size>1</Size>", b"<x/>", b"<x>y</x>"),
        *(b"<!-- c -->", b"<![CDATA[x]]>", b"<?pi x?>", b"<!DOCTYPE x>", b"<IsTruncated>false</IsTruncated>"),
        b"<Contents><Key>z</Key><LastModified>2026-01-22T20:44:33.219Z</LastModified><Size>1</Size></Contents>",
        URL.encode(),
    ]
)
PLACE = st.floats(0, 1)
MUTATION = st.one_of(
    st.tuples(st.just("insert"), PLACE, FRAGMENTS),
    st.tuples(st.just("cut"), PLACE, st.integers(1, 60)),
    st.tuples(st.just("flip"), PLACE, st.integers(1, 255)),
    st.tuples(st.just("repeat"), PLACE, st.integers(1, 300)),
    st.tuples(st.just("swap"), PLACE, st.sampled_from([b"Key", b"Size", b"ETag", b"StorageClass", b"Type", b"Owner"])),
)


def mutate(body: bytes, mutation: tuple[str, float, bytes | int]) -> bytes:
    """Damage a page at one place."""
    kind, place, what = mutation
    at = int(place * len(body))
    if kind == "insert" and isinstance(what, bytes):
        return body[:at] + what + body[at:]
    if kind == "swap" and isinstance(what, bytes):
        return body[:at] + body[at:].replace(what, b"Size" if what == b"Key" else b"Key", 2)
    assert isinstance(what, int)
    if kind == "cut":
        return body[:at] + body[at + what :]
    if kind == "repeat":
        return body[:at] + body[at : at + what] + body[at:]
    return body[:at] + bytes(byte ^ what for byte in body[at : at + 1]) + body[at + 1 :]


@settings(max_examples=FUZZ_EXAMPLES, deadline=None)
@given(
    server=st.sampled_from(SERVERS),
    keys=st.lists(KEY_TEXT, max_size=4),
    encoding=st.sampled_from([URL, URL, "", "<EncodingType/>"]),
    mutations=st.lists(MUTATION, max_size=3),
)
def test_both_parsers_agree_on_damaged_pages(
    server: str, keys: list[str], encoding: str, mutations: list[tuple[str, float, bytes | int]]
) -> None:
    """What expat reads, the fast parser reads the same or leaves alone; what it refuses is refused."""
    body = page(server, keys, encoding=encoding)
    for mutation in mutations:
        body = mutate(body, mutation)

    assert outcome(body, fast=False) == outcome(body, fast=True)

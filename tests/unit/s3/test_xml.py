"""How S3's XML becomes a tree, and what is refused."""

from __future__ import annotations

import pytest

from s3pool.errors import ProtocolError
from s3pool.s3.documents import is_xml_text, parse


def text_of_a(body: bytes) -> str:
    """Read the text of the only element."""
    return parse(body).text_of("a")


def test_text_keeps_its_blanks_and_line_breaks() -> None:
    """A key may begin or end with blanks, and trimming would name another object."""
    body = b"<r><a>  x \n </a></r>"

    assert text_of_a(body) == "  x \n "


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (b"&lt;&gt;&amp;&quot;&apos;", "<>&\"'"),
        (b"&#65;&#x42;&#xe9;", "ABé"),
        (b"<![CDATA[<b>&amp;]]>c", "<b>&amp;c"),
        (b"x<!-- y -->z", "xz"),
        ("\U0001f600".encode(), "\U0001f600"),
        (b"&#13;\r\n", "\r\n"),
    ],
)
def test_every_way_to_write_text_is_understood(written: bytes, meant: str) -> None:
    """Servers write the same key by entities, references or CDATA."""
    assert text_of_a(b"<r><a>" + written + b"</a></r>") == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (b"&#x01;", "\x01"),
        (b"a&#1;b&#x1F;", "a\x01b\x1f"),
        (b"\x01raw", "\x01raw"),
        ("\ufffe".encode(), "\ufffe"),
        (b"&#xFFFF;", "\uffff"),
        (b"&#0;", "\x00"),
        (b"<![CDATA[&#x01;]]>&#x02;", "&#x01;\x02"),
        ("\U000f0000&#x01;&#xF0001;".encode(), "\U000f0000\x01\U000f0001"),
    ],
)
def test_characters_that_xml_forbids_come_back(written: bytes, meant: str) -> None:
    """RGW writes them as references, and one such key must not hide a whole page."""
    assert text_of_a(b"<r><a>" + written + b"</a></r>") == meant


def test_names_lose_the_namespace_of_the_root() -> None:
    """AWS has a namespace, some servers have none, and some write a prefix."""
    with_default = parse(b'<r xmlns="urn:s3"><a>1</a></r>')
    with_prefix = parse(b'<s:r xmlns:s="urn:s3"><s:a>1</s:a></s:r>')

    assert ("r", "1") == (with_default.name, with_default.text_of("a"))
    assert ("r", "1") == (with_prefix.name, with_prefix.text_of("a"))


def test_an_element_of_another_namespace_is_another_element() -> None:
    """Only S3's own Key is a key."""
    root = parse(b'<r xmlns="urn:s3" xmlns:o="urn:other"><o:a>1</o:a><a>2</a></r>')

    assert "2" == root.text_of("a")
    assert ["2"] == [element.text for element in root.all("a")]


def test_an_element_with_children_has_no_text() -> None:
    """The line breaks that indent a page are not part of any name."""
    root = parse(b"<r>\n <a>\n  <b>1</b>\n </a>\n</r>")

    assert "" == root.text_of("a")
    assert {"b": "1"} == root.children[0].fields()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no xml",
        b"<r><a>1</a>",
        b"<r><a>1</r></a>",
        b"<r/><r/>",
        b"<r><a>&unknown;</a></r>",
        b"<r><a>&#xD800;</a></r>",
        b"<r><a>&#x110000;</a></r>",
        b"<r><a>\xff</a></r>",
        b"<r><a>\x01</r>",
        b"<r><a>\x00</a></r>",
        b'<?xml version="1.0" encoding="URF-8"?><r><a>1</a></r>',
        b'<?xml version="1.0" encoding="shift_jis"?><r><a>1</a></r>',
    ],
)
def test_broken_xml_is_a_protocol_error(body: bytes) -> None:
    """What cannot be read whole must not be read in part."""
    with pytest.raises(ProtocolError, match="broken XML: "):
        parse(body)


def test_an_element_with_thousands_of_attributes_is_refused_unread() -> None:
    """S3's have two at most, and expat collects all of them before anybody can refuse."""
    attributes = b" ".join(b'a%d=""' % number for number in range(10_000))

    with pytest.raises(ProtocolError, match="more attributes"):
        parse(b"<r><a " + attributes + b">1</a></r>")

    assert "1" == text_of_a(b"<r><a " + attributes[:60_000].rpartition(b" ")[0] + b">1</a></r>")


@pytest.mark.parametrize(
    "declaration", [b"<!DOCTYPE r>", b'<!DOCTYPE r [<!ENTITY e "x">]>', b'<!DOCTYPE r SYSTEM "u">']
)
def test_a_doctype_is_refused(declaration: bytes) -> None:
    """Entities of a DTD can grow a small answer beyond all memory."""
    with pytest.raises(ProtocolError, match="DOCTYPE"):
        parse(declaration + b"<r><a>1</a></r>")


def test_a_page_that_uses_every_private_marker_is_broken() -> None:
    """Hiding illegal characters needs one character that means nothing else."""
    used = "".join(chr(0xF0000 + index) for index in range(64)).encode()

    with pytest.raises(ProtocolError, match="broken XML"):
        parse(b"<r><a>" + used + b"&#x01;</a></r>")


@pytest.mark.parametrize(
    ("texts", "can"),
    [
        (["plain", "\t\r\n", "é\U0010ffff", "\x7f"], True),
        (["\x00", "a\x01", "\x1f", "\ufffe", "\uffff", "\udcff"], False),
    ],
)
def test_only_legal_text_can_stand_in_xml(texts: list[str], can: bool) -> None:
    """A batch delete with another key would be refused as a whole."""
    assert {can} == set(map(is_xml_text, texts))

"""The fast page parser on pages that are damaged in every way: it agrees with expat, page by page."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from itertools import islice
from random import Random
from unittest import mock

from s3pool.cli.formats import TextLines
from s3pool.cli.output import escape
from s3pool.errors import ProtocolError
from s3pool.model import ListPage
from s3pool.s3 import documents, page_scanner
from s3pool.s3.documents import Element
from s3pool.s3.pages import ObjectTable, parse_list_page, parse_versions_page
from tests.support.list_pages import iter_damaged_pages

PAGES = int(os.environ.get("S3POOL_FUZZ_PAGES", "2000"))
SEED = int(os.environ.get("S3POOL_FUZZ_SEED", "1"))
BATCH = 1000  # pages read by one parser before the next one gets them
REFUSED = "refused"


def read(body: bytes) -> ListPage | str:
    """Give a page, or that it is refused."""
    try:
        return parse_versions_page(body) if b"<ListVersionsResult>" in body else parse_list_page(body)
    except ProtocolError:
        return REFUSED


def remembering(parse: Callable[[bytes], Element]) -> Callable[[bytes], Element]:
    """Read each document with expat once only: most pages are left to it by the other ways too."""
    answers: dict[bytes, Element | ProtocolError] = {}

    def parse_once(body: bytes) -> Element:
        if body not in answers:
            try:
                answers[body] = parse(body)
            except ProtocolError as exc:
                answers[body] = exc
        answer = answers[body]
        if isinstance(answer, ProtocolError):
            raise answer.with_traceback(None)
        return answer

    return parse_once


def nothing(*_: object) -> None:
    """Stand for what is not to be used; a mock would cost as much as a page."""


def lines(answer: ListPage | str) -> bytes:
    """Return what is printed of a page."""
    return TextLines(escape, exact=True).objects(answer.objects) if isinstance(answer, ListPage) else b""


def parsers_agree(bodies: list[bytes], ways: Counter[str]) -> None:
    """Read pages in both ways and compare; count who read them."""
    with mock.patch.object(documents, "parse", remembering(documents.parse)):
        fast = list(map(read, bodies))
        with mock.patch.object(page_scanner, "split_page", nothing):
            expat = list(map(read, bodies))
    for body, *answers in zip(bodies, fast, expat, strict=True):
        ways[way(answers[0])] += 1
        assert answers[0] == answers[1], f"seed {SEED}: {body!r}"
        assert lines(answers[0]) == lines(answers[1]), f"seed {SEED}: {body!r}"


def way(answer: ListPage | str) -> str:
    """Say what became of a page."""
    if not isinstance(answer, ListPage):
        return REFUSED
    return "columns" if isinstance(answer.objects, ObjectTable) else "objects"


def test_the_parsers_agree_on_every_damaged_page() -> None:
    """What expat reads the fast parser reads alike or leaves alone, and prints alike.

    S3POOL_FUZZ_PAGES says how many pages are compared: 3,000,000 take about an hour of one processor. S3POOL_FUZZ_SEED
    gives others than the last time. Under ``pytest -s`` it tells every hundred thousand pages what became of them.
    """
    ways: Counter[str] = Counter()
    bodies = iter_damaged_pages(Random(SEED))

    for done in range(0, PAGES, BATCH):
        parsers_agree(list(islice(bodies, min(BATCH, PAGES - done))), ways)
        if (done + BATCH) % 100_000 == 0:
            print(f"{done + BATCH} pages: {dict(ways)}", flush=True)

    # None of the ways is there in name only.
    assert PAGES == ways.total()
    assert all(ways[name] > PAGES / 10 for name in ("columns", "objects", REFUSED)), ways

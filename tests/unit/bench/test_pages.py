from __future__ import annotations

from pathlib import Path

from s3pool.s3.pages import parse_list_page
from tests.bench.pages import Listed, trailing_number, write_pages

OBJECTS = [Listed(f"d/{number:06}", number) for number in range(2001)]


def test_chain_leads_from_page_to_page_to_the_end(tmp_path: Path) -> None:
    """The token of each names the file of the next, and all keys come once."""
    count = write_pages(tmp_path, "b", objects=OBJECTS)

    keys, name, pages = [], "first", 0
    while name:
        page = parse_list_page((tmp_path / f"{name}.xml").read_bytes())
        keys += [found.key for found in page.objects]
        name, pages = trailing_number(page.next_token or ""), pages + 1
    assert (3, 3) == (count, pages)
    assert [found.key for found in OBJECTS] == keys


def test_empty_bucket_has_one_page(tmp_path: Path) -> None:
    """Clients look at where they copy to."""
    assert 1 == write_pages(tmp_path, "b", objects=[])
    assert not parse_list_page((tmp_path / "first.xml").read_bytes()).objects

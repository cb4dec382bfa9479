"""Whether a page of a listing is an answer to what was asked: in one place, for all commands.

What a server lists is deleted, and what it leaves out may be deleted on the other side, so a
page that does not fit its request is no page: another node is asked. Names that are not above
the cursor, and a page without order, are the business of those who know the pages before:
some servers are like that, and are listed in another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from operator import le, lt

from s3pool.errors import ProtocolError
from s3pool.model import ListPage
from s3pool.record import replace
from s3pool.s3.columns import name_order, names_of
from s3pool.s3.results import UploadPage


def check_page(page: ListPage, *, prefix: str, delimiter: str = "", repeats: bool = False) -> ListPage:
    """Return the page, and whether it is in order; with ``repeats`` a key may come several times in a row.

    Raises:
        ProtocolError: a name is not below the prefix, or not rolled up at the delimiter.
    """
    names = names_of(page.objects)
    is_ordered = all(map(le if repeats else lt, names, islice(names, 1, None)))
    start = name_order(prefix)
    # What is between two names in order begins like both.
    check_names((names[0], names[-1]) if names and is_ordered else names, start)
    if page.prefixes:
        groups = list(map(name_order, page.prefixes))
        check_names(groups, start)
        is_ordered = is_ordered and all(map(lt, groups, islice(groups, 1, None)))
    if delimiter:
        _check_rolled_up(names, page.prefixes, start, delimiter.encode())
    return replace(page, is_ordered=is_ordered)


def check_uploads(page: UploadPage, *, prefix: str) -> UploadPage:
    """Return the page; raises ProtocolError for an upload to a key that is not below the prefix."""
    check_names([name_order(upload.key) for upload in page.uploads], name_order(prefix))
    return page


def check_names(names: Sequence[bytes], prefix: bytes) -> None:
    """Raise ProtocolError for a name that is not below the prefix."""
    if prefix and not all(name.startswith(prefix) for name in names):
        bad = next(name for name in names if not name.startswith(prefix))
        asked, got = (text.decode("utf-8", "backslashreplace") for text in (prefix, bad))
        raise ProtocolError(f"a listing below {asked!r} has {got!r}, so the server ignored the prefix")


def _check_rolled_up(names: Sequence[bytes], groups: Sequence[str], prefix: bytes, delimiter: bytes) -> None:
    """Raise ProtocolError for what should be in a group.

    A name may end in the delimiter: some servers list the object that stands for a directory by itself.
    """
    if not all(group.endswith(delimiter.decode()) for group in groups):
        raise ProtocolError("a common prefix of a listing does not end in the delimiter")
    if any(0 <= name.find(delimiter, len(prefix)) < len(name) - len(delimiter) for name in names):
        raise ProtocolError("a listing has names behind the delimiter, so the server ignored it")

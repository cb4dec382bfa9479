"""Whole listings over servers that each have their own idea of a page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s3pool.errors import ProtocolError, S3Error
from s3pool.model import ListPage, ObjectInfo, UploadInfo
from s3pool.s3.documents import UploadPage
from s3pool.s3.list_all import iter_uploads
from s3pool.s3.paging import iter_pages, iter_version_pages
from tests.support.memory_lister import order

TIME = "2026-01-22T20:44:33.000Z"


class FakeLister:
    """A server's listing with its quirks; tokens are places in the server's own order.

    ``rolls_up`` is RGW's manner: a start-after inside a group leaves the group out. Without
    it the group is listed as long as one of its keys is greater, as AWS does.
    """

    def __init__(
        self,
        keys: Sequence[str],
        *,
        page_size: int = 3,
        rolls_up: bool = True,
        inclusive: bool = False,
        deaf: bool = False,
        refuses: bool = False,
        every_other_empty: bool = False,
        make_token: Callable[[int], str] = str,
        sort: bool = True,
    ) -> None:
        self.keys = sorted(keys, key=order) if sort else list(keys)
        self.page_size = page_size
        self.rolls_up = rolls_up
        self.inclusive = inclusive
        self.deaf = deaf
        self.refuses = refuses
        self.every_other_empty = every_other_empty
        self.make_token = make_token
        self.asked: list[tuple[str, str, int]] = []

    def list_objects_page(
        self,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        start_after: str = "",
        token: str = "",
        max_keys: int = 1000,
    ) -> ListPage:
        """Give the page that such a server would give."""
        self.asked.append((start_after, token, max_keys))
        if start_after and self.refuses:
            raise S3Error(400, "InvalidArgument")
        names = self._names(prefix, delimiter, "" if self.deaf else start_after)
        first = self._place(token, names)
        if token and self.every_other_empty and "+" not in token:
            return ListPage((), (), True, next_token=token + "+")
        size = min(self.page_size, max_keys)
        page = names[first : first + size]
        truncated = first + size < len(names)
        return ListPage(
            tuple(ObjectInfo(name, 1, TIME) for name, is_group in page if not is_group),
            tuple(name for name, is_group in page if is_group),
            truncated,
            next_token=self.make_token(len(self._names(prefix, delimiter, "")) - len(names) + first + size)
            if truncated
            else "",
        )

    def _place(self, token: str, names: list[tuple[str, bool]]) -> int:
        place = token.rstrip("+")
        return next((index for index in range(len(names) + 1) if self.make_token(index) == place), 0)

    def _names(self, prefix: str, delimiter: str, start_after: str) -> list[tuple[str, bool]]:
        names: dict[tuple[str, bool], None] = {}
        for key in self.keys:
            if not key.startswith(prefix):
                continue
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            group = key[: end + len(delimiter)] if end >= 0 else ""
            if self._is_listed(key, group, start_after):
                names[group or key, bool(group)] = None
        return list(names)

    def _is_listed(self, key: str, group: str, start_after: str) -> bool:
        if group and self.rolls_up and start_after.startswith(group):
            return False
        return order(key) > order(start_after) or (self.inclusive and key == start_after)

    def list_versions_page(self, bucket: str, **options: str) -> ListPage:
        """Refuse: these tests list no versions here."""
        raise NotImplementedError

    def list_uploads_page(self, bucket: str, **options: str) -> UploadPage:
        """Refuse: these tests list no uploads here."""
        raise NotImplementedError


def minio_token(index: int) -> str:
    """Write a token as MinIO does."""
    return base64.b64encode(b"key%d[minio_cache:v2,return:]" % index).decode()


class Asked:
    """A page of a FakeLister that was asked for ahead; it may go wrong."""

    def __init__(self, ahead: AheadOf, page: ListPage | S3Error) -> None:
        self._ahead = ahead
        self.page = page

    def finish(self) -> ListPage:
        """Return the page, or raise what became of it."""
        self._ahead.log.append("taken")
        if isinstance(self.page, S3Error):
            raise self.page
        return self.page

    def abandon(self) -> None:
        """Note that its connection was given back."""
        self._ahead.log.append("abandoned")


class AheadOf:
    """Asks a lister ahead; every so many times it cannot be done, or is answered in V1's manner."""

    def __init__(self, lister: FakeLister, *, cannot: int = 0, v1: int = 0) -> None:
        self.lister = lister
        self.log: list[str] = []
        self._cannot, self._v1 = cannot, v1
        self._count = 0

    def __call__(self, bucket: str, *, prefix: str, delimiter: str, start_after: str) -> Asked | None:
        """Ask for a page."""
        self._count += 1
        if self._cannot and not self._count % self._cannot:
            return None
        self.log.append(f"asked after {start_after}")
        try:
            page = self.lister.list_objects_page(bucket, prefix=prefix, delimiter=delimiter, start_after=start_after)
        except S3Error as exc:
            return Asked(self, exc)
        if self._v1 and not self._count % self._v1:
            page = ListPage((), (), truncated=True, next_token="elsewhere", v1=True)
        return Asked(self, page)


def listed(lister: FakeLister, ahead: AheadOf | None = None, **options: str) -> tuple[list[str], list[str]]:
    """List all pages and give keys and prefixes in the order in which they came."""
    pages = list(iter_pages(lister, "bkt", ahead=ahead, **options))
    return [entry.key for page in pages for entry in page.objects], [name for page in pages for name in page.prefixes]


def expected(
    keys: Sequence[str], *, prefix: str = "", delimiter: str = "", start_after: str = ""
) -> tuple[list[str], list[str]]:
    """Work out a listing the slow way."""
    objects, groups = [], []
    for key in sorted(keys, key=order):
        if not key.startswith(prefix) or order(key) <= order(start_after):
            continue
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        group = key[: end + len(delimiter)]
        if end < 0:
            objects.append(key)
        elif group not in groups:
            groups.append(group)
    return objects, groups


NAMES = st.text(
    alphabet=["a", "b", "/", "0", ".", "é", "\ufffd", "\U0001f600", "\U0010ffff", "\udcff", "\x01"],
    min_size=1,
    max_size=5,
)
QUIRKS = st.fixed_dictionaries(
    {
        "page_size": st.integers(1, 4),
        "rolls_up": st.booleans(),
        "inclusive": st.booleans(),
        "deaf": st.booleans(),
        "refuses": st.booleans(),
        "every_other_empty": st.booleans(),
        "make_token": st.sampled_from([str, minio_token]),
    }
)


@given(keys=st.sets(NAMES, max_size=20), prefix=st.sampled_from(["", "a", "a/"]), quirks=QUIRKS)
def test_every_key_is_listed_once_and_in_order(keys: set[str], prefix: str, quirks: dict[str, object]) -> None:
    """Whatever the server's quirks: nothing lost, nothing twice."""
    lister = FakeLister(sorted(keys, key=order), **quirks)  # type: ignore[arg-type]

    assert expected(sorted(keys, key=order), prefix=prefix) == listed(lister, prefix=prefix)


@given(
    keys=st.sets(NAMES, max_size=20),
    prefix=st.sampled_from(["", "a", "a/"]),
    delimiter=st.sampled_from(["/", "b", "//"]),
    quirks=QUIRKS,
)
@example(
    keys={"a/x", "a/\U0010ffff\U0010ffff", "a0", "b"},
    prefix="",
    delimiter="/",
    quirks={"page_size": 1, "rolls_up": False},
)
def test_every_group_is_listed_once(keys: set[str], prefix: str, delimiter: str, quirks: dict[str, object]) -> None:
    """A page may end at a group, and servers differ on where the next one begins."""
    lister = FakeLister(sorted(keys, key=order), **quirks)  # type: ignore[arg-type]

    assert expected(sorted(keys, key=order), prefix=prefix, delimiter=delimiter) == listed(
        lister, prefix=prefix, delimiter=delimiter
    )


@given(
    keys=st.sets(NAMES, max_size=20),
    delimiter=st.sampled_from(["", "/"]),
    quirks=QUIRKS,
    mishaps=st.fixed_dictionaries({name: st.integers(0, 3) for name in ("cannot", "v1")}),
)
def test_asking_ahead_changes_nothing(
    keys: set[str], delimiter: str, quirks: dict[str, object], mishaps: dict[str, int]
) -> None:
    """The same names in the same order, whatever becomes of what was asked for early."""
    lister = FakeLister(sorted(keys, key=order), **quirks)  # type: ignore[arg-type]
    ahead = AheadOf(lister, **mishaps)

    assert expected(sorted(keys, key=order), delimiter=delimiter) == listed(lister, ahead, delimiter=delimiter)
    asked = [word for word in ahead.log if word.startswith("asked")]
    assert len(asked) == ahead.log.count("abandoned") + ahead.log.count("taken")


def test_next_page_is_asked_for_before_a_page_is_given_out() -> None:
    """The server works while the caller does; after the last page there is nothing to ask."""
    lister = FakeLister("abcdefg")
    ahead = AheadOf(lister)

    for page in iter_pages(lister, "bkt", ahead=ahead):
        ahead.log.append(f"given {''.join(entry.key for entry in page.objects)}")

    assert [*("asked after c", "given abc", "taken"), *("asked after f", "given def", "taken"), "given g"] == ahead.log
    assert 3 == len(lister.asked)


def test_what_was_asked_ahead_is_given_up_by_who_leaves() -> None:
    """Its connection must not wait for the garbage collector."""
    ahead = AheadOf(FakeLister("abcdefg"))
    pages = iter_pages(ahead.lister, "bkt", ahead=ahead)

    next(pages)
    pages.close()  # type: ignore[attr-defined]

    assert ["asked after c", "abandoned"] == ahead.log


def test_bounded_listing_asks_for_nothing_ahead() -> None:
    """Who wants four names gets them by as few requests as that takes."""
    ahead = AheadOf(FakeLister("abcdefg"))

    names = [entry.key for page in iter_pages(ahead.lister, "bkt", max_keys=4, ahead=ahead) for entry in page.objects]

    assert ([*"abcd"], []) == (names, ahead.log)


def test_tokens_are_not_followed_ahead() -> None:
    """On MinIO each step of a chain is a walk of its own, and the last one may not be wanted."""
    ahead = AheadOf(FakeLister("abcdefg", make_token=minio_token))

    assert ([*"abcdefg"], []) == listed(ahead.lister, ahead)
    assert [] == ahead.log


@given(keys=st.sets(NAMES, max_size=20), start_after=NAMES, quirks=QUIRKS)
def test_a_listing_begins_where_it_is_told_to(keys: set[str], start_after: str, quirks: dict[str, object]) -> None:
    """Also on a server that does not listen."""
    quirks = quirks | {"refuses": False}
    lister = FakeLister(sorted(keys, key=order), **quirks)  # type: ignore[arg-type]

    assert expected(sorted(keys, key=order), start_after=start_after) == listed(lister, start_after=start_after)


@pytest.mark.parametrize(
    ("keys", "quirks", "delimiter", "asked"),
    [
        ("abcdefg", {}, "", [("", ""), ("c", ""), ("f", "")]),  # any node can serve it; a token is the word of one
        # Behind its prefix and the last character there is, no key of a group is left.
        (["a", "b", "c/1", "c/2", "c0"], {}, "/", [("", ""), ("c/\U0010ffff", "")]),
        # A byte that is not UTF-8 sorts after an emoji, though not as a character of str.
        (["\U0001f600", "\U0001f600/1", "\udcff", "\udcff0"], {}, "/", [("", ""), ("\udcff", "")]),
        # On MinIO every start-after would be a new walk over all drives.
        ("abcdefg", {"make_token": minio_token}, "", [("", ""), ("", minio_token(3)), ("", minio_token(6))]),
        # One page is asked for in vain, and no more. AWS refuses names that XML cannot hold.
        ("abcdefgh", {"deaf": True}, "", [("", ""), ("c", ""), ("", "3"), ("", "6")]),
        ("abcdefgh", {"refuses": True}, "", [("", ""), ("c", ""), ("", "3"), ("", "6")]),
    ],
)
def test_next_page_begins_behind_the_last_name_or_at_a_token(
    keys: Sequence[str], quirks: dict[str, object], delimiter: str, asked: list[tuple[str, str]]
) -> None:
    """By the name wherever that serves, else by the token."""
    lister = FakeLister(keys, **quirks)  # type: ignore[arg-type]

    listed(lister, delimiter=delimiter)

    assert asked == [each[:2] for each in lister.asked]


def test_a_refused_first_page_is_read_from_the_beginning() -> None:
    """Where the server does not start at a name, what comes before it is left out here."""
    keys, _ = listed(FakeLister("abcdefgh", refuses=True), start_after="d")

    assert list("efgh") == keys


def test_another_error_in_the_middle_is_an_error() -> None:
    """Access that ends in the middle is not the end of the listing."""

    class Denying(FakeLister):
        def list_objects_page(self, bucket: str, **options: object) -> ListPage:  # type: ignore[override]
            if options["start_after"]:
                raise S3Error(403, "AccessDenied")
            return super().list_objects_page(bucket, **options)  # type: ignore[arg-type]

    with pytest.raises(S3Error, match="AccessDenied"):
        listed(Denying("abcdefg"))


def test_a_server_without_order_is_listed_by_tokens() -> None:
    """Names cannot say where such a listing stands."""
    keys = ["c", "a", "b", "f", "d", "e", "g"]
    lister = FakeLister(keys, sort=False)

    assert (keys, []) == listed(lister)
    assert [("", ""), ("", "3"), ("", "6")] == [asked[:2] for asked in lister.asked]


def test_a_server_without_order_still_begins_where_it_is_told_to() -> None:
    """Every page is cut by the start itself."""
    lister = FakeLister(["c", "a", "b", "f", "d"], sort=False, deaf=True)

    assert (["c", "f", "d"], []) == listed(lister, start_after="b")


def test_order_lost_in_the_middle_is_noticed() -> None:
    """The page is asked for again, by the token of the one before."""
    lister = FakeLister(["a", "b", "c", "g", "e", "f", "d"], sort=False, deaf=True)

    assert (["a", "b", "c", "g", "e", "f", "d"], []) == listed(lister)


def test_a_page_that_goes_backwards_is_one_of_a_server_without_order() -> None:
    """So lists whoever walks over directories: its names are as good as any."""
    lister = FakeLister(["d", "e", "f", "a", "b", "c"], sort=False, make_token=minio_token)

    assert (["d", "e", "f", "a", "b", "c"], []) == listed(lister)


def test_a_start_before_the_prefix_is_not_sent() -> None:
    """It says nothing, and some servers fail on it."""
    lister = FakeLister(["p/a", "p/b"])

    assert (["p/a", "p/b"], []) == listed(lister, prefix="p/", start_after="a")
    assert "" == lister.asked[0][0]


class StuckLister(FakeLister):
    """Says that more follows, and goes in a circle of empty pages, after three that are not part of it."""

    def __init__(self, circle: int) -> None:
        super().__init__("abc")
        self.circle = circle
        self.count = -3

    def list_objects_page(self, bucket: str, **options: object) -> ListPage:  # type: ignore[override]
        """Give the next page of the circle."""
        self.count += 1
        return ListPage((), (), True, next_token=str(min(self.count, 0) or self.count % self.circle))


@pytest.mark.parametrize("circle", [1, 2, 7])
def test_a_server_that_does_not_go_on_is_an_error(circle: int) -> None:
    """Neither an end that is none, nor a loop without end."""
    lister = StuckLister(circle)

    with pytest.raises(ProtocolError, match="stopped advancing while it listed s3/bkt"):
        listed(lister)

    assert 4 * circle + 8 >= lister.count


def test_an_empty_bucket_is_one_empty_page() -> None:
    """Callers see that the bucket was asked for."""
    lister = FakeLister([])

    assert [ListPage((), (), False)] == list(iter_pages(lister, "bkt"))


def test_empty_pages_in_the_middle_are_not_handed_on() -> None:
    """They prove nothing, and callers may take them for the end."""
    lister = FakeLister("abcdefg", every_other_empty=True, make_token=minio_token)

    pages = list(iter_pages(lister, "bkt"))

    assert [3, 3, 1] == [len(page.objects) for page in pages]


@pytest.mark.parametrize(("bound", "asked"), [(1, [1]), (3, [3]), (4, [4, 1]), (5, [5, 2]), (100, [100, 97, 94])])
def test_a_bound_ends_the_listing_and_shortens_the_requests(bound: int, asked: list[int]) -> None:
    """Ten keys of a large bucket cost one small page."""
    lister = FakeLister("abcdefg")

    keys = [entry.key for page in iter_pages(lister, "bkt", max_keys=bound) for entry in page.objects]

    assert list("abcdefg")[:bound] == keys
    assert asked == [request[2] for request in lister.asked]


def test_a_server_that_gives_too_much_is_cut() -> None:
    """Objects and groups count together, in their common order."""

    class Generous(FakeLister):
        def list_objects_page(self, bucket: str, **options: object) -> ListPage:  # type: ignore[override]
            return super().list_objects_page(bucket, **{**options, "max_keys": 10})  # type: ignore[arg-type]

    lister = Generous(["a", "b/1", "c", "d/1", "e"], page_size=10)

    (page,) = iter_pages(lister, "bkt", delimiter="/", max_keys=3)

    assert (["a", "c"], ("b/",), True) == ([entry.key for entry in page.objects], page.prefixes, page.truncated)


class PagesInTurn(FakeLister):
    """Gives prepared pages of versions or uploads, and notes the markers."""

    def __init__(self, pages: Sequence[ListPage] | Sequence[UploadPage]) -> None:
        super().__init__([])
        self.pages = list(pages)
        self.markers: list[tuple[str, str]] = []

    def list_versions_page(self, bucket: str, **options: str) -> ListPage:
        """Give the next page of versions."""
        self.markers.append((options["key_marker"], options["version_id_marker"]))
        page = self.pages.pop(0)
        assert isinstance(page, ListPage)
        return page

    def list_uploads_page(self, bucket: str, **options: str) -> UploadPage:
        """Give the next page of uploads."""
        self.markers.append((options["key_marker"], options["upload_id_marker"]))
        page = self.pages.pop(0)
        assert isinstance(page, UploadPage)
        return page


VERSION = ObjectInfo("k", 1, TIME, version_id="v1")
UPLOAD = UploadInfo("k", "u1", TIME)


def test_versions_go_on_at_both_markers() -> None:
    """A page may end inside one key's history."""
    lister = PagesInTurn(
        [
            ListPage((VERSION,), (), True, next_token="k", next_version_id="v1"),
            ListPage((), (), True, next_token="k", next_version_id="v0"),
            ListPage((VERSION._replace(version_id="v2"),), (), False),
        ]
    )

    versions = [entry.version_id for page in iter_version_pages(lister, "bkt") for entry in page.objects]

    assert ["v1", "v2"] == versions
    assert [("", ""), ("k", "v1"), ("k", "v0")] == lister.markers


def test_uploads_go_on_at_both_markers() -> None:
    """One key may have many uploads."""
    lister = PagesInTurn(
        [UploadPage((UPLOAD,), "k", "u1", True), UploadPage((UPLOAD._replace(upload_id="u2"),), "", "", False)]
    )

    uploads = [upload.upload_id for upload in iter_uploads(lister, "bkt")]

    assert ["u1", "u2"] == uploads
    assert [("", ""), ("k", "u1")] == lister.markers


@pytest.mark.parametrize(
    ("walk", "page"),
    [
        (iter_version_pages, ListPage((VERSION,), (), True, next_token="k", next_version_id="v1")),
        (iter_uploads, UploadPage((UPLOAD,), "k", "u1", True)),  # they are listed to be aborted
    ],
)
def test_listing_that_does_not_go_on_is_an_error(walk: Callable[..., Iterable[object]], page: object) -> None:
    """The same page again and again is not a listing."""
    with pytest.raises(ProtocolError, match="stopped advancing"):
        list(walk(PagesInTurn([page] * 3), "bkt"))

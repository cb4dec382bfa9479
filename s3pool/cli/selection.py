"""Which keys an operand of a listing command means: a tree, a glob, or one key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from s3pool.location import S3Path, compile_glob, glob_prefix, has_glob
from s3pool.model import ListPage

if TYPE_CHECKING:
    import argparse

    from s3pool.s3.client import S3Client

DELIMITER = "/"


def add_glob_flag(parser: argparse.ArgumentParser) -> None:
    """Add --no-glob, for commands that read wildcards in S3 paths."""
    parser.add_argument("--no-glob", action="store_true", help="take *, ? and [...] in keys as they are")


@dataclass(frozen=True, slots=True)
class Selection:
    """The keys of one operand: all below ``prefix`` that ``admits`` says yes to.

    ``base`` is what names are shown relative to. ``single`` is a key that is meant when the
    tree of its name is empty, or nothing.
    """

    path: S3Path
    prefix: str
    base: str
    single: str = ""
    admits: Callable[[str], bool] | None = None

    @property
    def bucket(self) -> str:
        """Give the bucket."""
        return self.path.bucket

    @property
    def text(self) -> str:
        """Give the operand as results write it."""
        return self.path.text

    def relative(self, key: str) -> str:
        """Give a key's name below the base; a key that is not below it gives its base name."""
        return key[len(self.base) :] if key.startswith(self.base) else S3Path(self.bucket, key).base_name


def select(path: S3Path, *, glob: bool) -> Selection:
    """Read a path with a bucket: wildcards only with ``glob``."""
    if glob and has_glob(path.key):
        prefix = glob_prefix(path.key)
        base = prefix[: prefix.rfind(DELIMITER) + 1]
        return Selection(path, prefix, base, admits=compile_glob(path.key))
    prefix = path.tree_prefix
    return Selection(path, prefix, prefix, single="" if path.is_prefix else path.key)


def iter_selected_pages(
    client: S3Client, selection: Selection, *, delimiter: str = "", versions: bool = False, max_keys: int = 0
) -> Iterator[ListPage]:
    """Yield the pages of a selection, in key order, without what a glob leaves out.

    A page may have become empty by that. ``max_keys`` bounds the keys that are asked for,
    where nothing is left out.
    """
    found = False
    bound = max_keys if selection.admits is None else 0
    for page in _iter_pages(client, selection, delimiter=delimiter, versions=versions, max_keys=bound):
        found = found or bool(page.objects or page.prefixes)
        yield _admitted(page, selection)
    if not found and selection.single:
        yield from _iter_single(client, selection, versions=versions)


def _iter_pages(
    client: S3Client, selection: Selection, *, delimiter: str, versions: bool, max_keys: int
) -> Iterator[ListPage]:
    from s3pool.s3.listing import iter_pages, iter_version_pages

    if versions:
        return iter_version_pages(client, selection.bucket, prefix=selection.prefix, delimiter=delimiter)
    return iter_pages(client, selection.bucket, prefix=selection.prefix, delimiter=delimiter, max_keys=max_keys)


def _admitted(page: ListPage, selection: Selection) -> ListPage:
    admits = selection.admits
    if admits is None:
        return page
    return replace(page, objects=tuple(info for info in page.objects if admits(info.key)))


def _iter_single(client: S3Client, selection: Selection, *, versions: bool) -> Iterator[ListPage]:
    """Yield a page with the key that has exactly the operand's name, if there is one."""
    from s3pool.s3.listing import iter_version_pages

    key = selection.single
    if versions:
        pages = iter_version_pages(client, selection.bucket, prefix=key)
    else:
        pages = iter((client.list_objects_page(selection.bucket, prefix=key, max_keys=1),))
    for page in pages:
        objects = tuple(info for info in page.objects if info.key == key)
        if objects:
            yield replace(page, objects=objects, prefixes=())
        if not objects or len(objects) < len(page.objects):
            return

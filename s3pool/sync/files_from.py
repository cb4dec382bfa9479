"""Some names of a source instead of all: those of a list, or those that have changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from s3pool.filters import Names
from s3pool.location import name_bytes
from s3pool.model import ListPage
from s3pool.record import replace

if TYPE_CHECKING:
    from s3pool.location import S3Path
    from s3pool.s3.client import S3Client
    from s3pool.transfer.workers import BoundedExecutor

ASKED_AT_ONCE = 8  # changed names, each with a request of its own


class ListedNames:
    """The names of a list that a filter admits; ``wanted`` are those not seen at the source yet."""

    def __init__(self, listed: Iterable[str], names: Names) -> None:
        self._listed = frozenset(name for name in listed if names.admits(name))
        self._directories = frozenset(parent for name in self._listed for parent in _parents(name))
        self.wanted = set(self._listed)

    def admits(self, relative: str) -> bool:
        """Return whether a name is on the list."""
        return relative in self._listed

    def may_contain(self, directory: str) -> bool:
        """Return whether a listed name lies below a directory."""
        return not directory or directory.rstrip("/") in self._directories


class ChangedNames:
    """The names that have changed, as far as a filter admits them; one with a slash at its end is a whole tree."""

    def __init__(self, changed: Iterable[str], names: Names) -> None:
        self._names = names
        self._trees = frozenset(name for name in changed if name.endswith("/"))
        # One that lies in a tree of the others is asked about with that.
        self._changed = sorted((name for name in changed if not self._is_below(name)), key=name_bytes)
        self._files = frozenset(self._changed)
        self._directories = frozenset(parent for name in self._changed for parent in _parents(name))

    def admits(self, relative: str) -> bool:
        """Return whether a name has changed, and the filter admits it."""
        return (relative in self._files or self._is_below(relative)) and self._names.admits(relative)

    def may_contain(self, directory: str) -> bool:
        """Return whether a changed name can lie below a directory."""
        below = f"{directory.rstrip('/')}/"
        is_on_way = not directory or below[:-1] in self._directories or below in self._trees or self._is_below(below)
        return is_on_way and self._names.may_contain(directory)

    def list_pages(self, client: S3Client, tree: S3Path, executor: BoundedExecutor) -> Iterator[ListPage]:
        """Yield what a tree in S3 has of the changed names, in order, without listing the rest."""
        from s3pool.s3.list_all import list_pages

        found: dict[str, Iterable[ListPage]] = {}

        def ask(name: str) -> None:
            prefix = tree.tree_prefix + name
            if name.endswith("/"):
                pages = list_pages(client, tree.bucket, prefix=prefix)
                found[name] = chain(tuple(islice(pages, 1)), pages)  # the first one is asked for here
                return
            page = client.list_objects_page(tree.bucket, prefix=prefix, max_keys=1)
            found[name] = [replace(page, objects=[info for info in page.objects if info.key == prefix])]

        names = [name for name in self._changed if not is_foreign(name)]
        executor.share(ask, names, limit=ASKED_AT_ONCE)
        for name in names:
            yield from found[name]

    def _is_below(self, name: str) -> bool:
        return not self._trees.isdisjoint(f"{parent}/" for parent in _parents(name.rstrip("/")))


def _parents(name: str) -> list[str]:
    return [name[:place] for place, character in enumerate(name) if character == "/"]


def is_foreign(name: str) -> bool:
    """Return whether a name has bytes that are not UTF-8: no key has that name."""
    return any("\udc80" <= character <= "\udcff" for character in name)

"""Which keys cannot have a file of their own, told as they come by in key order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from s3pool.errors import RefusedError
from s3pool.location import name_bytes
from s3pool.transfer.part_file import PART_PREFIX, is_part_name
from s3pool.transfer.safe_path import split_relative

# What an unusual component leaves between names that are joined by NULs, and a NUL within one.
UNUSUAL_JOINTS = ("//", "\0/", "/\0", "\0\0", "/./", "/../", "\0./", "\0../", "/.\0", "/..\0", "\0.\0", "\0..\0")
CAREFUL_TEXTS = (*UNUSUAL_JOINTS, PART_PREFIX)


class KeyMapper:
    """Finds keys that lead out of the target, and keys that would need the same file.

    Only names with empty or ``.`` components can meet another key's file, so only those are
    remembered, and memory does not grow with the listing. ``exists(bucket, key)`` is asked
    about the plain twin of such a name, which may have come by unnoticed before.
    """

    def __init__(self, exists: Callable[[str, str], bool]) -> None:
        self._exists = exists
        self._unusual: dict[tuple[bytes, ...], str] = {}
        # The keys that are a prefix of the current one, as text: they follow each other in a
        # sorted listing, so the list is never longer than a key.
        self._above: list[str] = []

    def restart(self) -> None:
        """Begin another listing: its order has nothing to do with that of the one before."""
        self._above.clear()

    def check_all(self, names: Sequence[str]) -> bool:
        """Take the next keys of a listing, if none of them is anything to be careful about.

        No means that nothing was taken, and that check() is to be asked about each.
        """
        text = f"\0{chr(0).join(names)}\0"
        if self._unusual or text.count("\0") != len(names) + 1 or any(joint in text for joint in CAREFUL_TEXTS):
            return False
        above = {parent for name in names for parent in _iter_parents(name)}
        if not (above.isdisjoint(names) and above.isdisjoint(self._above)):
            return False
        last = names[-1]
        self._above = [key for key in (*self._above, *names) if last.startswith(key)]
        return True

    def check(self, bucket: str, base: str, relative: str) -> None:
        """Take the next key of a listing, given by its name below ``base``.

        Raises:
            RefusedError: the name leads out of its directory, or another key has its file.
        """
        parents, name = split_relative(relative)
        if is_part_name(name):
            raise RefusedError("a file of that name would be taken for one of s3pool's own temporary files")
        path = (*parents, name) if name else tuple(parents)
        twin = b"/".join(path).decode("utf-8", "surrogateescape")
        if relative.rstrip("/") != twin:
            self._check_unusual(bucket, base, relative, (twin, path))
        elif path in self._unusual:
            raise RefusedError(f"the keys {self._unusual[path]!r} and {base + relative!r} need the same file")
        self._check_above(relative)

    def _check_unusual(self, bucket: str, base: str, relative: str, twin: tuple[str, tuple[bytes, ...]]) -> None:
        plain, path = twin
        other = self._unusual.get(path)
        if other is None and name_bytes(plain) < name_bytes(relative) and self._exists(bucket, base + plain):
            other = base + plain
        if other is not None:
            raise RefusedError(f"the keys {other!r} and {base + relative!r} need the same file")
        self._unusual[path] = base + relative

    def _check_above(self, relative: str) -> None:
        while self._above and not relative.startswith(self._above[-1]):
            self._above.pop()
        blocking = next((key for key in self._above if relative.startswith(f"{key}/") and not key.endswith("/")), None)
        if blocking is not None:
            raise RefusedError(f"the key {blocking!r} is a file there, so nothing can lie below it")
        self._above.append(relative)


def _iter_parents(name: str) -> Iterator[str]:
    place = name.find("/")
    while place >= 0:
        yield name[:place]
        place = name.find("/", place + 1)

"""Whether names can be targets: keys and files that would meet, or lead out of the target."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from socket import gethostname
from typing import TYPE_CHECKING
from urllib.parse import unquote

from s3pool.body import EMPTY_BODY, EMPTY_SHA256
from s3pool.errors import LocalFileError, RefusedError, S3Error, TargetTakenError
from s3pool.location import S3Path, name_bytes
from s3pool.transfer.part_file import PART_PREFIX, is_part_name
from s3pool.transfer.safe_path import split_relative
from s3pool.transfer.tasks import CopyTask, DownloadTask, Item, Problem

if TYPE_CHECKING:
    import sqlite3

    from s3pool.s3.client import S3Client

# What an unusual component leaves between names that are joined by NULs, and a NUL within one.
UNUSUAL_JOINTS = ("//", "\0/", "/\0", "\0\0", "/./", "/../", "\0./", "\0../", "/.\0", "/..\0", "\0.\0", "\0..\0")
CAREFUL_TEXTS = (*UNUSUAL_JOINTS, PART_PREFIX)
PLAIN_NAME = re.compile(
    r"(?:[^\0/.][^\0/]*/)*[^\0/.][^\0/]*"
)  # with no empty component, and none that begins with a dot


class KeyMapper:
    """Finds keys that lead out of the target, and keys that would need the same file.

    Only names with empty or ``.`` components can meet another key's file, so only those are
    remembered, and memory does not grow with the listing. ``bucket.exists(key)`` is asked
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
        above = {name[:place] for name in names for place, letter in enumerate(name) if letter == "/"}
        if not (above.isdisjoint(names) and above.isdisjoint(self._above)):
            return False
        last = names[-1]
        self._above = [key for key in (*self._above, *names) if last.startswith(key)]
        return True

    def check(self, bucket: str, base: str, relative: str) -> None:
        """Take the next key of a listing, given by its name below ``base``.

        Raises RefusedError: the name leads out of its directory, or another key has its file.
        """
        if PLAIN_NAME.fullmatch(relative) is None or self._unusual:
            self._check_components(bucket, base, relative)
        above = self._above
        while above and not relative.startswith(above[-1]):
            above.pop()
        for key in above:
            if relative.startswith(f"{key}/") and not key.endswith("/"):
                raise RefusedError(f"the key {key!r} is a file there, so nothing can lie below it")
        above.append(relative)

    def _check_components(self, bucket: str, base: str, relative: str) -> None:
        parents, name = split_relative(relative)
        if is_part_name(name):
            raise RefusedError("a file of that name would be taken for one of s3pool's own temporary files")
        path = (*parents, name) if name else tuple(parents)
        twin = b"/".join(path).decode("utf-8", "surrogateescape")
        other, is_unusual = self._unusual.get(path), relative.rstrip("/") != twin
        if (
            other is None
            and is_unusual
            and name_bytes(twin) < name_bytes(relative)
            and self._exists(bucket, base + twin)
        ):
            other = base + twin
        if other is not None:
            raise RefusedError(f"the keys {other!r} and {base + relative!r} need the same file")
        if is_unusual:
            self._unusual[path] = base + relative


MOST_IN_MEMORY = 20_000
DIGEST_BYTES = 16
CACHE_KIB = 16 * 1024


class Targets:
    """The targets of a run; beyond some thousands they are kept on disk, in a file that has no name."""

    def __init__(self) -> None:
        self._few: dict[str, str] = {}
        self._many: sqlite3.Connection | None = None

    def owner(self, target: str, source: str) -> str | None:
        """Return the source to which a target belongs by now; None when it was free, and is this source's.

        Raises LocalFileError: the disk for temporary files is full.
        """
        if self._many is None and len(self._few) < MOST_IN_MEMORY:
            first = self._few.get(target)
            if first is None:
                self._few[target] = source
            return first
        import sqlite3

        digest = _digest(target)
        try:
            many = self._many or self._spill()
            if many.execute("INSERT OR IGNORE INTO taken VALUES (?, ?)", (digest, os.fsencode(source))).rowcount:
                return None
            return os.fsdecode(many.execute("SELECT source FROM taken WHERE target = ?", (digest,)).fetchone()[0])
        except sqlite3.Error as exc:
            raise LocalFileError(f"cannot remember in a temporary file which targets are taken: {exc}") from exc

    def _spill(self) -> sqlite3.Connection:
        import sqlite3

        self._many = many = sqlite3.connect("", isolation_level=None)
        many.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        many.execute("PRAGMA journal_mode = OFF")
        many.execute("CREATE TABLE taken (target BLOB PRIMARY KEY, source BLOB) WITHOUT ROWID")
        many.execute("BEGIN")
        rows = ((_digest(target), os.fsencode(source)) for target, source in self._few.items())
        many.executemany("INSERT INTO taken VALUES (?, ?)", rows)
        self._few.clear()
        return many


def _digest(target: str) -> bytes:
    return hashlib.blake2b(os.fsencode(target), digest_size=DIGEST_BYTES).digest()


def apart(item: Item, targets: Targets) -> Item | None:
    """Return the item, or the problem that its target is another one's; None for the same pair once more.

    Two moves of one object would meet at their target, and each take the other's file for a stranger's.
    """
    if isinstance(item, Problem):
        return item
    name = item.target
    if isinstance(item, DownloadTask):
        name = os.path.normpath(name) if item.relative and not item.relative.endswith("/") else ""
    elif isinstance(item, CopyTask) and item.key.endswith("/") and item.size == 0:
        name = ""
    if not name:  # a directory, which may be made twice
        return item
    first = targets.owner(name, item.source)
    if first is None or first == item.source == name:
        return item
    if first == item.source:
        return None
    error = TargetTakenError(f"{item.source} and {first} would both be {item.target}: the first one stays")
    return Problem(item.source, error, item.target, op=item.op)


PROBES = 3  # objects that must be the same: one alone could be so by chance


def folded(key: str) -> list[str]:
    """Return what is left of a key on the least particular of servers, whose keys are names of files."""
    kept: list[str] = []
    for step in unicodedata.normalize("NFKC", unquote(key)).casefold().replace("\\", "/").split("/"):
        if step == "..":
            del kept[-1:]
        elif step := step.rstrip(". "):
            kept.append(step)
    return kept


def target_of_tree(source_client: S3Client, source: S3Path, target_client: S3Client, target: S3Path) -> str | None:
    """Return where the source tree lies in the target's bucket, as the target spells it.

    None when neither tree lies inside the other: they are apart, or one and the same.
    """
    place = _place_of(source.tree_prefix, target.tree_prefix)
    if place is None:
        return None
    is_plain = source_client is target_client and source.bucket == target.bucket and place == source.tree_prefix
    if is_plain or _shows(source_client, source, target_client, S3Path(target.bucket, place)):
        return place
    return None


def _place_of(source: str, target: str) -> str | None:
    """Return the source's prefix as the target spells it; None when neither lies inside the other."""
    ours, theirs = folded(source), folded(target)
    if len(ours) < len(theirs) and theirs[: len(ours)] == ours:
        return _start_of(target, ours)
    if len(theirs) < len(ours) and ours[: len(theirs)] == theirs:
        return target + source[len(_start_of(source, theirs)) :]
    return None


def _start_of(prefix: str, steps: list[str]) -> str:
    """Return the shortest beginning of a prefix that means these steps."""
    if not steps:
        return ""
    ends = (place + 1 for place, char in enumerate(prefix) if char == "/")
    return next((prefix[:end] for end in ends if folded(prefix[:end]) == steps), prefix)


def _shows(source_client: S3Client, source: S3Path, target_client: S3Client, place: S3Path) -> bool:
    """Return whether objects of a source are found at a place as well, as the same ones."""
    start = len(source.tree_prefix)
    try:
        page = source_client.list_objects_page(source.bucket, prefix=source.tree_prefix, max_keys=PROBES)
        infos = list(islice(page.objects, PROBES))
        heads = (target_client.head_object(place.bucket, place.key + info.key[start:]) for info in infos)
        return bool(infos) and all(
            (info.size, info.etag, int(info.mtime)) == (head.size, head.etag, int(head.mtime))
            for info, head in zip(infos, heads, strict=True)
        )
    except S3Error:  # what is wrong is told by the work itself
        return False


PROBE_NAME_BYTES = 8
UNUSUAL = ("", ".", "..")


class Spellings:
    """What is known of the target's store; for all workers of a run."""

    def __init__(self) -> None:
        # Held while the store is asked, which happens once for each kind of spelling.
        self._lock = threading.Lock()
        self._merges: dict[frozenset[str], bool] = {}
        self._owners: dict[str, str] = {}  # of keys that are usual at the target, and unusual at the source

    def check(self, task: CopyTask, client: S3Client, *, source: S3Client, is_move: bool) -> None:
        """Refuse to copy a key that the target's store would take for another source's.

        Raises TargetTakenError: it would.
        """
        twin = plain_key(task.source_key)
        kinds = frozenset(step for step in task.key.split("/")[:-1] if step in UNUSUAL)
        if twin == task.source_key or not kinds:
            return
        with self._lock:
            if kinds not in self._merges:
                self._merges[kinds] = _does_merge(client, task)
            if not self._merges[kinds]:
                return
            first = self._owners.setdefault(plain_key(task.key), task.source)
        if first == task.source and (
            source.exists(task.source_bucket, twin)
            # Or was another source, that has moved by now.
            or (is_move and client.exists(task.bucket, plain_key(task.key)))
        ):
            first = S3Path(task.source_bucket, twin).text
        if first != task.source:
            raise TargetTakenError(f"{task.source} and {first} would both be {task.target}: the other one stays")


def plain_key(key: str) -> str:
    """Return a key as a store spells it whose keys are names of files."""
    kept: list[str] = []
    *above, name = key.split("/")
    for step in above:
        if step == "..":
            del kept[-1:]
        elif step not in UNUSUAL:
            kept.append(step)
    return "/".join((*kept, name))


def _does_merge(client: S3Client, task: CopyTask) -> bool:
    """Return whether an object that is put by one spelling is there by the plain one."""
    # Named by the machine: the next run here finds what a killed one has left, and no other run's.
    name = blake2b(gethostname().encode(), digest_size=PROBE_NAME_BYTES).hexdigest()
    probe = f"{task.key.rpartition('/')[0]}/.s3pool-{name}.probe"
    with suppress(S3Error):
        left = client.head_object(task.bucket, probe)
        client.delete_object(task.bucket, probe, version_id=left.version_id)
    try:
        result = client.put_object(task.bucket, probe, EMPTY_BODY, payload_hash=EMPTY_SHA256)
    except S3Error:  # what it does not take at all the copy itself will be told
        return False
    try:
        return client.exists(task.bucket, plain_key(probe))
    finally:
        client.delete_object(task.bucket, probe, version_id=result.version_id)

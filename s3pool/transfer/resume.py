"""What is remembered of large transfers, so that a later run goes on where one was cut short or cleans up."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from s3pool.errors import NotFoundError, StoppedError, TransportError
from s3pool.model import ObjectAttributes, parse_iso_time
from s3pool.record import dataclass
from s3pool.s3.uploads import iter_uploads
from s3pool.transfer.part_file import is_part_name, remove_orphan

if TYPE_CHECKING:
    from s3pool.model import ByteRange
    from s3pool.s3.client import S3Client

logger = logging.getLogger(__name__)

FINGERPRINT_DIGITS = 32
ANNOUNCED = "announced "  # the fingerprint of an upload that is being created, and what its word begins with
RANDOM_BYTES = 8
CLOCKS_APART_S = 300  # how much earlier than announced a server may say that an upload was created
NOTHING_DONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class PartialDownload:
    """A temporary file by its name, and the offsets of the ranges that it holds."""

    name: str
    done: frozenset[int]


class Memory(Protocol):
    """Where unfinished transfers are remembered; called from any worker, never raises.

    A fingerprint is of all that must be the same for a transfer to go on.
    """

    @property
    def resumes(self) -> bool:
        """Return whether a later run is to go on with what this one leaves."""

    def find_upload(self, bucket: str, key: str, fingerprint: str) -> str:
        """Return the id of an unfinished upload, "" when none is known."""

    def begin_upload(self, bucket: str, key: str, *, upload_id: str, fingerprint: str) -> None:
        """Remember an upload that was created."""

    def end_upload(self, upload_id: str) -> None:
        """Forget an upload that was completed or aborted."""

    def find_download(self, target: str, fingerprint: str) -> PartialDownload | None:
        """Return what an earlier run has kept of a download."""

    def begin_download(self, target: str, *, name: str, fingerprint: str) -> None:
        """Remember a temporary file; whatever was known of its name is forgotten."""

    def add_range(self, name: str, first: int) -> None:
        """Remember that a range, by its first byte, is in a temporary file."""

    def end_download(self, name: str) -> None:
        """Forget a temporary file."""


def announcement() -> str:
    """Return a word that stands for the id of an upload until the id is known.

    Who is killed while the server creates one leaves it behind, and nobody knows its id: the
    word in the memory tells the next run to look for it.
    """
    return f"{ANNOUNCED}{time.time():.0f} {os.urandom(RANDOM_BYTES).hex()}"


def abort_announced(client: S3Client, word: str, bucket: str, *, key: str) -> None:
    """Abort what may have become of an announced upload: those of the key without a part.

    One that has parts is another run's, and so is one of an earlier time.
    """
    since = float(word.split()[1]) - CLOCKS_APART_S
    for info in iter_uploads(client, bucket, prefix=key):
        # An upload of nobody knows when may be anybody's.
        if info.key == key and info.initiated and parse_iso_time(info.initiated) >= since:
            with contextlib.suppress(NotFoundError):
                if not client.list_parts(bucket, key, upload_id=info.upload_id):
                    client.abort_multipart_upload(bucket, key, upload_id=info.upload_id)


def upload_fingerprint(
    size: int, mtime_ns: int, *, part_size: int, attributes: ObjectAttributes, checksum: str = ""
) -> str:
    """Return what an upload must have in common with an unfinished one."""
    words = f" {checksum}" if checksum else ""
    return _digest(f"{size} {mtime_ns} {part_size} {attributes!r}{words}")


def download_fingerprint(size: int, etag: str, *, range_bytes: int) -> str:
    """Return what a download must have in common with an unfinished one."""
    return _digest(f"{size} {etag} {range_bytes}")


def copy_fingerprint(size: int, etag: str, *, part_size: int, attributes: ObjectAttributes) -> str:
    """Return what a copy from another pool must have in common with an unfinished one."""
    return _digest(f"{size} {etag} {part_size} {attributes!r}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:FINGERPRINT_DIGITS]


def may_go_on(error: BaseException | None) -> bool:
    """Return whether a later run could take up what this error has cut short."""
    return isinstance(error, (StoppedError, TransportError, KeyboardInterrupt, SystemExit))


class Resumption:
    """One download that is remembered from its first range on; lives in one worker.

    Without a memory it remembers nothing and finds nothing.
    """

    __slots__ = ("_fingerprint", "_memory", "_target", "found", "name")

    def __init__(self, memory: Memory | None, target: str, fingerprint: str) -> None:
        self._memory = memory
        self._target = target
        self._fingerprint = fingerprint
        self.name = ""  # of the temporary file, once it is remembered
        self.found = memory.find_download(target, fingerprint) if memory is not None else None

    def begin(self, name: str, *, reused: bool) -> frozenset[int]:
        """Begin with a temporary file; give the offsets that need not be fetched."""
        if self._memory is None:
            return NOTHING_DONE
        self.name = name
        if reused and self.found is not None:
            return self.found.done
        self._memory.begin_download(self._target, name=name, fingerprint=self._fingerprint)
        return NOTHING_DONE

    def add(self, place: ByteRange) -> None:
        """Remember a range that is on disk."""
        if self._memory is not None:
            self._memory.add_range(self.name, place.first)

    def leave(self) -> None:
        """Leave it remembered: the file is kept for a later run."""
        self.name = ""

    def end(self) -> None:
        """Forget it, unless it is left: the file has its name, or is gone."""
        if self._memory is not None and self.name:
            self._memory.end_download(self.name)


MAX_ENTRIES = 20_000  # of a directory are looked at: one file must not wait for the reading of a million


def make_sweep(is_known: Callable[[str], bool], *, largest: int, min_age_s: float = 0.0) -> Callable[[int], None]:
    """Return a function that removes useless temporary files from an open directory.

    Of use is what somebody is at work on, what ``is_known`` tells, and what has more than
    ``largest`` bytes: another command may mean to go on with it.
    """

    def sweep(directory: int) -> None:
        try:
            names = _part_names(directory, largest)
        except OSError:  # the download itself will say what is wrong
            return
        unknown = (name for name in names if not is_known(name))
        removed = (remove_orphan(os.fsencode(name), dir_fd=directory, min_age_s=min_age_s) for name in unknown)
        tell_swept(sum(map(bool, removed)))

    return sweep


def tell_swept(count: int) -> None:
    """Log how many leftover files were removed."""
    if count:
        logger.warning("removed %d temporary file%s that a killed run had left", count, "s" if count > 1 else "")


def _part_names(directory: int, largest: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [
            entry.name
            for entry in islice(entries, MAX_ENTRIES)
            if is_part_name(os.fsencode(entry.name)) and entry.stat(follow_symlinks=False).st_size <= largest
        ]

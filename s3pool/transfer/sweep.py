"""Temporary files of downloads that were killed, found where the next download goes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from itertools import islice

from s3pool.transfer.part_file import is_part_name, remove_orphan

logger = logging.getLogger(__name__)

MAX_ENTRIES = 20_000  # of a directory are looked at: one file must not wait for the reading of a million


def make_sweep(is_known: Callable[[str], bool], *, largest: int) -> Callable[[int], None]:
    """Give what removes temporary files from an open directory, but for those that are of use.

    Of use is what somebody is at work on, what ``is_known`` tells, and what has more than
    ``largest`` bytes: another command may mean to go on with it.
    """

    def sweep(directory: int) -> None:
        try:
            names = _part_names(directory, largest)
        except OSError:  # the download itself will say what is wrong
            return
        unknown = (name for name in names if not is_known(name))
        tell_swept(sum(bool(remove_orphan(os.fsencode(name), dir_fd=directory)) for name in unknown))

    return sweep


def tell_swept(count: int) -> None:
    """Tell of files that were removed, without anybody's asking for it."""
    if count:
        logger.warning("removed %d temporary file%s that a killed run had left", count, "s" if count > 1 else "")


def _part_names(directory: int, largest: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [
            entry.name
            for entry in islice(entries, MAX_ENTRIES)
            if is_part_name(os.fsencode(entry.name)) and entry.stat(follow_symlinks=False).st_size <= largest
        ]

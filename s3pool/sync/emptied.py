"""Directories that a sync itself has emptied."""

from __future__ import annotations

import os
from collections.abc import Iterable

from s3pool.errors import LocalFileError, RefusedError
from s3pool.transfer.safe_path import open_below, open_root, split_relative


def remove_empty_directories(root: str, directories: Iterable[str]) -> None:
    """Remove directories below root, and those above them, as far as they are empty; never root."""
    try:
        root_fd = open_root(root, create=False)
    except LocalFileError:
        return
    try:
        for directory in sorted(directories, reverse=True):
            _remove_upwards(root_fd, directory)
    finally:
        os.close(root_fd)


def _remove_upwards(root_fd: int, directory: str) -> None:
    parents, name = split_relative(directory)
    steps = [*parents, name] if name else parents
    while steps and _remove(root_fd, steps):
        steps.pop()


def _remove(root_fd: int, steps: list[bytes]) -> bool:
    try:
        above = open_below(root_fd, steps[:-1], create=False)
    except (LocalFileError, RefusedError):
        return False
    try:
        os.rmdir(steps[-1], dir_fd=above)
    except OSError:
        return False
    finally:
        os.close(above)
    return True

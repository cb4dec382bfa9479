"""Which pool state belongs to: the same nodes in another order, or some more of them, are the same pool."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable

FILE = "pools"  # a line for each endpoint that was ever used: its pool and itself
DIGITS = 16
NEW_FILE_MODE = 0o600


def pool_of(endpoints: Iterable[object], directory: str, *, read_only: bool = False) -> str:
    """Return the name of the pool with these endpoints; one that has an endpoint of a known pool is that pool.

    What is new is remembered, unless ``read_only``, or the directory cannot be written to.
    """
    given = sorted({str(endpoint) for endpoint in endpoints})
    path = os.path.join(directory, FILE)
    known = _read(path)
    found = [pool for endpoint, pool in known.items() if endpoint in given]
    pool = found[0] if found else hashlib.sha256("\n".join(given).encode()).hexdigest()[:DIGITS]
    new = [endpoint for endpoint in given if endpoint not in known]
    if new and directory and not read_only:
        with contextlib.suppress(OSError):
            _add(path, "".join(f"{pool} {endpoint}\n" for endpoint in new))
    return pool


def _read(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return {}
    # The first line about an endpoint counts: of two runs that came to it at once, too.
    return {line[1]: line[0] for line in reversed(lines) if len(line) == 2}


def _add(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, NEW_FILE_MODE)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)

"""What was told once need not be told again: remembered as digests in a small file."""

from __future__ import annotations

import hashlib
import os

DIGITS = 16
MOST_LINES = 1000  # the file begins anew beyond


def is_new(message: str, path: str) -> bool:
    """Return whether a message was not told before, and remember it; where nothing can be kept it always is."""
    line = hashlib.sha256(message.encode("utf-8", "surrogateescape")).hexdigest()[:DIGITS]
    try:
        with open(path, encoding="ascii") as stream:
            known = stream.read().split()
    except (OSError, ValueError):
        known = []
    if line in known:
        return False
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "a" if len(known) < MOST_LINES else "w", encoding="ascii") as stream:
            stream.write(f"{line}\n")
    except OSError:
        pass
    return True

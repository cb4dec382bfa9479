"""How large the proofs are: small enough for every run, or as large as they were meant to be."""

from __future__ import annotations

import os

FULL = os.environ.get("S3POOL_FULL_SIZE") == "1"


def sized(small: int, full: int) -> int:
    """Give the size for this run; S3POOL_FULL_SIZE=1 asks for the full one."""
    return full if FULL else small

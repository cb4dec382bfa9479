"""What storage makes of an upload in parts."""

from __future__ import annotations

import hashlib


def parts_etag(content: bytes, part_size: int) -> str:
    """Give the ETag of an object that was stored in parts."""
    pieces = [content[start : start + part_size] for start in range(0, len(content), part_size)]
    joined = b"".join(hashlib.md5(piece, usedforsecurity=False).digest() for piece in pieces)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(pieces)}"

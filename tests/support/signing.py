"""The canonical request of a request as it stood on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from s3pool.s3.signing import canonical_query, canonical_request, canonical_value


def text_of(raw: str | bytes) -> str:
    """Return bytes as text that stands for them."""
    return raw if isinstance(raw, str) else raw.decode("utf-8", "surrogateescape")


def canonical_of(
    method: str,
    path: str,
    *,
    query: str | bytes,
    headers: Iterable[tuple[str | bytes, str | bytes]],
    signed: Sequence[str],
    payload_hash: str,
) -> bytes:
    """Return what its signature covers; repeated headers are joined with a comma."""
    values: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = text_of(raw_name).lower(), canonical_value(text_of(raw_value))
        values[name] = f"{values[name]},{value}" if name in values else value
    return canonical_request(
        method, path, query=canonical_query(query), values=values, signed=signed, payload_hash=payload_hash
    )

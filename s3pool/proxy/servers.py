"""Which server the nodes run, as far as their answers tell, and what follows from that for clients."""

from __future__ import annotations

import re
from collections.abc import Mapping

MINIO, VERSITYGW, AMAZON, RGW, UNKNOWN = "minio", "versitygw", "amazons3", "rgw", ""
RGW_REQUEST_ID = re.compile(r"tx[0-9a-f]{21}-[0-9a-f]{10}-[0-9a-f]+-.+")
# Servers that take a checksum behind a body; RGW 16 refuses that, later ones are not told apart.
TRAILER_SERVERS = frozenset({MINIO, VERSITYGW, AMAZON})
# Doors to a server's administration, by the first segment of the path. The pool's key may open them, and a
# client's must not. Where one server has its door another has a bucket.
ADMIN_NAMES = frozenset({"minio", "admin", "swift", "auth", "-"})
RESERVED = {
    MINIO: frozenset({"minio", "-"}),
    VERSITYGW: frozenset({"-"}),
    AMAZON: frozenset({"-"}),
    RGW: frozenset({"admin", "swift", "auth", "-"}),
    UNKNOWN: ADMIN_NAMES,
}


def kind_of(headers: Mapping[str, str]) -> str:
    """Return the kind of server that sent an answer; empty where it does not tell."""
    word = headers.get("server", "").partition("/")[0].lower()
    if word in TRAILER_SERVERS:
        return word
    is_ceph = word.startswith("ceph") or RGW_REQUEST_ID.fullmatch(headers.get("x-amz-request-id", "")) is not None
    return RGW if is_ceph else UNKNOWN

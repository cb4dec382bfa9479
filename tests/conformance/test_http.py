"""Our connections against stock urllib3: the same bytes, the same understanding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.peers import Ours, RawServer, Seen, Stock, observe
from tests.conformance.rows import OVER_TLS, ROOMS, Row

PLAIN = [pytest.param(row, id=f"{room}: {row.name}") for room, rows in ROOMS.items() for row in rows]
TLS = [
    pytest.param(row, id=f"{room}: {row.name}") for room, rows in ROOMS.items() for row in rows if row.name in OVER_TLS
]


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[RawServer]:
    with RawServer() as server:
        yield server


@pytest.fixture(scope="module", name="tls_server")
def _tls_server() -> Iterator[RawServer]:
    with RawServer(is_tls=True) as server:
        yield server


def _is_seen(row: Row, seen: Seen) -> bool:
    """Say whether a client saw what the row expects; headers count where the row names them."""
    headers = seen.headers if row.expected.headers else {}
    return row.expected == seen._replace(headers=headers)


@pytest.mark.parametrize("row", PLAIN)
def test_answers_are_understood_as_urllib3_does(server: RawServer, row: Row) -> None:
    """Speed must not cost a byte: what differs from stock differs for the reason in the table."""
    ours = observe(Ours, server, row.script, method=row.method)
    stock = observe(Stock, server, row.script, method=row.method)

    assert _is_seen(row, ours), (ours, stock)
    assert (ours == stock) == (not row.why), (ours, stock)


@pytest.mark.parametrize("row", TLS)
def test_answers_over_tls_are_understood_as_urllib3_does(tls_server: RawServer, row: Row) -> None:
    """Encryption changes how bytes arrive, not what they mean."""
    ours = observe(Ours, tls_server, row.script, method=row.method)
    stock = observe(Stock, tls_server, row.script, method=row.method)

    assert _is_seen(row, ours), (ours, stock)
    assert ours == stock

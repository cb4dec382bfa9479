"""Engines on the in-process fake."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s3pool.config.load import load_config
from s3pool.session import Session, open_session
from s3pool.transfer.context import TransferContext, TransferOptions
from s3pool.transfer.executor import BoundedExecutor
from tests.support.fake_s3 import FakeS3, Quirks

BUCKET = "b"
TLS_DIR = Path(__file__).parents[2] / "support" / "tls"
Make = Callable[..., TransferContext]


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    """Give one store behind two addresses, with an empty bucket ``b``."""
    with FakeS3(2) as server:
        server.store.add(BUCKET, "x")
        server.store.bucket(BUCKET).remove("x", "null")
        yield server


@pytest.fixture
def make_context(fake: FakeS3, tmp_path: Path) -> Iterator[Make]:
    """Make engines on the fake: ``make_context(workers=4, part_size=...)``; ``source`` is another pool."""
    opened: list[tuple[Session, BoundedExecutor]] = []

    def make(
        *, workers: int = 0, server: FakeS3 | None = None, source: FakeS3 | None = None, **options: object
    ) -> TransferContext:
        environ = (server or fake).environment
        flags = {"ca_bundle": str(TLS_DIR / "cert.pem")}
        session = open_session(load_config(flags, environ=environ, cwd=str(tmp_path), home=str(tmp_path)))
        executor = BoundedExecutor(workers)
        opened.append((session, executor))
        there = make(server=source) if source is not None else None
        return TransferContext(session.client, options=TransferOptions(**options), executor=executor, source=there)  # type: ignore[arg-type]

    yield make
    for session, executor in opened:
        executor.close()
        session.close()


@pytest.fixture
def quirky() -> Iterator[Callable[..., FakeS3]]:
    """Make fakes with quirks, each with an empty bucket ``b``."""
    made: list[FakeS3] = []

    def make(**quirks: object) -> FakeS3:
        server = FakeS3(2, quirks=Quirks(**quirks))  # type: ignore[arg-type]
        server.store.add(BUCKET, "x")
        server.store.bucket(BUCKET).remove("x", "null")
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def tls_fake() -> Iterator[FakeS3]:
    """Give a store behind HTTPS, with an empty bucket ``b``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS_DIR / "server.pem")
    with FakeS3(2, tls=context) as server:
        server.store.add(BUCKET, "x")
        server.store.bucket(BUCKET).remove("x", "null")
        yield server

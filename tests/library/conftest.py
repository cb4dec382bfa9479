"""A home of its own, and a store of four nodes that lets in one pair of keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import s3pool
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    """Give the store; the process's environment names it, and nothing else of S3."""
    server = fake_s3(4, secrets={ACCESS_KEY: SECRET_KEY})
    server.store.add("b", "k", b"content")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def pool(fake: FakeS3) -> Iterator[s3pool.Pool]:
    """Give a pool of the environment's words."""
    with s3pool.connect() as pool:
        yield pool

"""A proxy before three nodes that check every signature."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fake_s3 import FakeS3
from tests.support.proxying import RunningProxy, checking_fake


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    """Give three nodes of one store with the bucket ``b``."""
    with checking_fake() as made:
        made.store.add("b", "there", b"0123456789" * 100)
        yield made


@pytest.fixture
def proxy(fake: FakeS3) -> Iterator[RunningProxy]:
    """Give a proxy in verify mode before the fake."""
    with RunningProxy(fake.endpoints) as running:
        yield running

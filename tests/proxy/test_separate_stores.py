"""Pools of separate stores: keys stay on their nodes, and tiers are for emergencies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fake_s3 import FakeS3
from tests.support.proxying import RunningProxy, checking_fake, stored

KEYS = [f"k{number}" for number in range(12)]


@pytest.fixture
def stores() -> Iterator[tuple[FakeS3, FakeS3]]:
    """Give two stores that know nothing of each other, each with the bucket ``b``."""
    with checking_fake(1) as one, checking_fake(1) as other:
        for store in (one, other):
            store.store.add("b", "there", b"x")
        yield one, other


def test_sticky_key_is_found_where_it_was_put(stores: tuple[FakeS3, FakeS3]) -> None:
    """And both stores get their share."""
    with RunningProxy([store.endpoints[0] for store in stores], sticky="key") as proxy:
        for key in KEYS:
            assert 200 == proxy.ask("PUT", f"/b/{key}", body=key.encode()).status

        found = [proxy.ask("GET", f"/b/{key}").body.decode() for key in KEYS]

    assert KEYS == found
    assert all(any(stored(store, "b", key) is not None for key in KEYS) for store in stores)


def test_upload_stays_where_it_was_begun(stores: tuple[FakeS3, FakeS3]) -> None:
    """Its own node was away then, and knows nothing of it now."""
    with RunningProxy([store.endpoints[0] for store in stores], sticky="key") as proxy:
        proxy.ask("PUT", "/b/multi", body=b"x")
        home, away = stores if stored(stores[0], "b", "multi") else reversed(stores)
        home.nodes[0].kill()
        created = proxy.ask("POST", "/b/multi?uploads")
        upload_id = created.body.partition(b"<UploadId>")[2].partition(b"<")[0].decode()
        home.nodes[0].start()
        home.forget()

        statuses = {
            proxy.ask("PUT", f"/b/multi?partNumber={n}&uploadId={upload_id}", body=b"y").status for n in (1, 2, 3)
        }
        away.nodes[0].kill()
        lost = proxy.ask("PUT", f"/b/multi?partNumber=4&uploadId={upload_id}", body=b"y")

    assert {200} == statuses
    assert (503, []) == (lost.status, home.ops(op="UploadPart"))


def test_second_tier_serves_when_the_first_is_out(stores: tuple[FakeS3, FakeS3]) -> None:
    """Until then it hears nothing."""
    first, second = stores
    with RunningProxy([], tiers=[[first.endpoints[0]], [second.endpoints[0]]]) as proxy:
        before = {proxy.ask("GET", "/b/there").status for _ in range(4)}
        unheard = second.ops(op="GetObject")
        first.nodes[0].kill()

        after = proxy.ask("GET", "/b/there")

    assert ({200}, [], 200) == (before, unheard, after.status)
    assert ["GetObject"] == second.ops(op="GetObject")

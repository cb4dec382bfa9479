"""A short soak of the proxy: every answer is checked while a node comes and goes."""

from __future__ import annotations

import threading

from tests.bench.soak_proxy import Tally, run_workers
from tests.support.proxying import POOL_KEY, RunningProxy, checking_fake
from tests.support.relay import Relay

WORKERS = 6
REQUESTS = 60  # of each worker
FLAP_S = 0.2


def test_flapping_node_costs_no_byte() -> None:
    """Whatever a client is told of its objects is true, and no thread stays behind."""
    tally, ended = Tally(), threading.Event()
    with checking_fake(2) as fake, Relay(fake.endpoints[0]) as relay:
        fake.store.add("soak", "other", b"")
        node = int(fake.endpoints[1].rpartition(":")[2])

        def flap() -> None:
            while not ended.wait(FLAP_S):
                relay.kill()
                ended.wait(FLAP_S)
                relay.start()

        flapper = threading.Thread(target=flap)
        with RunningProxy([relay.url, fake.endpoints[1]]) as proxy:
            flapper.start()
            try:
                run_workers(
                    (proxy.port, node),
                    "soak",
                    keys=POOL_KEY,
                    numbers=range(WORKERS),
                    goes_on=lambda count: count < REQUESTS,
                    tally=tally,
                )
            finally:
                ended.set()
                flapper.join()
            assert proxy.proxy.drain()

    assert ([], []) == (tally.wrong, tally.shared)
    assert WORKERS * REQUESTS == tally.done.total() + tally.failed.total()
    assert tally.done.total() > tally.failed.total()

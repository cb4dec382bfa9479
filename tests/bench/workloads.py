"""All workloads: their names, what they are, what they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.bench import work_bodies, work_keys, work_proxy, work_server, work_warp
from tests.bench.rounds import Contestant
from tests.bench.site import Site, server_name

CLIENTS = ("s5cmd", "rclone", "aws")


class Workload(NamedTuple):
    """One kind of work. Without what it needs it cannot run; without a peer it can."""

    name: str
    title: str
    enter: Callable[[Site], list[Contestant]]
    needs: tuple[str, ...] = ("nginx",)
    peers: tuple[str, ...] = CLIENTS
    unit: str = ""  # of rates; a workload without one is judged by its seconds


WITH_CURL = ("s5cmd", "curl", "rclone", "aws")
PROXIES = ("haproxy",)
WORKLOADS = (
    Workload("small-put", "{small} x 4 KiB upload, nginx", work_bodies.small_put),
    Workload("small-get", "{small} x 4 KiB download, nginx", work_bodies.small_get),
    Workload("list", "{listed} keys listed to a file, canned pages", work_keys.long_list),
    Workload("large-get", "{large} download, HTTP, nginx", work_bodies.large_get, peers=WITH_CURL),
    Workload("large-get-tls", "{large} download, HTTPS, nginx", work_bodies.large_get_tls, peers=WITH_CURL),
    Workload("large-put", "{large} upload, HTTP, nginx", work_bodies.large_put),
    Workload("large-put-tls", "{large} upload, HTTPS, nginx", work_bodies.large_put_tls),
    Workload("sync-noop", "sync of {tree} files, nothing to do", work_keys.sync_noop),
    Workload("stat", "one stat, start-up included", work_keys.stat),
    Workload(
        "proxy-small",
        "proxy: 4 KiB GET, 64 connections",
        work_proxy.proxy_small,
        ("nginx", "wrk"),
        PROXIES,
        "requests/s",
    ),
    Workload(
        "proxy-large", "proxy: 64 MiB GET, 8 connections", work_proxy.proxy_large, ("nginx", "wrk"), PROXIES, "MiB/s"
    ),
    # Last, for an idle Ceph still takes a little of the processors.
    Workload("delete", "{deleted} deletes, RGW", work_keys.delete, ("radosgw",)),
    Workload("many-put", "{many} x 50 MiB upload, RGW", work_bodies.many_put, ("radosgw",)),
    Workload("many-get", "{many} x 50 MiB download, RGW", work_bodies.many_get, ("radosgw",)),
)
ON_SERVERS = ("s5cmd", "mc", "rclone", "aws")
if server_name() != "rgw":
    WORKLOADS = tuple(
        Workload(name, f"{title}, {server_name()}", enter, (), ON_SERVERS)
        for name, title, enter in (
            ("small-put", "{small} x 4 KiB upload", work_server.small_put),
            ("small-get", "{small} x 4 KiB download", work_server.small_get),
            ("large-put", "{large} upload", work_server.large_put),
            ("large-get", "{large} download", work_server.large_get),
            ("many-put", "{many} x 50 MiB upload", work_server.many_put),
            ("many-get", "{many} x 50 MiB download", work_server.many_get),
            ("list", "{listed} keys listed to a file", work_server.long_list),
            ("delete", "{deleted} deletes", work_server.delete),
        )
    ) + tuple(
        Workload(f"warp-{kind}", title, work_warp.warp(kind), ("warp",), work_warp.PEERS, "requests/s")
        for kind, title in (
            ("get", f"warp, GET of 1 MiB, {server_name()}"),
            ("put", f"warp, PUT of 1 MiB, {server_name()}"),
            ("mixed", f"warp, GET, HEAD, PUT and DELETE of 1 MiB, {server_name()}"),
        )
    )

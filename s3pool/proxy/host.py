"""What a connection needs of its server."""

from __future__ import annotations

from typing import Protocol

from s3pool.proxy.access_log import Entry
from s3pool.proxy.gateway import Gateway


class Host(Protocol):
    """What a connection needs of its server."""

    @property
    def gateway(self) -> Gateway:
        """Give the configuration in force."""

    @property
    def is_draining(self) -> bool:
        """Say whether connections are to end with their current request."""

    @property
    def has_loop(self) -> bool:
        """Say whether plain connections may wait for their next request without a thread."""

    def report(self, entry: Entry) -> None:
        """Count and log a request that ended."""

    def begin(self) -> None:
        """Count a request that starts."""

"""Keeps the tests at home: a connect that leaves this machine is an error."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any


class OutsideConnectionError(RuntimeError):
    """A test tried to talk to another machine."""


def stay_home() -> None:
    """Refuse every connect of this process that is not to loopback, from now on."""
    sys.addaudithook(_look)


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple) and not is_loopback(str(arguments[1][0])):
        raise OutsideConnectionError(f"tests stay on loopback; this one connects to {arguments[1]}")


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"

"""urllib3 without modules that it loads and s3pool never uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

METADATA = "importlib.metadata"


@contextmanager
def without_metadata() -> Iterator[None]:
    """Load modules that take ``version`` from importlib.metadata, but not that itself.

    urllib3.http2 does so, for the moment in which HTTP/2 is switched on.
    """
    if METADATA in sys.modules:
        yield
        return
    stand_in = ModuleType(METADATA)
    vars(stand_in)["version"] = _version
    sys.modules[METADATA] = stand_in
    try:
        yield
    finally:
        del sys.modules[METADATA]


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)

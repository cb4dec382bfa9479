"""A fast S3 client and proxy for storage that is a cluster of nodes.

As a library: ``with s3pool.connect(endpoints="http://node{1...4}:9000") as pool: ...``; see ``s3pool.api``. Type
checkers read ``__init__.pyi``.
"""

from __future__ import annotations

# Nothing is imported here: an interrupt meanwhile, before the program can take it, would print a traceback.
__version__ = "0.1.0"
_HOMES = {"connect": "s3pool.api", "ListEntry": "s3pool.api", "Pool": "s3pool.api", "S3PoolError": "s3pool.errors"}


def __getattr__(name: str) -> object:
    """Load what is asked for by name: the command line needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 's3pool' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

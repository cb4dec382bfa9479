"""How many workers a command has: what was asked for, or what suits the pool and this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from s3pool.transfer.executor import BoundedExecutor, auto_workers, small_in_flight

if TYPE_CHECKING:
    from s3pool.cli.context import Context

DEFAULT_FILE_LIMIT = 256  # of systems that do not tell theirs
FEWEST_AT_FIRST = 2  # workers that begin one large download: one receives while the other one writes


def worker_count(ctx: Context) -> int:
    """Give the configured number of workers, or choose one; of two pools the larger one decides."""
    nodes = max(len(ctx.session.nodes), len(ctx.source_session.nodes))
    return ctx.config.workers or auto_workers(nodes, file_limit=_file_limit())


def executor_for(ctx: Context, *, inline: bool) -> BoundedExecutor:
    """Give the workers of a run; ``inline`` is for one object, where no thread is worth starting."""
    if inline:
        return BoundedExecutor(0)
    asked, workers = ctx.config.workers, worker_count(ctx)
    first = 0 if asked else max(FEWEST_AT_FIRST, processors())
    return BoundedExecutor(workers, small=small_in_flight(asked, workers), first=first)


def processors() -> int:
    """Give how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _file_limit() -> int:
    try:
        import resource
    except ImportError:
        return DEFAULT_FILE_LIMIT
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DEFAULT_FILE_LIMIT if soft == resource.RLIM_INFINITY else soft

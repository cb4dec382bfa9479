"""What a run remembers of its large transfers, and what it does about those of runs that were killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from s3pool.transfer.sweep import make_sweep

if TYPE_CHECKING:
    from s3pool.cli.context import Context
    from s3pool.transfer.engine import Engine
    from s3pool.transfer.tasks import Outcome


def remember(engine: Engine, ctx: Context, *, sweeps: bool = True) -> Callable[[Outcome], None]:
    """Let large transfers go on where an earlier run of the same command was cut short.

    What such a run has left of small ones is removed from where this one writes; what it has left of a
    target for which there is no use is removed by what is returned, which is to hear of each outcome.
    """
    if ctx.dry_run:
        return lambda _: None
    from s3pool.sync.leftovers import Leftovers
    from s3pool.sync.pools import pool_of
    from s3pool.sync.state import state_directory
    from s3pool.sync.unfinished import Unfinished

    directory = state_directory(ctx.environ.get("XDG_STATE_HOME", ""), os.path.expanduser("~"))
    unfinished = Unfinished(
        os.path.join(directory, "unfinished.sqlite"),
        pool=lambda: pool_of(ctx.config.endpoints, directory),
        shared=True,
        resumes=not getattr(ctx.args, "no_resume", False),
    )
    engine.memory = unfinished
    if sweeps:
        engine.parts.sweep = make_sweep(unfinished.knows_part, largest=engine.options.download_threshold)
    return Leftovers(unfinished, engine.client).clear_of

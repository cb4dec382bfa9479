"""The processes that a run has beside its own, for many small files or objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from s3pool.cli.workers import processors, worker_count
from s3pool.record import replace
from s3pool.transfer.attributes import guess_content_type
from s3pool.transfer.engine import Engine
from s3pool.transfer.executor import small_in_flight
from s3pool.transfer.helper import Helper, start_helper
from s3pool.transfer.small import has_steps

if TYPE_CHECKING:
    from s3pool.cli.context import Context
    from s3pool.transfer.engine import TransferOptions

MOST_HELPERS = 3
WORKERS_PER_PROCESS = 4  # with fewer the user wants it to be done gently
CONNECTIONS_PER_PROCESS = 16  # to an endpoint, likewise


@contextmanager
def helpers_for(
    ctx: Context, options: TransferOptions, *, uploads: bool, prepare: Callable[[Engine], None] | None = None
) -> Iterator[Sequence[Helper]]:
    """Give the helpers of a run; they end with the context.

    To be entered while there is one thread: before bars, workers and probes. ``prepare`` is
    called with each helper's own engine.
    """
    helpers: list[Helper] = []
    count = _how_many(ctx, options)
    transport = ctx.session.transport
    # Of the connections to each endpoint, so many as it has requests under way.
    share = small_in_flight(ctx.config.workers, worker_count(ctx)) // (1 + count)
    if count:
        _warm_up(ctx, uploads)
    try:
        for _ in range(count):
            helper = start_helper(
                lambda: _Means(ctx, options, share, prepare),
                add_counts=transport.add_counts,
                begin=lambda: transport.leave_connections(share),
            )
            if helper is None:
                break
            helpers.append(helper)
        yield helpers
    finally:
        for helper in helpers:
            helper.close()


def _how_many(ctx: Context, options: TransferOptions) -> int:
    if ctx.dry_run or ctx.config.bwlimit or not has_steps(options):
        return 0
    processes = min(
        processors(),
        worker_count(ctx) // WORKERS_PER_PROCESS,
        ctx.config.max_connections // CONNECTIONS_PER_PROCESS,
        1 + MOST_HELPERS,
    )
    return max(0, processes - 1)


def _warm_up(ctx: Context, uploads: bool) -> None:
    """Load once, for all processes, what each of them would load by itself."""
    import s3pool.sync.journal
    import s3pool.sync.state  # noqa: F401

    ctx.client.in_flight().close()
    if uploads:
        guess_content_type("")


class _Means:
    """What a helper works with: a session of its own, in which nothing is tried twice.

    What fails is tried again in the process that has the whole run before it.
    """

    def __init__(
        self, ctx: Context, options: TransferOptions, connections: int, prepare: Callable[[Engine], None] | None
    ) -> None:
        from s3pool.session import open_session

        config = replace(ctx.config, max_connections=connections, retries=0)
        session = open_session(config)
        self._transport = session.transport
        self.engine = Engine(session.client, options=options)
        if prepare is not None:
            prepare(self.engine)

    def tell_counts(self) -> Sequence[Any]:
        """Give what was counted in this process."""
        return self._transport.tell_counts()

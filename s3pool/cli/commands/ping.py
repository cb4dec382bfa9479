"""s3pool ping: state, latency, TLS version and clock of every node."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from s3pool.cli.context import Context
from s3pool.cli.formats import format_stamp, table
from s3pool.cli.output import DENIED, DONE, NO_ENDPOINT, Output
from s3pool.cli.parser import positive_int, seconds, switch
from s3pool.errors import AccessDeniedError, CredentialsError, NoEndpointError, ProtocolError, S3Error, S3PoolError
from s3pool.model import format_iso_time
from s3pool.pool.connections import ConnectionPool
from s3pool.pool.health import NO_QUORUM, ProbeResult, probe, probe_with_set
from s3pool.pool.node import CircuitBreaker, Node
from s3pool.record import replace
from s3pool.s3.client import S3Client
from s3pool.s3.responses import CODES

EXAMPLES = ("ping", "ping --count 3", "ping --watch")

DEFAULT_INTERVAL_S = 2.0
HEADER = ("node", "state", "keys", "latency", "TLS", "clock", "server", "error")
NUMBERS = frozenset((3, 5))
OK, REFUSED, NOT_ASKED = "ok", "refused", "not asked"
JOIN_SLACK_S = 1.0
NO_S3 = "it answers HTTP, and is no S3: check host and port"
PLAIN_TO_TLS = 400  # what many servers answer to HTTP on their port for HTTPS
NOT_IMPLEMENTED = 501

Show = Callable[[list[ProbeResult]], None]
Line = tuple[str, str]  # a text and its colour, "" for the terminal's own
Draw = Callable[[Sequence[Line]], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ping."""
    parser.add_argument("--count", type=positive_int, default=0, metavar="N", help="rounds (1; endless with --watch)")
    switch(parser, "--watch", help="go on until interrupted")
    parser.add_argument(
        "--interval", type=seconds, default=DEFAULT_INTERVAL_S, metavar="TIME", help="between two rounds (2s)"
    )


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Probe all nodes at once, round by round; the last round decides the exit code."""
    ctx.sign_if_possible()
    with _view(args, ctx) as show:
        for results in _rounds(args, ctx):
            show(results)
    if any(result.keys == REFUSED for result in results):
        return DENIED
    return DONE if any(result.is_alive for result in results) else NO_ENDPOINT


def _rounds(args: argparse.Namespace, ctx: Context) -> Iterator[list[ProbeResult]]:
    rounds = args.count or (0 if args.watch else 1)
    done = 0
    while True:
        if ctx.session.keeper is not None:
            ctx.session.keeper.refresh()
        client = ctx.client if ctx.config.sign else None
        yield probe_all(ctx.session.nodes, timeout_s=ctx.config.connect_timeout_s, client=client)
        done += 1
        if done == rounds:
            return
        time.sleep(args.interval)


def probe_all(nodes: Sequence[Node], *, timeout_s: float, client: S3Client | None = None) -> list[ProbeResult]:
    """Probe every node in its own thread, so that a silent node delays no other.

    With a ``client`` each node is asked by a signed request as well whether it takes the keys.
    """
    results: dict[int, ProbeResult] = {}

    def ask(index: int, node: Node) -> None:
        results[index] = result = probe_with_set(node, timeout_s=timeout_s)
        if result.is_alive and client is not None:
            result = results[index] = check_keys(client, result)
        if result.error and (hint := _scheme_hint(node, timeout_s=timeout_s)):
            results[index] = replace(result, is_alive=False, keys="", error=hint)

    threads = [
        threading.Thread(target=ask, args=(index, node), name=f"s3pool-ping-{index}", daemon=True)
        for index, node in enumerate(nodes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        # Connecting, two answers, the signed request and the other scheme have a timeout each.
        thread.join(5 * timeout_s + JOIN_SLACK_S)
    silent = "no answer in time"
    return [
        results.get(index) or ProbeResult(node.endpoint, is_alive=False, error=silent)
        for index, node in enumerate(nodes)
    ]


def check_keys(client: S3Client, result: ProbeResult) -> ProbeResult:
    """Return the result with what a node says to a signed request."""
    try:
        client.list_buckets(only=result.endpoint)
    except S3Error as exc:
        if exc.code in CODES.values() and not (exc.request_id or exc.detail):
            return replace(result, is_alive=False, error=f"status {exc.status}; {NO_S3}")
        # Keys that are known may merely not list buckets; Garage denies access to unknown ones too.
        may_just_not_list = exc.code == "AccessDenied" and "no such key" not in exc.detail.lower()
        if isinstance(exc, AccessDeniedError) and not may_just_not_list:
            why = f"{exc.code}{f': {exc.detail}' if exc.detail else ''}{f'; {exc.advice}' if exc.advice else ''}"
            return replace(result, keys=REFUSED, error=why)
        if isinstance(exc, AccessDeniedError) or exc.status == NOT_IMPLEMENTED:
            return replace(result, keys=OK)
        return replace(result, error=exc.message)
    except ProtocolError:
        return replace(result, is_alive=False, error=NO_S3)
    except NoEndpointError as exc:
        is_other = isinstance(exc.__cause__, ProtocolError)
        return replace(result, is_alive=not is_other, error=NO_S3 if is_other else str(exc.__cause__ or exc))
    except S3PoolError as exc:
        return replace(result, keys=REFUSED if isinstance(exc, CredentialsError) else "", error=str(exc))
    return replace(result, keys=OK)


def _scheme_hint(node: Node, *, timeout_s: float) -> str:
    """Return the remedy when the port speaks the other of HTTP and HTTPS; else ""."""
    endpoint = node.endpoint
    scheme = "http" if endpoint.scheme == "https" else "https"
    other = replace(endpoint, scheme=scheme)
    connections = ConnectionPool(other, replace(node.connections.settings, insecure=True))
    try:
        found = probe(Node(other, connections, CircuitBreaker()), timeout_s=timeout_s)
    finally:
        connections.close()
    is_other = found.status and not (scheme == "http" and found.status == PLAIN_TO_TLS)
    return f"this port speaks {scheme.upper()}: write {other.url}" if is_other else ""


@contextmanager
def _view(args: argparse.Namespace, ctx: Context) -> Iterator[Show]:
    """Yield the function that shows a round: JSON records, a table, a line, or a table in place."""
    out = ctx.out
    if out.json:
        yield lambda results: out.lines(map(out.encode, map(endpoint_record, results)))
    elif not args.watch:
        first = iter((True,))
        yield lambda results: _show_table(results, out, gap=not next(first, False))
    elif not out.is_tty or ctx.environ.get("TERM") == "dumb":
        yield lambda results: _show_line(results, ctx)
    else:
        with _live_lines(color=out.is_colored()) as draw:
            yield lambda results: draw([*_painted_lines(results, ctx), (stamp(ctx), "")])


@contextmanager
def _live_lines(*, color: bool) -> Iterator[Draw]:
    """Yield a function that draws lines over the lines that it drew before.

    Lines are cut at the terminal's width at that moment. The last lines stay when the context ends.
    """
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not color)
    # The caller draws: no refresh thread.
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:

        def draw(lines: Sequence[Line]) -> None:
            texts = [Text(text, style=style, no_wrap=True, overflow="ellipsis") for text, style in lines]
            live.update(Group(*texts), refresh=True)

        yield draw


def _painted_lines(results: Sequence[ProbeResult], ctx: Context) -> list[Line]:
    header, *lines = map(ctx.out.escape, table(HEADER, map(_row, results), right=NUMBERS))
    colors = ["green" if result.is_alive else "red" for result in results]
    return [(header, ""), *zip(lines, colors, strict=True)]


def _show_table(results: Sequence[ProbeResult], out: Output, *, gap: bool) -> None:
    if gap:
        out.line("")
    lines = table(HEADER, map(_row, results), right=NUMBERS)
    out.line(lines[0])
    for line, result in zip(lines[1:], results, strict=True):
        out.line(out.paint(out.escape(line), "good" if result.is_alive else "bad"))
    out.flush()


def _show_line(results: Sequence[ProbeResult], ctx: Context) -> None:
    """Print a round as one line, for logs: the nodes in the order of the pool, with latencies."""
    alive = sum(result.is_alive for result in results)
    states = ", ".join(
        f"{result.endpoint} {_latency(result) if result.is_alive else _state(result)}" for result in results
    )
    ctx.out.line(ctx.out.escape(f"{stamp(ctx)} {alive} of {len(results)} up: {states}"))
    ctx.out.flush()


def stamp(ctx: Context) -> str:
    """Return the time of a round in the format of listings."""
    return format_stamp(format_iso_time(ctx.now()))


def _row(result: ProbeResult) -> tuple[str, ...]:
    return (
        result.endpoint.url,
        _state(result),
        result.keys or (NOT_ASKED if result.is_alive and not result.error else "-"),
        _latency(result),
        result.tls_version or "-",
        _clock(result.clock_offset_s),
        result.server or "-",
        result.error.removeprefix(f"{result.endpoint}: ") or "-",  # the first column names the endpoint
    )


def _state(result: ProbeResult) -> str:
    return NO_QUORUM if result.error == NO_QUORUM else "up" if result.is_alive else "down"


def _latency(result: ProbeResult) -> str:
    return f"{result.latency_s * 1000:.1f}ms" if result.status else "-"


def _clock(offset_s: float | None) -> str:
    if offset_s is None:
        return "-"
    # The Date header knows whole seconds only: less than one is no difference.
    return f"{round(offset_s):+d}s" if abs(offset_s) >= 1 else "0s"


def endpoint_record(result: ProbeResult) -> dict[str, object]:
    """Return the JSON object of one probe; numbers that are unknown are null."""
    answered = bool(result.status)
    offset = result.clock_offset_s
    return {
        "type": "endpoint",
        "url": result.endpoint.url,
        "healthy": result.is_alive,
        "latency_ms": round(result.latency_s * 1000, 3) if answered else None,
        "connect_ms": round(result.connect_s * 1000, 3) if answered else None,
        "status": result.status or None,
        "tls": result.tls_version,
        "clock_offset_s": round(offset, 3) if offset is not None else None,
        "server": result.server,
        "keys": result.keys,
        "error": result.error,
    }

"""s3pool speedtest: how fast the pool and each node are, and which node is slow."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from s3pool.cli.context import Context
from s3pool.cli.formats import table
from s3pool.cli.output import DONE, FAILED
from s3pool.cli.parser import positive_int, seconds, size_in_bytes, switch
from s3pool.errors import S3PoolError, UsageError, is_pool_dead
from s3pool.location import S3Path
from s3pool.model import Endpoint
from s3pool.record import dataclass
from s3pool.s3.client import S3Client
from s3pool.s3.requests import MAX_SINGLE_PUT_BYTES, MIB
from s3pool.speedtest.bench import PHASES, Bench, BenchPlan, check_bucket, describe, new_prefix, remove_all
from s3pool.speedtest.measure import SLOW, Finding, Measurement, Observer, find_outliers
from s3pool.units import format_duration, format_size

if TYPE_CHECKING:
    from s3pool.speedtest.bench import Way

EXAMPLES = ("speedtest s3/photos", "speedtest --duration 30s --per-endpoint s3/photos")

DEFAULT_DURATION_S = 10.0
DEFAULT_SIZE_BYTES = MIB
FEW_JOBS = 8  # of the parallel listing that every pool is shown with
MOVES_BYTES = PHASES[:2]  # uploads and downloads
NUMBERS = frozenset(range(1, 8))
WAY_HEADER = ("listing", "objects", "pages", "seconds", "objects/s", "factor")
WAY_NUMBERS = frozenset(range(1, 6))
ELLIPSIS = "…"
LEAST_NAME = 12  # a shorter piece of a URL names no node
MOST_BAR = 40
TEN, THOUSAND = 10, 1000
ONE_DIGIT, TWO_DIGITS, THREE_DIGITS = 1, 2, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operand and flags of speedtest."""
    parser.add_argument("path", metavar="PATH", help="a bucket or prefix; a new prefix below it holds the objects")
    parser.add_argument(
        "--duration",
        type=seconds,
        default=DEFAULT_DURATION_S,
        metavar="TIME",
        help="how long each measurement takes (10s)",
    )
    parser.add_argument(
        "--size", type=size_in_bytes, default=None, metavar="SIZE", help="how large each object is (1M)"
    )
    parser.add_argument("--concurrency", type=positive_int, default=0, metavar="N", help="requests at once (auto)")
    switch(parser, "--per-endpoint", help="give each node the whole load as well, in turn")
    switch(parser, "--keep", help="leave the objects; delete is not measured")
    switch(parser, "--list", help="list what is at PATH, in one connection, by rotation and in parallel")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Measure, print and clean up; failed requests make the exit code 1."""
    path = ctx.s3(args.path)
    _check(args, path)
    check_bucket(ctx.client, path.bucket)
    if args.list:
        return _compare_listings(path, args, ctx)
    return _measure(path, args, ctx)


def _check(args: argparse.Namespace, path: S3Path) -> None:
    if not path.bucket:
        raise UsageError("speedtest needs a bucket; write s3/BUCKET or s3/BUCKET/PREFIX")
    if not args.duration:
        raise UsageError("--duration must be more than nothing")
    if args.list and (args.keep or args.per_endpoint or args.size is not None):
        raise UsageError("--list stores nothing: --size, --per-endpoint and --keep do not go with it")
    if (args.size or 0) > MAX_SINGLE_PUT_BYTES:
        raise UsageError(f"--size: an upload in one piece takes {format_size(MAX_SINGLE_PUT_BYTES)} at most")


def _measure(path: S3Path, args: argparse.Namespace, ctx: Context) -> int:
    place = new_prefix(path)
    plan = _plan(args, ctx)
    if ctx.dry_run:
        return _rehearse(place, plan, args, ctx)
    ctx.session.start_health()
    ctx.out.note(f"s3pool: {_describe(plan, ctx)}, below {place.text}")
    observer = Observer(ctx.session.transport)
    client = S3Client(observer, addressing=ctx.config.addressing, region=ctx.config.region)
    bench = Bench(client, observer, place, plan=plan, endpoints=ctx.session.transport.endpoints)
    results: list[Measurement] = []
    with _cleaned_up(bench, place, args, ctx) as ending:
        for _, rows in bench.phases():
            _show_phase(rows, plan, ctx, gap=bool(results))
            results += rows
        _show_findings(results, ctx)
    failed = any(result.errors for result in results)
    return FAILED if failed or ending else DONE


def _plan(args: argparse.Namespace, ctx: Context) -> BenchPlan:
    from s3pool.cli.transfers import worker_count

    alive, left_out = _nodes_for(args, ctx)
    return BenchPlan(
        duration_s=args.duration,
        size=DEFAULT_SIZE_BYTES if args.size is None else args.size,
        concurrency=args.concurrency or worker_count(ctx),
        phases=PHASES[:-1] if args.keep else PHASES,
        alone=alive,
        left_out=left_out,
    )


def _nodes_for(args: argparse.Namespace, ctx: Context) -> tuple[tuple[Endpoint, ...], tuple[tuple[str, str], ...]]:
    if not args.per_endpoint:
        return (), ()
    if ctx.dry_run:
        return ctx.session.transport.endpoints, ()
    from s3pool.cli.commands.ping import probe_all

    probes = probe_all(ctx.session.nodes, timeout_s=ctx.config.connect_timeout_s)
    alive = tuple(result.endpoint for result in probes if result.is_alive)
    return alive, tuple((str(result.endpoint), result.error) for result in probes if not result.is_alive)


def _describe(plan: BenchPlan, ctx: Context) -> str:
    nodes = len(ctx.session.nodes)
    total_s = plan.duration_s * len(plan.phases) * (1 + len(plan.alone))
    how = ", then on each alone" if plan.alone else ""
    return (
        f"{', '.join(plan.phases)} of objects of {format_size(plan.size)} on {nodes} nodes{how}, "
        f"{plan.concurrency} at a time, about {format_duration(round(total_s, 1))} in all"
    )


def _rehearse(place: S3Path, plan: BenchPlan, args: argparse.Namespace, ctx: Context) -> int:
    fate = "keep what was stored" if args.keep else "remove what was stored"
    ctx.out.act(
        f"speedtest: {_describe(plan, ctx)}, below {ctx.out.escape(place.text)}; then {fate}",
        {
            "type": "speedtest_plan",
            "url": place.text,
            "phases": list(plan.phases),
            "size": plan.size,
            "concurrency": plan.concurrency,
            "duration": plan.duration_s,
            "endpoints": [str(endpoint) for endpoint in plan.alone],
            "keep": args.keep,
        },
    )
    return DONE


@contextmanager
def _cleaned_up(bench: Bench, place: S3Path, args: argparse.Namespace, ctx: Context) -> Iterator[list[str]]:
    """Remove what the test stored, however it ends; the list then names what is left."""
    left: list[str] = []
    is_dead = False
    try:
        yield left
    except BaseException as exc:
        is_dead = is_pool_dead(exc)  # nobody is there who could remove what may have been stored
        if isinstance(exc, KeyboardInterrupt) and not args.keep:
            ctx.out.note("s3pool: stopping; what was stored is removed")
        raise
    finally:
        bench.stop.set()
        if args.keep:
            ctx.out.note(f"s3pool: the objects stay below {place.text}")
        elif is_dead:
            ctx.out.note(f"s3pool: nothing was removed; s3pool rm -r --force {place.text} removes what may be there")
        else:
            left += _remove(bench, place, ctx)


def _remove(bench: Bench, place: S3Path, ctx: Context) -> Sequence[str]:
    try:
        words = describe(remove_all(ctx.client, place), place, lost=bench.lost)
    except KeyboardInterrupt:
        ctx.out.error(S3PoolError(f"not all was removed; s3pool rm -r --force {place.text} removes the rest"))
        raise
    for text in words:
        ctx.out.error(S3PoolError(text))
    return words


def _show_phase(rows: Sequence[Measurement], plan: BenchPlan, ctx: Context, *, gap: bool) -> None:
    out = ctx.out
    if out.json:
        for row in rows:
            if row.requests or row.errors:
                out.record(_record(row))
        out.flush()
        return
    width = _terminal_width() if out.is_tty else 0
    moves_bytes = rows[0].phase in MOVES_BYTES
    size = f"objects of {format_size(plan.size)}, " if moves_bytes else ""
    header = ("node", "bytes/s" if moves_bytes else "objects/s", "req/s", "p50", "p90", "p99", "max", "errors")
    together = [row for row in rows if not row.alone]
    alone = [row for row in rows if row.alone]
    for title, block in (("", together), (", each node alone", alone)):
        if not block:
            continue
        if gap or block is alone:
            out.line("")
        out.line(f"{rows[0].phase}{title}: {size}{plan.concurrency} at a time")
        out.lines(map(out.escape, fitted_table(header, list(map(_cells, block)), right=NUMBERS, width=width)))


def _cells(row: Measurement) -> tuple[str, ...]:
    if not row.requests:
        return (row.endpoint, *["-"] * 6, str(row.errors))
    times = map(format_ms, (row.p50_ms, row.p90_ms, row.p99_ms, row.max_ms))
    return (row.endpoint, _speed(row), format_count(row.requests_per_s), *times, str(row.errors))


def _speed(row: Measurement) -> str:
    return format_throughput(row.throughput) if row.phase in MOVES_BYTES else format_count(row.objects_per_s)


def _record(row: Measurement) -> dict[str, object]:
    times = ("mean_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms")
    return {
        "type": "speedtest",
        **{name: getattr(row, name) for name in ("phase", "endpoint", "alone", "bytes", "objects")},
        "seconds": round(row.seconds, THREE_DIGITS),
        "throughput": round(row.throughput, ONE_DIGIT),
        "requests": row.requests,
        "requests_per_s": round(row.requests_per_s, TWO_DIGITS),
        "objects_per_s": round(row.objects_per_s, TWO_DIGITS),
        **{name: round(getattr(row, name), THREE_DIGITS) for name in times},
        "errors": row.errors,
        "error": row.error,
    }


def _show_findings(results: Sequence[Measurement], ctx: Context) -> None:
    out = ctx.out
    findings = find_outliers(results)
    if out.json:
        for finding in findings:
            names = {name: getattr(finding, name) for name in ("kind", "phase", "endpoint")}
            factor = round(finding.factor, TWO_DIGITS) or None
            out.record({"type": "speedtest_finding", **names, "factor": factor, "message": finding.message})
        return
    if out.is_tty and not out.quiet:
        _draw(results, findings, ctx)
    lines = [out.paint(out.escape(finding.message), "bad") for finding in findings]
    if not lines and len(ctx.session.nodes) > 1:
        lines = ["No node stands out."]
    if lines:
        out.lines(["", *lines])


def _draw(results: Sequence[Measurement], findings: Sequence[Finding], ctx: Context) -> None:
    """Draw a bar for each node and phase: its speed alone, or the mean time of its requests."""
    slow = {(finding.phase, finding.endpoint) for finding in findings if finding.kind == SLOW}
    for phase in dict.fromkeys(result.phase for result in results):
        rows = [row for row in results if row.phase == phase and not row.is_all]
        alone = [row for row in rows if row.alone]
        bars = [_bar(row, is_slow=(phase, row.endpoint) in slow) for row in alone or rows]
        what = "speed of each node alone" if alone else "mean time of a request, shorter is better"
        lines = bar_lines(bars, width=_terminal_width(), color=ctx.out.is_colored())
        if len(rows) > 1 and lines:
            ctx.out.lines(["", f"{phase}: {what}", *lines])


def _bar(row: Measurement, *, is_slow: bool) -> Bar:
    if not row.requests:
        return Bar(row.endpoint, 0.0, "-", is_slow)  # where less is better, no answer must not look best
    if not row.alone:
        return Bar(row.endpoint, row.mean_ms, format_ms(row.mean_ms), is_slow)
    return Bar(row.endpoint, row.throughput if row.phase in MOVES_BYTES else row.objects_per_s, _speed(row), is_slow)


def _compare_listings(path: S3Path, args: argparse.Namespace, ctx: Context) -> int:
    from s3pool.speedtest.bench import compare_listings

    nodes = len(ctx.session.nodes)
    jobs = (args.concurrency,) if args.concurrency else (FEW_JOBS, nodes) if nodes > FEW_JOBS else (FEW_JOBS,)
    if ctx.dry_run:
        names = ["one connection", "rotation", *(f"parallel with {number} jobs" for number in jobs)]
        limit = format_duration(args.duration)
        text = f"speedtest: list {ctx.out.escape(path.text)} by {', '.join(names)}, for {limit} each at most"
        ctx.out.act(text, {"type": "speedtest_plan", "url": path.text, "jobs": list(jobs), "duration": args.duration})
        return DONE
    ways: list[Way] = []
    transport = ctx.session.transport
    for way in compare_listings(
        ctx.client, path, endpoints=transport.endpoints, jobs=jobs, limit_s=args.duration, drop_idle=transport.drop_idle
    ):
        ways.append(way)
        if ctx.out.json:
            ctx.out.record(_way_record(way))
            ctx.out.flush()
        else:
            ctx.out.note(f"s3pool: {_way_name(way)}: {format_count(way.objects_per_s)} objects/s")
    if not ctx.out.json:
        width = _terminal_width() if ctx.out.is_tty else 0
        ctx.out.lines(fitted_table(WAY_HEADER, list(map(_way_cells, ways)), right=WAY_NUMBERS, width=width))
    return DONE


def _way_name(way: Way) -> str:
    return f"{way.name}, {way.jobs} jobs" if way.jobs > 1 else way.name


def _way_cells(way: Way) -> tuple[str, ...]:
    more = "" if way.complete else "+"
    return (
        _way_name(way),
        f"{way.objects}{more}",
        str(way.pages),
        f"{way.seconds:.2f}",
        format_count(way.objects_per_s),
        f"{way.factor:.1f}x" if way.factor else "-",
    )


def _way_record(way: Way) -> dict[str, object]:
    return {
        "type": "speedtest",
        "phase": "list",
        "way": way.name,
        "jobs": way.jobs,
        "endpoint": way.endpoint or "all",
        "bytes": 0,
        "objects": way.objects,
        "seconds": round(way.seconds, THREE_DIGITS),
        "requests": way.requests,
        "objects_per_s": round(way.objects_per_s, TWO_DIGITS),
        "factor": round(way.factor, TWO_DIGITS) or None,
        "complete": way.complete,
    }


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; a ``bad`` one is red."""

    name: str
    value: float
    text: str
    bad: bool = False


def _terminal_width() -> int:
    """Return the width of the terminal in columns; the variable COLUMNS overrides it."""
    return shutil.get_terminal_size().columns


def fitted_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int], width: int = 0
) -> list[str]:
    """Return the lines of a table, with the first column shortened to fit ``width``; 0 is no limit."""
    lines = table(header, rows, right=right)
    excess = max(map(len, lines)) - width if width else 0
    if excess <= 0:
        return lines
    names = [row[0] for row in rows]
    room = max(LEAST_NAME, max(map(len, (header[0], *names))) - excess)
    short = fit_names(names, room)
    return table(header, [(name, *row[1:]) for name, row in zip(short, rows, strict=True)], right=right)


def fit_names(names: Sequence[str], room: int) -> list[str]:
    """Shorten URLs to ``room`` characters: drop the scheme, then cut out the middle."""
    if max(map(len, names), default=0) <= room:
        return list(names)
    return [_shorten(name.partition("://")[2] or name, room) for name in names]


def _shorten(name: str, room: int) -> str:
    if len(name) <= room:
        return name
    tail = (room - 1) // 2
    return f"{name[: room - 1 - tail]}{ELLIPSIS}{name[len(name) - tail :]}"


def format_ms(milliseconds: float) -> str:
    """Format a time in five characters: ``0.8ms``, ``12ms``, ``1.2s``."""
    if round(milliseconds, 1) < TEN:
        return f"{milliseconds:.1f}ms"
    if round(milliseconds) < THOUSAND:
        return f"{milliseconds:.0f}ms"
    seconds = milliseconds / THOUSAND
    return f"{seconds:.1f}s" if round(seconds, 1) < TEN else f"{seconds:.0f}s"


def format_count(number: float) -> str:
    """Format a rate without a unit: one decimal below 10."""
    return f"{number:.1f}" if round(number, 1) < TEN else f"{number:.0f}"


def format_throughput(bytes_per_s: float) -> str:
    """Format bytes a second in nine characters: ``51MiB/s``."""
    return f"{format_size(round(bytes_per_s))}/s"


def bar_lines(bars: Sequence[Bar], *, width: int, color: bool) -> list[str]:
    """Return bars as lines of at most ``width`` columns; the longest bar fills its column."""
    from rich.bar import Bar as RichBar
    from rich.console import Console
    from rich.table import Table

    most = max((bar.value for bar in bars), default=0.0)
    if not most:
        return []
    texts = max(len(bar.text) for bar in bars)
    names = fit_names([bar.name for bar in bars], max(LEAST_NAME, (width - texts) // 2))
    room = max(1, min(MOST_BAR, width - texts - max(map(len, names)) - 2 * len("  ")))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(width=room)
    grid.add_column(justify="right", no_wrap=True)
    for name, bar in zip(names, bars, strict=True):
        style = "red" if bar.bad else "green"
        grid.add_row(name, RichBar(most, 0, bar.value, width=room, color=style), bar.text)
    console = Console(width=width, force_terminal=color, no_color=not color, color_system="standard" if color else None)
    with console.capture() as captured:
        console.print(grid, markup=False, highlight=False)
    return [line.rstrip() for line in captured.get().splitlines()]

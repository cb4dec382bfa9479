"""--processes N: N shards of one command on this machine, with one output, summary and exit code.

The processes are started afresh, and are told their ranges when the plan is made. Their results
come through pipes: in the order of the ranges for what is ordered, by whole lines for the rest.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from s3pool.cli.context import Context
from s3pool.cli.output import DONE, FAILED, Terminated, combined
from s3pool.cli.progress import HELD_BY_PARTS, RunProgress
from s3pool.cli.selection import make_plan
from s3pool.cli.transfers import note_not_kept, print_summary, summary_text
from s3pool.errors import S3PoolError, UnorderedError
from s3pool.filters import NameRange
from s3pool.location import Location, S3Path, glob_prefix, has_glob
from s3pool.transfer.tasks import Summary

# -c puts the working directory on sys.path, from which nothing may be loaded.
PROGRAM = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); "
    "from s3pool.cli.main import main_of_part; raise SystemExit(main_of_part())"
)
READ_BYTES = 1 << 18
PIPE_BYTES = 1 << 20
HELD_BYTES = 4 << 20  # of one shard's results in memory while it waits for its turn; then they go to a file
END_S = 10.0  # after a signal, before shards are killed
ENDING_WORDS = ("interrupted", "terminated")  # the parent says it once
ENDINGS = frozenset(f"s3pool: {word}".encode() for word in ENDING_WORDS)
MOST_KNOWN_LINES = 1000
STOP_COUNTS = {"scans_ended": False, "failed": 1}  # of a shard that ended before the others met


class _Child:
    def __init__(self, index: int, process: subprocess.Popen[bytes], reports: int, orders: int) -> None:
        self.index, self.process, self.reports, self.orders = index, process, reports, orders
        self.held = tempfile.SpooledTemporaryFile(HELD_BYTES)  # noqa: SIM115 - closed with the process
        self.rest: dict[int, bytes] = {}  # of lines, by the descriptor they came from
        self.open = {reports, _number(process.stdout), _number(process.stderr)}
        self.records: dict[str, list[Any]] = {}
        self.meeting: dict[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing can come any more."""
        return not self.open

    def order(self, fields: Mapping[str, Any]) -> None:
        """Send an order; a process that has ended needs none."""
        try:
            os.write(self.orders, f"{json.dumps(fields)}\n".encode())
        except OSError:
            return


def run_parts(
    ctx: Context,
    tree: Location | None,
    *,
    ordered: bool,
    progress: object = None,
    lines: bool = True,
    stdin: bytes | None = None,
    is_source: bool = False,
    operand: str | None = None,
    before_results: Callable[[], None] = lambda: None,
) -> Parts:
    """Run the command of this process by shards, and pass on their results and errors.

    The names of ``tree`` are divided by a plan, without one by their hashes. With ``ordered`` the
    results follow each other as the ranges do. ``operand`` is the one of several that the shards
    are to do; ``before_results`` is called before the first result.
    """
    count = ctx.args.processes
    with _started(count, ctx, stdin) as children:
        parts = Parts(ctx, children, ordered=ordered, progress=progress, before_results=before_results)
        try:
            plan = _plan(ctx, tree, count, is_source=is_source)
            for child, names in zip(children, plan, strict=False):
                order = {"words": list(ctx.words), "shard": child.index, "of": len(plan), "lines": lines}
                bounds = [] if names is None else [names.after, names.until]
                child.order({**order, "bounds": bounds, "operand": operand})
            for child in children[len(plan) :]:
                child.order({})  # it is not needed
            parts.until_the_end()
        except KeyboardInterrupt as exc:
            parts.interrupt = exc
            parts.stop(signal.SIGTERM if isinstance(exc, Terminated) else signal.SIGINT)
        parts.code = combined([parts.code_of(child) for child in children])
    ctx.add_counts(*([row for rows in parts.reports(kind) for row in rows] for kind in ("endpoints", "lists")))
    return parts


def _plan(ctx: Context, tree: Location | None, count: int, *, is_source: bool) -> Sequence[NameRange | None]:
    if tree is None:
        return [None] * count
    try:
        return make_plan(ctx, tree, count, source=is_source)
    except UnorderedError:
        return [None] * count  # by their hashes
    except S3PoolError:
        return [NameRange()]  # one process meets the same error, and reports it


@contextmanager
def _started(count: int, ctx: Context, stdin: bytes | None) -> Iterator[list[_Child]]:
    children: list[_Child] = []
    try:
        # They inherit the mask, and lift it when they can tell of a signal otherwise than by a traceback of imports.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BY_PARTS)
        try:
            children += (_start(index, ctx, stdin) for index in range(count))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield children
    finally:
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        for child in children:
            try:
                child.process.wait(END_S)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            for stream in (child.process.stdout, child.process.stderr, child.held):
                if stream is not None:
                    stream.close()
            os.close(child.reports)
            os.close(child.orders)


def _start(index: int, ctx: Context, stdin: bytes | None) -> _Child:
    """Start a process in a group of its own: the terminal's Ctrl-C reaches it by this one alone."""
    reports, report_end = os.pipe()
    order_end, orders = os.pipe()
    source: int | IO[bytes] = subprocess.DEVNULL
    if stdin is not None:
        source = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
        source.write(stdin)
        source.seek(0)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "\n".join(sys.path), str(report_end), str(order_end)],
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(report_end, order_end),
            start_new_session=True,
            env={**os.environ, **ctx.environ},
        )
    finally:
        os.close(report_end)
        os.close(order_end)
        if not isinstance(source, int):
            source.close()
    for descriptor in (_number(process.stdout), reports):
        os.set_blocking(descriptor, False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux: a child that is ahead of its turn waits later
        fcntl.fcntl(_number(process.stdout), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return _Child(index, process, reports, orders)


class Parts:
    """The shards of one command at work, and what they left: reports, exit code, the interrupt that ended them."""

    def __init__(
        self,
        ctx: Context,
        children: Sequence[_Child],
        *,
        ordered: bool,
        progress: object,
        before_results: Callable[[], None],
    ) -> None:
        self.code = DONE
        self.interrupt: KeyboardInterrupt | None = None
        self._before_results: Callable[[], None] | None = before_results
        self._out, self._children, self._ordered = ctx.out, children, ordered
        self._turn = 0  # the shard whose results go out as they come
        self._progress = progress if isinstance(progress, RunProgress) else None
        self._known: set[bytes] = set()  # lines on stderr that some shard has written
        self._end = b"\0" if getattr(ctx.args, "print0", False) else b"\n"
        self._selector = selectors.DefaultSelector()
        for child in children:
            self._listen(child, child.reports, self._take_reports)
            self._listen(child, _number(child.process.stdout), self._take_results)
            self._listen(child, _number(child.process.stderr), self._take_errors)

    def _listen(self, child: _Child, descriptor: int, take: Callable[[_Child, int, bytes], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, (child, take))

    def reports(self, kind: str) -> Iterator[Any]:
        """Yield the reports of one kind, in the order of the ranges."""
        for child in self._children:
            yield from child.records.get(kind, ())

    def raise_interrupt(self) -> None:
        """Raise the interrupt that ended the shards, if one did."""
        if self.interrupt is not None:
            raise self.interrupt

    def until_the_end(self, deadline: float | None = None) -> None:
        """Take what comes until all shards have ended, or the time is up."""
        while self._selector.get_map():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if left == 0.0:
                return
            for key, _ in self._selector.select(left):
                child, take = key.data
                self._read(child, key.fd, take)
            self._let_meet()

    def _read(self, child: _Child, descriptor: int, take: Callable[[_Child, int, bytes], None]) -> None:
        try:
            block = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return
        take(child, descriptor, block)
        if not block:
            self._selector.unregister(descriptor)
            child.open.discard(descriptor)
            self._next_turn()

    def stop(self, number: signal.Signals) -> None:
        """Pass a signal on, and wait for the shards to end; a second interrupt kills them."""
        for child in self._children:
            if child.process.poll() is None:
                child.process.send_signal(number)
            child.order({"stopped": True})
        try:
            self.until_the_end(time.monotonic() + END_S)
        except KeyboardInterrupt:
            return

    def code_of(self, child: _Child) -> int:
        """Return the exit code of a shard, and tell of one that was killed."""
        if not child.has_ended:
            child.process.kill()
        code = child.process.wait()
        if code >= 0:
            return code
        if self.interrupt is not None and -code in HELD_BY_PARTS:
            return FAILED  # it was about to end when the signal was passed on
        name = signal.Signals(-code).name
        text = (
            f"shard {child.index} of {len(self._children)} was killed by {name}: the same command again does the rest"
        )
        self._out.error(S3PoolError(text))
        return FAILED

    def _take_results(self, child: _Child, descriptor: int, block: bytes) -> None:
        if self._ordered and child.index != self._turn:
            child.held.write(block)
        elif self._ordered:
            self._write(block)
        else:
            whole, end, rest = (child.rest.get(descriptor, b"") + block).rpartition(self._end)
            child.rest[descriptor] = rest if block else b""
            self._write(whole + end + (b"" if block else rest))

    def _next_turn(self) -> None:
        """Let the results of the next shards out when those before have ended."""
        while self._turn < len(self._children) and _number(self._children[self._turn].process.stdout) not in (
            self._children[self._turn].open
        ):
            self._turn += 1
            if self._ordered and self._turn < len(self._children):
                held = self._children[self._turn].held
                held.seek(0)
                while block := held.read(READ_BYTES):
                    self._write(block)
                held.truncate(0)

    def _write(self, block: bytes) -> None:
        if block:
            if self._before_results is not None:
                self._before_results()
                self._before_results = None
            with self._out.paused():
                self._out.block(block)

    def _take_errors(self, child: _Child, descriptor: int, block: bytes) -> None:
        """Pass on whole lines, each once: what all shards meet alike is told by all."""
        whole, end, rest = (child.rest.get(descriptor, b"") + block).rpartition(b"\n")
        child.rest[descriptor] = rest
        for line in (whole.split(b"\n") if end else []) + ([] if block or not rest else [rest]):
            is_ending = line in ENDINGS or (line.startswith(b"{") and json.loads(line).get("message") in ENDING_WORDS)
            if line in self._known or is_ending:
                continue
            if len(self._known) < MOST_KNOWN_LINES:
                self._known.add(line)
            self._out.tell(line.decode("utf-8", "surrogateescape"))

    def _take_reports(self, child: _Child, descriptor: int, block: bytes) -> None:
        *lines, child.rest[descriptor] = (child.rest.get(descriptor, b"") + block).split(b"\n")
        for line in lines:
            kind, fields = json.loads(line)
            if kind == "meet":
                child.meeting = fields
            elif kind == "progress":
                child.records[kind] = [fields]
                self._show_progress()
            else:
                child.records.setdefault(kind, []).append(fields)

    def _show_progress(self) -> None:
        if self._progress is None:
            return
        latest = [child.records.get("progress", [[0, 0, 0, 0, 0]])[0] for child in self._children]
        found, found_bytes, done, done_bytes, complete = map(sum, zip(*latest, strict=True))
        progress = self._progress
        progress.files_found, progress.bytes_found = found, found_bytes
        progress.files_done, progress.bytes_done = done, done_bytes
        progress.is_complete = complete == len(self._children)
        progress.tick()

    def _let_meet(self) -> None:
        """Let the shards go on when all have come to the same point; one that has ended counts as failed."""
        coming = [child for child in self._children if not child.has_ended]
        if not coming or any(child.meeting is None for child in coming):
            return
        counts: dict[str, Any] = {}
        for child in self._children:
            own = STOP_COUNTS if child.meeting is None else child.meeting["counts"]
            for name, value in own.items():
                counts[name] = (
                    counts.get(name, True) and value if name == "scans_ended" else counts.get(name, 0) + value
                )
        for child in coming:
            child.meeting = None
            child.order(counts)


def _number(stream: IO[bytes] | None) -> int:
    return -1 if stream is None else stream.fileno()


def transfer_by_parts(
    ctx: Context, tree: Location | None, *, verb: str, stdin: bytes | None = None, is_source: bool = False
) -> int:
    """Copy, move or delete by shards, and print one summary."""
    from s3pool.cli.transfers import passes, shown_progress

    started = time.monotonic()
    summary = Summary()
    client = ctx.source_session.client if is_source else ctx.client
    for _ in passes(summary, client, ctx):
        with shown_progress(ctx) as (progress, lines):
            parts = run_parts(
                ctx, tree, ordered=False, progress=progress, lines=lines, stdin=stdin, is_source=is_source
            )
        for counts in parts.reports("summary"):
            summary.add_counts(counts)
        if verb == "copied" or not isinstance(tree, S3Path):
            break
        if not ctx.dry_run:  # the parts have learned which server it is, this process not
            client.list_objects_page(tree.bucket, max_keys=1)
    summary.seconds = time.monotonic() - started
    if summary.not_kept is not None:
        note_not_kept(summary.not_kept, ctx)
    text = summary_text(summary, verb=verb, dry_run=ctx.dry_run)
    if parts.interrupt is not None:
        text = f"stopped: {text}; the same command again goes on"
    print_summary(summary.as_record(), ctx, text=f"s3pool: {text}")
    parts.raise_interrupt()
    return parts.code


def search_by_parts(ctx: Context, path: S3Path, *, before_results: Callable[[], None] = lambda: None) -> Parts:
    """List or search one of the operands by shards; the results are passed on as they come in order."""
    tree = tree_of(path, glob=not ctx.args.no_glob)
    parts = run_parts(ctx, tree, ordered=not ctx.args.unordered, operand=path.text, before_results=before_results)
    ctx.out.flush()
    parts.raise_interrupt()
    return parts


def tree_of(place: Location, *, glob: bool) -> Location:
    """Return the tree whose names an operand's ranges divide."""
    if isinstance(place, S3Path) and glob and has_glob(place.key):
        start = glob_prefix(place.key)
        return S3Path(place.bucket, start[: start.rfind("/") + 1])
    return place

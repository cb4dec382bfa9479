"""The admin page for people, and what it knows of the last ten minutes.

The page is the file admin.html, in blocks that are filled in here; every value is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from itertools import pairwise
from string import Template
from typing import Any

from s3pool.units import format_duration, format_size

Record = Mapping[str, Any]
Sums = Mapping[str, tuple[float, ...]]
Points = list[tuple[float, float | None]]  # seconds ago, and the value then where there is one

EVERY_S = 10.0
SAMPLES = 60
SPAN_S = EVERY_S * SAMPLES
WIDTH, HEIGHT, MARGIN = 300, 60, 3
POOL = ""  # the sums of all requests, beside those of each endpoint
MARKS = {"up": "\u25cf", "avoided": "\u25b2", "down": "\u2715", "draining": "\u25bd", "drained": "\u25a0"}
NONE = "\u2013"


class PoolHistory:
    """Sums of the last ten minutes, one sample every ten seconds; used by one thread and read by others."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._samples: deque[tuple[float, Sums]] = deque(maxlen=SAMPLES + 1)

    def tick(self, stats: Callable[[], Record]) -> None:
        """Take a sample, if one is due."""
        now = self._now()
        if not self._samples or now - self._samples[-1][0] >= EVERY_S:
            self._samples.append((now, sums_of(stats())))

    def points(self, name: str, value: Callable[[Sequence[float], float], float | None]) -> Points:
        """Return a value of each step, made of what its sums grew by and its seconds; None where they were reset."""
        now, found = self._now(), []
        for (since, before), (until, after) in pairwise(tuple(self._samples)):
            ended, begun = after.get(name), before.get(name)
            if now - until > SPAN_S or ended is None:
                continue
            grown = [new - old for new, old in zip(ended, begun or ended, strict=True)]
            is_known = begun is not None and min(grown) >= 0
            found.append((now - until, value(grown, until - since) if is_known else None))
        return found


def sums_of(record: Record) -> Sums:
    """Return what only grows: requests, errors and first bytes of all; requests, failures, answers of each node."""
    by_status, by_time = record["requests"]["by_status"], record["requests"]["by_first_byte"]
    total = (sum(by_status.values()), by_status.get("5xx", 0), *by_time.values())
    members = ("requests", "failures", "answers", "answer_seconds")
    return {POOL: total, **{row["endpoint"]: tuple(row[each] for each in members) for row in record["endpoints"]}}


def quantile(counts: Sequence[float], bounds: Sequence[float], share: float) -> float | None:
    """Return the value below which that share lies, as Prometheus' histogram_quantile does; None for no counts."""
    rank, below, lower = sum(counts) * share, 0.0, 0.0
    for count, bound in zip(counts, bounds, strict=False):
        if count and below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count
        below, lower = below + count, bound
    return lower if rank else None


def _rate(grown: Sequence[float], seconds: float) -> float:
    return grown[0] / seconds


def _error_percent(grown: Sequence[float], _seconds: float) -> float | None:
    return 100 * grown[1] / grown[0] if grown[0] else None


def _latency(grown: Sequence[float], _seconds: float) -> float | None:
    return grown[3] / grown[2] if grown[2] else None


def _written(value: float | None, unit: str) -> str:
    if value is None:
        return NONE
    if unit == "s":
        value, unit = (value, " s") if value >= 1 else (value * 1000, " ms")
    return f"{value:.1f}{unit}" if value < 100 else f"{value:.0f}{unit}"


def _newest(points: Points) -> float | None:
    return points[-1][1] if points and points[-1][0] < 2 * EVERY_S else None


def _most(*series: Points) -> float | None:
    return max((value for points in series for _, value in points if value is not None), default=None)


def _path(points: Points, top: float | None) -> str:
    """Return an SVG path; a step without a value is a gap, and one alone a dot."""
    commands, is_drawing = [], False
    for age, value in points:
        if value is not None:
            x, y = WIDTH * (1 - age / SPAN_S), HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value / (top or 1)
            commands.append(f"{'L' if is_drawing else f'M{x:.1f} {y:.1f}L'}{x:.1f} {y:.1f}")
        is_drawing = value is not None
    return "".join(commands)


class AdminPage:
    """The page; ``bounds`` are those of the counts of first bytes."""

    def __init__(self, bounds: Sequence[float]) -> None:
        text = (resources.files("s3pool") / "files" / "admin.html").read_text("utf-8")
        parts = re.split(r"<!-- block ([a-z]+) -->\n", text)[1:]
        self._blocks = {name: Template(body.strip("\n")) for name, body in zip(parts[::2], parts[1::2], strict=True)}
        self._bounds = bounds
        style, script = (_source(self._blocks["page"].template, name) for name in ("style", "script"))
        self.policy = (
            f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )

    def _fill(self, block: str, *, blocks: Mapping[str, str] | None = None, **values: object) -> str:
        """Return a block with its values, which are escaped, and ``blocks``, which were made here."""
        return self._blocks[block].substitute(
            {name: escape(str(value)) for name, value in values.items()}, **blocks or {}
        )

    def render(
        self, record: Record, history: PoolHistory, *, alert: str = "", has_token: bool = False, is_locked: bool = False
    ) -> bytes:
        """Return the page: with a field for the token of changes, or with no changes at all (``is_locked``)."""
        rows = record["endpoints"]
        up = sum(row["health"] == "up" for row in rows)
        title = f"{up} of {len(rows)} nodes up"
        if is_locked:
            alert = alert or "Changes need --admin-token-file when the admin listens beyond loopback."
        if record["draining"]:
            alert = alert or "This proxy is draining: it takes no new connections."
        blocks = {
            "alert": self._fill("alert", text=alert) if alert else "",
            "token": self._fill("token") if has_token else "",
            "graphs": self._graphs(history),
            "nodes": "\n".join(self._node(row, number, history, is_locked) for number, row in enumerate(rows)),
            "operations": "\n".join(
                self._fill("operation", name=name, requests=count)
                for name, count in sorted(record["requests"]["by_op"].items(), key=lambda pair: -pair[1])
            ),
        }
        return self._fill("page", blocks=blocks, title=title, summary=_summary(record, title)).encode(
            "utf-8", "replace"
        )

    def _graphs(self, history: PoolHistory) -> str:
        def first_byte(share: float) -> Points:
            return history.points(POOL, lambda grown, _: quantile(grown[2:], self._bounds, share))

        rate, errors = history.points(POOL, _rate), history.points(POOL, _error_percent)
        note = "half of the requests; dashed: 95 %"
        return (
            self._graph("Requests/s", "rate", "", "finished requests", rate)
            + self._graph("Time to the first byte", "latency", "s", note, first_byte(0.5), first_byte(0.95))
            + self._graph("Errors", "errors", " %", "answers with 5xx", errors)
        )

    def _graph(self, title: str, kind: str, unit: str, note: str, *series: Points) -> str:
        most = _most(*series)
        kinds = ("first", "second")
        paths = "".join(
            self._fill("path", kind=each, points=_path(points, most))
            for each, points in zip(kinds, series, strict=False)
        )
        now = _written(_newest(series[0]), unit)
        return self._fill(
            "graph", blocks={"paths": paths}, title=title, kind=kind, note=note, now=now, most=_written(most, unit)
        )

    def _node(self, row: Record, number: int, history: PoolHistory, is_locked: bool) -> str:
        name = row["endpoint"]
        rate, latency, errors = (history.points(name, value) for value in (_rate, _latency, _error_percent))
        place = "".join(f" \u00b7 {word} {row[word]}" for word in ("zone", "tier") if row[word])
        most = _most(rate)
        return self._fill(
            "node",
            blocks={"path": self._fill("path", kind="first", points=_path(rate, most))},
            endpoint=name,
            place=place,
            state=row["health"],
            mark=MARKS[row["health"]],
            rate=_written(_newest(rate), ""),
            most=_written(most, ""),
            latency=_written(_newest(latency) or row["latency_ms"] / 1000 or None, "s"),
            errors=f"{row['failures']} ({_written(_newest(errors) or 0.0, ' %')})",
            in_flight=row["in_flight"],
            sent=format_size(row["bytes_sent"]),
            received=format_size(row["bytes_received"]),
            last_error=row["last_error"] or NONE,
            action="undrain" if row["drained"] else "drain",
            verb="Undrain" if row["drained"] else "Drain",
            number=number,
            disabled="disabled" if is_locked else "",
        )


def _summary(record: Record, title: str) -> str:
    by_status = record["requests"]["by_status"]
    total = sum(by_status.values())
    processes = record.get("processes", 1)
    memory = record["replay_memory"]
    words = (
        title,
        f"version {record['version']}",
        f"up for {format_duration(record['uptime_s'] // 1 or 1)}",
        *([f"{processes} processes"] if processes > 1 else []),
        f"auth: {record['auth']}",
        f"client connections: {record['connections']}",
        f"{format_size(memory['used'])} of {format_size(memory['size'])} replay memory in use",
        f"{total} requests since the start",
        f"{_share(by_status, '4xx', total)} refused (4xx)",
        f"{_share(by_status, '5xx', total)} failed (5xx)",
    )
    return " \u00b7 ".join(words)


def _share(counts: Mapping[str, int], name: str, total: int) -> str:
    return _written(100 * counts.get(name, 0) / total if total else 0.0, " %")


def _source(text: str, tag: str) -> str:
    """Return what a Content-Security-Policy says of the page's own style or script."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digest = hashlib.sha256((found[1] if found else "").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

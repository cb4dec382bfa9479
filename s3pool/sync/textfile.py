"""What a run leaves for Prometheus: a file for the node exporter's textfile collector."""

from __future__ import annotations

import os
import platform
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from s3pool import __version__
from s3pool.endpoint import ENDPOINT_COUNTERS, FAILURES_METRIC
from s3pool.errors import LocalFileError, UsageError
from s3pool.record import dataclass

if TYPE_CHECKING:
    from s3pool.sync.job import Report

LAST_SUCCESS = "s3pool_sync_last_success_timestamp_seconds"
FILE_MODE = 0o644  # the collector is another user
RANDOM_BYTES = 6
OWN_START = b"# HELP s3pool_sync_"
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{(.*)\} (\S+)")

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Gauge:
    """One metric with its samples."""

    name: str
    meaning: str
    samples: Sequence[tuple[Labels, float]]


def iter_gauges(
    report: Report, labels: Labels, *, exit_code: int, now: float, success: float | None, endpoints: Iterable[Any]
) -> Iterator[Gauge]:
    """Yield the metrics of a run; all are of this run alone, but for the last success."""

    def gauge(name: str, meaning: str, value: float) -> Gauge:
        return Gauge(f"s3pool_sync_{name}", meaning, ((labels, value),))

    summary = report.summary
    yield gauge("last_run_timestamp_seconds", "When the last run ended.", now)
    if success is not None:
        yield Gauge(LAST_SUCCESS, "When the last run with exit code 0 ended.", ((labels, success),))
    info = {**labels, "version": __version__, "python": platform.python_version()}
    yield Gauge("s3pool_sync_build_info", "1, with the versions of s3pool and Python.", ((info, 1.0),))
    yield gauge("exit_code", "The exit code of the last run.", exit_code)
    yield gauge("duration_seconds", "How long the last run took.", report.seconds)
    yield gauge("objects_checked", "Names of the source that were compared.", report.tally.checked)
    yield gauge("objects_unchanged", "Names that needed nothing.", report.unchanged)
    yield gauge("objects_copied", "Objects that were copied.", summary.copied)
    yield gauge("objects_deleted", "Objects that were deleted from the target.", summary.deleted)
    yield gauge("objects_skipped", "Objects that were left alone though they differ.", report.skipped)
    yield gauge("objects_failed", "Objects that failed.", summary.failed)
    yield gauge("copied_bytes", "Bytes of the objects that were copied.", summary.bytes)
    yield gauge("deletes_held_back", "1 when a guard held deletes back.", float(bool(report.held_back)))
    yield from _endpoint_gauges(tuple(endpoints), labels)


def _endpoint_gauges(endpoints: tuple[Any, ...], labels: Labels) -> Iterator[Gauge]:
    for name, member, meaning in ENDPOINT_COUNTERS:
        samples = [({**labels, "endpoint": str(row.endpoint)}, float(getattr(row, member))) for row in endpoints]
        yield Gauge(f"s3pool_sync_{name}", f"{meaning}, in the last run.", samples)
    name, meaning = FAILURES_METRIC
    rows = [(str(row.endpoint), kind, count) for row in endpoints for kind, count in row.failure_kinds.items()]
    failures = [({**labels, "endpoint": url, "kind": kind}, float(count)) for url, kind, count in rows]
    yield Gauge(f"s3pool_sync_{name}", f"{meaning}, in the last run.", failures)


def format_metrics(gauges: Iterable[Gauge]) -> str:
    """Return the text of a metrics file.

    Source: Prometheus, "Exposition formats", text-based format.
    """
    lines = []
    for gauge in gauges:
        if gauge.samples:
            lines += [f"# HELP {gauge.name} {gauge.meaning}", f"# TYPE {gauge.name} gauge"]
            lines += [f"{gauge.name}{_format_labels(labels)} {_format_value(value)}" for labels, value in gauge.samples]
    return "\n".join(lines) + "\n"


def _format_labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _escape(value: str) -> str:
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _format_value(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3f}"


def last_success(path: str, labels: Labels) -> float | None:
    """Return the time of the last success that the file holds; None without one."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return None
    wanted = _format_labels(labels)[1:-1]
    for line in lines:
        match = SAMPLE.fullmatch(line)
        if match and match[1] == LAST_SUCCESS and match[2] == wanted:
            return _number(match[3])
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def check_replaceable(path: str) -> None:
    """See to it that a metrics file replaces nothing but an earlier one, or an empty file.

    Raises UsageError: it would. LocalFileError: that cannot be told.
    """
    try:
        facts = os.lstat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise UsageError(f"--metrics-file {path}: it is no regular file, and would be replaced; name another one")
        with open(path, "rb") as stream:
            start = stream.read(len(OWN_START))
    except FileNotFoundError:
        return
    except OSError as exc:
        raise LocalFileError(f"cannot replace {path}: {exc.strerror}") from exc
    if facts.st_size and start != OWN_START:
        raise UsageError(f"--metrics-file {path}: it holds no metrics of sync's, and would be replaced")


def write_atomically(path: str, text: str) -> None:
    """Replace a file as a whole: a collector never reads half of it. Raises LocalFileError: it cannot be written."""
    check_replaceable(path)
    # The collector takes *.prom, so the temporary name must end otherwise.
    part = f"{path}.{secrets.token_hex(RANDOM_BYTES)}.tmp"
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            with open(fd, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(part, path)
        except OSError:
            os.unlink(part)
            raise
    except OSError as exc:
        raise LocalFileError(f"cannot write {path}: {exc.strerror}") from exc

"""The tables that people read: every tool's figures, and every target with what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from s3pool.cli.formats import table
from tests.bench.figures import Round, figure, ratio
from tests.bench.results import Report, WorkResult
from tests.bench.targets import NAMES, OURS, Verdict

MIB = 1 << 20
FIGURES = ("workload", "tool", "rounds", "median", "spread", "CPU s", "peak MiB", "time", "CPU", "memory")
TARGETS = ("workload", "against", "what", "wanted", "measured", "verdict")
FIGURES_RIGHT = frozenset(range(2, len(FIGURES)))
TARGETS_RIGHT = frozenset((3, 4))
NOTE = (
    "time, CPU, memory: s3pool's as a multiple of the tool's. CPU of a proxy: for 1000 requests or one GiB.\n"
    "spread: from the fastest round to the slowest, as a share of the median."
)


def figures_table(report: Report) -> list[str]:
    """Give one line for each tool in each workload."""
    rows = [row for work in report.works for row in _figure_rows(work)]
    return [*table(FIGURES, rows, right=FIGURES_RIGHT), "", *NOTE.splitlines()]


def targets_table(report: Report) -> list[str]:
    """Give one line for each target, and a sum."""
    verdicts = [verdict for work in report.works for verdict in work.verdicts]
    rows = [_target_row(verdict) for verdict in verdicts]
    return [*table(TARGETS, rows, right=TARGETS_RIGHT), "", summary(verdicts)]


def summary(verdicts: Sequence[Verdict]) -> str:
    """Say how many targets were met."""
    unknown = sum(verdict.ratio is None for verdict in verdicts)
    met = sum(verdict.is_met for verdict in verdicts)
    text = f"targets: {met} met, {len(verdicts) - met - unknown} missed"
    return f"{text}, {unknown} not measured" if unknown else text


def amount(work: WorkResult, rounds: Sequence[Round]) -> str:
    """Give a tool's median as people say it: seconds, or a rate with its unit."""
    if not work.unit:
        median = figure(rounds, "seconds").median
        return f"{median:.3f} s" if median < 1 else f"{median:.2f} s"
    median = figure(rounds, "rate").median
    scaled = median / MIB if work.unit.startswith("MiB") else median
    return f"{scaled:,.0f} {work.unit}"


def _figure_rows(work: WorkResult) -> Iterator[tuple[str, ...]]:
    main = "rate" if work.unit else "seconds"
    ours = work.rounds.get(OURS, ())
    for tool, rounds in work.rounds.items():
        ratios = (ratio(ours, rounds, metric=metric) for metric in (main, "cpu_s", "peak_bytes"))
        yield (
            work.name,
            tool,
            str(len(rounds)),
            amount(work, rounds),
            f"{figure(rounds, main).spread:.0%}",
            f"{figure(rounds, 'cpu_s').median:.3f}",
            f"{figure(rounds, 'peak_bytes').median / MIB:.1f}",
            *("-" if value is None or tool == OURS else f"{value:.2f}" for value in ratios),
        )
    for tool in work.errors:
        yield (work.name, tool, "0", *("-" for _ in FIGURES[3:]))


def _target_row(verdict: Verdict) -> tuple[str, ...]:
    target = verdict.target
    against = verdict.peer if verdict.peer == target.peer else f"{verdict.peer} ({target.peer})"
    measured = "-" if verdict.ratio is None else f"{verdict.ratio:.2f}"
    word = "not measured" if verdict.ratio is None else "met" if verdict.is_met else "MISSED"
    workload = target.workload if target.ours == OURS else f"{target.workload}, {target.ours}"
    return workload, against, NAMES[target.metric], verdict.rule, measured, word

"""What a run found: kept as JSON, so that tables and the chart can be made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.figures import METRICS, Round, figure
from tests.bench.measure import Sample
from tests.bench.targets import Verdict, judge

FORMAT = 1


@dataclass(frozen=True)
class WorkResult:
    """One workload: its rounds by tool, and a reason for each tool without any."""

    name: str
    title: str
    unit: str
    rounds: Mapping[str, Sequence[Round]]
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdicts(self) -> list[Verdict]:
        """Compare it with its targets."""
        return judge(self.name, self.rounds)


@dataclass(frozen=True)
class Report:
    """A whole run. ``machine`` and ``tools`` tell where and with what."""

    machine: Mapping[str, Any]
    tools: Mapping[str, str]
    missing: Mapping[str, str]
    quick: bool
    works: Sequence[WorkResult]

    @property
    def gaps(self) -> list[str]:
        """Say what was not measured, and why; empty when everything was."""
        return [f"{work.name}, {tool}: {reason}" for work in self.works for tool, reason in work.errors.items()]


def to_json(report: Report) -> dict[str, Any]:
    """Give a report as it is written to a file."""
    return {
        "format": FORMAT,
        "machine": dict(report.machine),
        "tools": dict(report.tools),
        "missing": dict(report.missing),
        "quick": report.quick,
        "workloads": [_work_to_json(work) for work in report.works],
    }


def from_json(text: Mapping[str, Any]) -> Report:
    """Read what to_json gave.

    Raises:
        ValueError: it is of another version.
    """
    if text.get("format") != FORMAT:
        raise ValueError(f"the result has format {text.get('format')}, not {FORMAT}")
    works = [_work_from_json(work) for work in text["workloads"]]
    return Report(text["machine"], text["tools"], text["missing"], text["quick"], works)


def _work_to_json(work: WorkResult) -> dict[str, Any]:
    return {
        "name": work.name,
        "title": work.title,
        "unit": work.unit,
        "tools": {tool: _tool_to_json(rounds) for tool, rounds in work.rounds.items()},
        "errors": dict(work.errors),
        "targets": [_verdict_to_json(verdict) for verdict in work.verdicts],
    }


def _tool_to_json(rounds: Sequence[Round]) -> dict[str, Any]:
    medians = {metric: figure(rounds, metric) for metric in METRICS}
    return {
        "median": {metric: value.median for metric, value in medians.items()},
        "spread": {metric: value.spread for metric, value in medians.items()},
        "rounds": [{"round": number, **sample._asdict()} for number, sample in rounds],
    }


def _verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    target = verdict.target
    return {
        "against": verdict.peer,
        "metric": target.metric,
        "bound": target.bound,
        "ratio": verdict.ratio,
        "met": verdict.is_met,
    }


def _work_from_json(text: Mapping[str, Any]) -> WorkResult:
    rounds = {
        tool: [(sample["round"], Sample(*(sample[name] for name in Sample._fields))) for sample in found["rounds"]]
        for tool, found in text["tools"].items()
    }
    return WorkResult(text["name"], text["title"], text["unit"], rounds, text["errors"])

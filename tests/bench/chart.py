"""Draw the result as a small SVG: for each workload one bar a tool, readable on light and dark pages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from tests.bench.figures import figure
from tests.bench.results import Report, WorkResult
from tests.bench.tables import amount
from tests.bench.targets import OURS

COLUMNS = 2
COLUMN = 420  # its width
LEFT = 60  # where bars begin in it; the tools' names stand before
RIGHT = 112  # room for the figures behind the longest bar
BAR = 10
STEP = 13  # from bar to bar
TITLE = 19
GAP = 9  # between two workloads
MARGIN = 14
FULL = COLUMN - LEFT - RIGHT
LEAST = 1.5  # a bar that can still be seen
BASELINE = 9  # of the text beside a bar
LINE = 15  # of notes
VERSION = re.compile(r"\d+(?:\.\d+)+")
STYLE = """
text { font: 11px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 12px }
.note { fill: #59636e }
.ours { fill: #0f7b6c }
.peer { fill: #a9b4c0 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note { fill: #9198a1 }
  .ours { fill: #2dc9ae }
  .peer { fill: #56606b }
}
"""


def draw(report: Report) -> str:
    """Give the text of an SVG file. Workloads that s3pool did not do are left out."""
    parts: list[str] = []
    bottom = 0
    for number, works in enumerate(_columns([work for work in report.works if work.rounds.get(OURS)])):
        top = MARGIN
        for work in works:
            parts.extend(_iter_group(work, number * COLUMN, top))
            top += _height(work)
        bottom = max(bottom, top)
    for note in _notes(report):
        bottom += LINE
        parts.append(f'<text class="note" x="{MARGIN}" y="{bottom}">{escape(note)}</text>')
    width, height = COLUMNS * COLUMN, bottom + MARGIN
    label = "How long s3pool and other clients take for the same work"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{label}">'
    )
    return "\n".join([head, f"<title>{label}</title>", f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _columns(works: Sequence[WorkResult]) -> list[list[WorkResult]]:
    """Deal workloads to columns of about the same height, in order."""
    columns: list[list[WorkResult]] = [[] for _ in range(COLUMNS)]
    share = sum(map(_height, works)) / COLUMNS
    used = 0.0
    for work in works:
        middle = used + _height(work) / 2
        columns[min(COLUMNS - 1, int(middle // share))].append(work)
        used += _height(work)
    return columns


def _height(work: WorkResult) -> int:
    return TITLE + STEP * len(work.rounds) + GAP


def _iter_group(work: WorkResult, left: int, top: int) -> Iterator[str]:
    better = "more is better" if work.unit else "less is better"
    title = f'{escape(work.title)} <tspan class="note" font-weight="400">({better})</tspan>'
    yield f'<text class="title" x="{left + MARGIN}" y="{top + BASELINE + 2}">{title}</text>'
    metric = "rate" if work.unit else "seconds"
    medians = {tool: figure(rounds, metric).median for tool, rounds in work.rounds.items()}
    longest = max(medians.values())
    for row, tool in enumerate(_in_order(list(medians))):
        y = top + TITLE + STEP * row
        length = max(LEAST, FULL * medians[tool] / longest)
        kind = "ours" if tool == OURS else "peer"
        yield f'<text x="{left + LEFT - 6}" y="{y + BASELINE}" text-anchor="end">{escape(tool)}</text>'
        yield f'<rect class="{kind}" x="{left + LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>'
        yield f'<text x="{left + LEFT + length + 6:.1f}" y="{y + BASELINE}">{amount(work, work.rounds[tool])}</text>'


def _in_order(tools: Sequence[str]) -> list[str]:
    return sorted(tools, key=lambda tool: tool != OURS)


def _notes(report: Report) -> Iterator[str]:
    sizes = ", with little work" if report.quick else ""
    yield f"Medians on {report.machine.get('cpus', '?')} cores, servers on the same machine{sizes}."
    versions = {tool: VERSION.search(text) for tool, text in report.tools.items()}
    yield ", ".join(f"{tool} {found.group()}" for tool, found in versions.items() if found) + "."

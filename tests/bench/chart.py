"""Draw the result as a small SVG: for each workload one bar a tool, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from tests.bench.figures import figure
from tests.bench.results import Report, WorkResult
from tests.bench.tables import amount
from tests.bench.targets import OURS

WIDTH = 760
LEFT = 84  # where bars begin; the tools' names stand before it
RIGHT = 110  # room for the figures behind the longest bar
BAR = 11
STEP = 14  # from bar to bar
TITLE = 20
GAP = 10  # between two workloads
MARGIN = 16
FULL = WIDTH - LEFT - RIGHT
LEAST = 1.5  # a bar that can still be seen
BASELINE = 9.5  # of the text beside a bar
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
    works = [work for work in report.works if work.rounds.get(OURS)]
    top = MARGIN
    parts: list[str] = []
    for work in works:
        parts.extend(_iter_group(work, top))
        top += TITLE + STEP * len(work.rounds) + GAP
    height = top + MARGIN
    parts.append(f'<text class="note" x="{MARGIN}" y="{top + 4}">{escape(_note(report))}</text>')
    label = "How long s3pool and other clients take for the same work"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{label}">'
    )
    return "\n".join([head, f"<title>{label}</title>", f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _iter_group(work: WorkResult, top: float) -> Iterator[str]:
    better = "more is better" if work.unit else "less is better"
    title = f'{escape(work.title)} <tspan class="note" font-weight="400">({better})</tspan>'
    yield f'<text class="title" x="{MARGIN}" y="{top + BASELINE + 2}">{title}</text>'
    metric = "rate" if work.unit else "seconds"
    medians = {tool: figure(rounds, metric).median for tool, rounds in work.rounds.items()}
    longest = max(medians.values())
    for row, tool in enumerate(_in_order(list(medians))):
        y = top + TITLE + STEP * row
        length = max(LEAST, FULL * medians[tool] / longest)
        kind = "ours" if tool == OURS else "peer"
        yield f'<text x="{LEFT - 6}" y="{y + BASELINE}" text-anchor="end">{escape(tool)}</text>'
        yield f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>'
        yield f'<text x="{LEFT + length + 6:.1f}" y="{y + BASELINE}">{amount(work, work.rounds[tool])}</text>'


def _in_order(tools: Sequence[str]) -> list[str]:
    return sorted(tools, key=lambda tool: tool != OURS)


def _note(report: Report) -> str:
    cpus = report.machine.get("cpus", "?")
    versions = ", ".join(f"{tool} {version}" for tool, version in report.tools.items() if tool != "curl")
    sizes = "quick sizes; " if report.quick else ""
    return f"Medians on {cpus} cores, servers on the same machine; {sizes}{versions}"

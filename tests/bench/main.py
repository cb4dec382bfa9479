"""Measure s3pool beside its peers: the same work, in turns, checked, on this machine.

``make bench`` runs everything; ``make bench ONLY=small-put,list`` some workloads, and
``make bench BENCH='--quick --rounds 3'`` a small version. Results go to build/bench.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.chart import draw
from tests.bench.measure import WorkError
from tests.bench.results import Report, WorkResult, from_json, to_json
from tests.bench.rounds import contest
from tests.bench.server import ServerError
from tests.bench.site import FULL, QUICK, Site, Sizes, server_name
from tests.bench.tables import figures_table, targets_table
from tests.bench.targets import OURS
from tests.bench.tools import find_tools
from tests.bench.workloads import WORKLOADS, Workload
from tests.support.real_servers import DeploymentError
from tests.support.rgw import RgwError

ROUNDS = 5
QUICK_ROUNDS = 2
LIMIT_S = 180.0
BUDGET_S = 12.0
QUICK_BUDGET_S = 4.0
OUT = "build/bench"
GIB = 1 << 30
MIB = 1 << 20
BUSY = 0.25  # load for each core, from which on others disturb
INCOMPLETE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the result. Gives 1 when something could not be measured, with the reasons on stderr.

    A missed target is a result like any other, and no failure.
    """
    options = _parse(arguments)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if options.redraw:
        report = from_json(json.loads(Path(options.redraw).read_text()))
    else:
        report = measure(options)
        (out / "result.json").write_text(json.dumps(to_json(report), indent=1) + "\n")
    text = "\n".join([*figures_table(report), "", *targets_table(report), ""])
    (out / "table.txt").write_text(text)
    (Path(options.chart) if options.chart else out / "chart.svg").write_text(draw(report))
    print(text)
    for gap in report.gaps:
        say(f"not measured: {gap}")
    if report.gaps:
        say(f"incomplete: {len(report.gaps)} of the comparisons are missing")
    return INCOMPLETE if report.gaps else 0


def measure(options: argparse.Namespace) -> Report:
    """Run the chosen workloads."""
    tools, missing = find_tools()
    for name, hint in missing.items():
        say(f"{name} is not installed: {hint}")
    if OURS in tools:
        say(f"measured is {tools[OURS].version}")
    sizes = QUICK if options.quick else FULL
    if server_name() != "rgw":
        sizes = sizes._replace(listed=sizes.listed // 5)  # they are not canned, but uploaded
    started, machine = time.monotonic(), _machine()
    if machine["load_before"][0] > BUSY * machine["cpus"]:
        say(f"this machine is busy, its load is {machine['load_before'][0]:.1f}: ratios count, seconds do not")
    with Site(tools, sizes, limit_s=options.limit) as site:
        machine["scratch_in_memory"] = site.is_in_memory
        works = [_run(site, workload, missing, options) for workload in options.only]
    machine["took_s"] = round(time.monotonic() - started, 1)
    machine["load_after"] = os.getloadavg()
    return Report(machine, {name: tool.version for name, tool in tools.items()}, missing, options.quick, works)


def say(text: str) -> None:
    """Tell on stderr what goes on."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.main", description=__doc__)
    add = parser.add_argument
    names = ", ".join(workload.name for workload in WORKLOADS)
    add("--only", type=_choose, default=WORKLOADS, metavar="NAME,...", help=f"of {names} (all)")
    add("--quick", action="store_true", help="less work: to see that everything runs, not how fast")
    add("--rounds", type=int, default=0, help=f"that count, after one to warm up ({ROUNDS}; quick: {QUICK_ROUNDS})")
    add("--limit", type=float, default=LIMIT_S, metavar="SECONDS", help=f"for one command ({LIMIT_S:g})")
    add("--budget", type=float, default=0, metavar="SECONDS", help=f"for a slow peer in a workload ({BUDGET_S:g})")
    add("--out", default=OUT, metavar="DIR", help=f"for result.json, table.txt and chart.svg ({OUT})")
    add("--chart", default="", metavar="FILE", help="draw the chart there instead")
    add("--redraw", default="", metavar="RESULT", help="measure nothing, show a result.json again")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    options.budget = options.budget or (QUICK_BUDGET_S if options.quick else BUDGET_S)
    return options


def _choose(text: str) -> list[Workload]:
    known = {workload.name: workload for workload in WORKLOADS}
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"no workload {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] or list(WORKLOADS)


def _run(site: Site, workload: Workload, missing: Mapping[str, str], options: argparse.Namespace) -> WorkResult:
    title = workload.title.format(**_named_sizes(site.sizes))
    say(f"{workload.name}: {title}")
    absent = [f"{tool} is not installed ({missing[tool]})" for tool in workload.needs if tool in missing]
    if absent:
        return WorkResult(workload.name, title, workload.unit, {}, {OURS: "; ".join(absent)})
    errors = {tool: f"not installed ({missing[tool]})" for tool in (OURS, *workload.peers) if tool in missing}
    try:
        contestants = workload.enter(site)
    except (WorkError, ServerError, RgwError, DeploymentError) as exc:
        return WorkResult(workload.name, title, workload.unit, {}, {OURS: f"cannot prepare: {exc}"})
    outcome = contest(contestants, options.rounds, budget_s=options.budget)
    for tool, error in outcome.errors.items():
        say(f"{workload.name}, {tool}: {error}")
    rounds = {each.tool: outcome.rounds[each.tool] for each in contestants if each.tool in outcome.rounds}
    return WorkResult(workload.name, title, workload.unit, rounds, {**errors, **outcome.errors})


def _named_sizes(sizes: Sizes) -> dict[str, str]:
    large = sizes.large_bytes
    return {
        "small": f"{sizes.small:,}",
        "listed": f"{sizes.listed:,}",
        "deleted": f"{sizes.deleted:,}",
        "many": str(sizes.many),
        "tree": f"{sizes.tree:,}",
        "large": f"{large / GIB:g} GiB" if large >= GIB else f"{large / MIB:g} MiB",
    }


def _machine() -> dict[str, Any]:
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg(),
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return models[0] if models else platform.machine()


if __name__ == "__main__":
    raise SystemExit(main())

"""The manual: pages of commands from their parsers by argparse-manpage, with hand-written sections.

``python -m tests.support.manual`` writes them into man/. The sections lie in man/s3pool.1.inc
(``[TITLE]``, then roff) and are given to pages by the table ``SECTIONS``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from textwrap import wrap

from s3pool import __version__
from s3pool.cli.parser import ALL, GROUPS, SETTINGS, SUMMARIES, command_parser, load_command, operands_of, top_parser
from s3pool.proxy import metrics
from tests.support import json_records

ROOT = Path(__file__).resolve().parents[2]
MAN = ROOT / "man"
SOURCE = MAN / "s3pool.1.inc"
OVERVIEW = ("PATHS", "RULES", "CONFIGURATION", "EXIT STATUS", "ENVIRONMENT", "FILES", "SIGNALS", "TRACES")
TOPICS = {
    "s3pool-pool.7": (
        "how a pool of nodes behaves, and what happens when something fails",
        ("THE POOL", "WHEN SOMETHING FAILS", "SERVERS"),
    ),
    "s3pool-json.5": ("results, errors and summaries as JSON, CSV and text", ("OUTPUT",)),
}
# The hand-written sections of the pages of commands; all that stands here is in no other page.
SECTIONS: dict[str, tuple[str, ...]] = {
    "cp": ("COPYING", "FILTERS", "WHAT COPIES KEEP", "INTEGRITY", "TWO POOLS"),
    "mv": ("MOVES", "FILTERS"),
    "rm": ("FILTERS",),
    "sync": ("SYNC", "FILTERS"),
    "shards": ("MORE THAN ONE MACHINE",),
    "proxy": ("THE PROXY",),
    "head": ("LOOKING",),
    "diff": ("COMPARING",),
    "undo": ("THE PAST",),
    "run": ("SCRIPTS",),
    **dict.fromkeys(SETTINGS, ("SETTINGS",)),
}
SEE = {
    "mv": ("cp",),
    "sync": ("cp", "shards"),
    "tree": ("head",),
    "check": ("diff",),
    "pipe": ("cp",),
    "rm": ("undo",),
    "ls": ("shards", "undo"),
    "find": ("shards", "rm"),
    "du": ("shards",),
}
WIDTH = 80
HAND_WRITTEN = "s3pool.yaml.5"
# The library has its own texts for one process; these are for all of the proxy.
PROCESS_TEXTS = {
    "process_cpu_seconds_total": "CPU time of the proxy's processes, in user and system mode.",
    "process_resident_memory_bytes": "Memory of the processes, added up; what they share is counted for each.",
    "process_virtual_memory_bytes": "Address space of the processes, added up.",
    "process_open_fds": "Descriptors that the processes have open.",
    "process_max_fds": "The lowest limit of descriptors of a process.",
    "process_start_time_seconds": "When the first of the processes started.",
}
ADMINISTRATION = ("proxy",)  # pages of section 8


def section_of(command: str) -> int:
    """Return the section of the manual that a command's page belongs to."""
    return 8 if command in ADMINISTRATION else 1


def pages() -> dict[str, str]:
    """Return the generated pages by their file names."""
    sections = read_sections(SOURCE.read_text("utf-8"))
    found = {"s3pool.1": "\n".join(_overview(sections)) + "\n"}
    for command in ALL:
        found[f"s3pool-{command}.{section_of(command)}"] = "\n".join(_command_page(command, sections)) + "\n"
    for file, (summary, titles) in TOPICS.items():
        name, _, number = file.partition(".")
        tables = json_records.roff() if name == "s3pool-json" else ()
        lines = [*_head(name, int(number), summary), *_sections(sections, titles), *tables, *_see(("s3pool.1",))]
        found[file] = "\n".join(lines) + "\n"
    return {name: _folded(text) for name, text in found.items()}


def read_sections(text: str) -> dict[str, str]:
    """Return the hand-written sections by their titles."""
    parts = re.split(r"^\[([A-Z ]+)\]\n", text, flags=re.MULTILINE)
    return {title: body.strip("\n") for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def given_away() -> set[str]:
    """Return the titles that some page has."""
    of_topics = {title for _, titles in TOPICS.values() for title in titles}
    return {*OVERVIEW, *of_topics, *(title for titles in SECTIONS.values() for title in titles)}


def _overview(sections: Mapping[str, str]) -> Iterator[str]:
    yield from _head("s3pool", 1, "work with S3 storage that is a cluster of nodes")
    yield f".SH SYNOPSIS\n{sections['SYNOPSIS']}"
    yield f".SH DESCRIPTION\n{sections['DESCRIPTION']}"
    yield ".SH COMMANDS"
    for group, names in GROUPS.items():
        yield f".SS {group[0].upper()}{group[1:]}"
        for name in names:
            yield f".TP\n.BR s3pool\\-{name} ({section_of(name)})\n{_roff(SUMMARIES[name])}"
    yield f".SH EXAMPLES\n{sections['EXAMPLES']}"
    yield from _options(top_parser())
    yield from _sections(sections, OVERVIEW)
    others = [f"s3pool-{name}.{section_of(name)}" for name in ALL]
    yield from _see((*TOPICS, "s3pool.yaml.5", *others))


def _command_page(command: str, sections: Mapping[str, str]) -> Iterator[str]:
    parser = command_parser(command)
    yield from _head(f"s3pool-{command}", section_of(command), SUMMARIES[command])
    operands = _roff(operands_of(parser))
    yield f".SH SYNOPSIS\n.B s3pool {command}\n.RI [ flags ]\n{operands}".rstrip()
    yield f".SH DESCRIPTION\n{_sentence(SUMMARIES[command])}"
    yield from _positionals(parser)
    if examples := load_command(command).EXAMPLES:
        yield ".SH EXAMPLES\n.nf"
        yield from (_roff(f"s3pool {line}") for line in examples)
        yield ".fi"
    yield from _options(parser)
    yield ".PP\nThe global flags, paths, configuration and exit codes are in\n.BR s3pool (1)."
    yield from _sections(sections, SECTIONS.get(command, ()))
    if command == "proxy":
        yield (MAN / "s3pool-proxy.8.inc").read_text("utf-8").strip("\n").replace('.\\" METRICS', "\n".join(_metrics()))
    seen = [f"s3pool-{name}.{section_of(name)}" for name in SEE.get(command, ())]
    yield from _see(("s3pool.1", *seen, "s3pool-pool.7", "s3pool-json.5"))


def _head(name: str, section: int, summary: str) -> Iterator[str]:
    day = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), timezone.utc).strftime("%Y-%m-%d")
    yield "'\\\" t"
    yield f'.TH {_roff(name.upper())} {section} {day} "s3pool {__version__}" "s3pool manual"'
    yield f".SH NAME\n{_roff(name)} \\- {_roff(summary)}"


def _sections(sections: Mapping[str, str], titles: Iterable[str]) -> Iterator[str]:
    for title in titles:
        yield f".SH {title}\n{sections[title]}"


def _see(files: Iterable[str]) -> Iterator[str]:
    names = [file.rpartition(".") for file in files]
    yield ".SH SEE ALSO"
    yield "\n".join(f".BR {_roff(name)} ({number})," for name, _, number in names).rstrip(",")


def _generated(parser: object) -> list[str]:
    """Return the sections that argparse-manpage makes of a parser, each with its title."""
    from argparse_manpage.manpage import Manpage

    return re.split(r"^\.SH ", str(Manpage(parser)), flags=re.MULTILINE)[1:]


def _positionals(parser: object) -> Iterator[str]:
    for section in _generated(parser):
        title, _, body = section.partition("\n")
        if title == "DESCRIPTION" and ".TP" in body:
            yield f".TP{body.partition('.TP')[2]}".replace("\n\n", "\n").rstrip("\n")


def _options(parser: object) -> Iterator[str]:
    """Yield the flags: those without a group first, and the groups as parts of one section."""
    is_first = True
    for section in _generated(parser):
        title, _, body = section.partition("\n")
        if title in ("NAME", "SYNOPSIS", "DESCRIPTION", "COMMENTS"):
            continue
        yield ".SH OPTIONS" if is_first else f".SS {title.capitalize()}"
        if is_first and title != "OPTIONS":
            yield f".SS {title.capitalize()}"
        yield body.replace("\n\n", "\n").strip("\n")
        is_first = False
    if is_first:
        yield ".SH OPTIONS\nThe command has no flags of its own."


def _folded(text: str) -> str:
    """Break the lines that are too long for an editor, but for tables and lines of requests."""
    lines, is_kept = [], False
    for line in text.splitlines():
        is_kept = (is_kept or line in (".TS", ".nf")) and line not in (".TE", ".fi")
        if len(line) <= WIDTH or is_kept or line.startswith((".", "'")):
            lines.append(line)
        else:
            first, *rest = wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False)
            lines += [first, *(f"\\&{each}" if each.startswith((".", "'")) else each for each in rest)]
    return "\n".join(lines) + "\n"


def proxy_metrics() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Yield the names of the proxy's metrics, each with its kind, its labels and what it tells."""
    at_work = {"in_flight": metrics.IN_FLIGHT}
    tables = {"counter": {**metrics.COUNTED, **metrics.ENDPOINT_COUNTED}, "histogram": metrics.DURATIONS}
    for kind, table in {**tables, "gauge": {**at_work, **metrics.STATES}}.items():
        for name, (labels, text) in table.items():
            yield f"{metrics.NAMESPACE}_{name}{'_total' if kind == 'counter' else ''}", kind, labels, text


def _metrics() -> Iterator[str]:
    for name, kind, labels, text in proxy_metrics():
        yield f'.TP\n.BR {name} " ({", ".join((kind, *labels))})"\n{_sentence(text)}'
    for name, (kind, _) in metrics.PROCESS.items():
        yield f'.TP\n.BR {name} " ({kind})"\n{PROCESS_TEXTS[name]}'


def _sentence(text: str) -> str:
    return _roff(f"{text[0].upper()}{text[1:]}.")


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def stale(wanted: Mapping[str, str]) -> list[str]:
    """Return the names of the pages in man/ that are not what they should be."""
    there = {path.name: path.read_text("utf-8") for path in MAN.glob("s3pool*.[1578]") if path.name != HAND_WRITTEN}
    return sorted(name for name in {*there, *wanted} if there.get(name) != wanted.get(name))


def main() -> int:
    """Write the pages, and remove those of commands that are gone; with --check only tell them."""
    wanted = pages()
    if "--check" in sys.argv[1:]:
        if found := stale(wanted):
            print(f"not fresh: {', '.join(found)}; commit what make man writes", file=sys.stderr)
        return 1 if found else 0
    for old in MAN.glob("s3pool*.[1578]"):
        if old.name not in wanted and old.name != HAND_WRITTEN:
            old.unlink()
    for name, text in wanted.items():
        (MAN / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

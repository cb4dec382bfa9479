"""The rows of options in man/s3pool.yaml.5, written from the tables of options.

``python -m tests.support.option_rows`` writes them; a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from s3pool.config.options import Config, Option
from s3pool.proxy.settings import FLAG_ONLY, ProxySettings

ROOT = Path(__file__).resolve().parents[2]
MANUAL = ROOT / "man" / "s3pool.yaml.5"
SECTIONS = ("", "load_balancer", "pool")


def marks(section: str) -> tuple[str, str]:
    """Return the lines around the rows of a section of the manual."""
    name = section or "top"
    return (
        f'.\\" The rows of {name} are written by python -m tests.support.option_rows.\n',
        f'.\\" Here the rows of {name} end.\n',
    )


def manual_rows(section: str) -> str:
    """Return the rows of one section of the configuration file."""
    options = [option for option in Config.OPTIONS if option.key.rpartition(".")[0] == section]
    return "".join(manual_row(option, option.key.rpartition(".")[2]) for option in options)


def proxy_rows() -> str:
    """Return the rows of the proxy's options that have no flag."""
    return "".join(
        manual_row(option, option.key)
        for option in ProxySettings.OPTIONS
        if not option.flag and option not in FLAG_ONLY
    )


def manual_row(option: Option[Any], key: str) -> str:
    """Return one option in the manual's form: its meaning, default, flag and variables."""
    value = "" if option.switch is None else f"{str(option.switch).lower()}: "
    choices = f" ({', '.join(option.choices)})" if option.choices else ""
    lines = [".TP", f".B {key}", sentence(roff(value + option.help + choices))]
    if option.default_text:
        lines.append(f"Default: {roff(option.default_text)}.")
    if option.flag:
        lines.append(f"Flag: \\fB{roff(option.flag)}\\fR.")
    if option.env:
        lines.append(f"Environment: {', '.join(option.env)}.")
    return "\n".join(lines) + "\n"


def roff(text: str) -> str:
    """Escape what roff reads as its own."""
    return text.replace("\\", "\\e").replace("-", "\\-")


def sentence(text: str) -> str:
    """Begin with a capital, but for a value that is explained, and end with a full stop."""
    is_value = re.match(r"\w+: ", text)  # which is written as it stands
    return (text if is_value else text[0].upper() + text[1:]) + "."


def replaced(text: str, around: tuple[str, str], rows: str) -> str:
    """Return a text with the rows between two lines replaced."""
    begin, end = around
    before, found, rest = text.partition(begin)
    assert found, begin
    assert end in rest, end
    return before + begin + rows + end + rest.partition(end)[2]


def documents() -> Iterable[tuple[Path, str]]:
    """Yield the files that hold rows, and what they should hold."""
    page = MANUAL.read_text()
    for section in SECTIONS:
        page = replaced(page, marks(section), manual_rows(section))
    yield MANUAL, replaced(page, marks("proxy"), proxy_rows())


if __name__ == "__main__":
    for path, text in documents():
        path.write_text(text)

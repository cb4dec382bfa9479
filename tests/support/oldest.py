"""Print a constraint for the oldest version of each dependency: ``python tests/support/oldest.py setup.cfg``."""

from __future__ import annotations

import re
import sys
from configparser import ConfigParser


def oldest(path: str) -> list[str]:
    """Return ``name==version`` for what a package needs at least."""
    parser = ConfigParser(interpolation=None)
    parser.read(path, "utf-8")
    lines = parser["options"]["install_requires"].split()
    return [f"{match[1]}=={match[2]}" for line in lines if (match := re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", line))]


if __name__ == "__main__":
    print(*oldest(sys.argv[1]), sep="\n")

"""Run once more, alone, what failed in the last ``make test-all``: other work makes few tests fail, a fault many.

More than ``AT_MOST`` failures are no accident, and are not run again; nor is a run that ended otherwise
than by failing tests (pytest's exit codes 0 and 1). Each name is printed, so that a test that leans on
time is seen and mended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

AT_MOST = 5


def failed_in(cache: Path) -> list[str]:
    """Return the names of the tests that failed in the run that kept this cache."""
    path = cache / "v" / "cache" / "lastfailed"
    return sorted(json.loads(path.read_text())) if path.exists() else []


def has_ended(cache: Path) -> bool:
    """Return whether a run came to its end, and its failures are all that was wrong."""
    path = cache / "exit"
    code = path.read_text().strip() if path.exists() else ""
    return code == "0" or (code == "1" and bool(failed_in(cache)))


def main(caches: list[str]) -> int:
    """Run the tests again, and return an exit code."""
    names = [name for cache in caches for name in failed_in(Path(cache))]
    print(f"failed: {len(names)}", *names, sep="\n  ", flush=True)
    if not names or len(names) > AT_MOST or not all(has_ended(Path(cache)) for cache in caches):
        return 1
    code = subprocess.run([sys.executable, "-m", "pytest", "-m", "", *names], env=os.environ, check=False).returncode
    if code == 0:
        print("each passed alone: mend what leans on time there", *names, sep="\n  ")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run once more, alone, what failed in the last ``make test``: other work makes few tests fail, a fault many.

More than ``AT_MOST`` failures are no accident, and are not run again. Each name is printed, so that
a test that leans on time is seen and mended.
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


def main(caches: list[str]) -> int:
    """Run the tests again, and return an exit code."""
    names = [name for cache in caches for name in failed_in(Path(cache))]
    print(f"failed: {len(names)}", *names, sep="\n  ", flush=True)
    if not names or len(names) > AT_MOST:
        return 1
    code = subprocess.run([sys.executable, "-m", "pytest", "-m", "", *names], env=os.environ, check=False).returncode
    if code == 0:
        print("each passed alone: mend what leans on time there", *names, sep="\n  ")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

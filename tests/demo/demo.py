"""Show s3pool at work on three S3 endpoints that live for as long as this program.

``python -m tests.demo.demo`` starts the endpoints on free ports of loopback (one store in
memory), runs the real ``s3pool`` command on them, takes one endpoint
away while a sync runs, and cleans up. Every command and its output is shown; anything wrong
ends with exit 1. Nothing but s3pool itself needs to be installed.
"""

from __future__ import annotations

import os
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.fake_s3 import Call, FakeS3

NODES = 3
COMMAND_LIMIT_S = 60.0
DATABASE_BYTES = 12 << 20
SEED = 7  # the same tree in every run
BUCKET = "s3/demo"
NEXT = """  export S3_POOL=http://node{1...4}:9000 AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...
  .venv/bin/s3pool ping                             # is every node up, and are the keys accepted?
  .venv/bin/s3pool sync --dry-run DIR s3/BUCKET/DIR # what would be copied?"""
SMALL_FILES = {
    "index.html": b"<h1>Hello from the pool</h1>\n",
    "notes/report 2026 (final).txt": b"a name with blanks and brackets\n",
    "notes/größe+100%.txt": b"a name beyond ASCII\n",
    "notes/empty.txt": b"",
}


class DemoFailedError(Exception):
    """Something did not go as the demo expects."""


class Demo:
    """One run: a working directory, a clean environment, the s3pool beside this Python."""

    def __init__(self, root: Path, fleet: FakeS3) -> None:
        self.root = root
        self.program = Path(sys.executable).with_name("s3pool")
        if not self.program.exists():
            raise DemoFailedError(f"no s3pool beside {sys.executable}; run make demo")
        # Nothing of the caller's: neither credentials nor ~/.aws nor a proxy may take part.
        self.environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(root),
            "LC_ALL": "C.UTF-8",
            **fleet.environment,
        }

    def s3pool(self, *words: str, expected: int = 0, shows: str = "") -> None:
        """Show a command, run it, show what it says; it must end with the expected code."""
        say(f"$ s3pool {shlex.join(words)}")
        output = self._run([str(self.program), *words], expected)
        if shows not in output:
            raise DemoFailedError(f"the output does not show {shows!r}")

    def same(self, left: str, right: str) -> None:
        """Compare two trees byte for byte."""
        say(f"$ diff -r {left} {right} && echo identical")
        self._run(["diff", "-r", left, right], 0)
        say("identical")

    def _run(self, command: Sequence[str], expected: int) -> str:
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        # First the results, then what was said beside them, as a terminal shows it.
        output = (done.stdout + done.stderr).decode("utf-8", "replace")
        if output:
            say(output.rstrip("\n"))
        if done.returncode != expected:
            raise DemoFailedError(f"{Path(command[0]).name} ended with {done.returncode}, expected was {expected}")
        return output


def say(text: str) -> None:
    """Print at once, so that the order on the screen is the order of events."""
    print(text, flush=True)


def headline(text: str) -> None:
    """Announce the next part."""
    say(f"\n--- {text} ---")


def make_tree(root: Path) -> int:
    """Write the tree that the demo copies; return the number of its files."""
    chance = random.Random(SEED)
    files = dict(SMALL_FILES)
    files["data/database.img"] = chance.randbytes(DATABASE_BYTES)
    for day in range(1, 7):
        files[f"logs/2026-01-{day:02d}.log"] = chance.randbytes(700 * day)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return len(files)


def show_daily_work(demo: Demo, count: int) -> None:
    """Upload, look around, download, compare."""
    headline("1. All three endpoints are up: make a bucket, store a tree, look at it, get it back")
    demo.s3pool("ping")
    demo.s3pool("mb", BUCKET, shows="Bucket created: s3/demo")
    demo.s3pool("cp", "-r", "site", f"{BUCKET}/site", shows="database.img")
    demo.s3pool("ls", f"{BUCKET}/site/", shows="index.html")
    demo.s3pool("ls", "-r", "-H", "--summarize", f"{BUCKET}/site/")
    demo.s3pool("du", f"{BUCKET}/site", shows=f"Total objects: {count}")
    demo.s3pool("find", f"{BUCKET}/site", "--name", "*.log", "--larger", "2K", shows="2026-01-06.log")
    demo.s3pool("stat", f"{BUCKET}/site/index.html", shows="text/html")
    demo.s3pool("cp", "-r", "--quiet", f"{BUCKET}/site", "copy")
    demo.same("site", "copy")


def show_a_dying_node(demo: Demo, fleet: FakeS3, count: int) -> None:
    """Lose one endpoint in the middle of a sync, and go on without it."""
    node = fleet.nodes[1]
    headline(f"2. {node.url} is killed in the middle of a sync: the others finish it")
    fleet.fault(Call(lambda _exchange: node.kill()), op="PutObject", endpoint=1)
    demo.s3pool("sync", "--quiet", "--stats", "site", f"{BUCKET}/again")
    demo.s3pool("sync", "site", f"{BUCKET}/again", shows=f"{count} checked")
    demo.s3pool("ping", shows="down")
    demo.s3pool("cp", "-r", "--quiet", f"{BUCKET}/again", "copy-again")
    demo.same("site", "copy-again")


def clean_up(demo: Demo) -> None:
    """Remove what the demo stored; the bucket must be empty for rb to succeed."""
    headline("3. Clean up, still with two endpoints")
    demo.s3pool("rm", "-r", "--force", f"{BUCKET}/site")
    demo.s3pool("rm", "-r", "--force", "--quiet", f"{BUCKET}/again")
    demo.s3pool("rb", BUCKET, shows="Bucket deleted: s3/demo")
    demo.s3pool("ls")


def main() -> int:
    """Run the demo; 0 when everything went as it should."""
    say(f"Starting {NODES} S3 endpoints on loopback, one store in memory behind them; this takes some seconds.")
    with FakeS3(NODES) as fleet, tempfile.TemporaryDirectory(prefix="s3pool-demo-") as folder:
        root = Path(folder)
        try:
            demo = Demo(root, fleet)
            count = make_tree(root / "site")
            say(f"$ export S3_POOL={','.join(fleet.endpoints)}")
            show_daily_work(demo, count)
            show_a_dying_node(demo, fleet, count)
            clean_up(demo)
        except (DemoFailedError, subprocess.TimeoutExpired) as exc:
            print(f"demo failed: {exc}", file=sys.stderr)
            return 1
    say("\nThe demo is done: every tree came back byte for byte, with three endpoints and with two.")
    say(f"Next, with your own nodes and keys:\n{NEXT}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

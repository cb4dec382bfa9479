"""s3pool print: files for other programs that run or watch s3pool, ready to be changed."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import resources
from shutil import which

from s3pool import __version__
from s3pool.cli.context import Context

# The names of the operand, the files in s3pool/files, and what each is.
PAGES = {
    "systemd": ("systemd-proxy.service", "unit of the proxy"),
    "systemd-sync": ("systemd-sync.service", "unit of one sync"),
    "systemd-timer": ("systemd-sync.timer", "timer that starts the sync"),
    "kubernetes": ("kubernetes.yaml", "Deployment and Service of the proxy"),
    "kubernetes-job": ("kubernetes-job.yaml", "sync by an Indexed Job"),
    "slurm": ("slurm.sbatch", "sync by a Slurm array"),
    "grafana": ("grafana.json", "dashboard of the proxy and of syncs"),
    "alerts": ("alerts.yaml", "alert rules for Prometheus"),
    "containerfile": ("containerfile", "image for podman or docker"),
}
EXAMPLES = ("print systemd > /etc/systemd/system/s3pool-proxy.service", "print alerts > s3pool.rules.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operand of print."""
    listed = "; ".join(f"{name}: {meaning}" for name, (_, meaning) in PAGES.items())
    parser.add_argument("page", choices=tuple(PAGES), metavar="NAME", help=listed)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Print one file, with the place of this program and its version."""
    ctx.out.line(page(args.page).rstrip("\n"))
    return 0


def page(name: str) -> str:
    """Return the text of a file, with the place of this program and its version."""
    called = os.path.abspath(sys.argv[0])
    program = called if os.path.basename(called) == "s3pool" else which("s3pool") or "/usr/bin/s3pool"
    text = (resources.files("s3pool") / "files" / PAGES[name][0]).read_text("utf-8")
    return text.replace("@PROGRAM@", program).replace("@VERSION@", __version__)

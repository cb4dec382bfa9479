"""s3pool print and shards: what other programs and machines read, to run s3pool, to watch it, or to divide a tree."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import resources
from shutil import which

from s3pool import __version__
from s3pool.cli.context import Context
from s3pool.cli.parser import Command, positive_int, text_flag
from s3pool.cli.selection import make_plan
from s3pool.errors import UsageError
from s3pool.filters import plan_record
from s3pool.location import LocalPath, S3Path

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


def _add_page(parser: argparse.ArgumentParser) -> None:
    listed = "; ".join(f"{name}: {meaning}" for name, (_, meaning) in PAGES.items())
    parser.add_argument("page", choices=tuple(PAGES), metavar="NAME", help=listed)


def _print_page(args: argparse.Namespace, ctx: Context) -> int:
    ctx.out.line(page(args.page).rstrip("\n"))
    return 0


def page(name: str) -> str:
    """Return the text of a file, with the place of this program and its version."""
    called = os.path.abspath(sys.argv[0])
    program = called if os.path.basename(called) == "s3pool" else which("s3pool") or "/usr/bin/s3pool"
    text = (resources.files("s3pool") / "files" / PAGES[name][0]).read_text("utf-8")
    return text.replace("@PROGRAM@", program).replace("@VERSION@", __version__)


def _add_tree(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="the tree to divide: s3/BUCKET/PREFIX")
    parser.add_argument("--into", type=positive_int, required=True, metavar="N", help="so many shards of like size")
    text_flag(parser, "--local", "DIR", help="divide by the files below DIR: for a target that is empty")


def _print_plan(args: argparse.Namespace, ctx: Context) -> int:
    """Sample the tree and print one JSON object for each range."""
    path = ctx.s3(args.path)
    if not path.bucket:
        raise UsageError("shards needs a bucket: s3/BUCKET or s3/BUCKET/PREFIX")
    tree: S3Path | LocalPath = path
    if args.local:
        place = ctx.location(args.local)
        if not isinstance(place, LocalPath):
            raise UsageError(f"--local {args.local}: a directory of this machine is needed")
        tree = place
    plan = make_plan(ctx, tree, args.into)
    if args.into > 1 and plan[-1].after == "":
        what = f"nothing was found below {tree.text}, so that one shard has everything"
        advice = "" if args.local else "; --local DIR divides by a directory that is to be copied there"
        ctx.out.warn(f"{what}{advice}")
    for index, names in enumerate(plan):
        ctx.out.record(plan_record(index, len(plan), names))
    return 0


COMMANDS = {
    "print": Command(
        ("print systemd > /etc/systemd/system/s3pool-proxy.service", "print alerts > s3pool.rules.yaml"),
        _add_page,
        _print_page,
    ),
    "shards": Command(
        ("shards s3/photos --into 8 > plan", "shards s3/photos --into 8 --local photos"), _add_tree, _print_plan
    ),
}

"""Workloads about keys: a long listing, deletes, a sync with nothing to do, one question."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tests.bench.checks import check_lines, write_tree
from tests.bench.measure import Sample, WorkError
from tests.bench.pages import Listed
from tests.bench.rounds import WARM_UP, Contestant
from tests.bench.site import Site
from tests.bench.work_bodies import RCLONE, SMALL_BYTES, contestants

LISTED_BYTES = 4711
TREE_FILE_BYTES = 16
FILES_PER_DIRECTORY = 1000
OLD = 1767225600  # 2026-01-01: files last changed before the canned objects were stored
WARM_UP_SHARE = 10  # the deletes of a warm-up are this many times fewer
TIDY_REQUESTS = 100  # that a sync may need beside one a page


def long_list(site: Site) -> list[Contestant]:
    """List many keys from canned pages, with time and size, into a file."""
    keys = [f"data/{number // FILES_PER_DIRECTORY:03}/object-{number:06}" for number in range(site.sizes.listed)]
    site.store.list_as("listed", [Listed(key, LISTED_BYTES) for key in keys])
    listing = site.root / "listing"
    rclone = ["rclone", "lsf", "-R", "--fast-list", "--use-server-modtime", "--format", "tsp", "b:listed"]
    words = {
        "s3pool": ["s3pool", "ls", "-r", "s3/listed/"],
        "s5cmd": ["s5cmd", "ls", "s3://listed/*"],
        "rclone": [*rclone, "--files-only"],
        "aws": ["aws", "s3", "ls", "--recursive", "s3://listed/"],
    }

    def measure(command: Sequence[str], _number: int) -> Sample:
        sample = site.run(command, environ=site.store.environ, output=str(listing))
        check_lines(listing, keys)
        return sample

    return contestants(site, words, measure)


def delete(site: Site) -> list[Contestant]:
    """Delete objects from RGW by listing their prefix."""
    tree, cluster = site.root / "empty", site.cluster
    names = [f"k{number:06}" for number in range(site.sizes.deleted)]
    few = site.root / "empty-few"
    for directory, chosen in ((tree, names), (few, names[: len(names) // WARM_UP_SHARE])):
        write_tree(directory, chosen, size=0)
    place = f"{cluster.bucket}/doomed"
    words = {
        "s3pool": ["s3pool", "--quiet", "rm", "-r", "--force", f"s3/{place}"],
        "s5cmd": ["s5cmd", "--log", "error", "rm", f"s3://{place}/*"],
        "rclone": ["rclone", "delete", *RCLONE, f"b:{place}"],
        "aws": ["aws", "s3", "rm", "--recursive", "--only-show-errors", f"s3://{place}"],
    }

    def measure(command: Sequence[str], number: int) -> Sample:
        cluster.upload(few if number == WARM_UP else tree, "doomed")
        try:
            sample = site.run(command, environ=cluster.environ)
            if left := cluster.sizes("doomed/"):
                raise WorkError(f"{len(left)} objects are left")
        except WorkError:
            cluster.clear("doomed")
            raise
        return sample

    return contestants(site, words, measure)


def sync_noop(site: Site) -> list[Contestant]:
    """Compare a tree of files with canned pages that say the same; nothing has to be copied."""
    names = [f"d{number // FILES_PER_DIRECTORY:03}/f{number:06}" for number in range(site.sizes.tree)]
    tree = _old_tree(site, names)
    pages = site.store.list_as("tree", [Listed(name, TREE_FILE_BYTES) for name in names])
    words = {
        "s3pool": ["s3pool", "--quiet", "sync", "--jobs", "1", str(tree), "s3/tree"],
        "s5cmd": ["s5cmd", "--log", "error", "sync", f"{tree}/", "s3://tree/"],
        "rclone": ["rclone", "sync", "--update", "--fast-list", *RCLONE, str(tree), "b:tree"],
        "aws": ["aws", "s3", "sync", "--only-show-errors", str(tree), "s3://tree"],
    }

    def measure(command: Sequence[str], _number: int) -> Sample:
        before = site.store.count_requests()
        sample = site.run(command, environ=site.store.environ)
        asked = site.store.count_requests() - before - 1
        if not pages <= asked <= pages + TIDY_REQUESTS:
            raise WorkError(f"it took {asked} requests to compare {pages} pages")
        if os.listdir(site.store.bucket("tree")):
            raise WorkError("it copied files that were the same")
        return sample

    return contestants(site, words, measure)


def _old_tree(site: Site, names: Sequence[str]) -> Path:
    tree = site.directory("tree")
    write_tree(tree, names, size=TREE_FILE_BYTES)
    for name in names:
        os.utime(tree / name, (OLD, OLD))
    return tree


def stat(site: Site) -> list[Contestant]:
    """Ask for one object's metadata, in a new process each time; a sample is the mean of some."""
    name = "object"
    (site.store.bucket("single") / name).write_bytes(os.urandom(SMALL_BYTES))
    site.store.list_files("single")
    answer = site.root / "answer"
    words = {
        "s3pool": ["s3pool", "stat", f"s3/single/{name}"],
        "s5cmd": ["s5cmd", "head", f"s3://single/{name}"],
        "rclone": ["rclone", "lsjson", "--stat", f"b:single/{name}"],
        "aws": ["aws", "s3api", "head-object", "--bucket", "single", "--key", name],
    }

    def once(command: Sequence[str]) -> Sample:
        sample = site.run(command, environ=site.store.environ, output=str(answer))
        if str(SMALL_BYTES) not in answer.read_text():
            raise WorkError(f"the answer does not tell the size: {answer.read_text()[:200]!r}")
        return sample

    def measure(command: Sequence[str], _number: int) -> Sample:
        samples = [once(command) for _ in range(site.sizes.stats)]
        count = len(samples)
        seconds, cpu_s = (sum(column) / count for column in list(zip(*samples, strict=True))[:2])
        return Sample(seconds, cpu_s, max(sample.peak_bytes for sample in samples))

    return contestants(site, words, measure)

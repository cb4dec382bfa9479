"""The same work on a real server: ``make bench SERVER=minio``. s3pool knows all nodes, the others one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.bench.checks import check_same_bytes, check_same_tree, write_random, write_tree
from tests.bench.measure import Sample, WorkError
from tests.bench.rounds import Contestant
from tests.bench.site import Site
from tests.bench.work_bodies import (
    MANY_BYTES,
    RCLONE,
    SMALL_BYTES,
    contestants,
    download_words,
    small_names,
    upload_words,
)

Words = Mapping[str, Sequence[str]]


def _small(site: Site) -> Path:
    return _tree(site, "small-files", small_names(site), SMALL_BYTES)


def _many(site: Site) -> Path:
    return _tree(site, "many", [f"part{number:03}.bin" for number in range(site.sizes.many)], MANY_BYTES)


def _large(site: Site) -> Path:
    tree = site.root / "large"
    if not tree.exists():
        tree.mkdir()
        write_random(tree / "object", site.sizes.large_bytes)
    return tree


def _tree(site: Site, name: str, names: Sequence[str], size: int) -> Path:
    tree = site.root / name
    if not tree.exists():
        tree.mkdir()
        write_tree(tree, names, size=size)
    return tree


def put(make: Callable[[Site], Path]) -> Callable[[Site], list[Contestant]]:
    """Upload a tree; the names and sizes of all objects are looked at."""

    def enter(site: Site) -> list[Contestant]:
        tree, cluster = make(site), site.cluster
        expected = {path.name: path.stat().st_size for path in tree.iterdir()}
        words = upload_words(tree, f"{cluster.bucket}/up")
        words = {**words, "mc": ["mc", "--quiet", "cp", "--recursive", f"{tree}/", f"b/{cluster.bucket}/up/"]}

        def measure(command: Sequence[str], _number: int) -> Sample:
            try:
                sample = site.run(command, environ=cluster.environ)
                if cluster.sizes("up/") != expected:
                    raise WorkError(f"not all {len(expected)} files are there, or they have other sizes")
            finally:
                cluster.clear("up")
            return sample

        return contestants(site, words, measure)

    return enter


def get(make: Callable[[Site], Path]) -> Callable[[Site], list[Contestant]]:
    """Download a tree; all bytes are compared."""

    def enter(site: Site) -> list[Contestant]:
        tree, cluster, target = make(site), site.cluster, site.root / "target"
        cluster.upload(tree, tree.name)
        place = f"{cluster.bucket}/{tree.name}"
        words = download_words(place, target)
        unverified = ["s3pool", "--quiet", "cp", "-r", "--no-verify", f"s3/{place}", str(target)]
        words = {**words, "mc": ["mc", "--quiet", "cp", "--recursive", f"b/{place}/", f"{target}/"]}
        words = {**words, "s3pool --no-verify": unverified}

        def measure(command: Sequence[str], _number: int) -> Sample:
            site.directory("target")
            sample = site.run(command, environ=cluster.environ)
            if tree.name == "large":
                check_same_bytes([tree / "object"], [target / "object"])
            else:
                check_same_tree(tree, target)
            site.directory("target")
            return sample

        return contestants(site, words, measure)

    return enter


def long_list(site: Site) -> list[Contestant]:
    """List all keys of a prefix to a file; the lines are counted."""
    cluster, count, listing = site.cluster, site.sizes.listed, site.root / "listing"
    cluster.upload(_keys(site, count), "keys")
    place = f"{cluster.bucket}/keys/"
    words = {
        "s3pool": ["s3pool", "ls", "-r", f"s3/{place}"],
        "s5cmd": ["s5cmd", "ls", f"s3://{place}*"],
        "mc": ["mc", "ls", "--recursive", f"b/{place}"],
        "rclone": ["rclone", "ls", *RCLONE, f"b:{place}"],
        "aws": ["aws", "s3", "ls", "--recursive", f"s3://{place}"],
    }

    def measure(command: Sequence[str], _number: int) -> Sample:
        sample = site.run(command, environ=cluster.environ, output=str(listing))
        lines = len(listing.read_bytes().splitlines())
        if lines != count:
            raise WorkError(f"{lines} lines were listed of {count} keys")
        return sample

    return contestants(site, words, measure)


def delete(site: Site) -> list[Contestant]:
    """Delete all keys of a prefix; none is left."""
    cluster = site.cluster
    tree, place = _keys(site, site.sizes.deleted), f"{cluster.bucket}/doomed"
    words = {
        "s3pool": ["s3pool", "--quiet", "rm", "-r", "--force", f"s3/{place}"],
        "s5cmd": ["s5cmd", "--log", "error", "rm", f"s3://{place}/*"],
        "mc": ["mc", "--quiet", "rm", "--recursive", "--force", f"b/{place}/"],
        "rclone": ["rclone", "delete", *RCLONE, f"b:{place}"],
        "aws": ["aws", "s3", "rm", "--recursive", "--only-show-errors", f"s3://{place}"],
    }

    def measure(command: Sequence[str], _number: int) -> Sample:
        cluster.upload(tree, "doomed")
        sample = site.run(command, environ=cluster.environ)
        if left := cluster.sizes("doomed/"):
            raise WorkError(f"{len(left)} objects are left")
        return sample

    return contestants(site, words, measure)


def _keys(site: Site, count: int) -> Path:
    return _tree(site, f"keys-{count}", [f"k{number:06}" for number in range(count)], 1)


small_put, small_get = put(_small), get(_small)
large_put, large_get = put(_large), get(_large)
many_put, many_get = put(_many), get(_many)

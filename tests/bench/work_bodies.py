"""Workloads that move bodies: many small objects, one large one, some of middling size.

Every tool works with its own defaults, with two exceptions. rclone gets 32 transfers instead
of 4, and does not ask for every object's time; without that it would be much slower. And
s3pool lists canned pages one after another, as the others do, for it could not divide them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.bench.checks import check_same_bytes, check_same_tree, write_random, write_tree
from tests.bench.measure import Sample, WorkError
from tests.bench.rounds import Contestant
from tests.bench.site import Cluster, Site

SMALL_BYTES = 4096
MANY_BYTES = 50 << 20
MAIN = ("s3pool", "s3pool --no-verify", "s5cmd", "curl")  # the others are slower, and may do fewer rounds
RCLONE = ("--transfers", "32", "--checkers", "32", "--use-server-modtime")
Words = Mapping[str, Sequence[str]]


def contestants(site: Site, words: Words, measure: Callable[[Sequence[str], int], Sample]) -> list[Contestant]:
    """Let every installed tool that has words for the work take part."""

    def bound(command: Sequence[str]) -> Callable[[int], Sample]:
        return lambda number: measure(command, number)

    return [
        Contestant(tool, bound(command), tool in MAIN) for tool, command in words.items() if command[0] in site.tools
    ]


def upload_words(tree: Path, place: str) -> Words:
    """Give how each tool uploads a tree to BUCKET/PREFIX."""
    return {
        "s3pool": ["s3pool", "--quiet", "cp", "-r", str(tree), f"s3/{place}"],
        "s5cmd": ["s5cmd", "--log", "error", "cp", f"{tree}/", f"s3://{place}/"],
        "rclone": ["rclone", "copy", *RCLONE, str(tree), f"b:{place}"],
        "aws": ["aws", "s3", "cp", "--recursive", "--only-show-errors", str(tree), f"s3://{place}"],
    }


def download_words(place: str, target: Path, *, jobs: Sequence[str] = ()) -> Words:
    """Give how each tool downloads all below BUCKET/PREFIX."""
    return {
        "s3pool": ["s3pool", "--quiet", "cp", "-r", *jobs, f"s3/{place}", str(target)],
        "s5cmd": ["s5cmd", "--log", "error", "cp", f"s3://{place}/*", f"{target}/"],
        "rclone": ["rclone", "copy", *RCLONE, f"b:{place}", str(target)],
        "aws": ["aws", "s3", "cp", "--recursive", "--only-show-errors", f"s3://{place}", str(target)],
    }


def small_put(site: Site) -> list[Contestant]:
    """Upload small files to nginx; what arrived is compared byte by byte."""
    tree = _small_tree(site)
    stored = site.store.bucket("inbox") / "new"

    def measure(words: Sequence[str], _number: int) -> Sample:
        site.store.empty("inbox")
        sample = site.run(words, environ=site.store.environ)
        check_same_tree(tree, stored)
        return sample

    return contestants(site, upload_words(tree, "inbox/new"), measure)


def small_get(site: Site) -> list[Contestant]:
    """Download small objects from nginx, listed by canned pages."""
    tree = _small_tree(site)
    target = site.root / "target"

    def measure(words: Sequence[str], _number: int) -> Sample:
        site.directory("target")
        sample = site.run(words, environ=site.store.environ)
        check_same_tree(tree, target)
        return sample

    return contestants(site, download_words("small", target, jobs=("--jobs", "1")), measure)


def _small_tree(site: Site) -> Path:
    """Give the directory that is both the files to upload and the bucket to download."""
    tree = site.store.bucket("small")
    names = small_names(site)
    if not (tree / names[0]).exists():
        write_tree(tree, names, size=SMALL_BYTES)
        site.store.list_files("small")
    return tree


def small_names(site: Site) -> list[str]:
    """Name the small objects."""
    return [f"f{number:06}" for number in range(site.sizes.small)]


def large_object(site: Site) -> Path:
    """Give the large object, which is a file in its bucket, too."""
    path = site.store.bucket("large") / "object"
    if not path.exists():
        write_random(path, site.sizes.large_bytes)
        site.store.list_files("large")
    return path


def large_get(site: Site) -> list[Contestant]:
    """Download one large object from nginx."""
    return _large_get(site, site.store.environ, site.store.url)


def large_get_tls(site: Site) -> list[Contestant]:
    """Download one large object from nginx by HTTPS; certificates are verified."""
    return _large_get(site, site.store.tls_environ, site.store.tls_url)


def _large_get(site: Site, environ: Mapping[str, str], url: str) -> list[Contestant]:
    source = large_object(site)
    target = site.root / "target" / "object"
    words = {
        "s3pool": ["s3pool", "--quiet", "cp", "s3/large/object", str(target)],
        "s5cmd": ["s5cmd", "--log", "error", "cp", "s3://large/object", str(target)],
        "curl": ["curl", "-sS", "--cacert", environ["AWS_CA_BUNDLE"], "-o", str(target), f"{url}/large/object"],
        "rclone": ["rclone", "copyto", *RCLONE, "b:large/object", str(target)],
        "aws": ["aws", "s3", "cp", "--only-show-errors", "s3://large/object", str(target)],
    }

    def measure(command: Sequence[str], _number: int) -> Sample:
        site.directory("target")
        sample = site.run(command, environ=environ)
        check_same_bytes([source], [target])
        site.directory("target")
        return sample

    return contestants(site, words, measure)


def large_put(site: Site) -> list[Contestant]:
    """Upload one large file to nginx, which keeps the parts as they come and hashes nothing."""
    return _large_put(site, site.store.environ)


def large_put_tls(site: Site) -> list[Contestant]:
    """Upload one large file to nginx by HTTPS; certificates are verified."""
    return _large_put(site, site.store.tls_environ)


def _large_put(site: Site, environ: Mapping[str, str]) -> list[Contestant]:
    source = large_object(site)
    words = {
        "s3pool": ["s3pool", "--quiet", "cp", str(source), "s3/sink/object"],
        "s5cmd": ["s5cmd", "--log", "error", "cp", str(source), "s3://sink/object"],
        # Its multipart uploads want the MD5 of the whole, which a sink cannot tell.
        "rclone": ["rclone", "copyto", *RCLONE, "--s3-use-multipart-etag=false", str(source), "b:sink/object"],
        "aws": ["aws", "s3", "cp", "--only-show-errors", str(source), "s3://sink/object"],
    }

    def measure(command: Sequence[str], _number: int) -> Sample:
        site.store.empty("sink")
        sample = site.run(command, environ=environ)
        check_same_bytes([source], site.store.parts_of("object") or [site.store.bucket("sink") / "object"])
        site.store.empty("sink")
        return sample

    return contestants(site, words, measure)


def many_put(site: Site) -> list[Contestant]:
    """Upload files of 50 MiB to RGW."""
    tree, cluster = _many_tree(site), site.cluster

    def measure(words: Sequence[str], number: int) -> Sample:
        try:
            sample = site.run(words, environ=cluster.environ)
            _check_many(cluster, tree, number)
        finally:
            cluster.clear("many")
        return sample

    return contestants(site, upload_words(tree, f"{cluster.bucket}/many"), measure)


def _check_many(cluster: Cluster, tree: Path, number: int) -> None:
    """Look at the names and sizes of all objects, and at the bytes of another one each round."""
    names = sorted(path.name for path in tree.iterdir())
    found = cluster.sizes("many/")
    if found != dict.fromkeys(names, MANY_BYTES):
        raise WorkError(f"RGW has {found}, not {len(names)} objects of {MANY_BYTES} bytes")
    name = names[number % len(names)]
    stored = hashlib.sha256(cluster.read(f"many/{name}")).digest()
    if stored != hashlib.sha256((tree / name).read_bytes()).digest():
        raise WorkError(f"{name} has other bytes in RGW")


def many_get(site: Site) -> list[Contestant]:
    """Download objects of 50 MiB from RGW."""
    tree, cluster = _many_tree(site), site.cluster
    target = site.root / "target"
    cluster.upload(tree, "stored")

    def measure(words: Sequence[str], _number: int) -> Sample:
        site.directory("target")
        sample = site.run(words, environ=cluster.environ)
        check_same_tree(tree, target)
        site.directory("target")
        return sample

    place = f"{cluster.bucket}/stored"
    unverified = ["s3pool", "--quiet", "cp", "-r", "--no-verify", f"s3/{place}", str(target)]
    return contestants(site, {**download_words(place, target), "s3pool --no-verify": unverified}, measure)


def _many_tree(site: Site) -> Path:
    tree = site.root / "many"
    if not tree.exists():
        tree.mkdir()
        write_tree(tree, [f"part{number:03}.bin" for number in range(site.sizes.many)], size=MANY_BYTES)
    return tree

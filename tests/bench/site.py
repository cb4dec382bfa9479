"""The place of a benchmark: scratch space in memory, sizes, tools, and servers started when needed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tests.bench.measure import Command, Sample, WorkError, run
from tests.bench.pages import NAMESPACE, Listed, write_pages
from tests.bench.server import CA_FILE, STORE, TLS, Server, start_nginx
from tests.bench.tools import Tool, client_environ
from tests.support.real_servers import CLUSTERS, Deployment
from tests.support.rgw import RgwCluster, free_ports

MIB = 1 << 20
MEMORY = "/dev/shm"  # where Linux keeps a tmpfs that everybody may write to
NEEDED_BYTES = 6 << 30
SETUP_LIMIT_S = 300.0
GATEWAYS = 2  # as many as there are cores to run them, on the smallest machine that counts


class Sizes(NamedTuple):
    """How much work each workload is."""

    small: int  # objects of 4 KiB
    listed: int
    deleted: int
    large_bytes: int
    many: int  # objects of 50 MiB
    tree: int  # files of a sync that has nothing to do
    stats: int  # commands in one round
    proxy_s: int  # whole seconds, for wrk


FULL = Sizes(5000, 100_000, 10_000, 1024 * MIB, 20, 100_000, 5, 5)
QUICK = Sizes(500, 10_000, 300, 128 * MIB, 3, 5000, 2, 2)


class Site:
    """Where everything happens; a context that stops the servers and removes the files."""

    def __init__(self, tools: Mapping[str, Tool], sizes: Sizes, *, limit_s: float) -> None:
        self.tools = tools
        self.sizes = sizes
        self._limit_s = limit_s
        self._stack = ExitStack()
        self.root = Path(tempfile.mkdtemp(prefix="s3pool-bench-", dir=_scratch()))
        self._stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self.home = self.root / "home"
        self.home.mkdir()

    @property
    def is_in_memory(self) -> bool:
        """Tell whether files are read and written without a disk."""
        return str(self.root).startswith(MEMORY)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def program(self, tool: str) -> str:
        """Give the path of an installed tool."""
        return self.tools[tool].path

    def run(self, words: Sequence[str], *, environ: Mapping[str, str], output: str = os.devnull) -> Sample:
        """Measure a command whose first word is a tool's name."""
        command = Command([self.program(words[0]), *words[1:]], environ, output, str(self.root))
        return run(command, errors=str(self.root / "stderr"), limit_s=self._limit_s)

    def directory(self, name: str) -> Path:
        """Give a new and empty directory; one of the same name is removed."""
        path = self.root / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def keep(self, server: Server) -> Server:
        """Stop a server at the end, at the latest."""
        return self._stack.enter_context(server)

    @cached_property
    def store(self) -> Store:
        """Start nginx as a store without S3's own cost, at the first use."""
        return Store(self)

    @cached_property
    def cluster(self) -> Cluster:
        """Start Ceph RGW, or the server that is asked for, at the first use."""
        kind = CLUSTERS.get(server_name())
        cluster = self._stack.enter_context(kind() if kind else RgwCluster.create(GATEWAYS))
        return Cluster(self, cluster)


def server_name() -> str:
    """Return the name of the real server; that of another one than RGW makes it the only one."""
    return os.environ.get("S3POOL_BENCH_SERVER", "rgw")


class Store:
    """nginx on files in memory: what remains of the time is the client's own."""

    def __init__(self, site: Site) -> None:
        self.root = site.directory("nginx")
        self._files = self.root / "store"
        port, tls_port = free_ports(2)
        http_block = STORE.format(
            root=self.root, port=port, tls_port=tls_port, tls=TLS / "server.pem", namespace=NAMESPACE
        )
        for bucket in ("inbox", "sink"):
            self.list_as(bucket, ())
        self.server = site.keep(start_nginx(site.program("nginx"), self.root, port, http=http_block))
        self.url = self.server.url
        self.environ = client_environ(str(site.home), url=self.url, ca_file=CA_FILE)
        self.tls_url = f"https://127.0.0.1:{tls_port}"
        self.tls_environ = client_environ(str(site.home), url=self.tls_url, ca_file=CA_FILE)

    def bucket(self, name: str) -> Path:
        """Give the directory that holds a bucket's objects."""
        path = self._files / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def list_as(self, bucket: str, objects: Sequence[Listed]) -> int:
        """Let a bucket have this listing, whatever it holds; give the number of pages."""
        self.bucket(bucket)
        return write_pages(self._files / "-" / "pages" / bucket, bucket, objects=objects)

    def list_files(self, bucket: str) -> None:
        """Let a bucket have a listing of its files, which lie in no directories."""
        paths = sorted(self.bucket(bucket).iterdir())
        self.list_as(bucket, [Listed(path.name, path.stat().st_size, _nginx_etag(path)) for path in paths])

    def parts_of(self, key: str) -> list[Path]:
        """Give the parts that were stored for an object of the sink, in order."""
        directory = self._files / "-" / "parts" / "sink" / key
        return sorted(directory.iterdir(), key=lambda path: int(path.name)) if directory.is_dir() else []

    def empty(self, bucket: str) -> None:
        """Remove all that was stored in a bucket."""
        for directory in (self._files / bucket, self._files / "-" / "parts" / bucket):
            shutil.rmtree(directory, ignore_errors=True)
        self.bucket(bucket)

    def count_requests(self) -> int:
        """Give how many requests it has answered since it started, this one included."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=SETUP_LIMIT_S)
        try:
            connection.request("GET", "/-/status")
            words = connection.getresponse().read().split()
        finally:
            connection.close()
        # "Active connections: 1 server accepts handled requests 7 7 9 Reading: ..."
        return int(words[9])


class Cluster:
    """Ceph RGW with an object store in memory, or another server: real things, whose own cost is most of the time."""

    bucket = "bench"

    def __init__(self, site: Site, cluster: RgwCluster | Deployment) -> None:
        self._site = site
        self._cluster = cluster
        self.endpoints = cluster.endpoints
        self.ready_path = getattr(cluster, "ready_path", "/swift/healthcheck")
        environ = client_environ(str(site.home), url=cluster.endpoints[0], ca_file=CA_FILE)
        keys = {"AWS_ACCESS_KEY_ID": cluster.access_key, "AWS_SECRET_ACCESS_KEY": cluster.secret_key}
        # s3pool knows all gateways, which is what it is for; the others know one.
        self.environ = {**environ, **keys, "S3_POOL": ",".join(cluster.endpoints)}
        if server_name() != "rgw":  # which refuses what awscli would add
            for name in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
                del self.environ[name]
        if "mc" in site.tools:
            words = [site.program("mc"), "alias", "set", "b", cluster.endpoints[0], *keys.values()]
            subprocess.run(words, env=self.environ, capture_output=True, timeout=SETUP_LIMIT_S, check=True)
        self._ask("--quiet", "mb", f"s3/{self.bucket}")

    def upload(self, tree: Path, prefix: str) -> None:
        """Store a tree of files; not measured."""
        self._ask("--quiet", "cp", "-r", str(tree), f"s3/{self.bucket}/{prefix}")

    def clear(self, prefix: str) -> None:
        """Delete everything below a prefix, and free its memory now instead of in an hour."""
        self._ask("--quiet", "rm", "-r", "--force", f"s3/{self.bucket}/{prefix}")
        if server_name() != "rgw":
            return
        conf = str(self._cluster.root / "ceph.conf")
        environ = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._site.home)}
        words = ["radosgw-admin", "-c", conf, "gc", "process", "--include-all"]
        subprocess.run(words, env=environ, capture_output=True, timeout=SETUP_LIMIT_S, check=False)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Give the sizes of all objects below a prefix by their keys, as the cluster tells them now."""
        lines = self._ask("--json", "ls", "-r", f"s3/{self.bucket}/{prefix}").splitlines()
        objects = [found for found in map(json.loads, lines) if found["type"] == "object"]
        return {found["url"].rpartition("/")[2]: found["size"] for found in objects}

    def read(self, key: str) -> bytes:
        """Read one object."""
        return self._do("--quiet", "cat", f"s3/{self.bucket}/{key}")

    def _ask(self, *words: str) -> str:
        return self._do(*words).decode()

    def _do(self, *words: str) -> bytes:
        command = [self._site.program("s3pool"), *words]
        done = subprocess.run(command, env=self.environ, capture_output=True, timeout=SETUP_LIMIT_S, check=False)
        if done.returncode:
            raise WorkError(f"preparing with s3pool {' '.join(words)} ended with {done.returncode}: {done.stderr!r}")
        return done.stdout


def _nginx_etag(path: Path) -> str:
    """Give the ETag that nginx gives a file: awscli downloads what a listing told, or nothing."""
    status = path.stat()
    return f"{int(status.st_mtime):x}-{status.st_size:x}"


def _scratch() -> str | None:
    """Give a directory in memory with enough room; None is the usual one for temporary files."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= NEEDED_BYTES:
        return MEMORY
    return None

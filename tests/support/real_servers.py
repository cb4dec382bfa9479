"""Real S3 servers on loopback, without root, each as several nodes of one store.

MinIO (one erasure set), versitygw (one directory), SeaweedFS (gateways of one filer) and Garage
(three copies). Their programs are those of ``make servers``, or of PATH, or named by S3POOL_MINIO,
S3POOL_VERSITYGW, S3POOL_WEED and S3POOL_GARAGE.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import ClassVar, TypeVar

from tests.support.rgw import free_ports

ACCESS_KEY = "S3POOLMINIOTESTKEY00"
SECRET_KEY = "s3pool/minio+secret=key0123456789"
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 20.0
POLL_S = 0.1
LOG_TAIL_LINES = 15
BUILT = Path(sys.prefix) / "servers" / "bin"  # where make servers puts what it builds
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
# In a container MinIO refuses loopback addresses. So it gets a root directory of its own without
# the container's mark, in a user namespace: the traffic stays on loopback, and nobody needs to be root.
IN_ITS_OWN_ROOT = """
set -e
root=$1; program=$2; shift 2
for place in proc dev etc lib lib64 usr; do
    [ -d "/$place" ] || continue
    mkdir -p "$root/$place"
    mount --rbind "/$place" "$root/$place"
done
touch "$root/minio"
mount --bind "$program" "$root/minio"
exec chroot "$root" /minio "$@"
"""


STORE_PARTS = tuple(f"{part}.port{kind}" for part in ("master", "volume", "filer") for kind in ("", ".grpc"))
Made = TypeVar("Made", bound="Deployment")


class DeploymentError(RuntimeError):
    """The deployment did not start."""


class Deployment:
    """Running servers of one store; a context that stops them and removes their directory."""

    program: ClassVar[str]
    ready_path: ClassVar[str]
    usual_nodes: ClassVar[int] = 3
    owned = True  # nobody else uses it: its nodes may be killed

    @classmethod
    def find(cls) -> str | None:
        """Return the program's path; None where it is not installed."""
        named = os.environ.get(f"S3POOL_{cls.program.upper()}")
        return named or shutil.which(cls.program, path=os.pathsep.join((str(BUILT), os.environ.get("PATH", ""))))

    @classmethod
    def missing(cls) -> str:
        """Return a sentence that says how to have the program."""
        return (
            f"{cls.program} is not installed: make servers builds it, "
            f"and there is none in PATH or named by S3POOL_{cls.program.upper()}"
        )

    def __init__(self, nodes: int = 0) -> None:
        """Start the processes, as many as usual where no number is given, and return when each of them serves.

        Raises:
            DeploymentError: the program is missing, or does not come up; its log's tail is in the message.
        """
        program = self.find()
        if program is None:
            raise DeploymentError(self.missing())
        self._program = program
        self.root = Path(tempfile.mkdtemp(prefix=f"s3pool-{self.program}-"))
        nodes = nodes or self.usual_nodes
        self.ports = tuple(free_ports(nodes))
        self.access_key, self.secret_key = ACCESS_KEY, SECRET_KEY
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for index in range(nodes):
                self._processes.append(self._launch(program, index))
            self._await()
        except BaseException:
            self.stop()
            raise

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Return the URLs of all processes."""
        return tuple(f"http://127.0.0.1:{port}" for port in self.ports)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables with which s3pool and boto3 find the deployment."""
        return {
            "S3_POOL": ",".join(self.endpoints),
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def kill(self, index: int) -> None:
        """End one node as a crash would."""
        self._processes[index].kill()
        self._processes[index].wait(STOP_DEADLINE_S)

    def freeze(self, index: int) -> None:
        """Stop one node where it is: its port stays open, and nothing answers."""
        self._processes[index].send_signal(signal.SIGSTOP)

    def thaw(self, index: int) -> None:
        """Let a frozen node go on."""
        self._processes[index].send_signal(signal.SIGCONT)

    def start(self, index: int) -> None:
        """Start one node again, and return when all serve."""
        self._processes[index] = self._launch(self._program, index)
        self._await()

    def stop(self) -> None:
        """End the processes and remove what they stored."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(STOP_DEADLINE_S)
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self: Made) -> Made:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def command(self, program: str, index: int) -> tuple[list[str], dict[str, str]]:
        """Return the words that start a process, and what its environment has beside the usual."""
        raise NotImplementedError

    def _launch(self, program: str, index: int) -> subprocess.Popen[bytes]:
        words, more = self.command(program, index)
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.root), "GOMAXPROCS": "1", **more}
        with self._log(index).open("ab") as log:
            return subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _log(self, index: int) -> Path:
        return self.root / f"node{index}.log"

    def _await(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        for index, port in enumerate(self.ports):
            while not self._is_ready(port):
                if time.monotonic() > deadline or self._processes[index].poll() is not None:
                    tail = self._log(index).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
                    raise DeploymentError("\n".join([f"node {index} of {self.program} is not ready", *tail]))
                time.sleep(POLL_S)

    def _is_ready(self, port: int) -> bool:
        connection = HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", self.ready_path)
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


class MinioCluster(Deployment):
    """MinIO: each process is a node of one erasure set, and is ready with the quorum of all."""

    program = "minio"
    usual_nodes = 4
    ready_path = "/minio/health/cluster"

    def command(self, program: str, index: int) -> tuple[list[str], dict[str, str]]:
        """Return how a node is started, in a container in a root directory of its own."""
        is_contained = any(map(os.path.exists, CONTAINER_MARKS))
        top = "" if is_contained else str(self.root)
        volumes = [f"http://127.0.0.1:{port}{top}/d{number}" for number, port in enumerate(self.ports)]
        own_root = ["unshare", "-Urm", "sh", "-c", IN_ITS_OWN_ROOT, "sh", str(self.root)] if is_contained else []
        more = {
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": SECRET_KEY,
            "MINIO_BROWSER": "off",
            "MINIO_CI_CD": "1",  # else it wants a disk of its own for each volume
            "MINIO_UPDATE": "off",
        }
        address = f"127.0.0.1:{self.ports[index]}"
        return [*own_root, program, "server", "--quiet", "--address", address, *volumes], more


class VersityCluster(Deployment):
    """versitygw: processes that serve one directory, where a key is a path."""

    program = "versitygw"
    ready_path = "/health"

    def command(self, program: str, index: int) -> tuple[list[str], dict[str, str]]:
        """Return how a process is started; the administrator's requests have the same port."""
        store, versions = self.root / "store", self.root / "versions"
        for place in (store, versions):
            place.mkdir(exist_ok=True)
        words = [program, "--port", f"127.0.0.1:{self.ports[index]}", "--health", self.ready_path]
        words += ["posix", "--versioning-dir", str(versions), str(store)]
        return words, {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}


class SeaweedCluster(Deployment):
    """SeaweedFS: gateways of one filer, which runs with its master and volume server in a process of its own."""

    program = "weed"
    ready_path = "/healthz"

    def __init__(self, nodes: int = 0) -> None:
        """Start the store and its gateways."""
        self._store: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        super().__init__(nodes)

    def _launch(self, program: str, index: int) -> subprocess.Popen[bytes]:
        if self._store is None:
            self._store = self._start_store(program)
        return super()._launch(program, index)

    def _start_store(self, program: str) -> subprocess.Popen[bytes]:
        """Start the store: every port is named, for the usual ones may be in use by others."""
        self._ports = ports = dict(zip(STORE_PARTS, free_ports(len(STORE_PARTS)), strict=True))
        identity = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        config = {"identities": [{"name": "test", "credentials": [identity], "actions": actions}]}
        (self.root / "s3.json").write_text(json.dumps(config))
        (self.root / "store").mkdir()
        words = [program, "server", "-ip=127.0.0.1", f"-dir={self.root / 'store'}", "-filer", "-volume.max=5000"]
        words += ["-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
        words += [f"-{part}={port}" for part, port in ports.items()]
        words += [f"-filer.localSocket={self.root / 'filer.sock'}"]
        with (self.root / "store.log").open("ab") as log:
            env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.root), "GOMAXPROCS": "1"}
            return subprocess.Popen(words, env=env, cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def command(self, program: str, index: int) -> tuple[list[str], dict[str, str]]:
        """Return how a gateway is started."""
        filer = f"127.0.0.1:{self._ports['filer.port']}.{self._ports['filer.port.grpc']}"
        words = [program, "s3", "-ip.bind=127.0.0.1", f"-port={self.ports[index]}", f"-port.grpc={free_ports(1)[0]}"]
        words += [f"-filer={filer}", f"-config={self.root / 's3.json'}"]
        words += ["-port.iceberg=0", "-port.lance=0", f"-localSocket={self.root / f's3-{index}.sock'}"]
        return words, {}

    def stop(self) -> None:
        """End the gateways and then their store."""
        if self._store is not None:
            self._store.kill()
            self._store.wait(STOP_DEADLINE_S)
        super().stop()


GARAGE_CONFIG = """
metadata_dir = "{place}/meta"
data_dir = "{place}/data"
db_engine = "lmdb"
replication_factor = 3
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{secret}"
[s3_api]
s3_region = "us-east-1"
api_bind_addr = "127.0.0.1:{port}"
[admin]
api_bind_addr = "127.0.0.1:{admin}"
"""


class GarageCluster(Deployment):
    """Garage: three nodes, each with a copy of everything."""

    program = "garage"
    ready_path = "/health"

    def __init__(self, nodes: int = 0) -> None:
        """Start the nodes, join them, and make the key."""
        self._is_joined = False
        self._admin: dict[int, int] = {}  # port of the administration, by port
        super().__init__(nodes)

    def command(self, program: str, index: int) -> tuple[list[str], dict[str, str]]:
        """Return how a node is started."""
        config, port = self.root / f"{index}.toml", self.ports[index]
        if not config.exists():
            rpc, self._admin[port] = free_ports(2)
            secret = hashlib.sha256(str(self.root).encode()).hexdigest()
            place = self.root / str(index)
            config.write_text(
                GARAGE_CONFIG.format(place=place, rpc=rpc, secret=secret, port=port, admin=self._admin[port])
            )
        return [program, "-c", str(config), "server"], {}

    def _tell(self, *words: str, index: int = 0) -> str:
        """Ask a node by Garage's own command until it answers."""
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            command = [self._program, "-c", str(self.root / f"{index}.toml"), *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
            if time.monotonic() > deadline:
                raise DeploymentError(f"{' '.join(words)} on node {index} of garage: {done.stderr}")
            time.sleep(POLL_S)

    def _await(self) -> None:
        if not self._is_joined:
            nodes = [self._tell("node", "id", "-q", index=index) for index in range(len(self.ports))]
            for other in nodes[1:]:
                self._tell("node", "connect", other)
            for node in nodes:
                self._tell("layout", "assign", node.partition("@")[0], "-z", "here", "-c", "10GB")
            self._tell("layout", "apply", "--version", "1")
            self.access_key = f"GK{ACCESS_KEY.encode().hex()[:24]}"
            self.secret_key = hashlib.sha256(SECRET_KEY.encode()).hexdigest()
            self._tell("key", "import", "--yes", self.access_key, self.secret_key)
            self._tell("key", "allow", "--create-bucket", self.access_key)
            self._is_joined = True
        super()._await()

    def _is_ready(self, port: int) -> bool:
        return super()._is_ready(self._admin[port])


CLUSTERS: dict[str, type[Deployment]] = {
    "minio": MinioCluster,
    "versitygw": VersityCluster,
    "seaweedfs": SeaweedCluster,
    "garage": GarageCluster,
}

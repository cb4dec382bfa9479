"""A real MinIO deployment on loopback: N processes of one erasure set, without root.

Needs the program ``minio``, from PATH or named by S3POOL_MINIO; README tells how it is built.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType

from tests.support.rgw import free_ports

ACCESS_KEY = "S3POOLMINIOTESTKEY00"
SECRET_KEY = "s3pool/minio+secret=key0123456789"
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 20.0
POLL_S = 0.1
LOG_TAIL_LINES = 15
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


class MinioError(RuntimeError):
    """The deployment did not start."""


def find_minio() -> str | None:
    """Return the program's path; None where it is not installed."""
    return os.environ.get("S3POOL_MINIO") or shutil.which("minio")


class MinioCluster:
    """A running deployment; a context that stops it and removes its directory."""

    def __init__(self, nodes: int = 4) -> None:
        """Start the processes, and return when each of them serves with the quorum of all.

        Raises:
            MinioError: the program is missing, or does not come up; its log's tail is in the message.
        """
        program = find_minio()
        if program is None:
            raise MinioError("MinIO is not installed: there is no minio in PATH, and S3POOL_MINIO names none")
        self.root = Path(tempfile.mkdtemp(prefix="s3pool-minio-"))
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

    def stop(self) -> None:
        """End the processes and remove what they stored."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(STOP_DEADLINE_S)
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> MinioCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, program: str, index: int) -> subprocess.Popen[bytes]:
        is_contained = any(map(os.path.exists, CONTAINER_MARKS))
        top = "" if is_contained else str(self.root)
        volumes = [f"http://127.0.0.1:{port}{top}/d{number}" for number, port in enumerate(self.ports)]
        own_root = ["unshare", "-Urm", "sh", "-c", IN_ITS_OWN_ROOT, "sh", str(self.root)] if is_contained else []
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.root),
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": SECRET_KEY,
            "MINIO_BROWSER": "off",
            "MINIO_CI_CD": "1",  # else it wants a disk of its own for each volume
            "MINIO_UPDATE": "off",
            "GOMAXPROCS": "1",
        }
        with self._log(index).open("ab") as log:
            return subprocess.Popen(
                [*own_root, program, "server", "--quiet", "--address", f"127.0.0.1:{self.ports[index]}", *volumes],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _log(self, index: int) -> Path:
        return self.root / f"node{index}.log"

    def _await(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        for index, port in enumerate(self.ports):
            while not _is_ready(port):
                if time.monotonic() > deadline or self._processes[index].poll() is not None:
                    tail = self._log(index).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
                    raise MinioError("\n".join([f"node {index} of MinIO is not ready", *tail]))
                time.sleep(POLL_S)


def _is_ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/minio/health/cluster")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()

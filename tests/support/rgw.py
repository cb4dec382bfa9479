"""A real Ceph RGW cluster on loopback: one mon, one mgr, one OSD in memory, N gateways.

Needs Debian's ``ceph-mon ceph-mgr ceph-osd ceph-common radosgw``. Everything lives under one
directory and runs as the calling user, root or not. As a command::

    python -m tests.support.rgw start --dir DIR [--nodes 4]     # writes DIR/env
    python -m tests.support.rgw stop --dir DIR
    python -m tests.support.rgw kill-node N --dir DIR
    python -m tests.support.rgw start-node N --dir DIR
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path

TOOLS = ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool", "ceph-authtool")
ACCESS_KEY = "S3POOLTESTACCESSKEY0"
SECRET_KEY = "s3pool/test+secret=key0123456789abcdefgh"
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 20.0
POLL_S = 0.05
WARM_UP = "warm-up"
LOG_TAIL_LINES = 15
MEMSTORE_BYTES = 8 << 30  # a ceiling, not an allocation

CONF = """\
[global]
fsid = {fsid}
mon host = [v1:127.0.0.1:{mon_port}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data avail crit = 1
mgr initial modules =
osd objectstore = memstore
osd op thread timeout = 600
osd op thread suicide timeout = 0
memstore device bytes = {memstore_bytes}
run dir = {root}/run
admin socket =
pid file = {root}/run/$name.pid
log file = {root}/log/$name.log
mon cluster log file = {root}/log/cluster.log
crash dir = {root}/crash
keyring = {root}/keyring
mon data = {root}/mon
mgr data = {root}/mgr
osd data = {root}/osd
rgw data = {root}/rgw/$name
rgw thread pool size = 64
rgw enable usage log = false
rgw enable ops log = false
rgw gc obj min wait = 60
rgw gc processor period = 60
rgw gc processor max time = 60
rgw crypt require ssl = false
"""

GATEWAY_CONF = """
[client.rgw{index}]
rgw frontends = beast endpoint=127.0.0.1:{port}
"""


class RgwError(RuntimeError):
    """The cluster, or one of its daemons, did not start or stop."""


def missing_tools() -> list[str]:
    """Name the programs of Ceph that are not installed; empty when a cluster can start."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def free_ports(count: int) -> list[int]:
    """Give ports of 127.0.0.1 that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class RgwCluster:
    """A running cluster; a context that stops it and removes its directory, unless it was only attached to.

    ``RgwCluster.create(nodes)`` starts one, ``RgwCluster.attach(root)`` takes over one that
    another process started. ``endpoints`` are URLs; ``kill`` and ``start`` take their index.
    """

    def __init__(self, root: str, ports: Sequence[int], *, mon_port: int, owned: bool) -> None:
        self.root = Path(root)
        self.ports = tuple(ports)
        self.mon_port = mon_port
        self.owned = owned
        self.access_key = ACCESS_KEY
        self.secret_key = SECRET_KEY

    @classmethod
    def create(cls, nodes: int = 4, *, root: str = "", settings: str = "") -> RgwCluster:
        """Start a cluster and give it when every gateway answers.

        Without a root it makes a temporary directory, which stop() removes. ``settings`` are more lines of ceph.conf.

        Raises:
            RgwError: a program is missing, or a daemon fails; the log's tail is in the message.
        """
        if missing := missing_tools():
            raise RgwError(f"RGW is not installed: no {', '.join(missing)}; install ceph-mon ceph-mgr ceph-osd radosgw")
        mon_port, *ports = free_ports(nodes + 1)
        cluster = cls(root or tempfile.mkdtemp(prefix="s3pool-rgw-"), ports, mon_port=mon_port, owned=not root)
        cluster._lay_out(settings)
        try:
            cluster._start_all()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @classmethod
    def attach(cls, root: str) -> RgwCluster:
        """Take over the cluster that runs under a directory. The end of a context leaves it, stop() its directory.

        Raises:
            RgwError: there is none.
        """
        try:
            state = json.loads((Path(root) / "cluster.json").read_text())
        except (OSError, ValueError) as exc:
            raise RgwError(f"no cluster under {root}: {exc}") from exc
        return cls(root, state["ports"], mon_port=state["mon_port"], owned=False)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Give the URLs of all gateways, killed ones included."""
        return tuple(f"http://127.0.0.1:{port}" for port in self.ports)

    @property
    def environment(self) -> dict[str, str]:
        """Give the variables with which s3pool and boto3 find the cluster."""
        return {
            "S3_POOL": ",".join(self.endpoints),
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def kill(self, index: int) -> None:
        """Kill one gateway with SIGKILL; its port refuses connections afterwards."""
        self._end(f"client.rgw{index}", signal.SIGKILL)

    def freeze(self, index: int) -> None:
        """Stop one gateway where it stands: its port accepts connections, and nothing is answered."""
        self._signal(f"client.rgw{index}", signal.SIGSTOP)

    def thaw(self, index: int) -> None:
        """Let a frozen gateway go on; harmless to one that runs."""
        self._signal(f"client.rgw{index}", signal.SIGCONT)

    def _signal(self, name: str, number: int) -> None:
        if pid := self._pid(name):
            os.kill(pid, number)

    def admin(self, *words: str) -> str:
        """Run radosgw-admin on the cluster and give what it says.

        Raises:
            RgwError: it fails.
        """
        command = ["radosgw-admin", "-c", str(self._conf), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_DEADLINE_S, check=False)
        if done.returncode:
            raise RgwError(f"{shlex.join(command[:4])} ended with {done.returncode}\n{done.stderr[-1000:]}")
        return done.stdout

    def start(self, index: int) -> None:
        """Start one gateway again; harmless when it runs."""
        if not self._alive(index):
            self._launch_gateway(index)
            self._await_gateway(index)

    def stop(self) -> None:
        """Stop every daemon; remove the directory when it was a temporary one."""
        self._stop_daemons()
        if self.owned:
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> RgwCluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self.owned:
            self.stop()

    def _start_all(self) -> None:
        self._start_mon()
        self._run("ceph-mgr", "-i", "x")
        self._start_osd()
        # The first gateway creates the pools; beside others it would race with them.
        self.start(0)
        self._create_user()
        for index in range(1, len(self.ports)):
            self._launch_gateway(index)
        for index in range(1, len(self.ports)):
            self._await_gateway(index)
        self._create_pools()
        state = {"ports": self.ports, "mon_port": self.mon_port}
        (self.root / "cluster.json").write_text(json.dumps(state))
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.environment.items())
        (self.root / "env").write_text(exports)

    def _lay_out(self, settings: str = "") -> None:
        if any(self._pid(path.stem) for path in (self.root / "run").glob("*.pid")):
            raise RgwError(f"a cluster runs under {self.root} already; stop it first")
        for name in ("run", "log", "crash", "mon", "mgr", "osd", "rgw"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir(parents=True)
        for name in ("keyring", "monmap", "cluster.json", "env"):
            (self.root / name).unlink(missing_ok=True)
        for index in range(len(self.ports)):
            (self.root / "rgw" / f"client.rgw{index}").mkdir(exist_ok=True)
        fsid = str(uuid.uuid4())
        conf = CONF.format(fsid=fsid, mon_port=self.mon_port, root=self.root, memstore_bytes=MEMSTORE_BYTES)
        gateways = (GATEWAY_CONF.format(index=index, port=port) for index, port in enumerate(self.ports))
        self._conf.write_text(conf + settings + "".join(gateways))

    def _start_mon(self) -> None:
        fsid = self._conf.read_text().partition("fsid = ")[2].split("\n", 1)[0]
        monmap, keyring = str(self.root / "monmap"), str(self.root / "keyring")
        self._run("monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{self.mon_port}]", "--fsid", fsid, monmap)
        allow = [word for what in ("mon", "osd", "mgr", "mds") for word in ("--cap", what, "allow *")]
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *allow)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._run("ceph-mon", "-i", "a")

    def _start_osd(self) -> None:
        osd_uuid = str(uuid.uuid4())
        # Who connects while the mon settles may not know its fsid yet, and is refused: a client, mkfs, the OSD itself.
        self._await(lambda: self._succeeds("ceph", "osd", "new", osd_uuid), "mon.a", START_DEADLINE_S)
        self._await(lambda: self._makes_store(osd_uuid), "mon.a", START_DEADLINE_S)
        self._await(lambda: self._succeeds("ceph-osd", "-i", "0"), "mon.a", START_DEADLINE_S)

    def _makes_store(self, osd_uuid: str) -> bool:
        shutil.rmtree(self.root / "osd", ignore_errors=True)
        (self.root / "osd").mkdir()
        return self._succeeds("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_uuid)

    def _create_user(self) -> None:
        keys = (f"--access-key={self.access_key}", f"--secret-key={self.secret_key}")
        user = ("--uid=s3pool", "--display-name=s3pool tests", "--max-buckets=10000")
        self._run("radosgw-admin", "user", "create", *user, *keys)

    def _create_pools(self) -> None:
        """Store an object and begin an upload: the first of each makes pools, for which no client should wait."""
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        config = Config(read_timeout=START_DEADLINE_S, retries={"max_attempts": 0})
        client = boto3.client("s3", endpoint_url=self.endpoints[0], region_name="us-east-1", config=config, **keys)
        place = {"Bucket": WARM_UP, "Key": WARM_UP}
        client.create_bucket(Bucket=WARM_UP)
        client.put_object(**place, Body=b"")
        client.abort_multipart_upload(**place, UploadId=client.create_multipart_upload(**place)["UploadId"])
        client.delete_object(**place)
        client.delete_bucket(Bucket=WARM_UP)
        client.close()

    def _launch_gateway(self, index: int) -> None:
        self._run("radosgw", "-n", f"client.rgw{index}")

    def _await_gateway(self, index: int) -> None:
        self._await(lambda: self._alive(index), f"client.rgw{index}", START_DEADLINE_S)

    def _alive(self, index: int) -> bool:
        connection = HTTPConnection("127.0.0.1", self.ports[index], timeout=2)
        try:
            connection.request("GET", "/swift/healthcheck")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    @property
    def _conf(self) -> Path:
        return self.root / "ceph.conf"

    def _succeeds(self, *command: str) -> bool:
        try:
            self._run(*command)
        except RgwError:
            return False
        return True

    def _run(self, *command: str) -> None:
        # A clean environment: PYTHONPATH would break Debian's own ceph script.
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.root), "LC_ALL": "C.UTF-8"}
        conf = [] if command[0] in ("monmaptool", "ceph-authtool") else ["-c", str(self._conf)]
        # Output goes to a file: a daemon that keeps a pipe open would block a reader for ever.
        output = self.root / "log" / "commands.log"
        with output.open("ab") as log:
            arguments = [command[0], *conf, *command[1:]]
            done = subprocess.run(
                arguments,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=START_DEADLINE_S,
                check=False,
            )
        if done.returncode:
            raise RgwError(f"{shlex.join(arguments)} ended with {done.returncode}\n{_tail(output)}")

    def _await(self, ready: Callable[[], bool], daemon: str, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not ready():
            if time.monotonic() > deadline:
                raise RgwError(f"{daemon} is not ready after {limit_s:.0f} s\n{_tail(self._log(daemon))}")
            if self._pid(daemon) is None and time.monotonic() > deadline - limit_s + 5:
                raise RgwError(f"{daemon} ended\n{_tail(self._log(daemon))}")
            time.sleep(POLL_S)

    def _log(self, daemon: str) -> Path:
        return self.root / "log" / f"{daemon}.log"

    def _stop_daemons(self) -> None:
        daemons = sorted(path.stem for path in (self.root / "run").glob("*.pid"))
        # Gateways first: without their OSD they would wait for it.
        for daemon in sorted(daemons, key=lambda name: not name.startswith("client.")):
            self._end(daemon, signal.SIGKILL)

    def _end(self, daemon: str, signal_number: signal.Signals) -> None:
        pid = self._pid(daemon)
        if pid is None:
            return
        os.kill(pid, signal_number)
        self._await(lambda: self._pid(daemon) is None, daemon, STOP_DEADLINE_S)

    def _pid(self, daemon: str) -> int | None:
        """Give the process id while the daemon runs; a recycled id does not count."""
        try:
            pid = int((self.root / "run" / f"{daemon}.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self._conf).encode() in words else None


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return f"(no log {path})"
    return "\n".join(lines[-LOG_TAIL_LINES:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Start or stop a cluster, or one of its gateways, from the command line."""
    parser = argparse.ArgumentParser(prog="tests.support.rgw", description="A Ceph RGW cluster on loopback.")
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("start", "stop", "kill-node", "start-node"):
        action = actions.add_parser(name)
        action.add_argument("--dir", required=True, help="the directory in which everything lives")
        if name == "start":
            action.add_argument("--nodes", type=int, default=4, help="how many gateways (default 4)")
        elif name != "stop":
            action.add_argument("node", type=int, help="which gateway, from 0")
    options = parser.parse_args(arguments)
    root = os.path.abspath(options.dir)
    try:
        _act(options, root)
    except RgwError as exc:
        print(f"rgw: {exc}", file=sys.stderr)
        return 1
    return 0


def _act(options: argparse.Namespace, root: str) -> None:
    if options.action == "start":
        cluster = RgwCluster.create(options.nodes, root=root)
        print(f"{len(cluster.ports)} gateways: {' '.join(cluster.endpoints)}\n. {root}/env")
    elif options.action == "stop":
        RgwCluster.attach(root).stop()
    elif options.action == "kill-node":
        RgwCluster.attach(root).kill(options.node)
    else:
        RgwCluster.attach(root).start(options.node)


if __name__ == "__main__":
    raise SystemExit(main())

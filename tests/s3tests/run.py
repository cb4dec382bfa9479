"""Run the S3 tests of the Ceph project on RGW, directly and through the proxy, and compare.

``make s3-tests`` fetches them, starts a Ceph RGW cluster, and takes about half an hour. What passes
directly must pass through the proxy: always where the nodes judge signatures (passthrough), and but
for the list in differences.txt where the proxy does (verify). As a command::

    python -m tests.s3tests.run [--checkout DIR] [--cluster DIR] [--tests MODULE::TEST ...]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from tests.s3tests.suite import PASSED, USERS, Suite, prepare, read_differences
from tests.support.rgw import RgwCluster, free_ports

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".cache"
NODES = 3
START_LIMIT_S = 30.0
STOP_LIMIT_S = 70.0
POLL_S = 0.05
VERIFY_FLAGS = ("--anonymous", "pass", "--sigv2", "on")
MODES = ("passthrough", "verify")
DIRECT = "direct"

Outcomes = Mapping[str, str]


def say(text: str) -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def create_users(cluster: RgwCluster) -> None:
    """Create the tests' users; those that are there already stay."""
    known = cluster.admin("user", "list")
    for user in USERS:
        uid = f"{user.tenant}${user.uid}" if user.tenant else user.uid
        if f'"{uid}"' in known:
            continue
        words = [f"--uid={uid}", f"--display-name={user.name}", f"--email={user.email}", "--max-buckets=10000"]
        cluster.admin("user", "create", *words, f"--access-key={user.access_key}", f"--secret-key={user.secret_key}")
        if user.caps:
            cluster.admin("caps", "add", f"--uid={uid}", f"--caps={user.caps}")


@contextmanager
def proxy(cluster: RgwCluster, mode: str, directory: Path) -> Iterator[int]:
    """Give the port of a proxy before all nodes, which takes the tests' users as its clients."""
    port = free_ports(1)[0]
    clients = directory / "clients.yaml"
    # JSON is YAML, and quotes what must be quoted.
    clients.write_text(json.dumps({"clients": [_client(user.access_key, user.secret_key) for user in USERS]}))
    clients.chmod(0o600)
    flags = ["--clients", str(clients), *VERIFY_FLAGS] if mode == "verify" else []
    words = [sys.executable, "-m", "s3pool", "proxy", "--auth", mode, *flags]
    words += ["--listen", f"127.0.0.1:{port}", "--admin-listen", "off"]
    with (directory / f"proxy-{mode}.log").open("wb") as log:
        process = subprocess.Popen(words, env=_environment(cluster), stdout=log, stderr=log)
    try:
        _await(port)
        yield port
    finally:
        process.terminate()
        process.wait(STOP_LIMIT_S)


def _client(access_key: str, secret_key: str) -> dict[str, str]:
    return {"access_key": access_key, "secret_key": secret_key}


def _environment(cluster: RgwCluster) -> dict[str, str]:
    return {**cluster.environment, "PATH": "/usr/bin:/bin", "HOME": str(cluster.root)}


def _await(port: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/-/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
        finally:
            connection.close()


def run_mode(suite: Suite, cluster: RgwCluster, mode: str, *, directory: Path, tests: Sequence[str]) -> Outcomes:
    """Run the tests once, directly or through a proxy."""
    say(f"{mode}: running; the log is {directory / mode}.log")
    with ExitStack() as stack:
        port = cluster.ports[0] if mode == DIRECT else stack.enter_context(proxy(cluster, mode, directory))
        outcomes = suite.run(mode, port, directory=directory, tests=tests)
    counts = Counter(outcomes.values())
    say(f"{mode}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    return outcomes


def lost(direct: Outcomes, proxied: Outcomes) -> list[str]:
    """Name the tests that pass directly and do not pass through the proxy."""
    return sorted(name for name, outcome in direct.items() if outcome == PASSED and proxied.get(name) != PASSED)


def judge(mode: str, names: Sequence[str], listed: frozenset[str], *, ran: Outcomes) -> list[str]:
    """Give what is wrong with a mode: losses that nobody explained, and explanations that nothing needs."""
    complaints = [f"{mode}: {name} passes directly and fails through the proxy" for name in names if name not in listed]
    needless = sorted((listed & ran.keys()) - {*names})
    return complaints + [f"{mode}: {name} is listed, and does not differ" for name in needless]


def compare(suite: Suite, cluster: RgwCluster, *, directory: Path, tests: Sequence[str]) -> list[str]:
    """Run everything and give the complaints."""
    differences = read_differences(HERE / "differences.txt")
    direct = run_mode(suite, cluster, DIRECT, directory=directory, tests=tests)
    complaints = []
    for mode in MODES:
        listed = frozenset(test for other, test in differences if other == mode)
        names = lost(direct, run_mode(suite, cluster, mode, directory=directory, tests=tests))
        chance = by_chance(suite, cluster, mode, directory=directory, names=[*{*names} - listed])
        complaints += judge(mode, [name for name in names if name not in chance], listed, ran=direct)
    return complaints


def by_chance(suite: Suite, cluster: RgwCluster, mode: str, *, directory: Path, names: Sequence[str]) -> frozenset[str]:
    """Run lost tests alone once more, and give those that pass now; they are said, not forgiven in silence."""
    if not names:
        return frozenset()
    ids = [f"s3tests/functional/{name.replace('::', '.py::', 1)}" for name in sorted(names)]
    again = run_mode(suite, cluster, mode, directory=directory, tests=ids)
    found = frozenset(name for name in names if again.get(name) == PASSED)
    for name in sorted(found):
        say(f"{mode}: {name} failed once and passed alone")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when the proxy loses a test that nobody explained."""
    parser = argparse.ArgumentParser(prog="tests.s3tests.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--checkout", default="", help="the tests' source; fetched into .cache when not given")
    parser.add_argument("--python", default="", help="one that has their libraries; made in .cache when not given")
    parser.add_argument("--cluster", default="", help="the directory of a running RGW cluster; else one is started")
    parser.add_argument("--out", default="", help="where logs and results go (a new temporary directory)")
    parser.add_argument("--tests", nargs="+", default=[], help="these alone, such as MODULE.py::NAME")
    options = parser.parse_args(arguments)
    directory = Path(options.out or tempfile.mkdtemp(prefix="s3pool-s3tests-")).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if shutil.which("radosgw") is None and not options.cluster:
        parser.error("radosgw is not installed")
    suite = prepare(options.checkout, options.python, cache=CACHE)
    with ExitStack() as stack:
        cluster = (
            RgwCluster.attach(options.cluster) if options.cluster else stack.enter_context(RgwCluster.create(NODES))
        )
        create_users(cluster)
        complaints = compare(suite, cluster, directory=directory, tests=options.tests)
    for complaint in complaints:
        say(complaint)
    say(f"logs and results are in {directory}")
    return 1 if complaints else 0


if __name__ == "__main__":
    raise SystemExit(main())

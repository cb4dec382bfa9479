"""Run clients' own functional suites on real servers, directly and through the proxy, and compare.

``make clients-suites`` runs those of minio-go, mc, s5cmd and minio-py on RGW, MinIO and versitygw, which it
starts; it takes an hour. What passes directly must pass through the proxy, but for what
differences.txt lists with a reason. As a command::

    python -m tests.clients.functional [--suites mc s5cmd] [--servers rgw] [--modes direct verify] [--out DIR]

With ``--out`` results are kept: a later command takes those that are there, and runs the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from s3pool.model import Credentials
from tests.clients.suites import SUITES, Outcomes, Place, Suite
from tests.s3tests.run import CACHE, DIRECT, judge, lost, say
from tests.s3tests.suite import PASSED, read_differences
from tests.support.proxying import RunningProxy
from tests.support.real_servers import Deployment, MinioCluster, VersityCluster
from tests.support.rgw import RgwCluster

HERE = Path(__file__).parent
MODES = ("verify", "passthrough")
READ_TIMEOUT_S = 60.0
AT_TIMES = "at times:"  # a reason of differences.txt that begins so is of one that some runs do not meet
SERVERS: dict[str, Callable[[], RgwCluster | Deployment]] = {
    "rgw": lambda: RgwCluster.create(3),
    "minio": MinioCluster,
    "versitygw": lambda: VersityCluster(2),
}


@contextmanager
def place(server: str, mode: str, directory: Path) -> Iterator[Place]:
    """Start a server, and a proxy before its nodes unless they are to be met directly."""
    with SERVERS[server]() as store:
        keys = Credentials(store.access_key, store.secret_key)
        if mode == DIRECT:
            yield Place(store.endpoints[0], keys, directory)
            return
        settings = {"auth": mode} if mode == "passthrough" else {"anonymous": "pass", "sigv2": "on"}
        with RunningProxy(store.endpoints, credentials=keys, read_timeout_s=READ_TIMEOUT_S, **settings) as proxy:
            yield Place(proxy.url, keys, directory)


def run(suite: Suite, server: str, mode: str, kept: Path, *, only: Collection[str] = ()) -> Outcomes:
    """Run a suite once on a server of its own, or take what an earlier run kept."""
    if kept.exists() and not only:
        found: Outcomes = json.loads(kept.read_text())
        return found
    with tempfile.TemporaryDirectory() as directory, place(server, mode, Path(directory)) as where:
        found = suite.run(where, only)
    if not only:
        kept.write_text(json.dumps(found, indent=1))
    return found


def compare(name: str, server: str, modes: Sequence[str], directory: Path) -> list[str]:
    """Run one suite on one server on each way, print a line for each, and return the complaints."""
    suite, complaints = SUITES[name](CACHE), []
    ways: dict[str, Outcomes] = {}
    for mode in modes:
        ways[mode] = run(suite, server, mode, directory / f"{name}-{server}-{mode}.json")
        counts = Counter(outcome.partition(":")[0] for outcome in ways[mode].values())
        say(f"{name:<10}{server:<11}{mode:<13}" + ", ".join(f"{counts[word]} {word}" for word in sorted(counts)))
    listed = read_differences(HERE / "differences.txt")
    for mode in [mode for mode in modes if mode != DIRECT]:
        names = lost(ways[DIRECT], ways[mode])
        for way, is_chance in ((mode, "passed alone"), (DIRECT, "fails directly, too, when run alone")):
            again = run(suite, server, way, directory / "again", only=names) if names else {}
            found = [test for test in names if (again.get(test) == PASSED) == (way == mode)]
            names = [test for test in names if test not in found]
            for test in found:
                say(f"  {mode}: {test} failed once, and {is_chance}")
        expected = frozenset(
            test
            for (way, test), reason in listed.items()
            if way == f"{name}/{server}/{mode}" and (test in names or not reason.startswith(AT_TIMES))
        )
        complaints += judge(f"{name} on {server}, {mode}", names, expected, ran=ways[DIRECT])
        tell_of_others(mode, ways[DIRECT], ways[mode])
    return complaints


def tell_of_others(mode: str, direct: Outcomes, proxied: Outcomes) -> None:
    """Print what works through the proxy alone, and what fails on both ways, but in other words."""
    for test, outcome in direct.items():
        through = proxied.get(test, "missing")
        if outcome in (PASSED, through):
            continue
        verdict = "passes through the proxy alone" if through == PASSED else f"fails otherwise: {through}"
        say(f"  {mode}: {test} {verdict}\n    directly {outcome}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when something passes directly and not through the proxy, unexplained."""
    parser = argparse.ArgumentParser(prog="tests.clients.functional", description=__doc__.partition("\n")[0])
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--modes", nargs="+", choices=[DIRECT, *MODES], default=[DIRECT, *MODES])
    parser.add_argument("--out", default="", help="where results are kept (a new temporary directory)")
    options = parser.parse_args(arguments)
    directory = Path(options.out or tempfile.mkdtemp(prefix="s3pool-suites-")).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    modes = [DIRECT, *(mode for mode in options.modes if mode != DIRECT)]
    complaints = []
    for server in options.servers:
        for name in options.suites:
            complaints += compare(name, server, modes, directory)
    for complaint in complaints:
        say(complaint)
    say(f"results are in {directory}")
    return 1 if complaints else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Runs one program against a store, step by step, and asks the oracle after each."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tests.resilience.chaos.backends import Backend, FakeBackend
from tests.resilience.chaos.effects import OTHER, Command, expect
from tests.resilience.chaos.faults import PROBES, Rule
from tests.resilience.chaos.http1 import Request
from tests.resilience.chaos.oracle import Case, Circumstances, Violation, judge, judge_rerun
from tests.resilience.chaos.programs import Program, is_of_one_node
from tests.resilience.chaos.runner import ProxyProcess, Run, Runner
from tests.resilience.chaos.worlds import LOCAL, Contents, Digest, Disk, Place, Planted, State, digest_of

STOPPED_S = 0.7
BOUND_S = 90.0
SETTINGS = {"LB_REQUEST_TIMEOUT": "2", "POOL_CONNECT_TIMEOUT": "1", "LB_MAX_RETRIES": "4"}
PROXY_SETTINGS = {**SETTINGS, "LB_HEALTH_CHECK_INTERVAL": "1"}


@dataclass
class Report:
    """What came of a program."""

    program: Program
    violations: list[tuple[int, bool, Violation]] = field(default_factory=list)  # step, whether in the rerun
    commands: int = 0
    hits: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)  # of each step's first run

    def text(self) -> str:
        """Return what a person needs to look into it."""
        lines = [self.program.transcript(), ""]
        for number, again, violation in self.violations:
            lines.append(f"VIOLATION in step {number}{' (rerun)' if again else ''}: {violation}")
        return "\n".join([*lines, *self.evidence])


class Engine:
    """A store, a directory and a runner, used by one program after another."""

    def __init__(self, backend: Backend, root: Path, *, program: Sequence[str] = ()) -> None:
        self._backend = backend
        self._root = root
        self._program = program
        self._number = 0
        self._proxy: ProxyProcess | None = None
        # A second store with the same names of buckets, whatever the first one is.
        self._other = FakeBackend(2, backend.plan)

    def close(self) -> None:
        """End the second store and the proxy."""
        self._other.stop()
        if self._proxy is not None:
            self._proxy.stop()

    def _proxy_url(self) -> str:
        if self._proxy is None:
            environ = {**self._backend.environment, **PROXY_SETTINGS}
            self._proxy = ProxyProcess(self._root / "proxy", environ)
        return self._proxy.url

    def run(self, program: Program) -> Report:
        """Run a program until its end, or its first violation."""
        self._number += 1
        environ = {"S3_POOL": self._proxy_url(), "LB_REQUEST_TIMEOUT": "10"} if program.proxied else {}
        stores = (self._backend, self._other)
        world = World(stores, self._root / f"w{self._number}", program, environ=environ, command=self._program)
        report = Report(program)
        try:
            for number in range(len(program.steps)):
                world.step(number, report)
                if report.violations:
                    break
        finally:
            world.close()
        return report


class World:
    """One program's own directory and buckets."""

    def __init__(
        self,
        stores: tuple[Backend, FakeBackend],
        root: Path,
        program: Program,
        *,
        environ: Mapping[str, str],
        command: Sequence[str],
    ) -> None:
        backend, self._other = stores
        self._backend = backend
        self._program = program
        self._contents = Contents(program.seed)
        self._disk = Disk(root / "work")
        self._home = root / "home"
        self._home.mkdir(parents=True)
        self._known_temporary: set[str] = set()
        self._write_config()
        self._environ = {**backend.environment, **SETTINGS, **environ}
        self._command = command
        self._runner = Runner(self._home, self._disk.root, self._environ, program=command)
        self._rival: Run | None = None
        self._competing = threading.Lock()  # held while a second command runs
        self._written: dict[Place, list[Digest | None]] = {}
        self._signalled = ""
        self._calm()
        backend.reset(program.buckets)
        self._other.reset(dict.fromkeys(program.buckets, False))
        if isinstance(backend, FakeBackend):
            backend.page_keys(program.page_keys)

    def close(self) -> None:
        """Remove the directory."""
        self._calm()
        self._runner.stop()
        shutil.rmtree(self._home.parent, ignore_errors=True)

    def _calm(self) -> None:
        self._backend.calm()
        self._other.calm()

    def step(self, number: int, report: Report) -> None:
        """Do one step: plant, run, judge, run again in peace."""
        step = self._program.steps[number]
        self._backend.have(self._program.buckets)
        for planted in step.planted:
            self._plant(planted)
        before = self._read()
        first = self._attempt(step.command, before, step.rules, number)
        report.commands += 1
        report.cases.append(first)
        report.hits += self._backend.plan.hits
        self._note(report, number, judge(first), first, again=False)
        if report.violations or not (step.rerun and self._is_unfinished(first)):
            return
        settled = self._read()
        again = self._attempt(step.command, settled, (), number)
        report.commands += 1
        found = judge_rerun(again) if again.expected.converges else judge(again)
        self._note(report, number, found, again, again=True)

    @staticmethod
    def _is_unfinished(case: Case) -> bool:
        return not case.around.is_calm and case.run.code != 0

    def _attempt(self, command: Command, before: State, rules: tuple[Rule, ...], number: int) -> Case:
        expected = expect(command, before, self._contents)
        stdin = self._contents.make(command.stdin_label, command.stdin_size) if command.stdin_label else b""
        self._written, self._signalled = {}, ""
        self._rival = None
        hooks = {"writer": self._write, "signal": self._signal, "rival": partial(self._compete, command)}
        self._backend.plan.begin(rules, hooks)
        run = self._runner(command.argv(), stdin=stdin, seed=self._program.seed + number, bound_s=BOUND_S)
        self._calm()
        with self._competing:
            pass
        hits = self._backend.plan.hits
        around = Circumstances(
            faulted=any(not hit.startswith(("writer", "signal", "rival")) for hit in hits),
            must_succeed=is_of_one_node(rules),
            signalled=self._signalled,
            written=dict(self._written),
            rival=self._rival,
            bound_s=BOUND_S,
        )
        after = self._read()
        return Case(command, before, after, expected, run, around, self._contents, secrets=(self._backend.secret_key,))

    def _note(self, report: Report, number: int, found: list[Violation], case: Case, *, again: bool) -> None:
        report.violations += [(number + 1, again, violation) for violation in found]
        if found:
            report.evidence += evidence(case.run, self._backend.plan.log, self._backend.plan.hits)

    # -- the world ---------------------------------------------------------------------------

    def _write_config(self) -> None:
        directory = self._home / ".s3pool"
        directory.mkdir()
        text = "default_profile: main\nprofiles:\n"
        main = ("main", self._backend, "127.0.0.1")
        for name, store, host in (main, ("alias", self._backend, "localhost"), ("other", self._other, "127.0.0.1")):
            keys = store.environment
            text += f"  {name}:\n    access_key: {keys['AWS_ACCESS_KEY_ID']}\n"
            text += f"    secret_key: {keys['AWS_SECRET_ACCESS_KEY']}\n    endpoints:\n"
            text += "".join(f"      - {relay.url(host)}\n" for relay in store.relays)
        (directory / "config.yaml").write_text(text)
        (directory / "config.yaml").chmod(0o600)

    def _plant(self, planted: Planted) -> None:
        bucket, key = planted.place
        body = self._contents.make(planted.label, planted.size) if planted.label else None
        self._put(bucket, key, body, time.time() - planted.age_s, planted.age_s)

    def _put(self, bucket: str, key: str, body: bytes | None, mtime: float, age_s: float) -> None:
        if bucket != LOCAL:
            store: Backend = self._other if bucket.startswith(OTHER) else self._backend
            bucket = bucket.removeprefix(OTHER)
            if body is None:
                store.delete(bucket, key)
            else:
                store.put(bucket, key, body, age_s=age_s)
        elif body is None:
            self._disk.remove(key)
        elif self._disk.put(key, body, mtime=mtime):
            self._known_temporary.add(os.path.normpath(key))

    def _read(self) -> State:
        state, other = State(), State()
        self._backend.read(state)
        self._other.read(other)
        state.uploads += [f"{OTHER}{upload}" for upload in other.uploads]
        state.digests |= {(OTHER + bucket, key): digest for (bucket, key), digest in other.digests.items()}
        state.times |= {(OTHER + bucket, key): mtime for (bucket, key), mtime in other.times.items()}
        self._disk.read(state, self._known_temporary)
        return state

    # -- what goes wrong ---------------------------------------------------------------------

    def _write(self, rule: Rule, _: Request) -> None:
        """Be the other client."""
        bucket, key = rule.args["place"]
        label = rule.args["label"]
        body = self._contents.make(label, rule.args["size"]) if label else None
        mtime = time.time()
        if bucket == LOCAL and rule.args.get("keep_mtime"):
            with suppress(OSError):
                mtime = os.stat(self._disk.path(key)).st_mtime
        self._put(bucket, key, body, mtime, 0.0)
        self._written.setdefault((bucket, key), []).append(None if body is None else digest_of(body))

    def _compete(self, command: Command, rule: Rule, _: Request) -> None:
        """Run the same command from its beginning to its end while the first one waits for an answer."""
        with self._competing:
            self._rival = self._run_rival(command, apart=rule.args["apart"])

    def _run_rival(self, command: Command, *, apart: bool) -> Run:
        home = self._home.parent / "rival" if apart else self._home
        shutil.copytree(self._home / ".s3pool", home / ".s3pool", dirs_exist_ok=True)
        runner = Runner(home, self._disk.root, self._environ, program=self._command)
        stdin = self._contents.make(command.stdin_label, command.stdin_size) if command.stdin_label else b""
        try:
            return runner(command.argv(), stdin=stdin, seed=self._program.seed + 99, bound_s=BOUND_S)
        finally:
            runner.stop()

    def _signal(self, rule: Rule, _: Request) -> None:
        name = rule.args["name"]
        self._signalled = self._signalled or name
        self._runner.send(getattr(signal, f"SIG{name}"))
        if name == "STOP":
            timer = threading.Timer(STOPPED_S, self._runner.send, [signal.SIGCONT])
            timer.daemon = True
            timer.start()


def evidence(run: Run, log: list[str], hits: list[str]) -> list[str]:
    """Return what a command said and asked for."""
    lines = [f"exit code {run.code} after {run.seconds:.2f} s"]
    lines += [f"  stdout: {line}" for line in run.stdout[:3000].decode("utf-8", "replace").splitlines()[:25]]
    lines += [f"  stderr: {line}" for line in run.err[-4000:].splitlines()[-25:]]
    lines += [f"  fault: {hit!r}" for hit in hits[:10]]
    asked = [line for line in log if not line.startswith(PROBES)]
    return [*lines, *(f"  request: {line!r}" for line in asked[:60])]


def shrink(engine: Engine, report: Report, *, attempts: int = 25) -> Report:
    """Return the report of a smaller program that breaks the same rule."""
    rule = report.violations[0][2].rule
    best = report
    left = attempts
    shrunk = True
    while shrunk and left > 0:
        shrunk = False
        for candidate in _smaller(best.program):
            left -= 1
            if left < 0:
                break
            tried = engine.run(candidate)
            if any(violation.rule == rule for _, _, violation in tried.violations):
                best, shrunk = tried, True
                break
    return best


def _smaller(program: Program) -> list[Program]:
    """Return programs with a step, a fault, a planted thing or a flag less."""
    steps = program.steps
    fewer = [replace(program, steps=steps[:at] + steps[at + 1 :]) for at in range(len(steps)) if len(steps) > 1]
    for at, step in enumerate(steps):
        smaller = [replace(step, rules=step.rules[:i] + step.rules[i + 1 :]) for i in range(len(step.rules))]
        half = len(step.planted) // 2
        cuts = [step.planted[:half], step.planted[half:]] if half else []
        cuts += [step.planted[:i] + step.planted[i + 1 :] for i in range(len(step.planted))]
        smaller += [replace(step, planted=planted) for planted in cuts]
        fewer += [replace(program, steps=(*steps[:at], each, *steps[at + 1 :])) for each in smaller]
    return fewer

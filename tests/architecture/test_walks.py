"""The walks in CONTRIBUTING: what a stranger reads first is what runs."""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import s3pool
from s3pool.cli.main import main
from s3pool.s3.requests import MAX_KEYS
from tests.support.proxying import RunningProxy
from tests.support.scripted import OK, ScriptedServer

PACKAGE = Path(s3pool.__file__).parent
CONTRIBUTING = PACKAGE.parent / ".github" / "CONTRIBUTING.md"
MOST = 18
# Once for what arrives together, more often when an answer is late.
SOMETIMES = {"pool/balancer", "pool/health", "pool/node", "pool/window"}
REQUESTS = 20  # the first ones open connections, and tell who the node is; a late answer takes another way
STARTED_BY_SERVER = "proxy/server"  # it accepted the connection, and is not asked again
NODE = OK.replace(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nServer: MinIO\r\n")


def test_proxied_read_runs_in_the_modules_of_its_walk() -> None:
    """A module more on the way of each request is one more to read, and to pay for."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and threading.current_thread().name == "s3pool-loop":
            seen.update({frame.f_code.co_filename} if str(PACKAGE) in frame.f_code.co_filename else ())

    passes: list[set[str]] = []
    threading.setprofile(note)
    try:
        with (
            ScriptedServer((NODE,)) as node,
            RunningProxy([str(node.endpoint)], probe="tcp") as proxy,
            proxy.connect() as client,
        ):
            for _ in range(REQUESTS):
                seen.clear()
                client.sendall(proxy.signed("GET", "/b/key"))
                while not client.recv(4096).endswith(b"ok"):
                    continue
                passes.append(set(seen))
    finally:
        threading.setprofile(None)
    walk = told_walk("**A GET through")
    ran = [{str(Path(name).relative_to(PACKAGE).with_suffix("")) for name in names} for names in passes]
    assert len(walk) <= MOST
    assert walk - {STARTED_BY_SERVER} in ran


def told_walk(beginning: str) -> set[str]:
    """Return the modules that a walk of CONTRIBUTING names, each by its path."""
    text = CONTRIBUTING.read_text().partition(beginning)[2].partition("\n\n")[0]
    named = re.findall(r"\b(?:cli/commands|cli|proxy|pool|s3|transfer)/[a-z0-9_]+", text)
    return {name for name in named if (PACKAGE / f"{name}.py").exists()}


def calls_of(act: Callable[[], object]) -> Counter[str]:
    """Return how often each module of a room was entered."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
            calls[frame.f_code.co_filename] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    names = {name: str(Path(name).relative_to(PACKAGE).with_suffix("")) for name in calls}
    return Counter({names[name]: count for name, count in calls.items() if "/" in names[name]})


@pytest.mark.parametrize(
    ("beginning", "words", "keys", "files", "most"),
    [
        ("**A page of", ("ls", "s3/bucket/{}/"), 2000, 0, 23),
        ("**A small file in", ("cp", "-r", "{}", "s3/bucket/p"), 0, 50, 26),
    ],
)
def test_commands_run_in_the_modules_of_their_walks(
    fake_s3: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    beginning: str,
    words: tuple[str, ...],
    keys: int,
    files: int,
    most: int,
) -> None:
    """What is entered more often where there is more to do is on the way of each page, or each file."""
    fake = fake_s3(2)
    for name, factor in (("less", 1), ("more", 3)):
        (tmp_path / name).mkdir()
        for number in range(factor * files):
            (tmp_path / name / f"{number}").touch()
        for number in range(factor * keys):
            fake.store.add("bucket", f"{name}/{number:06}", b"")
    fake.store.add("bucket", "other", b"")
    monkeypatch.chdir(tmp_path)

    _, less, more = (  # the first run loads the modules
        calls_of(lambda: main([word.format(name) for word in words], environ=fake.environment))  # noqa: B023
        for name in ("less", "less", "more")
    )

    passes = files or keys // MAX_KEYS
    on_each = {module for module in more if more[module] >= 3 * passes}  # a late answer only adds to them
    grown = {module for module in more if more[module] - less[module] >= 2 * passes}
    walk = told_walk(beginning)
    assert walk - SOMETIMES <= on_each
    assert grown <= walk | SOMETIMES
    assert len(walk) <= most

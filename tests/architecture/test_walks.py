"""The walks in CONTRIBUTING: what a stranger reads first is what runs."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import FrameType

import s3pool
from tests.support.proxying import RunningProxy
from tests.support.scripted import OK, ScriptedServer

PACKAGE = Path(s3pool.__file__).parent
CONTRIBUTING = PACKAGE.parent / ".github" / "CONTRIBUTING.md"
MOST = 18
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
    text = CONTRIBUTING.read_text().partition("**A GET through")[2].partition("\n\n")[0]
    walk = {*re.findall(r"\b(?:proxy|pool|s3)/[a-z0-9_]+", text)}
    ran = [{str(Path(name).relative_to(PACKAGE).with_suffix("")) for name in names} for names in passes]
    assert len(walk) <= MOST
    assert walk - {STARTED_BY_SERVER} in ran

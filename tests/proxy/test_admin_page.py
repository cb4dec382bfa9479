"""The admin page in a browser: what people see at both widths, and what its buttons do."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from s3pool.proxy.metrics import PoolHistory
from s3pool.proxy.supervisor import live
from tests.support import browser
from tests.support.browser import Browser
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import RunningProxy

in_chromium = pytest.mark.skipif(not browser.PROGRAM, reason="there is no Chromium here")
TOKEN = "a secret of many letters"
STATES = "[...document.querySelectorAll('td.state')].map(cell => cell.innerText.trim().split(/\\s+/).pop()).join()"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def keep(page: Browser, name: str) -> None:
    """Write a picture where S3POOL_SCREENSHOTS says, for people to look at."""
    if directory := os.environ.get("S3POOL_SCREENSHOTS"):
        page.screenshot(Path(directory) / f"{name}.png")


class Turns:
    """Signals that do not come: each wait is ten seconds and one request, and the fourth is the end."""

    def __init__(self, proxy: RunningProxy) -> None:
        self.now, self.stops, self.reloads = 0.0, 0, 0
        self._proxy = proxy

    def wait(self) -> None:
        """Let ten seconds pass, and one request be answered and counted."""
        self.now += 10.0
        before = self._proxy.stats()["requests"]["by_op"]
        self._proxy.ask("GET", "/b/there")
        while self._proxy.stats()["requests"]["by_op"] == before:
            time.sleep(0.01)
        self.stops = int(self.now >= 40.0)


def test_life_of_the_process_keeps_the_history(proxy: RunningProxy) -> None:
    """The thread that waits for signals takes the samples, and no request does."""
    turns = Turns(proxy)
    proxy.proxy.history = history = PoolHistory(lambda: turns.now)

    live(proxy.proxy, turns)  # type: ignore[arg-type]

    assert [1.0] * 3 == [value for _, value in history.points("", lambda grown, _: grown[0])]


@in_chromium
def test_node_is_drained_and_taken_back_with_the_mouse(fake: FakeS3, proxy: RunningProxy, tmp_path: Path) -> None:
    """The page itself shows the new state, without a reload, at the width of a telephone too; nothing is refused."""
    url = f"http://{proxy.proxy.admin_address}/"
    with Browser(tmp_path) as page:
        for width in (1200, 420):
            page.open(url, width=width)
            page.wait_for(STATES, is_met=lambda value: value == "up,up,up")

            page.click("#node-1")
            page.wait_for(STATES, is_met=lambda value: value == "up,drained,up")
            assert [False, True, False] == [node["drained"] for node in proxy.stats()["endpoints"]]
            assert 0 == page.evaluate(OVERFLOW)
            keep(page, f"admin-{width}")

            page.click("#node-1")
            page.wait_for(STATES, is_met=lambda value: value == "up,up,up")

        proxy.proxy.set_drained(fake.endpoints[2], drained=True)  # by somebody else
        page.wait_for(STATES, is_met=lambda value: value == "up,up,drained")
        assert [] == page.complaints()


@in_chromium
def test_button_asks_for_the_token(fake: FakeS3, tmp_path: Path) -> None:
    """A wrong one changes nothing and says so on the page; Enter in its field drains no node."""
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    (tmp_path / "profile").mkdir()
    with RunningProxy(fake.endpoints, admin_token_file=str(secret)) as proxy, Browser(tmp_path / "profile") as page:
        page.open(f"http://{proxy.proxy.admin_address}/")
        page.click("[name=token]")
        page.type("a wrong one, and long")
        page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r")
        page.click("#node-0")
        page.wait_for("document.querySelector('[role=alert]').innerText", is_met=lambda text: "token" in (text or ""))
        assert "up,up,up" == page.evaluate(STATES)

        page.click("[name=token]")
        page.type(TOKEN)
        page.click("#node-0")
        page.wait_for(STATES, is_met=lambda value: value == "drained,up,up")

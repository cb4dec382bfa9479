"""A headless Chromium that a test can look through and click in, over the DevTools pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, PROGRAMS)), "")
TIMEOUT_S = 60.0
PAGE_IS_LEAVING = -32000  # the page was asked while it gave way to the next one
COMMANDS_FD, ANSWERS_FD = 3, 4  # what --remote-debugging-pipe reads and writes


class Browser:
    """One window; a context that ends it."""

    def __init__(self, profile: Path) -> None:
        commands_end, self._commands = os.pipe()
        self._answers, answers_end = os.pipe()
        # The shell puts the ends where Chromium looks for them, whatever their numbers are here.
        script = f'exec "$0" "$@" {COMMANDS_FD}<&{commands_end} {ANSWERS_FD}>&{answers_end}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", script, PROGRAM, *flags, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(commands_end, answers_end),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_end)
        os.close(answers_end)
        self._received = b""
        self._number = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command and return its result; events before it are kept."""
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + TIMEOUT_S
        while True:
            block, end, rest = self._received.partition(b"\0")
            if not end:
                ready, _, _ = select.select([self._answers], [], [], max(until - time.monotonic(), 0))
                piece = os.read(self._answers, 1 << 16) if ready else b""
                assert piece, f"Chromium does not answer {method}"
                self._received += piece
                continue
            self._received = rest
            answer = json.loads(block)
            if answer.get("id") != self._number:
                self.events.append(answer)
                continue
            if method == "Runtime.evaluate" and answer.get("error", {}).get("code") == PAGE_IS_LEAVING:
                return {"result": {}}
            assert "error" not in answer, answer
            return dict(answer["result"])

    def open(self, url: str, *, width: int = 1200, height: int = 900) -> None:
        """Show a page in a window of that size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState == 'complete' && location.href != 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def wait_for(self, expression: str, *, is_met: Callable[[Any], bool] = bool) -> Any:
        """Return the value of an expression once it is as wanted."""
        until = time.monotonic() + TIMEOUT_S
        while True:
            value = self.evaluate(expression)
            if is_met(value):
                return value
            assert time.monotonic() < until, f"{expression} stays {value!r}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of an element."""
        middle = (
            f"(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        x, y = self.evaluate(middle)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """Write what the whole page looks like."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """Return what the console shows of errors: of scripts, and of what the page's policy refuses."""
        entries = [event["params"]["entry"] for event in self.events if event.get("method") == "Log.entryAdded"]
        thrown = [event["params"] for event in self.events if event.get("method") == "Runtime.exceptionThrown"]
        return [entry["text"] for entry in entries if entry["level"] == "error"] + [str(params) for params in thrown]

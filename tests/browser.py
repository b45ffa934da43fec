"""A headless Chromium, driven over the Chrome DevTools Protocol: loads a page with a cookie and inspects it."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from websockets.sync.client import ClientConnection, connect

__all__ = ["Page", "chromium_or_skip", "open_page", "screenshot"]

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_START_SECONDS: Final = 30.0
COOKIE: Final = "wheeltapper_session"


def chromium_or_skip() -> str:
    """The path of Chromium; the test is skipped where it is not installed."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


class Page:
    """One tab of the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self.problems: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result. Errors that the page logs meanwhile are kept in ``problems``."""
        number = next(self._ids)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=30))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"):
                if message["params"].get("entry", {}).get("level") in ("verbose", "info"):
                    continue
                self.problems.append(json.dumps(message["params"])[:600])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:600])
        return answer["result"].get("value")

    def wait_for(self, expression: str, timeout_seconds: float = 15.0) -> Any:
        """Wait until the JavaScript ``expression`` is true."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                value = self.evaluate(expression)
            except RuntimeError as error:  # another page came meanwhile
                if "navigated" not in str(error):
                    raise
                value = None
            if value:
                return value
            if time.monotonic() > deadline:
                raise TimeoutError(f"never true: {expression}; problems: {self.problems}")
            time.sleep(0.05)

    def open(self, url: str) -> None:
        """Open ``url`` and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href !== 'about:blank' && document.readyState === 'complete' && {json.dumps(url)}")

    def set_cookie(self, url: str, value: str) -> None:
        """Set the session cookie of the fleet's page for the host of ``url``."""
        host = urlsplit(url).hostname or ""
        self.call(
            "Network.setCookie", name=COOKIE, value=value, domain=host, path="/", httpOnly=True, sameSite="Strict"
        )

    def emulate(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        """Set the size of the window in CSS pixels, and the colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def png(self, target: Path) -> None:
        """Write a screenshot to ``target``."""
        shot = self.call("Page.captureScreenshot", format="png")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def open_page() -> Iterator[Page]:
    """A browser with an empty profile and one empty tab; it is stopped when the block ends."""
    binary = chromium_or_skip()
    with tempfile.TemporaryDirectory(prefix="wheeltapper-chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [binary, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            # No pings and no limit of the queue: the test may look away for a while.
            with connect(
                _tab(Path(profile), process), max_size=None, max_queue=None, ping_interval=None, proxy=None
            ) as connection:
                page = Page(connection)
                for domain in ("Page", "Runtime", "Network", "Log"):
                    page.call(f"{domain}.enable")
                yield page
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _tab(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """The debugging address of the browser's first tab."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            port = (profile / "DevToolsActivePort").read_text().split()[0]
            with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        except (OSError, IndexError, ValueError):
            pass
        time.sleep(0.05)
    raise TimeoutError("Chromium did not start")


def screenshot(
    url: str, cookie: str, out_png: Path, *, width: int = 1280, height: int = 800, dark: bool = False
) -> None:
    """Take a screenshot of the page at ``url`` when it is live; ``cookie`` is the value of the session cookie."""
    with open_page() as page:
        page.emulate(width, height, dark=dark)
        page.set_cookie(url, cookie)
        page.open(url)
        page.wait_for("document.getElementById('live')?.dataset.state === 'live'")
        page.wait_for("Number(document.body.dataset.refreshed || 0) > 0")
        page.png(out_png)

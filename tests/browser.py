"""A headless Chromium, driven by its DevTools protocol: enough to open a page, type, move the mouse and look."""

import asyncio
import base64
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--hide-scrollbars",
        "--remote-debugging-port=0",
    ),
    "--disable-dev-shm-usage",
)
LARGEST = 256 << 20  # bytes of a message: a screenshot


class Page:
    """One tab."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: WebSocketClientConnection):
        self._loop, self._connection, self._numbers = loop, connection, itertools.count()
        self.requests: list[str] = []  # addresses that were asked for, of files and elsewhere

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A method of the protocol; returns its result."""
        return self._loop.run_until_complete(self._call(method, params))

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._connection.write_message(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            text = await self._connection.read_message()
            assert text is not None, "the browser ended"
            message = json.loads(text)
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def open(self, url: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, promises awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"not within {seconds} s: {expression}"
            time.sleep(0.1)

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """The size of the window, and whether the reader prefers dark pages."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def type(self, text: str) -> None:
        """Into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def move(self, x: float, y: float) -> None:
        """The mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """The left button."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """What is in the window, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A browser with one tab; it ends with the block.

    Args:
      folder: for its profile and what it says.
    """
    assert CHROMIUM is not None
    said = folder / "stderr"
    with said.open("w") as stderr:
        process = subprocess.Popen([CHROMIUM, *OPTIONS, f"--user-data-dir={folder}", "about:blank"], stderr=stderr)
    loop = asyncio.new_event_loop()
    try:
        yield loop.run_until_complete(_connected(loop, said))
    finally:
        process.kill()
        process.wait()
        loop.close()


async def _connected(loop: asyncio.AbstractEventLoop, said: Path) -> Page:
    deadline = time.monotonic() + 60
    while not (found := re.search(r"ws://([\d.]+:\d+)/", said.read_text())):
        assert time.monotonic() < deadline, said.read_text()
        await asyncio.sleep(0.1)
    reply = await AsyncHTTPClient().fetch(f"http://{found[1]}/json")
    (target,) = [item for item in json.loads(reply.body) if item["type"] == "page"]
    page = Page(loop, await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=LARGEST))
    for domain in ("Page", "Runtime", "Network"):
        await page._call(f"{domain}.enable", {})
    return page

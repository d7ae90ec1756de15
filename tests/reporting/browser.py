"""A real browser without a window: Chromium, spoken to by its devtools protocol over a websocket."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
from websockets.sync.client import connect
from websockets.sync.connection import Connection

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
_PATIENCE = 60.0


class RefusedError(Exception):
    """What the protocol was asked for, it did not do."""


class Tab:
    """One open page, and everything that it asked for and said."""

    def __init__(self, socket: Connection) -> None:
        """Listen to what the page in this tab does."""
        self._socket = socket
        self._number = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                if "error" in message:
                    raise RefusedError(message["error"])
                result: dict[str, Any] = message["result"]
                return result

    def open(self, page: Path, width: int, height: int = 900, dark: bool = False) -> None:
        """Open a file at a width in pixels, and wait until it is loaded."""
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("Page.loadEventFired")
        self.run("Promise.all([...document.images].filter((one) => one.src).map((one) => one.decode()))")

    def wait_for(self, event: str) -> None:
        """Return when the page has done something, by its name in the protocol."""
        while not any(known["method"] == event for known in self.events):
            self._receive()

    def run(self, program: str) -> Any:
        """Return what a piece of JavaScript gives in the page."""
        answer = self.call("Runtime.evaluate", expression=program, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, program: str) -> None:
        """Return when a piece of JavaScript gives true: what an event brings about comes a moment after it."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            with suppress(RefusedError):  # the page is just loading itself
                if self.run(program):
                    return
            time.sleep(0.02)
        raise AssertionError(f"never came true: {program}")

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        codes = {"Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13}
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Save what the tab shows as a PNG, or the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """What the page logged, and the errors that it did not catch."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event["params"])[:500] for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Every address that the page asked for."""
        asked = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in asked]

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(timeout=_PATIENCE))
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def open_browser(profile: Path) -> Iterator[Tab]:
    """Start Chromium with a profile of its own, and end it behind the block."""
    assert PROGRAM is not None, "no Chromium here"
    process = subprocess.Popen(
        [
            PROGRAM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(_address_of_tab(profile, process), max_size=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait()


def _address_of_tab(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """The websocket of the first tab; Chromium writes its port into the profile when it is up."""
    port_file = profile / "DevToolsActivePort"
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if port_file.is_file() and (lines := port_file.read_text().splitlines()):
            tabs = requests.get(f"http://127.0.0.1:{lines[0]}/json", timeout=_PATIENCE).json()
            for tab in tabs:
                if tab["type"] == "page":
                    return str(tab["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError("Chromium did not come up")

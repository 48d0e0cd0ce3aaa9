"""Debian's Chromium, headless, through its DevTools protocol: open a page, click, read what a person would see."""

import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
    "--window-size=1400,1400", "about:blank",
]  # fmt: skip


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    def open(self, address: str) -> None:
        self._call("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self) -> str:
        """What the page says, drawn text included."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def until_it_says(self, *words: str, seconds: float = 30) -> str:
        deadline = time.monotonic() + seconds
        while not all(word in self.text() for word in words):
            assert time.monotonic() < deadline, f"{words} not in:\n{self.text()}"
            time.sleep(0.2)
        return self.text()

    def click(self, label: str, seconds: float = 30) -> None:
        """Click the innermost visible element that says just `label`."""
        find = (
            "(() => { const all = [...document.querySelectorAll('body *')]"
            f".filter(e => e.innerText && e.innerText.trim() === {json.dumps(label)} && e.offsetParent);"
            " if (!all.length) return false; all[all.length - 1].click(); return true; })()"
        )
        deadline = time.monotonic() + seconds
        while not self.evaluate(find):
            assert time.monotonic() < deadline, f"nothing to click says {label!r}:\n{self.text()}"
            time.sleep(0.2)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=30))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result


@contextmanager
def browser() -> Iterator[Page]:
    """A page of a new browser with an empty profile."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, f"--user-data-dir={profile}", *_FLAGS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            told = Path(profile) / "DevToolsActivePort"
            deadline = time.monotonic() + 60
            while not told.exists() or "\n" not in told.read_text():
                assert time.monotonic() < deadline, "Chromium did not start"
                time.sleep(0.1)
            port = told.read_text().splitlines()[0]
            tabs = httpx.get(f"http://127.0.0.1:{port}/json", timeout=30).json()
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            with connect(address, max_size=None, proxy=None) as socket:
                yield Page(socket)
        finally:
            process.kill()
            process.wait()

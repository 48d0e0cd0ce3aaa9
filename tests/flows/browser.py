"""Debian's Chromium, headless, through its DevTools protocol: open a page, click, read what a person would see."""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.waiting import limit, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine: run `make browser`")
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
    "--window-size=1400,1400", "about:blank",
]  # fmt: skip


class Navigated(Exception):
    """The page was left for another one while the browser was asked about it."""


class Page:
    """One tab. `events` are what it told meanwhile, of the domains that were enabled by `listen`."""

    def __init__(self, socket: ClientConnection) -> None:
        self.events: list[dict[str, Any]] = []
        self._socket = socket
        self._numbers = itertools.count(1)

    def open(self, address: str) -> None:
        """Open `address` and wait until the document is loaded whole: a long one is parsed in pieces."""
        self._call("Page.navigate", url=address)
        wait_until(self._loaded, 30, lambda: f"{address} is not loaded:\n{self.text()}")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self) -> str:
        """What the page says, drawn text included."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def until_it_says(self, *words: str, seconds: float = 30) -> str:
        wait_until(
            lambda: all(word in self.text() for word in words), seconds, lambda: f"{words} not in:\n{self.text()}"
        )
        return self.text()

    def click(self, label: str, seconds: float = 30) -> None:
        """Click the innermost visible element that says just `label`."""
        find = (
            "(() => { const all = [...document.querySelectorAll('body *')]"
            f".filter(e => e.innerText && e.innerText.trim() === {json.dumps(label)} && e.offsetParent);"
            " if (!all.length) return false; all[all.length - 1].click(); return true; })()"
        )
        wait_until(
            lambda: self.evaluate(find), seconds, lambda: f"nothing to click is labelled {label!r}:\n{self.text()}"
        )

    def listen(self, *domains: str) -> None:
        """Have events of e.g. "Runtime", "Log", "Network" kept."""
        for domain in domains:
            self._call(f"{domain}.enable")

    def key(self, key: str) -> None:
        """Press and release a key that writes a character."""
        self._call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self._call("Input.insertText", text=text)

    def look(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Give the tab a size, in CSS pixels, and a colour scheme."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._call("Page.close")

    def _loaded(self) -> bool:
        try:
            return bool(self.evaluate("document.readyState === 'complete' && location.href !== 'about:blank'"))
        except Navigated:
            return False

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=limit(30)))
            if answer.get("id") == number:
                if "navigated" in answer.get("error", {}).get("message", ""):
                    raise Navigated(answer["error"]["message"])
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            if "method" in answer:
                self.events.append(answer)


class Browser:
    """A running Chromium."""

    def __init__(self, port: str, path: str, sockets: ExitStack) -> None:
        self._root = f"ws://127.0.0.1:{port}"
        self._sockets = sockets
        self._whole = Page(self._connect(path))

    def page(self) -> Page:
        """A tab of a profile of its own, as if on another computer: no storage is shared."""
        context = self._whole._call("Target.createBrowserContext")["browserContextId"]
        return self._tab({"browserContextId": context})

    @contextmanager
    def tab(self) -> Iterator[Page]:
        """As `page`, closed at the end."""
        page = self.page()
        yield page
        page.close()

    def beside(self, page: Page) -> Page:
        """Another tab of the same profile."""
        target = page._call("Target.getTargetInfo")["targetInfo"]
        return self._tab({"browserContextId": target["browserContextId"]})

    def _tab(self, context: dict[str, Any]) -> Page:
        target = self._whole._call("Target.createTarget", url="about:blank", **context)["targetId"]
        return Page(self._connect(f"/devtools/page/{target}"))

    def _connect(self, path: str) -> ClientConnection:
        socket = connect(
            self._root + path, max_size=None, max_queue=None, proxy=None, ping_interval=None, open_timeout=limit(30)
        )
        self._sockets.enter_context(socket)
        return socket


@contextmanager
def chromium() -> Iterator[Browser]:
    """A new browser with an empty profile."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, ExitStack() as sockets:
        process = subprocess.Popen(
            [CHROMIUM, f"--user-data-dir={profile}", *_FLAGS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            address = Path(profile) / "DevToolsActivePort"
            wait_until(lambda: address.exists() and "\n" in address.read_text(), 60, lambda: "Chromium did not start")
            port, path = address.read_text().splitlines()
            yield Browser(port, path, sockets)
        finally:
            process.kill()
            process.wait()


@contextmanager
def browser() -> Iterator[Page]:
    """A page of a new browser with an empty profile."""
    with chromium() as running:
        yield running.page()

"""A real browser, driven through the DevTools protocol.

``Browser`` runs Chromium without a screen; each ``Tab`` of it is a person's own: with
its own storage, its own size, its own network.  Waiting is for an expression to become
true in the page, never for time.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

DEADLINE = 20.0
"""Seconds until a page that does not become as expected fails the test."""

FLAGS = [
    "--headless=new",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
    # A name of this machine that is no loopback address to the browser, so that plain HTTP is not a secure context.
    "--host-resolver-rules=MAP plain.test 127.0.0.1",
    # The page may not be in front: its timers count as if it were.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
]

KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "Backspace": 8}
SHIFT = 8


class Browser:
    """Chromium.

    :param folder: for its profile.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert program, "no Chromium here: apt-get install chromium"
        # Its sandbox does not start for root.
        flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
        self._log = (folder / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        port = folder / "profile" / "DevToolsActivePort"
        late = time.monotonic() + DEADLINE
        while not (port.exists() and port.read_text().count("\n") == 1):
            assert self._process.poll() is None, "Chromium has ended"
            assert time.monotonic() < late, "Chromium does not start"
            time.sleep(0.02)
        number, path = port.read_text().splitlines()
        self._stack = contextlib.ExitStack()
        connecting = connect(f"ws://127.0.0.1:{number}{path}", max_size=None, compression=None)
        self._socket: ClientConnection = self._stack.enter_context(connecting)
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        self._stack.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def call(self, method: str, session: str = "", **params: Any) -> Any:
        """Call a method of the DevTools protocol; its result."""
        number = next(self._ids)
        target = {"sessionId": session} if session else {}
        self._socket.send(json.dumps({"id": number, "method": method, "params": params, **target}))
        while True:
            message = json.loads(self._socket.recv(DEADLINE))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def tab(self, url: str, width: int = 1024, height: int = 720, dark: bool = False) -> Tab:
        """A tab that shares nothing with the others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session, context)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.call(f"{domain}.enable")
        tab.resize(width, height)
        tab.look(dark)
        tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
        tab.open(url)
        return tab


class Tab:
    """A page."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self._context = context

    def call(self, method: str, **params: Any) -> Any:
        return self._browser.call(method, self._session, **params)

    # --- the window ---

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self) -> None:
        self.js("window.before = true")
        self.call("Page.reload")
        self.wait("!window.before && document.readyState === 'complete'")

    def close(self) -> None:
        """Close the tab, with what it has stored and the connections kept for it."""
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def look(self, dark: bool) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def offline(self, off: bool = True) -> None:
        """Cut the tab off from the network, its open connections included."""
        self.call(
            "Network.emulateNetworkConditions", offline=off, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """Errors on the console, among them what the security policy has stopped; and exceptions."""
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"])[:2000])
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
                found.append(json.dumps(params["args"])[:2000])
        return found

    # --- the page ---

    def js(self, expression: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def wait(self, expression: str, what: str = "") -> None:
        """Return when an expression is true, or a promise of that; ``what`` it means, if that is shorter."""
        late = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(AssertionError):
                if self.js(f"(async () => Boolean(await ({expression})))()"):
                    return
            assert time.monotonic() < late, f"not true: {what or expression}\n{self.text('body')[:1500]}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """The text one sees of the first element there is."""
        return str(self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def texts(self, selector: str) -> list[str]:
        found = self.js(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.innerText)")
        return [str(text) for text in found]

    def wait_text(self, text: str, selector: str = "body") -> None:
        """Something is to be seen."""
        self.wait(f"document.querySelector({json.dumps(selector)})?.innerText.includes({json.dumps(text)})")

    def count(self, selector: str) -> int:
        return int(self.js(f"document.querySelectorAll({json.dumps(selector)}).length"))

    # --- the person ---

    def _find(self, call: str) -> None:
        """Let ``found`` be what a function of ``FIND`` finds, once it finds something."""
        self.wait(f"(() => {{ {FIND} window.found = {call}; return found; }})()", call)

    def click(self, what: str, inside: str = "body") -> None:
        """Click what has a label or a text: a button, a link, a tab, a row; or what a selector finds."""
        self.press_on(what, inside)()

    def press_on(self, what: str, inside: str = "body") -> Callable[[], None]:
        """Press the mouse button there; returns what releases it, in the same place."""
        call = f"find({json.dumps(what)}, {json.dumps(inside)})"
        self.wait(f"(async () => {{ {FIND} window.found = {call}; return found && await {STILL} }})()", call)
        x, y = self.js("point")

        def mouse(kind: str) -> None:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

        mouse("mousePressed")
        return lambda: mouse("mouseReleased")

    def fill(self, label: str, text: str, inside: str = "body") -> None:
        """Write into the field with a label, in place of what is there."""
        self._find(f"field({json.dumps(label)}, {json.dumps(inside)})")
        self.js("found.focus(); found.select?.()")
        if text:
            self.type(text)
        else:
            self.press("Backspace")

    def type(self, text: str) -> None:
        """Type where the focus is."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, shift: bool = False) -> None:
        """Press a key that writes nothing by itself, but for Enter."""
        modifiers = SHIFT if shift else 0
        text = "\r" if key == "Enter" else ""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)


STILL = """(async () => {
  const middle = () => {
    const box = found.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  found.scrollIntoView({block: 'nearest'});
  window.point = middle();
  await new Promise((frame) => requestAnimationFrame(() => requestAnimationFrame(frame)));
  return point.join() === middle().join() && found.contains(document.elementFromPoint(...point));
})()"""
"""Whether what was found stays where it is, and nothing is above it: it is what a press on ``point`` meets."""

FIND = """
const visible = (e) => e.getClientRects().length > 0 && !e.disabled;
const root = (inside) => document.querySelector('dialog[open]:last-of-type') ?? document.querySelector(inside);
const find = (what, inside) => {
  const all = [...root(inside).querySelectorAll('button, a, [role=tab], label, summary')].filter(visible);
  const name = (e) => (e.getAttribute('aria-label') ?? e.innerText).trim();
  return all.find((e) => name(e) === what) ?? all.find((e) => name(e).split('\\n').includes(what))
    ?? (/[.#[]/.test(what) ? [...root(inside).querySelectorAll(what)].find(visible) : null);
};
const field = (label, inside) => {
  const labelled = [...root(inside).querySelectorAll('label')].find((e) => e.innerText.trim() === label && visible(e));
  return (labelled?.control ?? [...root(inside).querySelectorAll(`[aria-label="${CSS.escape(label)}"]`)].find(visible));
};
"""

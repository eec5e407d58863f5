"""A headless Chromium for tests, driven over its debugging pipe: messages, requests, pictures.

Debian's package `chromium` is enough: the pipe needs no other program and no port.
"""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "there is no chromium on PATH"
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

HANGS = 120  # seconds that only a browser that hangs takes
FLAGS = (
    *("--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1"),
)


class Browser:
    """One Chromium and one page in it."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        ours, theirs = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (ours[0], theirs[1])]

        def place():  # Chromium reads 3 and writes 4
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [PROGRAM, *FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"],
            preexec_fn=place, pass_fds=(3, 4), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "HOME": self._folder.name},
        )  # fmt: skip
        for end in (*ends, ours[0], theirs[1]):
            os.close(end)
        self._write, self._read = ours[1], theirs[0]
        self._waiting, self._numbers = b"", itertools.count(1)
        self._session, self._events = None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def close(self):
        """End the browser."""
        os.close(self._write)  # it ends when its pipe does
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        self._folder.cleanup()

    def _next(self):
        """Return the next message of the browser."""
        end = time.monotonic() + HANGS
        while b"\0" not in self._waiting:
            ready, _, _ = select.select([self._read], [], [], max(end - time.monotonic(), 0))
            got = os.read(self._read, 1 << 20) if ready else b""
            if not got:
                raise RuntimeError("chromium ended, or hangs")
            self._waiting += got
        message, _, self._waiting = self._waiting.partition(b"\0")
        return json.loads(message)

    def call(self, method, **parameters):
        """Return the answer of a method of the DevTools protocol; keep the events before it."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._events.append(answer)

    def open(self, path, *, width=1000, dark=False, media="screen", contrast=False):
        """Load a file in a window of `width`; return its console messages and its requests."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "forced-colors", "value": "active" if contrast else "none"},
        ]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        self._events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())
        self.run("new Promise(done => setTimeout(done, 50))")
        said, asked = [], []
        for event in self._events:
            match event.get("method"):
                case "Runtime.consoleAPICalled" | "Log.entryAdded" | "Runtime.exceptionThrown":
                    said.append(event["params"])
                case "Network.requestWillBeSent":
                    asked.append(event["params"]["request"]["url"])
        return said, asked

    def run(self, script):
        """Return the value of an expression of JavaScript; the page's policy does not stop it."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                           awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path):
        """Write the whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000)}
        clip["scale"] = 1
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path):
        """Write the page as it prints."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF")["data"]))

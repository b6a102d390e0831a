"""Headless Chromium driven over its debugging pipe: no driver, no further package."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One page of a headless Chromium; a context manager that ends the browser."""

    def __init__(self, profile: Path, width: int = 1500, height: int = 950):
        read_end, self._out = os.pipe()
        self._in, write_end = os.pipe()
        # Chromium reads commands at 3 and answers at 4, each ended by a zero byte.
        command = f'exec "$0" "$@" 3<&{read_end} 4>&{write_end}'
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ]
        self._browser = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, *flags, f"--user-data-dir={profile}", f"--window-size={width},{height}"],
            pass_fds=(read_end, write_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_end)
        os.close(write_end)
        self._number, self._rest, self._session = 0, b"", None
        self.events: list[dict[str, Any]] = []
        """What the browser told by itself, as requests and messages of the console, once their domain is enabled."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.command("Page.enable")

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        # The browser ends when its commands do.
        os.close(self._out)
        try:
            self._browser.wait(timeout=20)
        finally:
            self._browser.kill()
            os.close(self._in)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._answer()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)

    def _answer(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._in, 1 << 20)
            assert more, "Chromium ended"
            self._rest += more
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, path: Path) -> float:
        """Open a file, and return the seconds until its list could be used."""
        begin = time.perf_counter()
        self.command("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.body && document.body.dataset.drawn")
        return time.perf_counter() - begin

    def js(self, expression: str) -> Any:
        done = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.js(f"!!({expression})"):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        for key in keys:
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            self.command("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.command("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self, path: Path) -> None:
        import base64

        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))

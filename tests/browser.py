"""Headless Chromium driven over its debugging pipe: no driver, no further package."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

AXE = Path(os.environ.get("AXE", "node_modules/axe-core/axe.min.js"))
"""The accessibility checker (MPL-2.0), which is no part of this project: `npm install axe-core` in a folder of its own."""

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

    def watch(self) -> None:
        """Keep requests, errors and messages of the console from now on."""
        for domain in ("Network", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def asked(self) -> list[str]:
        """Addresses outside the page and its folder that were asked for since `watch`."""
        self.js("0")
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("file:", "data:", "blob:"))]

    def said(self) -> list[dict[str, Any]]:
        """Errors and messages of the console since `watch`."""
        self.js("0")
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event["method"] in kinds]

    def serious(self) -> list[tuple[str, str]]:
        """What axe finds serious or critical: its rule and the first place. Skips the test without axe."""
        if not AXE.is_file():
            import pytest

            pytest.skip("needs axe-core: AXE=.../axe.min.js")
        if not self.js("typeof axe === 'object'"):
            self.js(AXE.read_text(encoding="utf-8") + ";0")
        run = "axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations))"
        found = json.loads(self.js(run))
        return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]

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
            # Without its number, Tab moves no focus and an arrow no slider.
            code = {"Tab": 9, "Enter": 13, " ": 32, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}.get(key, 0)
            self.command("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
            self.command("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def reached_by_tab(self) -> list[str]:
        """Ids (or else tags) of what the key Tab focuses, one after the other, on a page freshly opened, until focus leaves the page."""
        reached: list[str] = []
        for _ in range(60):
            self.press("Tab")
            focused = self.js(
                "document.activeElement === document.body ? '' : document.activeElement.id || document.activeElement.tagName"
            )
            if not focused or (reached and focused == reached[0]):
                break
            reached.append(focused)
        return reached

    def screenshot(self, path: Path) -> None:
        import base64

        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))

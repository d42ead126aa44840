"""Headless Chromium, controlled with the W3C WebDriver protocol (JSON over HTTP to chromedriver), without a library."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    def __init__(self, address, switches):
        self.address = address
        options = {"binary": CHROMIUM, "args": switches}
        made = self.call("POST", "/session", capabilities={"alwaysMatch": {"goog:chromeOptions": options}})
        self.session = f"/session/{made['sessionId']}"

    def call(self, method, path, **content):
        data = json.dumps(content).encode() if method == "POST" else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None

    def open(self, url):
        self.call("POST", f"{self.session}/url", url=url)

    def run(self, script, *arguments):
        """Run a script and return its result."""
        return self.call("POST", f"{self.session}/execute/sync", script=script, args=list(arguments))

    def type(self, selector, text):
        """Type into an element; for a file input, type the paths."""
        found = self.call("POST", f"{self.session}/element", using="css selector", value=selector)
        self.call("POST", f"{self.session}/element/{found[ELEMENT]}/value", text=text)

    def press(self, *keys):
        """Press keys one after the other in the focused element."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self.call("POST", f"{self.session}/actions", actions=[source])

    def devtools(self, command, **parameters):
        return self.call("POST", f"{self.session}/goog/cdp/execute", cmd=command, params=parameters)

    def size(self, width, height):
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def dark(self, is_dark):
        features = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def wait_for(self, script, seconds=60):
        """Wait until a script returns a true value, and return it."""
        deadline = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, self.run("return document.body.innerText")
            time.sleep(0.05)
        return found

    def screenshot(self, path, whole=False):
        data = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        Path(path).write_bytes(base64.b64decode(data))


@contextmanager
def browsing(folder):
    """Yield a browser with its profile in `folder`."""
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = next(line.split()[-1].rstrip(".") for line in driver.stdout if "successfully on port" in line)
        switches = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        switches += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder}"]
        browser = Browser(f"http://127.0.0.1:{port}", switches)
        try:
            yield browser
        finally:
            browser.call("DELETE", browser.session)
    finally:
        driver.terminate()
        driver.wait(30)

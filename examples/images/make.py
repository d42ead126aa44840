"""Make README's screenshots, report.png, terminal.png and serve.png, from a run of `xrayfast demo`.

    python examples/images/make.py

This needs Linux or macOS, and Chromium with its driver on the PATH (Debian: apt-get install chromium chromium-driver
fonts-dejavu), which the dev extra does not install. `python examples/benchmarks --write-only` makes the benchmarks'
chart.
"""

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LABELS = ("normal", "pneumonia", "covid-19")
COLUMNS = 120


def main() -> None:
    browser = find_browser()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        lines = run_in_terminal([sys.executable, "-m", "xrayfast", "demo"], work)
        terminal(browser, lines, work)
        report(browser, next(work.glob("demo/runs/*/report.html")), work)
        serve(next(work.glob("demo/runs/*/run.json")).parent, work)


def find_browser() -> str:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return browser or sys.exit("No Chromium on the PATH; on Debian: apt-get install chromium fonts-dejavu")


def with_root() -> dict[str, str]:
    """Return the environment with this checkout on PYTHONPATH."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def run_in_terminal(words: list[str], folder: Path) -> list[str]:
    """Run a command in a terminal; return the lines shown at its end, with colors as ANSI codes."""
    leader, follower = pty.openpty()
    environment = with_root() | {"COLUMNS": str(COLUMNS), "LINES": "50", "TERM": "xterm-256color"}
    process = subprocess.Popen(words, cwd=folder, env=environment, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    read = bytearray()
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # Linux raises this at the end of the output
            chunk = b""
        if not chunk:
            break
        read += chunk
    if process.wait():
        sys.exit(read.decode(errors="replace"))
    return screen(read.decode())


def screen(output: str) -> list[str]:
    """Apply the control codes of Rich's progress bars (carriage return, line up, erase line); return the lines."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[\d*A|\x1b\[2K|\x1b\[\?25[hl]|\r|\n|(?:\x1b\[[\d;]*m|[^\x1b\r\n])+", output):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece.endswith("A"):
            row -= int(piece[2:-1] or 1)
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece[0] not in "\r\x1b" or piece.endswith("m") or "m" in piece[:8]:
            lines[row] += piece
    return lines


def terminal(browser: str, lines: list[str], work: Path) -> None:
    """Make the screenshot of the terminal: the last epochs and the results, drawn by Rich."""
    plain = [Text.from_ansi(line).plain for line in lines]
    epochs = [i for i, line in enumerate(plain) if line.startswith("epoch ")]
    end = next(i for i, line in enumerate(plain) if line.startswith("Largest losses"))
    shown = ["\x1b[1;32m$\x1b[0m xrayfast demo", *lines[:9], "\x1b[2m...\x1b[0m", *lines[epochs[-3] : end - 1]]
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    for line in shown:
        console.print(Text.from_ansi(line))
    svg = console.export_svg(title="xrayfast demo")
    width, height = (round(float(value)) for value in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    svg = svg.replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)
    (work / "terminal.html").write_text(f"<body style='margin:0'>{svg}</body>", encoding="utf-8")
    screenshot(browser, work / "terminal.html", width, height).convert("P", palette=Image.Palette.ADAPTIVE).save(
        HERE / "terminal.png", optimize=True
    )


def report(browser: str, page: Path, work: Path) -> None:
    """Make the screenshot of the first screen of report.html."""
    shutil.copy(page, work / "report.html")
    first = screenshot(browser, work / "report.html", 1440, 890)
    first.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(HERE / "report.png", optimize=True)


def serve(run: Path, work: Path) -> None:
    """Make the screenshot of the page of `xrayfast serve`, with answers."""
    sys.path.insert(0, str(ROOT))
    from tests.serving.browser import browsing

    line = [sys.executable, "-m", "xrayfast", "serve", str(run), "--port", "0", "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, env=with_root(), text=True) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            with browsing(work / "profile") as page:
                page.size(1440, 960)
                page.open(url)
                images = [sorted(run.parents[1].glob(f"data/{label}/*.png"))[7] for label in LABELS]
                page.type("#files", "\n".join(map(str, images)))
                page.wait_for("return document.querySelectorAll('#list li img').length === 3")
                page.run("document.documentElement.style.scrollbarWidth = 'none'; scrollTo(0, 0)")
                page.screenshot(work / "serve.png")
        finally:
            process.terminate()
    image = Image.open(work / "serve.png").convert("RGB")
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(HERE / "serve.png", optimize=True)


def screenshot(browser: str, page: Path, width: int, height: int) -> Image.Image:
    target = page.with_suffix(".png")
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    command = [browser, *switches, f"--window-size={width},{height}", f"--screenshot={target}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    return Image.open(target).convert("RGB")


if __name__ == "__main__":
    main()

"""Make README's screenshots: of the terminal, report and server of `xrayfast demo`, and of a notebook in JupyterLab.

    python examples/images/make.py

This needs Linux or macOS, JupyterLab, and Chromium with its driver on the PATH (Debian: apt-get install chromium
chromium-driver fonts-dejavu), which the dev extra does not install. `python examples/benchmarks --write-only` makes the
benchmarks' chart.
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
sys.path.insert(0, str(ROOT))
from tests.serving.browser import Browser, browsing  # noqa: E402 - from this checkout

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
        notebook(work)


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
    """Make the screenshot of the first screen of report.html, in which `~` is the working folder."""
    text = page.read_text(encoding="utf-8").replace(str(work), "~")
    (work / "report.html").write_text(text, encoding="utf-8")
    first = screenshot(browser, work / "report.html", 1440, 890)
    first.quantize(256, Image.Quantize.MAXCOVERAGE).save(HERE / "report.png", optimize=True)


def serve(run: Path, work: Path) -> None:
    """Make the screenshot of the page of `xrayfast serve`, with answers."""
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
                save(page, "serve")
        finally:
            process.terminate()


def notebook(work: Path) -> None:
    """Make the screenshots of a notebook in JupyterLab, during training and with its results."""
    shutil.copy(ROOT / "examples" / "notebooks" / "from_a_folder_to_a_report.ipynb", work / "notebook.ipynb")
    news = work / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false"}', encoding="utf-8")
    words = f"--no-browser --allow-root --expose-app-in-browser --IdentityProvider.token= --ServerApp.root_dir={work}"
    environment = with_root() | {"JUPYTERLAB_SETTINGS_DIR": str(work / "settings")}
    line = [sys.executable, "-m", "jupyterlab", *words.split()]
    with subprocess.Popen(line, stderr=subprocess.PIPE, env=environment, text=True) as process:
        try:
            url = next(found[0] for line in process.stderr if (found := re.search(r"http://127\S+/lab", line)))
            with browsing(work / "jupyter") as page:
                page.size(1000, 510)
                page.open(f"{url}/tree/notebook.ipynb")
                page.wait_for(
                    f"return window.jupyterapp && {PANEL}?.sessionContext?.session?.kernel?.status === 'idle'"
                )
                page.run("jupyterapp.shell.collapseLeft(); jupyterapp.commands.execute('notebook:run-all-cells')")
                save_cell(page, 7, "/epoch 6 · train.* [4-6] of 7/", "notebook_training")
                page.size(1000, 860)
                save_cell(page, 8, "/claim.md/", "notebook_results")
        finally:
            process.terminate()


PANEL = "[...jupyterapp.shell.widgets('main')][0]"
"""The notebook in JupyterLab, in JavaScript."""


def save_cell(page: Browser, number: int, text: str, name: str) -> None:
    """Save the notebook with a cell at its top, once the output of the cell matches a regular expression."""
    cell = f"{PANEL}.content.widgets[{number}].node"
    page.wait_for(f"const cell = {cell}; cell.scrollIntoView(); return {text}.test(cell.innerText)", 300)
    box = page.run(
        f"const box = {PANEL}.content.node.getBoundingClientRect(); return [box.x, box.y, box.right, box.bottom]"
    )
    save(page, name, box)


def save(page: Browser, name: str, box: list[float] | None = None) -> None:
    """Save the screenshot of a page, or of a box in it: left, top, right and bottom in pixels."""
    page.screenshot(HERE / f"{name}.png")
    image = Image.open(HERE / f"{name}.png").convert("RGB").crop(box)
    image.quantize(256).save(HERE / f"{name}.png", optimize=True)


def screenshot(browser: str, page: Path, width: int, height: int) -> Image.Image:
    target = page.with_suffix(".png")
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    command = [browser, *switches, f"--window-size={width},{height}", f"--screenshot={target}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    return Image.open(target).convert("RGB")


if __name__ == "__main__":
    main()

"""Make the guide's gallery: run the notebooks, and save the output of their cells as images.

    python examples/images/make_gallery.py

This needs nbclient and ipykernel, which the dev extra installs, and Chromium on the PATH, like `make.py`.
"""

import base64
import io
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from make import HERE, find_browser, screenshot
from nbclient import NotebookClient
from PIL import Image, ImageChops

GUIDE = HERE.parent / "guide"
STYLE = """
body { font-family: sans-serif }
table.dataframe { border: none; border-collapse: collapse; font-size: 13px }
.dataframe th, .dataframe td { border: none; border-bottom: 1px solid #ddd; padding: 4px 8px; text-align: right }
"""
"""Style of plain text and of tables, as in Jupyter."""

NOTEBOOKS = ("from_a_folder_to_a_report", "with_fastais_own_hands")


def main() -> None:
    page_path = GUIDE / "gallery.md"
    introduction, _, _ = page_path.read_text(encoding="utf-8").partition("\n## ")
    browser, page = find_browser(), [introduction]
    for name in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            book = nbformat.read(HERE.parent / "notebooks" / f"{name}.ipynb", as_version=4)
            NotebookClient(book, timeout=600, resources={"metadata": {"path": folder}}).execute()
            for number, cell in enumerate(book.cells):
                if cell.cell_type == "markdown":
                    page.append(re.sub(r"^#", "##", cell.source) + "\n")
                else:
                    page.append(f"```python\n{cell.source}\n```\n")
                    page += show(cell, f"{name}-{number}", Path(folder), browser)
    page_path.write_text("\n".join(page), encoding="utf-8")


def show(cell: nbformat.NotebookNode, name: str, work: Path, browser: str) -> list[str]:
    """Return the outputs of a cell as Markdown, and save the last image or page among them."""
    data = [output.data for output in cell.outputs if "data" in output]
    images = [entry["image/png"] for entry in data if "image/png" in entry]
    pages = [entry["text/html"] for entry in data if re.search(r"<table|<svg|class=\"xf\"", entry.get("text/html", ""))]
    if images:
        image = Image.open(io.BytesIO(base64.b64decode(images[-1]))).convert("RGB")
    elif pages:
        html = f"<!doctype html><meta charset='utf-8'><style>{STYLE}</style><body>{pages[-1]}"
        (work / "page.html").write_text(html, encoding="utf-8")
        image = crop(screenshot(browser, work / "page.html", 1000, 3000))
    else:
        texts = [entry["text/plain"] for entry in data if "HTML" not in entry["text/plain"]]
        return [f"```\n{text}\n```\n" for text in texts]
    image.thumbnail((1000, 4000))
    image.quantize(128).save(HERE / "gallery" / f"{name}.png", optimize=True)
    return [f"![What this cell shows](../images/gallery/{name}.png)\n"]


def crop(image: Image.Image) -> Image.Image:
    """Crop the empty margin on the right and at the bottom."""
    _, _, right, bottom = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    return image.crop((0, 0, min(right + 8, image.width), min(bottom + 8, image.height)))


if __name__ == "__main__":
    sys.exit(main())

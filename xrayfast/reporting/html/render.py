"""Rendering of all pages: each is one self-contained file in which text from outside is escaped.

The Content-Security-Policy allows only the page's one style sheet and one script, identified by their hashes, and
images that are embedded in the page.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from xrayfast.errors.escapes import escape_hidden
from xrayfast.reporting.wording import FEW_LABELS

TEMPLATES = Path(__file__).parent / "templates"
CONTENTS = Markup("<!-- contents -->\n")
"""Stands for the list of a page's sections until they are rendered; texts can't contain it, since they are escaped."""

IMAGE_SIDE = 160


def render_template(name: str, context: Mapping[str, Any]) -> str:
    """Return a page as one self-contained HTML document; names and sentences in its context are escaped."""
    style, script = _read(["report.css"]), _read(["report.js"])
    return _render_page(name, context, style, script, _policy(style, script))


def render_served(context: Mapping[str, Any]) -> tuple[str, str]:
    """Return the page of `serve`, which sends requests to its server, and its policy for the server's header."""
    style, script = _read(["report.css", "serve.css"]), _read(["report.js", "serve.js"])
    policy = f"{_policy(style, script)}; connect-src 'self'"
    return _render_page("serve.html.j2", context, style, script, policy), policy


def _read(names: Sequence[str]) -> str:
    return "\n".join((TEMPLATES / name).read_text("utf-8") for name in names)


def _render_page(name: str, context: Mapping[str, Any], style: str, script: str, policy: str) -> str:
    shell = {"policy": policy, "style": Markup(style), "script": Markup(script)}
    page = _environment().get_template(name).render({**context, **shell})
    sections = re.findall(r'<section id="([^"]+)"[^>]*>\s*<h2[^>]*>(.*?)</h2>', page)
    return page.replace(CONTENTS, "".join(f'    <li><a href="#{id}">{title}</a></li>\n' for id, title in sections))


def render_fragment(context: Mapping[str, Any]) -> str:
    """Return the piece of HTML, with its own style sheet, that a notebook shows for a result."""
    style = Markup(_read(["overview.css"]))
    return _environment().get_template("overview.html.j2").render({**context, "style": style})


@cache
def _environment() -> Environment:
    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, finalize=_without_hidden, **options)
    environment.filters |= {"whole_flags": whole_flags, "minute": minute}
    environment.globals |= {"few_labels": FEW_LABELS, "contents": CONTENTS}
    return environment


def whole_flags(text: str) -> Markup:
    """Escape a text, and prevent line breaks within flags such as --patient-col."""
    return Markup(
        re.sub(r"(?<![\w-])--[a-z][a-z-]*[a-z]", r'<span class="flag">\g<0></span>', str(escape(_without_hidden(text))))
    )


def minute(time: str) -> str:
    """An ISO 8601 time in UTC, for people."""
    return time[:16].replace("T", " ") + " UTC"


def image_view(pixels: NDArray[np.uint8] | None, side: int = IMAGE_SIDE) -> dict[str, Any]:
    """Return the template variables of an (H, W) or (H, W, 3) uint8 image, at most `side` pixels wide and high;
    `data` is None if there is no image.
    """
    if pixels is None:
        return {"data": None}
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"data": data, "width": image.width, "height": image.height}


def outlined(pixels: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    """Return the image with a thin white frame drawn on it."""
    height, width = pixels.shape[:2]
    top, left, bottom, right = box
    image = Image.fromarray(pixels)
    corners = (left * (width - 1), top * (height - 1), right * (width - 1), bottom * (height - 1))
    ImageDraw.Draw(image).rectangle(corners, outline="white", width=max(1, width // IMAGE_SIDE))
    return np.asarray(image)


def _policy(style: str, script: str) -> str:
    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data:; style-src {source(style)}; script-src {source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _without_hidden(value: Any) -> Any:
    """Escape the hidden characters of a text; markup and other values are returned unchanged."""
    return escape_hidden(value) if isinstance(value, str) and not isinstance(value, Markup) else value

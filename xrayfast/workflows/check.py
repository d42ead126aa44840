"""Audit a data set before training on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from xrayfast.audit.check import Audit, audit
from xrayfast.audit.features import LEAST_SIDE
from xrayfast.config import Config, field_types
from xrayfast.data.cache.image_cache import DecodedImages, open_images
from xrayfast.data.manifest import Manifest
from xrayfast.errors.arguments import check_arguments
from xrayfast.files.atomic import write_json, write_text
from xrayfast.files.run_lock import lock_output
from xrayfast.files.writable import PAGE_MARK, require_replaceable
from xrayfast.progress import StageProgress, show_progress
from xrayfast.reporting.html.pages.check_page import render_check_page, shown_groups, shown_rows
from xrayfast.runs.run import now
from xrayfast.workflows.steps.data.images import note_other_pixels
from xrayfast.workflows.steps.data.opening import opened_with_notes

JSON, PAGE = "check.json", "check.html"


@check_arguments(field_types)
def check(
    data: Manifest | Path | str | None = None,
    *,
    config: Config | None = None,
    size: int | None = None,
    output: Path | str | None = None,
    progress: bool | StageProgress | None = None,
) -> Audit:
    """Find problems that distort results: odd files, duplicates, leaks, rare classes, shortcuts.

    Args:
        data: a Manifest from `open_data`, or the folder of a data set; by default the `source` of `config` ("data/").
        config: settings of the data set.
        size: side in pixels of the images that are compared, at least 64; default the config's. With the size of a
            later training, the images are already cached for it.
        output: a folder to write `check.json` and `check.html` to.
        progress: whether to display progress, by default only in a notebook or a terminal; or a function to call with
            the stage, the images done and the total.

    Returns:
        The Audit: `.leaks`, `.findings`, `.duplicates`, `.shortcuts`, `.to_json()`.

    Raises:
        DataError: the data can't be used.
        ConfigError: an option is wrong.
        RunError: another process writes to the folder `output`.
        WriteError: the output can't be written, or would replace files that are not an earlier output.
    """
    config = config or Config()
    data = opened_with_notes(data, config)
    images = open_images(data.config, max(size or config.model.size, LEAST_SIDE))
    with lock_output(output) as folder, show_progress(progress) as reporter:
        if folder is not None:
            require_replaceable(folder / JSON, keys=("images", "leaks", "shortcuts"))
            require_replaceable(folder / PAGE, mark=PAGE_MARK)
        found = audit(data, images, reporter.preparing)
        found = replace(found, data=note_other_pixels(found.data, images))
        if folder is not None:
            write_json(folder / JSON, found.to_json())
            _write_page(found, images, folder / PAGE)
    return found


def _write_page(found: Audit, images: DecodedImages, path: Path) -> None:
    paths = found.data.table["path"].tolist()
    rows = {row for group in shown_groups(found) for row in shown_rows(group)}
    shown = {row: images.image_or_none(paths[row]) for row in rows}
    title = found.data.config.source.absolute().name
    write_text(path, render_check_page(found, shown, title, now()))

"""Predict on new files."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.config import Device
from xrayfast.data.radiograph import IMAGE_SUFFIXES, fit_square, is_image, read
from xrayfast.errors import DataError, ReadError
from xrayfast.learning.inference import new_probability
from xrayfast.metrics.summary import decide
from xrayfast.predictions import PROBABILITY, joined
from xrayfast.run import Run
from xrayfast.workflows.load import load_to_predict

CHUNK = 256
"""Files read before they are predicted on: bounds memory, and lets progress be told."""


def predict(
    run: Run | Path | str,
    sources: Sequence[Path | str] | Path | str,
    *,
    tta: bool = False,
    batch_size: int = 64,
    device: Device = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Labels and probabilities of new images.

    Args:
        run: the run or its folder.
        sources: files, folders (searched for images) and glob patterns.
        tta: average over augmented views.
        batch_size: images a batch.
        device: where to run.
        progress: called with the files done and the files in all.

    Returns:
        A row per file, in input order: `file`, `predicted` (labels joined by "|"), one column `prob_LABEL` a label,
        and `error`, "" or why the file can't be read; such a row has no prediction, and the others go on.

    Raises:
        DataError: a source does not exist, or no images are found.
        RunError: the folder is not a whole run.
    """
    run = Run.of(run)
    files = find_images([sources] if isinstance(sources, (str, Path)) else sources)
    learn = load_to_predict(run, device)
    config = run.config
    labels, task, size, window = run.labels, run.task, config.model.size, config.data.window
    parts = []
    for start in range(0, len(files), CHUNK):
        chunk = files[start : start + CHUNK]
        pictures = [_try_read(file, size, window) for file in chunk]
        good = [picture for picture in pictures if isinstance(picture, np.ndarray)]
        probability: NDArray[Any] = (
            new_probability(learn, good, batch_size=batch_size, tta=tta) if good else np.empty((0, len(labels)))
        )
        predicted = iter(zip(probability, decide(probability, task), strict=True))
        parts.append(_rows(chunk, pictures, predicted, labels))
        if progress is not None:
            progress(min(start + CHUNK, len(files)), len(files))
    table: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return table


def find_images(sources: Sequence[Path | str]) -> list[str]:
    """The files that the sources name, in input order, each once; folders and patterns in the order of names.

    A file that is named itself is taken whatever its ending; a folder gives the files that end as images do.

    Raises:
        DataError: a source names nothing.
    """
    found: dict[str, None] = {}
    for source in map(str, sources):
        path = Path(source)
        if path.is_dir():
            inside = sorted(str(p) for p in path.rglob("*") if not p.name.startswith(".") and is_image(str(p)))
            if not inside:
                raise DataError(
                    f"{source}: holds no images; expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}."
                )
        elif path.exists() or path.is_symlink():
            inside = [source]
        else:
            inside = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
            if not inside:
                raise DataError(f"{source}: no such file, folder or pattern with matches.")
        found.update(dict.fromkeys(inside))
    if not found:
        raise DataError("No files to predict on: expected image files, folders or patterns.")
    return list(found)


def _try_read(file: str, size: int, window: str) -> NDArray[np.uint8] | str:
    try:
        return fit_square(read(file, window).pixels, size)
    except ReadError as error:
        return str(error)


def _rows(
    files: Sequence[str],
    pictures: Sequence[NDArray[np.uint8] | str],
    predicted: Iterator[tuple[NDArray[Any], NDArray[np.int64]]],
    labels: Sequence[str],
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for file, picture in zip(files, pictures, strict=True):
        if isinstance(picture, str):
            rows.append(
                {
                    "file": file,
                    "predicted": None,
                    **{PROBABILITY + label: None for label in labels},
                    "error": picture,
                }
            )
        else:
            probability, decided = next(predicted)
            values = {PROBABILITY + label: float(p) for label, p in zip(labels, probability, strict=True)}
            rows.append({"file": file, "predicted": joined(decided, labels), **values, "error": ""})
    columns = ["file", "predicted", *(PROBABILITY + label for label in labels), "error"]
    table: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    return table

"""Predict on new files."""

from __future__ import annotations

import contextlib
import glob
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.config import Device
from xrayfast.data.cache.decode_pool import cpu_count
from xrayfast.data.images.reader import IMAGE_SUFFIXES, fit_square, is_image, read
from xrayfast.errors import ConfigError, DataError, ReadError
from xrayfast.learning.inference.predictor import new_probability
from xrayfast.learning.training.mixed_precision import fp32_inference
from xrayfast.metrics.decision import Decision
from xrayfast.predictions import PROBABILITY_PREFIX, join_labels
from xrayfast.run import Run
from xrayfast.workflows.load import load_to_predict

CHUNK = 256
"""Files read before they are predicted on: bounds memory, and lets progress be told."""

_MOST_THREADS = 8  # each holds an original; more wait for the interpreter anyway


def predict(
    run: Run | Path | str,
    sources: Sequence[Path | str] | Path | str,
    *,
    abstain_below: float | None = None,
    tta: bool = False,
    batch_size: int = 32,
    device: Device = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Labels and calibrated probabilities of new images, decided at the thresholds that validation chose.

    Args:
        run: the run or its folder.
        sources: files, folders (searched for images) and glob patterns.
        abstain_below: give no answer where it is less probable than this, by the calibrated probabilities themselves:
            on one label of several, or on the class.
        tta: average over augmented views.
        batch_size: images a batch.
        device: where to run.
        progress: called with the files done and the files in all.

    Returns:
        A row per file, in input order: `file`; `predicted` (labels joined by "|"); with `abstain_below`, `abstained`
        (those on which there is no answer; of one class an image the most likely one); where a run of one class an
        image has thresholds, `above_threshold` (each class against the rest); one column `prob_LABEL` a label; and
        `error`, "" or why the file can't be read: such a row has no prediction, and the others go on.

    Raises:
        DataError: a source does not exist, or no images are found.
        ConfigError: `abstain_below` is no probability.
        RunError: the folder is not a whole run.
    """
    if abstain_below is not None and not 0 <= abstain_below <= 1:
        raise ConfigError(f"abstain_below is {abstain_below}; expected a probability between 0 and 1, such as 0.8.")
    run = Run.of(run)
    files = find_images([sources] if isinstance(sources, (str, Path)) else sources)
    decision, config = run.decision, run.config
    learn = load_to_predict(run, device)
    size, window = config.model.size, config.data.window
    tables: list[pd.DataFrame] = []
    done = 0
    with contextlib.closing(_read_in_chunks(files, size, window)) as chunks, fp32_inference(learn):
        for chunk, images in chunks:
            good = [image for image in images if isinstance(image, np.ndarray)]
            raw: NDArray[Any] = (
                new_probability(learn, good, batch_size=batch_size, tta=tta) if good else np.empty((0, len(run.labels)))
            )
            answers = _answers(decision.calibrated(raw), decision, abstain_below)
            errors = [image if isinstance(image, str) else "" for image in images]
            tables.append(_rows(chunk, errors, answers))
            done += len(chunk)
            if progress is not None:
                progress(done, len(files))
    table: pd.DataFrame = pd.concat(tables, ignore_index=True)
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


def _read_in_chunks(
    files: Sequence[str], size: int, window: str
) -> Generator[tuple[Sequence[str], list[NDArray[np.uint8] | str]]]:
    """Chunks of the files, in their order, and of each file its square or why it can't be read.

    A thread a CPU reads; decoders leave the interpreter to the other threads. Reading and predicting take turns: each
    keeps all CPUs busy by itself, and at the same time they would wait for each other.
    """
    # Recording warnings changes settings of the process, and threads put back what they found, in any order: so they
    # find silence, as pydicom's warnings may quote a header, and here all is put back.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = ThreadPoolExecutor(min(_MOST_THREADS, cpu_count()))
        try:
            for start in range(0, len(files), CHUNK):
                chunk = files[start : start + CHUNK]
                yield chunk, list(pool.map(lambda file: _try_read(file, size, window), chunk))
        finally:
            pool.shutdown(cancel_futures=True)


def _try_read(file: str, size: int, window: str) -> NDArray[np.uint8] | str:
    try:
        return fit_square(read(file, window).pixels, size)
    except ReadError as error:
        return str(error)


def _answers(probability: NDArray[np.float64], decision: Decision, abstain_below: float | None) -> pd.DataFrame:
    """What is said of N images, a row each."""
    labels, called = decision.labels, decision.decide(probability)
    unsure = np.zeros(called.shape, bool)
    if abstain_below is not None:
        unsure = decision.certainty(probability) < abstain_below
    columns: dict[str, Any] = {"predicted": [join_labels(row, labels) for row in np.where(unsure, 0, called)]}
    if abstain_below is not None:
        # Of one class an image, the one that would have been called stands for the image.
        without = unsure & (called == 1) if decision.task == "single" else unsure
        columns["abstained"] = [join_labels(row.astype(int), labels) for row in without]
    if decision.task == "single" and decision.points:
        above = (probability >= decision.thresholds).astype(int)
        columns["above_threshold"] = [join_labels(row, labels) for row in above]
    columns |= {PROBABILITY_PREFIX + label: probability[:, i] for i, label in enumerate(labels)}
    table: pd.DataFrame = pd.DataFrame(columns)
    return table


def _rows(files: Sequence[str], errors: Sequence[str], answers: pd.DataFrame) -> pd.DataFrame:
    """The answers beside their files, with empty rows for files that could not be read."""
    read = [i for i, error in enumerate(errors) if not error]
    table: pd.DataFrame = answers.set_axis(read).reindex(range(len(files)))
    table.insert(0, "file", list(files))
    table["error"] = list(errors)
    return table

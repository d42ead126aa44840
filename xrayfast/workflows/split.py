"""Split a data set once for many runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from xrayfast.config import Config
from xrayfast.data.manifest import Manifest
from xrayfast.errors.arguments import check_arguments
from xrayfast.files.csv_tables import write_csv
from xrayfast.files.writable import require_text_file
from xrayfast.progress import StageProgress, show_progress
from xrayfast.workflows.steps.data.images import decode
from xrayfast.workflows.steps.data.opening import opened_with_notes
from xrayfast.workflows.steps.leaks import compare_all_images, require_leak_free


@check_arguments()
def split(
    data: Manifest | None = None,
    *,
    config: Config | None = None,
    output: Path | str | None = None,
    progress: bool | StageProgress | None = None,
) -> Manifest:
    """Assign each image to a split in the same way as `fit`: patients and duplicates are never divided.

    Args:
        data: a Manifest from `open_data`; by default the `source` of `config`.
        config: settings; images are compared at its `size`.
        output: a CSV file to write, with image, patient, split and labels; `split_file` replays it.
        progress: whether to display progress, by default only in a notebook or a terminal; or a function to call with
            the stage, the images done and the total.

    Returns:
        The manifest with its final splits.

    Raises:
        DataError: the data can't be used, images can't be read, or a given split has leaks.
        WriteError: the file can't be written, or would replace an input, a run's file, or any other file that is not an
            earlier split.
    """
    config = config or Config()
    data = opened_with_notes(data, config)
    if output is not None:
        own = data.config
        read = own.source, own.labels, own.label_map, own.corrections, own.split_file
        require_text_file(Path(output), *read, columns=data.split_table().columns.tolist())
    with show_progress(progress) as reporter:
        data, images = decode(data, config.model.size, reporter.preparing)
        data = require_leak_free(data, compare_all_images(data, images, reporter.preparing), allow_leaks=False).data
    if output is not None:
        write_csv(Path(output), data.split_table())
    return data


def balance(data: Manifest) -> pd.DataFrame:
    """Return counts and shares of labels per split.

    Returns:
        A table with a row for each label, "images" and, if known, "patients", and two columns for each split that has
        images, such as `train`, the count, and `train_share`: for labels, the share of the split's images whose cell is
        not masked; for images and patients, the share of the whole data set.
    """
    counts, truth, image_splits = data.counts(), data.truth, data.table["split"].to_numpy()
    columns: dict[str, list[float]] = {}
    for split in counts.columns[counts.loc["images"] > 0]:
        unmasked = (truth[image_splits == split] >= 0).sum(axis=0)
        totals = counts.iloc[len(data.labels) :]
        columns[split] = counts[split].tolist()
        columns[f"{split}_share"] = [
            *(counts[split].iloc[: len(data.labels)] / np.maximum(unmasked, 1)),
            *(totals[split] / totals.sum(axis=1)),
        ]
    return pd.DataFrame(columns, index=counts.index)

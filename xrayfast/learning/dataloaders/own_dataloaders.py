"""A manifest made from the user's own DataLoaders: labels, targets, splits and, if images are files, their paths."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from xrayfast.config import DataConfig
from xrayfast.data.labels.targets import join_labels
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.words import SPLITS
from xrayfast.errors import DataError, plural, shorten
from xrayfast.learning.dataloaders.transforms import opens_radiographs, reads_by_itself
from xrayfast.learning.fastai_api import DataLoaders
from xrayfast.learning.randomness import isolated_rng


def describe_dataloaders(dls: DataLoaders) -> Manifest:
    """Make a manifest without patients, and with paths only of items that are files.

    Raises:
        DataError: there is no training batch, no validation split or no vocab of labels, or targets are not labels.
    """
    sizes = [len(dl.dataset) for dl in dls.loaders]
    if len(sizes) not in (2, 3) or not all(sizes):
        raise DataError(
            f"dls has {len(sizes)} splits, of {', '.join(map(str, sizes))} images; expected train, valid and "
            "optionally test, with images in each. valid_pct=0.2 or a splitter creates a validation split."
        )
    if not len(dls.train):
        raise DataError(
            f"dls.train has {plural(sizes[0], 'image')} and batches of {dls.train.bs}, and drops an incomplete "
            f"batch, so it has no batch at all; expected at least one. Use a bs of at most {sizes[0]}."
        )
    datasets = [dl.dataset for dl in dls.loaders]
    if not all(len(getattr(dataset, "tls", ())) == 2 and hasattr(dataset.tls[1], "vocab") for dataset in datasets):
        raise DataError(
            "dls has no vocab of labels; expected one image and one target per item, the target of a CategoryBlock or "
            "a MultiCategoryBlock."
        )
    labels = tuple(map(str, datasets[0].tls[1].vocab))
    try:
        found = torch.cat([torch.stack([torch.as_tensor(t) for t in dataset.tls[1]]) for dataset in datasets]).numpy()
    except KeyError as error:
        raise DataError(
            f"dls: {error.args[0]}, whose labels are the vocab: {shorten(labels)}. Name all labels in "
            "CategoryBlock(vocab=[...]), or use a splitter that leaves images of each label in the training split."
        ) from error
    single = found.ndim == 1 and found.dtype.kind in "iu"
    if not single and (found.ndim != 2 or found.shape[1] != len(labels)):
        raise DataError(
            f"dls has targets of shape {found.shape[1:]}; expected a class index (CategoryBlock) or a value for each "
            f"of {len(labels)} labels (MultiCategoryBlock)."
        )
    targets = np.eye(len(labels), dtype=np.float32)[found] if single else found.astype(np.float32)
    splits = [split for split, size in zip(SPLITS, sizes, strict=False) for _ in range(size)]
    paths = [path for dataset in datasets for path in _paths_of(dataset.tls[0])]
    source = _common_folder(paths) or Path(dls.path)
    table = pd.DataFrame({"image": _names(paths, source, splits), "path": pd.Series(paths, dtype=object)})
    table["patient"] = pd.Series([None] * len(table), dtype=object)
    table["split"], table["labels"] = splits, join_labels(targets == 1, labels)
    return Manifest(
        table=table,
        labels=labels,
        targets=targets,
        task="single" if single else "multi",
        config=DataConfig(source=source),
        notes=tuple(_describe_shared(paths, splits)),
        drawn=np.zeros(len(table), bool),
    )


def image_shape(dls: DataLoaders) -> tuple[int, int]:
    """Return the number of channels and the side of the images, found from a batch.

    Raises:
        DataError: the images are not square floats of one or three channels with sides of 32 to 2048 pixels.
    """
    with isolated_rng("shape"):
        batch = dls.loaders[1].one_batch()[0]
    shape = tuple(getattr(batch, "shape", ()))
    square = len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3] and 32 <= shape[2] <= 2048
    if not square or not batch.is_floating_point():
        found = f"{shape} of {batch.dtype}" if shape else type(batch).__name__
        raise DataError(
            f"dls returns batches {found}; expected floats of shape (N, 1 or 3, side, side), with a side of 32 to "
            "2048 pixels. item_tfms=Resize(224) makes images square."
        )
    return shape[1], shape[2]


def _paths_of(items: Any) -> list[str | None]:
    """Return the paths that items are read from, which their first transforms may look up in a table row or derive from
    another path; None for items without one.
    """
    if not opens_radiographs(items) or reads_by_itself(items):
        return [_path_of(items, i) for i in range(len(items))]
    *transforms, _ = items.tfms.fs
    found = (reduce(lambda item, transform: transform(item), transforms, items._get(i)) for i in range(len(items)))
    return [str(Path(item).absolute()) if isinstance(item, (str, Path)) else None for item in found]


def _path_of(items: Any, i: int) -> str | None:
    """Return the path of an item, which its first transforms may look up in a table row; None if there is none."""
    item = items._get(i)  # fastai's access to items of lists and of tables
    for transform in [*items.tfms.fs, None]:
        if isinstance(item, (str, Path)):
            return str(Path(item).absolute())
        if transform is None or not isinstance(item, (pd.Series, dict, tuple)):
            return None
        item = transform(item)
    return None


def _describe_shared(paths: Sequence[str | None], splits: Sequence[str]) -> list[str]:
    """Return a note if a file is in more than one split."""
    splits_of: dict[str, set[str]] = {}
    for path, split in zip(paths, splits, strict=True):
        splits_of.setdefault(path or "", set()).add(split)
    shared = sorted(path for path, found in splits_of.items() if path and len(found) > 1)
    if not shared:
        return []
    return [
        f"dls has {plural(len(shared), 'file')} in more than one split, so the network is evaluated on images that it "
        f"is trained on: {shorten(shared)}. Use a splitter whose lists do not overlap."
    ]


def _common_folder(paths: Sequence[str | None]) -> Path | None:
    """Return the folder that contains all files, or None.

    Not `dls.path`, which is the working folder if the DataBlock does not set it.
    """
    folders = {str(Path(path).parent) for path in paths if path is not None}
    try:
        return Path(os.path.commonpath(folders)) if folders else None
    except ValueError:  # several drives on Windows
        return None


def _names(paths: list[str | None], folder: Path, splits: Sequence[str]) -> list[str]:
    """Return unique names: paths, relative to the folder if they are in it, or split and number without a path."""
    root, seen, names = folder.absolute(), Counter[str](), []
    for i, (path, split) in enumerate(zip(paths, splits, strict=True)):
        inside = path is not None and Path(path).is_relative_to(root)
        name = f"{split}-{i + 1}" if path is None else Path(path).relative_to(root).as_posix() if inside else path
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names

"""The table of a data set's images, with the file, patient, split and labels of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.config import DataConfig, Task
from xrayfast.data.arrays import Bools, Integers, Ints, Places
from xrayfast.data.corrections import Correction
from xrayfast.data.labels.targets import Targets, join_labels, to_truth
from xrayfast.data.sources.patients.groups import group_images
from xrayfast.data.sources.records import NO_FILE
from xrayfast.data.splits.assign import DRAWN, assign_folds, assign_splits, connect_groups
from xrayfast.data.splits.words import SPLITS, Split
from xrayfast.data.text_column import TextColumn
from xrayfast.display.overview import HasOverview
from xrayfast.errors import ConfigError, DataError, did_you_mean, plural, shorten
from xrayfast.errors.escapes import escape_hidden
from xrayfast.files.virtual.access import state_of

_REDRAWN = "Split redrawn to keep"


@dataclass(frozen=True, eq=False, repr=False)
class Manifest(HasOverview):
    """The images of a data set, or of one of its splits.

    Attributes:
        table: one row per image: `image` (unique name: the path from the source folder, with '/'), `path` (absolute),
            `patient` (a pseudonym, None where unknown), `split` (train, valid or test), `labels` (the labels that are
            1, joined by '|', "" for none); and, if known for any image, `sex` ("F", "M" or None), `age` (years or NaN),
            `view` ("PA", "AP", "LATERAL", another text or None) and `study` (a pseudonym or None).
        labels: the L labels, sorted.
        targets: (N, L) float32 from 0 to 1, rows as in the table: NaN where the cell is ignored, and strictly between
            0 and 1 where an uncertain cell is smoothed. Exactly one 1 and no NaN per row of a single-label task.
        task: "single" if each image has exactly one label, else "multi".
        config: the settings with which it was opened.
        notes: sentences on what was inferred, drawn or ignored.
        drawn: (N,) bool, True if the image's split was drawn, False if it was given.
        left_out: pairs of a reason and the names of the source's images left out for it.
        corrections: a reader's corrections, which have been applied to the targets.
        identities: (N, 3) hashes of patient, study, and patient of a public data set by its table (see
            `hash_identifiers`, `studies_everywhere`); never written.
    """

    table: pd.DataFrame
    labels: tuple[str, ...]
    targets: Targets
    task: Task
    config: DataConfig
    notes: tuple[str, ...]
    drawn: Bools
    left_out: tuple[tuple[str, tuple[str, ...]], ...] = ()
    corrections: tuple[Correction, ...] = ()
    identities: npt.NDArray[np.uint64] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        name, labels = self.config.source.absolute().name, plural(len(self.labels), "label")
        splits = ", ".join(f"{split} {n}" for split in SPLITS if (n := int((self.table["split"] == split).sum())))
        return f"Manifest('{escape_hidden(name)}': {plural(len(self), 'image')}, {labels}; {splits or 'no split'})"

    @property
    def truth(self) -> npt.NDArray[np.int8]:
        """(N, L) int8: 1, 0, or -1 where masked, because the cell is ignored or smoothed."""
        return to_truth(self.targets)

    @property
    def groups(self) -> Places | None:
        """(N,) integers, equal for images of one patient, else of one study; None if no patient or study is known."""
        studies = self.table["study"].tolist() if "study" in self.table else None
        return group_images(self.table["patient"].tolist(), studies)

    def subset(self, split: Split) -> Manifest:
        """Return the images of one split.

        Raises:
            ConfigError: there is no such split.
        """
        if not isinstance(split, str) or split not in SPLITS:
            hint = did_you_mean(str(split), SPLITS)
            raise ConfigError(f"found the split '{split}'; expected train, valid or test.{hint}")
        rows = (self.table["split"] == split).to_numpy()
        table = self.table[rows].reset_index(drop=True)
        identities = None if self.identities is None else self.identities[rows]
        return replace(self, table=table, targets=self.targets[rows], drawn=self.drawn[rows], identities=identities)

    def counts(self) -> pd.DataFrame:
        """Count images per label (rows) and split (columns), with rows for all "images" and, if known, "patients"."""
        split = self.table["split"].to_numpy()
        known = self.table["patient"].notna().any()
        counts: dict[str, list[int]] = {}
        for name in SPLITS:
            rows = split == name
            counts[name] = [*(self.targets[rows] == 1).sum(0).tolist(), int(rows.sum())]
            if known:
                counts[name].append(int(self.table.loc[rows, "patient"].nunique()))
        rows_named = [*self.labels, "images", *(["patients"] if known else [])]
        return pd.DataFrame(counts, index=rows_named)

    def flow(self) -> list[tuple[str, int]]:
        """Return descriptions and counts of images: in the source, left out, used, and in each split."""
        found = len(self) + sum(len(names) for _, names in self.left_out)
        left_out = [(f"Left out: {why}", len(names)) for why, names in self.left_out]
        splits = [(f"Split {name}", int((self.table["split"] == name).sum())) for name in SPLITS]
        first = "Images listed" if NO_FILE in dict(self.left_out) else "Image files"
        return [(first, found), *left_out, ("Images used", len(self)), *(split for split in splits if split[1])]

    def split_table(self) -> pd.DataFrame:
        """Return image, patient, split and labels: a run's `split.csv`, which can be reused as `split_file`."""
        return self.table[["image", "patient", "split", "labels"]]

    def redraw_splits(self, groups: Integers) -> Manifest:
        """Draw the drawn splits again, so that the images of one of the (N,) groups, or of one patient, share a split.

        Given splits stay as they are; the seed, fractions and folds are those of the config.

        Raises:
            DataError: a split would be left without images, a class without images to train on, or there are not N
                groups.
        """
        self._require_one_per_image("group", groups)
        if not self.drawn.any():
            return self
        before: list[Split] = self.table["split"].tolist()
        together = connect_groups(groups, self.groups)
        splits = assign_splits(self._given_splits(), (self.targets == 1).astype(np.uint8), together, self.config)
        outdated = require_splits(self.truth, self.labels, before, self.task)
        notes = [note for note in self.notes if note not in outdated and not note.startswith(_REDRAWN)]
        moved = sum(old != new for old, new in zip(before, splits.names, strict=True))
        kept = "duplicates" if self.table["patient"].isna().all() else "each patient and all duplicates"
        notes.append(f"{_REDRAWN} {kept} in one split: {moved:,} images moved.")
        notes += require_splits(self.truth, self.labels, splits.names, self.task)
        return replace(self, table=self.table.assign(split=splits.names), notes=tuple(notes))

    def _given_splits(self) -> list[Split | None]:
        splits: list[Split] = self.table["split"].tolist()
        return [None if drawn else split for split, drawn in zip(splits, self.drawn.tolist(), strict=True)]

    def deal_folds(self, groups: Integers | None, repeats: int = 1, *, by_image: bool = False) -> Ints:
        """Assign images to folds, with the seed, the fractions and the number of folds of the config.

        Args:
            groups: (N,) integers, equal for images that stay together; None if each image is assigned alone.
            repeats: R, how often the images are assigned, each time with the next seed.
            by_image: whether folds may divide groups; the test split never does.

        Returns:
            (N, R) int64 fold numbers from 1; 0 for test images.

        Raises:
            ConfigError: the validation split is given.
            DataError: there are fewer groups than folds, or not N of them.
        """
        if groups is not None:
            self._require_one_per_image("group", groups)
        positives = (self.targets == 1).astype(np.uint8)
        return assign_folds(self._given_splits(), positives, groups, self.config, repeats, by_image=by_image)

    def with_splits(self, splits: Sequence[Split], note: str) -> Manifest:
        """Return the same images in other splits, which count as given; `note` replaces the note on the drawn split.

        Raises:
            DataError: a class has no images to train on, or there are not N names of splits.
        """
        self._require_one_per_image("split", splits)
        before, outdated = self.table["split"].tolist(), list[str]()
        with suppress(DataError):  # of a subset
            outdated = require_splits(self.truth, self.labels, before, self.task)
        notes = [one for one in self.notes if one not in outdated and not one.startswith((DRAWN, _REDRAWN))]
        table = self.table.assign(split=list(splits))  # a Series would be aligned by its index
        found = replace(self, table=table, drawn=np.zeros(len(self), np.bool_))
        found.require_consistent()
        return replace(found, notes=(*notes, note, *require_splits(self.truth, self.labels, splits, self.task)))

    def _require_one_per_image(self, name: str, values: Any) -> None:
        if np.shape(values) != (len(self),):
            found = plural(np.size(values), name)
            raise DataError(f"found {found} for {plural(len(self), 'image')}; expected one {name} per image.")

    def require_consistent(self) -> None:
        """Raise an error if the table was changed and no longer fits the other attributes.

        Raises:
            DataError: a column is missing or there twice, the number or order of the rows differs, or labels or
            the name of a split do.
        """
        columns, rows = list(self.table), {len(self.table), len(self.targets), len(self.drawn)}
        if wrong := [name for name in ("image", "path", "patient", "split", "labels") if columns.count(name) != 1]:
            problem = f"{columns.count(wrong[0])} columns '{wrong[0]}'; expected one"
        elif len(rows) > 1:
            problem = f"{plural(len(self.table), 'row')}, and targets of {plural(len(self.targets), 'image')}"
        elif unknown := sorted(map(str, {*self.table["split"].unique()} - {*SPLITS})):
            problem = f"the split '{shorten(unknown)}'; expected train, valid or test"
        elif (other := self.table["labels"].to_numpy() != join_labels(self.targets == 1, self.labels)).any():
            image, labels = self.table[["image", "labels"]].iloc[int(other.argmax())]
            problem = f"the labels '{shorten([str(labels)])}' of {image}, which are not those of its targets"
        else:
            return
        raise DataError(
            f"the data set's table: found {problem}. It was changed after open_data made it: change the labels file "
            "instead, or assign new splits with with_splits."
        )

    def require_images(self, *splits: Split) -> None:
        """Raise a DataError if one of the splits has no images."""
        found = {*self.table["split"].unique()}
        if empty := [split for split in splits if split not in found]:
            raise DataError(
                f"found no images in the {empty[0]} split; expected some in both train and valid. Give the whole "
                "data set instead of a subset, or assign new splits with with_splits."
            )

    def fingerprint(self) -> str:
        """Return a SHA-256 of all images' names, labels, masked cells, splits and file sizes: equal on any machine."""
        digest = hashlib.sha256(repr(self.labels).encode())
        columns = ("image", "labels", "split", "path")
        for image, labels, split, path in zip(*(self.table[name].tolist() for name in columns), strict=True):
            try:
                size = state_of(path).size
            except OSError as error:
                raise DataError(
                    f"{path}: can't be read ({error.strerror}); it could be read when the data set was opened."
                ) from error
            digest.update(repr((image, labels, split, size)).encode())
        masked = self.truth < 0
        if masked.any():
            digest.update(np.packbits(masked).tobytes())
            # normalize NaN, which has many bit patterns
            digest.update(np.nan_to_num(self.targets[masked], nan=-1).astype("<f4").tobytes())
        return digest.hexdigest()


def require_splits(truth: npt.NDArray[np.int8], labels: Sequence[str], splits: Sequence[str], task: Task) -> list[str]:
    """Return notes on labels without images in train or valid.

    Raises:
        DataError: one of these splits is empty, or train lacks a class of a single-label task.
    """
    notes, column = [], TextColumn.of(splits)
    for split in ("train", "valid"):
        if split not in column.texts:
            advice = ", or draw the splits anew with --ignore-split" if split == "train" else ""
            raise DataError(
                f"no images in the {split} split; expected some in both train and valid. Add images{advice}."
            )
        present = (truth[column.map_array(split.__eq__, np.bool_)] == 1).any(0)
        absent = [label for label, has_images in zip(labels, present, strict=True) if not has_images]
        if absent and split == "train" and task == "single":
            others = set(labels).difference(absent)
            raise DataError(
                f"class '{absent[0]}' has no images in the train split; expected each class there."
                f"{did_you_mean(absent[0], others)} Give it one name in all splits, or add images."
            )
        if absent:
            notes.append(f"No {'training' if split == 'train' else 'validation'} images of {shorten(absent)}.")
    return notes

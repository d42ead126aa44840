"""The folder of a cross-validation: a run's folder whose members are the folds.

Its `split.csv` has the split of the first fold, and the fold of each image in the column `fold`, or, with several
repeats, in `fold_1`, `fold_2`, ... Its predictions of the split "valid" are out-of-fold predictions: each image is
predicted by networks that were not trained on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from xrayfast.errors import RunError, plural
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import escape_hidden
from xrayfast.files.atomic import write_json
from xrayfast.files.csv_tables import read_csv, write_csv
from xrayfast.files.intact import INFO_FILE
from xrayfast.runs.info_types import CrossValidationInfo
from xrayfast.runs.json_files import read_typed
from xrayfast.runs.names import FOLDS_FILE
from xrayfast.runs.predictions import Predictions
from xrayfast.runs.run import Run

OUT_OF_FOLD = "out_of_fold.csv"


class CrossValidation(Run):
    """A cross-validation: reads and writes the files of its folder, as `Run` does.

    Args:
        path: the folder of an existing cross-validation.

    Raises:
        RunError: the folder does not exist or is not a cross-validation's.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        if not self.is_there(self.path):
            raise RunError(
                f"{self.path}: is not a cross-validation's folder: it lacks {FOLDS_FILE}. Cross-validations are "
                "made by 'xrayfast cross-validate'."
            )

    def __repr__(self) -> str:
        return f"CrossValidation('{escape_hidden(str(self.path))}')"

    @staticmethod
    @check_arguments()
    def is_there(path: Path) -> bool:
        """Whether a folder is a cross-validation's."""
        return (path / FOLDS_FILE).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether all folds are trained and the results computed."""
        return self.info.status == "completed"

    @property
    def folds(self) -> CrossValidationInfo:
        """How the images were assigned to folds: the content of `cross_validation.json`."""
        return read_typed(self.path / FOLDS_FILE, CrossValidationInfo)

    @property
    def dealt(self) -> str:
        """How the images were assigned to folds, in words, as in "5 folds by patient, dealt 3 times"."""
        folds = self.folds
        known = "patients" in self.info.counts["valid"] and not folds.by_image
        times = f", repeated {folds.repeats} times" if folds.repeats > 1 else ""
        return f"{plural(folds.folds, 'fold')} by {'patient' if known else 'image'}{times}"

    @staticmethod
    def write_folds(run: Run, folds: Mapping[str, Any]) -> None:
        """Write `cross_validation.json`, which makes a run's folder that of a cross-validation."""
        write_json(run.path / FOLDS_FILE, dict(folds))

    @property
    def features_folder(self) -> Path:
        """The folder of the frozen-feature cache that the folds share during training."""
        return self.path / "frozen_features"

    def leftovers(self) -> list[Path]:
        """Return what training needed or a crash left, including the shared frozen-feature cache."""
        return [*super().leftovers(), *([self.features_folder] if self.features_folder.exists() else [])]

    @property
    def runs(self) -> list[Run]:
        """The runs of the folds that have begun, in order; those of the first repeat come first."""
        return [Run(self.path / name) for name in self.info.members if (self.path / name / INFO_FILE).is_file()]

    @property
    def out_of_fold(self) -> Predictions:
        """Each image's prediction by networks that were not trained on it, averaged over the repeats."""
        return self.predictions("valid")

    @property
    def fold_table(self) -> pd.DataFrame:
        """One row per fold: fold, repeat, run, images, patients, best epoch, and the metrics over all labels."""
        rows = self.metrics["folds"]
        own = [{name: value for name, value in row.items() if name not in ("overall", "auroc")} for row in rows]
        return pd.DataFrame([one | row["overall"] for one, row in zip(own, rows, strict=True)])

    def read_fold_numbers(self) -> npt.NDArray[np.int64]:
        """Return (N, R) the fold of each image of `split.csv` in each repeat, from 1; 0 for test images."""
        names = fold_columns(self.folds.repeats)
        table = read_csv(self.split_path, names, dtype=str, keep_default_na=False)
        try:
            return cast("npt.NDArray[np.int64]", table[names].replace("", "0").to_numpy().astype(np.int64))
        except ValueError as error:
            raise RunError(f"{self.split_path}: expected whole numbers in {', '.join(names)} ({error}).") from error

    def images_in_folds(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Return the images that are in folds, in the order of `split.csv`, and (N, R) their folds."""
        numbers = self.read_fold_numbers()
        used = numbers[:, 0] > 0
        table = read_csv(self.split_path, ["image"], dtype=str, keep_default_na=False)
        return table["image"].to_numpy(dtype=object)[used].tolist(), numbers[used]

    def write_out_of_fold(self, repeats: Sequence[tuple[npt.NDArray[np.integer], Predictions]]) -> None:
        """Write `out_of_fold.csv`: the fold and the prediction of each image in each repeat, with the columns of the
        files in `predictions/`.
        """
        tables = [
            predictions.table().assign(repeat=number, fold=folds)
            for number, (folds, predictions) in enumerate(repeats, 1)
        ]
        write_csv(self.path / OUT_OF_FOLD, pd.concat(tables, ignore_index=True), "%.9g")


def fold_columns(repeats: int) -> list[str]:
    """Return the names of the fold columns in `split.csv`.

    >>> fold_columns(1), fold_columns(2)
    (['fold'], ['fold_1', 'fold_2'])
    """
    return ["fold"] if repeats == 1 else [f"fold_{repeat}" for repeat in range(1, repeats + 1)]


def fold_names(folds: int, repeats: int) -> dict[tuple[int, int], str]:
    """Return the name of each fold's folder, keyed by the numbers of repeat and fold.

    >>> fold_names(2, 1), fold_names(2, 3)[2, 1]
    ({(1, 1): 'fold1', (1, 2): 'fold2'}, 'repeat2-fold1')
    """
    numbers = product(range(1, repeats + 1), range(1, folds + 1))
    return {(repeat, fold): f"repeat{repeat}-fold{fold}" if repeats > 1 else f"fold{fold}" for repeat, fold in numbers}

"""Review labels with the out-of-fold predictions of a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from xrayfast.audit.label_issues import rank_labels
from xrayfast.data.corrections import COLUMNS, read_corrections
from xrayfast.errors import ConfigError, RunError, plural, shorten
from xrayfast.errors.arguments import check_arguments
from xrayfast.files.atomic import write_text
from xrayfast.files.csv_tables import write_csv
from xrayfast.files.run_lock import lock_output
from xrayfast.reporting.html.pages.review_page import render_review_page
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.predictions import Predictions
from xrayfast.runs.run import now
from xrayfast.workflows.steps.paired import RunPredictions, align, read_distinct
from xrayfast.workflows.steps.predictions.own import RunByUnit, read_interpretations

CORRECTIONS, PAGE = "corrections.csv", "review.html"


@dataclass(frozen=True, eq=False)
class LabelReview:
    """Labels that a cross-validation's networks contradict.

    Attributes:
        proposals: the rows of `corrections.csv`, least credible label first: `image`, `label` ("" for a single-label
            task), `given` and `proposed` (classes, or "1" and "0"), `accept` ("yes" for corrections that the
            cross-validation was trained with, else "" for a reader to fill in), `quality`, `probability` (of the
            proposed value) and, with several cross-validations, `probability_NAME` for each.
        ranked: all labels that are not masked, with the same columns except `accept`, and with `is_proposed`.
    """

    proposals: pd.DataFrame
    ranked: pd.DataFrame
    path: Path | None

    def __repr__(self) -> str:
        open_ones = int((self.proposals["accept"] == "").sum())
        return f"LabelReview({plural(open_ones, 'proposal')} on {plural(len(self.ranked), 'label')})"


@check_arguments()
def review(
    cv: Sequence[CrossValidation | Path | str] | CrossValidation | Path | str,
    output: Path | str | None = None,
    *,
    top: Annotated[int, Field(ge=0, le=1000)] = 60,
) -> LabelReview:
    """Rank labels by how strongly the networks of a cross-validation contradict them.

    Each image is judged by networks that were not trained on it. Needs cleanlab: `pip install 'xrayfast[review]'`.

    For several cross-validations of the same images and labels, for example of different architectures, the calibrated
    probabilities are averaged, which ranks better than a single one.

    A reader must check the proposals. `open_data(corrections=)` applies those that the reader accepts. Labels that an
    earlier corrections file corrected are not proposed again, and are copied to the new file.

    Args:
        cv: a complete cross-validation or its folder; or several.
        output: a folder to write `corrections.csv` and `review.html` to, which must not contain them yet.
        top: number of proposals that the page shows with their images.

    Returns:
        The LabelReview: `.proposals`, `.ranked`, `.path`.

    Raises:
        ConfigError: cleanlab is not installed, or no cross-validation is named, or one is named twice.
        RunError: a cross-validation is not complete, or the folder already holds a review, or another process writes to
            it; or several cross-validations differ in task, images, labels, given values or corrections.
        WriteError: the output can't be written.
    """
    with lock_output(output) as folder:
        for file in () if folder is None else (folder / CORRECTIONS, folder / PAGE):
            if file.exists():
                raise RunError(
                    f"{file}: already exists and may contain a reader's answers. Choose another folder with --output, "
                    "or remove the file."
                )
        return _review(_open(cv), folder, top)


def _review(cvs: Mapping[str, CrossValidation], folder: Path | None, top: int) -> LabelReview:
    first, *_ = cvs.values()
    every, predictions = _average(cvs)
    labels, single = first.labels, first.task == "single"
    found = rank_labels(predictions.truth, predictions.probability, first.task)
    rows, columns = found["row"].to_numpy(int), found["column"].to_numpy(int)
    given, proposed = found["given"].to_numpy(int), found["proposed"].to_numpy(int)

    def of_proposed(probability: NDArray[np.float64]) -> NDArray[np.float64]:
        p: NDArray[np.float64] = probability[rows, proposed if single else columns]
        return p if single else np.where(proposed == 1, p, 1 - p)

    ranked = pd.DataFrame(
        {
            "image": predictions.images[rows],
            "label": [("" if single else labels[column]) for column in columns],
            "given": [labels[value] if single else str(value) for value in given],
            "proposed": [labels[value] if single else str(value) for value in proposed],
            "quality": found["quality"].to_numpy(float),
            "probability": of_proposed(predictions.probability),
            **{f"probability_{name}": of_proposed(one) for name, one in every.items()},
            "is_proposed": found["is_issue"].to_numpy(bool),
        }
    )
    corrections = _corrections(first)
    decided = {(one["image"], one["label"]) for one in corrections}
    cells = zip(ranked["image"], ranked["label"], strict=True)
    ranked["is_proposed"] &= np.array([cell not in decided for cell in cells], np.bool_)
    proposals = ranked[ranked["is_proposed"]].assign(accept="").drop(columns="is_proposed")
    proposals = proposals[[*COLUMNS, *proposals.columns.drop([*COLUMNS])]]
    accepted = pd.DataFrame(corrections, columns=list(proposals.columns))
    table = pd.concat([accepted, proposals], ignore_index=True) if len(accepted) else proposals
    if folder is not None:
        interpretation = read_interpretations(first)["valid"]
        write_csv(folder / CORRECTIONS, table, "%.6g")
        images = {image: interpretation.image(image) for image in proposals["image"].head(top)}
        page = render_review_page(cvs, predictions, proposals, images, top, len(accepted), now())
        write_text(folder / PAGE, page)
    return LabelReview(table.reset_index(drop=True), ranked, None if folder is None else folder / PAGE)


def _open(given: Sequence[CrossValidation | Path | str] | CrossValidation | Path | str) -> dict[str, CrossValidation]:
    items = [given] if isinstance(given, (CrossValidation, Path, str)) else given
    cvs = [one if isinstance(one, CrossValidation) else CrossValidation(one) for one in items]
    paths = [one.path.resolve() for one in cvs]
    twice = [f"{path} twice" for path in dict.fromkeys(paths) if paths.count(path) > 1]
    if twice or not cvs:
        found = ", ".join(twice) or "no cross-validation"
        raise ConfigError(f"Found {found}; expected one or more cross-validations, each once.")
    names = [one.name for one in cvs]
    return {one.name if names.count(one.name) == 1 else str(one.path): one for one in cvs}


def _average(cvs: Mapping[str, CrossValidation]) -> tuple[dict[str, NDArray[np.float64]], Predictions]:
    """Average the (N, L) calibrated probabilities of several cross-validations.

    Returns:
        The probabilities of each cross-validation, empty if there is only one; and predictions with their mean.
    """
    by_image = [RunByUnit.of(cv, "image", None) for cv in cvs.values()]  # labels are of images
    first, *others = (RunPredictions.of(own, read_distinct(own, "valid")) for own in by_image)
    predictions, found = first.predictions, [first.predictions.probability]
    reference, *rest = cvs.values()
    for cv, other in zip(rest, others, strict=True):
        labels = first.predictions.labels
        aligned = align(first, other, labels if {*labels} == {*other.predictions.labels} else ())
        if cv.task != reference.task:
            aligned = f"its task is {cv.task}-label, not {reference.task}-label"
        elif _corrections(cv) != _corrections(reference):
            aligned = "they were trained with other corrections"
        elif not isinstance(aligned, str):
            rows = aligned[1]
            if not len(rows) == len(predictions) == len(other.predictions):
                only = sorted(set(predictions.images) ^ set(other.predictions.images))
                aligned = f"{plural(len(only), 'image')} only in one of them: {shorten(only)}"
        if isinstance(aligned, str):
            raise RunError(
                f"{cv.path}: can't be averaged with {reference.path}: {aligned}. Expected the same images, labels and "
                "corrections. Review it alone."
            )
        found.append(other.predictions.of_labels(labels).probability[rows])
    if not others:
        return {}, predictions
    return dict(zip(cvs, found, strict=True)), replace(predictions, probability=np.mean(found, axis=0))


def _corrections(cv: CrossValidation) -> list[dict[str, str]]:
    return [] if cv.corrections_path is None else [one.row() for one in read_corrections(cv.corrections_path)[0]]

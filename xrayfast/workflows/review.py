"""Review labels by the out-of-fold predictions of a cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from xrayfast.audit.label_issues import rank_labels
from xrayfast.cross_validation import CrossValidation
from xrayfast.data.corrections import COLUMNS, read_corrections
from xrayfast.errors import RunError, plural
from xrayfast.errors.arguments import check_arguments
from xrayfast.files import make_output_folder, write_csv, write_text
from xrayfast.reporting.html.pages.review_page import render_review_page
from xrayfast.run import now
from xrayfast.workflows.interpret import read_interpretations

CORRECTIONS, PAGE = "corrections.csv", "review.html"


@dataclass(frozen=True, eq=False)
class LabelReview:
    """Labels that a cross-validation's networks contradict.

    Attributes:
        proposals: the rows of `corrections.csv`: `image`, `label` ("" of a single-label task), `given` and `proposed`
            (classes, or "1" and "0"), `accept` ("yes" for those that the cross-validation was trained with, else "" for
            a reader to fill in), `quality` and `probability` (of what is proposed); the least credible label first.
        ranked: all labels that are not masked, with the same columns but for `accept`, and `is_proposed`.
        path: of the page; None where none was written.
    """

    proposals: pd.DataFrame
    ranked: pd.DataFrame
    path: Path | None

    def __repr__(self) -> str:
        open_ones = int((self.proposals["accept"] == "").sum())
        return f"LabelReview({plural(open_ones, 'proposal')} on {plural(len(self.ranked), 'label')})"


@check_arguments()
def review(
    cv: CrossValidation | Path | str,
    output: Path | str | None = None,
    *,
    top: Annotated[int, Field(ge=0, le=1000)] = 60,
) -> LabelReview:
    """Rank the labels of a cross-validation's images by how much its networks contradict them, each image judged by
    networks that were not trained on it. Needs cleanlab: `pip install 'xrayfast[review]'`.

    Proposals need a reader. Those that one accepts are applied by `open_data(corrections=)`; labels corrected by an
    earlier file are not proposed again, and are in the new one.

    Args:
        cv: the cross-validation or its folder, complete.
        output: a new folder, or one without them, to write `corrections.csv` and `review.html` to.
        top: proposals that the page shows with their images.

    Returns:
        The LabelReview: `.proposals`, `.ranked`, `.path`.

    Raises:
        ConfigError: cleanlab is not installed.
        RunError: it is not complete, or the folder holds a review.
        WriteError: the output can't be written.
    """
    folder = None if output is None else make_output_folder(Path(output))
    cv = cv if isinstance(cv, CrossValidation) else CrossValidation(cv)
    for name in (CORRECTIONS, PAGE) if folder else ():
        if folder and (folder / name).exists():
            raise RunError(
                f"{folder / name}: exists already, and may hold a reader's answers. Choose another folder with "
                "--output, or remove it."
            )
    interpretation = read_interpretations(cv)["valid"]
    predictions, labels, single = interpretation.predictions, cv.labels, cv.task == "single"
    found = rank_labels(predictions.truth, predictions.probability, cv.task)
    rows, columns = found["row"].to_numpy(int), found["column"].to_numpy(int)
    given, proposed = found["given"].to_numpy(int), found["proposed"].to_numpy(int)
    p = predictions.probability[rows, proposed if single else columns]
    ranked = pd.DataFrame(
        {
            "image": predictions.images[rows],
            "label": [("" if single else labels[column]) for column in columns],
            "given": [labels[value] if single else str(value) for value in given],
            "proposed": [labels[value] if single else str(value) for value in proposed],
            "quality": found["quality"].to_numpy(float),
            "probability": p if single else [q if value else 1 - q for q, value in zip(p, proposed, strict=True)],
            "is_proposed": found["is_issue"].to_numpy(bool),
        }
    )
    corrections = [] if cv.corrections_path is None else read_corrections(cv.corrections_path)[0]
    decided = {(one.image, one.label) for one in corrections}
    cells = zip(ranked["image"], ranked["label"], strict=True)
    ranked["is_proposed"] &= np.array([cell not in decided for cell in cells], np.bool_)
    proposals = ranked[ranked["is_proposed"]].assign(accept="")[[*COLUMNS, "quality", "probability"]]
    accepted = pd.DataFrame([one.row() for one in corrections], columns=list(proposals.columns))
    table = pd.concat([accepted, proposals], ignore_index=True) if len(accepted) else proposals
    if folder is not None:
        write_csv(folder / CORRECTIONS, table, "%.6g")
        images = {image: interpretation.image(image) for image in proposals["image"].head(top)}
        created = now()[:16].replace("T", " ") + " UTC"
        page = render_review_page(cv, predictions, proposals, images, top, len(accepted), created)
        write_text(folder / PAGE, page)
    return LabelReview(table.reset_index(drop=True), ranked, None if folder is None else folder / PAGE)

"""The page of a label review as one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xrayfast.errors import plural
from xrayfast.reporting.html.render import image_view, render_template
from xrayfast.reporting.html.tables import Cell, Table, number_cell
from xrayfast.reporting.wording import percent
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.predictions import Predictions

SHOWN_SIDE = 224
"""Side of the images, in pixels."""


def render_review_page(
    cvs: Mapping[str, CrossValidation],
    predictions: Predictions,
    proposals: pd.DataFrame,
    images: Mapping[str, NDArray[np.uint8] | None],
    top: int,
    accepted: int,
    created: str,
) -> str:
    """Return the page as one self-contained HTML document.

    Args:
        cvs: the cross-validations whose predictions are compared with the labels, keyed by name; names are plain text
            and are escaped here.
        predictions: out-of-fold predictions, averaged over the cross-validations.
        proposals: `workflows.review.LabelReview.proposals`, without those that a reader accepted earlier.
        images: (H, W) uint8 of the first `top` proposals; None if a file can't be read.
        top: how many proposals to show with their image.
        accepted: number of corrections that the cross-validation was trained with.
        created: time in UTC, in ISO 8601.
    """
    cv, *_ = cvs.values()
    single, labels = cv.task == "single", int((predictions.truth >= 0).sum())
    labels = len(predictions) if single else labels
    patients = dict(zip(predictions.images, predictions.patients, strict=True))
    return render_template(
        "review.html.j2",
        {
            "name": cv.name if len(cvs) == 1 else plural(len(cvs), "cross-validation"),
            "averaged": ", ".join(cvs) if len(cvs) > 1 else "",
            "created": created,
            "source": str(cv.config.data.source),
            "single": single,
            "tiles": [
                ("Images", f"{len(predictions):,}"),
                ("Labels", f"{labels:,}"),
                ("Proposals", f"{len(proposals):,}"),
                ("Of all labels", percent(len(proposals), labels)),
            ],
            "accepted": accepted,
            "total": len(proposals),
            "by_label": _label_table(predictions, proposals, single),
            "proposals": [
                {
                    "rank": rank,
                    "image": row["image"],
                    "patient": patients[row["image"]],
                    "given": _words(row["label"], row["given"]),
                    "proposed": _words(row["label"], row["proposed"]),
                    "probability": f"{row['probability']:.2f}",
                    "each": ", ".join(f"{row[f'probability_{name}']:.2f}" for name in cvs if len(cvs) > 1),
                    **image_view(images[row["image"]], SHOWN_SIDE),
                }
                for rank, row in enumerate(proposals.head(top).to_dict("records"), 1)
            ],
            "tested": "test" in cv.predicted_splits,
        },
    )


def _words(label: str, value: Any) -> str:
    """Return the class (single-label), or the label with "no" in front if it does not apply (multi-label)."""
    return f"{'' if value == '1' else 'no '}{label}" if label else str(value)


def _label_table(predictions: Predictions, proposals: pd.DataFrame, single: bool) -> Table:
    rows = []
    for i, label in enumerate(predictions.labels):
        own = proposals if single else proposals[proposals["label"] == label]
        value = label if single else "1"
        counts = (predictions.truth[:, i] == 1).sum(), (own["given"] == value).sum(), (own["proposed"] == value).sum()
        rows.append([Cell(label), *(number_cell(int(count), ",d") for count in counts)])
    columns = ["Class" if single else "Label", "Images that have it", "Proposed: not", "Proposed: others too"]
    return Table("by-label", "Proposals by label", columns, rows, sortable=True)

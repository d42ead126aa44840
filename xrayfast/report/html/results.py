"""The results on one split of a data set, as the pages take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from xrayfast.predictions import Predictions
from xrayfast.report.figures import Case
from xrayfast.report.html.figure_blocks import Block
from xrayfast.report.overlays import SaliencyCase


@dataclass(frozen=True, eq=False)
class SplitReport:
    """The results on one split.

    Attributes:
        name: which split; "external" for images from elsewhere.
        summary: as `metrics.summary.summarise` returns it, with "subgroups" where there are some.
        cases: the top losses, in the order to show.
        predictions_note: a sentence on where the predictions come from, or "".
        predictions: from which curves are drawn; None for no curves.
        saliency: what of single images speaks for a label, in the order to show.
        saliency_notes: sentences on the maps, such as that of the check on random weights.
        blocks: the figures, where they were drawn before.
    """

    name: Literal["valid", "test", "external"]
    summary: Mapping[str, Any]
    cases: tuple[Case, ...]
    predictions_note: str
    predictions: Predictions | None = None
    saliency: tuple[SaliencyCase, ...] = ()
    saliency_notes: tuple[str, ...] = ()
    blocks: Sequence[Block] | None = None

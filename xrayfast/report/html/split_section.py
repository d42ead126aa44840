"""The section of a page on the results of one split: what it is made of, and what its template shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from xrayfast.config import Task
from xrayfast.metrics.registry import EXACT_MATCH
from xrayfast.predictions import Predictions
from xrayfast.report.figures import Case
from xrayfast.report.html import results_tables
from xrayfast.report.html.plots import FigureBlock, figure_blocks
from xrayfast.report.html.render import image_view, outlined
from xrayfast.report.html.subgroup_tables import subgroup_sections
from xrayfast.report.html.tables import number_cell
from xrayfast.report.overlays import SaliencyCase, overlay
from xrayfast.report.wording import (
    SPLIT_TITLES,
    images_of_patients,
    interval_methods,
    interval_of,
    percent,
    resampled_units,
    split_images,
    warning_sentences,
)

SplitName: TypeAlias = Literal["valid", "test", "external"]

SALIENCY_SIDE = 224

DASH_MEANING = (
    "A dash stands for a number that is not defined: AUROC needs images with the label and images without, and a rate "
    "needs at least one image to be a rate of."
)


@dataclass(frozen=True, eq=False)
class SplitReport:
    """The results of one split, or of an external test.

    Attributes:
        name: which split; "external" for an external test.
        summary: as `metrics.summary.summarise` returns it, with "subgroups" where there are some.
        cases: the top losses, in the order to show.
        predictions_note: a sentence on where the predictions come from, or "".
        predictions: from which ROC and precision-recall curves are drawn; None for no curves.
        saliency: saliency maps of single images, in the order to show.
        saliency_notes: sentences on the maps, such as that of the check on random weights.
        blocks: the figures, where they are drawn already.
    """

    name: SplitName
    summary: Mapping[str, Any]
    cases: tuple[Case, ...]
    predictions_note: str
    predictions: Predictions | None = None
    saliency: tuple[SaliencyCase, ...] = ()
    saliency_notes: tuple[str, ...] = ()
    blocks: Sequence[FigureBlock] | None = None

    @property
    def explained(self) -> bool:
        """Whether there is anything to show of saliency."""
        return bool(self.saliency or self.saliency_notes)


def split_section(split: SplitReport, task: Task) -> dict[str, Any]:
    """The variables of `results.html.j2` for one split."""
    summary, name = split.summary, split.name
    headlines = results_tables.headline_table(name, summary, task)
    by_label, further = results_tables.label_tables(name, summary)
    cells = [cell for table in (headlines, by_label) for row in table.rows for cell in row]
    lacking = any(cell.text is None for cell in cells)
    return {
        "name": name,
        "title": SPLIT_TITLES[name],
        "images_text": images_of_patients(summary),
        "predictions_note": split.predictions_note,
        "warnings": warning_sentences(summary),
        "intervals_text": intervals_text(summary),
        "words": _words(split, task),
        "tiles": [(row[0].text, row[1]) for row in headlines.rows],
        "headlines": headlines,
        "overall": results_tables.all_metrics_table(name, summary, task),
        "by_label": by_label,
        "fixed_rates": results_tables.fixed_rates_table(name, summary),
        "further": [*further, *filter(None, [results_tables.calibration_table(name, summary)])],
        "delong": results_tables.delong_table(name, summary),
        "at_thresholds": results_tables.at_thresholds_table(name, summary),
        "notes": [*summary["notes"], *([DASH_MEANING] if lacking else [])],
        "blocks": figure_blocks(name, summary, task, split.predictions) if split.blocks is None else split.blocks,
        "confused": results_tables.confused_table(name, summary) if task == "single" else None,
        "subgroups": subgroup_sections(name, summary.get("subgroups", ()), task),
        "cases": [_case_view(case) for case in split.cases],
        "saliency": [_saliency_view(case) for case in split.saliency],
        "framed": any(case.thorax is not None for case in split.saliency),
        "saliency_notes": split.saliency_notes,
    }


def intervals_text(summary: Mapping[str, Any]) -> str:
    """Level, methods, resamples and units, once for all intervals; "" where there are none."""
    found = summary.get("intervals")
    if not found or found["units"] < 2:
        return ""
    text = (
        f"{found['level']:.0%} intervals ({interval_methods(summary)}) from {resampled_units(summary)}, those of a "
        f"bootstrap from {found['resamples']:,} resamples."
    )
    return text if found["by"] == "patient" else f"{text} No patients are known, so images were drawn."


def _words(split: SplitReport, task: Task) -> str:
    """The main result in sentences, with that of always answering the most common class."""
    summary, n = split.summary, int(split.summary["scored"])
    if n == 0:
        return "All labels of this split's images are masked." if summary["images"] else "This split holds no images."
    name = EXACT_MATCH[task]
    exact = summary["overall"][name]
    share = f"{round(exact * n):,} ({percent(exact)}{_between(summary, name)})"
    if task == "single":
        common = summary["most_common"]
        return (
            f"Of {split_images(split.name, n)}, {share} were given the right class. Always answering "
            f"“{common['label']}”, the most common class here, would be right for "
            f"{percent(common['share'])}."
        )
    auroc = summary["overall"]["auroc_macro"]
    ranking = (
        "AUROC is defined for no label."
        if auroc is None
        else "Averaged over the labels, an image with the label scores above one without in "
        f"{percent(auroc)} of pairs (AUROC{_between(summary, 'auroc_macro')})."
    )
    return f"Of {split_images(split.name, n)}, {share} were given exactly the right set of labels. {ranking}"


def _between(summary: Mapping[str, Any], name: str) -> str:
    """A metric's interval in per cent, to follow its value."""
    found = interval_of(summary, name)
    if not found or found["low"] is None or found["high"] is None:
        return ""
    return f"; interval {percent(found['low'])} to {percent(found['high'])}"


def _case_view(case: Case) -> dict[str, Any]:
    return {
        "image": case.image,
        "actual": case.actual,
        "predicted": case.predicted,
        "probability": number_cell(case.probability, ".2f").text,
        "loss": number_cell(case.loss).text,
        **image_view(case.pixels),
    }


def _saliency_view(case: SaliencyCase) -> dict[str, Any]:
    heat = overlay(case.pixels, case.heat)
    return {
        "image": case.image,
        "label": case.label,
        "actual": "not known" if case.actual is None else case.actual or "no label",
        "predicted": case.predicted or "no label",
        "probability": number_cell(case.probability, ".2f").text,
        "outside": None if math.isnan(case.outside) else percent(case.outside),
        "radiograph": image_view(case.pixels, SALIENCY_SIDE),
        "overlay": image_view(heat if case.thorax is None else outlined(heat, case.thorax), SALIENCY_SIDE),
    }

"""What the templates show of one split's results, on the report's page and on that of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xrayfast.config import Task
from xrayfast.errors import plural
from xrayfast.report.figures import Case
from xrayfast.report.html.figure_blocks import result_blocks
from xrayfast.report.html.render import image_view, outlined
from xrayfast.report.html.results import SplitReport
from xrayfast.report.html.results_tables import (
    at_thresholds_table,
    confused_table,
    delong_table,
    headline_table,
    label_tables,
    overall_table,
)
from xrayfast.report.html.subgroup_tables import subgroups_view
from xrayfast.report.html.tables import SPLIT_TITLES, images_text, number, percent
from xrayfast.report.markdown.facts import drawn_units
from xrayfast.report.overlays import SaliencyCase, overlay

SALIENCY_SIDE = 224

DASHES = (
    "A dash stands for a number that is not defined: AUROC needs images with the label and images without, and a rate "
    "needs at least one image to be a rate of."
)


def results_view(split: SplitReport, task: Task) -> dict[str, Any]:
    """Everything that `results.html.j2` shows of one split."""
    summary, name = split.summary, split.name
    headlines, (by_label, further) = headline_table(name, summary, task), label_tables(name, summary)
    cells = [cell for table in (headlines, by_label) for row in table.rows for cell in row]
    lacking = any(cell.text is None for cell in cells)
    return {
        "name": name,
        "title": SPLIT_TITLES[name],
        "images_text": _counted(summary),
        "predictions_note": split.predictions_note,
        "intervals_text": intervals_text(summary),
        "words": _words(split, task),
        "tiles": [(row[0].text, row[1]) for row in headlines.rows],
        "headlines": headlines,
        "overall": overall_table(name, summary, task),
        "by_label": by_label,
        "further": further,
        "delong": delong_table(name, summary),
        "at_thresholds": at_thresholds_table(name, summary),
        "notes": [*summary["notes"], *([DASHES] if lacking else [])],
        "blocks": result_blocks(name, summary, task, split.predictions) if split.blocks is None else split.blocks,
        "confused": confused_table(name, summary) if task == "single" else None,
        "subgroups": subgroups_view(name, summary.get("subgroups", ()), task),
        "cases": [_case_view(case) for case in split.cases],
        "saliency": [_saliency_view(case) for case in split.saliency],
        "framed": any(case.thorax is not None for case in split.saliency),
        "saliency_notes": split.saliency_notes,
    }


def intervals_text(summary: Mapping[str, Any]) -> str:
    """Once for all intervals: their level, and what was drawn how often; "" where there are none."""
    found = summary.get("intervals")
    if not found or found["units"] < 2:
        return ""
    text = f"{found['level']:.0%} intervals from {found['resamples']:,} resamples of "
    text += f"{drawn_units(summary)}."
    return text if found["by"] == "patient" else f"{text} No patients are known, so images were drawn."


def _counted(summary: Mapping[str, Any]) -> str:
    """As in "1,024 images of 312 patients"."""
    text = images_text(summary["images"])
    return f"{text} of {plural(summary['patients'], 'patient')}" if summary.get("patients") else text


def _words(split: SplitReport, task: Task) -> str:
    """The result as sentences, with what no skill would give beside it."""
    summary, n = split.summary, int(split.summary["scored"])
    if n == 0:
        return "This split holds no images." if not summary["images"] else "Nothing is known of this split's images."
    kind, name = SPLIT_TITLES[split.name].lower(), "accuracy" if task == "single" else "subset_accuracy"
    exact = summary["overall"][name]
    share = f"{round(exact * n):,} ({percent(exact)}{_between(summary, name)})"
    if task == "single":
        common = summary["most_common"]
        return (
            f"Of {images_text(n, kind)}, {share} were given the right class. Always answering "
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
    return f"Of {images_text(n, kind)}, {share} were given exactly the right set of labels. {ranking}"


def _between(summary: Mapping[str, Any], name: str) -> str:
    """A metric's interval in per cent, to follow its value."""
    found = summary.get("intervals", {}).get("overall", {}).get(name)
    if not found or found["low"] is None or found["high"] is None:
        return ""
    return f"; interval {percent(found['low'])} to {percent(found['high'])}"


def _case_view(case: Case) -> dict[str, Any]:
    return {
        "image": case.image,
        "actual": case.actual,
        "predicted": case.predicted,
        "probability": number(case.probability, ".2f").text,
        "loss": number(case.loss).text,
        **image_view(case.pixels),
    }


def _saliency_view(case: SaliencyCase) -> dict[str, Any]:
    heat = overlay(case.pixels, case.heat)
    return {
        "image": case.image,
        "label": case.label,
        "actual": "not known" if case.actual is None else case.actual or "no label",
        "predicted": case.predicted or "no label",
        "probability": number(case.probability, ".2f").text,
        "outside": None if math.isnan(case.outside) else percent(case.outside),
        "picture": image_view(case.pixels, SALIENCY_SIDE),
        "overlay": image_view(heat if case.thorax is None else outlined(heat, case.thorax), SALIENCY_SIDE),
    }

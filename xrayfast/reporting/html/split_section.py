"""The section of a page on the results of one split: its data, and the variables of its template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from xrayfast.config import Task
from xrayfast.errors import plural, plural_noun
from xrayfast.metrics.claims.headline import FEW_PATIENTS
from xrayfast.metrics.registry import AT_THRESHOLD, metric_title
from xrayfast.metrics.summary import interval_of
from xrayfast.reporting.case import Case
from xrayfast.reporting.figures.headline import EXAMPLES
from xrayfast.reporting.figures.overlays import SaliencyCase, overlay
from xrayfast.reporting.html import results_tables
from xrayfast.reporting.html.plots import FigureBlock, Plot, figure_blocks, headline_plot
from xrayfast.reporting.html.render import image_view, outlined
from xrayfast.reporting.html.subgroup_tables import subgroup_sections
from xrayfast.reporting.html.tables import Cell, metric_cell, number_cell
from xrayfast.reporting.wording import (
    SPLIT_TITLES,
    images_of_patients,
    interval_methods,
    joining_text,
    label_rows,
    percent,
    population_text,
    resampled_units,
    split_images,
    unit_of,
)
from xrayfast.runs.predictions import Predictions

SplitName: TypeAlias = Literal["valid", "test", "external", "folds", "table"]

SALIENCY_SIDE = 224

MAPS_OPEN = 3
"""How many saliency maps of wrong and of correct predictions a page shows; further ones are folded."""

DASH_MEANING = (
    "A dash marks a value that is not defined: AUROC needs images with and without the label, and a rate needs at "
    "least one image in its denominator."
)


@dataclass(frozen=True, eq=False)
class SplitReport:
    """The results of one split, or of an external test.

    Attributes:
        name: which split; "external" for an external test, "folds" for all images of a cross-validation,
            "table" for predictions of any tool.
        summary: from `metrics.summary.summarize`, with "subgroups" if there are some.
        cases: the top losses, in display order.
        predictions_note: a sentence on where the predictions come from, or "".
        predictions: the predictions from which curves are drawn; None for no curves.
        saliency: saliency maps of single images, in display order.
        saliency_notes: sentences on the maps, such as the result of the check on random weights.
        blocks: the figures, if they have been drawn already.
        right: correctly predicted images with the smallest losses, in display order.
        headline: the figure beside the headline, if it has been drawn already.
    """

    name: SplitName
    summary: Mapping[str, Any]
    cases: tuple[Case, ...]
    predictions_note: str
    predictions: Predictions | None = None
    saliency: tuple[SaliencyCase, ...] = ()
    saliency_notes: tuple[str, ...] = ()
    blocks: Sequence[FigureBlock] | None = None
    right: tuple[Case, ...] = ()
    headline: Plot | None = None

    @property
    def explained(self) -> bool:
        """Whether there are saliency maps or notes on them."""
        return bool(self.saliency or self.saliency_notes)

    @property
    def examples(self) -> list[Case]:
        """The first correct predictions and the first of the top losses, for the first screen."""
        right = {case.image for case in self.right}
        wrong = [case for case in self.cases if case.image not in right]
        return [*self.right[: max(EXAMPLES // 2, EXAMPLES - len(wrong))], *wrong][:EXAMPLES]


def split_section(split: SplitReport, task: Task, is_headline: bool = True) -> dict[str, Any]:
    """Return the variables of `results.html.j2` for one split; only the headline split has a figure and examples."""
    summary, name = split.summary, split.name
    headlines = results_tables.headline_table(name, summary, task)
    by_label, further = results_tables.label_tables(name, summary)
    cells = [cell for table in (headlines, by_label) for row in table.rows for cell in row]
    lacking = any(cell.text is None for cell in cells)
    right = {case.image for case in split.right}
    maps = [
        (title, [_saliency_view(case) for case in split.saliency if (case.image in right) == is_right])
        for title, is_right in (("Largest losses", False), ("Predicted correctly", True))
    ]
    headline = split.headline
    if is_headline and headline is None and split.predictions is not None and summary["scored"]:
        headline = headline_plot(name, summary, task, split.predictions)
    return {
        "name": name,
        "title": SPLIT_TITLES[name],
        "images_text": images_of_patients(summary),
        "population": population_text(summary),
        "predictions_note": " ".join(filter(None, [split.predictions_note, joining_text(summary)])),
        "warnings": [(one["text"], one["advice"]) for one in summary.get("warnings", ())],
        "intervals_text": intervals_text(summary),
        "words": _words(split, task),
        "tiles": _tiles(summary) if "positive" in summary else [(row[0].text, row[1]) for row in headlines.rows],
        "headline": headline if is_headline else None,
        "examples": [(_case_view(case), case.image in right) for case in split.examples] if is_headline else [],
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
        "right": [_case_view(case) for case in split.right],
        # Maps of wrong predictions are beside those of correct ones.
        "saliency": [(title, views[:MAPS_OPEN]) for title, views in maps],
        "more_saliency": [(title, views[MAPS_OPEN:]) for title, views in maps],
        "framed": any(case.thorax is not None for case in split.saliency),
        "saliency_notes": split.saliency_notes,
        "explained": split.explained,
    }


def intervals_text(summary: Mapping[str, Any]) -> str:
    """Describe level, methods, resamples and units of all intervals; "" if there are none."""
    found = summary.get("intervals")
    if not found or found["units"] < 2:
        return ""
    text = (
        f"{found['level']:.0%} confidence intervals ({interval_methods(summary)}) from {resampled_units(summary)}; "
        f"bootstrap intervals are from {found['resamples']:,} resamples."
    )
    return (
        text
        if found["by"] == "patient"
        else f"{text} Patients are not known, so {plural_noun(unit_of(summary))} were resampled."
    )


def _words(split: SplitReport, task: Task) -> str:
    """Describe the result in two sentences, with images, intervals and the values of a random classifier."""
    summary, n = split.summary, int(split.summary["scored"])
    if n == 0:
        units = plural_noun(unit_of(summary))
        return (
            f"All labels of this split's {units} are masked." if summary["images"] else f"This split holds no {units}."
        )
    whom = split_images(split.name, summary, n)
    if summary.get("patients") and unit_of(summary) != "patient":
        whom += f" of {plural(summary['patients'], 'patient')}"
    if task == "multi":
        return f"On {whom}, {_of_all_labels(summary)}"
    right = f"{round(summary['overall']['accuracy'] * n):,}"
    shown = f"{right} ({percent(summary['overall']['accuracy'])}{_between(summary, 'accuracy')})"
    common = summary["most_common"]
    constant = f"always predicting “{common['label']}” would be correct for {percent(common['share'])}"
    if "positive" in summary:
        [row] = label_rows(summary)
        auroc = f"was {_value(summary, 'auroc', row)}, with 0.5 expected by chance"
        if row["auroc"] is None:
            auroc = f"is not defined, since {'no' if row['support'] == 0 else 'every'} {unit_of(summary)} has the label"
        return (
            f"On {whom}, AUROC for {row['label']} {auroc}. "
            f"{_at_threshold(summary, row)}{shown} were classified correctly; {constant}."
        )
    defined = sum(row["auroc"] is not None for row in summary["per_label"])
    return (
        f"Of {whom}, {shown} were classified correctly; {constant}. Mean AUROC over the "
        f"{defined} classes was {_value(summary, 'auroc_macro')}, with 0.5 expected by chance."
    )


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str | None, Cell]]:
    """Return the main numbers of a task with a positive class, for which means over both classes would say less."""
    [row] = label_rows(summary)
    of_label = [(metric_title(name), metric_cell(summary, name, row)) for name in ("auroc", *AT_THRESHOLD)]
    return [*of_label[:4], *((metric_title(name), metric_cell(summary, name)) for name in ("accuracy", "ece"))]


def _of_all_labels(summary: Mapping[str, Any]) -> str:
    rows = [row for row in summary["per_label"] if row["auroc"] is not None]
    if not rows:
        return "AUROC is defined for no label."
    shares = [row["support"] / (row["support"] + row["negatives"]) for row in rows]
    often = [row for row in rows if min(row["support"], row["negatives"]) >= FEW_PATIENTS]  # others say little
    ends = ""
    if len(often) > 1:
        best, worst = (choose(often, key=lambda row: row["auroc"]) for choose in (max, min))
        ends = f" AUROC was highest for {best['label']} ({best['auroc']:.3f}) and lowest for {worst['label']} "
        ends += f"({worst['auroc']:.3f})"
        rest = (
            f", among labels with at least {FEW_PATIENTS} {plural_noun(unit_of(summary))}"
            if len(often) < len(rows)
            else ""
        )
        ends += f"{rest}."
    return (
        f"mean AUROC over {plural(len(rows), 'label')} was {_value(summary, 'auroc_macro')}, with 0.5 expected by "
        f"chance, and mean average precision was {_value(summary, 'ap_macro')}, with {sum(shares) / len(shares):.3f} "
        f"expected by chance.{ends}"
    )


def _at_threshold(summary: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Describe sensitivity and specificity of the positive class, with a semicolon for the next clause."""
    if row["recall"] is None or row["specificity"] is None:
        return ""
    rates = (
        f"{name} was {_value(summary, key, row)}" for name, key in (("sensitivity", "recall"), ("specificity",) * 2)
    )
    first, second = rates
    return f"{first[:1].upper()}{first[1:]} and {second}; "


def _value(summary: Mapping[str, Any], name: str, row: Mapping[str, Any] | None = None) -> str:
    """Format a metric with its interval, as in "0.812 (0.751 to 0.866)"; a label's metric if its row is given."""
    cell = metric_cell(summary, name, row)
    return (cell.text or "not defined") + (f" ({cell.interval.text})" if cell.interval else "")


def _between(summary: Mapping[str, Any], name: str) -> str:
    """Format a metric's interval in percent, to follow its value."""
    found = interval_of(summary, name)
    if not found or found["low"] is None or found["high"] is None:
        return ""
    return f"; {summary['intervals']['level']:.0%} CI {percent(found['low'])} to {percent(found['high'])}"


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

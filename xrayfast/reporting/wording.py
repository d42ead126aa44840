"""Words, counts and intervals that the pages and the Markdown documents share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from xrayfast.config import ModelConfig, hidden_units
from xrayfast.errors import format_cell, format_interval, format_value, plural, plural_noun, shorten
from xrayfast.metrics.claims.headline import NO_PATIENTS_KNOWN
from xrayfast.metrics.inputs import ALPHA
from xrayfast.metrics.intervals.formulas import METHODS
from xrayfast.metrics.registry import metric_phrase, metric_title

SPLIT_TITLES = {
    "train": "Training",
    "valid": "Validation",
    "test": "Test",
    "external": "External test",
    "folds": "Out-of-fold",
    "table": "Predictions",
}
"""Titles of the splits of a data set, of an external test, of the folds of a cross-validation, and of a table of
predictions."""

FEW_LABELS = 6
"""Most rows of a table by label that is shown open; longer tables that are not needed first are folded."""

ALONE_DECIDES = ", so it may be chance (the interval is of this gap alone)"
"""Follows the p of a gap whose interval excludes 0 although p, corrected for the number of gaps, is not small."""

NOT_CALIBRATED = "Probabilities were not calibrated."


def label_rows(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows by label to show; if one of two classes is the positive one, its row alone."""
    positive = summary.get("positive")
    return [row for row in summary["per_label"] if positive in (None, row["label"])]


_MEANS = ("auroc_macro", "ap_macro", "f1_macro", "recall_macro", "specificity_macro")


def positive_class_metric(summary: Mapping[str, Any], name: str) -> tuple[str, str, Mapping[str, Any] | None]:
    """Return the title and name of a metric over all labels, and None as its row.

    If one of two classes is the positive one, a mean over both is replaced by the metric of the positive class, and
    the row is that class's row of `per_label`.
    """
    if "positive" not in summary or name not in _MEANS:
        return metric_title(name), name, None
    (row,) = label_rows(summary)
    name = name.removesuffix("_macro")
    return f"{metric_title(name)} of {row['label']}", name, row


def hidden_layers(model: ModelConfig) -> str:
    """Describe the hidden layers of a head, such as "500 hidden units, then 100 hidden units", and its dropout if set.

    The text is "" if there is neither.
    """
    layers = ", then ".join(plural(width, "hidden unit") for width in hidden_units(model.head, model.head_width))
    dropout = "" if model.dropout is None else f"dropout {model.dropout:g}"
    return ", ".join(filter(None, [layers, dropout]))


def percent(count: float, total: float = 1.0) -> str:
    """Format a share as a percentage with one decimal; `total` is above 0."""
    return f"{100 * count / total:.1f}%"


def unit_of(summary: Mapping[str, Any]) -> str:
    """Return the unit that a summary counts: "image", "study" or "patient"."""
    return summary.get("unit", {}).get("name", "image")


def units_of(summary: Mapping[str, Any]) -> str:
    """Return the unit of a summary in the plural as a heading: "Images"."""
    return plural_noun(unit_of(summary)).capitalize()


def split_images(split: str, summary: Mapping[str, Any], count: int | None = None) -> str:
    """Count the images, studies or patients of a split, or `count` of them, as in "1,024 validation images"."""
    unit = unit_of(summary)
    return plural(
        summary["images"] if count is None else count,
        unit if split == "table" else f"{SPLIT_TITLES[split].lower()} {unit}",
    )


JOINED = {"mean": "the mean", "max": "the largest", "noisy-or": "the noisy-or"}
"""How a unit's probability is formed from those of its images, keyed by `--unit-join`."""


def joining_text(summary: Mapping[str, Any]) -> str:
    """Describe the studies or patients that are evaluated, and how their images were joined; "" for images."""
    found = summary.get("unit", {})
    if not {"join", "images", "of_one_image"} <= found.keys():
        return ""
    unit, differ = found["name"], found.get("of_different_labels", 0)
    sentences = [
        f"By {unit}: the probability of each {unit} is {JOINED[found['join']]} of the probabilities of its images "
        f"({plural(found['images'], 'image')} in all; {plural(found['of_one_image'], unit)} with one image).",
        f"{plural(differ, unit)} with images of different labels: positive if one image is." if differ else "",
        f"A radiograph that is shown represents its {unit}.",
    ]
    return " ".join(filter(None, sentences))


def images_of_patients(summary: Mapping[str, Any], split: str = "table") -> str:
    """Count as in "1,024 test images of 312 patients", without the split for "table"."""
    patients, unit = summary.get("patients"), summary.get("unit", {})
    counted = split_images(split, summary)
    if "images" in unit:
        counted += f" ({plural(unit['images'], 'image')})"
    return counted + (f" of {plural(patients, 'patient')}" if patients and unit_of(summary) != "patient" else "")


def population_text(summary: Mapping[str, Any]) -> str:
    """Describe sex and age of the patients (or images) and the views of a split, and name what is not known."""
    found = summary.get("population")
    if found is None:  # written by an older version
        return ""
    sex = {{"F": "female", "M": "male"}.get(name, name): n for name, n in found.get("sex", {}).items()}
    told = {"sex": _shares(sex), "age": "", "view": _shares(found.get("view", {}))}
    if ages := found.get("age"):
        unknown = f" (not known of {ages['unknown']:,})" if ages["unknown"] else ""
        told["age"] = f"median age {ages['median']:.0f}, quartiles {ages['q1']:.0f} and {ages['q3']:.0f}{unknown}"
    people = ", ".join(filter(None, [told["sex"], told["age"]]))
    whose = "Patients" if found["patients"] else units_of(summary)
    sentences = [f"{whose}: {people}." if people else "", f"Views: {told['view']}." if told["view"] else ""]
    if lacking := [name for name, text in told.items() if not text]:
        sentences.append(f"Not known: {', '.join(lacking)}.")
    return " ".join(filter(None, sentences))


def _shares(counts: Mapping[str, int]) -> str:
    """Format shares as in "53.1% female, 46.9% male"; "" if none is known."""
    total = sum(counts.values())
    shown = [
        f"{percent(n, total)} {name or 'not known'}" for name, n in sorted(counts.items(), key=lambda one: -one[1])
    ]
    return shorten(shown, 5) if any(counts) else ""


def resampled_units(summary: Mapping[str, Any]) -> str:
    """Count what the bootstrap resamples, as in "136 patients and 25 images of unknown patients"."""
    intervals, patients = summary["intervals"], summary.get("patients")
    alone = intervals["units"] - patients if intervals["by"] == "patient" and patients is not None else 0
    if alone <= 0:
        return plural(intervals["units"], intervals["by"])
    return f"{plural(patients or 0, 'patient')} and {plural(alone, unit_of(summary))} of unknown patients"


def external_tables(metrics: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the tables of an evaluation on other data that compare its results and prevalence with the run's own.

    Each is a title, columns and rows.
    """
    found = []
    if internal := metrics.get("internal"):
        rows = [
            [
                metric_title(row["metric"]) + ("" if row["label"] is None else f", {row['label']}"),
                format_cell(row["internal"]),
                format_cell(row["external"]),
                format_cell(row["difference"])
                if row["low"] is None
                else f"{format_value(row['difference'], '.3f')} ({format_interval(row['low'], row['high'])})",
                row["reason"],
            ]
            for row in internal["rows"]
        ]
        own = SPLIT_TITLES[internal["split"]].lower()
        columns = ["Metric", f"Run's {own} split", "Here", "Difference", "Why not"]
        if not any(row[-1] for row in rows):
            columns, rows = columns[:-1], [row[:-1] for row in rows]
        title = f"Compared with the run's own {own} split"
        if len({row["label"] for row in internal["rows"]}) > FEW_LABELS:
            decided = [row["label"] is not None and row["metric"] != "auroc" for row in internal["rows"]]
            rest = [row for row, one in zip(rows, decided, strict=True) if one]
            rows = [row for row, one in zip(rows, decided, strict=True) if not one]
            found.append((f"{title}: recall and specificity of each label", columns, rest))
        found.insert(0, (title, columns, rows))
    if prevalence := metrics.get("prevalence"):
        columns = ["Label", "Validation", "Here", "Estimated here", "Log loss", "Log loss, corrected"]
        rows = [
            [
                row["label"],
                f"{row['validation']:.3f} ({format_interval(row['low'], row['high'])})",
                *(format_cell(row[name]) for name in ("here", "estimated", "log_loss", "log_loss_corrected")),
            ]
            for row in prevalence
        ]
        found.append(("Prevalence, and the effect of correcting for it (--correct-prior)", columns, rows))
    return found


def gap_title(gap: Mapping[str, Any]) -> str:
    """Name what differs between two subgroups: "AUROC of Edema", or a mean with its number of labels."""
    of = f" of {gap['label']}" if gap["label"] else f" over {gap['labels']} labels" if "labels" in gap else ""
    return f"{metric_phrase(gap['metric'])}{of}"


def gap_test(gap: Mapping[str, Any]) -> str:
    """Describe the test of a gap between subgroups, as in "p 0.03, the largest of 10 pairs"; "" if there was none."""
    if gap.get("p_corrected") is None:
        return ""
    of_pairs = f", the largest of {gap['pairs']} pairs" if gap["pairs"] > 1 else ""
    decides = "" if gap["p_corrected"] < ALPHA or not (gap["low"] or 0) > 0 else ALONE_DECIDES
    return f"p {gap['p_corrected']:.2g}{of_pairs}{decides}"


def warning_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Return the headline warnings of a summary, each followed by its advice."""
    return [f"{one['text']} {one['advice']}".strip() for one in summary.get("warnings", ())]


def other_remarks(remarks: Iterable[str], *summaries: Mapping[str, Any]) -> list[str]:
    """Return the remarks of a run that are not already among the headline warnings."""
    warnings = [one for summary in summaries for one in summary.get("warnings", ())]
    shown = tuple(NO_PATIENTS_KNOWN if one["code"] == "patients unknown" else one["text"] for one in warnings)
    return [remark for remark in remarks if not remark.startswith(shown)]


def interval_methods(summary: Mapping[str, Any]) -> str:
    """Name the methods of the intervals of a summary, such as "Wilson, expanded BCa bootstrap"."""
    found = summary["intervals"]
    rows = [found.get("overall", {}), *found.get("per_label", {}).values()]
    used = {one.get("method") for row in rows for one in row.values() if one["low"] is not None}
    return ", ".join(title for name, title in METHODS.items() if name in used) or "bootstrap"

"""What the pages and the Markdown documents share: words, counts, and the interval of a metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from xrayfast.config import ModelConfig, hidden_units
from xrayfast.errors import format_cell, format_interval, format_value, plural, plural_noun, shorten
from xrayfast.metrics.inputs import ALPHA
from xrayfast.metrics.intervals.formulas import METHODS
from xrayfast.metrics.registry import metric_title

SPLIT_TITLES = {
    "train": "Training",
    "valid": "Validation",
    "test": "Test",
    "external": "External test",
    "folds": "Out-of-fold",
    "table": "Predictions",
}
"""What people read for the splits of a data set, for an external test, for the folds of a cross-validation, and for a
table of predictions."""

FEW_LABELS = 6
"""Most rows of a table by label that is open on a page; longer ones that are not needed first are folded."""

ALONE_DECIDES = ", so it may be chance (the interval is of this gap alone)"
"""Stands after the p of a gap whose interval excludes 0, though p, corrected for the number of gaps, is not small."""

NOT_CALIBRATED = "Probabilities are the network's own; they were not calibrated."


def label_rows(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows by label of a summary to show: of two classes that of the positive one, which tells all of the other."""
    positive = summary.get("positive")
    return [row for row in summary["per_label"] if positive in (None, row["label"])]


_MEANS = ("auroc_macro", "ap_macro", "f1_macro", "recall_macro", "specificity_macro")


def of_positive(summary: Mapping[str, Any], name: str) -> tuple[str, str, Mapping[str, Any] | None]:
    """The title and name of a metric over all labels, and None; of two classes, in place of a mean over both, which
    says less, those of the metric of the positive one, and its row of `per_label`.
    """
    if "positive" not in summary or name not in _MEANS:
        return metric_title(name), name, None
    (row,) = label_rows(summary)
    name = name.removesuffix("_macro")
    return f"{metric_title(name)} of {row['label']}", name, row


def hidden_layers(model: ModelConfig) -> str:
    """The hidden layers of a head, such as "500 hidden units, then 100 hidden units", and its dropout where that was
    set; "" where it has none.
    """
    layers = ", then ".join(plural(width, "hidden unit") for width in hidden_units(model.head, model.head_width))
    dropout = "" if model.dropout is None else f"dropout {model.dropout:g}"
    return ", ".join(filter(None, [layers, dropout]))


def percent(count: float, total: float = 1.0) -> str:
    """A share in per cent with one decimal; `total` is above 0."""
    return f"{100 * count / total:.1f}%"


def unit_of(summary: Mapping[str, Any]) -> str:
    """What a summary counts: "image", "study" or "patient"."""
    name: str = summary.get("unit", {}).get("name", "image")
    return name


def units_of(summary: Mapping[str, Any]) -> str:
    """The same as a heading: "Images"."""
    return plural_noun(unit_of(summary)).capitalize()


def split_images(split: str, summary: Mapping[str, Any], count: int | None = None) -> str:
    """All images of a split, or some of them, as in "1,024 validation images"; or its studies or patients."""
    unit = unit_of(summary)
    return plural(
        summary["images"] if count is None else count,
        unit if split == "table" else f"{SPLIT_TITLES[split].lower()} {unit}",
    )


JOINED = {"mean": "the mean", "max": "the largest", "noisy-or": "the noisy-or"}
"""What a unit's probability is of those of its images, by `--unit-join`."""


def joining_text(summary: Mapping[str, Any]) -> str:
    """What studies or patients are evaluated, and how their images were joined; "" for images."""
    found = summary.get("unit", {})
    if not {"join", "images", "of_one_image"} <= found.keys():
        return ""
    unit, differ = found["name"], found.get("of_different_labels", 0)
    sentences = [
        f"By {unit}: the probability of each is {JOINED[found['join']]} of those of its images, "
        f"{plural(found['images'], 'image')} in all; {plural(found['of_one_image'], unit)} of one image.",
        f"{plural(differ, unit)} with images of different labels: positive where one is." if differ else "",
        f"A radiograph that is shown stands for its {unit}.",
    ]
    return " ".join(filter(None, sentences))


def images_of_patients(summary: Mapping[str, Any]) -> str:
    """As in "1,024 images of 312 patients"."""
    patients, unit = summary.get("patients"), summary.get("unit", {})
    counted = plural(summary["images"], unit_of(summary))
    if "images" in unit:
        counted += f" ({plural(unit['images'], 'image')})"
    return counted + (f" of {plural(patients, 'patient')}" if patients and unit_of(summary) != "patient" else "")


def population_text(summary: Mapping[str, Any]) -> str:
    """Sex and age of patients (or images) and the views of a split, and which of these are not known."""
    found = summary.get("population")
    if found is None:  # of an older version
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
    """As in "53.1% female, 46.9% male"; "" where none is known."""
    total = sum(counts.values())
    shown = [
        f"{percent(n, total)} {name or 'not known'}" for name, n in sorted(counts.items(), key=lambda one: -one[1])
    ]
    return shorten(shown, 5) if any(counts) else ""


def resampled_units(summary: Mapping[str, Any]) -> str:
    """What the bootstrap draws, such as "136 patients and 25 images of unknown patients"."""
    intervals, patients = summary["intervals"], summary.get("patients")
    alone = intervals["units"] - patients if intervals["by"] == "patient" and patients is not None else 0
    if alone <= 0:
        return plural(intervals["units"], intervals["by"])
    return f"{plural(patients or 0, 'patient')} and {plural(alone, unit_of(summary))} of unknown patients"


def external_tables(metrics: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Of an evaluation on other data, its results beside the run's own and its prevalence: title, columns and rows."""
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
        title = f"Beside the run's own {own} split"
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
        found.append(("Prevalence, and what a correction for it does (--correct-prior)", columns, rows))
    return found


def gap_title(gap: Mapping[str, Any]) -> str:
    """What differs between two subgroups: "AUROC of Edema", or a mean with the number of its labels."""
    of = f" of {gap['label']}" if gap["label"] else f" over {gap['labels']} labels" if "labels" in gap else ""
    return f"{metric_title(gap['metric'])}{of}"


def gap_test(gap: Mapping[str, Any]) -> str:
    """The test of a gap between subgroups, such as "p 0.03, the largest of 10 pairs"; "" where there was none."""
    if gap.get("p_corrected") is None:
        return ""
    of_pairs = f", the largest of {gap['pairs']} pairs" if gap["pairs"] > 1 else ""
    decides = "" if gap["p_corrected"] < ALPHA or not (gap["low"] or 0) > 0 else ALONE_DECIDES
    return f"p {gap['p_corrected']:.2g}{of_pairs}{decides}"


def warning_sentences(summary: Mapping[str, Any]) -> list[str]:
    """The warnings beside the headline of a summary, each with what to do."""
    return [f"{one['text']} {one['advice']}".strip() for one in summary.get("warnings", ())]


def other_remarks(remarks: Iterable[str], *summaries: Mapping[str, Any]) -> list[str]:
    """The remarks of a run but for those that are beside a headline already."""
    shown = tuple(one["text"] for summary in summaries for one in summary.get("warnings", ()))
    return [remark for remark in remarks if not remark.startswith(shown)]


def interval_methods(summary: Mapping[str, Any]) -> str:
    """How the intervals of a summary were computed, such as "Wilson, expanded BCa bootstrap"."""
    found = summary["intervals"]
    rows = [found.get("overall", {}), *found.get("per_label", {}).values()]
    used = {one.get("method") for row in rows for one in row.values() if one["low"] is not None}
    return ", ".join(title for name, title in METHODS.items() if name in used) or "bootstrap"


def interval_of(summary: Mapping[str, Any], metric: str, label: str | None = None) -> Mapping[str, Any] | None:
    """The interval of a metric over all labels, or of one label; None where there is none."""
    intervals = summary.get("intervals", {})
    by_metric = intervals.get("overall", {}) if label is None else intervals.get("per_label", {}).get(label, {})
    found: Mapping[str, Any] | None = by_metric.get(metric)
    return found

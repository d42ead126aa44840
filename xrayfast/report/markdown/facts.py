"""What a run's own files tell, as sentences and tables for `model_card.md` and `claim.md`.

Nothing is made up: what a file does not hold is "not recorded", and an undefined number a dash. Paths are cut to the
last name, since cards are passed on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from unicodedata import category

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from xrayfast.config import Config, Task
from xrayfast.errors import RunError, plural, shorten
from xrayfast.metrics.registry import headline_metrics, metric_title, prevalence_metrics
from xrayfast.metrics.summary import AT_THRESHOLD
from xrayfast.run import PREDICTED_SPLITS, Run
from xrayfast.run_files import EvaluationMetrics, MetricsFile, RunInfo, SplitSummary

PURPOSE = "For research and teaching, not for diagnosis."
UNRECORDED = "not recorded"
DASH = "–"
SPLIT_TITLES = {"train": "Training", "valid": "Validation", "test": "Test"}

_LABEL_COLUMNS = ("auroc", "ap", "recall", "specificity", "precision", "npv", "f1")
_TEMPLATES = Path(__file__).parent / "templates"


# Markdown


class Markdown(str):
    """Text that is Markdown already, and is not escaped again."""

    __slots__ = ()


GAP = Markdown("[to be completed by the author]")


def plain(value: object) -> Markdown:
    r"""A stranger's text as one line of Markdown that shows it as it is: no markup, no HTML, no links.

    >>> print(plain("a|b <i> *c*"))
    a&#124;b &lt;i&gt; \*c\*
    """
    if isinstance(value, Markdown):
        return value
    text = " ".join(str(value).split())
    text = "".join("\N{REPLACEMENT CHARACTER}" if category(c) in ("Cc", "Cs") else c for c in text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    text = re.sub(r"([\\`*\[\]~$])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda found: "\\" + found[0], text)
    # GitHub and the Hub make links of bare addresses.
    text = text.replace("://", "&#58;//").replace("@", "&#64;")
    text = re.sub(r"(?i)\b(www)\.", r"\1&#46;", text)
    # What would begin a heading, a list or a rule, or end a heading.
    text = re.sub(r"^(\d*)([#+\-=.)])(?=\s|$|[#+\-=])", r"\1\\\2", text)
    return Markdown(re.sub(r"(?<= )#(?=#*$)", r"\\#", text))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markdown:
    """A Markdown table, its cells escaped; columns of numbers are aligned to the right."""
    cells = [[plain(cell) for cell in row] for row in rows]
    numeric = [all(re.match(rf"-?\d|{DASH}", row[i]) for row in cells) for i in range(len(columns))]
    ruler = ["---:" if right else "---" for right in numeric]
    lines: list[Sequence[str]] = [[plain(name) for name in columns], ruler, *cells]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def filled(run: Run, template: str, view: Callable[[Facts], Mapping[str, Any]]) -> str:
    """A template of Markdown with what `view` makes of a run's facts; all that is not `Markdown` is escaped.

    Raises:
        RunError: a file of the run is damaged.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=False,  # for HTML; `finalize` escapes for Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=plain,
    )
    return environment.get_template(template).render(view(read(run)))


# The run


@dataclass(frozen=True)
class Facts:
    """What stands in a run's folder.

    Attributes:
        name: of the run.
        task: "single" or "multi".
        labels: the names of the network's outputs, in order.
        config: all settings.
        info: `run.json`.
        results: the summary of each split that was measured, valid before test.
        decision: calibration and operating points, as `metrics.decision.Decision.to_json` gives them.
        epochs: rows of the history.
        sizes: that the images had in them, in px, in order.
        global_batch: images in a training batch.
        saliency: how the network was looked into: the split, its cases, and notes; empty where it was not.
        split: image, patient and split of each image, all text; None where there is no `split.csv`.
        tests: the finished evaluations: their names and `metrics.json`.
        damaged: the names of evaluations that can't be read.
    """

    name: str
    task: Task
    labels: tuple[str, ...]
    config: Config
    info: RunInfo
    results: Mapping[str, SplitSummary]
    decision: Mapping[str, Any]
    epochs: int
    sizes: tuple[int, ...]
    global_batch: int
    saliency: Mapping[str, Any]
    split: pd.DataFrame | None
    tests: tuple[tuple[str, EvaluationMetrics], ...]
    damaged: tuple[str, ...]

    @property
    def planned(self) -> bool:
        """Whether `fit` planned the training; of a run that was trained by hand and saved the schedule is not known."""
        return self.info.phases is not None

    @property
    def main(self) -> tuple[str, SplitSummary] | None:
        """The part that says most, and its summary: the test split, else validation; None where none was measured."""
        return list(self.results.items())[-1] if self.results else None


def read(run: Run) -> Facts:
    """Read what a run's folder holds; older runs, and those that are not complete, lack some of it.

    Raises:
        RunError: a file is damaged.
    """
    metrics: MetricsFile = run.metrics if run.predicted_splits else {}
    history = run.history if run.predicted_splits else pd.DataFrame()
    tests, damaged = _tests(run)
    return Facts(
        name=run.path.resolve().name,
        task=run.task,
        labels=run.labels,
        config=run.config,
        info=run.info,
        results={split: metrics[split] for split in PREDICTED_SPLITS if split in metrics},
        decision=run.decision.to_json(),
        epochs=len(history),
        sizes=tuple(size for size, _ in groupby(history["size"])) if "size" in history else (),
        global_batch=run.global_batch,
        saliency=metrics.get("saliency", {}),
        split=_split(run),
        tests=tests,
        damaged=damaged,
    )


def _tests(run: Run) -> tuple[tuple[tuple[str, EvaluationMetrics], ...], tuple[str, ...]]:
    """The evaluations that can be read, and the names of the others: one of them must not hide the rest."""
    found, damaged = [], []
    for test in run.evaluations:
        try:
            metrics = test.metrics
        except RunError:
            damaged.append(test.path.name)
            continue
        labels = [row["label"] for row in metrics["result"]["per_label"]]
        if labels == list(run.labels) and metrics["result"]["overall"].keys() >= set(headline_metrics(run.task)):
            found.append((test.path.name, metrics))
        else:
            damaged.append(test.path.name)
    return tuple(found), tuple(damaged)


def _split(run: Run) -> pd.DataFrame | None:
    try:
        path = run.split_path
    except RunError:  # there is none
        return None
    try:
        split = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise RunError(f"{path}: can't be read as a table ({error}).") from error
    if not {"image", "patient", "split"} <= set(split):
        raise RunError(f"{path}: expected the columns image, patient and split; found {shorten(split.columns)}.")
    return split


# Numbers


def number(value: Any, form: str = ".3f") -> str:
    """A number, or a dash for one that is not there or not finite.

    >>> number(0.25), number(None)
    ('0.250', '–')
    """
    return DASH if value is None or not math.isfinite(value) else format(value, form)


def estimate(summary: Mapping[str, Any], name: str, label: str | None = None) -> str:
    """A metric with its interval, such as "0.941 (0.905 to 0.967)"; overall, or of one label."""
    found = summary.get("intervals") or {}
    if label is None:
        value, ends = summary["overall"].get(name), found.get("overall", {})
    else:
        value = next(row.get(name) for row in summary["per_label"] if row["label"] == label)
        ends = found.get("per_label", {}).get(label, {})
    end = ends.get(name) or {}
    if value is None or end.get("low") is None or end.get("high") is None:
        return number(value)
    return f"{number(value)} ({number(end['low'])} to {number(end['high'])})"


def drawn_units(summary: Mapping[str, Any]) -> str:
    """What resamples are drawn from, such as "136 patients and 25 images of unknown patients"."""
    found, people = summary["intervals"], summary.get("patients")
    alone = found["units"] - people if found["by"] == "patient" and people is not None else 0
    if alone <= 0:
        return plural(found["units"], found["by"])
    return f"{plural(people or 0, 'patient')} and {plural(alone, 'image')} of unknown patients"


def share(summary: Mapping[str, Any]) -> str:
    """How much was measured, such as "225 images of 137 patients"."""
    people = summary.get("patients")
    return plural(summary["images"], "image") + (f" of {plural(people, 'patient')}" if people else "")


def interval_note(summary: Mapping[str, Any]) -> str:
    """How the intervals were made, or that there are none."""
    found = summary.get("intervals")
    if not found:
        return "No intervals were computed: these are point estimates."
    units = f" over {drawn_units(summary)}" if "units" in found and "by" in found else ""
    how = f", {found['resamples']:,} resamples with replacement, seed {found['seed']}" if "resamples" in found else ""
    return f"In parentheses: {found.get('level', 0.95):.0%} intervals by bootstrap{units}{how}."


def overall_table(facts: Facts, summary: Mapping[str, Any]) -> Markdown:
    """The headline metrics, those that the summary has, with their intervals."""
    names = [name for name in headline_metrics(facts.task) if name in summary["overall"]]
    rows = [(metric_title(name), estimate(summary, name)) for name in names]
    return table(("Metric", "Value"), rows)


def label_table(summary: Mapping[str, Any]) -> Markdown:
    """A label a row: images with and without it, and its metrics with their intervals."""
    keys = [key for key in (*_LABEL_COLUMNS, *prevalence_metrics()) if any(key in row for row in summary["per_label"])]
    counts = {"support": "Images with", "negatives": "Images without"}
    counts = {key: words for key, words in counts.items() if any(key in row for row in summary["per_label"])}
    rows = [
        [
            row["label"],
            *(number(row.get(key), ",d") for key in counts),
            *(estimate(summary, key, row["label"]) for key in keys),
        ]
        for row in summary["per_label"]
    ]
    return table(("Label", *counts.values(), *map(metric_title, keys)), rows)


def threshold_blocks(summary: Mapping[str, Any]) -> list[Markdown]:
    """Each class against the rest at its threshold, where thresholds were chosen for one class an image."""
    found = summary.get("at_thresholds")
    if not found:
        return []

    def told(row: Mapping[str, Any], name: str) -> str:
        end = row["intervals"].get(name) or {}
        ends = "" if end.get("low") is None else f" ({number(end['low'])} to {number(end['high'])})"
        return number(row[name]) + ends

    names = map(metric_title, AT_THRESHOLD)
    rows = [
        (row["label"], number(row["threshold"], ".4g"), *(told(row, name) for name in AT_THRESHOLD)) for row in found
    ]
    return [table(("Class against the rest, at its threshold", "Threshold", *names), rows)]


def subgroup_blocks(facts: Facts, summary: Mapping[str, Any]) -> list[str]:
    """For each of sex, age and so on: a table of its groups, and the largest gaps as sentences."""
    keys = [key for key in headline_metrics(facts.task) if key in summary["overall"]][:5]
    blocks: list[str] = []
    for by in summary.get("subgroups") or ():
        rows = [
            [
                group["value"],
                number(group.get("images"), ",d"),
                number(group.get("patients"), ",d"),
                *(estimate(group, key) for key in keys),
            ]
            for group in by["groups"]
        ]
        missing = f" (unknown of {plural(by['missing'], 'image')})" if by.get("missing") else ""
        blocks.append(f"By {by['by']}{missing}:")
        blocks.append(table((by["by"].capitalize(), "Images", "Patients", *map(metric_title, keys)), rows))
        blocks += [_gap(gap) for gap in (by.get("gaps") or ())[:3]]
        blocks += [str(note) for note in by.get("notes") or ()]
    return blocks


def _gap(gap: Mapping[str, Any]) -> str:
    mean = f", mean over {plural(gap['labels'], 'label')}" if gap.get("labels") else ""
    of = f" of {gap['label']}" if gap.get("label") else mean
    ends = "" if gap.get("low") is None else f" ({number(gap['low'])} to {number(gap['high'])})"
    return (
        f"Gap in {metric_title(gap['metric'])}{of}: highest for {gap['highest']}, lowest for {gap['lowest']}, "
        f"difference {number(gap['difference'])}{ends}."
    )

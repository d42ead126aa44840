"""The content of a run's files, read once for `model_card.md` and `claim.md`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby

import pandas as pd

from xrayfast.config import PREDICTED_SPLITS, Config, Task
from xrayfast.errors import RunError
from xrayfast.files.csv_tables import read_csv
from xrayfast.files.file_names import relative_path
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.registry import headline_metrics
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.info_types import RunInfo
from xrayfast.runs.metrics_types import EvaluationMetrics, MetricsFile, Saliency, SplitSummary
from xrayfast.runs.run import Run


@dataclass(frozen=True)
class RunFacts:
    """The content of a run's folder.

    Attributes:
        labels: the names of the network's outputs, in order.
        results: the summary of each evaluated split, valid before test.
        epochs: rows of the history.
        global_batch: images per training batch over all ranks.
        network: the folder of the first network, relative to the run's; "." for a run with a network of its own.
        saliency: the images that were explained, their split, and notes; None if there are none.
        split: image, patient and split of each image, all text; None if there is no `split.csv`.
        evaluations: names and contents of `metrics.json` of the finished evaluations.
        damaged: the names of evaluations that can't be read.
    """

    name: str
    task: Task
    labels: tuple[str, ...]
    config: Config
    info: RunInfo
    results: Mapping[str, SplitSummary]
    decision: Decision
    epochs: int
    sizes: tuple[int, ...]
    global_batch: int
    network: str
    saliency: Saliency | None
    split: pd.DataFrame | None
    evaluations: tuple[tuple[str, EvaluationMetrics], ...]
    damaged: tuple[str, ...]

    @property
    def planned(self) -> bool:
        """Whether `fit` trained the run; the schedule of a run that was trained by hand is not known."""
        return self.info.phases is not None

    @property
    def main_split(self) -> tuple[str, SplitSummary] | None:
        """The name and summary of the test split, or else of validation; None if no split was evaluated."""
        return list(self.results.items())[-1] if self.results else None


def read_run_facts(run: Run) -> RunFacts:
    """Read a run's folder; an older or incomplete run may lack files."""
    metrics: MetricsFile = run.metrics if run.predicted_splits else {}
    network = run.first_network
    history = network.history if run.predicted_splits else pd.DataFrame()
    evaluations, damaged = _evaluations(run)
    return RunFacts(
        name=run.path.resolve().name,
        task=run.task,
        labels=run.labels,
        config=run.config,
        info=run.info,
        results={split: metrics[split] for split in PREDICTED_SPLITS if split in metrics},
        decision=run.decision,
        epochs=len(history),
        sizes=tuple(size for size, _ in groupby(history["size"])) if "size" in history else (),
        global_batch=run.global_batch,
        network=relative_path(network.path, run.path),
        saliency=metrics.get("saliency"),
        split=_split(run),
        evaluations=evaluations,
        damaged=damaged,
    )


def read_cross_validation_facts(cv: CrossValidation) -> RunFacts:
    """Read a cross-validation's folder.

    Facts on a single network are those of the first fold; the split "folds" means the out-of-fold predictions.
    """
    metrics, counts = cv.metrics, {**cv.info.counts, "folds": cv.info.counts["valid"]}
    del counts["valid"]
    evaluations, damaged = _evaluations(cv)
    return replace(
        read_run_facts(cv.runs[0]),
        name=cv.path.resolve().name,
        network=relative_path(cv.first_network.path, cv.path),
        config=cv.config,
        info=cv.info.model_copy(update={"counts": counts}),
        results={"folds": metrics["valid"], **({"test": metrics["test"]} if "test" in metrics else {})},
        decision=cv.decision,
        saliency=metrics.get("saliency"),
        evaluations=evaluations,
        damaged=damaged,
    )


def _evaluations(run: Run) -> tuple[tuple[tuple[str, EvaluationMetrics], ...], tuple[str, ...]]:
    """Return the evaluations that can be read, and the names of the damaged ones."""
    valid, damaged = [], []
    for evaluation in run.evaluations:
        with contextlib.suppress(RunError):
            metrics = evaluation.metrics
            labels = tuple(row["label"] for row in metrics["result"]["per_label"])
            if labels == run.labels and metrics["result"]["overall"].keys() >= set(headline_metrics(run.task)):
                valid.append((evaluation.path.name, metrics))
                continue
        damaged.append(evaluation.path.name)
    return tuple(valid), tuple(damaged)


def _split(run: Run) -> pd.DataFrame | None:
    try:
        path = run.split_path
    except RunError:  # there is none
        return None
    return read_csv(path, ("image", "patient", "split"), dtype=str, keep_default_na=False)

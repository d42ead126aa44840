"""The folder of an evaluation of a run: the only module that knows its paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import escape_hidden
from xrayfast.files.atomic import write_json
from xrayfast.files.writable import ensure_folder
from xrayfast.runs.folder import Folder, PathInFolder
from xrayfast.runs.info_types import EvaluationInfo
from xrayfast.runs.json_files import read_typed
from xrayfast.runs.metrics_types import EvaluationMetrics
from xrayfast.runs.predictions import Predictions

EVALUATION_FILE, METRICS_FILE, PREDICTIONS_FILE = "evaluation.json", "metrics.json", "predictions.csv"


class Evaluation(Folder):
    """An evaluation of a run on its own or on other data: reads and writes the files of its folder, as `Run` does.

    Args:
        path: the folder.
        labels: the run's labels, in order.

    Attributes:
        report_path: `evaluation.html`.
    """

    report_path = PathInFolder("evaluation.html")

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        super().__init__(path)
        self.labels = tuple(labels)

    def __repr__(self) -> str:
        return f"Evaluation('{escape_hidden(str(self.path))}')"

    @staticmethod
    @check_arguments()
    def is_finished(path: Path) -> bool:
        """Whether the folder holds a finished evaluation."""
        return (path / METRICS_FILE).is_file()

    @property
    def info(self) -> EvaluationInfo:
        """The content of `evaluation.json`: command line, time, versions."""
        return read_typed(self.path / EVALUATION_FILE, EvaluationInfo)

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Write `evaluation.json`."""
        write_json(self.path / EVALUATION_FILE, dict(info))

    @property
    def metrics(self) -> EvaluationMetrics:
        """The content of `metrics.json`: `result`, from `metrics.summary.summarize`, and the images and labels used."""
        metrics = read_typed(self.path / METRICS_FILE, EvaluationMetrics)
        if isinstance(before := metrics.pop("warnings", None), list):  # type: ignore[typeddict-item]
            # Versions before 0.6 wrote sentences.
            metrics["result"]["warnings"] = [{"code": "data", "text": str(one), "advice": ""} for one in before]
        return metrics

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write `metrics.json`, after all other files, because it marks the evaluation as finished."""
        write_json(self.path / METRICS_FILE, dict(metrics))

    @property
    def predictions(self) -> Predictions:
        """The predictions that were evaluated."""
        return Predictions.read(self.path / PREDICTIONS_FILE, self.labels)

    def write_predictions(self, predictions: Predictions) -> None:
        """Write `predictions.csv`."""
        predictions.write(self.path / PREDICTIONS_FILE)

    @check_arguments()
    def table_path(self, name: str) -> Path:
        """Return the path `tables/NAME.csv`, and create the folder if necessary."""
        return ensure_folder(self.path / "tables") / f"{name}.csv"

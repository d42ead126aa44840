"""Evaluate an exported classifier in place of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from xrayfast.config import Config, PredictedSplit
from xrayfast.errors import ConfigError, RunError
from xrayfast.errors.arguments import check_arguments
from xrayfast.exported.onnx_model import OnnxModel, damaged, is_model_file
from xrayfast.files.writable import why_unwritable
from xrayfast.metrics.claims.headline import VALIDATION_IMAGES
from xrayfast.runs.evaluation import Evaluation
from xrayfast.runs.info_types import RunInfo
from xrayfast.runs.names import SPLIT_FILE
from xrayfast.runs.new_folders import create_evaluation, require_free
from xrayfast.runs.run import Run


class ExportedRun:
    """An ONNX file of `export`, with the attributes of a run that an evaluation needs.

    Settings that the file does not hold, such as the seed and those of intervals, are the defaults of a new run.

    Attributes:
        config: the settings; size, window, implications, unit and `unit_join` are those of the file.
        info: the version of xrayfast and the fingerprint of the training data; other fields are unknown.

    Raises:
        RunError: the file does not exist, is damaged or was not written by `export`.
        ConfigError: onnxruntime is missing.
    """

    has_folds = False
    """The file does not say whether its networks were trained on folds."""

    predicted_splits: tuple[PredictedSplit, ...] = ()
    """The file holds no predictions."""

    chosen_on = VALIDATION_IMAGES
    """The images on which calibration and thresholds were chosen, in words."""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @check_arguments()
    def __init__(self, path: Path | str) -> None:
        self.path, self.model = Path(path), OnnxModel(path)
        known = self.model.metadata
        self.labels, self.task, self.decision = known.labels, known.task, self.model.decision
        unit = {"unit": self.decision.unit} | (
            {} if self.decision.unit == "image" else {"unit_join": self.decision.unit_join}
        )
        read: dict[str, Any] = {"size": known.size, "window": known.window, "imply": known.imply, **unit}
        try:
            self.config = Config().updated(read)
        except ConfigError as error:
            raise damaged(self.path, f"its metadata: {error}") from error
        self.info = RunInfo(xrayfast=known.xrayfast, fingerprint=known.fingerprint)

    def evaluations_folder(self, output: Path | None) -> Path:
        """Return the folder of its evaluations: `output`, or by default a folder next to the file."""
        return output.resolve() if output else self.path.with_name(f"{self.path.stem}-evaluations")

    def require_new_evaluation(self, name: str | None, output: Path | None = None) -> None:
        """Raise the errors of `create_evaluation` that can be detected beforehand, without writing anything."""
        root = self.evaluations_folder(output)
        require_free(root, name, "evaluation")
        there, problem = why_unwritable(root)
        if problem:
            raise RunError(
                f"{there}: can't be written ({problem}), but the evaluation would be saved there. Choose another "
                "folder with --output."
            )

    def create_evaluation(
        self, name: str | None, stem: str, write: Callable[[Evaluation], None], output: Path | None = None
    ) -> Evaluation:
        """Create a new evaluation's folder, like `Run.create_evaluation`."""
        return create_evaluation(self.evaluations_folder(output), self.labels, name, stem, write)


EvaluatedRun = Run | ExportedRun
"""The classifiers that `evaluate` takes."""


def knows_images(run: EvaluatedRun) -> TypeGuard[Run]:
    """Whether the run records which images it was trained on: exported files don't, nor do most downloaded runs."""
    return isinstance(run, Run) and (not run.downloaded or (run.path / SPLIT_FILE).is_file())


def open_evaluated(run: EvaluatedRun | Path | str) -> EvaluatedRun:
    """Open a run's folder or an ONNX file; return an opened run as it is."""
    if isinstance(run, ExportedRun):
        return run
    return ExportedRun(run) if not isinstance(run, Run) and is_model_file(run) else Run.of(run)

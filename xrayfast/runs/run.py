"""The folder of a run: the only module that knows its paths.

Nothing in it is pickled: weights are safetensors, and everything else is YAML, JSON, CSV, Markdown, PNG or HTML. Each
file is written to a temporary name and moved, and a new run never writes into a folder that exists.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xrayfast.config import PREDICTED_SPLITS, Config, PredictedSplit, Task
from xrayfast.data.corrections import Correction
from xrayfast.data.labels.positive_class import positive_class
from xrayfast.display.overview import report_module
from xrayfast.errors import ConfigError, RunError, plural, shorten
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import escape_hidden, warn
from xrayfast.files.atomic import write_json, write_text
from xrayfast.files.checksums import CHECKSUMS, start_checksums
from xrayfast.files.csv_tables import read_csv, write_csv
from xrayfast.files.file_names import portable_name, require_utf8
from xrayfast.files.intact import INFO_FILE, known_digests, require_intact
from xrayfast.files.run_lock import lock_run
from xrayfast.files.writable import ensure_folder, why_unwritable
from xrayfast.hub.download import PREFIX, download, is_hub_name
from xrayfast.metrics.claims.headline import VALIDATION_IMAGES
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.registry import epoch_metrics, history_column
from xrayfast.own_code import require_code
from xrayfast.runs.batches import read_batches
from xrayfast.runs.evaluation import Evaluation
from xrayfast.runs.folder import Folder, PathInFolder
from xrayfast.runs.info_types import LabelsFile, RunInfo
from xrayfast.runs.json_files import read_json, read_typed
from xrayfast.runs.metrics_types import MetricsFile, ShownImage, TrainingImages
from xrayfast.runs.names import (
    BATCHES_FILE,
    CHECKPOINT,
    CONFIG_FILE,
    CORRECTIONS,
    EVALUATIONS,
    FOLDS_FILE,
    HISTORY_FILE,
    LABELS_FILE,
    LEFT_OUT,
    METRICS_FILE,
    MODEL_FILE,
    SPLIT_FILE,
    TRAINING_IMAGES_FILE,
)
from xrayfast.runs.new_folders import create_evaluation, make_folder, require_free, temporary_folder
from xrayfast.runs.predictions import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes


OLD_HISTORY_COLUMNS = {name: history_column("valid", name) for name in epoch_metrics()}
"""Columns that had other names before version 0.3, and their present names."""

_HISTORY_COLUMNS = ["epoch", "phase", "train_loss", "valid_loss"]
"""The columns of every history."""


@cache
def published_run(name: str) -> Run:
    """Return the run with this name on the Hub, downloaded once per process; errors are those of `Run`."""
    return Run(name)


class Run(Folder):
    """A run: reads and writes the files of its folder. To read a missing or damaged file is a RunError that names it.

    Args:
        path: the folder of an existing run; or `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`, which is downloaded from the
            Hub.

    Attributes:
        path: the folder.
        downloaded: the repository and commit of a downloaded run, which is read-only; None for a folder.
        report_path: `report.html`; written by `interpret`.
        model_card_path: `model_card.md`.
        claim_path: `claim.md`.
        new_model_path: where the weights of the best epoch are written.
        new_batches_path: where `batches.csv` is written.
        checkpoint: the folder that `--resume` reads; it may not exist.

    Raises:
        RunError: the folder does not exist or is not a run's; or the Hub has no such run, or can't be reached.
        ConfigError: the name is not a valid name on the Hub, or huggingface_hub is missing.
    """

    report_path, claim_path = PathInFolder("report.html"), PathInFolder("claim.md")
    model_card_path, new_model_path = PathInFolder("model_card.md"), PathInFolder(MODEL_FILE)
    new_batches_path, checkpoint = PathInFolder(BATCHES_FILE), PathInFolder(CHECKPOINT)

    @check_arguments()
    def __init__(self, path: Path | str) -> None:
        self.downloaded = download(path) if is_hub_name(path) else None
        if self.downloaded and not self.downloaded.is_pinned:
            why, name = self.downloaded.unreachable, f"{PREFIX}{self.downloaded.repository}"
            before = f", from an earlier download, because the server can't be reached now ({why})" if why else ""
            warn(f"{name}: revision {self.downloaded.asked} is {self.downloaded}{before}.")
        super().__init__(self.downloaded.path if self.downloaded else Path(path))
        require_utf8([self.path], RunError)
        if not self.path.is_dir():
            exported = " An exported model works with 'predict' and 'evaluate'." if self.path.suffix == ".onnx" else ""
            found = "is a file, not a run's folder" if self.path.is_file() else "no such run"
            raise RunError(
                f"{self.path}: {found}. Runs are folders such as runs/resnet18-1, made by 'xrayfast fit'.{exported}"
            )
        if not (self.path / INFO_FILE).is_file():
            raise RunError(
                f"{self.path}: is not a run's folder: it lacks {INFO_FILE}. Runs are made by 'xrayfast fit'."
            )

    def __repr__(self) -> str:
        return f"Run('{escape_hidden(str(self.downloaded or self.path))}')"

    @property
    def name(self) -> str:
        """The name of the folder; for a downloaded run, its repository and commit."""
        return str(self.downloaded) if self.downloaded else self.path.absolute().name

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def has_folds(self) -> bool:
        """Whether it is a cross-validation, whose predictions of the split "valid" are out-of-fold predictions."""
        return (self.path / FOLDS_FILE).is_file()

    @property
    def chosen_on(self) -> str:
        """The images on which epoch, calibration and thresholds were chosen, in words."""
        if self.info.chosen_inside:
            return "the inner validation predictions"
        if self.has_folds:
            return "the out-of-fold predictions"
        return VALIDATION_IMAGES if self.config.results.unit == "image" else "the validation split"

    @classmethod
    def of(cls, run: Run | Path | str) -> Run:
        """Return the run itself, or the run in a folder."""
        return run if isinstance(run, Run) else cls(run)

    @classmethod
    def create(
        cls,
        root: Path,
        name: str | None,
        stem: str,
        config: Config,
        info: Mapping[str, Any],
        write: Callable[[Run], None] = lambda run: None,
    ) -> Run:
        """Create a folder for a run: `root/name`, or without a name the first free one of `root/stem-1`,
        `root/stem-2`, ...

        It appears with all its first files or not at all; `write` writes the files that are not written here.

        Raises:
            RunError: the name is taken or not a plain name, or the folder can't be written.
        """
        try:
            require_free(root, name, "run")
            root.mkdir(parents=True, exist_ok=True)
            with temporary_folder(root) as temporary:
                start_checksums(temporary)
                write_text(temporary / CONFIG_FILE, config.to_yaml())
                write_json(temporary / INFO_FILE, dict(info))
                write(cls(temporary))
                stems = (f"{portable_name(stem)}-{number}" for number in count(1))
                return cls(make_folder(root, name, stems, "run", make=temporary.rename))
        except OSError as error:
            raise RunError(
                f"{error.filename or root}: can't be written ({error.strerror}). Choose another folder with --runs."
            ) from error

    def lock(self, note: Callable[[str], None] = warn) -> AbstractContextManager[None]:
        """Make this the only process that writes to the run within a `with` block; see `xrayfast.files.run_lock`.

        Raises:
            RunError: another process, which the message names, writes to the run; or the run was downloaded.
            WriteError: the folder can't be written to.
        """
        if self.downloaded:
            raise RunError(
                f"{self.downloaded}: was downloaded, so nothing can be written to it, as this command would. Copy "
                f"{self.path} to another folder, and use that."
            )
        return lock_run(self.path, note)

    @staticmethod
    def require_creatable(root: Path, name: str | None) -> None:
        """Raise the errors of `create` that can be detected in advance, without writing anything.

        Raises:
            RunError: the name is taken or not a plain name, or the folder can't be written.
        """
        require_free(root, name, "run")
        there, problem = why_unwritable(root)
        if problem:
            raise RunError(f"{there}: can't be written ({problem}). Choose another folder with --runs.")

    @classmethod
    @check_arguments()
    def newest(cls, root: Path | str) -> Run:
        """Return the run under `root` that was started last.

        Raises:
            RunError: there is none.
        """
        found = {}
        for info in Path(root).glob(f"*/{INFO_FILE}"):
            try:
                run = cls(info.parent)
                found[run.info.started] = run
            except RunError as error:  # a damaged run must not hide the others
                warn(f"Ignored while searching for the newest run: {error}")
        if not found:
            raise RunError(f"{root}: contains no runs. Train one with 'xrayfast fit', or give a run's folder.")
        return found[max(found)]

    # The files

    @property
    def config(self) -> Config:
        """All settings of the run."""
        return Config.read(self._existing_file(CONFIG_FILE))

    def write_config(self, config: Config) -> None:
        """Replace `config.yaml`."""
        write_text(self.path / CONFIG_FILE, config.to_yaml())

    @staticmethod
    def require_code_of(config: Config, given: Mapping[str, Any]) -> None:
        """Raise a ConfigError if the settings are those of a run, and are used again without the code of the user's own
        that it had: settings that are code, callbacks, metrics, DataLoaders. `given` is the present code, by name.
        """
        names: dict[str, str] = {}
        with contextlib.suppress(RunError):  # the settings were not read from a run's folder
            names = Run(config.folder).info.own_code if config.folder else {}
        require_code(config.own_code | names, given, str(config.folder or "The configuration"))

    @property
    def info(self) -> RunInfo:
        """The content of `run.json`: status, versions, seeds, times."""
        return read_typed(self.path / INFO_FILE, RunInfo)

    @check_arguments()
    def total_seconds(self, seconds: float) -> float:
        """Return the wall-clock time of the run: the time in `run.json` plus `seconds`."""
        return round((self.info.seconds or 0.0) + seconds, 1)

    def update_info(self, **fields: Any) -> None:
        """Set some fields of `run.json`."""
        write_json(self.path / INFO_FILE, {**read_json(self.path / INFO_FILE), **fields})

    def require_known_transforms(self, what: str) -> None:
        """Raise a RunError that says `what` can't be done, if images went through transforms that are not saved."""
        if self.info.dataloaders == "own transforms":
            raise RunError(
                f"{self.path}: was trained on its user's own DataLoaders, whose transforms are not saved in the "
                f"folder, so {what}. In Python, xrayfast.load(run, dls) with such DataLoaders returns the learner, "
                "whose get_preds and predict read images as they do."
            )

    @property
    def members(self) -> list[Run]:
        """The networks whose probabilities are averaged, as runs; empty if the run has a network of its own.

        A member that has members itself, such as a fold with several networks, is replaced by these.

        Raises:
            RunError: `run.json` is damaged, a member is gone, or a downloaded run names members outside its folder.
        """
        members = self.info.members
        if self.downloaded and not all(re.fullmatch(r"member-\d+", member) for member in members):
            raise RunError(
                f"{self.downloaded}: refers to runs outside its folder: {shorten(map(repr, members))}. Do not trust it."
            )
        for member in members:
            if not (self.path / member).is_dir():
                advice = f"{self.resume_command} trains it."
                if Path(member).name != member:  # an ensemble of runs that were trained apart
                    advice = "Put it back."
                raise RunError(
                    f"{self.path}: {member}, which it averages, is missing; its status is '{self.info.status}'. "
                    f"{advice}"
                )
        runs = [Run(self.path / member) for member in members]
        return [network for run in runs for network in (run.members or [run])]

    @property
    def resume_command(self) -> str:
        """The command that resumes the run, in quotes."""
        if self.has_folds:
            return f"'xrayfast cross-validate --resume {self.path}'"
        return f"'xrayfast fit --resume {self.path}'"

    @property
    def first_network(self) -> Run:
        """The run itself or, if it has members, the first of them."""
        return next(iter(self.members), self)

    def require_network(self, advice: str = "") -> None:
        """Raise a RunError with advice, by default to use one of them, if the run has members instead of a network."""
        if members := self.info.members:
            advice = advice or f"Use one of them, such as {self.path / members[0]}."
            raise RunError(
                f"{self.path}: averages {plural(len(members), 'run')} and has no network of its own. {advice}"
            )

    @property
    def global_batch(self) -> int:
        """Images per training batch over all ranks."""
        return self.info.global_batch or self.config.train.batch_size

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the network's outputs, in order."""
        return self._labels_file().labels

    @property
    def task(self) -> Task:
        """Single-label ("single") or multi-label ("multi")."""
        return self._labels_file().task

    @property
    def decision(self) -> Decision:
        """Calibration and thresholds, as chosen on the validation split."""
        content = self._labels_file()
        try:
            decision = Decision.from_json(content.model_dump(), content.task, content.labels)
        except ValueError as error:
            raise RunError(f"{self.path / LABELS_FILE}: {error}.") from error
        # Versions before 0.6 recorded no positive class.
        return replace(decision, positive=decision.positive or positive_class(content.task, content.labels))

    def write_decision(self, decision: Decision) -> None:
        """Write `labels.json`: task, labels, calibration and thresholds."""
        content = {"task": decision.task, "labels": list(decision.labels), **decision.to_json()}
        write_json(self.path / LABELS_FILE, content)

    def _labels_file(self) -> LabelsFile:
        return read_typed(self.path / LABELS_FILE, LabelsFile)

    @property
    def model_path(self) -> Path:
        """The weights of the best epoch.

        Raises:
            RunError: there are none yet, or the run has members.
        """
        self.require_network()
        return self._existing_file(MODEL_FILE, "No epoch was completed, or the file was removed.")

    @property
    def has_epochs(self) -> bool:
        """Whether an epoch was finished."""
        return self.new_model_path.exists() or (self.path / HISTORY_FILE).exists()

    @property
    def has_checksums(self) -> bool:
        """Whether the run has checksums, with which damage to its files is noticed; versions before 0.4 wrote none."""
        return (self.path / CHECKSUMS).is_file()

    @property
    def split_path(self) -> Path:
        """`split.csv`: the split of each image."""
        return self._existing_file(SPLIT_FILE)

    def write_split(self, table: pd.DataFrame) -> None:
        """Write `split.csv`: the rows that are used, as `Manifest.split_table` returns them."""
        write_csv(self.path / SPLIT_FILE, table)

    def write_left_out(self, left_out: Iterable[tuple[str, Iterable[str]]]) -> None:
        """Write `left_out.csv` if images were left out, each with the reason, as in `Manifest.left_out`."""
        if rows := [(image, reason) for reason, images in left_out for image in images]:
            write_csv(self.path / LEFT_OUT, pd.DataFrame(rows, columns=["image", "reason"]))

    @property
    def corrections_path(self) -> Path | None:
        """`corrections.csv`: the labels that a reader corrected; None if there are none."""
        return None if self.config.data.corrections is None else self._existing_file(CORRECTIONS)

    def write_corrections(self, corrections: Iterable[Correction]) -> None:
        """Write `corrections.csv` if labels were corrected."""
        if rows := [one.row() for one in corrections]:
            write_csv(self.path / CORRECTIONS, pd.DataFrame(rows))

    def read_left_out(self) -> dict[str, str]:
        """Return the reasons in `left_out.csv`, by image; empty if there is no such file."""
        if not (self.path / LEFT_OUT).is_file():
            return {}
        table = read_csv(self.path / LEFT_OUT, ["image", "reason"], dtype=str, keep_default_na=False)
        return dict(zip(table["image"], table["reason"], strict=True))

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: phase, size, losses and metrics of both splits (`train_`, `valid_`), learning rates,
        seconds. Without rows if the run has members.
        """
        if self.info.members:
            return pd.DataFrame(columns=_HISTORY_COLUMNS)
        path = self._existing_file(HISTORY_FILE)
        table: pd.DataFrame = read_csv(path, _HISTORY_COLUMNS).rename(columns=OLD_HISTORY_COLUMNS)
        # A learner saved without training has no epochs, so its columns have no type.
        numbers = [name for name in table if name != "phase"]
        try:
            if not_numbers := {name: float for name in numbers if table[name].dtype.kind not in "if"}:
                table = table.astype(not_numbers)
            if np.isinf(table[numbers].to_numpy(dtype=float)).any():
                raise ValueError("one is infinite")
            for name, kind in {"epoch": int, "train_loss": float, "valid_loss": float}.items():
                table[name] = table[name].astype(kind)
        except ValueError as error:
            raise RunError(f"{path}: expected numbers ({error}).") from error
        return table

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `history.csv` with the rows so far."""
        write_csv(self.path / HISTORY_FILE, pd.DataFrame(list(rows), columns=None if rows else _HISTORY_COLUMNS))

    @property
    def batches(self) -> pd.DataFrame:
        """One row per training batch of the finished epochs, or fewer in a long run; see `xrayfast.runs.batches`.

        Raises:
            RunError: the file is damaged or missing; runs of older versions, runs made by `save` and runs that have
                members have none.
        """
        self.require_network()
        why = "Batches are not recorded in runs of versions before 0.3, and in runs that 'save' made."
        return read_batches(self._existing_file(BATCHES_FILE, why))

    @property
    def has_batches(self) -> bool:
        """Whether the batches were recorded."""
        return self.new_batches_path.is_file()

    def learner(self, data: Any = None, **options: Any) -> Any:
        """Return a fastai Learner with the run's weights and history, as `xrayfast.load` does."""
        # Imported by name, as in the package's root, because code that uses fastai may not be imported by this module.
        return importlib.import_module("xrayfast").load(self, data, **options)

    @check_arguments()
    def plot_batches(self, epoch: int | None = None, ax: Axes | None = None) -> Any:
        """Plot the training loss of every batch with its smoothed curve, and the learning rates below.

        Args:
            epoch: show only this epoch; None for all.
            ax: axes to draw the losses on; None for a new figure.

        Returns:
            The matplotlib Figure, which a notebook displays; or `ax`, if given.

        Raises:
            ConfigError: the run has no such epoch, or `ax` is not matplotlib axes.
            RunError: the run has no batches.
        """
        from xrayfast.display.notebook_figure import draw_or_display

        curves = report_module("figures.training_curves")
        return draw_or_display(ax, curves.draw_batch_losses, curves.batches_figure, self.batches, epoch)

    def plot_history(self, ax: Axes | Sequence[Axes] | None = None) -> Any:
        """Plot losses and metrics by epoch, with the phases named and the best epoch ringed.

        Args:
            ax: axes to draw the losses on, or a pair of axes for the losses and the metrics; None for a new figure.

        Returns:
            The matplotlib Figure, which a notebook displays; or `ax`, if given.

        Raises:
            ConfigError: `ax` is more than two axes, or not matplotlib axes.
            RunError: the run has no history, or has members.
        """
        from xrayfast.display.notebook_figure import display_after_cell, require_axes

        self.require_network()
        curves, drawn = report_module("figures.training_curves"), (self.history, self.info.best_epoch)
        if ax is None:
            return display_after_cell(curves.loss_and_metric_curves(*drawn))
        axes = list(ax) if isinstance(ax, Iterable) else [ax]
        if not 1 <= len(axes) <= 2:
            raise ConfigError(f"ax has {len(axes)} Axes; expected one, or two for losses and metrics.")
        if any(one is None for one in axes):
            raise ConfigError("ax contains None; expected one Axes, or two for losses and metrics.")
        for one in axes:
            require_axes(one)
        for draw, one in zip((curves.draw_loss_curves, curves.draw_metric_curves), axes, strict=False):
            draw(one, *drawn)
        return ax

    @property
    def metrics(self) -> MetricsFile:
        """The content of `metrics.json`: by split, the result of `metrics.summary.summarize`."""
        try:
            return read_typed(self.path / METRICS_FILE, MetricsFile)
        except RunError as error:
            again = f"'xrayfast interpret {self.path}' writes it again from the saved predictions."
            raise RunError(f"{error} {again}") from error

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write `metrics.json`."""
        write_json(self.path / METRICS_FILE, dict(metrics))

    @property
    def training_images(self) -> list[ShownImage]:
        """A few training images as the network saw them.

        There are none in runs of older versions, nor in runs on DataLoaders of the user's own.
        """
        path = self.path / TRAINING_IMAGES_FILE
        return read_typed(path, TrainingImages)["images"] if path.is_file() else []

    def write_training_images(self, images: Sequence[Mapping[str, Any]]) -> None:
        """Write `training_images.json`."""
        write_json(self.path / TRAINING_IMAGES_FILE, {"images": list(images)})

    @property
    def predicted_splits(self) -> tuple[PredictedSplit, ...]:
        """The splits, among valid and test, whose predictions are saved."""
        return tuple(split for split in PREDICTED_SPLITS if self._predictions_path(split).is_file())

    def require_predictions(self) -> tuple[PredictedSplit, ...]:
        """Return the `predicted_splits`; raise a RunError if there are none."""
        splits = self.predicted_splits
        if not splits:
            raise RunError(
                f"{self.path}: has no predictions. They are saved when a run completes, but this run's status is "
                f"'{self.info.status}'. 'xrayfast fit --resume {self.path}' resumes an interrupted run."
            )
        return splits

    @property
    def has_train_predictions(self) -> bool:
        """Whether the training split was predicted too, with `train_metrics` "final"."""
        return self._predictions_path("train").is_file()

    @check_arguments()
    def predictions(self, split: str) -> Predictions:
        """Return the saved predictions of a split.

        Raises:
            RunError: there are none; the message lists the splits that have predictions.
        """
        path = self._predictions_path(split)
        if not path.is_file():
            there = shorten(self.predicted_splits) or "none"
            raise RunError(
                f"{path}: no predictions of split '{split}'; found predictions of: {there}. They are saved when a "
                "run completes; '--test-fraction' creates a test split."
            )
        return Predictions.read(path, self.labels)

    def write_predictions(self, split: str, predictions: Predictions) -> None:
        """Write `predictions/SPLIT.csv`."""
        path = self._predictions_path(split)
        is_new = not path.parent.exists()
        ensure_folder(path.parent)
        if is_new:
            start_checksums(path.parent)
        predictions.write(path)

    def _predictions_path(self, split: str) -> Path:
        return self.path / "predictions" / f"{split}.csv"

    @property
    def evaluations(self) -> list[Evaluation]:
        """The finished evaluations of this run, sorted by name."""
        folders = sorted((self.path / EVALUATIONS).glob("[!.]*"))
        return [Evaluation(folder, self.labels) for folder in folders if Evaluation.is_finished(folder)]

    @check_arguments()
    def require_new_evaluation(self, name: str | None, output: Path | None = None) -> None:
        """Raise the errors of `create_evaluation` that can be detected in advance, without writing anything.

        Raises:
            RunError: the name is taken or not a plain name, or another process trains the run.
            ConfigError: `output` is given for a run that was not downloaded.
        """
        if self.downloaded:
            require_free(self._evaluations_folder(output), name, "evaluation")
            return
        if output is not None:
            raise ConfigError(
                f"output is {output}, but a run's evaluations are saved in its folder. Leave it out; use --name to "
                "name the evaluation."
            )
        with self.lock():  # during training, the weights are not final
            require_free(self.path / EVALUATIONS, name, "evaluation")

    def create_evaluation(
        self, name: str | None, stem: str, write: Callable[[Evaluation], None], output: Path | None = None
    ) -> Evaluation:
        """Create an evaluation with `new_folders.create_evaluation`, in `evaluations/` of the run's folder.

        A downloaded run's evaluation is created in `output`, or in a folder in the working directory.

        Raises:
            RunError: the name is taken or not a plain name, or the folder can't be written.
        """
        return create_evaluation(self._evaluations_folder(output), self.labels, name, stem, write)

    def _evaluations_folder(self, output: Path | None) -> Path:
        """Return the folder of evaluations; for a downloaded run, one outside the run's folder."""
        if not self.downloaded:
            return self.path / EVALUATIONS
        return output.resolve() if output else Path(f"{self.downloaded.repository.partition('/')[2]}-evaluations")

    @check_arguments()
    def figure_path(self, name: str, kind: str = "png") -> Path:
        """Return the path `figures/NAME.KIND`, and create the folder if necessary."""
        return ensure_folder(self.path / "figures") / f"{name}.{kind}"

    @check_arguments()
    def table_path(self, name: str) -> Path:
        """Return the path `tables/NAME.csv`, and create the folder if necessary."""
        return ensure_folder(self.path / "tables") / f"{name}.csv"

    def leftovers(self) -> list[Path]:
        """Return what training needed or a crash left: checkpoints and temporary files. Temporary files of evaluations
        are not included, because another process may be writing them.
        """
        temporary = (path for path in self.path.rglob(".*.tmp") if EVALUATIONS not in path.relative_to(self.path).parts)
        return [*self.path.glob(f"{CHECKPOINT}*"), *temporary]

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete, including its last steps, which a kill may have prevented."""
        has_cards = self.model_card_path.is_file() and self.claim_path.is_file()
        return self.info.status == "completed" and has_cards and not self.leftovers()

    def remove_leftovers(self) -> None:
        """Remove the `leftovers`."""
        for path in self.leftovers():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    # Reading and writing

    def _existing_file(self, name: str, why: str = "") -> Path:
        path = self.path / name
        if not path.is_file():
            status = "unknown"
            with contextlib.suppress(RunError):  # `run.json` may be damaged too
                status = read_json(self.path / INFO_FILE).get("status", status)
            raise RunError(f"{self.path}: lacks {name}. {why}".strip() + f" The run's status is '{status}'.")
        require_intact(path)
        return path


def find_copy(runs: Iterable[Run]) -> tuple[Run, Run] | None:
    """Return the first run that has the same weights as an earlier one, and that one; None if there is none."""
    first: dict[str, Run] = {}
    for run in runs:
        for digest in known_digests(run.new_model_path)[-1:]:
            if (earlier := first.setdefault(digest, run)) is not run:
                return run, earlier
    return None


def now() -> str:
    """Return the time in UTC, to the microsecond, in ISO 8601, which sorts as text."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")

"""Types of `run.json`, `labels.json`, `evaluation.json`, `cross_validation.json` and a checkpoint's `state.json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)
from typing_extensions import Self

from xrayfast.config import MAX_LABELS, DataLoadersOrigin, Task, Unit
from xrayfast.runs.json_files import Count, NonNegative, renamed


class _File(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name in the file."""
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None


class PhaseRecord(_File):
    """A phase of training as planned; `lrs` are the peak learning rates of the layer groups, the head's last."""

    name: str
    epochs: NonNegativeInt
    lrs: list[NonNegative] = Field(min_length=1)


class RunInfo(_File):
    """`run.json`: how a run was made.

    Attributes:
        status: "unknown" in runs that do not say.
        started: ISO 8601, UTC.
        finished: ISO 8601, UTC; "" before the end.
        command: the command line; "" for a call from Python.
        versions: versions of Python and of the libraries, by name.
        counts: images per label, by split; also "images" and, where patients are known, "patients".
        flow: the steps from the files that were found to the images of each split, each with a description and a number
            of images.
        audit: sentences on duplicates and leaks.
        fingerprint: fingerprint of names, labels, splits and file sizes.
        threads: number of torch threads where the run began; None in runs of older versions.
        starting_weights: what training started from, in a sentence, if that was another run.
        weights_sha256: SHA-256 of the file of weights that training started from, in hexadecimal; "" if there was none.
        remarks: warnings for a reader of the results.
        shortcuts: the AUROC with which image properties that have nothing to do with the lungs predict each label,
            where above chance; None if it was not computed.
        global_batch: images per training batch over all ranks.
        frozen_feature_groups: for each phase, the number of frozen layer groups whose features were cached; None in
            runs of older versions.
        frozen_feature_views: views per image of the frozen-feature cache.
        lr: the head's peak learning rate; None if the run was not trained by `fit`.
        phases: the phases of training; None if the run was not trained by `fit`.
        ended_phases: by phase, the number of epochs after which a callback of the user's own ended it.
        dataloaders: where the DataLoaders came from, see `RadiographDataLoaders.origin`.
        own_code: the names of callbacks ("cbs") and "metrics" of the user's own.
        chosen_inside: whether epoch, calibration and thresholds were chosen on predictions other than those of "valid".
        members: the folders of the runs whose probabilities are averaged, relative to this one; empty for a run with a
            network of its own.
        exports: the files that `export` wrote: name, format, precision, time, SHA-256, and how probabilities differ.
        seconds: wall-clock time of training.
        stopped: when training was interrupted, as in "2 finished epochs and 1 of 4 batches of epoch 3"; else "".
        history_unit: the unit of the validation metrics in `history.csv`, even if the unit of the results was changed
            since; None in runs of older versions, where it is most likely the unit of the results.
        best_epoch: the epoch whose weights were kept, from 1; None if no epoch was chosen.
    """

    status: Literal["unknown", "created", "running", "completed", "interrupted", "failed"] = "unknown"
    started: str = ""
    finished: str = ""
    command: str = ""
    xrayfast: str = ""
    versions: dict[str, str] = {}
    platform: str = ""
    device: str = ""
    device_name: str = ""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    threads: int | None = None
    arch: str = ""
    starting_weights: str = ""
    weights_sha256: str = ""
    parameters: int | None = None
    loss: str = ""
    counts: dict[str, dict[str, int]] = {}
    flow: list[tuple[str, int]] = []
    audit: list[str] = []
    fingerprint: str = ""
    data_notes: list[str] = []
    remarks: list[str] = []
    shortcuts: dict[str, float] | None = None
    global_batch: Count | None = None
    world_size: Count = renamed("world_size", "processes", default=1)
    frozen_feature_groups: list[NonNegativeInt] | None = renamed(
        "frozen_feature_groups", "frozen_feature_blocks", "kept_blocks", default=None
    )
    frozen_feature_views: NonNegativeInt = renamed("frozen_feature_views", "kept_views", default=0)
    lr: Annotated[FiniteFloat, Field(gt=0)] | None = None
    phases: list[PhaseRecord] | None = None
    ended_phases: dict[str, PositiveInt] = {}
    own_code: dict[str, str] = {}
    dataloaders: DataLoadersOrigin = "xrayfast"
    chosen_inside: bool = False
    members: list[str] = []
    exports: list[dict[str, Any]] = []
    seconds: NonNegative | None = None
    stopped: str = ""
    history_unit: Unit | None = None
    best_epoch: Count | None = None


class CrossValidationInfo(_File):
    """`cross_validation.json`: how the images of a cross-validation were assigned to folds.

    Attributes:
        repeats: how often the images were assigned to folds.
        by_image: whether they were assigned by image instead of by patient.
        inner_valid: fraction of each network's images that was held out for choosing epoch, calibration and thresholds;
            0 if they were chosen on the fold itself.
    """

    folds: PositiveInt
    repeats: PositiveInt = 1
    by_image: bool = False
    inner_valid: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.0


class EvaluationInfo(_File):
    """`evaluation.json`: how an evaluation was made."""

    run: str = ""
    command: str = ""
    xrayfast: str = ""
    started: str = ""
    seconds: float | None = None
    data_notes: list[str] = []


def _all_different(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) < len(labels):
        raise ValueError("expected a list of different labels")
    return labels


_Label = Annotated[str, Field(min_length=1, max_length=1000)]


class LabelsFile(_File):
    """`labels.json`: the task, the network's outputs in order, and the operating points of `Decision.to_json`."""

    task: Task
    labels: Annotated[tuple[_Label, ...], Field(min_length=1, max_length=MAX_LABELS), AfterValidator(_all_different)]


def _epoch_row(row: dict[str, Any]) -> dict[str, Any]:
    if missing := [name for name in ("epoch", "phase", "train_loss", "valid_loss", "lr") if name not in row]:
        raise ValueError(f"expected an epoch with {', '.join(missing)}")
    for name, value in row.items():
        wanted: Any = {"epoch": int, "phase": str, "size": int, "train_loss": float, "lr": float}.get(name)
        if not isinstance(value, wanted or int | float | None):
            raise ValueError(f"expected {wanted.__name__ if wanted else 'a number or null'} under '{name}'")
    return row


ROWS, ROWS_BEFORE = "rows", "rows_before"
"""The keys of the finished epochs in a checkpoint from the end of an epoch, and in one from within an epoch.

Versions before 0.11 ignore the further keys of a checkpoint from within an epoch, and would train the whole epoch again
from its weights. Without the key `rows` they refuse the checkpoint.
"""


class CheckpointState(_File):
    """`checkpoint/state.json`: the finished epochs, and what else training needs to continue.

    Attributes:
        best_epoch: the epoch with the best weights so far, from 1; None if no epoch is finished.
        batches: number of finished batches of the epoch after the last finished one.
        epoch_seconds: how long that epoch has been trained.
        scaler: the state of torch's gradient scaler for fp16.
        averaged_steps: number of steps of the phase that weights are averaged over; None without averaging.
        optimizer: for each parameter, the values of its optimizer state that are not tensors.
    """

    rows: list[Annotated[dict[str, Any], AfterValidator(_epoch_row)]] = Field(
        validation_alias=AliasChoices(ROWS, ROWS_BEFORE)
    )
    best_epoch: PositiveInt | None
    batches: NonNegativeInt = 0
    epoch_seconds: NonNegative = 0.0
    scaler: dict[str, int | FiniteFloat] = {}
    averaged_steps: Annotated[int, Field(ge=0)] | None = None
    optimizer: list[dict[str, bool | int | FiniteFloat]]

    @model_validator(mode="after")
    def _check_epochs(self) -> Self:
        if [row["epoch"] for row in self.rows] != list(range(1, len(self.rows) + 1)):
            raise ValueError("expected the epochs 1, 2, 3, ... in rows")
        if not self.rows and not self.batches:
            raise ValueError("rows is empty, and no batch is recorded")
        if (self.best_epoch is None) != (not self.rows):
            raise ValueError(f"best_epoch is {self.best_epoch}, but there are {len(self.rows)} epochs")
        if self.best_epoch is not None and self.best_epoch > len(self.rows):
            raise ValueError(f"expected a best_epoch of at most {len(self.rows)}, the number of epochs")
        return self

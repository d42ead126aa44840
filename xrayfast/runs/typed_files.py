"""Types of the JSON files of a run and of its evaluations, which detect damaged and foreign files.

`run.json`, `labels.json` and `evaluation.json` become models with defaults for missing fields; `metrics.json` stays a
dictionary in the form that `metrics.summary.summarize` returns. Keys that are not named here are kept as they are, and
keys of older versions get their present names.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
    with_config,
)
from typing_extensions import NotRequired, Self, TypedDict

from xrayfast.config import MAX_LABELS, DataLoadersOrigin, Task, Unit, UnitJoin
from xrayfast.errors import RunError
from xrayfast.errors.escapes import is_utf8
from xrayfast.files.intact import require_intact
from xrayfast.files.regular_files import read_text

T = TypeVar("T")


FloatOrNone = float | None
"""None where undefined."""


class _File(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name in the file."""
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None


def _renamed(name: str, *old: str, default: Any = ...) -> Any:
    """Make a field that had other names in older versions."""
    return Field(default, validation_alias=AliasChoices(name, *old))


_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
_NonNegativeFloat = Annotated[FiniteFloat, Field(ge=0)]


class PhaseRecord(_File):
    """A phase of training as planned; `lrs` are the peak learning rates of the layer groups, the head's last."""

    name: str
    epochs: NonNegativeInt
    lrs: list[_NonNegativeFloat] = Field(min_length=1)


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
    global_batch: _Count | None = None
    world_size: _Count = _renamed("world_size", "processes", default=1)
    frozen_feature_groups: list[NonNegativeInt] | None = _renamed(
        "frozen_feature_groups", "frozen_feature_blocks", "kept_blocks", default=None
    )
    frozen_feature_views: NonNegativeInt = _renamed("frozen_feature_views", "kept_views", default=0)
    lr: Annotated[FiniteFloat, Field(gt=0)] | None = None
    phases: list[PhaseRecord] | None = None
    ended_phases: dict[str, PositiveInt] = {}
    own_code: dict[str, str] = {}
    dataloaders: DataLoadersOrigin = "xrayfast"
    chosen_inside: bool = False
    members: list[str] = []
    exports: list[dict[str, Any]] = []
    seconds: _NonNegativeFloat | None = None
    stopped: str = ""
    history_unit: Unit | None = None
    best_epoch: _Count | None = None


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


class FoldRecord(TypedDict):
    """A row of the per-fold table in the `metrics.json` of a cross-validation.

    The metrics are computed on the fold's validation images, with the calibration and thresholds of the whole
    cross-validation.
    """

    fold: int
    repeat: int
    run: str
    images: int
    patients: int | None
    best_epoch: int | None
    overall: dict[str, FloatOrNone]
    auroc: dict[str, FloatOrNone]


class SpreadRecord(TypedDict):
    """The distribution of a metric over the folds in which it is defined; `sd` is the sample standard deviation."""

    folds: int
    mean: FloatOrNone
    sd: FloatOrNone
    lowest: FloatOrNone
    highest: FloatOrNone


class ByPatient(TypedDict):
    """A cross-validation with folds by patient that one with folds by image is compared with: its name and metrics."""

    name: str
    overall: dict[str, FloatOrNone]


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
    epoch_seconds: _NonNegativeFloat = 0.0
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


# metrics.json


@with_config(ConfigDict(extra="allow"))
class _Record(TypedDict):
    """A part of `metrics.json`; keys that are not named here are kept."""


def _label_row(row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(row.get("label"), str):
        raise ValueError("expected the name of a label under 'label'")
    for name, value in row.items():
        if name not in ("label", "intervals", "reason") and not isinstance(value, int | float | None):
            raise ValueError(f"expected a number or null under '{name}', found {value!r}")
    return row


def _named_count(pair: list[Any]) -> list[Any]:
    if [type(value) for value in pair] != [str, int]:
        raise ValueError("expected a text and a number of images")
    return pair


LabelRow = Annotated[dict[str, Any], AfterValidator(_label_row)]
"""`label`, the counts `support` and `negatives`, and the metrics of `metrics.registry.label_metrics`."""

NamedCount = Annotated[list[Any], AfterValidator(_named_count)]
"""A text and a number of images."""


class IntervalRecord(_Record):
    """The limits of a confidence interval, and how it was computed."""

    low: FloatOrNone
    high: FloatOrNone
    method: NotRequired[str]


class IntervalsRecord(_Record, total=False):
    """Confidence intervals by metric, overall and by label."""

    level: float
    resamples: int
    seed: int
    by: str
    units: int
    overall: dict[str, IntervalRecord]
    per_label: dict[str, dict[str, IntervalRecord]]
    delong: dict[str, dict[str, FloatOrNone]]


class BinRecord(_Record):
    """A bin of a reliability diagram: `metrics.reliability.Bin`."""

    low: float
    high: float
    count: int
    predicted: FloatOrNone
    observed: FloatOrNone
    observed_low: FloatOrNone
    observed_high: FloatOrNone


class Reliability(_Record):
    """Bins by label, before and after calibration."""

    before: NotRequired[dict[str, list[BinRecord]]]
    after: dict[str, list[BinRecord]]


class ConfusedPair(_Record):
    """Images on which the label `actual` is a false negative and `predicted` a false positive."""

    actual: str
    predicted: str
    count: int


class MostCommon(_Record):
    """The most common class of a single-label split, and its share of the images."""

    label: str
    share: float


class NetBenefit(_Record):
    """Net benefit by label at the same thresholds: of deciding by the `model`, and of treating `all`."""

    thresholds: list[float]
    labels: dict[str, dict[str, list[float]]]


class Gap(_Record):
    """The two subgroups with the largest difference in a metric."""

    metric: Annotated[str, _renamed("metric", "measure")]
    label: str | None
    labels: NotRequired[int]
    highest: str
    lowest: str
    highest_value: float
    lowest_value: float
    difference: float
    low: FloatOrNone
    high: FloatOrNone
    pairs: NotRequired[int]
    p: NotRequired[float]
    p_corrected: NotRequired[float]


class UnitRecord(_Record):
    """The unit of a summary that is not of images, and how the probabilities of a unit's images were joined."""

    name: Unit
    join: NotRequired[UnitJoin]
    images: NotRequired[int]
    of_one_image: NotRequired[int]
    of_different_labels: NotRequired[int]


class Subgroup(_Record):
    """The summary of a subgroup."""

    value: str
    images: int
    patients: NotRequired[int | None]
    unit: NotRequired[UnitRecord]
    overall: dict[str, FloatOrNone]
    per_label: list[LabelRow]
    intervals: NotRequired[IntervalsRecord]
    notes: NotRequired[list[str]]


class Subgroups(_Record):
    """The subgroups by one column, such as "sex"."""

    by: str
    missing: NotRequired[int]
    groups: list[Subgroup]
    gaps: NotRequired[list[Gap]]
    notes: NotRequired[list[str]]


class WarningRecord(_Record):
    """A `metrics.claims.headline.HeadlineWarning`."""

    code: str
    text: str
    advice: str


class SplitSummary(_Record):
    """The metrics of one split, as `metrics.summary.summarize` returns them."""

    images: int
    unit: NotRequired[UnitRecord]
    positive: NotRequired[str]
    patients: NotRequired[int | None]
    scored: NotRequired[int]
    masked: NotRequired[Annotated[dict[str, int], _renamed("masked", "unknown")]]
    overall: dict[str, FloatOrNone]
    per_label: list[LabelRow]
    reliability: NotRequired[Reliability]
    most_confused: NotRequired[list[ConfusedPair]]
    notes: NotRequired[list[str]]
    warnings: NotRequired[list[WarningRecord]]
    prevalence: NotRequired[dict[str, float]]
    intervals: NotRequired[IntervalsRecord]
    confusion: NotRequired[list[list[int]]]
    most_common: NotRequired[MostCommon | None]
    confusion_per_label: NotRequired[dict[str, list[list[int]]]]
    cooccurrence: NotRequired[list[list[int]]]
    at_thresholds: NotRequired[list[LabelRow]]
    calibration: NotRequired[dict[str, list[LabelRow]]]
    fixed_rates: NotRequired[list[LabelRow]]
    net_benefit: NotRequired[NetBenefit]
    subgroups: NotRequired[list[Subgroups]]


class ShownImage(_Record):
    """A training image as the network saw it: a JPEG in base64, and its size in pixels."""

    image: str
    labels: str
    data: Annotated[str, Field(pattern="^[A-Za-z0-9+/]+=*$")]
    width: _Count
    height: _Count


class TrainingImages(_Record):
    """`training_images.json`: what the report shows of the training split."""

    images: list[ShownImage]


class Saliency(_Record):
    """The images that were explained, and what was found."""

    split: NotRequired[Annotated[str, _renamed("split", "part")]]
    cases: list[dict[str, Any]]
    notes: NotRequired[list[str]]


class MetricsFile(_Record, total=False):
    """`metrics.json` of a run."""

    train: SplitSummary
    valid: SplitSummary
    test: SplitSummary
    loss: dict[str, float]
    decision: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    failures: dict[str, list[dict[str, Any]]]
    saliency: Saliency
    folds: list[FoldRecord]
    repeats: list[dict[str, FloatOrNone]]
    spread: dict[str, SpreadRecord]
    by_patient: ByPatient


class EvaluatedImages(_Record, total=False):
    """The numbers of images found, left out (by reason) and evaluated, and of images of the run's own test split."""

    found: int
    left_out: list[NamedCount]
    evaluated: int
    own_test: int


class MatchedLabels(_Record, total=False):
    """Labels that both the data and the network have, that only the data have, and that only the network has."""

    used: list[str]
    unknown: list[NamedCount]
    lacking: list[str]


class InternalComparison(_Record):
    """The comparison with the run's own `split`: rows of `claims.external.compare_with_internal`."""

    split: str
    rows: list[dict[str, Any]]


class EvaluationMetrics(_Record):
    """`metrics.json` of an evaluation."""

    source: NotRequired[str]
    split: NotRequired[Annotated[str | None, _renamed("split", "part")]]
    own: NotRequired[bool]
    images: NotRequired[EvaluatedImages]
    labels: NotRequired[MatchedLabels]
    notes: NotRequired[list[str]]
    decision: NotRequired[dict[str, Any]]
    prevalence: NotRequired[list[dict[str, Any]]]
    internal: NotRequired[InternalComparison]
    result: SplitSummary


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a valid JSON number")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: the file is missing, damaged or too large, can't be read, or holds something else.
    """
    if not path.is_file():
        raise RunError(f"{path.parent}: lacks {path.name}; the folder is damaged or incomplete.")
    text = read_text(path, "a JSON object")
    require_intact(path)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: can't be read as JSON ({error}).") from error
    if "\\u" in text and not is_utf8(json.dumps(content, ensure_ascii=False)):
        raise RunError(
            f"{path}: contains text that is not valid Unicode: half of a surrogate pair, written as an escape."
        )
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(content).__name__}.")
    return content


def read_typed(path: Path, form: type[T]) -> T:
    """Read a JSON file as one of the types of this module.

    Raises:
        RunError: the file can't be read, or has another form; the message names the file, the field, what was found and
            what was expected.
    """
    try:
        adapter: TypeAdapter[T] = _adapter(form)
        return adapter.validate_python(read_json(path))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            text = f"lacks {field}"
        else:
            message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
            text = f"{field} is {repr(problem['input'])[:80]}; {message.replace('a valid', 'a')}"
        raise RunError(f"{path}: {text}. The file is damaged or from another version.") from error


_adapter: Any = cache(TypeAdapter)  # making one takes longer than to read a file

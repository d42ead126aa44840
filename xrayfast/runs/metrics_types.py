"""Types of `metrics.json` and `training_images.json`, which stay dictionaries after reading."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import NotRequired, TypedDict

from xrayfast.config import Unit, UnitJoin
from xrayfast.runs.json_files import Count, FloatOrNone, renamed


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

    metric: Annotated[str, renamed("metric", "measure")]
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
    masked: NotRequired[Annotated[dict[str, int], renamed("masked", "unknown")]]
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
    width: Count
    height: Count


class TrainingImages(_Record):
    """`training_images.json`: what the report shows of the training split."""

    images: list[ShownImage]


class Saliency(_Record):
    """The images that were explained, and what was found."""

    split: NotRequired[Annotated[str, renamed("split", "part")]]
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
    split: NotRequired[Annotated[str | None, renamed("split", "part")]]
    own: NotRequired[bool]
    images: NotRequired[EvaluatedImages]
    labels: NotRequired[MatchedLabels]
    notes: NotRequired[list[str]]
    decision: NotRequired[dict[str, Any]]
    prevalence: NotRequired[list[dict[str, Any]]]
    internal: NotRequired[InternalComparison]
    result: SplitSummary

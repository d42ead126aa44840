"""What an exported classifier says of itself: the metadata of its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from xrayfast.config import MAX_LABELS, Task
from xrayfast.errors import shorten
from xrayfast.metrics.operating_points.decision import Decision

INTENDED_USE = "Research and teaching, not diagnosis. It is no medical device."

TOLERANCE = 1e-4
"""Largest difference of a probability between an exported classifier in float32 and its run."""

Precision = Literal["fp32", "fp16", "int8"]


class Parity(BaseModel):
    """How an exported classifier's probabilities differ from those of its run, on the same images.

    Attributes:
        largest: difference of a probability, raw or calibrated.
        decisions: images on which another label is predicted.
    """

    model_config = ConfigDict(frozen=True)

    images: PositiveInt
    dicom: NonNegativeInt
    largest: Annotated[FiniteFloat, Field(ge=0, le=1)]
    decisions: NonNegativeInt


class AurocDifference(BaseModel):
    """The mean AUROC over labels of an exported classifier minus that of its run, on the same images.

    Attributes:
        images: how many; of those that were not in the training split.
        difference: negative where accuracy was lost; None where it is not defined.
        low: lower end of the 95 % interval, by patient where they are known; None where there is none.
        high: upper end.
    """

    model_config = ConfigDict(frozen=True)

    images: PositiveInt
    difference: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None


class ModelMetadata(BaseModel):
    """The metadata of an exported classifier.

    Attributes:
        format: of the metadata.
        created: ISO 8601, UTC.
        thresholds: by label, on calibrated probabilities, as they decide.
        decision: calibration and operating points, as `Decision.to_json` gives them.
        size: side in pixels of the square that images are fitted into.
        window: of DICOM images, as `data.images.reader.read` takes it.
        imply: labels that follow from others, as the run was trained; none in files of versions before 0.10.
        precision: of its weights.
        averaged_views: whether calibration and thresholds were fitted on probabilities averaged over augmented views,
            which it does not make.
        run: name of the run's folder.
        fingerprint: of the training data; "" where members of an ensemble had different ones.
        auroc: beside the run's, of weights that are not in float32.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal["xrayfast classifier 1"] = "xrayfast classifier 1"
    xrayfast: str
    created: str = ""
    intended_use: str = INTENDED_USE
    input: str = ""
    labels: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=MAX_LABELS)]
    task: Task
    thresholds: dict[str, FiniteFloat]
    decision: dict[str, Any]
    size: Annotated[int, Field(ge=1, le=4096)]
    window: str
    imply: tuple[str, ...] = ()
    arch: str = ""
    networks: PositiveInt = 1
    precision: Precision = "fp32"
    averaged_views: bool = False
    run: str = ""
    fingerprint: str = ""
    parity: Parity
    auroc: AurocDifference | None = None

    def to_properties(self) -> dict[str, str]:
        """As ONNX keeps it: texts as they are, all else as JSON."""
        values = self.model_dump(mode="json")
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in values.items()
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> ModelMetadata:
        """Read it back; other properties are left out.

        Raises:
            ValueError: it is not that of a classifier of xrayfast, or damaged.
        """
        if "format" not in properties:
            raise ValueError(f"found no metadata of xrayfast, but {shorten(properties) or 'none at all'}")
        texts = {name for name, field in cls.model_fields.items() if field.annotation is str}
        texts |= {"format", "task", "precision"}
        try:
            return cls.model_validate(
                {
                    name: properties[name] if name in texts else json.loads(properties[name])
                    for name in cls.model_fields.keys() & properties.keys()
                }
            )
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise ValueError(f"metadata {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its metadata are no JSON: {error}") from error

    def read_decision(self) -> Decision:
        """Calibration and thresholds.

        Raises:
            ValueError: they are of another form, or of other labels or of these in another order.
        """
        if tuple(self.thresholds) != self.labels:
            raise ValueError("metadata thresholds are of other labels, or in another order, than the labels")
        return Decision.from_json(self.decision, self.task, self.labels)

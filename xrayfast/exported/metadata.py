"""The metadata that the file of an exported classifier contains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from xrayfast.config import MAX_LABELS, Task
from xrayfast.errors import shorten
from xrayfast.metrics.operating_points.decision import Decision

INTENDED_USE = "For research and teaching, not for diagnosis. This is not a medical device."

TOLERANCE = 1e-4
"""Largest allowed difference between the probabilities of an exported float32 classifier and of its run."""

Precision = Literal["fp32", "fp16", "int8"]


class Parity(BaseModel):
    """A comparison of an exported classifier's probabilities with those of its run, on the same images.

    Attributes:
        dicom: number of DICOM images among them.
        largest: largest difference of a probability, raw or calibrated.
        decisions: number of images for which another label is predicted.
    """

    model_config = ConfigDict(frozen=True)

    images: PositiveInt
    dicom: NonNegativeInt
    largest: Annotated[FiniteFloat, Field(ge=0, le=1)]
    decisions: NonNegativeInt


class AurocDifference(BaseModel):
    """The mean AUROC over labels of an exported classifier minus that of its run, on the same images.

    Attributes:
        images: number of images, none of which was in the training split.
        difference: negative if accuracy was lost; None if it is not defined.
        low: lower end of the 95% interval, which is by patient if patients are known; None if there is no interval.
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
        format: name and version of this metadata format.
        created: time of the export, ISO 8601, UTC.
        decision: calibration and operating points, as returned by `Decision.to_json`.
        window: window of DICOM images, as an argument of `data.images.reader.read`.
        imply: implied labels with which the run was trained; empty in files of versions before 0.10.
        averaged_views: whether calibration and thresholds were fitted on probabilities averaged over augmented views,
            which the exported classifier does not make.
        run: name of the run's folder.
        fingerprint: fingerprint of the training data; "" if the members of an ensemble had different data.
        auroc: comparison with the run's AUROC; None if the weights are in float32.
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
        """Return the metadata as ONNX stores it: text unchanged, everything else as JSON."""
        values = self.model_dump(mode="json")
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in values.items()
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> ModelMetadata:
        """Read the metadata from the properties of an ONNX file; other properties are ignored.

        Raises:
            ValueError: the metadata is missing or damaged.
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
            raise ValueError(f"its metadata is not JSON: {error}") from error

    def read_decision(self) -> Decision:
        """Return the calibration and the thresholds.

        Raises:
            ValueError: they have another format, or their labels or the order of labels differ.
        """
        if tuple(self.thresholds) != self.labels:
            raise ValueError("the thresholds in its metadata are for other labels than its labels, or in another order")
        return Decision.from_json(self.decision, self.task, self.labels)

"""Models of the JSON endpoint's answers, from which its OpenAPI description is made."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
DataUri = Annotated[str, Field(pattern="^data:image/png;base64,[A-Za-z0-9+/]+=*$")]


class _Answer(BaseModel):
    # Fields with a default are in every answer too.
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


class LabelAnswer(_Answer):
    """One label of one image."""

    label: str
    probability: Annotated[Share, Field(description="Calibrated probability.")]
    threshold: Annotated[
        Share | None, Field(description="Threshold on the probability; null if the most likely class is predicted.")
    ]
    predicted: bool
    abstained: Annotated[
        bool, Field(description="Whether there is no answer, because its certainty is below --abstain-below.")
    ] = False
    spread: Annotated[
        float | None, Field(ge=0, description="Standard deviation of the probability over the networks of an ensemble.")
    ] = None


class SaliencyAnswer(_Answer):
    """Grad-CAM for an image's most probable label."""

    label: str
    outside: Annotated[Share | None, Field(description="Share of the heat outside the central thorax.")]
    note: Annotated[str, Field(description='A note on its limits; "" for none.')]
    image: Annotated[DataUri, Field(description="The image with the map in color.")]


class FileAnswer(_Answer):
    """The labels of one file, or an error that says why it can't be read."""

    file: str
    predicted: Annotated[str | None, Field(description='As in the CSV: labels joined by "|"; "" for none.')] = None
    labels: list[LabelAnswer] = []
    notes: Annotated[list[str], Field(description="Notes on how the file was read.")] = []
    error: str | None = None
    image: Annotated[DataUri | None, Field(description="The image as the network sees it; only with image=true.")] = (
        None
    )
    saliency: Annotated[SaliencyAnswer | None, Field(description="Only with saliency=true.")] = None


class Csv(_Answer):
    """The rows that `xrayfast predict` writes for these files."""

    header: str
    rows: str


class Answer(_Answer):
    """The answer of /api/predict, with the files in the order in which they were sent."""

    model: str
    purpose: str
    files: list[FileAnswer]
    csv: Csv


class Problem(_Answer):
    """An error message that says what was found, what was expected and what to do."""

    error: str


class Health(_Answer):
    """The answer of /api/health."""

    model: str
    waiting: Annotated[int, Field(ge=0, description="Requests that are being computed or are waiting.")]

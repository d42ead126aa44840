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
    probability: Annotated[Share, Field(description="Calibrated.")]
    threshold: Annotated[
        Share | None, Field(description="On calibrated probabilities; null where the most likely class is predicted.")
    ]
    predicted: bool
    abstained: Annotated[bool, Field(description="No answer: its certainty is below --abstain-below.")] = False
    spread: Annotated[
        float | None, Field(ge=0, description="Of an ensemble: standard deviation of its networks' probabilities.")
    ] = None


class SaliencyAnswer(_Answer):
    """Grad-CAM for an image's most probable label."""

    label: str
    outside: Annotated[Share | None, Field(description="Share of the heat outside the central thorax.")]
    note: Annotated[str, Field(description='What limits it; "" where nothing does.')]
    image: Annotated[DataUri, Field(description="The image with its map in colour.")]


class FileAnswer(_Answer):
    """The labels of one file, or an error that says why it can't be read."""

    file: str
    predicted: Annotated[str | None, Field(description='As in the CSV: labels joined by "|"; "" for none.')] = None
    labels: list[LabelAnswer] = []
    notes: Annotated[list[str], Field(description="What was done or noted on reading.")] = []
    error: str | None = None
    image: Annotated[DataUri | None, Field(description="As the network sees it, with image=true.")] = None
    saliency: Annotated[SaliencyAnswer | None, Field(description="With saliency=true.")] = None


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
    waiting: Annotated[int, Field(ge=0, description="Requests that are computed or wait.")]

"""Every setting of a run, once: its name, type, default and bounds.

The command line, the Python API and `config.yaml` all name these fields; a test holds the three together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from xrayfast.errors import ConfigError, did_you_mean

Task = Literal["single", "multi"]
TaskChoice = Literal["auto", "single", "multi"]
Schedule = Literal["one-cycle", "flat-cos", "constant"]
OptimizerName = Literal["adam", "sgd"]
LossName = Literal["auto", "ce", "bce", "focal"]
ClassWeights = Literal["none", "auto"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
ReuseFrozen = Literal["auto", "on", "off"]
Thresholds = Literal["auto", "f1", "youden", "half"]
Monitor = Literal["auto", "valid_loss", "accuracy", "subset_accuracy", "f1_macro", "auroc_macro", "ap_macro"]


def _as_tuple(value: Any) -> Any:
    """One value stands for a tuple of one; None for an empty one."""
    if value is None:
        return ()
    return (value,) if isinstance(value, (int, str)) else value


def _as_word(value: Any) -> Any:
    """YAML reads on and off as true and false."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Section):
    """Which images, which labels, which split."""

    source: Path = Path("data")
    labels: Path | None = None
    path_col: str | None = None
    label_col: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    label_delim: str = Field("auto", min_length=1)
    label_map: Path | None = None
    uncertain: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    blank: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    keep_no_finding: bool = False
    imply: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    task: TaskChoice = "auto"
    patient_col: str | None = None
    split_col: str | None = None
    split_file: Path | None = None
    valid_fraction: float = Field(0.2, gt=0, lt=1)
    test_fraction: float = Field(0.0, ge=0, lt=1)
    folds: int | None = Field(None, ge=2)
    fold: int | None = Field(None, ge=1)
    split_seed: int = Field(0, ge=0)
    window: str = "auto"
    cache: bool = True
    cache_dir: Path | None = None


class ModelConfig(_Section):
    """The network, and the size of the images it sees."""

    arch: str = "resnet18"
    weights: str = "imagenet"
    head_width: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_as_tuple)] = ()
    size: int = Field(224, ge=32, le=2048)


class TrainConfig(_Section):
    """How the network is trained."""

    unfreeze: bool = False
    unfreeze_blocks: int | None = Field(None, ge=1)
    freeze_epochs: int = Field(1, ge=0)
    epochs: int = Field(6, ge=1)
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = 2e-3
    lr_div: float | None = Field(None, ge=1)
    schedule: Schedule = "one-cycle"
    optimizer: OptimizerName = "adam"
    momentum: float = Field(0.9, ge=0, lt=1)
    wd: float = Field(0.01, ge=0)
    loss: LossName = "auto"
    gamma: float = Field(2.0, ge=0)
    alpha: float | tuple[float, ...] | None = None
    class_weights: ClassWeights = "none"
    precision: Precision = "auto"
    device: Device = "auto"
    workers: int | None = Field(None, ge=0)
    batch_size: int = Field(32, ge=2)
    seed: int = Field(0, ge=0)
    early_stop: int | None = Field(None, ge=1)
    monitor: Monitor = "auto"
    tta: bool = False
    allow_leaks: bool = False
    reuse_frozen: Annotated[ReuseFrozen, BeforeValidator(_as_word)] = "auto"
    frozen_views: int = Field(2, ge=1)
    progressive: Annotated[tuple[Annotated[int, Field(ge=32, le=2048)], ...], BeforeValidator(_as_tuple)] = ()

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if list(self.progressive) != sorted(set(self.progressive)):
            raise PydanticCustomError(
                "rules",
                "progressive is {found}; expected growing sizes, the smallest first",
                {"found": list(self.progressive)},
            )
        return self


class ResultsConfig(_Section):
    """How probabilities become decisions, and how results are measured."""

    thresholds: Thresholds = "auto"
    target_sensitivity: float | None = Field(None, gt=0, le=1)
    target_specificity: float | None = Field(None, gt=0, le=1)
    calibrate: bool = True
    prevalence: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    resamples: int = Field(1000, ge=0)

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        given = [name for name in ("target_sensitivity", "target_specificity") if getattr(self, name) is not None]
        given += ["thresholds"] if self.thresholds != "auto" else []
        if len(given) > 1:
            raise PydanticCustomError("rules", f"found {' and '.join(given)}; expected one. Leave out the others")
        return self


class ResultsOptions(TypedDict, total=False):
    """The fields of ResultsConfig as keyword arguments of `xrayfast.fit` and `xrayfast.interpret`."""

    thresholds: Thresholds
    target_sensitivity: float | None
    target_specificity: float | None
    calibrate: bool
    prevalence: str | Sequence[str]
    resamples: int


class Options(ResultsOptions, total=False):
    """The fields of all sections but `data`, as keyword arguments of `xrayfast.fit` and `xrayfast.find_lr`."""

    arch: str
    weights: str
    head_width: int | tuple[int, ...]
    size: int
    unfreeze: bool
    unfreeze_blocks: int | None
    freeze_epochs: int
    epochs: int
    lr: float | Literal["auto"]
    lr_div: float | None
    schedule: Schedule
    optimizer: OptimizerName
    momentum: float
    wd: float
    loss: LossName
    gamma: float
    alpha: float | tuple[float, ...] | None
    class_weights: ClassWeights
    precision: Precision
    device: Device
    workers: int | None
    batch_size: int
    seed: int
    early_stop: int | None
    monitor: Monitor
    tta: bool
    allow_leaks: bool
    reuse_frozen: ReuseFrozen
    frozen_views: int
    progressive: int | tuple[int, ...]


class Config(_Section):
    """All of a run's settings; `config.yaml` in its folder."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    results: ResultsConfig = ResultsConfig()

    @model_validator(mode="after")
    def _ends_at_size(self) -> Self:
        sizes = self.train.progressive
        if sizes and sizes[-1] != self.model.size:
            raise PydanticCustomError(
                "rules",
                "progressive ends at {last}, and size is {size}: the network is made for the last one. "
                "Use --size {last}, or end at {size}",
                {"last": sizes[-1], "size": self.model.size},
            )
        return self

    def updated(self, options: Mapping[str, Any]) -> Config:
        """A copy with some fields replaced, each named without its section.

        Raises:
            ConfigError: one or more names or values are wrong; the message lists them all.
        """
        sections: dict[str, dict[str, Any]] = {name: dict(getattr(self, name)) for name in Config.model_fields}
        unknown = []
        for name, value in options.items():
            if name in FIELD_SECTIONS:
                sections[FIELD_SECTIONS[name]][name] = value
            else:
                unknown.append(f"unknown option '{name}'.{did_you_mean(name, FIELD_SECTIONS)}")
        if unknown:
            raise ConfigError("\n".join(unknown))
        return _validated(sections, where="")

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read a YAML file of the sections `data`, `model`, `train` and `results`, each optional.

        Raises:
            ConfigError: no such file, not YAML, unknown keys or wrong values. Tags that would build Python
                objects are refused by the safe loader.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: can't be read ({error.strerror}).") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not a text file in UTF-8.") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: is not plain YAML: {error}") from error
        if content is None:
            return cls()
        if not isinstance(content, dict):
            found = type(content).__name__
            raise ConfigError(f"{path}: expected the sections data, model, train and results; found {found}.")
        return _validated(content, where=f"{path}: ")

    def to_yaml(self) -> str:
        """The text of `config.yaml`; `read` gives the same settings back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


FIELD_SECTIONS: dict[str, str] = {
    name: section
    for section, model in (
        ("data", DataConfig),
        ("model", ModelConfig),
        ("train", TrainConfig),
        ("results", ResultsConfig),
    )
    for name in model.model_fields
}
"""In which section each field stands; names are unique over all sections."""


def _validated(content: Mapping[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(where + line for line in _complaints(error))) from error


def _complaints(error: ValidationError) -> list[str]:
    """One line for each wrong field; the branches of a union are one field."""
    lines: dict[str, str] = {}
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]][:2]
        name = path[-1] if path else ""
        if problem["type"] == "extra_forbidden":
            known = list(FIELD_SECTIONS) if len(path) == 2 else list(Config.model_fields)
            text = f"unknown key '{'.'.join(path)}'.{did_you_mean(name, known)}"
        elif problem["type"] == "rules":
            text = f"{problem['msg'][0].upper()}{problem['msg'][1:]}."
        else:
            text = f"{name} is {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}."
        key = ".".join(path)
        if key not in lines:
            lines[key] = text
        elif (more := f"{problem['msg'][0].lower()}{problem['msg'][1:]}.") not in lines[key]:
            lines[key] = f"{lines[key][:-1]}, or {more}"
    return list(lines.values())

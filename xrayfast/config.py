"""All settings of a run: the name, type, default, bounds and help text of each.

The command line, the Python API and `config.yaml` use the same fields. The options of the command line are generated
from them, in this order; a test compares the keyword arguments of the Python API with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from xrayfast.errors import ConfigError, ConfigFileError, did_you_mean
from xrayfast.errors.advice import describe_option
from xrayfast.errors.arguments import as_python, check_arguments, describe_wrong_value
from xrayfast.errors.escapes import escape_hidden, is_utf8
from xrayfast.files.plain_yaml import dump_yaml, read_yaml
from xrayfast.files.virtual.addresses import holds_credentials, is_remote
from xrayfast.files.virtual.paths import to_path
from xrayfast.files.xrv_weights import xrv_file
from xrayfast.own_code import OWN, OWN_SETTINGS, is_own, names_of_code

Task = Literal["single", "multi"]
TaskChoice = Literal["single", "multi", "auto"]
Schedule = Literal["one-cycle", "flat-cos", "constant"]
OptimizerName = Literal["adam", "sgd"]
HeadName = Literal["fastai", "linear", "mlp", "classifier", "none"]
LossName = Literal[
    "auto",
    "ce",
    "bce",
    "asl",
    "focal",
]
ClassWeights = Literal["none", "auto", "effective"]
AugmentationName = Literal["mild", "default", "strong", "off"]
DataLoadersOrigin = Literal["xrayfast", "own", "own transforms"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
ReuseFrozen = Literal["auto", "on", "off"]
DataOnDevice = Literal["auto", "on", "off"]
Problems = Literal["error", "skip"]
TrainMetrics = Literal["running", "final"]
Thresholds = Literal["auto", "f1", "youden", "half"]
Views = Literal["frontal", "lateral", "all"]
Unit = Literal["image", "study", "patient"]
UnitJoin = Literal["mean", "max", "noisy-or"]
Monitor = Literal[
    "auto",
    "valid_loss",
    "accuracy",
    "subset_accuracy",
    "f1_macro",
    "auroc_macro",
    "ap_macro",
]

DEFAULT_LOSS: dict[Task, LossName] = {"single": "ce", "multi": "bce"}
"""The loss that `--loss auto` selects for each task."""

EMA_DECAY = 0.999
"""Decay of `--ema` without a value."""

LOSS_SETTINGS: dict[LossName, tuple[str, ...]] = {
    "ce": ("label_smoothing",),
    "bce": ("label_smoothing",),
    "asl": ("gamma_neg", "gamma_pos", "margin"),
    "focal": ("gamma", "alpha"),
}
"""The settings of each loss besides class weights; a loss that is not listed has none."""


LOSS_TASKS: dict[LossName, tuple[Task, ...]] = {
    "ce": ("single",),
    "bce": ("multi",),
    "asl": ("multi",),
    "focal": ("single", "multi"),
}
"""The tasks that each loss can be used for."""


def require_loss_of(task: Task, loss: LossName) -> None:
    """Raise a ConfigError if the loss does not fit the task; "auto" always fits."""
    fitting = [name for name, tasks in LOSS_TASKS.items() if task in tasks]
    if loss == "auto" or loss in fitting or is_own(loss):
        return
    other = "multi" if task == "single" else "single"
    instead = "" if task == "multi" else ", or --task multi"
    raise ConfigError(
        f"loss {loss} is for {other}-label data, and this data is {task}-label. Use --loss {' or '.join(fitting)}"
        f"{instead}."
    )


def loss_settings(loss: LossName) -> tuple[str, ...]:
    """Return the settings that a loss takes; for "auto", the settings that all default losses share."""
    names: tuple[LossName, ...] = tuple(DEFAULT_LOSS.values()) if loss == "auto" else (loss,)
    found = [LOSS_SETTINGS.get(name, ()) for name in names]
    return tuple(setting for setting in found[0] if all(setting in settings for settings in found))


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the augmentation of training images.

    Images are never flipped, which would mirror the heart, nor scaled up, so that the lungs stay within the frame.

    Attributes:
        rotation: largest rotation in degrees, in either direction.
        zoom: smallest factor by which an image is scaled down; a smaller image is also shifted within the frame.
        lighting: largest relative change of brightness and of contrast.
        p_affine: probability of a rotation and, separately, of a zoom. fastai's default of 0.75 leaves only 6% of the
            images as sharp as validation images, which hurts a frozen backbone: the accuracy of a head on darkcovid
            (resnet18, 176 px, mean of four splits) is 0.76 with 0.75, and about 0.78 with 0.25.
        p_lighting: probability of a change of brightness and, separately, of contrast; fastai's default.
    """

    rotation: float
    zoom: float
    lighting: float
    p_affine: float
    p_lighting: float = 0.75


AUGMENTATIONS: dict[str, Augmentation] = {
    # Less variation than between patients' positions: for small data sets of similar images, or labels that show in
    # fine texture.
    "mild": Augmentation(rotation=3.0, zoom=0.95, lighting=0.1, p_affine=0.25),
    "default": Augmentation(rotation=5.0, zoom=0.9, lighting=0.2, p_affine=0.25),
    # As much as bedside images vary: a patient rotated by 10 degrees, another distance, over- and underexposure.
    "strong": Augmentation(rotation=10.0, zoom=0.8, lighting=0.3, p_affine=0.5),
}
"""Augmentations by name, without "off"."""

PredictedSplit = Literal["valid", "test"]
PREDICTED_SPLITS: tuple[PredictedSplit, ...] = ("valid", "test")
"""The splits for which a run saves predictions."""

DEFAULT_METRIC = "auroc_macro"
"""Metric that chooses the best epoch and ranks runs by default. AUROC depends on the ranking of all images, whereas
accuracy jumps with single images.
"""

OWN_WEIGHTS = "own"
"""Value of `weights` if a user's own network comes with its weights."""

NAMED_WEIGHTS = ("imagenet", "none", OWN_WEIGHTS)
"""Values of `weights` that are neither a file nor a run's folder."""

MAX_SEED = 2**63 - 1
"""The largest seed that torch's 64-bit generators accept."""

DEFAULT_FOLDS = 5
"""Default number of folds of a cross-validation."""

SYNTHETIC_IMAGES = 450
"""Default number of images of a synthetic data set."""

ARCHS = (
    "resnet18", "resnet34", "resnet50", "vgg16", "vgg16_bn", "densenet121", "mobilenet_v2", "efficientnet_b0",
    "convnext_tiny",
)  # fmt: skip
"""Networks of `learning.model.backbones`, whose import takes seconds: other names are looked up there."""

MAX_EPOCHS, MAX_BATCH_SIZE, MAX_RESAMPLES, MAX_FOLDS = 100_000, 65_536, 1_000_000, 1000
MAX_WIDTH, MAX_LAYERS, MAX_LABELS, MAX_IMPLICATIONS = 65_536, 1000, 5000, 200
"""Bounds far above any sensible setting, so that a typing error is reported instead of starting an endless run."""

LOSS, MACHINE, OUTPUT = "Loss", "Machine", "Output"
"""Headings in the help besides those of the sections."""


def _as_tuple(value: Any) -> Any:
    """Convert a single value to a tuple of one, and None to an empty tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, (int, float, str)) else value


def _as_weights(value: Any) -> Any:
    """Convert a path or a run to text, and "xrv:NAME" to the path of the file that it names."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    try:
        return xrv_file(text) if isinstance(text, str) else text
    except ConfigError as error:
        raise _broken_rule(str(error)) from error


def _broken_rule(message: str) -> PydanticCustomError:
    """Return an error with a whole message, in which pydantic replaces no braces; `describe_wrong_value` knows its
    type.
    """
    return PydanticCustomError("rules", "{message}", {"message": message})


def _or_switch(on: str) -> BeforeValidator:
    """Convert True to `on` and False to "off", because YAML reads on and off as booleans."""
    return BeforeValidator(lambda value: (on if value else "off") if isinstance(value, bool) else value)


def as_decay(value: Any) -> Any:
    """Convert True to the default decay, and False to None."""
    return (EMA_DECAY if value else None) if isinstance(value, bool) else value


def _or_own_code(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Validate a value, unless it is the name of the user's own code."""
    return value if is_own(value) else validate(value)


OrOwnCode = WrapValidator(_or_own_code)
Texts = Annotated[tuple[str, ...], Field(max_length=MAX_LABELS), BeforeValidator(_as_tuple)]
Rules = Annotated[tuple[str, ...], Field(max_length=MAX_IMPLICATIONS), BeforeValidator(_as_tuple)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
AboveZero = Annotated[float, Field(gt=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=100)]
Epochs = Annotated[int, Field(ge=1, le=MAX_EPOCHS)]
Folds = Annotated[int, Field(ge=1, le=MAX_FOLDS)]
Layers = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Side = Annotated[int, Field(ge=32, le=2048)]
Widths = Annotated[
    tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH)], ...], Field(max_length=16), BeforeValidator(_as_tuple)
]
Trackers = Annotated[tuple[TrackerName, ...], Field(max_length=4), BeforeValidator(_as_tuple)]
Sizes = Annotated[tuple[Side, ...], BeforeValidator(_as_tuple)]
"""Types of fields, with their bounds; a field that has bounds of its own gives them to `option`."""


def option(
    default: Any,
    help: str,
    *,
    panel: str | None = None,
    metavar: str | None = None,
    shown: str | None = None,
    short: str | None = None,
    repeated: bool = False,
    python_only: bool = False,
    bare: Any = None,
    **bounds: Any,
) -> Any:
    """Declare a field and its command-line option, which is `--` and the field's name with dashes.

    `xrayfast.cli.options` makes the options.

    Args:
        default: default of the field. The help shows it unless it is None or the empty tuple.
        help: one or two sentences.
        panel: heading in the help; None for the section's heading.
        metavar: placeholder of the value in the help; None for the values of a Literal or the type's name.
        shown: text to show instead of the default, such as "0 on a CPU, else up to 8".
        short: one-letter flag, such as "-e".
        repeated: whether the option is repeated to give several values, instead of separating them with commas.
        python_only: whether the field has no command-line option, as for the user's own code.
        bare: value of the option if it is given without one; None if it needs a value.
        **bounds: bounds of pydantic, such as `ge=1`.
    """
    extra = {"panel": panel, "metavar": metavar, "shown": shown, "short": short, "repeated": repeated}
    extra |= {"python_only": python_only, "bare": bare}
    return Field(default, description=help, json_schema_extra={k: v for k, v in extra.items() if v}, **bounds)


loss_option, machine_option = partial(option, panel=LOSS), partial(option, panel=MACHINE)


def losses_with(setting: str) -> str:
    """Return the losses that take a setting, as an option of the command line.

    >>> losses_with("alpha")
    '--loss focal'
    """
    return f"--loss {' or '.join(loss for loss, settings in LOSS_SETTINGS.items() if setting in settings)}"


class _Section(BaseModel):
    # Strict: text and true are not accepted as numbers, nor 1.0 as an integer. A file that contains them does not mean
    # what its author believes.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _require_text(cls, value: Any, field: ValidationInfo) -> Any:
        """Convert lists to tuples and text to paths; refuse empty text, because an empty path is the working folder."""
        if isinstance(value, str) and not value:
            raise PydanticCustomError("text", "some text")
        if isinstance(value, str) and "\0" in value:
            raise PydanticCustomError("text", "text without NUL characters")
        if isinstance(value, (str, Path)) and cls.model_fields[str(field.field_name)].annotation in (Path, Path | None):
            if holds_credentials(value):
                raise PydanticCustomError("text", "an address without a password or a query, as runs keep it")
            if field.field_name == "cache_dir" and is_remote(value):
                raise PydanticCustomError("text", "a folder of this machine, or a network folder")
            return to_path(value)
        return tuple(value) if isinstance(value, list) else value

    @field_validator("*")
    @classmethod
    def _check_utf8(cls, value: Any, field: ValidationInfo) -> Any:
        for text in value if isinstance(value, tuple) else [value]:
            if isinstance(text, (str, Path)) and not is_utf8(str(text)):
                raise _broken_rule(
                    f"{field.field_name} is '{escape_hidden(str(text))}'; expected UTF-8. Rename the file, folder or "
                    "column."
                )
        return value


class DataConfig(_Section):
    """Settings of the images, labels and splits."""

    source: Path = option(
        Path("data"),
        "Folder of images with one subfolder per class, or a table of image paths and labels. With --labels, the "
        "folder of the images.",
        metavar="DATA",
    )
    labels: Path | None = option(
        None,
        "Table of image paths and labels: a CSV, TSV, Parquet or Arrow file, or a folder of such files. "
        "By default the class folders in DATA or, without any, a table found there.",
        metavar="FILE",
    )
    path_col: str | None = option(
        None, "Column of the table with the image paths. Inferred by default.", metavar="COLUMN"
    )
    label_col: Texts = option(
        (),
        "Column of the table with the labels, or several columns of 0 and 1, one per label. Inferred by default.",
        metavar="COLUMN[,...]",
    )
    label_delim: str = option(
        "auto", "Separator between the labels in one cell. auto: infer it from the cells.", metavar="TEXT", min_length=1
    )
    label_map: Path | None = option(
        None,
        "File of lines such as 'Cardiomegaly = Enlarged heart', each of which merges synonyms into one label. "
        "'unknown = unknown' makes a label of a word that otherwise counts as a blank cell.",
        metavar="FILE",
    )
    corrections: Path | None = option(
        None,
        "CSV of label corrections with the columns image, label, given, proposed and accept, as 'xrayfast review' "
        "writes it. Only accepted rows are applied.",
        metavar="FILE",
    )
    corrections_sha256: str | None = option(
        None,
        "SHA-256 of the file of corrections. It is an error if the file has another one.",
        metavar="HASH",
        python_only=True,
    )
    exact_labels: bool = option(
        False,
        "Keep labels apart that differ only in case, spaces, '_', '-', quotes or the format of a number. By default "
        "they are merged.",
    )
    uncertain: Texts = option(
        (),
        "How to treat uncertain cells, which are -1 or such as 'mass?': ignore (masked, the default), zeros, ones, "
        "or smooth:0.7 for a target of 0.7. LABEL=POLICY sets it for one label.",
        metavar="POLICY",
        repeated=True,
    )
    blank: Texts = option(
        (),
        "How to treat blank cells and cells such as 'unknown': ignore (masked) or zeros. LABEL=POLICY sets it for "
        "one label. By default zeros for CheXpert and MIMIC-CXR, otherwise ignore.",
        metavar="POLICY",
        repeated=True,
    )
    keep_no_finding: bool = option(
        False, "Make 'No Finding' a label of its own. By default it means that none of the labels applies."
    )
    imply: Rules = option(
        (),
        "Also give the label B to images with the label A, such as covid-19=pneumonia.",
        metavar="A=B",
        repeated=True,
    )
    task: TaskChoice = option(
        "auto",
        "Single-label (exactly one class per image) or multi-label (any number of labels per image). auto: infer it "
        "from the labels.",
    )
    patient_col: str | None = option(
        None,
        "How to find each image's patient, for splits, intervals and --unit patient: a column of the table; "
        "dicom:PatientID; name (file names of known data sets); name:REGEX, such as 'name:(person[0-9]+)', whose "
        "first group is the patient; or none. Inferred by default.",
        metavar="COLUMN",
    )
    study_col: str | None = option(
        None,
        "How to find each image's study, for --unit study: a column of the table, dicom:StudyInstanceUID, "
        "name:REGEX as for --patient-col, or none. Inferred by default.",
        metavar="COLUMN",
    )
    views: Views = option(
        "all",
        "Views to use, as told by a column, DICOM header or file name. frontal: leave out lateral and other views, "
        "but keep images of unknown view; lateral: use only lateral views.",
    )
    split_col: str | None = option(
        None,
        "Column of the table with the split: train, valid or test, or 1 and 0 in a column such as is_test. Inferred "
        "by default.",
        metavar="COLUMN",
    )
    split_file: Path | None = option(
        None,
        "Reuse the split in this split.csv. Images that it lacks join their patient's split, and those of new "
        "patients are assigned to the splits. A list of images named for its split, such as test_list.txt, works "
        "too.",
        metavar="FILE",
    )
    valid_fraction: float = option(
        0.2, "Fraction of the images to validate on, unless the data set gives a validation split.", gt=0, lt=1
    )
    test_fraction: Fraction = option(
        0.0, "Fraction of the images to hold out for testing, unless the data set gives a test split."
    )
    folds: int | None = option(
        None,
        "Divide all images outside the test split into K folds, and validate on one of them (--fold), instead of on "
        "--valid-fraction.",
        metavar="K",
        ge=2,
        le=MAX_FOLDS,
    )
    fold: Folds | None = option(None, "Fold to validate on, from 1 to K of --folds. By default the first.", metavar="I")
    split_seed: Seed = option(0, "Seed of the randomly drawn split.")
    ignore_split: bool = option(
        False, "Ignore the split that the data set's folders or table give, and draw a new one."
    )
    class_level: int | None = option(
        None,
        "Level of the folders that are classes: 1 for the folders in DATA, not counting folders of splits. By "
        "default the first level that does not merely group the images, such as one folder per hospital.",
        metavar="N",
        ge=1,
        le=9,
    )
    keep_masks: bool = option(
        False,
        "Use files as radiographs even if their name, folder or content is that of masks, overlays, maps or "
        "thumbnails. By default they are left out.",
    )
    missing: Problems = option(
        "error",
        "What to do with rows of the table whose image does not exist. error: stop; skip: leave them out and list "
        "them in the run.",
    )
    unreadable: Problems = option(
        "error", "What to do with files that can't be read. error: stop; skip: leave them out and list them in the run."
    )
    window: str = option(
        "auto",
        "Window of DICOM images: auto (the file's first), the number of one of the file's windows, percentile (0.5 "
        "to 99.5% of the pixels), full (all possible values), or CENTER/WIDTH.",
        metavar="WINDOW",
    )
    cache: bool = option(True, "Cache decoded images on disk, so that the next command need not decode them.")
    cache_dir: Path | None = option(
        None, "Folder of the cache of decoded images. By default it is in the user's cache folder.", metavar="DIR"
    )

    @property
    def shown(self) -> str:
        """The source or the table of labels, for display; both if the table is not directly in the source."""
        if self.labels is None:
            return str(self.source)
        return str(self.labels) if self.labels.parent == self.source else f"{self.source}, table {self.labels}"


class ModelConfig(_Section):
    """Settings of the network, and the size of its input images."""

    arch: str = option(
        "resnet18",
        "Network; 'xrayfast models' lists them. timm:NAME is a network of timm (pip install 'xrayfast[timm]').",
        metavar="NAME",
    )
    weights: Annotated[str, BeforeValidator(_as_weights)] = option(
        "imagenet",
        "Weights to start from. RUN, which is another run's folder or hf:ORG/NAME: its backbone, and its head for "
        "labels that both have. FILE: the backbone. xrv:NAME: torchxrayvision's densenet121, such as "
        "xrv:densenet121-res224-all. none: random weights.",
        metavar="imagenet|none|RUN|FILE|xrv:NAME",
    )
    head: HeadName = option(
        "fastai",
        "Layers after the backbone. fastai: fastai's head; linear: one layer on the network's own average pooling; "
        "mlp: hidden layers on that pooling; classifier: the hidden layers of the network's own classifier, with "
        "their weights, and a new last layer ('xrayfast models' lists the networks that have them); none: a whole "
        "network of your own, in Python.",
    )
    head_width: Widths = option(
        (),
        "Units of each hidden layer of the head. By default one layer of 512 for fastai and mlp, and no new one for "
        "classifier.",
        metavar="N[,M]",
    )
    dropout: Fraction | None = option(
        None,
        "Dropout probability before the head's last layer; before its hidden layers half as much.",
        metavar="P",
        shown="0.5 for fastai and classifier, else none",
    )
    splitter: str | None = option(
        None, "Function that divides a network of your own into layer groups.", python_only=True, pattern=f"^{OWN}"
    )
    size: Side = option(224, "Side in pixels of the square that each image is fitted into.", metavar="PIXELS")

    @model_validator(mode="after")
    def _check_head_width(self) -> Self:
        try:
            hidden_units(self.head, self.head_width)
        except ConfigError as error:
            raise _broken_rule(str(error)) from error
        return self


def hidden_units(head: HeadName, head_width: int | Sequence[int] = ()) -> tuple[int, ...]:
    """Return the number of units of each hidden layer of a head, given its `head_width`.

    >>> hidden_units("mlp"), hidden_units("mlp", 120), hidden_units("classifier")
    ((512,), (120,), ())

    Raises:
        ConfigError: `head_width` is given for a head without hidden layers.
    """
    given = (head_width,) if isinstance(head_width, int) else tuple(head_width)
    if head in ("linear", "none") and given:
        raise ConfigError(
            f"head is {head}, which has no hidden layer, and head_width is {', '.join(map(str, given))}. Use "
            "--head mlp, or leave out --head-width."
        )
    return given or ((512,) if head in ("fastai", "mlp") else ())


class TrainConfig(_Section):
    """Settings of training."""

    unfreeze: bool = option(False, "Train the head first, then all layers. By default only the head is trained.")
    unfreeze_blocks: Layers | None = option(
        None, "Train the head first, then the last N blocks too; 'xrayfast models' lists them.", metavar="N"
    )
    unfreeze_layers: Layers | None = option(
        None,
        "Train the head first, then the last N layers too; 'xrayfast models --layers ARCH' lists them.",
        metavar="N",
    )
    freeze_epochs: int = option(
        1, "Epochs that train only the head, before other layers are unfrozen.", ge=0, le=MAX_EPOCHS
    )
    gradual_unfreeze: Epochs | None = option(
        None,
        "Unfreeze one more block every K epochs, starting with the last; with --unfreeze-layers, one more layer. By "
        "default all are unfrozen at once.",
        metavar="K",
    )
    epochs: Epochs = option(
        6,
        "Epochs to train; with unfreezing, those of the last phase, after --freeze-epochs and --gradual-unfreeze.",
        short="-e",
    )
    lr: AboveZero | Literal["auto"] = option(
        2e-3,
        "Peak learning rate of the head, which is halved once layers are unfrozen. auto: run the range test first "
        "and use its suggestion.",
        metavar="RATE|auto",
    )
    lr_div: float | None = option(
        None,
        "Learning rate of the head divided by that of the first layers; layers in between get rates in between.",
        metavar="X",
        shown="10, or 1 without pretrained weights",
        ge=1,
        le=1e6,
    )
    schedule: Schedule = option(
        "one-cycle",
        "Learning rate schedule of each phase. one-cycle: rise for a quarter of it, then fall; flat-cos: constant "
        "for three quarters, then fall; constant: no change.",
    )
    optimizer: OptimizerName = option("adam", "Optimizer.")
    momentum: Fraction = option(
        0.9, "Momentum of SGD, or Adam's first beta. The one-cycle schedule varies it by 0.05 either way."
    )
    beta2: Fraction | None = option(None, "Adam's second beta.", shown="0.99")
    eps: Rate | None = option(None, "Epsilon in the denominator of Adam's step.", shown="1e-5")
    wd: float = option(0.01, "Decoupled weight decay.", ge=0, le=1000)
    ema: Annotated[float | None, BeforeValidator(as_decay)] = option(
        None,
        f"Validate, save and predict with a moving average of the weights, whose decay grows to DECAY ({EMA_DECAY} "
        "if no value is given). Off by default.",
        metavar="[DECAY]",
        bare=EMA_DECAY,
        gt=0,
        lt=1,
    )
    precise_bn: bool = option(
        True,
        "After each epoch, compute the statistics of unfrozen batch norm again from the epoch's last 256 images, "
        "because running statistics lag behind the weights.",
    )
    clip_grad: float | None = option(
        None,
        "Scale all gradients of a step down together if their norm is larger than NORM. By default they are not "
        "clipped.",
        metavar="NORM",
        gt=0,
        le=1e6,
    )
    accumulate: int = option(
        1,
        "Accumulate the gradients of N batches for each optimizer step. Except for batch norm, this equals batches "
        "N times as large.",
        metavar="N",
        ge=1,
        le=10_000,
    )
    early_stop: Epochs | None = option(
        None,
        "Stop the last phase after N epochs without improvement of --monitor. By default it runs to its end.",
        metavar="N",
    )
    monitor: Monitor = option(
        "auto",
        f"Metric that chooses the best epoch, whose weights are saved. auto: {DEFAULT_METRIC}, which varies less "
        "between epochs than accuracy.",
        metavar="METRIC",
    )
    train_metrics: TrainMetrics = option(
        "running",
        "Metrics of the training split. running: from the predictions made while each epoch trains; final: also "
        "predict the split once at the end, without augmentation, with the weights of the best epoch.",
    )
    augment: Annotated[AugmentationName, _or_switch("default"), OrOwnCode] = option(
        "default",
        "Augmentation of training images: mild, default or strong rotates them (by up to 3, 5 or 10 degrees), "
        "scales them down (to 0.95, 0.9 or 0.8) and changes brightness and contrast (by up to 10, 20 or 30%). They "
        "are never flipped. off: no augmentation.",
    )
    mixup: Strength = option(
        0.0,
        "MixUp: average each training image with another one, and their losses, with shares drawn from Beta(A, A), "
        "such as 0.2. 0 is off. Frozen features are not cached then, and training metrics not computed.",
        metavar="A",
    )
    cutmix: Strength = option(
        0.0,
        "CutMix: paste a box of another image into each training image, with its area drawn from Beta(A, A). 0 is "
        "off. It has the other effects of --mixup; with both, each batch gets one of the two.",
        metavar="A",
    )
    balanced_sampling: bool = option(
        False,
        "Draw training images of rare classes more often, by the inverse frequency of the image's class, or of its "
        "rarest label. The number of images per epoch stays the same.",
    )
    tta: bool = option(
        False,
        "Test-time augmentation: average final predictions over augmented views of each image, which depend only on "
        "the image and the seed.",
    )
    allow_leaks: bool = option(
        False,
        "Train even if patients or duplicate images are in more than one split, which the report then says. By "
        "default this is an error.",
    )
    progressive: Sizes = option(
        (),
        "Train on smaller images first, such as 128,176,224; the last size is that of --size. Phases on cached "
        "frozen features use only the last size.",
        metavar="SIZE[,...]",
    )
    reuse_frozen: Annotated[ReuseFrozen, _or_switch("on")] = option(
        "auto",
        "Compute the features of frozen layers once and cache them, instead of in every epoch. auto: only if a "
        "phase has more epochs than cached views, or another phase caches them, and the disk has room.",
    )
    frozen_views: int = option(
        2,
        "Views of each training image in the frozen-feature cache: the image itself and V - 1 augmented ones. With "
        "--reuse-frozen auto there is at least one per ten epochs.",
        metavar="V",
        ge=1,
        le=1000,
    )
    seed: Seed = option(0, "Seed of initial weights, order of images and augmentation.")
    members: int = option(
        1,
        "Networks to train, one after the other with consecutive seeds; the run averages their probabilities.",
        metavar="N",
        ge=1,
        le=MAX_FOLDS,
    )
    loss: Annotated[LossName, OrOwnCode] = loss_option(
        "auto",
        f"Loss: cross entropy (ce), binary cross entropy (bce), asymmetric (asl) or focal. auto: "
        f"{DEFAULT_LOSS['single']} for single-label, {DEFAULT_LOSS['multi']} for multi-label.",
    )
    gamma: Strength = loss_option(
        2.0, f"Focusing strength ({losses_with('gamma')}): the larger it is, the less easy images count."
    )
    alpha: AboveZero | tuple[AboveZero, ...] | None = loss_option(
        None,
        f"Weight of each class, or of positives if multi-label ({losses_with('alpha')}); one number, or "
        "one per label. None by default.",
        metavar="A[,...]",
    )
    gamma_neg: Strength = loss_option(
        4.0, f"Focusing strength of negatives ({losses_with('gamma_neg')}): the larger, the less easy negatives count."
    )
    gamma_pos: Strength = loss_option(
        0.0, f"Focusing strength of positives ({losses_with('gamma_pos')}): the larger, the less easy positives count."
    )
    margin: Fraction = loss_option(
        0.05, f"A negative with a probability of at most this has no loss ({losses_with('margin')})."
    )
    label_smoothing: Fraction = loss_option(
        0.0,
        f"Share of each target that is spread evenly over all classes, or over 1 and 0 if multi-label, such as 0.1 "
        f"({losses_with('label_smoothing')}).",
    )
    class_weights: ClassWeights = loss_option(
        "none",
        "Weight labels in the loss. auto: by inverse frequency; effective: by the inverse effective number of "
        "images (beta 0.999), which differs less between rare and common labels.",
    )
    device: Device = machine_option("auto", "Device to compute on. auto: CUDA if available, else MPS, else the CPU.")
    precision: Precision = machine_option(
        "auto",
        "Precision of training. auto: bf16 if the device has units for it (CUDA, CPUs with AMX) and the network "
        "tolerates it, fp16 on CUDA without such units, otherwise fp32. Predictions are always fp32.",
    )
    sync_bn: bool = machine_option(
        False,
        "In distributed training, normalize over the batches of all ranks instead of each rank's own. Use it if "
        "batches per rank are small.",
    )
    batch_size: int = machine_option(
        32, "Images per batch; in distributed training, per rank.", short="-b", ge=2, le=MAX_BATCH_SIZE
    )
    workers: int | None = machine_option(
        None,
        "Worker processes that read images.",
        metavar="N",
        shown="0 on a CPU, else up to 8",
        short="-j",
        ge=0,
        le=1024,
    )
    data_on_device: Annotated[DataOnDevice, _or_switch("on")] = machine_option(
        "auto",
        "Keep all decoded images in the device's memory, and shuffle and augment them there. auto: on CUDA, if they "
        "fit and --workers is not given; if they don't fit, threads read them ahead.",
    )
    device_share: float = machine_option(
        0.4,
        "Largest share of the device's free memory that images take with --data-on-device auto. The limit also "
        "holds for frozen features.",
        metavar="X",
        gt=0,
        le=0.9,
    )

    track: Trackers = option(
        (),
        "Send settings, epochs, final metrics and figures to an experiment tracker, without names of images and "
        "patients. By default none is used.",
        panel=OUTPUT,
        metavar="|".join(get_args(TrackerName)),
        repeated=True,
    )

    @property
    def mixes_images(self) -> bool:
        """Whether training images are mixed with each other."""
        return bool(self.mixup or self.cutmix)

    @property
    def augmentation(self) -> Augmentation | None:
        """The strengths of augmentation; None if it is off or the user's own code."""
        return AUGMENTATIONS.get(self.augment)

    @property
    def views(self) -> int:
        """Smallest number of cached views per training image."""
        return 1 if self.augment == "off" else self.frozen_views

    def describe_loss(self, title: str) -> str:
        """Return the title of the loss followed by its settings, such as "focal, gamma 2"."""
        values = ((name, getattr(self, name)) for name in loss_settings(self.loss))
        given = (
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in values
            if value is not None and (value or name != "label_smoothing")
        )
        return ", ".join((title, *given))

    @property
    def loop_options(self) -> dict[str, str]:
        """The options that change the training loop, keyed by their names in reports; empty by default."""
        found: dict[str, str] = {}
        if self.ema is not None:
            found["Moving average of the weights"] = f"decay {self.ema:g}"
        if self.clip_grad is not None:
            found["Norm of gradients"] = f"at most {self.clip_grad:g}"
        if self.accumulate > 1:
            found["Batches per step"] = str(self.accumulate)
        if self.balanced_sampling:
            found["Sampling"] = "balanced"
        return found

    @model_validator(mode="after")
    def _check_balanced_once(self) -> Self:
        if self.balanced_sampling and self.class_weights != "none":
            raise _broken_rule(
                f"class_weights is {self.class_weights} with balanced_sampling, and both balance the classes; expected "
                "one. Leave out the other."
            )
        return self

    @model_validator(mode="after")
    def _check_sizes_grow(self) -> Self:
        if list(self.progressive) != sorted(set(self.progressive)):
            raise _broken_rule(f"progressive is {list(self.progressive)}; expected growing sizes, the smallest first.")
        return self


class ResultsConfig(_Section):
    """Settings of calibration, thresholds and metrics."""

    thresholds: Thresholds = option(
        "auto",
        "How each label's threshold is chosen on the validation split. f1: highest F1; youden: highest sum of "
        "sensitivity and specificity; half: always 0.5. auto: f1 for multi-label; for single-label, the most likely "
        "class is predicted.",
    )
    target_sensitivity: Rate | None = option(
        None,
        "Choose each label's threshold to reach this sensitivity on the validation split, such as 0.95.",
        metavar="RATE",
    )
    target_specificity: Rate | None = option(
        None,
        "Choose each label's threshold to reach this specificity on the validation split, such as 0.9.",
        metavar="RATE",
    )
    target_confidence: float | None = option(
        None,
        "Choose the threshold so that the target sensitivity or specificity is reached on new images with this "
        "confidence, such as 0.95.",
        metavar="RATE",
        gt=0,
        lt=1,
    )
    positive: str | None = option(
        None,
        "Positive class, if there are two classes; curves, rates and the threshold are reported for it. By default "
        "the class that is not named normal or the like, or else the last by name.",
        metavar="LABEL",
    )
    unit: Unit = option(
        "image",
        "Unit of predictions, metrics, intervals, thresholds and the choice of the best epoch: image, or study or "
        "patient, whose images' probabilities are joined into one.",
    )
    unit_join: UnitJoin = option(
        "mean",
        "How --unit joins the probabilities of the images of a study or patient: their mean, their maximum, or "
        "noisy-or (multi-label only), which is 1 minus the product of 1 - p.",
    )
    calibrate: bool = option(
        True,
        "Calibrate probabilities on the validation split: slope and bias of each label's logit (of the positive "
        "class, if there are two classes), or one temperature for more classes.",
    )
    prevalence: Texts = option(
        (),
        "Also report predictive values at this prevalence, such as 0.05. LABEL=RATE sets it for one label.",
        metavar="RATE",
        repeated=True,
    )
    resamples: int = option(
        1000,
        "Number of bootstrap resamples of patients for the 95% intervals. 0: no intervals.",
        metavar="N",
        ge=0,
        le=MAX_RESAMPLES,
    )

    @model_validator(mode="after")
    def _check_one_criterion(self) -> Self:
        given = ["thresholds"] if self.thresholds != "auto" else []
        given += [name for name in ("target_sensitivity", "target_specificity") if getattr(self, name) is not None]
        if len(given) > 1:
            raise _broken_rule(f"found {' and '.join(given)}; expected one. Leave out the others.")
        if self.target_confidence is not None and 1.0 in (self.target_sensitivity, self.target_specificity):
            raise _broken_rule(
                "found target_confidence for a rate of 1; expected a lower rate: no number of images can guarantee 1."
            )
        return self


class ResultsOptions(TypedDict, total=False):
    """The fields of ResultsConfig, as keyword arguments of `xrayfast.fit` and `xrayfast.interpret`."""

    thresholds: Thresholds
    target_sensitivity: float | None
    target_specificity: float | None
    target_confidence: float | None
    positive: str | None
    unit: Unit
    unit_join: UnitJoin
    calibrate: bool
    prevalence: str | Sequence[str]
    resamples: int


class Options(ResultsOptions, total=False):
    """The fields of all sections except `data`, as keyword arguments of `xrayfast.fit` and `xrayfast.find_lr`."""

    arch: str | Callable[..., Any]
    weights: str | os.PathLike[str]
    head: HeadName
    head_width: int | tuple[int, ...]
    dropout: float | None
    splitter: str | Callable[..., Any] | None
    size: int
    unfreeze: bool
    unfreeze_blocks: int | None
    unfreeze_layers: int | None
    freeze_epochs: int
    gradual_unfreeze: int | None
    epochs: int
    lr: float | Literal["auto"]
    lr_div: float | None
    schedule: Schedule
    optimizer: OptimizerName
    momentum: float
    beta2: float | None
    eps: float | None
    wd: float
    ema: float | bool | None
    precise_bn: bool
    sync_bn: bool
    clip_grad: float | None
    accumulate: int
    balanced_sampling: bool
    loss: LossName | Callable[..., Any]
    gamma: float
    alpha: float | tuple[float, ...] | None
    gamma_neg: float
    gamma_pos: float
    margin: float
    label_smoothing: float
    class_weights: ClassWeights
    precision: Precision
    device: Device
    workers: int | None
    data_on_device: DataOnDevice
    device_share: float
    track: TrackerName | Sequence[TrackerName]
    batch_size: int
    seed: int
    members: int
    early_stop: int | None
    monitor: Monitor
    train_metrics: TrainMetrics
    augment: AugmentationName | bool | Callable[..., Any] | Sequence[Callable[..., Any]]
    mixup: float
    cutmix: float
    tta: bool
    allow_leaks: bool
    reuse_frozen: ReuseFrozen
    frozen_views: int
    progressive: int | tuple[int, ...]


class Config(_Section):
    """All settings of a run, as saved in its `config.yaml`: the sections `data`, `model`, `train` and `results`."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    results: ResultsConfig = ResultsConfig()
    _folder: Path | None = PrivateAttr(None)

    def __init__(self, **sections: Any) -> None:
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise ConfigError(*_messages(error)) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and dict(self) == dict(other)

    @property
    def folder(self) -> Path | None:
        """The folder of the file that the settings were read from; None if they were made in Python."""
        return self._folder

    @model_validator(mode="after")
    def _check_last_size(self) -> Self:
        sizes, size = self.train.progressive, self.model.size
        if sizes and sizes[-1] != size:
            raise _broken_rule(
                f"progressive ends at {sizes[-1]}, and size is {size}: the network is made for the last one. Use "
                f"--size {sizes[-1]}, or end at {size}."
            )
        return self

    @property
    def own_code(self) -> dict[str, str]:
        """The names of the user's own code, keyed by setting; see `xrayfast.own_code`."""
        return names_of_code({name: value for section in SECTIONS for name, value in getattr(self, section)})

    @check_arguments()
    def updated(self, options: Mapping[str, Any]) -> Config:
        """Return a copy with some fields replaced, which then count as given. Fields are named without their section.

        Raises:
            ConfigError: one or more names or values are wrong; the message lists all of them.
        """
        sections: dict[str, dict[str, Any]] = {name: dict(getattr(self, name)) for name in Config.model_fields}
        unknown = []
        for name, value in options.items():
            if name in FIELD_SECTIONS:
                sections[FIELD_SECTIONS[name]][name] = as_python(value)
            else:
                unknown.append(f"unknown option '{name}'.{did_you_mean(name, FIELD_SECTIONS)}")
        if unknown:
            raise ConfigError(*unknown)
        given = {name: getattr(self, name).model_fields_set | set(options) for name in sections}
        return Config(**sections)._of(self._folder).with_given(given)

    def with_given(self, given: Mapping[str, set[str]]) -> Config:
        """Return a copy in which the named fields of each section count as given for this run.

        `model_fields_set` then contains exactly these fields. `option_effects` raises an error only for fields that
        were given, not for those that were read from a file or left at their defaults.
        """
        sections: dict[str, Any] = {
            name: SECTIONS[name].model_construct(names & set(SECTIONS[name].model_fields), **dict(getattr(self, name)))
            for name, names in given.items()
        }
        return Config.model_construct(**sections)._of(self._folder)

    def _of(self, folder: Path | None) -> Config:
        self._folder = folder
        return self

    @classmethod
    @check_arguments()
    def read(cls, path: Path | str) -> Config:
        """Read a YAML file with the sections `data`, `model`, `train` and `results`, each of them optional.

        None of its values counts as given.

        Raises:
            ConfigFileError: the file does not exist, is not plain YAML (see `read_yaml`), or has unknown keys or wrong
                values.
        """
        content = read_yaml(Path(path), "settings in the sections data, model, train and results", ConfigFileError)
        folder = Path(path).absolute().parent
        content = _fill_as_before(content)
        if not isinstance(content, dict):
            found = "no settings" if content is None else type(content).__name__
            raise ConfigFileError(f"{path}: expected the sections data, model, train and results; found {found}.")
        try:
            # A section without settings is None.
            sections = {str(name): {} if section is None else section for name, section in content.items()}
            return cls(**sections)._of(folder).with_given({name: set() for name in SECTIONS})
        except ConfigError as error:
            raise ConfigFileError(*(f"{path}: {line}" for line in error.args)) from error

    def to_yaml(self) -> str:
        """Return the text of `config.yaml`, from which `read` restores the same settings."""
        return dump_yaml(self.model_dump(mode="json"))


SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "results": ResultsConfig,
}
FIELD_SECTIONS = {name: section for section, model in SECTIONS.items() for name in model.model_fields}
"""The section of each field. Names of fields are unique across sections."""


FIELDS_OF_FIRST_VERSION = frozenset({"unfreeze", "freeze_epochs", "epochs", "lr", "lr_div", "schedule", "wd"})
"""Some fields of the section `train` that every version has written to a run's `config.yaml`."""


def _fill_as_before(content: Any) -> Any:
    """Add the defaults of versions before 0.8 to the content of a file, if it is the `config.yaml` of such a run.

    The file of such a run does not contain them, and the defaults have changed since.
    """
    train = content.get("train") if isinstance(content, dict) else None
    if not isinstance(train, dict) or "precise_bn" in train or not train.keys() >= FIELDS_OF_FIRST_VERSION:
        return content
    before: dict[str, Any] = {"precise_bn": False}
    pretrained = not isinstance(content.get("model"), dict) or content["model"].get("weights") != "none"
    unfreezes = any(train.get(name) for name in ("unfreeze", "unfreeze_blocks", "unfreeze_layers"))
    if train["lr_div"] is None and pretrained and unfreezes:
        before["lr_div"] = 100.0
    return {**content, "train": train | before}


def _words(annotation: Any) -> set[str]:
    """Return the values of all Literals in a type."""
    inner = get_args(annotation)
    return {str(one) for one in inner} if get_origin(annotation) is Literal else set().union(*map(_words, inner))


for _section in SECTIONS.values():
    for _name, _field in _section.model_fields.items():
        _extra: Any = _field.json_schema_extra
        describe_option(_name, _words(_field.annotation), _field.annotation is bool or "bare" in _extra)


@cache
def field_types() -> dict[str, Any]:
    """Return the type of each field with its bounds, for `check_arguments`."""
    fields = [item for model in SECTIONS.values() for item in model.model_fields.items()]
    return {name: field.rebuild_annotation() for name, field in fields}


_MOST_PROBLEMS = 100


def _messages(error: ValidationError) -> list[str]:
    """Return one line per wrong field, for the first `_MOST_PROBLEMS` errors; a union has one error per type."""
    problems: dict[tuple[str, ...], list[Any]] = {}
    for problem in error.errors(include_url=False)[:_MOST_PROBLEMS]:
        problems.setdefault(tuple(map(str, problem["loc"][:2])), []).append(problem)
    return [_message(path, of_path) for path, of_path in problems.items()]


def _message(path: tuple[str, ...], problems: Sequence[Any]) -> str:
    last = problems[-1]
    if last["type"] == "extra_forbidden":
        return f"unknown key '{'.'.join(path)}'.{_place_of(path)}"
    return describe_wrong_value(path[-1] if path else "settings", last["input"], problems, _code(path))


def _code(path: tuple[str, ...]) -> str:
    """Return the kind of code that a field accepts, for a message; "" if it accepts none."""
    return f", or in Python {OWN_SETTINGS[path[-1]]}" if path and path[-1] in OWN_SETTINGS else ""


def _place_of(path: tuple[str, ...]) -> str:
    """Return a hint on the section of a misplaced key, or on the key that an unknown one may mean."""
    section = FIELD_SECTIONS.get(path[-1])
    if section is not None:
        return f" '{path[-1]}' belongs under '{section}:'."
    known = [*Config.model_fields, *FIELD_SECTIONS] if len(path) == 1 else list(FIELD_SECTIONS)
    return did_you_mean(path[-1], known)

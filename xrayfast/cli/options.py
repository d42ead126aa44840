"""Every option, declared once and used by the commands that take it.

An option of a run is named as its field in `xrayfast.config`; a test compares the two, defaults included. None stands
for "not given", so that a --config file can give it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

DATA, NET, TRAIN, LOSS, RESULTS, MACHINE, OUT = (
    "Data",
    "Network",
    "Training",
    "Loss",
    "Results",
    "Machine",
    "Output",
)


def _option(*names: str, panel: str, default: str | None = None, help: str, metavar: str | None = None) -> Any:
    return typer.Option(
        *names,
        rich_help_panel=panel,
        show_default=default if default is not None else False,
        help=help,
        metavar=metavar,
    )


# Data
Data = Annotated[
    Path | None,
    typer.Argument(metavar="DATA", show_default="data", help="Folder of images in class folders, or a CSV file."),
]
Labels = Annotated[
    Path | None, _option("--labels", panel=DATA, metavar="FILE", help="CSV file of image paths and labels.")
]
PathCol = Annotated[
    str | None,
    _option("--path-col", panel=DATA, metavar="COLUMN", help="Its column of paths; guessed where not given."),
]
LabelCol = Annotated[
    str | None,
    _option(
        "--label-col",
        panel=DATA,
        metavar="COLUMN[,...]",
        help="Its column of labels, or several columns of 0 and 1.",
    ),
]
LabelDelim = Annotated[
    str | None,
    _option("--label-delim", panel=DATA, metavar="TEXT", default="auto", help="What stands between labels in a cell."),
]
LabelMap = Annotated[
    Path | None,
    _option("--label-map", panel=DATA, metavar="FILE", help="Lines as 'Cardiomegaly = Enlarged heart' join synonyms."),
]
Uncertain = Annotated[
    list[str] | None,
    _option(
        "--uncertain",
        panel=DATA,
        metavar="POLICY",
        help="Cells of -1: ignore (where not given), zeros, ones, or smooth:0.7; LABEL=POLICY for one label. "
        "May be repeated.",
    ),
]
Blank = Annotated[
    list[str] | None,
    _option(
        "--blank",
        panel=DATA,
        metavar="POLICY",
        help="Blank cells: ignore or zeros; LABEL=POLICY for one label. Where not given, zeros for CheXpert and "
        "MIMIC-CXR, else ignore. May be repeated.",
    ),
]
KeepNoFinding = Annotated[
    bool | None,
    _option(
        "--keep-no-finding/--no-keep-no-finding",
        panel=DATA,
        default="no-keep-no-finding",
        help="Make 'No Finding' a label of its own; else it means none of the labels.",
    ),
]
SplitCol = Annotated[
    str | None,
    _option("--split-col", panel=DATA, metavar="COLUMN", help="Its column of train, valid and test."),
]
SplitFile = Annotated[
    Path | None,
    _option(
        "--split-file",
        panel=DATA,
        metavar="FILE",
        help="A split.csv to replay, or a list of images named for its split, such as test_list.txt.",
    ),
]
PatientCol = Annotated[
    str | None,
    _option(
        "--patient-col",
        panel=DATA,
        metavar="COLUMN",
        help="Its column of patients, whom no split divides; or dicom:PatientID, name (in the file names), none. "
        "Recognised where not given.",
    ),
]
Imply = Annotated[
    list[str] | None,
    _option(
        "--imply",
        panel=DATA,
        metavar="A=B",
        help="Images of A are also labelled B, as covid-19=pneumonia. May be repeated.",
    ),
]
Task = Annotated[
    str | None,
    _option(
        "--task",
        panel=DATA,
        metavar="single|multi|auto",
        default="auto",
        help="One label an image, or several; auto looks at the labels.",
    ),
]
ValidFraction = Annotated[
    float | None,
    _option(
        "--valid-fraction",
        panel=DATA,
        default="0.2",
        help="Share to validate on, where the data brings no split.",
    ),
]
TestFraction = Annotated[
    float | None,
    _option("--test-fraction", panel=DATA, default="0.0", help="Share to test on, where the data brings no split."),
]
Folds = Annotated[
    int | None,
    _option("--folds", panel=DATA, metavar="K", help="Validate on one of K equal parts of what is not test."),
]
Fold = Annotated[
    int | None, _option("--fold", panel=DATA, metavar="I", help="Which of them, from 1; the first where not given.")
]
SplitSeed = Annotated[int | None, _option("--split-seed", panel=DATA, default="0", help="Seed of the split.")]
Window = Annotated[
    str | None,
    _option(
        "--window",
        panel=DATA,
        metavar="WINDOW",
        default="auto",
        help="DICOM: auto takes a file's first window; or its number, percentile, full, or CENTER/WIDTH.",
    ),
]
Cache = Annotated[
    bool | None,
    _option("--cache/--no-cache", panel=DATA, default="cache", help="Keep decoded images on disk for the next time."),
]
CacheDir = Annotated[
    Path | None,
    _option("--cache-dir", panel=DATA, metavar="DIR", help="Where; by default in the user's cache folder."),
]

# Network
Arch = Annotated[
    str | None,
    _option("--arch", panel=NET, metavar="NAME", default="resnet18", help="Network; 'xrayfast models' lists them."),
]
Weights = Annotated[
    str | None,
    _option(
        "--weights",
        panel=NET,
        metavar="imagenet|none|FILE",
        default="imagenet",
        help="Weights to start from.",
    ),
]
HeadWidth = Annotated[
    str | None,
    _option(
        "--head-width",
        panel=NET,
        metavar="N[,M]",
        help="Hidden units of the head; fastai's head where not given.",
    ),
]
Size = Annotated[
    int | None,
    _option(
        "--size",
        panel=NET,
        metavar="PIXELS",
        default="224",
        help="Side of the square that each image is fitted into.",
    ),
]

# Training
Unfreeze = Annotated[
    bool | None,
    _option(
        "--unfreeze/--no-unfreeze",
        panel=TRAIN,
        default="no-unfreeze",
        help="Train all layers after the head.",
    ),
]
UnfreezeBlocks = Annotated[
    int | None,
    _option("--unfreeze-blocks", panel=TRAIN, metavar="N", help="Train the last N blocks after the head."),
]
FreezeEpochs = Annotated[
    int | None,
    _option("--freeze-epochs", panel=TRAIN, default="1", help="Epochs on the head alone before layers are thawed."),
]
Epochs = Annotated[
    int | None,
    _option("--epochs", "-e", panel=TRAIN, default="6", help="Epochs, after those of --freeze-epochs."),
]
Lr = Annotated[
    str | None,
    _option(
        "--lr",
        panel=TRAIN,
        metavar="RATE|auto",
        default="0.002",
        help="Peak learning rate of the head; auto runs the range test first. Halved for the layers thawed after it.",
    ),
]
LrDiv = Annotated[
    float | None,
    _option(
        "--lr-div",
        panel=TRAIN,
        metavar="X",
        default="100, or 1 without pretrained weights",
        help="The first layers train at 1/X of the head's rate.",
    ),
]
Schedule = Annotated[
    str | None,
    _option(
        "--schedule",
        panel=TRAIN,
        metavar="one-cycle|flat-cos|constant",
        default="one-cycle",
        help="Course of the learning rate.",
    ),
]
Optimizer = Annotated[
    str | None, _option("--optimizer", panel=TRAIN, metavar="adam|sgd", default="adam", help="Optimiser.")
]
Momentum = Annotated[
    float | None,
    _option(
        "--momentum",
        panel=TRAIN,
        default="0.9",
        help="Of sgd, or adam's first beta; one-cycle moves it by 0.05 either way.",
    ),
]
Wd = Annotated[float | None, _option("--wd", panel=TRAIN, default="0.01", help="Weight decay, decoupled.")]
EarlyStop = Annotated[
    int | None,
    _option(
        "--early-stop",
        panel=TRAIN,
        metavar="N",
        help="Stop the last phase after N epochs without improvement.",
    ),
]
Monitor = Annotated[
    str | None,
    _option(
        "--monitor",
        panel=TRAIN,
        metavar="METRIC",
        default="auto",
        help="What decides which epoch is best; auto is auroc_macro.",
    ),
]
Tta = Annotated[
    bool | None,
    _option(
        "--tta/--no-tta",
        panel=TRAIN,
        default="no-tta",
        help="Average final predictions over augmented views.",
    ),
]
AllowLeaks = Annotated[
    bool | None,
    _option(
        "--allow-leaks/--no-allow-leaks",
        panel=TRAIN,
        default="no-allow-leaks",
        help="Train although patients or duplicates stand on both sides of the split; the report says so.",
    ),
]
Seed = Annotated[
    int | None, _option("--seed", panel=TRAIN, default="0", help="Seed of weights, order and augmentation.")
]

Progressive = Annotated[
    str | None,
    _option(
        "--progressive",
        panel=TRAIN,
        metavar="SIZE[,...]",
        help="Train on smaller images first, such as 128,176,224; the last is --size. Phases that reuse frozen "
        "layers don't.",
    ),
]
ReuseFrozen = Annotated[
    str | None,
    _option(
        "--reuse-frozen",
        panel=TRAIN,
        metavar="auto|on|off",
        default="auto",
        help="Compute what frozen layers give once, not every epoch; auto: where a phase has more epochs than "
        "there are views, or another phase keeps it, and the disk has room.",
    ),
]
FrozenViews = Annotated[
    int | None,
    _option(
        "--frozen-views",
        panel=TRAIN,
        metavar="V",
        default="2",
        help="Views of each training image that this is done for, the image itself and V - 1 augmented ones; with "
        "auto at least one for ten epochs.",
    ),
]

# Loss
Loss = Annotated[
    str | None,
    _option(
        "--loss",
        panel=LOSS,
        metavar="auto|ce|bce|focal",
        default="auto",
        help="auto: ce for one label an image, bce for several.",
    ),
]
Gamma = Annotated[float | None, _option("--gamma", panel=LOSS, default="2.0", help="Focal loss: focusing strength.")]
Alpha = Annotated[
    str | None,
    _option("--alpha", panel=LOSS, metavar="A[,...]", help="Focal loss: balance, one number or one per label."),
]
ClassWeights = Annotated[
    str | None,
    _option(
        "--class-weights",
        panel=LOSS,
        metavar="none|auto",
        default="none",
        help="auto weighs labels by inverse frequency.",
    ),
]

# Results
Thresholds = Annotated[
    str | None,
    _option(
        "--thresholds",
        panel=RESULTS,
        metavar="auto|f1|youden|half",
        default="auto",
        help="What each label's threshold is chosen for, on validation; half is 0.5. auto: f1 for several labels an "
        "image; of one label an image, the most likely class is taken.",
    ),
]
TargetSensitivity = Annotated[
    float | None,
    _option(
        "--target-sensitivity",
        panel=RESULTS,
        metavar="RATE",
        help="Choose each label's threshold to reach it on validation, such as 0.95.",
    ),
]
TargetSpecificity = Annotated[
    float | None,
    _option(
        "--target-specificity",
        panel=RESULTS,
        metavar="RATE",
        help="The same for specificity.",
    ),
]
Calibrate = Annotated[
    bool | None,
    _option(
        "--calibrate/--no-calibrate",
        panel=RESULTS,
        default="calibrate",
        help="Scale probabilities on validation: one temperature, or slope and bias of each of several labels.",
    ),
]
Prevalence = Annotated[
    list[str] | None,
    _option(
        "--prevalence",
        panel=RESULTS,
        metavar="RATE",
        help="Give predictive values at this share of images with a label; LABEL=RATE for one label. May be repeated.",
    ),
]
Resamples = Annotated[
    int | None,
    _option(
        "--resamples",
        panel=RESULTS,
        metavar="N",
        default="1000",
        help="How often patients are drawn for the 95 % intervals; 0 leaves intervals out.",
    ),
]

# Machine
Device = Annotated[
    str | None,
    _option("--device", panel=MACHINE, metavar="auto|cpu|cuda|mps", default="auto", help="Where to compute."),
]
Precision = Annotated[
    str | None,
    _option(
        "--precision",
        panel=MACHINE,
        metavar="auto|fp32|bf16|fp16",
        default="auto",
        help="Of training; auto: bf16 where the device has units for it (CUDA, CPUs with AMX) and the network bears "
        "it, fp16 on CUDA without them, else fp32. Predictions are fp32.",
    ),
]
BatchSize = Annotated[int | None, _option("--batch-size", "-b", panel=MACHINE, default="32", help="Images a batch.")]
Workers = Annotated[
    int | None,
    _option(
        "--workers",
        "-j",
        panel=MACHINE,
        metavar="N",
        default="0 on a CPU, else up to 8",
        help="Processes that read images.",
    ),
]

DATA_SETTINGS = {
    "source": Data,
    "labels": Labels,
    "path_col": PathCol,
    "label_col": LabelCol,
    "label_delim": LabelDelim,
    "label_map": LabelMap,
    "uncertain": Uncertain,
    "blank": Blank,
    "keep_no_finding": KeepNoFinding,
    "imply": Imply,
    "task": Task,
    "patient_col": PatientCol,
    "split_col": SplitCol,
    "split_file": SplitFile,
    "valid_fraction": ValidFraction,
    "test_fraction": TestFraction,
    "folds": Folds,
    "fold": Fold,
    "split_seed": SplitSeed,
    "window": Window,
    "cache": Cache,
    "cache_dir": CacheDir,
}
MODEL_SETTINGS = {"arch": Arch, "weights": Weights, "head_width": HeadWidth, "size": Size}
TRAIN_SETTINGS = {
    "unfreeze": Unfreeze,
    "unfreeze_blocks": UnfreezeBlocks,
    "freeze_epochs": FreezeEpochs,
    "epochs": Epochs,
    "lr": Lr,
    "lr_div": LrDiv,
    "schedule": Schedule,
    "optimizer": Optimizer,
    "momentum": Momentum,
    "wd": Wd,
    "early_stop": EarlyStop,
    "monitor": Monitor,
    "tta": Tta,
    "allow_leaks": AllowLeaks,
    "progressive": Progressive,
    "reuse_frozen": ReuseFrozen,
    "frozen_views": FrozenViews,
    "seed": Seed,
    "loss": Loss,
    "gamma": Gamma,
    "alpha": Alpha,
    "class_weights": ClassWeights,
    "device": Device,
    "precision": Precision,
    "batch_size": BatchSize,
    "workers": Workers,
}
RESULTS_SETTINGS = {
    "thresholds": Thresholds,
    "target_sensitivity": TargetSensitivity,
    "target_specificity": TargetSpecificity,
    "calibrate": Calibrate,
    "prevalence": Prevalence,
    "resamples": Resamples,
}

# Files and form of the output
ConfigFile = Annotated[
    Path | None,
    _option(
        "--config",
        "-c",
        panel=OUT,
        metavar="FILE",
        help="YAML file of settings, such as a run's config.yaml; options go over it.",
    ),
]
Runs = Annotated[
    Path, _option("--runs", panel=OUT, default="runs", metavar="DIR", help="Folder that runs are kept in.")
]
Name = Annotated[
    str | None,
    _option("--name", panel=OUT, metavar="NAME", help="Name of the run; default the arch and a number."),
]
Json = Annotated[
    bool,
    _option("--json", panel=OUT, help="Print one JSON object to standard output, all else to standard error."),
]
RunFolder = Annotated[
    Path | None, typer.Argument(metavar="RUN", show_default="the newest under runs/", help="A run's folder.")
]


PREDICTED_SPLITS = ("valid", "test")
DEVICES = ("auto", "cpu", "cuda", "mps")


def takes(
    *groups: Mapping[str, Any], without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each setting of these groups.

    The command's first parameter gets what `given` makes of them. Typer reads options from a signature, so one is
    made that names them all; written out, the same forty lines would stand in four commands.
    """
    aliases = {name: alias for group in groups for name, alias in group.items() if name not in without}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        def run(**values: Any) -> None:
            settings = given({name: values.pop(name) for name in aliases})
            command(settings, **values)

        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=alias)
            for name, alias in aliases.items()
        ]
        options += [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in options}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a command's settings, those that were given, with lists of numbers and names taken apart.

    >>> given({"epochs": 3, "lr": None, "head_width": "500,100", "alpha": "0.25"})
    {'epochs': 3, 'head_width': ('500', '100'), 'alpha': '0.25'}
    """
    named = {name: value for name, value in values.items() if value is not None}
    for name in ("head_width", "label_col", "alpha", "progressive"):
        if name in named and (name != "alpha" or "," in named[name]):
            named[name] = tuple(part.strip() for part in named[name].split(","))
    return named


def require_one_of(value: str | None, words: Collection[str], option: str) -> None:
    """A usage error where an option was given another word."""
    if value is not None and value not in words:
        raise typer.BadParameter(f"'{value}' is not one of {', '.join(words)}.", param_hint=option)

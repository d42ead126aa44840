"""Predict on new files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from xrayfast.config import MAX_BATCH_SIZE, Device, Unit, UnitJoin, field_types
from xrayfast.data.images.names import DERIVED, is_derived, view_in_name
from xrayfast.data.images.notes import Note, describe_notes, note_enlarged
from xrayfast.data.images.reader import Radiograph, fit_square, read
from xrayfast.data.sources.datasets.webdataset import keep_unlabeled
from xrayfast.errors import ConfigError, ReadError, plural, plural_noun, shorten
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import warn
from xrayfast.exported.onnx_model import VIEWS_LEFT_OUT, OnnxModel, is_model_file, require_no_network_options
from xrayfast.files.virtual.addresses import is_web_address, name_of_address
from xrayfast.learning.inference.reading import reading
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.operating_points.thresholds import threshold_array
from xrayfast.metrics.operating_points.units import join_probabilities
from xrayfast.option_effects import check_tta
from xrayfast.progress import show_progress
from xrayfast.runs.predictions import PROBABILITY_PREFIX, join_row_labels
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.evaluation.population import known_attributes, note_other_population
from xrayfast.workflows.steps.predictions.ensembles import average_splits, require_alike
from xrayfast.workflows.steps.predictions.image_files import find_images

if TYPE_CHECKING:
    from xrayfast.workflows.steps.predictions.units_of_files import UnitsOfFiles

CSV_NUMBERS = "%.9g"
"""The number format of a written table: enough digits for float32."""

SPREAD_PREFIX = "spread_"
"""Prefix of the columns with the standard deviation over an ensemble's networks."""


@check_arguments(field_types)
def predict(
    run: Run | Path | str | Sequence[Run | Path | str],
    sources: Sequence[Path | str] | Path | str,
    *,
    abstain_below: float | None = None,
    tta: bool | None = None,
    unit: Unit = "image",
    unit_join: UnitJoin | None = None,
    patient_col: str | None = None,
    study_col: str | None = None,
    batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)] = 32,
    arch: Callable[..., Any] | None = None,
    device: Device = "auto",
    progress: bool | Callable[[int, int], None] | None = None,
    note: Callable[[str], None] = warn,
) -> pd.DataFrame:
    """Predict labels and calibrated probabilities of new images, with the thresholds chosen on the validation split.

    An example: `xf.predict("runs/resnet18-1", ["a.png", "new/"])[["file", "predicted"]]`.

    Args:
        run: the run, its folder, or `hf:ORG/NAME@REVISION`, which is downloaded. The probabilities of several runs are
            averaged and calibrated as in `ensemble`. Or an ONNX file of `export`, which is run with onnxruntime,
            without importing torch.
        sources: files, folders (searched for images), archives, shards as a brace pattern
            (`data-{000000..000009}.tar`), addresses of remote files or folders, and glob patterns.
        abstain_below: abstain if the calibrated probability of the answer is below this value: on single labels
            (multi-label) or on the image's class (single-label).
        tta: average over augmented views, which depend only on the run's seed and the image; by default as in the run's
            own predictions, which its calibration and thresholds were fitted to.
        unit: "image"; or "study" or "patient" to join the probabilities of their images and predict one row for each.
            If the run's thresholds are for another unit, thresholds are chosen again on its validation split.
        unit_join: how to join them: "mean", "max" or "noisy-or"; default the run's setting.
        patient_col: how to find patients in names or DICOM headers, as in `open_data`; default the run's setting, else
            inferred.
        study_col: how to find studies; default the run's setting, else inferred.
        batch_size: images per batch.
        arch: the run's `arch`, if it is code of your own.
        device: the device to compute on.
        progress: whether to display progress, by default only in a notebook or a terminal; or a function to call with
            the number of files done and the total.
        note: function to call with each note: on files left out, on files with the pixels of an earlier one, on how
            images were read, and on differences from the run.

    Returns:
        A table with one row per file, in input order, and these columns: `file`; `predicted` (labels joined with "|");
        with `abstain_below`, `abstained` (the labels abstained on; if single-label, the most likely class); if a run
        with three or more classes has thresholds, `above_threshold` (the classes whose one-vs-rest threshold is
        reached); `prob_LABEL` for each label; for an ensemble, `spread_LABEL`, the standard deviation of its networks'
        own probabilities; `notes`, notes on reading the file, joined with "; "; and `error`, "" or why the file can't
        be read: such a row has no prediction. For a downloaded run also `run`, its repository and commit.

        For studies or patients, a table with one row per study or patient, in the order of their first files: `file`,
        the first file by name; `images_of_study` or `images_of_patient`, the number of images that were read; the
        columns above except `spread_LABEL`; and `files`, all files, joined with "|". `error` lists the files that could
        not be read; the prediction uses the rest.

    Raises:
        DataError: a source does not exist, no images are found, or no file's study or patient is known.
        ConfigError: `abstain_below` is not a probability, several runs differ in labels, task, size or window, or an
            option of studies and patients has no effect or names a column.
        RunError: the folder is not a complete run, or the file is damaged or was not written by `export`.
        WeightsError: the weights are not those of the network that the folder describes.
    """
    _check_options(abstain_below, unit, {"unit_join": unit_join, "patient_col": patient_col, "study_col": study_col})
    given = [run] if isinstance(run, (Run, Path, str)) else list(run)
    exported = len(given) == 1 and is_model_file(given[0])
    runs = [] if exported else _open_runs(given)
    members = [] if exported else _members(runs)
    files, left_out, repeated = find_images([sources] if isinstance(sources, (str, Path)) else sources)
    stages = (lambda stage, done, total: progress(done, total)) if callable(progress) else progress
    with show_progress(stages) as reporter:
        _each(note, _describe_files(files, left_out, repeated))
        _each(note, dict.fromkeys(text for member in members for text in check_tta(tta, member.config.train)))
        predictor: Any = open_exported(given[0], device, arch, note) if exported else None
        if predictor:
            window, size = predictor.window, predictor.size
        else:
            window, size = members[0].config.data.window, members[0].config.model.size
        units = None
        if unit != "image":
            # Imported only here: without these, an exported model starts in half the time.
            from xrayfast.workflows.steps.evaluation.exported_run import ExportedRun
            from xrayfast.workflows.steps.predictions.units_of_files import find_units

            owners = ExportedRun(os.fspath(cast(str, given[0]))) if exported else members
            units = find_units(files, _shown(files), owners, unit, unit_join, patient_col, study_col)
            _each(note, units.notes)
        with reading(files, lambda file: _try_read(file, window, size)) as contents:
            if not exported:
                contents.begin()  # the import of torch takes seconds
                predictor = _open_networks(members, device, arch)
            _each(note, check_abstention(units.decision if units else predictor.decision, abstain_below))
            _each(note, [] if units else check_unit(predictor.decision))
            tables: list[pd.DataFrame] = []
            notes: list[tuple[str, ...]] = []
            digests: list[bytes | None] = []
            reporter.preparing("predicting", 0, len(files))
            for chunk in contents.chunks(partial(reporter.preparing, "predicting")):
                names = files[len(notes) : len(notes) + len(chunk)]
                tables.append(tabulate(predictor, names, chunk, abstain_below, tta, batch_size))
                notes += [content.notes if isinstance(content, Radiograph) else () for content in chunk]
                digests += map(_digest, chunk)
        _each(note, _describe_copies(_shown(files), digests))
        _each(note, describe_notes(_shown(files), notes))
        lateral = np.array(["LATERAL" * (Note.LATERAL.text in own) for own in notes], object)
        if runs and any(lateral):  # the run's predictions may be a large file
            _each(note, note_other_population(known_attributes(runs[0]), {"view": lateral}))
    table = pd.concat(tables, ignore_index=True)
    if units:
        table = _join(table, units, abstain_below)
    if origins := [str(run.downloaded) for run in runs if run.downloaded]:
        table["run"] = " ".join(origins)
    return table


def _each(note: Callable[[str], None], sentences: Iterable[str]) -> None:
    for sentence in sentences:
        note(sentence)


def _check_options(abstain_below: float | None, unit: Unit, of_units: Mapping[str, str | None]) -> None:
    """Check the probability to abstain below, and that options of studies and patients have an effect."""
    if abstain_below is not None and not 0 <= abstain_below <= 1:
        raise ConfigError(f"abstain_below is {abstain_below}; expected a probability between 0 and 1, such as 0.8.")
    if unit == "image" and (idle := [name for name, value in of_units.items() if value is not None]):
        raise ConfigError(
            f"{idle[0]} is {of_units[idle[0]]}, which has no effect: each image counts on its own. Leave it out, or "
            f"use --unit {'patient' if idle[0] == 'patient_col' else 'study'}."
        )


def _open_runs(given: Sequence[Run | Path | str]) -> list[Run]:
    if models := [str(one) for one in given if is_model_file(one)]:
        raise ConfigError(
            f"found {shorten(models)} among several runs; an exported model can't be averaged with runs. Leave it "
            "out, or give only it."
        )
    return list(map(Run.of, given))


def _describe_files(files: Sequence[str], left_out: Sequence[str], repeated: Sequence[str]) -> list[str]:
    notes = []
    if repeated:
        notes.append(f"{plural(len(repeated), 'file')} given more than once, but predicted once: {shorten(repeated)}.")
    if left_out := keep_unlabeled(left_out, files):
        notes.append(f"{plural(len(left_out), 'file')} left out, because hidden or not an image: {shorten(left_out)}.")
    return notes


def _digest(content: Radiograph | str) -> bytes | None:
    """Return a digest of an image's pixels, None if it can't be read."""
    if isinstance(content, str):
        return None
    return hashlib.blake2b(content.pixels.tobytes(), digest_size=16).digest()


def _describe_copies(files: Sequence[str], digests: Sequence[bytes | None]) -> list[str]:
    """Return a note on images whose pixels are those of an earlier one."""
    first = dict[bytes | None, str]({None: ""})
    copies = [
        f"{file} (as {other})"
        for file, digest in zip(files, digests, strict=True)
        if (other := first.setdefault(digest, file)) not in ("", file)
    ]
    if not copies:
        return []
    return [f"{plural(len(copies), 'file')} with the pixels of an earlier file, each predicted: {shorten(copies)}."]


def _members(runs: Sequence[Run]) -> list[Run]:
    """Return the runs to predict with; if several are given, ensembles among them are replaced by their members."""
    members = [inner for one in runs for inner in (one.members if len(runs) > 1 else ()) or [one]]
    if len(runs) != 1:
        require_alike(members)
    return members


def _open_networks(members: Sequence[Run], device: Device, arch: Callable[..., Any] | None) -> Any:
    # Torch and `steps.results` are slow to import, and an exported model needs neither.
    from xrayfast.learning.inference.predictor import EnsemblePredictor, Predictor, predictor_of_run

    if len(members) == 1:
        return predictor_of_run(members[0], device, arch)
    from xrayfast.workflows.steps.results import choose_decision

    first = members[0]
    decision = choose_decision(average_splits(members)["valid"], first.task, first.config.results)
    return EnsemblePredictor([Predictor.from_run(member, device, arch) for member in members], decision)


def check_unit(decision: Decision) -> list[str]:
    """Return a note if thresholds that were chosen for studies or patients are applied to single images."""
    if decision.unit == "image" or decision.rule is None:
        return []
    return [
        f"Thresholds were chosen for {plural_noun(decision.unit)}, whose images' probabilities were joined by "
        f"{decision.unit_join}, but here they are applied to each image. Use --unit {decision.unit} to join images, "
        "or choose thresholds for images with 'xrayfast interpret RUN --unit image'."
    ]


def open_exported(
    file: Run | Path | str, device: Device, arch: Callable[..., Any] | None, note: Callable[[str], None]
) -> OnnxModel:
    """Open an exported model; call `note` if its calibration was fitted to predictions averaged over views.

    Raises:
        ConfigError: `arch` is given, the device is not the CPU, or onnxruntime is missing.
        RunError: the file is damaged or was not written by `export`.
    """
    require_no_network_options(arch, device)
    model = OnnxModel(os.fspath(file))
    if model.metadata.averaged_views:
        note(VIEWS_LEFT_OUT)
    return model


def _shown(files: Sequence[str]) -> list[str]:
    """Return the files' names as shown: web addresses come without their signature."""
    return [name_of_address(file) if is_web_address(file) else file for file in files]


def _try_read(file: str, window: str, size: int) -> Radiograph | str:
    """Return the image fitted into the network's square, or the reason why it can't be read."""
    try:
        return in_square(read(file, window), size, "/".join(Path(file).absolute().parts[-2:]))
    except ReadError as error:
        return str(error)


def in_square(radiograph: Radiograph, size: int, name: str) -> Radiograph:
    """Fit an image into the network's square; add notes if it is enlarged, and on its file and folder, `name`."""
    height, width = radiograph.pixels.shape
    notes = radiograph.notes + note_enlarged(width, height, size) + (DERIVED,) * is_derived(name)
    if view_in_name(name) == "lateral" and Note.LATERAL.text not in notes:
        notes += (Note.LATERAL(),)
    return replace(radiograph, pixels=fit_square(radiograph.pixels, size), notes=notes)


def tabulate(
    predictor: Any,
    files: Sequence[str],
    contents: Sequence[Radiograph | str],
    abstain_below: float | None,
    tta: bool | None = None,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Predict on files that were read, and return their rows of the table of `predict`."""
    images = [content.pixels for content in contents if isinstance(content, Radiograph)]
    found, spread = predictor.probabilities_and_spread(images, tta=tta, batch_size=batch_size)
    answers = _decide(found.calibrated, predictor.decision, abstain_below)
    if spread is not None:
        answers[[f"{SPREAD_PREFIX}{label}" for label in predictor.decision.labels]] = spread
    return _with_files(answers, files, contents)


def check_abstention(decision: Decision, abstain_below: float | None) -> list[str]:
    """Return a note if `abstain_below` is above thresholds, so that some predictions above a threshold are withheld, or
    so low that it withholds none.
    """
    least = 1 / len(decision.labels)
    if decision.task == "single" and decision.positive is None and abstain_below and abstain_below <= least:
        return [
            f"abstain_below is {abstain_below:g}, but the highest of {len(decision.labels)} probabilities is at least "
            f"{least:.2g}, so no answer is withheld."
        ]
    low = [
        f"{label} ({point.threshold:.3g})"
        for label, point in decision.point_of.items()
        if not decision.is_one_vs_rest and point.threshold is not None and point.threshold < (abstain_below or 0)
    ]
    if not low:
        return []
    return [
        f"abstain_below is {abstain_below:g}, which is above the threshold of {shorten(low, 5)}: a label whose "
        "probability is between the two applies according to its threshold, but gets no answer. Lower abstain_below "
        "to get an answer."
    ]


def _decide(probability: NDArray[np.float64], decision: Decision, abstain_below: float | None) -> pd.DataFrame:
    """Return one row per image, with the columns of `predict` from "predicted" to the probabilities."""
    labels, positive = decision.labels, decision.decide(probability)
    unsure = np.zeros(positive.shape, bool)
    if abstain_below is not None:
        unsure = decision.certainty(probability) < abstain_below
    columns: dict[str, Any] = {"predicted": [join_row_labels(row, labels) for row in np.where(unsure, 0, positive)]}
    if abstain_below is not None:
        # If single-label, all cells of an image are unsure together: list only its most likely class.
        abstained = unsure & (positive == 1) if decision.task == "single" else unsure
        columns["abstained"] = [join_row_labels(row.astype(int), labels) for row in abstained]
    if decision.is_one_vs_rest:
        above = (probability >= threshold_array(decision.points)).astype(int)
        columns["above_threshold"] = [join_row_labels(row, labels) for row in above]
    columns |= {PROBABILITY_PREFIX + label: probability[:, i] for i, label in enumerate(labels)}
    return pd.DataFrame(columns)


def _with_files(answers: pd.DataFrame, files: Sequence[str], contents: Sequence[Radiograph | str]) -> pd.DataFrame:
    """Add the columns "file", "notes" and "error" to the answers, and empty rows for files that can't be read."""
    read = [i for i, content in enumerate(contents) if isinstance(content, Radiograph)]
    table: pd.DataFrame = answers.set_axis(read).reindex(range(len(files)))
    table.insert(0, "file", _shown(files))
    table["notes"] = ["; ".join(content.notes) if isinstance(content, Radiograph) else "" for content in contents]
    table["error"] = [content if isinstance(content, str) else "" for content in contents]
    return table


def _join(table: pd.DataFrame, units: UnitsOfFiles, abstain_below: float | None) -> pd.DataFrame:
    """Join the rows of files into rows of studies or patients."""
    decision, read = units.decision, (table["error"] == "").to_numpy()
    columns = [PROBABILITY_PREFIX + label for label in decision.labels]
    there, numbers = np.unique(units.numbers[read], return_inverse=True)
    probability = join_probabilities(table.loc[read, columns].to_numpy(float), numbers, units.how, decision.task)
    of_unit = table.groupby(units.numbers)
    joined: pd.DataFrame = _decide(probability, decision, abstain_below).set_axis(there).reindex(range(len(of_unit)))
    joined.insert(0, "file", of_unit["file"].min())
    joined.insert(1, f"images_of_{units.unit}", np.bincount(units.numbers, read, len(of_unit)).astype(int))
    joined["notes"] = of_unit["notes"].agg(
        lambda cells: "; ".join(dict.fromkeys(filter(None, "; ".join(cells).split("; "))))
    )
    joined["error"] = of_unit["error"].agg(lambda cells: "; ".join(dict.fromkeys(filter(None, cells))))
    joined["files"] = of_unit["file"].agg("|".join)
    return joined

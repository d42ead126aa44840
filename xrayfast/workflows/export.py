"""Export a run as one self-contained file for prediction."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from xrayfast import exported
from xrayfast._version import __version__
from xrayfast.config import DEFAULT_METRIC
from xrayfast.data.images.reader import Radiograph, fit_square, read
from xrayfast.data.manifest import Manifest
from xrayfast.errors import ConfigError, ReadError, RunError, WriteError, plural
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import warn
from xrayfast.exported.metadata import TOLERANCE, AurocDifference, ModelMetadata, Parity, Precision
from xrayfast.exported.onnx_model import SUFFIX, VIEWS_LEFT_OUT, OnnxGraph, Outputs, join_outputs
from xrayfast.files.atomic import replace_atomically, write_text
from xrayfast.files.checksums import file_digest
from xrayfast.files.writable import EXPORT_MARK, require_replaceable
from xrayfast.learning.inference.reading import reading
from xrayfast.metrics.classification import nan_to_none
from xrayfast.progress import StageProgress, show_progress
from xrayfast.runs.run import Run, now
from xrayfast.workflows.steps.data.reopening import find_data
from xrayfast.workflows.steps.predictions.image_files import find_images

Format = Literal["onnx", "torch-export"]

Item = TypeVar("Item")

SUFFIXES: dict[Format, str] = {"onnx": SUFFIX, "torch-export": ".pt2"}

SCRIPT = "onnx_predict.py"

MAX_COMPARED = 200
"""Maximum number of images on which an export is compared with its run."""

MAX_CALIBRATED, MAX_SCORED = 100, 1000
"""Maximum numbers of training images from which int8 ranges are taken, and of other images for comparing the AUROC."""

_AT_ONCE = 16
"""Number of full-size images in memory at once."""

_DICOM = ("", ".dcm", ".dicom")
"""Suffixes of files that may be DICOM."""


@dataclass(frozen=True, eq=False, repr=False)
class Export:
    """An exported classifier."""

    path: Path
    metadata: ModelMetadata
    bytes: int

    def __repr__(self) -> str:
        parity = self.metadata.parity
        return (
            f"Export('{self.path}', {self.bytes / 1e6:.1f} MB; largest difference of a probability from the run "
            f"{parity.largest:.2g} on {plural(parity.images, 'image')})"
        )


@check_arguments()
def export(
    run: Run | Path | str,
    output: Path | str | None = None,
    *,
    format: Format = "onnx",
    precision: Precision = "fp32",
    images: Sequence[Path | str] | Path | str = (),
    with_script: bool = False,
    arch: Callable[..., Any] | None = None,
    progress: bool | StageProgress | None = None,
    note: Callable[[str], None] = warn,
) -> Export:
    """Write a run, an ensemble or a cross-validation as one file that takes gray images of any size.

    The file returns calibrated and raw probabilities and decisions: it contains the fitting into a square, the
    normalization, networks, calibration and thresholds. Needs `pip install 'xrayfast[onnx]'`.

    Before it is written, its probabilities are compared with the run's on up to 200 images of the run's data, including
    DICOM files if there are any. If a probability differs by more than 1e-4, the file is not written.

    Args:
        run: the run or its folder; the networks of an ensemble or a cross-validation are averaged.
        output: the file to write, which may replace an earlier export; by default model.onnx, or model.pt2 for
            torch.export.
        format: "onnx" or "torch-export".
        precision: precision of the weights in an ONNX file: "fp32"; "fp16", half the size, computed in float32; or
            "int8", a quarter of the size, with ranges taken from training images. For "fp16" and "int8" the AUROC is
            compared with the run's.
        images: files, folders and patterns to compare on instead of the run's data, for example if these are gone.
        with_script: also write `onnx_predict.py` next to an ONNX file: a script that writes the table of `predict` and
            needs only numpy, Pillow, onnxruntime and pydicom.
        arch: the run's `arch`, if it is code of your own.
        progress: whether to display progress, by default only in a notebook or a terminal; or a function to call with
            the stage, the images done and the total.
        note: function to call with each note on a difference from the run.

    Returns:
        The Export: `.path`, `.metadata`, `.bytes`.

    Raises:
        ConfigError: an option is wrong, a package is missing, or the network can't be exported; the message says why.
        RunError: the folder is not a complete run, its data are gone and no `images` are given, or the exported
            probabilities differ.
        DataError: `images` matches no images.
        WeightsError: the weights are not those of the network that the folder describes.
        WriteError: a file can't be written, or would replace one that is not an earlier output.
    """
    path = _output_path(output, format)
    if format != "onnx" and precision != "fp32":
        raise ConfigError(
            f"precision is {precision}, which is only for ONNX files. Leave it out, or leave out --format torch-export."
        )
    if with_script and format != "onnx":
        raise ConfigError(
            "with_script is true, but the script is only for ONNX files. Leave it out, or use --format onnx."
        )
    require_replaceable(path, mark=EXPORT_MARK)
    script, program_text = path.parent / SCRIPT, Path(exported.__file__).with_name(SCRIPT).read_text(encoding="utf-8")
    if with_script:
        require_replaceable(script, mark=program_text.encode())
    run = Run.of(run)
    # Torch takes seconds to import.
    from xrayfast.learning.exporting.classifier import Classifier, capture
    from xrayfast.learning.exporting.onnx_files import halve_weights, quantize, require_onnx, to_onnx
    from xrayfast.learning.inference.predictor import predictor_of_run

    if format == "onnx":
        require_onnx()
    with show_progress(progress) as reporter:
        predictor = predictor_of_run(run, "cpu", arch)
        data = None if images else find_data(run)
        files = _images_to_compare(run, data, images)
        if predictor.tta:
            note(VIEWS_LEFT_OUT)
        classifier = Classifier(predictor).eval().requires_grad_(False)
        name = run.config.model.arch
        reporter.preparing("exporting", 0, 1)
        if precision != "fp32" and data is None:
            raise RunError(
                f"{run.path}: its data have been moved, deleted or changed. --precision {precision} needs them to "
                "measure ranges on training images and to compare the AUROC. Put them back, or use another "
                "--precision."
            )
        program = capture(classifier, name)
        labels = len(run.labels)
        if format == "onnx":
            model = to_onnx(program, classifier.output_names, name)
            compute: Callable[..., Outputs] = OnnxGraph(model.SerializeToString(), labels, path).run
        else:
            compute = _program_runner(program)
        reporter.preparing("exporting", 1, 1)
        window = run.config.data.window
        parity = _compare(predictor, compute, files, window, reporter.preparing)
        if parity.largest > TOLERANCE:
            raise RunError(
                f"{path}: was not written: its probabilities differ by up to {parity.largest:.2g} from those of "
                f"{run.path} on {plural(parity.images, 'image')}; expected at most {TOLERANCE:g}. Its network may "
                "compute differently when exported, for example because it uses random numbers."
            )
        known: dict[str, Any] = {}
        if precision != "fp32" and data is not None:
            if precision == "fp16":
                halve_weights(model)
            else:
                model = quantize(model, _training_squares(data, predictor.size, window))
            compute = OnnxGraph(model.SerializeToString(), labels, path).run
            known["auroc"] = _compare_auroc(run, predictor, compute, data, reporter.preparing)
            parity = _compare(predictor, compute, files, window, reporter.preparing)
        metadata = _describe(
            run,
            parity,
            networks=len(classifier.networks),
            averaged_views=predictor.tta,
            precision=precision,
            **known,
        )
        if format == "onnx":
            for key, value in metadata.to_properties().items():
                model.metadata_props.add(key=key, value=value)
            content = model.SerializeToString()
        else:
            content = _save_program(program, metadata)
        with replace_atomically(path) as temporary:
            temporary.write_bytes(content)
        if with_script:
            write_text(script, program_text)
        _record(run, path, format, metadata, note)
    return Export(path, metadata, path.stat().st_size)


def _output_path(output: Path | str | None, format: Format) -> Path:
    path = Path(f"model{SUFFIXES[format]}" if output is None else output)
    if path.suffix.lower() != SUFFIXES[format]:
        others = [f" --format '{other}' writes {end}." for other, end in SUFFIXES.items() if path.suffix.lower() == end]
        raise ConfigError(
            f"output is {path}; expected a name that ends in {SUFFIXES[format]}, by which such a file is "
            f"recognized.{''.join(others)}"
        )
    return path


def _images_to_compare(run: Run, data: Manifest | None, images: Sequence[Path | str] | Path | str) -> list[str]:
    """Return up to `MAX_COMPARED` evenly spaced files, half of them possible DICOM files if there are enough."""
    if images:
        found = find_images([images] if isinstance(images, (str, Path)) else images)[0]
    elif data is not None:
        found = data.table["path"].tolist()
    else:
        raise RunError(
            f"{run.path}: its data have been moved, deleted or changed, so the export can't be compared with the "
            "run. Give a few other radiographs with --images."
        )
    may_be_dicom = [file for file in found if Path(file).suffix.lower() in _DICOM]
    others = [file for file in found if Path(file).suffix.lower() not in _DICOM]
    some = spread_evenly(may_be_dicom, max(MAX_COMPARED // 2, MAX_COMPARED - len(others)))
    return some + spread_evenly(others, MAX_COMPARED - len(some))


def spread_evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Return up to `most` of the items, evenly spaced.

    >>> spread_evenly("abcdefgh", 3)
    ['a', 'c', 'f']
    """
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def _try_read(file: str, window: str) -> Radiograph | None:
    try:
        return read(file, window)
    except ReadError:
        return None


def _compare(
    predictor: Any, compute: Callable[..., Outputs], files: Sequence[str], window: str, progress: StageProgress
) -> Parity:
    """Compare the exported graph with the run's Predictor, on full-size images one by one and on a batch of squares."""
    images, dicom, largest, decisions = 0, 0, 0.0, 0
    with reading(files, lambda file: _try_read(file, window)) as contents:
        for chunk in contents.chunks(partial(progress, "comparing with the run"), _AT_ONCE):
            found = [one for one in chunk if one is not None]
            pixels = [one.pixels for one in found]
            if not pixels:
                continue
            expected = predictor.probabilities(pixels, tta=False)
            answers = [join_outputs([compute([one]) for one in pixels])]
            if not images:
                answers.append(compute([fit_square(one, predictor.size) for one in pixels]))
            for answer in answers:
                raw, calibrated = answer.raw_probabilities - expected.raw, answer.probabilities - expected.calibrated
                largest = max(largest, float(np.abs(raw).max()), float(np.abs(calibrated).max()))
            wanted = predictor.decision.decide(expected.calibrated)
            decisions += int((answers[0].decisions != wanted).any(axis=1).sum())
            images += len(found)
            dicom += sum(one.format == "DICOM" for one in found)
    if not images:
        raise RunError(
            f"none of the {plural(len(files), 'image')} to compare on can be read. Give others with --images."
        )
    return Parity(images=images, dicom=dicom, largest=largest, decisions=decisions)


def _training_squares(data: Manifest, size: int, window: str) -> list[NDArray[np.uint8]]:
    """Return up to `MAX_CALIBRATED` images of the training split, each fitted into the network's square."""
    files = spread_evenly(data.subset("train").table["path"].tolist(), MAX_CALIBRATED)
    found = [radiograph for file in files if (radiograph := _try_read(file, window)) is not None]
    return [fit_square(radiograph.pixels, size) for radiograph in found]


def _compare_auroc(
    run: Run, predictor: Any, compute: Callable[..., Outputs], data: Manifest, progress: StageProgress
) -> AurocDifference:
    """Compare the AUROC of the converted graph and of the run's Predictor, on images outside the training split."""
    from xrayfast.runs.predictions import truth_of
    from xrayfast.workflows.steps.paired import RunPredictions, compare_pair

    unseen = np.flatnonzero((data.table["split"] != "train").to_numpy())
    rows, window = np.array(spread_evenly(unseen.tolist(), MAX_SCORED), np.intp), run.config.data.window
    paths, found = data.table["path"].to_numpy()[rows].tolist(), []
    readable: list[bool] = []
    with reading(paths, lambda file: _try_read(file, window)) as contents:
        for chunk in contents.chunks(partial(progress, "comparing AUROC")):
            readable += [one is not None for one in chunk]
            squares = [fit_square(one.pixels, predictor.size) for one in chunk if one is not None]
            expected, answer = predictor.probabilities(squares, tta=False).raw, compute(squares).raw_probabilities
            found.append((answer, expected))
    rows = rows[readable]
    truth, both = truth_of(data).select(rows), []
    for values in zip(*found, strict=True):
        raw = np.concatenate(values).astype(np.float64)
        predictions = replace(truth, probability=raw, raw=raw).calibrated(run.decision)
        both.append(RunPredictions(predictions, run.decision))
    settings = run.config
    compared, _ = compare_pair(
        both[0], both[1], (DEFAULT_METRIC,), settings.results.resamples or 1, settings.train.seed
    )
    numbers = {name: nan_to_none(compared[0][name]) for name in ("difference", "low", "high")}
    return AurocDifference(images=len(rows), **numbers)


def _program_runner(program: Any) -> Callable[[Sequence[NDArray[np.uint8]]], Outputs]:
    """Return a function that runs a torch.export program and has the signature of `OnnxGraph.run`."""
    import torch

    module = program.module()

    def run(images: Sequence[NDArray[np.uint8]]) -> Outputs:
        with torch.no_grad():
            return Outputs(*(one.numpy() for one in module(torch.from_numpy(np.stack(images)))))

    return run


def _save_program(program: Any, metadata: ModelMetadata) -> bytes:
    """Return the bytes of the torch.export file, with the metadata as the extra file `metadata.json`."""
    import torch

    from xrayfast.learning.exporting.onnx_files import quiet

    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={"metadata.json": metadata.model_dump_json()})
    return buffer.getvalue()


def _describe(run: Run, parity: Parity, **known: Any) -> ModelMetadata:
    decision, model = run.decision, run.config.model
    return ModelMetadata(
        xrayfast=__version__,
        created=now(),
        input=(
            "images: (N, H, W) uint8, gray, from 0 for black to 255 for white; any size, the same for all images of "
            f"a batch. They are fitted whole into {model.size} x {model.size} and normalized inside."
        ),
        labels=decision.labels,
        task=decision.task,
        thresholds=dict(zip(decision.labels, decision.thresholds.tolist(), strict=True)),
        decision=decision.to_json(),
        size=model.size,
        window=run.config.data.window,
        imply=run.config.data.imply,
        arch=model.arch,
        run=run.name,
        fingerprint=run.info.fingerprint,
        parity=parity,
        **known,
    )


def _record(run: Run, path: Path, format: Format, metadata: ModelMetadata, note: Callable[[str], None]) -> None:
    """Add the file to the run's `run.json`, unless the run was downloaded or its folder can't be written to."""
    record = {
        "file": path.name,
        "format": format,
        "precision": metadata.precision,
        "created": metadata.created,
        "xrayfast": __version__,
        "sha256": file_digest(path),
        "parity": metadata.parity.model_dump(),
    }
    if run.downloaded:
        return
    try:
        with run.lock(note):
            run.update_info(exports=[*run.info.exports, record])
    except WriteError as error:
        note(
            f"{run.path}: the exported file is not listed in run.json, because the folder can't be written to "
            f"({error})."
        )

"""Open a data set."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path

from xrayfast.config import Config, Problems, TaskChoice, Views, field_types
from xrayfast.data.manifest import Manifest
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors.arguments import check_arguments


@check_arguments(field_types)
def open_data(
    source: Path | str = "data",
    *,
    labels: Path | str | None = None,
    path_col: str | None = None,
    label_col: str | Sequence[str] = (),
    label_delim: str = "auto",
    label_map: Path | str | None = None,
    corrections: Path | str | None = None,
    corrections_sha256: str | None = None,
    exact_labels: bool = False,
    uncertain: str | Sequence[str] = (),
    blank: str | Sequence[str] = (),
    keep_no_finding: bool = False,
    imply: str | Sequence[str] = (),
    task: TaskChoice = "auto",
    patient_col: str | None = None,
    study_col: str | None = None,
    views: Views = "all",
    split_col: str | None = None,
    split_file: Path | str | None = None,
    valid_fraction: float = 0.2,
    test_fraction: float = 0.0,
    folds: int | None = None,
    fold: int | None = None,
    split_seed: int = 0,
    ignore_split: bool = False,
    class_level: int | None = None,
    keep_masks: bool = False,
    missing: Problems = "error",
    unreadable: Problems = "error",
    window: str = "auto",
    cache: bool = True,
    cache_dir: Path | str | None = None,
) -> Manifest:
    """Read a data set: class folders, or a table of image paths and labels. No image is decoded.

    Args:
        source: the folder of images.
        labels: a CSV, TSV, Parquet or Arrow file, or a folder of its parts; image paths are looked up under `source`,
            then beside the file.
        path_col: column of image paths; by default recognized by its name.
        label_col: column of label names, or several columns of 0 and 1.
        label_delim: the delimiter of labels in one cell; "auto" infers it from the cells.
        label_map: a file of lines such as "Cardiomegaly = Enlarged heart", which maps synonyms to one label.
        corrections: a CSV file with the columns image, label, given, proposed and accept, as `review` writes it; rows
            that a reader accepted are applied.
        corrections_sha256: the expected SHA-256 of the corrections file, as recorded in a run's `config.yaml`; a file
            with another hash is an error.
        exact_labels: keep labels apart that differ only in case, spaces, "_", "-", quotes or the format of a number.
        uncertain: the target of cells that are -1: "ignore" (default), "zeros", "ones" or "smooth:0.7", for all labels
            or for one, as in "Edema=ones".
        blank: the target of blank cells: "ignore" or "zeros", for all labels or for one. Default: zeros for CheXpert
            and MIMIC-CXR, ignore for all others.
        keep_no_finding: make "No Finding" a label of its own; by default it means that no label applies.
        imply: labels that follow from others, as in "covid-19=pneumonia".
        task: "single", "multi" or "auto", which infers it from the labels.
        patient_col: column of patients, who are never divided between splits; or "dicom:PatientID" (a DICOM header),
            "name" (file names), "name:REGEX" (the first group of a regular expression that is searched for in each
            image's path) or "none". By default recognized.
        study_col: column of studies, for results with `unit="study"`; or "dicom:StudyInstanceUID", "name:REGEX" or
            "none". By default recognized.
        views: "frontal" leaves out lateral and other views, "lateral" leaves out all but lateral views, according to a
            column, DICOM headers or file names. Images of unknown view are kept by "frontal" and left out by "lateral".
        split_col: column of train, valid and test, or of 1 and 0 such as `is_test`. By default recognized.
        split_file: a `split.csv` to replay, or a list of images named after its split, such as `test_list.txt`. Images
            that a `split.csv` lacks join the split of their patient, or are assigned with `split_seed` in the
            proportions of its splits.
        valid_fraction: fraction of the images for validation, if the data has no split of its own.
        test_fraction: fraction of the images for testing, if the data has no split of its own.
        folds: number of folds that all images outside the test split are divided into; one of them is the validation
            split.
        fold: number of the validation fold, from 1 (default).
        split_seed: seed of the drawn split.
        ignore_split: ignore the split that the data set's folders or table give, and draw one.
        class_level: level of the folders that are classes: 1 for the folders in `source`; folders of splits do not
            count. By default the first level that does not merely group the images, as folders of hospitals do.
        keep_masks: treat files as radiographs although their name or folder suggests masks, overlays, maps or
            thumbnails.
        missing: "error", or "skip" to leave out rows of the table whose image does not exist.
        unreadable: "error", or "skip" to leave out files that can't be read, when images are decoded.
        window: for DICOM images: "auto" (the file's first window), its number, "percentile", "full" or "CENTER/WIDTH".
        cache: keep decoded images on disk for the next time.
        cache_dir: the folder of that cache; by default in the user's cache folder.

    Returns:
        A Manifest: `.table`, `.labels`, `.targets`, `.task`, `.counts()`, and `.notes` on what was inferred.

    Raises:
        DataError: the images, labels or splits can't be used.
        ConfigError: an option is wrong.
    """
    options = {**locals()}  # each argument is a field of DataConfig
    defaults = {name: parameter.default for name, parameter in signature(open_data).parameters.items()}
    return open_manifest(Config().updated({k: v for k, v in options.items() if v != defaults[k]}).data)

"""Whether a source folder holds classes, or a table of labels beside folders of images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from xrayfast.config import DataConfig
from xrayfast.data.images.reader import is_image
from xrayfast.data.sources.class_folders import LAYOUTS, from_folders
from xrayfast.data.sources.datasets.forms import PLAIN, DatasetSpec, form_of, usual_columns
from xrayfast.data.sources.file_matching import absolute, top_level, walk
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.sources.table_records import from_table
from xrayfast.data.sources.tables import header_of, is_table
from xrayfast.data.splits.stratify import parse_split
from xrayfast.errors import DataError, shorten

TABLE = "labels.csv"
"""The table that is read where it lies in the source folder, unless there are class folders beside it."""

_IMAGE_WORD = re.compile(r"(image|img|film|image|photo|radiograph|xray|cxr|png|jpe?g|tiff?|bmp|dicom|dcm|file)s?")
_PATIENT_FOLDER = re.compile(r"patient\d+|study\d+|p\d\d|[ps]\d{8}")


def open_layout(config: DataConfig) -> tuple[ImageRecords, DataConfig]:
    """The images of a data set, and the settings with the table that was found.

    Raises:
        DataError: the images or labels can't be used; the message says where and what to do.
        ConfigError: options that contradict the layout.
    """
    if config.labels is None and is_table(config.source.name) and not config.source.is_dir():
        config = config.model_copy(update={"source": config.source.parent, "labels": config.source})
    root = _source_folder(config.source)
    if config.labels is not None:
        return from_table(config.labels, root, config), config
    folders, loose = top_level(root)
    forms = {name: form_of(header_of(root / name)) for name in loose if is_table(name)}
    known = any(form is not PLAIN for form in forms.values())
    with_images = [folder for folder in folders if _has_images(folder)]
    if not _are_image_folders(with_images, numbered=known):
        images = from_folders(root, config, folders, loose)
        if unused := [name for name, form in forms.items() if name == TABLE or form is not PLAIN]:
            images.notes.append(
                f"{shorten(unused)} is not used, because there are class folders. --labels reads it, patients included."
            )
        return images, config
    table = _table_of(config.source, root, forms)
    if table is None:
        if len(with_images) > 1 and not any(parse_split(folder.name) for folder in with_images):
            raise DataError(
                f"{config.source}: found {shorten(folder.name for folder in with_images)}, which look like folders of "
                f"images and not like classes, and no table of labels. {LAYOUTS.format(config.source)}"
            )
        return from_folders(root, config, folders, loose), config
    config = config.model_copy(update={"labels": config.source / table})
    images = from_table(root / table, root, config)
    why = (
        f", as {shorten(folder.name for folder in with_images)} hold images, not classes"
        if len(with_images) > 1
        else ""
    )
    images.notes.insert(0, f"Labels from {table} in {config.source}{why}.")
    read = [table, *(note.partition(" beside ")[0] for note in images.notes)]
    if others := [name for name, form in forms.items() if form is not PLAIN and name not in read]:
        images.notes.insert(1, f"{shorten(others)} beside it is not read; --labels reads another table.")
    return images, config


def _source_folder(source: Path) -> Path:
    """The absolute path of a folder that is there."""
    if not source.exists():
        raise DataError(f"{source}: found no such folder. {LAYOUTS.format(source)}")
    if not source.is_dir():
        raise DataError(f"{source}: found a file; expected a folder or a .csv file. {LAYOUTS.format(source.parent)}")
    return absolute(source)


def _has_images(folder: Path) -> bool:
    return any(is_image(entry.path) for entry in walk(folder))


def _are_image_folders(folders: Sequence[Path], numbered: bool) -> bool:
    """Whether the folders that hold images are no classes, by their names and what lies in them.

    One folder alone is no class, unless it is a part. Several are none where all are named for images (images_001,
    train_images, png) or for patients (patient00001, p10), or, with a table of a known form beside them, by numbers;
    parts are none where they hold images, or folders of such names, and no classes.
    """
    splits = [folder for folder in folders if parse_split(folder.name)]
    if splits:
        inner = [top_level(folder) for folder in splits]
        return all(
            all(_is_image_folder(folder.name, numbered) for folder in inside)
            and (inside or any(is_image(str(split / name)) for name in loose))
            for split, (inside, loose) in zip(splits, inner, strict=True)
        )
    return len(folders) <= 1 or all(_is_image_folder(folder.name, numbered) for folder in folders)


def _is_image_folder(name: str, numbered: bool) -> bool:
    words = [word for word in re.split(r"[\W_]+", re.sub(r"x-?ray", "xray", name.lower())) if word]
    plain = [re.sub(r"\d+$", "", word) for word in words]
    if not any(plain):
        return numbered
    return bool(_PATIENT_FOLDER.fullmatch(name.lower())) or (
        any(_IMAGE_WORD.fullmatch(word) for word in plain)
        and all(not word or word == "stage" or parse_split(word) or _IMAGE_WORD.fullmatch(word) for word in plain)
    )


def _table_of(source: Path, root: Path, forms: dict[str, DatasetSpec]) -> str | None:
    """The table that is meant where none is named: labels.csv, else the one of a known form, else the only one."""
    if TABLE in forms:
        return TABLE
    known = {name: form for name, form in forms.items() if form is not PLAIN}
    main = [name for name, form in known.items() if form.files and re.fullmatch(form.files, name)]
    plain = [name for name in forms if usual_columns(header_of(root / name), "path")]
    for names in (main, list(known), plain):
        if len(names) == 1:
            return names[0]
        if names:
            raise DataError(f"{source}: found the tables {shorten(names)}; expected one. Name it with --labels.")
    return None

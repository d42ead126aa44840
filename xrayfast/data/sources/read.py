"""Read a data set's images and labels, however they are laid out."""

from __future__ import annotations

from collections.abc import Collection

from xrayfast.config import DataConfig
from xrayfast.data.sources.class_folders import read_class_folders
from xrayfast.data.sources.file_matching import absolute
from xrayfast.data.sources.label_table import read_label_table
from xrayfast.data.sources.layout import detect_layout
from xrayfast.data.sources.patients import find_patients
from xrayfast.data.sources.records import ImageRecords
from xrayfast.errors import shorten


def read_source(config: DataConfig, known: Collection[str] = ()) -> tuple[ImageRecords, DataConfig]:
    """The images of a data set, and the config with the folder and the table that were found.

    `known` are the labels of a run, which are labels as they are written.

    Raises:
        DataError: the images or labels can't be used; the message says where and what to do.
        ConfigError: options that contradict the layout.
    """
    layout = detect_layout(config.source, config.labels)
    config = config.model_copy(update={"source": layout.source, "labels": layout.table})
    root = absolute(layout.source)
    if layout.table is None:
        records = read_class_folders(root, config)
        if layout.other_tables:
            verb, which = ("is", "it") if len(layout.other_tables) == 1 else ("are", "one")
            records.notes.append(
                f"{shorten(layout.other_tables)} {verb} not used, because there are class folders. --labels reads "
                f"{which}, patients included."
            )
    else:
        records = read_label_table(layout.table, root, config, known)
        notes = [layout.reason] if layout.reason else []
        if unread := [name for name in layout.other_tables if name not in records.companions]:
            notes.append(f"{shorten(unread)} beside it is not read; --labels reads another table.")
        records.notes[:0] = notes
    find_patients(records, config)
    return records, config

"""Read a data set's images and labels, whatever its layout."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from xrayfast.config import DataConfig
from xrayfast.data.demographics import ViewKind, kind_of_view
from xrayfast.data.folder_words import AUGMENTED, FOLD, split_words
from xrayfast.data.foreign_words import stem_of_split
from xrayfast.data.images.names import DERIVED, find_derived, is_derived, view_in_name
from xrayfast.data.sources.class_folders.layout import Layout, detect_layout
from xrayfast.data.sources.class_folders.read import read_class_folders
from xrayfast.data.sources.competing import note_other_classes
from xrayfast.data.sources.folder_tree import absolute, top_level
from xrayfast.data.sources.identifiers import note_shared_numbers
from xrayfast.data.sources.label_table import read_label_table
from xrayfast.data.sources.patients.find import find_patients
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.sources.tables import is_table
from xrayfast.data.splits.folders import describe_nested_splits, parse_split_folders, splits_from_folders
from xrayfast.data.splits.words import parse_split, parse_split_words
from xrayfast.errors import DataError, plural, shorten
from xrayfast.files.file_names import require_utf8
from xrayfast.files.virtual.addresses import is_remote
from xrayfast.files.virtual.remote import forget

_SLICE = re.compile("AXIAL|CORONAL|SAGITTAL|TRANSVERS")

OTHER_VIEWS = "view other than {} (--views)"
"""Why images of other views are left out."""

_END_WORDS = re.compile(r"(?:^|/)([^\W\d_]*)(?:[^/]*[\W\d_])?([^\W\d_]*)[\W\d_]*\.\w+$")
"""Of a path: the first and the last word of the file's name."""

_MOST_WORDS = 64  # distinct words whose meaning may depend on the others

_BESIDE_SPLIT = re.compile("(list|set|file|filename|id|image|name|label|dataset)s?|data|official|v|cxr|xray")
"""Words that may be beside those of splits in the name of a list."""


def read_source(
    config: DataConfig, known: Collection[str] = (), leave_out: Mapping[str, str] | None = None
) -> tuple[ImageRecords, DataConfig]:
    """Read the images of a data set; return them and the config with the folder and table that were found.

    `known` are the labels of a run, which are labels exactly as written; `leave_out` gives reasons to leave images out.

    Raises:
        DataError: the images or labels can't be used; the message says where and what to do.
        ConfigError: options contradict the layout.
    """
    if leave_out is None:  # otherwise it was listed a moment ago
        forget(str(config.source))
    layout = detect_layout(config)
    config = config.model_copy(update={"source": layout.source, "labels": layout.table})
    root = absolute(layout.source)
    records = _read_layout(layout, root, config, known)
    if not config.keep_masks:
        records = _leave_out_derived(records, root)
    records = _leave_out_again(records, leave_out or {}, config)
    require_utf8(chain(records.paths, *(names for _, names in records.left_out)))
    _find_splits(records, config)
    find_patients(records, config)
    if layout.table is None and records.patients:
        records.notes += note_shared_numbers(_folders_above(records.names), records.patients)
    if config.views == "all":
        _note_views(records)
    else:
        records = _choose_views(records, config.views)
    _note_augmented(records)
    return records, config


def _read_layout(layout: Layout, root: Path, config: DataConfig, known: Collection[str]) -> ImageRecords:
    """Read class folders or the table, with notes on tables that are not read."""
    if layout.table is None:
        records = read_class_folders(root, config, known)
        records.notes += note_other_classes(records)
        if layout.other_tables:
            verb, which = ("is", "it") if len(layout.other_tables) == 1 else ("are", "one")
            records.notes.append(
                f"{shorten(layout.other_tables)} {verb} not used, because there are class folders. To read labels "
                f"and patients from {which}, use --labels."
            )
        return records
    records = read_label_table(layout.table, root, config, known)
    notes = [layout.reason] if layout.reason else []
    if unread := [name for name in layout.other_tables if name not in records.companions]:
        verb = "is" if len(unread) == 1 else "are"
        notes.append(f"{shorten(unread)} next to it {verb} not read; to use another table, name it with --labels.")
    records.notes[:0] = notes
    return records


def _leave_out_derived(records: ImageRecords, root: Path) -> ImageRecords:
    """Leave out masks and the like by their names, unless all images have such names; note that, and what is left out.

    Images in class folders of masks were left out before.
    """
    by_name = find_derived(records.names)
    records = records.leave_out(dict.fromkeys(by_name, DERIVED))
    folder = "".join(split_words(root.name))
    if not by_name and all(is_derived(f"{folder}/{name}") for name in records.names):
        records.notes.append(
            "All images have names or folders like those of masks, overlays, maps or thumbnails: "
            f"{shorten(records.names, 3)}. They are used as radiographs; if they are not, give the folder or the "
            "column of the radiographs."
        )
    if derived := dict(records.left_out).get(DERIVED):
        records.notes.append(
            f"{plural(len(derived), 'image')} left out ({DERIVED}): {shorten(derived)}. To use them as radiographs, "
            f"give --keep-masks."
        )
    return records


def _leave_out_again(records: ImageRecords, reasons: Mapping[str, str], config: DataConfig) -> ImageRecords:
    """Leave out the images named in `reasons`, which were left out before, except those of other views.

    These are left out once patients are known, as when the data were opened for the first time.
    """
    of_views = OTHER_VIEWS.format(config.views)
    for reason in dict.fromkeys(reason for reason in reasons.values() if reason != of_views):
        if names := [name for name in records.names if reasons.get(name) == reason]:
            records = records.leave_out(dict.fromkeys(names, reason))
            records.notes.append(f"{plural(len(names), 'image')} left out ({reason}): {shorten(names)}.")
    return records


def _choose_views(records: ImageRecords, views: Literal["frontal", "lateral"]) -> ImageRecords:
    """Keep the frontal images and those of unknown view, or only the lateral images."""
    kind_of = {view: kind_of_view(view) for view in set(records.views or ())}
    pairs = zip(records.views or [None] * len(records.names), records.names, strict=True)
    kinds = [kind_of.get(view, "") or view_in_name(name) for view, name in pairs]
    counts = Counter(kinds)
    if counts.keys() <= {""}:
        raise DataError(
            f"--views {views}: the view of no image is known; expected a column such as view or ViewPosition, "
            "ViewPosition in DICOM headers, or names such as view1_frontal.jpg or 12_lateral.png. Leave out --views."
        )
    wanted = {views, ""} if views == "frontal" else {views}
    out = {
        name: OTHER_VIEWS.format(views) for name, kind in zip(records.names, kinds, strict=True) if kind not in wanted
    }
    words: dict[ViewKind, str] = {
        "frontal": "frontal",
        "lateral": "lateral",
        "other": "another view",
        "": "of unknown view",
    }
    found = ", ".join(f"{counts[kind]} {text}" for kind, text in words.items() if counts[kind])
    if len(out) == len(records.names):
        raise DataError(f"--views {views}: no image has that view: {found}. Leave out --views.")
    kept = "kept" if views == "frontal" else "left out too"
    unknown = f" Images of unknown view are {kept}." if counts[""] else ""
    records.notes.append(
        f"Views: {found}. {plural(len(out), 'image')} left out because of --views {views}"
        + (f": {shorten(out)}." if out else ".")
        + unknown
    )
    return records.leave_out(out)


def _note_views(records: ImageRecords) -> None:
    """Add notes on lateral views among other views, recognized from a column, headers or names; and on slices."""
    views = records.views or [None] * len(records.names)
    lateral = [
        view == "LATERAL" if view else "lat" in name.lower() and not {"lateral", "lat"}.isdisjoint(split_words(name))
        for name, view in zip(records.names, views, strict=True)
    ]
    if 0 < (count := sum(map(bool, lateral))) < len(lateral):
        records.notes.append(
            f"{plural(count, 'lateral view')} used like the other images: to train on frontal views only, give "
            f"--views frontal, or remove the lateral views from the table or folders."
        )
    if slices := Counter(view for view in views if view and _SLICE.search(view)):
        listed = shorten((f"{view} {n}" for view, n in slices.items()), 3)
        records.notes.append(
            f"{plural(slices.total(), 'image')} with the view of a slice, as in CT ({listed}), used like the others: "
            f"leave them out if they are no radiographs, such as with --views frontal."
        )
    kinds = {view: kind_of_view(view) for view in {*views}}
    others = Counter(view for view in views if view and kinds[view] == "other" and not _SLICE.search(view))
    if others and "frontal" in kinds.values():
        listed = shorten((f"{view} {n}" for view, n in others.items()), 3)
        records.notes.append(
            f"{plural(others.total(), 'image')} with a view that is neither frontal nor lateral ({listed}), used like "
            f"the others: --views frontal leaves them out."
        )


def _note_augmented(records: ImageRecords) -> None:
    """Add a note on images in folders that are named for augmented or synthetic images."""
    counts = records.folders.counts()
    called = [folder for folder in counts if any(map(AUGMENTED.fullmatch, split_words(folder.replace("/", " "))))]
    if count := sum(map(counts.__getitem__, called)):
        listed = shorten(sorted(called))
        records.notes.append(
            f"{plural(count, 'image')} in folders of augmented or synthetic images ({listed}): copies of an image in "
            "several splits make results optimistic. Copies named like their image stay in its split; if others "
            f"exist, leave these folders out."
        )


def _folders_above(names: Sequence[str]) -> list[str]:
    """Return the folders above each image's class folder, without split folders."""
    above = [name.split("/")[:-2] for name in names]
    splits = parse_split_folders(chain.from_iterable(above))
    return ["/".join(part for part in parts if part not in splits) for parts in above]


def _count_splits(records: ImageRecords) -> Counter[str]:
    """Count images per split named by their folders, else by the first or last word of file names; "" for none."""
    by_folder = records.folders.map(lambda folder: next(filter(None, map(stem_of_split, folder.split("/"))), ""))
    ends = (_END_WORDS.search(name) for name in records.names)
    groups = Counter(
        (split, *(("", "") if split or not end else end.groups())) for split, end in zip(by_folder, ends, strict=True)
    )
    words = {word.lower() for _, *two in groups for word in two}
    meaning = parse_split_words(words) if len(words) <= _MOST_WORDS else {}
    counts = Counter[str]()
    for (split, *two), n in groups.items():
        counts[split or next(filter(None, (meaning.get(word.lower()) or parse_split(word) for word in two)), "")] += n
    return counts


def _note_split_lists(records: ImageRecords, config: DataConfig) -> list[str]:
    """Return a note on tables and lists beside the images, or the table, that are named for splits and not read."""
    used = {*records.companions, config.labels.name if config.labels else ""}
    folders = {path for path in (config.source, config.labels and config.labels.parent) if path and path.is_dir()}
    listed = (name for folder in folders for name in top_level(absolute(folder))[1] if is_table(name))
    found = [name for name in listed if _is_split_list(name) and name not in used]
    if not found or any(found[0] in note and "--split-file" in note for note in records.notes):
        return []
    return [
        f"Not used, although the names suggest splits: {shorten(sorted(found))}. To use one, name it with "
        "--split-file: a table of images and splits, or a list of images whose name contains its split, such as "
        f"test_list.txt."
    ]


def _is_split_list(name: str) -> bool:
    words = re.findall(r"[^\W\d_]+", name.lower().partition(".")[0])
    splits = [word for word in words if parse_split(word) or re.fullmatch("splits?|splitting|folds?", word)]
    return bool(splits) and all(word in splits or _BESIDE_SPLIT.fullmatch(word) for word in words)


def _note_folds(records: ImageRecords) -> list[str]:
    """Return a note on folders that look like folds; it says whether most file names are in several of them."""
    folders: dict[str, set[str]] = {}
    fold_of = {folder: next(filter(FOLD.fullmatch, folder.split("/")), None) for folder in records.folders.texts}
    if any(fold_of.values()):
        for name, folder in zip(records.names, records.folders, strict=True):
            if fold := fold_of[folder]:
                folders.setdefault(name.rpartition("/")[2], set()).add(fold)
    listed = sorted(set().union(*folders.values()))
    if len(listed) < 2:
        return []
    if 2 * sum(len(found) > 1 for found in folders.values()) <= len(folders):
        note = (
            f"The folders {shorten(listed)} look like folds of a cross-validation, which are not used as splits. To "
            f"use them, give a table with a split column, or --split-file."
        )
        return [] if records.own_split else [note]
    return [
        f"The folders {shorten(listed)} look like folds of a cross-validation, with the same images in each: give "
        f"one of them as DATA; to draw new folds from its images, use --folds."
    ]


def _find_splits(records: ImageRecords, config: DataConfig) -> None:
    """Set splits from folder names if there are none, or remove the data set's own splits if `ignore_split` is set."""
    (by_folder, note), nested = splits_from_folders(records.folders), describe_nested_splits(records.folders)
    named = _count_splits(records)
    if records.splits is None and by_folder is None and "train" in named and len({*named} - {""}) > 1:
        counts = ", ".join(f"{split} {n}" for split, n in sorted(named.items()) if split)
        records.notes.append(
            f"Names of files or folders suggest splits ({counts}), which are not used. To use them, name the folders "
            f"train, valid and test, or give a split column or --split-file."
        )
    records.own_split = records.splits is not None or by_folder is not None or bool(nested)
    records.notes += _note_folds(records)
    if not (records.own_split or config.split_file or is_remote(str(config.source))):
        records.notes += _note_split_lists(records, config)
    if config.ignore_split:
        records.notes += ["The data set's own split is not used, because ignore_split is set."] * records.own_split
        records.splits = None
    elif config.split_file is None and records.splits is None and nested:
        raise DataError(nested)
    elif config.split_file is None and by_folder is not None:
        if records.splits is None:
            records.splits = by_folder
            records.notes.append(note)
        elif differ := sum(a != b for a, b in zip(records.splits, by_folder, strict=True) if b):
            records.notes.append(
                f"The given split differs from the split folder on {plural(differ, 'image')}: the given split is used."
            )

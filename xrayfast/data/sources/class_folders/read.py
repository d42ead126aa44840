"""Read class folders, flat or inside split folders."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from xrayfast.config import DataConfig
from xrayfast.data.images.names import DERIVED, find_derived, folders_of
from xrayfast.data.images.reader import IMAGE_SUFFIXES, is_image
from xrayfast.data.labels.cells import note_delimiters
from xrayfast.data.labels.label_map import names_in_map
from xrayfast.data.labels.names import LabelSet, parse_folder_name, sort_labels
from xrayfast.data.labels.spellings import spelling_keys
from xrayfast.data.labels.targets import RawLabels, encode_labels
from xrayfast.data.labels.words import find_unlabeled, may_be_no_class
from xrayfast.data.sources.class_folders.levels import choose_class_level, find_copies, group_of, is_class
from xrayfast.data.sources.columns import is_column_name
from xrayfast.data.sources.folder_tree import absolute, hidden_images, top_level, walk
from xrayfast.data.sources.records import FilePaths, ImageRecords
from xrayfast.data.splits.folders import describe_nested_splits, parse_split_folders
from xrayfast.data.splits.words import SPLITS, Split, note_split_words
from xrayfast.errors import ConfigError, DataError, plural, shorten
from xrayfast.files.virtual.access import open_binary, state_of
from xrayfast.files.virtual.addresses import is_remote, split_archive

_LAYOUTS = """Expected one of
    {0}/CLASS/*.png                                        class folders
    {0}/train/CLASS/*.png, {0}/valid/..., {0}/test/...   the same, already split
    {0}/labels.csv                                         a column of image paths and one of labels"""

_SYNTHETIC = "'xrayfast synth {0}' makes a small synthetic data set to try things on."

_MANY_CLASSES, _FEW_IMAGES = 8, 4  # number of class folders, and of images per folder, as patients have

_TABLE_OPTIONS = ("path_col", "label_col", "split_col", "uncertain", "blank")

_UNREAD = re.compile(r"(?i)\.(csv|tsv|jsonl?|xlsx?|npz|npy|h5|hdf5|tfrecords?|mat|pkl)$")

_File: TypeAlias = tuple[str, LabelSet]
"""A path, and the labels of the class folder that contains it."""


def no_layout(found: str, source: Path) -> DataError:
    """Return an error with what was found and the valid layouts; for an empty folder, also with how to make data."""
    is_free = split_archive(str(source)) is None and not is_remote(source)
    is_free = is_free and not (source.exists() and any(source.iterdir()))
    lines = [*_LAYOUTS.splitlines(), *[_SYNTHETIC] * is_free]
    first, *others = (line.format(source) for line in lines)
    return DataError(f"{found}. {first}", *others)


UNLABELED = "in a folder whose name means that its images have no label"
HIDDEN = "hidden, or in a hidden folder"
OUTPUT = "in an output of xrayfast, such as a run"
COPIED = "in a folder that holds a copy of the folders beside it"
"""Why images are left out."""


@dataclass
class _ClassFiles:
    """Images of class folders, and notes on them.

    Attributes:
        known: names that are labels whatever they look like.
        files: path and labels of each image.
        left_out: the paths left out for each reason.
        copies: files that are identical to one in another class.
        same_name: names, relative to the class folder, of files that differ in content between classes.
        hidden: paths of hidden files and folders.
    """

    config: DataConfig
    known: Collection[str]
    files: list[_File] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)
    same_name: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)


def read_class_folders(root: Path, config: DataConfig, known: Collection[str] = ()) -> ImageRecords:
    """Read the images of class folders under `root`, an absolute path, with splits if the outer folders are splits.

    `known` are the labels of a run, which are classes even if their names do not look like it.

    Raises:
        DataError: a folder is neither a class nor a split, a split folder is inside another split, a class has no
            images, or one file is in two classes of a single-label task.
        ConfigError: an option names a column.
    """
    _require_no_table_options(config)
    found = _ClassFiles(config, {*known, *names_in_map(config.label_map)})
    level, notes = choose_class_level(root, config)
    top = _class_like(top_level(root, found.hidden)[0], found)
    if parse_split_folders(folder.name for folder in top):
        top = _leave_out_unlabeled(top, SPLITS, found)
    splits = _split_folders(config.source, top)
    notes += note_split_words(folder.name for folder in splits.values())
    given = _add_by_split(found, splits or {None: root}, level)
    _note_files(found, root)
    found.notes += notes
    if splits:
        found.notes.append(f"Splits from the folders {', '.join(f.name for f in splits.values())}.")
    paths, sets = [path for path, _ in found.files], [labels for _, labels in found.files]
    start = len(str(root / "x")) - 1

    def name(path: str) -> str:
        return path[start:].replace("\\", "/")

    names = [name(path) for path in paths]
    is_used = splits and not (config.ignore_split or config.split_file)
    if is_used and (nested := describe_nested_splits(folders_of(names))):
        raise DataError(nested)
    labels = sort_labels(label for row in sets for label in row)
    found.notes += note_delimiters(labels, "+", "class folder")
    if doubtful := list(filter(may_be_no_class, labels)):
        found.notes.append(
            f"A class folder is named {shorten(map(repr, doubtful))}: if that is not a class, move it out of the data."
        )
    are_many = len(labels) >= _MANY_CLASSES and len(names) <= _FEW_IMAGES * len(labels)
    if are_many and not (known or any(map(is_class, labels))):
        found.notes.append(
            f"Class folders are many ({len(labels)}) for {len(names)} images: {shorten(labels, 3)}. If they are "
            f"patients or studies, give a table of labels with --labels."
        )
    return ImageRecords(
        names,
        FilePaths(paths),
        RawLabels(labels, encode_labels(sets, labels), keep_no_finding=True),
        where=lambda i: names[i],
        splits=given or None,
        left_out=[(why, [name(path) for path in files]) for why, files in found.left_out.items()],
        notes=found.notes,
    )


def _add_by_split(
    found: _ClassFiles, folders: Mapping[Split, Path] | Mapping[None, Path], level: int
) -> list[Split | None]:
    """Add the images of the class folders in all split folders; return the images' splits, none if there are none."""
    given = list[Split | None]()
    parents = {split: list(_class_parents(folder, level, found)) for split, folder in folders.items()}
    names_of_all = {folder.name for listed in parents.values() for _, classes, _ in listed for folder in classes}
    for split, listed in parents.items():
        for folder, classes, beside in listed:
            labeled = _leave_out_unlabeled(classes, names_of_all, found)
            if labeled or not classes:
                _add_classes(found, folder, labeled, beside, level)
        given += [split] * (len(found.files) - len(given) if split else 0)
    return given


def _note_files(found: _ClassFiles, root: Path) -> None:
    """Note copies, hidden images, and files of one name in several classes."""
    if found.copies:
        found.notes.append(
            f"{plural(len(found.copies), 'file')} {'is a copy' if len(found.copies) == 1 else 'are copies'} of a "
            f"file in another class: each is used as one image with the labels of both classes."
        )
        found.left_out["copies of a file in another class"] = found.copies
    if hidden := hidden_images(dict.fromkeys(found.hidden)):
        found.left_out[HIDDEN] = hidden
    for why in (HIDDEN, OUTPUT, COPIED):
        if names := [path[len(str(root)) + 1 :] for path in found.left_out.get(why, ())]:
            found.notes.append(f"{plural(len(names), 'image')} left out ({why}): {shorten(names)}.")
    if same_name := list(dict.fromkeys(found.same_name)):
        found.notes.append(
            f"{plural(len(same_name), 'file name')} in several classes with different content "
            f"({shorten(same_name, 3)}): used as different images."
        )


def read_folder_groups(root: Path, config: DataConfig) -> dict[str, str]:
    """Return the folders above each image's class folder, without split folders, by image name; "" for none."""
    level, _ = choose_class_level(root, config)
    names = read_class_folders(root, config).names
    splits = parse_split_folders(part for name in names for part in name.split("/")[:-1])
    return {name: group_of(name, level, splits) for name in names}


def _class_parents(folder: Path, level: int, found: _ClassFiles) -> Iterator[tuple[Path, list[Path], list[str]]]:
    """Yield the folders whose subfolders are the classes, with these class folders and the names of their loose files.

    `level` is the level of the classes below `folder`. Images above that level are left out and noted.
    """
    folders, loose = top_level(folder, found.hidden)
    folders = _class_like(folders, found)
    meaning = parse_split_folders(inner.name for inner in folders)
    splits = [inner for inner in folders if inner.name in meaning]
    others = [inner for inner in folders if inner not in splits]
    for inner in splits:
        yield from _class_parents(inner, level, found)
    if level == 1 and (others or not splits):
        yield folder, others, loose
    else:
        _leave_out_loose(found, folder, loose)
        for inner in others:
            yield from _class_parents(inner, level - 1, found)


def _leave_out_loose(found: _ClassFiles, folder: Path, names: Sequence[str]) -> None:
    if loose := [str(folder / name) for name in names if is_image(str(folder / name))]:
        why = f"next to the class folders of {folder.name}"
        found.notes.append(f"{plural(len(loose), 'image')} left out ({why}).")
        found.left_out.setdefault(why, []).extend(loose)


def _class_like(folders: Sequence[Path], found: _ClassFiles) -> list[Path]:
    """Return the folders without those of masks, by name, and of copies; list the images of the latter as left out."""
    folders = _leave_out(folders, [folder.name for folder in folders if _is_output(folder)], OUTPUT, found)
    folders = _leave_out(folders, find_copies(folders), COPIED, found)
    derived = set() if found.config.keep_masks else find_derived([f"{folder.name}/" for folder in folders])
    return _leave_out(folders, [name.rstrip("/") for name in derived], DERIVED, found)


def _is_output(folder: Path) -> bool:
    """Whether a folder is one that `fit`, `check` or `evaluate` wrote, or the usual folder of runs."""
    runs, names = top_level(folder)
    inner = (name for run in runs for name in top_level(run)[1]) if folder.name == "runs" else ()
    return not {"run.json", "check.json", "evaluation.json"}.isdisjoint([*names, *inner])


def _leave_out(folders: Sequence[Path], names: Collection[str], why: str, found: _ClassFiles) -> list[Path]:
    """Return the folders without those in `names`, and list the images of the latter as left out."""
    files = [entry.path for folder in folders if folder.name in names for entry in walk(folder) if is_image(entry.path)]
    if new := [path for path in files if path not in found.left_out.get(why, [])]:
        found.left_out[why] = [*found.left_out.pop(why, []), *new]
    return [folder for folder in folders if folder.name not in names]


def _leave_out_unlabeled(folders: Sequence[Path], classes: Collection[str], found: _ClassFiles) -> list[Path]:
    """Leave out folders whose names say that their images have no label, if at least two classes remain."""
    unlabeled = find_unlabeled([folder.name for folder in folders], found.known)
    if not unlabeled or len({*classes} - {*find_unlabeled(classes, found.known)}) < 2:
        return list(folders)
    found.notes.append(
        f"Folders left out, because their names do not look like classes: {shorten(unlabeled)}. To use one as a "
        f"class, add a line to --label-map, such as '{unlabeled[0]} = {unlabeled[0]}'."
    )
    return _leave_out(folders, unlabeled, UNLABELED, found)


def _require_no_table_options(config: DataConfig) -> None:
    named = [name for name in _TABLE_OPTIONS if getattr(config, name)]
    named += [name for name in ("patient_col", "study_col") if is_column_name(getattr(config, name) or "none")]
    if named:
        about = "applies to the cells of a table" if named[0] in ("uncertain", "blank") else "names a column"
        raise ConfigError(f"{named[0]} {about}, but there is no table of labels; expected --labels FILE.csv.")


def _split_folders(source: Path, folders: Sequence[Path]) -> dict[Split, Path]:
    """Return the folders that are splits; none in a flat layout."""
    found: dict[Split, Path] = {}
    meaning = parse_split_folders(folder.name for folder in folders)
    for folder in folders:
        split = meaning.get(folder.name)
        if split in found:
            raise DataError(
                f"{source}: found both {found[split].name}/ and {folder.name}/; expected one {split} folder. "
                "Join or rename them."
            )
        if split:
            found[split] = folder
    others = [folder.name for folder in folders if folder.name not in meaning]
    if found and others:
        raise DataError(
            f"{source}: found {shorten(others)} next to {', '.join(f.name for f in found.values())}; expected only "
            f"train, valid and test there, with the class folders inside. Move or remove the others."
        )
    if found and "train" not in found:
        raise DataError(f"{source}: found {shorten(f.name for f in found.values())}; expected a train folder too.")
    return {split: found[split] for split in SPLITS if split in found}


def _add_classes(found: _ClassFiles, folder: Path, classes: Sequence[Path], beside: Sequence[str], level: int) -> None:
    """Add the images of the class folders in `folder`."""
    if not classes:
        loose = [name for name in beside if is_image(str(folder / name))]
        what = (
            f"{plural(len(loose), 'image')} outside of class folders; expected one folder per class"
            if loose
            else "no class folders"
        )
        archives = [name for name in beside if split_archive(name)]
        hint = f", but {shorten(archives, 2)}; an archive can be given as DATA itself" if archives else ""
        hint += ", and shards with braces, such as data-{000000..000099}.tar" if len(archives) > 1 else ""
        hint = hint or _describe_unread(folder, beside, absolute(found.config.source))
        raise no_layout(f"{folder}: found {what}{hint}", found.config.source)
    _leave_out_loose(found, folder, beside)
    inside = [other.name for other in top_level(classes[0])[0]] if len(classes) == 1 else []
    if len(inside) > 1 and level == 1 and not found.config.class_level:
        raise DataError(
            f"{folder}: found one folder, {classes[0].name}, which holds {shorten(inside)}; expected class folders, or "
            f"train, valid and test. Give {classes[0]} as the data set's folder, or --labels FILE.csv."
        )
    _require_own_folders(classes)
    same_name: dict[str, list[_File]] = {}
    for class_folder in classes:
        labels, start = parse_folder_name(class_folder.name), len(str(class_folder)) + 1
        for path in _class_files(class_folder, found):
            same_name.setdefault(path[start:], []).append((path, labels))
    merged = {name: list(_merge_copies(files, found.config)) for name, files in same_name.items()}
    added = sorted(file for files in merged.values() for file in files)
    found.files += added
    kept = {path for path, _ in added}
    found.copies += [path for files in same_name.values() for path, _ in files if path not in kept]
    found.same_name += [name for name, files in merged.items() if len(files) > 1]


def _describe_unread(folder: Path, beside: Sequence[str], root: Path) -> str:
    """Return what an error says on tables and arrays in a folder without class folders, or in the source, `root`."""
    start = len(str(root / "x")) - 1
    paths = [*(str(folder / name)[start:] for name in beside), *top_level(root)[1]]
    if not (unread := shorten(sorted({path for path in paths if _UNREAD.search(path)}), 3)):
        return ""
    return (
        f". Not read: {unread}; expected one table of labels with a row per image, a column of paths and, if given, "
        f"one of splits, and images as files"
    )


def _require_own_folders(classes: Sequence[Path]) -> None:
    """Raise an error if a class folder is a link to that of another class."""
    real: dict[Path, Path] = {}
    for folder in classes:
        other = real.setdefault(folder.resolve(), folder)
        if other is not folder:
            link, target = (folder, other) if folder.is_symlink() else (other, folder)
            raise DataError(
                f"{link}: found a link to the images of {target.name}, so that each image would have both labels; "
                f"expected a folder for each class. Remove the link, or give one folder both names, as in A+B."
            )


def _class_files(folder: Path, found: _ClassFiles) -> list[str]:
    """Return the paths of a class's images at any depth; note other files."""
    paths, ignored, special = [], [], []
    for entry in walk(folder, hidden=found.hidden):
        if not entry.is_file():
            special.append(entry.path)
        elif is_image(entry.path):
            paths.append(entry.path)
        else:
            ignored.append(entry.name)
    if not paths:
        raise DataError(
            f"{folder}: found no images in this class folder; expected files ending in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}. Add images or remove the folder."
        )
    if ignored:
        found.notes.append(f"Files in {folder.name} that are not images are ignored: {shorten(ignored)}.")
    if special:
        found.notes.append(f"Left out, because they are broken links, pipes or devices, not files: {shorten(special)}.")
    return paths


def _merge_copies(same_name: Sequence[_File], config: DataConfig) -> Iterator[_File]:
    """Yield one image per distinct content among files of the same name, with the labels of all its copies."""
    if len(same_name) == 1:
        yield from same_name
        return
    for copies in _group_by_content(same_name):
        names = [label for _, labels in copies for label in labels]
        if len({*spelling_keys(names)}) > max(len(labels) for _, labels in copies) and config.task == "single":
            raise DataError(
                f"{copies[0][0]} and {copies[1][0]}: found the same file in two classes; a single-label task "
                "expects one. Remove one of them, or use --task multi."
            )
        yield copies[0][0], tuple(dict.fromkeys(label for _, labels in copies for label in labels))


def _group_by_content(files: Sequence[_File]) -> Iterable[list[_File]]:
    """Group files by their bytes; only files that share their size with another file are read."""
    by_size: dict[int, list[_File]] = {}
    for file in files:
        by_size.setdefault(state_of(file[0]).size, []).append(file)
    by_bytes: dict[tuple[int, str], list[_File]] = {}
    for size, same_size in by_size.items():
        for file in same_size:
            digest = ""
            if len(same_size) > 1:
                with open_binary(file[0]) as stream:
                    digest = hashlib.sha256(stream.read()).hexdigest()
            by_bytes.setdefault((size, digest), []).append(file)
    return by_bytes.values()

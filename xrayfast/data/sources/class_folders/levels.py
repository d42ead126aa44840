"""Choose the folder level whose names are the classes: the outermost, unless it only groups the images."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from xrayfast.config import DataConfig
from xrayfast.data.folder_words import BESIDE_CLASS, CLASSES, GROUPS, IMAGE_WORD, split_words
from xrayfast.data.images.names import find_derived
from xrayfast.data.images.reader import is_image
from xrayfast.data.labels.names import is_no_finding, normalize_label
from xrayfast.data.sources.folder_tree import top_level, walk
from xrayfast.data.splits.folders import parse_split_folders
from xrayfast.data.splits.words import parse_split
from xrayfast.errors import ConfigError, DataError, shorten
from xrayfast.files.virtual.access import open_binary, state_of
from xrayfast.files.virtual.paths import to_path

_DEEPEST, _MOST_FOLDERS = 6, 300
"""Number of levels that are examined, and maximum number of class folders in a folder: more are patients' folders."""

_Tree: TypeAlias = Mapping[str, "_Tree"]
"""Folders by name, each with its subfolders."""


def choose_class_level(root: Path, config: DataConfig) -> tuple[int, list[str]]:
    """Choose the level of the folders that are classes, from 1 just below `root`, not counting split folders.

    The level is `class_level` if that is set, and 1 if there is only one level or if the names at level 1 look like
    classes. Otherwise it is the first deeper level whose names look like classes, or recur in several folders; or else
    the first whose names do not look like hospitals, years, patients, views or the like. Return notes on it, too.

    Raises:
        DataError: the tree can be read in several ways.
        ConfigError: `class_level` is deeper than the folders.
    """
    levels = list(_levels(_tree(root, _DEEPEST, config.keep_masks)))
    if config.class_level:
        if config.class_level > max(len(levels), 1):
            raise ConfigError(
                f"class_level is {config.class_level}; expected at most {len(levels)}, the number of folder levels "
                f"in {config.source} without split folders."
            )
        return config.class_level, []
    if levels:
        _require_no_split_in_name([path[-1] for path in levels[0]], config.source)
    if len(levels) < 2:
        return 1, _note_joined([path[-1] for path in chain(*levels)])
    names = [list(dict.fromkeys(path[-1] for path in level)) for level in levels]
    chosen = _choose(levels, names, config.source)
    start = "[^/]+/" * bool(parse_split_folders(folder.name for folder in top_level(root)[0]))
    if chosen > 1:
        outer = list(dict.fromkeys("/".join(path[:-1]) for path in levels[chosen - 1]))
        note = f"Classes are the folders {shorten(names[chosen - 1])} below {shorten(outer)}"
        if len(outer) == 1:
            return chosen, [f"{note}."]
        return chosen, [
            f"{note}. --class-level 1 uses {shorten(names[0], 2)} as classes instead; --by folder compares them as "
            f"groups; if they are patients, --patient-col 'name:^{start}([^/]+)/' keeps each in one split."
        ]
    inner = [name for name in names[1] if not all(map(IMAGE_WORD.fullmatch, split_words(name) or ["x"]))]
    if not inner:
        return 1, []
    return 1, [
        f"Folders inside the class folders are not used as labels: {shorten(inner)}. --class-level 2 uses them as "
        f"classes; if they are patients, --patient-col 'name:^{start}[^/]+/([^/]+)/' keeps each in one split."
    ]


def _require_no_split_in_name(names: Sequence[str], source: Path) -> None:
    """Raise a DataError for folders such as train_normal and test_normal, each of which would be a class."""
    ends = {name: (split_words(name) or [""]) for name in names}
    split_of = {name: parse_split(words[0]) or parse_split(words[-1]) for name, words in ends.items()}
    splits = parse_split_folders(names)
    told = [name for name in names if split_of.get(name) and name not in splits]
    if "train" in map(split_of.get, told) and len({split_of[name] for name in told}) > 1:
        raise DataError(
            f"{source}: found the folders {shorten(told)}, whose names contain both a split and a class; expected "
            f"split folders with class folders inside, such as train/normal. Move them, or give a table with --labels."
        )


def _note_joined(names: Sequence[str]) -> list[str]:
    """Return a note on class folders named like identifiers, or for all combinations of a group and a class."""
    if names and all(re.search(r"\d{3}", name) and _is_group(name) for name in names):
        return [
            f"Class folders have names like identifiers or years: {shorten(names, 3)}. If they are not classes, give "
            f"a table of labels with --labels."
        ]
    pairs = [(*words[:1], "_".join(words[1:])) for words in (re.split(r"[_\W]+", name) for name in names)]
    groups, classes = ({pair[i] for pair in pairs} for i in (0, 1))
    if (
        len(groups) > 1
        and len(classes) > 1
        and len(groups) * len(classes) == len(pairs)
        and all(map(is_class, classes))
    ):
        return [
            f"Names of class folders combine {shorten(sorted(groups))} with {shorten(sorted(classes))}, and each "
            f"folder is a separate class. To join them, give --label-map lines such as '{sorted(classes)[0]} = "
            f"{names[0]}'."
        ]
    return []


def group_of(name: str, level: int, splits: Collection[str]) -> str:
    """Return the folders of an image above its class folder, without split folders; "" if there are none.

    >>> group_of("train/hospital A/normal/1.png", 2, {"train"})
    'hospital A'
    """
    return "/".join([part for part in name.split("/")[:-1] if part not in splits][: level - 1])


def _choose(levels: Sequence[Sequence[tuple[str, ...]]], names: Sequence[Sequence[str]], source: Path) -> int:
    named = [2 * sum(map(is_class, listed)) >= len(listed) for listed in names]
    groups = [all(map(_is_group, listed)) for listed in names]
    whole = [{path[:-1] for path in level} == set(above) for level, above in zip(levels[1:], levels[:-1], strict=True)]
    reached = [all(whole[:depth]) for depth in range(len(levels))]  # by every folder of level 1
    repeat = [_repeats(level) and not group for level, group in zip(levels, groups, strict=True)]
    beside = {normalize_label(name) for name in names[0]}
    same = [
        path
        for path in levels[1]
        if split_words(path[1]) and {normalize_label(path[1])} <= beside - {normalize_label(path[0])}
    ]
    if same or (named[0] and named[1] and repeat[1] and reached[1]):
        path = (same or levels[1])[0]
        raise DataError(
            f"{source}: found class folders inside class folders, such as {path[1]} in {path[0]}, next to "
            f"{shorten(names[0])}; expected one level of classes. Choose the outer folders with --class-level 1 or "
            f"the inner ones with --class-level 2, or move folders. Split folders must be named train, valid and test."
        )
    if named[0]:
        return 1
    for depth in range(1, len(levels)):
        if named[depth] and not reached[depth]:
            lone = next(path for path in levels[0] if path[0] not in {deep[0] for deep in levels[depth]})
            raise DataError(
                f"{source}: found class folders such as {'/'.join(levels[depth][0])}, and images in {lone[0]} without "
                "one; expected one level of classes. Move these images, or use the outermost folders as classes with "
                "--class-level 1."
            )
        if reached[depth] and (named[depth] or repeat[depth] or _are_flags(levels[depth])):
            return depth + 1
    if groups[0] and any(map(split_words, names[0])):
        return 1 + next((d for d in range(1, len(levels)) if reached[d] and not groups[d] and len(names[d]) > 1), 0)
    return 1


def _repeats(level: Sequence[tuple[str, ...]]) -> bool:
    """Whether a level has several names, at least half of which are in several folders of the level above."""
    parents: dict[str, set[tuple[str, ...]]] = {}
    for path in level:
        parents.setdefault(normalize_label(path[-1]), set()).add(path[:-1])
    return len(parents) > 1 and 2 * sum(len(above) > 1 for above in parents.values()) >= len(parents)


def _are_flags(level: Sequence[tuple[str, ...]]) -> bool:
    """Whether each of several folders holds the same names, consecutive digits from 0 (at least 0 and 1)."""
    inside: dict[tuple[str, ...], set[str]] = {}
    for path in level:
        inside.setdefault(path[:-1], set()).add(path[-1])
    first, *others = inside.values()
    return (
        bool(others) and all(other == first for other in others) and first == set("0123456789"[: len(first)]) != {"0"}
    )


def is_class(name: str) -> bool:
    """Whether the words of a name are those of classes."""
    words = split_words(name)
    known = all(CLASSES.fullmatch(word) or BESIDE_CLASS.fullmatch(word) for word in words)
    return is_no_finding(name) or (known and any(map(CLASSES.fullmatch, words)))


def _is_group(name: str) -> bool:
    """Whether a name stands for a group other than a class: by its words, or because it has a long number."""
    words = split_words(name)
    known = all(GROUPS.fullmatch(word) or IMAGE_WORD.fullmatch(word) for word in words)
    return known or re.search(r"\d{3}", name) is not None


def find_copies(folders: Sequence[Path]) -> set[str]:
    """Return the names of folders that hold copies of the folders beside them, as when an archive holds itself.

    Each image of a copy has the same path in the folder around it, and the same size; the first has the same bytes.
    """
    names = {folder.name for folder in folders}
    return {folder.name for folder in folders[:_MOST_FOLDERS] if _is_copy(folder, names - {folder.name})}


def _is_copy(folder: Path, beside: Collection[str]) -> bool:
    inside = {inner.name for inner in top_level(folder)[0]} if beside else set()
    if not inside or not inside <= {*beside}:
        return False
    images = [entry.path for entry in walk(folder) if is_image(entry.path)]
    originals = [str(folder.parent / path[len(str(folder)) + 1 :]) for path in images]
    pairs = list(zip(images, originals, strict=True))
    if not pairs or not all(
        to_path(other).is_file() and state_of(other).size == state_of(path).size for path, other in pairs
    ):
        return False
    with open_binary(images[0]) as copy, open_binary(originals[0]) as original:
        return copy.read() == original.read()


def _tree(folder: Path, depth: int, keep_masks: bool) -> _Tree | None:
    """Return the folders that hold images, by name; None if there is no image.

    Folders of masks and copies are left out, and split folders are replaced by their contents.
    """
    folders, loose = top_level(folder)
    derived = set() if keep_masks else find_derived([f"{inner.name}/" for inner in folders])
    derived |= {f"{name}/" for name in find_copies(folders)}
    tree: dict[str, _Tree] = {}
    holds_images = any(is_image(str(folder / name)) for name in loose)
    splits = parse_split_folders(inner.name for inner in folders)
    for inner in folders:
        if f"{inner.name}/" in derived:
            continue
        inside = _tree(inner, depth - 1, keep_masks) if depth and len(folders) <= _MOST_FOLDERS else {}
        if inside is not None:
            holds_images = True
            _merge(tree, inside if inner.name in splits else {inner.name: inside})
    return tree if holds_images else None


def _merge(tree: dict[str, _Tree], other: _Tree) -> None:
    for name, inside in other.items():
        known = tree.setdefault(name, {})
        tree[name] = merged = dict(known)
        _merge(merged, inside)


def _levels(tree: _Tree | None) -> Iterator[list[tuple[str, ...]]]:
    """Yield the folder paths of each level, outermost level first."""
    level: list[tuple[tuple[str, ...], _Tree]] = [((name,), inside) for name, inside in (tree or {}).items()]
    while level:
        yield [path for path, _ in level]
        level = [((*path, name), deeper) for path, inside in level for name, deeper in inside.items()]

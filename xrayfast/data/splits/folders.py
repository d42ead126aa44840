"""Splits read from the names of the folders that images are in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from xrayfast.data.folder_words import BESIDE_SPLIT, IMAGE_WORD, split_words
from xrayfast.data.splits.words import Split, parse_split, parse_split_words
from xrayfast.data.text_column import TextColumn


def parse_split_folder(name: str) -> Split | None:
    """Return the split that a folder name stands for, ignoring words such as "images"; None if it stands for none.

    >>> parse_split_folder("stage_2_train_images"), parse_split_folder("Test"), parse_split_folder("test-positive")
    ('train', 'test', None)
    """
    if split := parse_split(re.sub(r"[\W_]*images?$", "", name, flags=re.IGNORECASE)):
        return split
    words = [word for word in split_words(name) if not (BESIDE_SPLIT.fullmatch(word) or IMAGE_WORD.fullmatch(word))]
    return parse_split(words[0]) if len(words) == 1 else None


def parse_split_folders(names: Iterable[str]) -> dict[str, Split]:
    """Return the splits that folders of one data set stand for, keyed by folder name; leave out the other folders."""
    return parse_split_words(list(dict.fromkeys(names)), parse_split_folder)


def describe_nested_splits(folders_of_images: TextColumn) -> str:
    """Return an error message if a folder of one split is inside a folder of another; else "".

    `folders_of_images` has the paths of the images' folders, with '/'.
    """
    folders = sorted(folders_of_images.texts)
    meaning = parse_split_folders(part for folder in folders for part in folder.split("/"))
    for folder in folders:
        told = {meaning[part]: part for part in folder.split("/") if part in meaning}
        if len(told) > 1:
            found = " and ".join(f"{part} ({split})" for split, part in told.items())
            return (
                f"{folder}: found folders of several splits in one path, {found}; expected one level of splits. Rename "
                "one of the folders, or draw the splits anew with --ignore-split."
            )
    return ""


def splits_from_folders(folders: TextColumn) -> tuple[list[Split | None] | None, str]:
    """Return the splits of images according to the paths of their folders, and a note.

    That is the split for which the outermost folder with a split's name stands, None for images without such a folder;
    None instead of a list if the folders do not name train and another split.
    """
    of_folder: dict[str, tuple[str, Split] | None] = {}
    meaning = parse_split_folders(sorted({part for folder in folders.texts for part in folder.split("/")}))
    for folder in folders.texts:
        told = [(part, meaning[part]) for part in folder.split("/") if part in meaning]
        of_folder[folder] = told[0] if told else None
    told_splits = {split for _, split in filter(None, of_folder.values())}
    if "train" not in told_splits or len(told_splits) < 2:
        return None, ""
    counts = Counter[str]()
    for folder, n in folders.counts().items():
        if one := of_folder[folder]:
            counts[one[0]] += n
    splits = folders.map(lambda folder: (one := of_folder[folder]) and one[1])
    unusual = {part: f", {split}" for part, split in meaning.items() if parse_split_folder(part) != split}
    listed = ", ".join(f"{part} ({n}{unusual.get(part, '')})" for part, n in sorted(counts.items()))
    rest = splits.count(None)
    note = f"Splits from the folders of the images: {listed}; to draw new splits instead, use --ignore-split."
    return splits, note + (f" Images outside of these folders: {rest}; their splits are drawn." if rest else "")

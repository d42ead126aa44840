"""Splits from the folders that images are in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from xrayfast.data.images.names import IMAGE_WORD, split_words
from xrayfast.data.splits.stratify import Split, parse_split, parse_split_words
from xrayfast.data.text_column import TextColumn

_BESIDE = re.compile(
    r"x|rays?|data(sets?)?|sets?|splits?|stage|v|version|chest|jeu|ensemble|conjunto|insieme|de|di|d|daten|external"
)
"""Words that may stand beside that of a split in the name of a folder; so may those of `IMAGE_WORD`."""


def parse_split_folder(name: str) -> Split | None:
    """The split that a folder's name means, beside words that say that it holds images; None where it means none.

    >>> parse_split_folder("stage_2_train_images"), parse_split_folder("Test"), parse_split_folder("test-positive")
    ('train', 'test', None)
    """
    if split := parse_split(re.sub(r"[\W_]*images?$", "", name, flags=re.IGNORECASE)):
        return split
    words = [word for word in split_words(name) if not (_BESIDE.fullmatch(word) or IMAGE_WORD.fullmatch(word))]
    return parse_split(words[0]) if len(words) == 1 else None


def parse_split_folders(names: Iterable[str]) -> dict[str, Split]:
    """The splits that folders beside each other mean, by their names; without those that mean none."""
    return parse_split_words(list(dict.fromkeys(names)), parse_split_folder)


def describe_nested_splits(folders_of_images: TextColumn) -> str:
    """An error on folders of one split below a folder of another, by those of images, with '/'; "" for none."""
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
    """The splits of images by their folders, where they tell of train and another split.

    Args:
        folders: of the N images, with '/'.

    Returns:
        The split by the outermost folder that tells one, None for an image without such a folder; None for all where
        the folders tell of no split or of one alone. And a note.
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
    note = f"Splits from the folders of the images: {listed}; --ignore-split leaves them out."
    return splits, note + (f" {rest} images are in none of them: their splits are drawn." if rest else "")

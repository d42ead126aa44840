"""Words for train, valid and test in cells, columns and folder names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.data.foreign_words import foreign_meaning
from xrayfast.data.text_column import TextColumn, distinct
from xrayfast.errors import DataError, shorten

Split: TypeAlias = Literal["train", "valid", "test"]

SPLITS: tuple[Split, ...] = ("train", "valid", "test")

_WORDS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trn", "trainval", "trainvalid", "trainvalidation", "traindev", "derivation"),
    "valid": ("valid", "val", "validation", "validate", "validierung", "dev", "development"),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
}


def parse_split(text: str) -> Split | None:
    """Return the split that a folder name or a cell stands for, ignoring case; None if it stands for none.

    "trainval" is train: if no validation split is given, it is drawn from train.

    >>> parse_split("Validation"), parse_split("test_set"), parse_split("Val 2"), parse_split("covid-19")
    ('valid', 'test', 'valid', None)
    """
    word = re.sub(r"[\W_]+|[\W_\d]+$", "", text).lower()
    word = re.sub(r"(set|split|data|s?daten|subset|dataset|cohort)$", "", word)
    return next((split for split, words in _WORDS.items() if word in words or foreign_meaning(word) == split), None)


_BESIDE_OTHERS: Mapping[Split, re.Pattern[str]] = {
    "train": re.compile(r"(dev(elopment)?|derivation|discovery|internal|inhouse)(set|data|cohort)*|tr"),
    "valid": re.compile(r"internal(val|valid|validation)|tun(e|ing)(set|data)?|va|vl"),
    "test": re.compile(r"(external|outside)(set|data|cohort|test|testing|val|valid|validation)*|replication|te|ts"),
}
"""Patterns of words that stand for a split only beside words for other splits, and only if no other word stands for
that split: "development" is train if there is no "train", else valid."""


def parse_split_words(texts: Collection[str], parse: Callable[[str], Split | None] = parse_split) -> dict[str, Split]:
    """Return the splits that the cells of a column, or the folders of a data set, stand for.

    The keys are the texts; those that stand for no split are left out.

    >>> parse_split_words(["development", "test"]), parse_split_words(["train", "development"])
    ({'development': 'train', 'test': 'test'}, {'train': 'train', 'development': 'valid'})
    >>> parse_split_words(["tr", "te"]), parse_split_words(["te", "normal"])
    ({'tr': 'train', 'te': 'test'}, {})
    """
    found = {text: split for text in texts if (split := parse(text))}
    letters = {text: re.sub(r"[\W_\d]+|^images?|images?$", "", text.lower()) for text in texts}
    beside = {
        text: split for split, pattern in _BESIDE_OTHERS.items() for text in texts if pattern.fullmatch(letters[text])
    }
    certain = {split for text, split in found.items() if text not in beside}
    joined = found | {text: split for text, split in beside.items() if split not in certain}
    return joined if "train" in joined.values() and len({*joined.values()}) > 1 else found


def note_split_words(cells: Iterable[str]) -> list[str]:
    """Return a note on cells that stand for their split only because of the other cells: see `parse_split_words`."""
    found = parse_split_words(distinct(cells))
    unusual = [f"'{text}' is {split}" for text, split in found.items() if parse_split(text) != split]
    return [f"Splits: {shorten(unusual)}; to draw new splits instead, use --ignore-split."] if unusual else []


def parse_splits(cells: Sequence[str], column: str, where: Callable[[int], str]) -> list[Split]:
    """Return the splits that a column's cells stand for; raise a DataError, with `where(i)`, if one stands for none."""
    texts = TextColumn.of(cells)
    split_of = parse_split_words(texts.texts)
    if unknown := {cell: n for cell, n in texts.counts().items() if cell not in split_of}:
        cell = next(iter(unknown))
        i = int(texts.first_rows()[texts.texts.index(cell)])
        raise DataError(
            f"{where(i)}: {column} is '{cell}'; expected train, valid or test. Write one of them for "
            f"{shorten(f'{word!r} in {n} rows' for word, n in unknown.items())}; images of an external or held-out "
            f"split belong to test. Or draw the splits anew with --ignore-split."
        )
    return texts.map(split_of.__getitem__)


def parse_split_flag(name: str) -> Split | None:
    """Return the split that the name of a column of 1 and 0, such as "is_valid", stands for; None if there is none.

    A bare "test" or "valid" does not count: the test may be a patient's, and "valid" may mean usable.

    >>> parse_split_flag("is_test"), parse_split_flag("TrainSet"), parse_split_flag("test")
    ('test', 'train', None)
    """
    word = re.sub(r"[\W_]+", "", name).lower()
    if match := re.fullmatch(
        r"(?:is|in|for|usedfor|usedin|split|set|subset|partition)(.+)|(.+)(?:set|split|flag)", word
    ):
        return parse_split(match[1] or match[2])
    return "test" if word in ("holdout", "heldout") else None


def split_without_flag(flags: Collection[Split]) -> Split:
    """Return the split of images with 0 in all columns of splits: train if it has no column, else test, else valid."""
    return next((split for split in ("train", "test") if split not in flags), "valid")


def parse_split_flags(flags: Mapping[Split, npt.NDArray[np.floating]], where: Callable[[int], str]) -> list[Split]:
    """Return the splits of N images from columns (N,) of 1, 0 and NaN, one column per split.

    Images without a 1 get the split of `split_without_flag`.

    Raises:
        DataError: an image has 1 in several columns, 0 in the columns of all three splits, or no 1 and a cell that is
            neither 1 nor 0; the message begins with `where(i)`.
    """
    rest, named = split_without_flag(flags), ", ".join(f"the column of {split}" for split in flags)
    table = np.column_stack(list(flags.values()))
    unclear = ~np.isin(table, (0, 1)).all(1) & ~(table == 1).any(1)
    if unclear.any():
        raise DataError(
            f"{where(int(unclear.argmax()))}: found a cell that is neither 1 nor 0, and no 1, in {named}; expected 1 "
            f"or 0. Fix the cells of {int(unclear.sum())} rows, or draw the splits anew with --ignore-split."
        )
    several, none = (table == 1).sum(1) > 1, (table == 0).all(1) & (len(flags) == len(SPLITS))
    for wrong, found in ((several, "1 in several of"), (none, "0 in all of")):
        if wrong.any():
            raise DataError(
                f"{where(int(wrong.argmax()))}: found {found} {named}; expected 1 in exactly one. Fix the cells."
            )
    splits: list[Split] = [rest] * len(table)
    for split, column in flags.items():
        splits = [split if flag == 1 else other for flag, other in zip(column, splits, strict=True)]
    return splits

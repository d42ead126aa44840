"""Policies on uncertain (-1) and blank cells: the target that each becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from xrayfast.data.arrays import Bools, Floats32, Ints
from xrayfast.data.labels.names import is_no_finding, normalize_label
from xrayfast.data.labels.targets import UNCERTAIN, Targets
from xrayfast.errors import ConfigError, did_you_mean, shorten

Option: TypeAlias = Literal["uncertain", "blank"]

_VALUES: dict[str, float] = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0, "smooth": 0.7}
_WORDS: dict[Option, tuple[str, ...]] = {"uncertain": tuple(_VALUES), "blank": ("ignore", "zeros")}
_CELLS: dict[Option, str] = {"uncertain": "uncertain cells (-1)", "blank": "blank cells"}


@dataclass(frozen=True)
class Policy:
    """The targets for one kind of cell: per label, and a default for other labels; NaN if the cells are ignored."""

    option: Option
    default: float
    by_label: Mapping[str, float]
    is_explicit: bool
    """Whether the user set any of these targets."""


def parse_policy(option: Option, items: Iterable[str], default: str = "ignore") -> Policy:
    """Parse texts such as "zeros", "smooth:0.6" or "Edema=ones,Mass=ignore"; `default` applies to the other labels."""
    by_label: dict[str, float] = {}
    keys: set[str] = set()
    for item in (piece.strip() for text in items for piece in text.split(",")):
        label, sign, word = item.rpartition("=")
        label = label.strip()
        if sign and not label:
            raise ConfigError(f"{option}: found '{item}'; expected LABEL={word.strip()}, or '{word.strip()}' for all.")
        if (key := normalize_label(label)) in keys:
            raise second_value(option, label, item)
        keys.add(key)
        by_label[label] = _value(option, word.strip())
    is_explicit = bool(by_label)
    return Policy(option, by_label.pop("", _VALUES[default]), by_label, is_explicit)


def second_value(option: str, label: str, item: str) -> ConfigError:
    """Return the error on an item VALUE or LABEL=VALUE after another one for all labels (label "") or that label."""
    named = f"for '{label}'" if label else "for all labels"
    return ConfigError(f"{option}: found two values {named}; expected one. Remove '{item}'.")


def _value(option: Option, text: str) -> float:
    words = _WORDS[option]
    word, colon, number = text.partition(":")
    if word not in words or (colon and word != "smooth"):
        listed = f"{', '.join(words[:-1])} or {words[-1]}"
        raise ConfigError(
            f"{option}: found '{text}'; expected {listed}{':0.7' if 'smooth' in words else ''}, for all labels or as "
            f"LABEL={words[1]}.{did_you_mean(word, words)}"
        )
    if not colon:
        return _VALUES[word]
    try:
        value = float(number)
    except ValueError:
        value = np.nan
    if not 0 < value < 1:
        raise ConfigError(f"{option}: found '{text}'; expected a number between 0 and 1, as in smooth:0.7.")
    return value


def fill_no_finding_rows(raw: Targets, labels: Sequence[str]) -> tuple[Targets, list[str]]:
    """Set blank cells to 0 in rows where 'No Finding' is 1, whatever the policy; return the raw matrix and notes."""
    columns = [j for j, label in enumerate(labels) if is_no_finding(label)]
    cleared = np.isnan(raw) & (raw[:, columns] == 1).any(1, keepdims=True)
    if not cleared.any():
        return raw, []
    rows = int(cleared.any(1).sum())
    note = f"In {rows:,} rows '{labels[columns[0]]}' is 1: their blank cells are read as 0."
    return np.where(cleared, np.float32(0), raw), [note]


def apply_policies(
    raw: Targets, labels: Sequence[str], policies: Sequence[Policy], mapped: Sequence[str] = ()
) -> tuple[Targets, list[str]]:
    """Turn an (N, L) raw matrix into targets, with one policy per kind of cell; return notes on their effect.

    `mapped` has the names that a label map gives the L labels; policies may use either name.
    """
    matrix, notes = raw, list[str]()
    for policy in policies:
        values = _targets_by_column(policy, labels, mapped)
        cells = np.isnan(raw) if policy.option == "blank" else raw == UNCERTAIN
        notes += _describe(policy, cells.sum(0), values, labels)
        notes += _note_no_negatives(policy, raw, cells, values, labels)
        if cells.any():
            matrix = np.where(cells, values, matrix)
    return matrix, notes


def _note_no_negatives(
    policy: Policy, raw: Targets, cells: Bools, values: Floats32, labels: Sequence[str]
) -> list[str]:
    """Return a note on labels with a 1 but no 0, whose negatives may be the policy's `cells` (N, L)."""
    alike = (raw == 1).any(0) & cells.any(0) & ~(raw == 0).any(0) & (values != 0)
    if not alike.any():
        return []
    names = shorten(repr(label) for label, found in zip(labels, alike.tolist(), strict=True) if found)
    return [
        f"{names}: these labels have no cell of 0. --{policy.option} zeros makes {_CELLS[policy.option]} the negatives."
    ]


def _targets_by_column(policy: Policy, labels: Sequence[str], mapped: Sequence[str]) -> Floats32:
    values = np.full(len(labels), policy.default, np.float32)
    for label, value in policy.by_label.items():
        key = normalize_label(label)
        columns = {j for names in (labels, mapped) for j, name in enumerate(names) if normalize_label(name) == key}
        if not columns:
            raise ConfigError(
                f"{policy.option}: found the label '{label}', which the data does not have; expected one of "
                f"{', '.join(labels)}.{did_you_mean(label, labels)}"
            )
        values[list(columns)] = value
    return values


def _describe(policy: Policy, counts: Ints, values: Floats32, labels: Sequence[str]) -> list[str]:
    """Return a note on how many cells became what, per label."""
    cells = _CELLS[policy.option]
    if not counts.any():
        return [f"There are no {cells}."] if policy.is_explicit else []
    effects = []
    for value in np.unique(values):
        alike = np.isnan(values) if np.isnan(value) else values == value
        columns = np.flatnonzero(alike & (counts > 0)).tolist()
        if columns:
            effect = "are ignored" if np.isnan(value) else f"count as {value:.4g}"
            effects.append(f"{counts[columns].sum()} {effect} ({shorten(f'{labels[j]} {counts[j]}' for j in columns)})")
    return [f"Of the {cells}, {'; '.join(effects)}."]

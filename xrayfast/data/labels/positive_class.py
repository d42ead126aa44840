"""Choice of the positive class of a single-label task with two classes."""

from __future__ import annotations

from collections.abc import Sequence

from xrayfast.config import Task
from xrayfast.data.labels.flags import parse_flag
from xrayfast.data.labels.names import normalize_label, sort_labels
from xrayfast.data.labels.words import denies, is_normal
from xrayfast.errors import ConfigError, did_you_mean


def positive_class(task: Task, labels: Sequence[str], chosen: str | None = None) -> str | None:
    """Return the positive class of a single-label task with two classes; None for other tasks.

    It is the chosen class; else the only class that is not a negative ("normal", "no finding", "0", or "no mass" beside
    "mass"); else the last by name.

    >>> positive_class("single", ["covid", "normal"]), positive_class("single", ["bacteria", "virus"])
    ('covid', 'virus')
    """
    if task != "single" or len(labels) != 2:
        return None
    if chosen is not None:
        if chosen not in labels:
            raise ConfigError(
                f"positive is '{chosen}'; expected one of {', '.join(labels)}.{did_you_mean(chosen, labels)}"
            )
        return chosen
    found = [label for label in labels if not _is_negative(label, labels)]
    return sort_labels(found if len(found) == 1 else labels)[-1]


def describe_positive_class(labels: Sequence[str], positive: str, chosen: str | None) -> str:
    """Return a note on which class is the positive one, and on how to change that."""
    if chosen is not None:
        return f"The positive class is {positive}, as chosen."
    [other] = (label for label in labels if label != positive)
    why = (
        f"because '{other}' means that nothing was found"
        if _is_negative(other, labels)
        else "the last in alphabetical order"
    )
    return f"The positive class is {positive}, {why}: sensitivity, curves and thresholds refer to it. " + (
        f"To choose the other class, give --positive '{other}'."
    )


def _is_negative(label: str, labels: Sequence[str]) -> bool:
    """Whether the name of a class says that there is nothing, or that the other class is absent."""
    others = [normalize_label(other) for other in labels if other != label]
    return is_normal(label) or parse_flag(label) == 0 or any(denies(normalize_label(label), key) for key in others)

"""Compare the views and ages of new images with those that a run was trained or validated on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrayfast.data.demographics import kind_of_view
from xrayfast.data.manifest import Manifest
from xrayfast.errors import RunError, plural
from xrayfast.runs.predictions import image_attributes
from xrayfast.runs.run import Run

_OF_AGE = 18  # years

_GROUPS: Mapping[str, tuple[Callable[[Any], str], Mapping[str, str]]] = {
    "view": (kind_of_view, {"lateral": "with a lateral view", "frontal": "with a frontal view"}),
    "age": (
        lambda years: "" if np.isnan(years) else "minor" if years < _OF_AGE else "adult",
        {"minor": f"of patients under {_OF_AGE}", "adult": f"of patients of {_OF_AGE} years or more"},
    ),
}
"""For each attribute, how to group its values, and what images of each group are called."""


def known_attributes(run: object) -> Mapping[str, NDArray[Any]]:
    """Return the attributes of the images that a run was validated on; none if they are not recorded."""
    with suppress(RunError):  # a damaged table; predicting does not need it
        if isinstance(run, Run) and "valid" in run.predicted_splits:
            return run.predictions("valid").attributes
    return {}


def note_given_test(data: Manifest) -> list[str]:
    """Return notes on images of a given test split, of a view or an age that no training image has."""
    parts = {name: (data.table["split"] == name).to_numpy() for name in ("train", "test")}
    if not (parts["test"] & ~np.asarray(data.drawn)).any():
        return []
    train, test = (image_attributes(data.table[rows]) for rows in parts.values())
    end = "that the network is trained on: it learns nothing about them"
    return [f"Test split: {note}" for note in note_other_population(train, test, end)]


def note_other_population(
    own: Mapping[str, NDArray[Any]],
    new: Mapping[str, NDArray[Any]],
    end: str = "that the run was validated on: its own results say nothing about them",
) -> list[str]:
    """Return notes on images of a view or an age that no image of a run has.

    Args:
        own: attributes of the run's images, as `Predictions` has them.
        new: the same of other images.
        end: of the note, on which images the run's are.
    """
    notes = []
    for name in [name for name in _GROUPS if name in own and name in new]:
        group_of, phrases = _GROUPS[name]
        ours, theirs = (Counter(map(group_of, columns[name].tolist())) for columns in (own, new))
        known = sum(map(ours.__getitem__, phrases))
        notes += [
            f"{plural(theirs[group], 'image')} {phrase}, while there is none among the {plural(known, 'image')} of "
            f"known {name} {end}."
            for group, phrase in phrases.items()
            if known and theirs[group] and not ours[group]
        ]
    return notes

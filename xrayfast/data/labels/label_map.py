"""Label maps: a user's file of synonyms, for data sets that name the same label differently."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from xrayfast.data.labels.names import clean_label, find_spelling, normalize_label
from xrayfast.data.labels.words import denies, is_normal
from xrayfast.errors import ConfigFileError, DataError, shorten, truncate
from xrayfast.files.regular_files import MAX_SMALL_BYTES, read_text

_OPPOSITES = ({"normal", "abnormal"}, {"negative", "positive"}, {"present", "absent"}, {"yes", "no"})
"""Keys of labels that exclude each other, besides those of `denies`."""

_ABNORMAL = re.compile(
    r"(?!(class|categ\w*|label|group|type|grade|score)\W*(\d.*|\w)?$|no|un|without|negative|free|clean|clear|healthy|"
    r"normal|control|good)[^\d]*([^\W\d]{3}|[^\x00-\x7f]{2})"
)
"""Matches the key of a label that may be abnormal, unlike codes of classes ("0", "N", "class0") and "no pneumonia"."""


@dataclass(frozen=True)
class LabelMap:
    """A label map.

    Attributes:
        name: of the file, for messages.
        synonyms: the label of each synonym, both as written.
    """

    name: str
    synonyms: Mapping[str, str]

    @cached_property
    def _names(self) -> dict[str, str]:
        names = {normalize_label(label): label for label in self.synonyms.values()}
        return names | {normalize_label(synonym): label for synonym, label in self.synonyms.items()}

    def require_direction(self, known: Collection[str]) -> None:
        """Raise a ConfigFileError if the map gives one of a run's `known` labels a name that is not among them."""
        for synonym, label in self.synonyms.items():
            if find_spelling(synonym, known) and not find_spelling(label, known):
                raise ConfigFileError(
                    f"{self.name}: found '{label} = {synonym}', but '{synonym}' is a label of the run and '{label}' "
                    f"is not; expected LABEL = SYNONYM. Swap the two: '{synonym} = {label}'."
                )

    def rename(self, labels: Sequence[str]) -> list[str]:
        """Return the labels renamed by the map, whatever their spelling; labels that it lacks keep their name."""
        return [self._names.get(normalize_label(label), label) for label in labels]

    def notes(self, labels: Sequence[str]) -> list[str]:
        """Return notes on the labels that the map renames, the labels that it lacks, and its synonyms without use."""
        renamed = dict(zip(labels, self.rename(labels), strict=True))
        changes = [f"'{label}' is '{name}'" for label, name in renamed.items() if label != name]
        present = {normalize_label(label) for label in labels}
        known = {normalize_label(name) for pair in self.synonyms.items() for name in pair}
        kept = [label for label in labels if normalize_label(label) not in known]
        unused = [synonym for synonym in self.synonyms if normalize_label(synonym) not in present]
        opposites = [f"'{name}' and '{label}'" for name, label in self.synonyms.items() if _contradict(name, label)]
        advice = "leave that line out, unless both mean one label"
        return [
            f"{self.name}: {shorten(changes, 20) if changes else 'no label is renamed'}.",
            *([f"{self.name} does not name {shorten(kept, 20)}: kept as they are."] if kept else []),
            *([f"{self.name} joins opposites, {shorten(opposites)}: {advice}."] if opposites else []),
            *([f"{self.name} names {shorten(unused, 20)}, which the data does not have."] if unused else []),
        ]


def names_in_map(path: Path | None) -> set[str]:
    """Return all names in a label map, which are labels whatever they look like; none if there is no map."""
    synonyms = read_label_map(path).synonyms if path else {}
    return {*synonyms, *synonyms.values()}


def read_label_map(path: Path) -> LabelMap:
    """Read a file with one line per label, such as "Cardiomegaly = Enlarged heart, Enlarged cardiac silhouette".

    Blank lines and comments are skipped. A comment starts with '#' at the beginning of a line, or with '#' after a
    space and not before a digit.

    Raises:
        ConfigFileError: the file can't be read, a line has another form, or a name means two labels; the message names
            the line.
    """
    lines = read_text(path, "lines of label synonyms", MAX_SMALL_BYTES, ConfigFileError).splitlines()
    synonyms: dict[str, str] = {}
    meaning: dict[str, tuple[str, int]] = {}
    for number, written in enumerate(lines, start=1):
        line = re.sub(r"^\s*#.*|\s#(?!\d).*", "", written)
        if not line.strip():
            continue
        left, _, right = line.partition("=")
        try:
            label, *others = (_unquote(clean_label(name)) for name in (left, *right.split(",")))
        except DataError as error:
            raise ConfigFileError(
                f"{path.name} line {number}: found '{truncate(line.strip(), 200)}'; expected LABEL = SYNONYM, "
                f"SYNONYM, such as Cardiomegaly = Enlarged heart."
            ) from error
        for name in (label, *others):
            other, first = meaning.setdefault(normalize_label(name), (label, number))
            if normalize_label(other) != normalize_label(label):
                swapped = f"swap its sides, such as '{name} = {label}'"
                joined = f"list the synonyms of '{name}' in line {first}"
                raise ConfigFileError(
                    f"{path.name} line {number}: '{name}' means '{label}' here and '{other}' in line {first}; expected "
                    "one label for each name. The label is on the left, its synonyms are on the right: remove a "
                    f"line, or {joined if name == label else swapped}."
                )
        synonyms.update({name: meaning[normalize_label(label)][0] for name in others})
    if not synonyms:
        raise ConfigFileError(f"{path}: found no lines; expected some such as Cardiomegaly = Enlarged heart.")
    return LabelMap(path.name, synonyms)


def _contradict(name: str, other: str) -> bool:
    """Whether one of two labels says that the other is absent, as "no mass" and "normal" do of "mass"."""
    one, two = normalize_label(name), normalize_label(other)
    if denies(one, two) or denies(two, one) or {one, two} in _OPPOSITES:
        return True
    return is_normal(name) != is_normal(other) and any(map(_ABNORMAL.match, (one, two)))


def _unquote(name: str) -> str:
    """Return the name without the quotes around it."""
    return name[1:-1].strip() if len(name) > 2 and name[0] == name[-1] and name[0] in "'\"" else name

"""Labels that follow from others: "covid-19=pneumonia"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

import numpy as np

from xrayfast.data.labels.names import clean_label, drop_invisible, find_spelling, sort_labels
from xrayfast.data.labels.targets import Targets, merge_columns
from xrayfast.errors import ConfigError, DataError, did_you_mean


def parse_implications(rules: Iterable[str], labels: Iterable[str] = ()) -> dict[str, frozenset[str]]:
    """Return the labels that each label implies, directly or indirectly, by rules such as "covid-19=pneumonia+opacity".

    A name that is a spelling of one of `labels`, or of a name in an earlier rule, means that label.

    >>> sorted(parse_implications(["a=b", "b=c"])["a"])
    ['b', 'c']
    """
    direct: dict[str, list[str]] = {}
    known = list(labels)

    def spell(text: str) -> str:
        name = drop_invisible(clean_label(text))
        known.append(find_spelling(name, known) or name)
        return known[-1]

    for rule in rules:
        left, _, right = rule.partition("=")
        try:
            direct.setdefault(spell(left), []).extend(spell(name) for name in re.split("[+,]", right))
        except DataError as error:
            raise ConfigError(f"imply: found '{rule}'; expected LABEL=IMPLIED, such as covid-19=pneumonia.") from error
    closure: dict[str, frozenset[str]] = {}
    try:
        for label in TopologicalSorter(direct).static_order():  # implied labels first
            closure[label] = frozenset().union(*({right} | closure[right] for right in direct.get(label, ())))
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise ConfigError(f"imply: found a cycle, {cycle}; expected none. Remove one of its rules.") from error
    return {left: closure[left] for left in direct}


def check_implications(closure: Mapping[str, frozenset[str]], labels: Iterable[str]) -> None:
    """Raise a DataError for rules for labels that no image has; the labels that they imply may be new."""
    names = set(labels)
    reachable = names.union(*(closure[left] for left in closure if left in names))
    for left in closure:
        if left not in reachable:
            raise DataError(
                f"imply: found the label '{left}', which no image has; expected one of "
                f"{', '.join(sort_labels(names))}.{did_you_mean(left, names)}"
            )


def apply_implications(
    matrix: Targets, labels: Sequence[str], closure: Mapping[str, frozenset[str]]
) -> tuple[list[str], Targets]:
    """Set implied labels to 1 in (N, L) targets wherever a label that implies them is 1.

    A label that only the rules name becomes a new column, the last, merged from the labels that imply it: see
    `merge_labels`.
    """
    names, targets = list(labels), matrix.copy()
    for right in sort_labels(right for rights in closure.values() for right in rights):
        lefts = [j for j, label in enumerate(labels) if right in closure.get(label, ())]
        if right in labels:
            targets[(matrix[:, lefts] == 1).any(1), list(labels).index(right)] = 1
        elif lefts:
            names.append(right)
            targets = np.column_stack([targets, merge_columns(matrix[:, lefts])])
    return names, targets

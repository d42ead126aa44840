"""`check.html`: the audit of a data set as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrayfast.audit.check import Audit
from xrayfast.audit.classes import ClassFacts, Spread
from xrayfast.audit.duplicates import Duplicates, distinct_groups
from xrayfast.audit.shortcuts import ALL, NOTABLE
from xrayfast.errors import format_interval
from xrayfast.reporting.html.render import image_view, render_template
from xrayfast.reporting.html.tables import Cell, Table, counts_table, number_cell

GROUPS_SHOWN, COPIES_SHOWN, NAMES_SHOWN = 60, 4, 40

SEVERITY_NAMES = {"leak": "Leak", "warning": "Warning", "note": "Note"}

GROUP_NAMES = {
    "size": "Size",
    "aspect": "Aspect",
    "bits": "Bit depth",
    "coding": "Format and mode",
    "border": "Border",
    "brightness": "Brightness",
    "histogram": "Histogram",
    "texture": "Texture",
    "notes": "Notes on reading",
    "view": "View",
    ALL: "All together",
}


def shown_groups(audit: Audit) -> list[Duplicates]:
    """Return the groups of duplicates that the page shows: those across splits first, then those across classes."""
    split, labels = audit.data.table["split"].tolist(), audit.data.table["labels"].tolist()

    def weight(group: Duplicates) -> tuple[bool, bool, bool]:
        one_split, one_class = (len({column[row] for row in group.rows}) == 1 for column in (split, labels))
        return one_split, one_class, group.kind == "exact"

    return sorted(distinct_groups(audit.duplicates), key=weight)[:GROUPS_SHOWN]


def shown_rows(group: Duplicates) -> tuple[int, ...]:
    """Return the rows of a group whose images the page shows."""
    return group.rows[:COPIES_SHOWN]


def render_check_page(audit: Audit, images: Mapping[int, NDArray[np.uint8] | None], title: str, created: str) -> str:
    """Return the page as one self-contained HTML document.

    Args:
        audit: the findings.
        images: (H, W) uint8 keyed by row of the manifest, for `shown_rows` of `shown_groups`.
        title: name of the data set.
        created: time in UTC, in ISO 8601.
    """
    data = audit.data
    counted = {severity: sum(f.severity == severity for f in audit.findings) for severity in SEVERITY_NAMES}
    patients = data.table["patient"].nunique()
    known = "Known patients" if 0 < data.table["patient"].notna().sum() < len(data) else "Patients"
    groups = shown_groups(audit)
    return render_template(
        "check.html.j2",
        {
            "audit": audit,
            "title": title,
            "created": created,
            "patients_known": patients > 0,
            "tiles": [
                ("Images", f"{len(data):,}"),
                (known, f"{patients:,}" if patients else None),
                *((f"{name}s", f"{counted[severity]:,}") for severity, name in SEVERITY_NAMES.items()),
            ],
            "severity_names": SEVERITY_NAMES,
            "names_shown": NAMES_SHOWN,
            "groups": [_group_view(audit, group, images) for group in groups],
            "all_groups": len(distinct_groups(audit.duplicates)),
            "counts": counts_table(data.counts(), data.labels, data.task),
            "files": files_table(audit.classes),
            "shortcuts": shortcuts_table(audit),
            "notable": f"{NOTABLE:g}",
            "patients": patients_table(audit),
        },
    )


def shortcuts_table(audit: Audit) -> Table:
    """Return the AUROC per label and group of properties, with a remark if it is notable."""
    probed = audit.shortcuts
    names = [name for name in probed.auroc if any(value is not None for value in probed.auroc[name].values())]
    rows = []
    for label in audit.data.labels:
        remarks = dict.fromkeys(probed.notable(label), "notable")
        cells = (number_cell(probed.auroc[name][label], ".2f", aside=remarks.get(name, "")) for name in names)
        rows.append([Cell(label), *cells])
    columns = ("Label", *(GROUP_NAMES.get(name, name) for name in names))
    return Table("shortcuts", "AUROC of each label, held out by patient; 0.5 is chance", columns, rows, sortable=True)


def files_table(classes: Sequence[ClassFacts]) -> Table:
    """Return sizes, aspect ratios, bit depths, formats and modes of the original files, per class."""
    words = ("Bits", "Formats", "Modes")
    columns = ["Class", "Images", "Width", "Height", "Aspect", *words]
    rows = [
        [
            Cell("no label" if one.label is None else one.label),
            Cell(f"{one.images:,}"),
            _spread_cell(one.width, ".0f"),
            _spread_cell(one.height, ".0f"),
            _spread_cell(one.aspect, ".2f"),
            *(Cell(_shares(counts)) for counts in (one.bits, one.formats, one.modes)),
        ]
        for one in classes
    ]
    return Table("files", "Files by class: median (minimum to maximum)", columns, rows, words=words)


def patients_table(audit: Audit) -> Table | None:
    """Return how many patients have how many images; None if no patient is known."""
    counts = audit.data.table["patient"].value_counts().value_counts().sort_index()
    if counts.empty:
        return None
    rows = [[Cell(f"{images:,}"), number_cell(patients, ",d")] for images, patients in counts.items()]
    columns = "Images of a patient", "Patients"
    return Table("patients", "How many patients have how many images, where the patient is known", columns, rows)


def _spread_cell(spread: Spread | None, form: str) -> Cell:
    if spread is None:
        return Cell(None)
    differ = spread.least != spread.most
    return number_cell(spread.median, form, aside=format_interval(spread.least, spread.most, form) if differ else "")


def _shares(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" if len(counts) > 1 else name for name, count in counts.items())


def _group_view(audit: Audit, group: Duplicates, images: Mapping[int, NDArray[np.uint8] | None]) -> dict[str, Any]:
    table = audit.data.table
    split, labels = ({table[name].iloc[row] for row in group.rows} for name in ("split", "labels"))
    marks = [f"in {' and '.join(sorted(split))}"] if len(split) > 1 else []
    marks += ["labels differ"] if len(labels) > 1 else []
    kind = "The same image" if group.kind == "exact" else f"Near duplicates (correlation {group.similarity:.3f})"
    changes = [f"{'one' if len(group.rows) == 2 else 'some'} {', '.join(group.changes)}"] if group.changes else []
    return {
        "title": ", ".join([kind, *changes, *marks]),
        "leak": len(split) > 1,
        "more": len(group.rows) - len(shown_rows(group)),
        "images": [
            {**table[["image", "labels", "split", "patient"]].iloc[row], **image_view(images.get(row))}
            for row in shown_rows(group)
        ],
    }

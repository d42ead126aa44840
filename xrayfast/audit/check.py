"""Audit a data set: find leaks, duplicates, shortcuts and odd files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xrayfast.audit.classes import ClassFacts, class_facts
from xrayfast.audit.duplicates import Duplicates
from xrayfast.audit.findings import SEVERITIES, Finding, list_findings
from xrayfast.audit.leaks import Leaks, compare_images, group_linked_images, redraw_leaky_splits, rows_by_patient
from xrayfast.audit.shortcuts import Shortcuts, probe
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.images.notes import generalize_note
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.words import SPLITS
from xrayfast.display.overview import HasOverview
from xrayfast.errors import plural
from xrayfast.progress import StageProgress, no_progress


@dataclass(frozen=True, eq=False, repr=False)
class Audit(HasOverview):
    """The result of an audit.

    Attributes:
        data: the audited data set, with its final splits.
        findings: most severe first.
        shared: patients and images in more than one split.
        duplicates: groups of duplicates within and between splits.
        classes: properties of each class's files.
        shortcuts: how well labels can be predicted without the lungs.
        reading_notes: number of images by reading note, with numbers replaced by "#".
        unreadable: what is wrong with each image that can't be read.
    """

    data: Manifest
    findings: tuple[Finding, ...]
    shared: Leaks
    duplicates: tuple[Duplicates, ...]
    classes: tuple[ClassFacts, ...]
    shortcuts: Shortcuts
    reading_notes: Mapping[str, int]
    unreadable: Mapping[str, str]

    def __repr__(self) -> str:
        found = Counter(finding.severity for finding in self.findings)
        counts = ", ".join(plural(found[severity], severity) for severity in SEVERITIES)
        return f"Audit({self.data!r}: {counts})"

    @property
    def leaks(self) -> bool:
        """Whether validation or test is not independent of training."""
        return bool(self.shared)

    def to_json(self) -> dict[str, Any]:
        """Return the audit as plain JSON values; missing values are null.

        Patients are pseudonyms.

        Returns:
            - `images`, `patients` (null if none is known), `task`, `labels`
            - `leaks`: whether anything is shared between splits
            - `splits`: by split, `images` and `patients`
            - `notes`: how the data set was opened: what was inferred, drawn or ignored
            - `findings`: most severe first: `kind`, `severity` ("leak", "warning", "note"), `title`, `text`, `count`,
              `images`
            - `shared_patients`: `patient`, `images` by split
            - `shared_studies`: `study`, `images` by split
            - `duplicates`: `kind` ("exact", "near"), `similarity` (0.97 to 1, less if processed), `changes` (such as
              "mirrored"), `images`: a list of `image`, `split`, `labels`, `patient`
            - `classes`: `label` (null for images without any), `images`, `splits`, `width`, `height` and `aspect`
              (`least`, `median`, `most`, `commonest`; null without images), `bits`, `formats`, `modes`
            - `images_per_patient`: `mean`, `median`, `most`, `patients` (by number of images); null if no patient is
              known
            - `shortcuts`: `images`, `auroc` and `chance` by group of properties and label, `too_few` by label
            - `reading_notes`: number of images by note
            - `unreadable`: `image`, `problem`
        """
        own = rows_by_patient(self.data)
        table = self.data.table
        splits = {split: table[table["split"] == split] for split in SPLITS}
        return {
            "images": len(self.data),
            "patients": len(own) or None,
            "task": self.data.task,
            "labels": list(self.data.labels),
            "leaks": self.leaks,
            "splits": {
                split: {"images": len(rows), "patients": int(rows["patient"].nunique()) if own else None}
                for split, rows in splits.items()
            },
            "notes": list(self.data.notes),
            "findings": [{**asdict(finding), "images": list(finding.images)} for finding in self.findings],
            "shared_patients": [one.to_json("patient") for one in self.shared.patients],
            "shared_studies": [one.to_json("study") for one in self.shared.studies],
            "duplicates": [
                {
                    "kind": group.kind,
                    "similarity": group.similarity,
                    "changes": list(group.changes),
                    "images": [self._image(row) for row in group.rows],
                }
                for group in self.duplicates
            ],
            "classes": [asdict(row) for row in self.classes],
            "images_per_patient": _images_per_patient(list(map(len, own.values()))),
            "shortcuts": _rounded(asdict(self.shortcuts)),
            "reading_notes": dict(self.reading_notes),
            "unreadable": [{"image": image, "problem": problem} for image, problem in self.unreadable.items()],
        }

    def _image(self, row: int) -> dict[str, str | None]:
        cells = self.data.table.iloc[row]
        patient = cells["patient"] if isinstance(cells["patient"], str) else None
        return {"image": cells["image"], "split": cells["split"], "labels": cells["labels"], "patient": patient}


def audit(data: Manifest, images: DecodedImages, progress: StageProgress = no_progress, seed: int = 0) -> Audit:
    """Audit a data set.

    Drawn splits are those that `fit` would use, with duplicates in one split.

    Args:
        data: the images of all splits. Unreadable images are reported and otherwise ignored.
        images: decoded as needed, with a side of at least `features.LEAST_SIDE`.
        progress: called at the stages "decoding", "inspecting", "comparing" and "finding shortcuts".
        seed: of the shortcut probe's folds and shuffles.
    """
    features, leaks = compare_images(data, images, progress)
    data, shared = redraw_leaky_splits(data, leaks)
    duplicates, files = leaks.duplicates, zip(data.table["image"], data.table["path"], strict=True)
    unreadable = {name: leaks.unreadable[path] for name, path in files if path in leaks.unreadable}
    progress("finding shortcuts", 0, len(features))
    shortcuts = probe(data, features, group_linked_images(data, duplicates), seed)
    progress("finding shortcuts", len(features), len(features))
    findings = list_findings(data, features, shared, unreadable, shortcuts)
    notes = Counter(note for info in features.image_infos for note in set(map(generalize_note, info.notes)))
    classes, reading_notes = class_facts(data, features), dict(notes.most_common())
    return Audit(data, findings, shared, duplicates, classes, shortcuts, reading_notes, unreadable)


def _images_per_patient(counts: list[int]) -> dict[str, Any] | None:
    if not counts:
        return None
    return {
        "mean": round(float(np.mean(counts)), 3),
        "median": float(np.median(counts)),
        "most": max(counts),
        "patients": {str(images): patients for images, patients in sorted(Counter(counts).items())},
    }


def _rounded(value: Any) -> Any:
    """Return the value with all floats in it rounded to four digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value

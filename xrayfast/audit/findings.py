"""Describe the findings of an audit in words, with their severity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from xrayfast.audit.duplicates import Duplicates, distinct_groups
from xrayfast.audit.features import Features
from xrayfast.audit.leaks import Leaks, rows_by_patient
from xrayfast.audit.shortcuts import ALL, NOTABLE, RIVAL, Shortcuts
from xrayfast.data.images.notes import NOTED, TINY, Note, group_notes, is_other_object, kind_of, title_of
from xrayfast.data.manifest import Manifest
from xrayfast.data.splits.words import SPLITS
from xrayfast.errors import plural, shorten

Severity: TypeAlias = Literal["leak", "warning", "note"]
"""How severe a finding is.

- leak: validation or test is not independent of training.
- warning: training may fail, or results may mislead.
- note: worth knowing."""

SEVERITIES: tuple[Severity, ...] = ("leak", "warning", "note")
"""All severities, most severe first."""

LEAST_TO_LEARN = 10
"""Least number of training images of a label; fewer are memorized."""

LEAST_TO_EVALUATE = 10
"""Least number of images with, and without, a label in a split. With 10, the 95% interval of an AUROC of 0.8 is
already about ±0.15 (Hanley and McNeil 1982, doi 10.1148/radiology.143.1.7063747)."""

_WHITE_BORDER = 0.8  # mean value of each edge, in [0, 1]
_LONG = 2.0  # ratio of the longer to the shorter side; chest radiographs have a width/height between 0.7 and 1.4


class _Noted(NamedTuple):
    """A kind of finding on images."""

    title: str  # after "N images"
    advice: str
    severity: Severity = "note"


_NO_RADIOGRAPH = "Training and evaluation leave them out, unless --keep-masks is given."

_DOUBTFUL = "They may not be radiographs: look at them, and remove those that are not."

_NOTED: dict[str, _Noted] = {
    "tiny": _Noted(
        f"smaller than {TINY} pixels",
        "Most findings are not visible at this size: the images may be thumbnails of the originals.",
    ),
    "long": _Noted(
        f"more than {_LONG:g} times as long as wide, or wide as long",
        "Chest radiographs are nearly square: they may show something else, or several radiographs.",
    ),
    "white_border": _Noted(
        "with a white border", "Radiographs are black around the body: these may be inverted or framed."
    ),
    "constant": _Noted("with only one gray level", "They show nothing: remove them.", "warning"),
    "transparent": _Noted(
        "fully transparent", "They show nothing: save them without their alpha channel, or remove them.", "warning"
    ),
    "two_shades": _Noted(f"with {Note.TWO_SHADES.text}, as in masks", _NO_RADIOGRAPH, "warning"),
    "no_radiograph": _Noted("that are not radiographs according to their header", _NO_RADIOGRAPH, "warning"),
    "few_shades": _Noted("with only a few shades of gray, as in label maps", _NO_RADIOGRAPH, "warning"),
    "color_coded": _Noted("color-coded, as maps and overlays are", _NO_RADIOGRAPH, "warning"),
    "too_smooth": _Noted(f"that are {Note.TOO_SMOOTH.text}", _DOUBTFUL),
    "plain_areas": _Noted(f"made of {Note.PLAIN_AREAS.text}", _DOUBTFUL),
    "colored_marks": _Noted(
        "with colored lines or marks",
        "The marks are still visible in gray and may reveal the label: use images without them.",
    ),
    "noise": _Noted(
        "that look like noise",
        "Neighboring pixels are unrelated: the file may state a wrong bit depth, byte order or width.",
        "warning",
    ),
    "missing_rows": _Noted(
        "cut off", "Some rows or columns are plain gray or all identical: download the files again.", "warning"
    ),
    "damaged": _Noted(
        "that look damaged",
        "Pixels, lines or bits seem to be lost: get the files from their source again, or remove them.",
        "warning",
    ),
    "edge_map": _Noted("without bright and dark areas, as in edge maps", _DOUBTFUL),
    "repeated": _Noted("whose halves are identical or mirrored", "Keep one half, or remove them."),
    "composed": _Noted(
        "that look composed of several images, shifted or drawn on",
        "Save each image as its own file. Get images with shifted parts or lines from their source again.",
    ),
    "compressed": _Noted("strongly compressed", "Fine detail is lost: get them in better quality."),
    "equalized": _Noted(
        "in which all gray levels are equally frequent",
        "Their histograms were equalized: equalize all images, or none.",
    ),
    "gamma": _Noted(
        "of which three quarters are dark or bright",
        "A gamma or a window may have been applied: check whether they were read correctly.",
    ),
    "slanted": _Noted(
        "with slanted edges",
        "The image or the collimator was rotated: if this is augmentation, use the original images.",
    ),
    "covered": _Noted(
        "with a covered or lost area",
        "The lungs or other parts may be blacked out or missing: use the original images.",
    ),
    "text": _Noted(
        "with white or black lines in the middle",
        "They may be wires, metal or text. A network learns text, too, and text may name the patient: use images "
        "without text.",
    ),
    "spectrum": _Noted("unchanged when rotated by 180 degrees, as Fourier spectra are", _DOUBTFUL),
    "on_black": _Noted(
        "that fill a small part of a black image",
        "The network sees only a small radiograph: crop the black area around it.",
    ),
    "strip": _Noted("far from square", "They may be stretched or show only a part: look at them."),
    "test_object": _Noted("as symmetrical as test objects are", _DOUBTFUL),
    "half_white": _Noted("half of which is white", "Check whether they were read correctly or cut off."),
    "dark": _Noted("nearly black", "Check whether they were read correctly."),
    "bright": _Noted("nearly white", "Check whether they were read correctly."),
    "flat": _Noted(
        "nearly without contrast",
        "They use less than a quarter of the range from black to white: check whether they were read correctly.",
    ),
    "several_frames": _Noted("of several frames", "Only the first is used."),
    "inverted": _Noted("stored inverted", "They were inverted back."),
    "may_be_inverted": _Noted(
        "that may be inverted", "They were left as they are: invert those that are inverted, or remove them."
    ),
    "may_be_turned": _Noted(
        "that may be upside down or sideways",
        "They were left as they are: turn those that need it, or remove them.",
    ),
    "panel": _Noted(
        "with a panel along one side", "They look like screenshots of an image viewer: save the radiographs alone."
    ),
    "box": _Noted("with a plain box", "Something is covered or lost: use the original images."),
    "circle": _Noted("cut out as a circle", "Use the whole images if you have them."),
    "half_black": _Noted("half of which is black", "Check whether they were read correctly or cut off."),
    "two_in_one": _Noted(
        "as wide or high as two radiographs or more",
        "If a file contains several radiographs, save each as its own file.",
    ),
    "turned": _Noted("stored sideways", "They were rotated by their EXIF orientation."),
    "saturated": _Noted(
        "with a window that makes most pixels black or white",
        "Detail in the brightest or darkest areas is lost: try another --window.",
    ),
    "window_ignored": _Noted(
        "with a window that would make nearly everything black, white or one gray",
        "The window was ignored: check whether --window should set another.",
    ),
}
"""By kind of finding: its title, advice and severity. `Note` says which finding lists a note; any other note that needs
attention becomes a finding with the text of the note."""


_OF_PIXELS = {"brightness", "histogram", "texture"}
_OF_ALL_PIXELS = (
    "Brightness, histogram and texture are computed on the whole image, so extensive disease changes them too. "
)

_STOPS = "Training stops at such a file: download it again, or remove it."

_UNREADABLE: tuple[tuple[str, Severity, str, str, str], ...] = (
    ("unreadable", "warning", "image", "can't be read", _STOPS),
    ("other_objects", "note", "DICOM object", "without an image", _NO_RADIOGRAPH),
)
"""Findings on files without a readable image: kind, severity, noun and rest of the title, advice. Files with the second
kind are valid."""


@dataclass(frozen=True)
class Finding:
    """A problem of the data set, or something worth knowing."""

    kind: str  # one word, for programs
    severity: Severity
    title: str  # a few words
    text: str  # what was found and what to do, in one or two sentences
    count: int  # of patients, images or labels, according to the title
    images: tuple[str, ...] = ()  # image names, in the order of the manifest; empty if it concerns all images


def list_findings(
    data: Manifest, features: Features, leaks: Leaks, unreadable: Mapping[str, str], shortcuts: Shortcuts
) -> tuple[Finding, ...]:
    """Return all findings, most severe first; `unreadable` is what is wrong with each unreadable image, by name."""
    findings = [
        *leak_findings(leaks),
        *unreadable_findings(unreadable),
        *shortcut_findings(data, shortcuts),
        *duplicate_findings(data, leaks.duplicates),
        *class_findings(data),
        *patient_findings(data),
        *image_findings(data, features),
        *probe_findings(shortcuts),
    ]
    return sort_by_severity(findings)


def sort_by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return leaks first, then warnings, then notes; otherwise in the given order."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def _of_images(kind: str, severity: Severity, names: Collection[str], title: str, text: str) -> Finding:
    return Finding(kind, severity, f"{plural(len(names), 'image')} {title}", text, len(names), tuple(names))


def leak_findings(leaks: Leaks) -> list[Finding]:
    """Return findings on patients and images in more than one split."""
    advice = "Assign each to one split, or draw a new split with --ignore-split."
    found = []
    for kind, title, shared in leaks.by_kind():
        names = tuple(chain.from_iterable(chain.from_iterable(leak.images.values()) for leak in shared))
        text = (
            f"{shorten(shared, 3)}. Training sees nearly the same images, so results will be too optimistic. {advice}"
        )
        found.append(Finding(f"shared_{kind}", "leak", title, text, len(shared), names))
    return found


def unreadable_findings(unreadable: Mapping[str, str]) -> list[Finding]:
    """Return findings on files that can't be read."""
    found = []
    for kind, severity, noun, rest, advice in _UNREADABLE:
        is_other = kind == "other_objects"
        if problems := {name: text for name, text in unreadable.items() if is_other_object(text) == is_other}:
            title, text = f"{plural(len(problems), noun)} {rest}", f"{' '.join([*problems.values()][:2])} {advice}"
            found.append(Finding(kind, severity, title, text, len(problems), tuple(problems)))
    return found


def duplicate_findings(data: Manifest, duplicates: Sequence[Duplicates]) -> list[Finding]:
    """Return findings on duplicates with contradicting labels or patients, and on duplicates within a split."""
    names, patients, truth = data.table["image"].tolist(), data.table["patient"].tolist(), data.truth
    found = []

    def add(kind: str, severity: Severity, groups: Collection[Duplicates], title: str, text: str) -> None:
        images = tuple(names[row] for row in sorted(set(chain.from_iterable(group.rows for group in groups))))
        found.append(Finding(kind, severity, f"{plural(len(groups), 'group')} of {title}", text, len(groups), images))

    distinct, image_splits = distinct_groups(duplicates), data.table["split"].tolist()
    if conflicts := {group: rows for group in distinct if (rows := _contradicting_rows(truth, group))}:
        labels = data.table["labels"].tolist()
        rows = next(iter(conflicts.values()))
        example = " but ".join(f"{names[row]} is '{labels[row] or 'no label'}'" for row in rows)
        text = f"{example}. One of them is wrong: ask whoever labeled them, or remove both."
        add("conflicting_labels", "warning", conflicts, "duplicates with contradicting labels", text)
    if strangers := [group for group in distinct if len({patients[row] or None for row in group.rows} - {None}) > 1]:
        text = "The same image belongs to two patients: one is wrong, or the column is not a patient ID."
        add("conflicting_patients", "warning", strangers, "duplicates under more than one patient", text)
    within = [group for group in duplicates if len({image_splits[row] for row in group.rows}) == 1]
    for kind, title, sign in (("exact", "equal images", " = "), ("near", "near duplicates", " ~ ")):
        if groups := [group for group in within if group.kind == kind]:
            examples = shorten((_joined([names[row] for row in group.rows], sign) for group in groups), 3)
            text = f"{examples}. Each copy counts as a separate image in training and in every metric: keep one."
            add(f"duplicates_{kind}", "note", groups, title, text)
    return found


def _joined(names: Sequence[str], sign: str) -> str:
    """Join names, as in "a.png = b.png = c.png (and 2 more)"."""
    return sign.join(names[:3]) + (f" (and {len(names) - 3} more)" if len(names) > 3 else "")


def _contradicting_rows(truth: npt.NDArray[np.int8], group: Duplicates) -> list[int]:
    """Return one row with and one row without the first label on which the group disagrees; [] if it agrees on all."""
    present, absent = (truth[list(group.rows)] == value for value in (1, 0))
    labels = np.flatnonzero(present.any(0) & absent.any(0))
    return [group.rows[int(cells[:, labels[0]].argmax())] for cells in (present, absent)] if len(labels) else []


def class_findings(data: Manifest) -> list[Finding]:
    """Return findings on labels too rare to be learned or evaluated, and on images whose labels are all masked."""
    truth, image_splits = data.truth, data.table["split"].to_numpy()
    train = image_splits == "train"
    found = []
    names = data.table["image"].tolist()
    if masked := [names[row] for row in np.flatnonzero((truth < 0).all(1))]:
        described = f"{shorten(masked, 3)}. Training and metrics ignore them: "
        described += "set --uncertain or --blank to give their cells a value."
        found.append(_of_images("all_masked", "note", masked, "on which every label is masked", described))
    positives = zip(data.labels, (truth[train] == 1).sum(0).tolist(), strict=True)
    if rare := {label: count for label, count in positives if count < LEAST_TO_LEARN}:
        text = f"Fewer than {LEAST_TO_LEARN} training images, which a network memorizes: {_listed(rare)}. "
        text += "Add images, merge the label with another (--label-map), or leave it out."
        title = f"{plural(len(rare), 'label')} too rare to learn"
        found.append(Finding("too_few_to_learn", "warning", title, text, len(rare)))
    for split in SPLITS[1:]:
        known = truth[image_splits == split]
        least = np.minimum((known == 1).sum(0), (known == 0).sum(0)).tolist()
        few = {label: count for label, count in zip(data.labels, least, strict=True) if count < LEAST_TO_EVALUATE}
        if few and len(known):
            images = "validation images" if split == "valid" else "test images"
            text = f"Fewer than {LEAST_TO_EVALUATE} {images} with the label, or without it: {_listed(few)}. The 95% "
            text += "interval of their AUROC is at least ±0.15. Enlarge the split, or report the intervals."
            title = f"{plural(len(few), 'label')} too rare to evaluate in {split}"
            found.append(Finding("too_few_to_measure", "warning", title, text, len(few)))
    return found


def _listed(counts: Mapping[str, int]) -> str:
    return shorten((f"'{label}' {count}" for label, count in counts.items()), 10)


def patient_findings(data: Manifest) -> list[Finding]:
    """Return findings on unknown patients, and on patients with images of more than one class."""
    names, rows = data.table["image"].tolist(), rows_by_patient(data)
    unknown = len(data) - sum(map(len, rows.values()))
    if not rows:
        text = "Images of one patient may be in both training and validation, and this check can't detect it. Name the "
        text += "patient column with --patient-col, or read DICOM headers with --patient-col dicom:PatientID."
        return [Finding("no_patients", "warning", "No patients are known", text, len(data))]
    found = []
    if unknown:
        text = f"{unknown:,} of {len(data):,} images have no patient. Each of them counts as its own patient."
        title = f"{plural(unknown, 'image')} without patient"
        found.append(Finding("some_patients_unknown", "note", title, text, unknown))
    labels = data.table["labels"].tolist()
    if data.task == "single" and (
        several := {patient: own for patient, own in rows.items() if len({labels[row] for row in own}) > 1}
    ):
        images = tuple(names[row] for row in sorted(chain.from_iterable(several.values())))
        text = f"{shorten(several, 3)}: {len(images):,} images. A split by image would put one patient in "
        text += "several splits. Keep patients together, as the splits that xrayfast draws do."
        title = f"{plural(len(several), 'patient')} in more than one class"
        found.append(Finding("patients_in_classes", "note", title, text, len(several), images))
    return found


def shortcut_findings(data: Manifest, shortcuts: Shortcuts) -> list[Finding]:
    """Return findings on labels that can be predicted without the lungs."""
    alike = defaultdict[tuple[bool, str], dict[str, str]](dict)
    for label in data.labels:
        notable = shortcuts.notable(label)
        if not notable:
            continue
        own = notable.keys() - {ALL}
        caution = _OF_ALL_PIXELS if own and own <= _OF_PIXELS else ""
        (best, value), *others = notable.items()
        compared = [f"{_properties(group, shortcuts)} {auroc:.2f}" for group, auroc in others[:3]]
        chance = f"at most {shortcuts.chance[best][label]:.2f} by chance"
        text = f"'{label}' from {_properties(best, shortcuts)}: AUROC {value:.2f} ({'; '.join([chance, *compared])})."
        alike[value >= RIVAL, caution][f"'{label}'"] = text
    found = []
    for (rival, caution), texts in alike.items():
        how = "from brightness and texture of the whole image" if caution else "without the lungs"
        text = " ".join(texts.values()) + " "
        text += (
            "A network may do no better, and may learn how and where an image was taken instead of the disease. "
            f"{caution}Balance the classes for these properties, and run an external test."
            if rival
            else f"{caution}Compare a network's AUROC with this value, not with 0.5."
        )
        kind = "shortcut" if rival else "weak_shortcut"
        severity: Severity = "warning" if rival else "note"
        found.append(Finding(kind, severity, f"{shorten(texts)} can be predicted {how}", text, len(texts)))
    return found


def _properties(group: str, shortcuts: Shortcuts) -> str:
    """Name a group of properties; for `ALL`, list the groups that were not constant."""
    if group != ALL:
        return f"{group} alone"
    varied = [name for name, aurocs in shortcuts.auroc.items() if name != ALL and any(aurocs.values())]
    return f"{', '.join(varied)} together"


def image_findings(data: Manifest, features: Features) -> list[Finding]:
    """Return findings on odd images: tiny, long, or read with a note that needs attention."""
    names = data.table["image"].to_numpy()[features.rows].tolist()
    width, height = (np.array([getattr(info, side) for info in features.image_infos]) for side in ("width", "height"))
    edges = features.border[:, ::2].min(1)  # darkest of the four edges
    odd = {
        "tiny": np.minimum(width, height) < TINY,
        "long": np.maximum(width, height) > _LONG * np.minimum(width, height),
        "white_border": (edges > _WHITE_BORDER) & (features.brightness[:, 0] < edges - 0.1),
    }
    notes = [info.notes for info in features.image_infos]
    of_notes = [set(map(kind_of, own)) for own in notes]

    def images_of(kind: str) -> list[str]:
        noted = np.array([kind in own for own in of_notes], np.bool_)
        return list(compress(names, odd[kind] | noted if kind in odd else noted))

    kinds = [(kind, noted, images_of(kind)) for kind, noted in _NOTED.items()]
    for note, images in group_notes(names, notes).items():
        if kind_of(note) == NOTED:
            kinds.append((NOTED, _Noted(title_of(note), "Check whether they were read correctly."), images))
    return [
        _of_images(kind, noted.severity, images, noted.title, f"{shorten(images, 3)}. {noted.advice}")
        for kind, noted, images in kinds
        if images
    ]


def probe_findings(shortcuts: Shortcuts) -> list[Finding]:
    """Return a finding on the labels that the shortcut probe left out."""
    if not shortcuts.too_few:
        return []
    text = "; ".join(f"'{label}': {why}" for label, why in list(shortcuts.too_few.items())[:5])
    text += (
        f". The check can't say whether they can be predicted without the lungs with an AUROC of {NOTABLE:g} or more."
    )
    title = f"{plural(len(shortcuts.too_few), 'label')} too rare for the shortcut probe"
    return [Finding("not_probed", "note", title, text, len(shortcuts.too_few))]

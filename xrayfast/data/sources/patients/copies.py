"""Copies and views of one image, recognized by name."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection

from xrayfast.data.folder_words import AUGMENTED, ORIGINAL, split_words
from xrayfast.data.images.names import image_beside
from xrayfast.data.sources.identifiers import MOST_IN_STUDY
from xrayfast.data.sources.records import ImageRecords
from xrayfast.data.splits.words import parse_split
from xrayfast.errors import plural, shorten

_COPY = re.compile(
    r"(([-_. ]+(aug(mented)?|augmentation|[hv]?flip(ped)?|mirror(ed)?|rot(ated?|ation)?|noisy?|noise|shift(ed)?"
    r"|zoom(ed)?|bright(er|ness)?|dark(er)?|contrast"
    r"|invert(ed)?|gr[ae]y(scale)?|blur(red)?|copy|crop(ped)?|lungs?|left|right|roi|patch|clahe|enhanced)[-_. ]*\d*)+"
    r"|[-_. ]+(frontal|lateral|pa|ap|lat)|_(jpe?g|png)\.rf\.\w+"
    r"|\.(jpe?g|png|bmp|tiff?)_[0-9a-f]{8}(-[0-9a-f]{4,12}){4})$",
    re.IGNORECASE,
)
"""Endings of the names of augmented copies, crops and views; the last two are Roboflow's and Augmentor's."""

_WORD_OR_SIZE = re.compile(r"[^\W\d_]|^(128|224|256|299|320|384|512|1024)$")
"""Matches what is added to the name of an image if it does not only number the next one."""

_NO_DIGITS = str.maketrans("", "", "0123456789")

_NUMBERED_COPY = re.compile(r" ?\(\d+\)$")
"""The suffix that file managers add to copies. Without an unnumbered original, such files are different images."""

_AUGMENTOR = re.compile(r".*_original_(.+)\.(?:jpe?g|png|bmp|tiff?)_[0-9a-f]{8}(?:-[0-9a-f]{4,12}){4}", re.IGNORECASE)
"""Matches the name of a copy by Augmentor, which writes to the folder `output` in that of the originals."""


def group_copies(records: ImageRecords) -> None:
    """Group copies and views of one image, recognized by name, as a study if no studies are known, nor its patient."""
    patients = records.patients or [""] * len(records.names)
    if records.studies or all(patients):
        return
    stems = [os.path.splitext(name)[0].rpartition("/")[::2] for name in records.names]  # noqa: PTH122
    # Copies may be in folders of different splits, or in folders of their own.
    plain = {
        folder: "/".join(part for part in folder.split("/") if not (parse_split(part) or _is_of_copies(part)))
        for folder, _ in set(stems)
    }
    files = Counter(stems)  # one stem with two suffixes is one image
    original_of = _originals(files)
    originals = [original_of.get(pair, pair[1]) for pair in stems]
    keys = [_original_path(plain[folder], one) for one, (folder, _) in zip(originals, stems, strict=True)]
    sizes = Counter(keys)
    copies = {
        name: key
        for name, pair, key, patient in zip(records.names, stems, keys, patients, strict=True)
        if not patient
        and sizes[key] > 1
        and (
            pair in original_of
            or files[pair] > 1
            or _COPY.search(pair[1])
            or any(map(AUGMENTED.fullmatch, split_words(pair[0])))
        )
    }
    if not copies:
        return
    grouped = {*copies.values()}
    kept = [name for name, key in copies.items() if sizes[key] <= MOST_IN_STUDY]
    records.studies = [
        key if key in grouped and not patient else "" for key, patient in zip(keys, patients, strict=True)
    ]
    records.notes += [
        f"{plural(len(kept), 'image')} with the name of an augmented copy, a crop or another view of an image, "
        f"kept in the same split as that image: {shorten(kept, 3)}. If they are not radiographs, leave them out."
    ] * bool(kept)


def _originals(files: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Map files to the original in their folder, whose name they extend by a number in brackets, a word or a size."""
    found = dict[tuple[str, str], str]()
    paths = {f"{folder}/{stem}" for folder, stem in files}
    are_alike = len({stem.translate(_NO_DIGITS) for _, stem in files}) == 1  # but for numbers, as millions are
    for folder, stem in sorted(files, key=lambda pair: len(pair[1])):
        one = _NUMBERED_COPY.sub("", stem)
        if not are_alike:
            other, added = image_beside(f"{folder}/{stem}", paths)
            one = other.rpartition("/")[2] if _WORD_OR_SIZE.search(added) else one
        if one != stem and f"{folder}/{one}" in paths:
            found[folder, stem] = found.get((folder, one), one)
    return found


def _original_path(folder: str, name: str) -> str:
    """Return the path of the image that a copy was made from by its name, or else its own; names have no suffix.

    >>> _original_path("tb/output", "tb_original_1.png_5ad2f4e2-0f3c-4d6b-9a51-0123456789ab"), _original_path("tb", "2")
    ('tb/1', 'tb/2')
    """
    made = _AUGMENTOR.fullmatch(name)
    if not made:
        return f"{folder}/{_COPY.sub('', name)}"
    return f"{re.sub('(^|/)output$', '', folder)}/{made[1]}"


def _is_of_copies(folder: str) -> bool:
    """Whether a folder's name says that it holds augmented copies or their originals."""
    words = split_words(folder)
    return bool(words) and (any(map(AUGMENTED.fullmatch, words)) or all(map(ORIGINAL.fullmatch, words)))

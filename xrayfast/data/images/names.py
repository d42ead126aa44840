"""What the names of files and folders tell of an image, which is not decoded for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

from xrayfast.data.text_column import TextColumn

IMAGE_WORD = re.compile(
    r"(image|img|film|picture|photo|radiograph|xray|cxr|png|jpe?g|tiff?|bmp|dicom|dcm|file|fold|batch|chunk)s?"
)
"""Words for images in the name of a folder."""

_NOT_RADIOGRAPHS = re.compile(
    r"(.*masks?|msks?|.*segmentations?|segs?|segmented|.*overlays?|.*thumbnails?|thumbs?|.*heatmaps?|gradcams?|saliency"
    r"|saliencymaps?|labelmaps?|contours?|gts?|groundtruths?|annotat(ed|ions?)|bbox(es)?|labels?png"
    r"|previews?|icons?)"
)
"""Of a word: what is made from a radiograph, and has its name, label and folder, but shows something else."""

_PARTS_OF_DERIVED = (
    "msk", "mask", "seg", "overlay", "thumb", "heatmap", "cam", "saliency", "contour", "gt", "groundtruth",
    "annotat", "bbox", "label", "preview", "icon",
)  # fmt: skip
"""A part of each of them in lower case, which few names have."""

_MADE_FROM = re.compile(
    r"(.+?)[-_. ]+(small(er)?|tiny|mini|icon|preview|low[-_ ]?res|resized|scaled|downscaled|lbl|anno|depth|edges?)$",
    re.IGNORECASE,
)
"""Of a file's name without its suffix: that it is a smaller copy or a map of the image called like the first group."""

_VIEW = re.compile("front|lat|pa|ap")
"""A part of each word for a view, in lower case, likewise."""

_PARTS_OF_MADE = ("small", "tiny", "mini", "icon", "preview", "res", "scaled", "lbl", "anno", "depth", "edge")
"""A part of each of those words, likewise."""

_CHUNK = 1 << 12  # names that are looked at together for such parts: of ten million one by one takes minutes

_NO_LETTERS = bytes(set(range(256)) - {*b"abcdefghijklmnopqrstuvwxyz/\n"})

AUGMENTED = re.compile(r"aug(mented|mentations?)?|synthetic|generated|gans?|flipped|mirrored|rotated|noisy")
"""Words in the name of a folder of augmented or generated images."""

ORIGINAL = re.compile(r"originals?|orig|raw")
"""Of the name of a folder beside one of those."""

DERIVED = "mask, overlay, map or thumbnail by name"
"""Why files are left out that are no radiographs: see `is_derived`."""


def split_words(name: str) -> list[str]:
    """The words of a name in lower case, parted by other characters, changes of case, and digits.

    >>> split_words("leftMask_001"), split_words("MCUCXR-0001.png")
    (['left', 'mask'], ['mcucxr', 'png'])
    """
    return re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())


def is_derived(path: str) -> bool:
    """Whether a path, with '/', is that of a mask, an overlay, a map or a thumbnail and not of a radiograph.

    A folder's name counts, and the first or last word of a file's name without its suffix.

    >>> is_derived("COVID/masks/1.png"), is_derived("1_mask.png"), is_derived("masked-pneumonia/1.png")
    (True, True, False)
    """
    folders, _, name = path.rpartition("/")
    if _are_derived(folders):
        return True
    lower = name.lower()
    if not any(part in lower for part in _PARTS_OF_DERIVED):
        return False
    ends = split_words(name.rpartition(".")[0])
    return any(map(_NOT_RADIOGRAPHS.fullmatch, ends[:1] + ends[-1:]))


@lru_cache(maxsize=1 << 12)
def _are_derived(folders: str) -> bool:
    words = [word for folder in folders.split("/") for word in (*split_words(folder), "".join(split_words(folder)))]
    return any(map(_NOT_RADIOGRAPHS.fullmatch, words))


def folders_of(names: Iterable[str]) -> TextColumn:
    """The folders that images are in, by their names, paths with '/'; of which there are far fewer."""
    return TextColumn.of(name.rpartition("/")[0] for name in names)


def find_derived(paths: Sequence[str]) -> set[str]:
    """Those of the paths that `is_derived`, and smaller copies and maps of an image beside them.

    None where all are, as then their names tell nothing.
    """
    likely = list(_likely_derived(paths))
    found = set(filter(is_derived, likely))
    if made := {path: match[1] for path in likely if (match := _MADE_FROM.match(path.rpartition(".")[0]))}:
        known = {path.rpartition(".")[0] for path in paths}
        found |= {path for path, stem in made.items() if stem in known}
    return found if found and len(found) < len(set(paths)) else set()


def _likely_derived(paths: Sequence[str]) -> Iterator[str]:
    """The paths in parts of the list where some letters, side by side but for other signs, are a part of such words."""
    parts = [part.encode() for part in (*_PARTS_OF_DERIVED, *_PARTS_OF_MADE)]
    for start in range(0, len(paths), _CHUNK):
        some = paths[start : start + _CHUNK]
        # Without numbers most names are alike.
        letters = {*"\n".join(some).lower().encode(errors="replace").translate(None, _NO_LETTERS).split(b"\n")}
        text = b"\n".join(letters)
        if any(part in text for part in parts):
            yield from some


def view_in_name(path: str) -> Literal["frontal", "lateral", ""]:
    """The kind of view that a word in a path, with '/', tells; "" for none. "pa", "ap" and "lat" count alone as a
    folder or at the end of the file's name: elsewhere they may be anything.

    >>> view_in_name("patient1/study1/view1_frontal.jpg"), view_in_name("lateral/1.png"), view_in_name("pat_12.png")
    ('frontal', 'lateral', '')
    """
    if not _VIEW.search(path.lower()):
        return ""
    *folders, file = path.split("/")
    *above, words = [split_words(part) for part in (*folders, os.path.splitext(file)[0])]  # noqa: PTH122 - a Path is slow
    alone = {word for folder in above if len(folder) == 1 for word in folder} | {*words[-1:]}
    told = {"frontal", "lateral"} & {*words}.union(*above) | {"pa", "ap", "lat"} & alone
    if told & {"lateral", "lat"}:
        return "lateral"
    return "frontal" if told else ""

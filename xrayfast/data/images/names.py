"""What the names of files and folders say about an image, without decoding it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from xrayfast.data.folder_words import IMAGE_WORD, split_words
from xrayfast.data.text_column import TextColumn

_NOT_RADIOGRAPHS = re.compile(
    r"(.*masks?|msks?|.*segmentations?|segs?|segmented|.*overlays?|.*thumbnails?|thumbs?|.*heatmaps?|gradcams?|saliency"
    r"|saliencymaps?|labelmaps?|contours?|gts?|groundtruths?|annotat(ed|ions?)|bbox(es)?|labels?(png|t[rs])"
    r"|previews?|icons?)"
)
"""Words for images that are made from a radiograph and share its name, label and folder, but show something else."""

_PARTS_OF_DERIVED = (
    "msk", "mask", "seg", "overlay", "thumb", "heatmap", "cam", "saliency", "contour", "gt", "groundtruth",
    "annotat", "bbox", "label", "preview", "icon",
)  # fmt: skip
"""Each word of `_NOT_RADIOGRAPHS` has one of these in it; few other names do."""

_MADE_FOLDER = re.compile(
    r"pred(s|icted|ictions?)?|prob(s|ability|abilities)?|outputs?|results?|vis(ual(i[sz]ed|i[sz]ations?))?|viz|cams?"
    r"|attention|landmarks?|labels?|lbls?|annos?|annots?|box(es)?|boundingbox(es)?|shap|lime|colou?rmaps?|scribbles?"
    r"|(eye)?gaze|(attention|probability|feature|depth)maps?"
)
"""A word of a folder's or file's name which says that the image was made from that of the same name without it."""

_MADE_FROM = re.compile(
    rf"{_MADE_FOLDER.pattern}|{_NOT_RADIOGRAPHS.pattern}|small(er)?|tiny|mini|lowres|resized|scaled|downscaled|depth"
    r"|edges?|tn|colou?r(ed|i[sz]ed)?|jet|marked|markup|diff(erence)?|binary|binari[sz]ed|infection"
)
"""A word which, added to the name of an image, makes it that of a map or a smaller copy of the image."""

_PARTS_OF_MADE = (
    "pred", "prob", "output", "result", "vis", "viz", "attention", "landmark", "lbl", "anno", "box", "shap", "lime",
    "colo", "scribble", "gaze", "map", "small", "tiny", "mini", "res", "scaled", "depth", "edge", "tn", "jet", "mark",
    "diff", "binar", "infection",
)  # fmt: skip
"""Each word of `_MADE_FROM` has one of these or of `_PARTS_OF_DERIVED` in it."""

_SIGNS = re.compile(r"[-_. @+]+")

_VIEW = re.compile("front|lat|pa|ap")
"""Each word for a view has one of these in it."""

_CHUNK = 1 << 12  # names that are searched together: searching ten million one by one takes minutes

_NO_LETTERS = bytes(set(range(256)) - {*b"abcdefghijklmnopqrstuvwxyz/\n"})

DERIVED = "mask, overlay, map or thumbnail by name"
"""The reason for leaving out the files that `find_derived` finds."""


def is_derived(path: str) -> bool:
    """Whether a path, with '/', is that of a mask, overlay, map or thumbnail and not of a radiograph.

    The names of folders count, and the first and last word of the file's name without its suffix.

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
    """Return the folders that images are in, as a column; `names` are paths with '/'."""
    return TextColumn.of(name.rpartition("/")[0] for name in names)


def find_derived(paths: Sequence[str]) -> set[str]:
    """Return the paths for which `is_derived` is true, and those of smaller copies and maps of an image in `paths`.

    If that is all of them, the folders inside the outermost one that says so count; if it is then still all, return
    none, because their names say nothing.
    """
    likely = list(_likely_derived(paths))
    found = set(filter(is_derived, likely))
    if made := [path for path in likely if _has_word(_MADE_FROM, path.rpartition("/")[2])]:
        stems = {path.rpartition(".")[0] for path in paths}
        found |= {path for path in made if _has_word(_MADE_FROM, image_beside(path.rpartition(".")[0], stems)[1])}
    if inside := [path for path in likely if any(map(_is_of_made, path.split("/")[:-1]))]:
        others = set(paths).difference(inside)
        plain = {_without(path, IMAGE_WORD) for path in others}
        found |= {path for path in inside if _without(path, _MADE_FOLDER) in plain}
        found |= _in_folders_of_all(inside, others)
    if not found or len(found) < len(set(paths)):
        return found
    inner = {path: _below_derived(path) for path in paths}
    if "" in inner.values():
        return set()
    below = find_derived(list(inner.values()))
    return {path for path in paths if inner[path] in below}


def _below_derived(path: str) -> str:
    """Return the part of a path inside its outermost folder of masks, maps or the like; "" if there is none."""
    parts = path.split("/")
    return next(("/".join(parts[i + 1 :]) for i, part in enumerate(parts[:-1]) if _are_derived(part)), "")


def _in_folders_of_all(inside: Collection[str], others: Collection[str]) -> set[str]:
    """Return the paths in folders of maps of which each file is called like an image of another folder."""
    stems = {path.rpartition("/")[2].rpartition(".")[0] for path in others} - {""}  # of a folder itself
    of_folder = dict[str, list[str]]()
    for path in inside:
        of_folder.setdefault(path.rpartition("/")[0], []).append(path)
    return {
        path
        for files in of_folder.values()
        if all(path.rpartition("/")[2].rpartition(".")[0] in stems for path in files)
        for path in files
    }


def image_beside(stem: str, stems: Collection[str]) -> tuple[str, str]:
    """Return the image in the same folder whose name this one extends, and what it adds to it; empty texts for none.

    All are paths without suffixes. What is added stands before or behind the name, with a sign between.

    >>> image_beside("a/1_mask_left", {"a/1", "b/1_mask"}), image_beside("a/tn-1", {"a/1"}), image_beside("1_2", {"3"})
    (('a/1', 'mask_left'), ('a/1', 'tn'), ('', ''))
    """
    start = stem.rfind("/") + 1
    folder, name = stem[:start], stem[start:]
    for sign in reversed(list(_SIGNS.finditer(name))):
        for other, added in ((name[: sign.start()], name[sign.end() :]), (name[sign.end() :], name[: sign.start()])):
            if other and added and folder + other in stems:
                return folder + other, added
    return "", ""


def _has_word(pattern: re.Pattern[str], text: str) -> bool:
    return any(map(pattern.fullmatch, _words_and_pairs(text)))


def _words_and_pairs(text: str) -> list[str]:
    """Return the words of a text, and each two neighbors as one: "lowres" beside "low" and "res"."""
    words = split_words(text)
    return [*words, *map("".join, pairwise(words))]


@lru_cache(maxsize=1 << 12)
def _is_of_made(folder: str) -> bool:
    """Whether all words of a folder's name say that it holds images, and one that they were made from others."""
    made = list(filter(_MADE_FOLDER.fullmatch, _words_and_pairs(folder)))
    words = split_words(folder)
    return bool(made) and all(IMAGE_WORD.fullmatch(word) or any(word in one for one in made) for word in words)


def _without(path: str, pattern: re.Pattern[str]) -> str:
    """Return the path without its suffix, and without folders whose name has a word for images or of the pattern."""
    *folders, name = path.split("/")
    kept = [folder for folder in folders if not (_has_word(pattern, folder) or _has_word(IMAGE_WORD, folder))]
    return "/".join([*kept, name.rpartition(".")[0]])


def _likely_derived(paths: Sequence[str]) -> Iterator[str]:
    """Yield the paths of each chunk in which a name, without digits and signs, has a part of such words."""
    parts = [part.encode() for part in (*_PARTS_OF_DERIVED, *_PARTS_OF_MADE)]
    for start in range(0, len(paths), _CHUNK):
        some = paths[start : start + _CHUNK]
        # Without digits, most names are equal.
        letters = {*"\n".join(some).lower().encode(errors="replace").translate(None, _NO_LETTERS).split(b"\n")}
        text = b"\n".join(letters)
        if any(part in text for part in parts):
            yield from some


def view_in_name(path: str) -> Literal["frontal", "lateral", ""]:
    """Return the kind of view that a path, with '/', names; "" if it names none.

    "frontal" and "lateral" count anywhere; "pa", "ap" and "lat" only as the whole name of a folder or the last word of
    the file's name, because in other places they may mean anything.

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

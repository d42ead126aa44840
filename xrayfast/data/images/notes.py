"""Notes on an image's contents, and which notes of the reader deserve attention."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import sub

import numpy as np
import numpy.typing as npt

from xrayfast.data.images.radiograph import Pixels
from xrayfast.errors import plural, shorten

_SAMPLED = 64  # rows and columns
_RUN = 16  # neighbouring pixels
_CONSTANT, _FLAT, _DARK, _BRIGHT = 2.55, 64, 64, 191  # gray levels of 0..255
_NOISE = 0.8
_FEW_SHADES = 8
_SHADE = 8  # gray levels that one shade may differ by
_AT_SHADE, _OF_SHADES = (
    0.7,
    0.95,
)  # shares of a shade's pixels that are nearly equal, and of all pixels that are of shades
_LEAST_PIXELS = 16  # of a shade
_CHROMA = 48  # least difference between the channels of a coloured pixel
_COLOURED_SHARE = 0.02
_MARKED_ROWS = 3  # of 32, with a coloured pixel
_ONE_HUE = 0.975  # mean resultant length of hues, above which they are a tint

_LEAST_SIDE = 48  # pixels of an image in which areas are looked at
_DOUBLE = (1.6, 3.2)  # longer to shorter side of two chest radiographs in one image
_BLACK, _BLACK_SHARE = 12, 0.95  # gray level, and share of the pixels of a black half
_BRIGHT_BORDER, _BRIGHTER = 140, 10  # gray levels, the latter of the lungs over the middle of an inverted image

_SMOOTH, _PARTLY_SMOOTH, _EDGED = 0.18, 0.4, 0.9
_STILL, _STILL_BESIDE_EDGES, _OF_TWO_PEAKS = 0.5, 0.35, 0.8
"""Bends over steps, shares of equal neighbours, and of pixels at the two commonest levels: see `_describe_texture`."""

_ROUTINE = re.compile(
    r"\d+ bits stored|(full|percentile) range|window \S+ [A-Z_]+$|VOI LUT \d+$|modality LUT|rescaled by|pixel padding|"
    r"MONOCHROME1 inverted|WhiteIsZero inverted|\d+-bit scaled from|16-bit channels|(mode )?\S+( COLOR)? converted to "
    r"gray|pydicom: "
)
"""How notes begin on steps that many sound files need; only `xrayfast check` and `predict` give these."""

NO_RADIOGRAPH = "no radiograph, by its header"
"""The note on DICOM images that are masks or the like."""

TWO_SHADES, FEW_SHADES, COLOUR_CODED = "of two shades", "of # shades", "colour-coded"
"""The notes on images that are black and white alone, on those of 3 to 8 shades (see `generalize_note`), and on those
that consist of several strong colours.
"""

TOO_SMOOTH, PLAIN_AREAS = "smooth, as blurred masks and maps are", "of plain areas with edges, as label maps are"
"""The notes on images that may be no radiographs, by their texture."""

COLOURED_MARKS = "coloured lines or marks converted to gray"
"""The note on gray images with a little colour, as a contour or text has."""

_REPEATED, _OUT_OF_LINE, _LINES = 0.985, 1.25, 4
_SINGLE, _STANDS_OUT = 0.006, 40
_STEEP, _OF_NOISE, _LEAST_SPREAD = 6, 0.85, 30
_FINE, _FINE_ON_PLAIN, _PLAIN = 0.3, 0.62, (48, 207)
_FEW_LEVELS, _BANDS, _MARGIN = 40, 10, 0.25
"""Bounds of damage and of edge maps: see `_describe_damage`."""

_REASONS = {
    NO_RADIOGRAPH: "DICOM objects that are no radiographs, by their header",
    TWO_SHADES: f"{TWO_SHADES}, as masks are",
    FEW_SHADES: "of few shades, as label maps are",
    COLOUR_CODED: f"{COLOUR_CODED}, as maps and overlays are",
}
"""Why images are left out that are no radiographs, by the note on them."""

_OTHER_OBJECT = re.compile(r": found a DICOM object (of another kind|with no pixel data) \((?!of unknown class)")


def describe_contents(pixels: Pixels) -> list[str]:
    """Notes on an image (H, W) in which little or nothing can be seen, judged by some thousands of its pixels.

    Most images are settled by fewer than a hundred, in 0.005 ms: small ones are read in 0.2 ms.
    """
    height, width = pixels.shape
    # One step of this length along all rows meets columns evenly.
    few = sorted(pixels.reshape(-1)[:: height // _SAMPLED * width + (width * 3) // 8 + 1].tobytes())
    low, high = few[len(few) // 20], few[-1 - len(few) // 20]
    if high - low < 1.25 * _FLAT or 2 * len(set(few)) <= len(few):
        sample = pixels[:: -(-height // _SAMPLED), :: -(-width // _SAMPLED)]
        # Before contrast: the values of label maps may be 0, 1 and 2.
        if _count_shades(sample) and (shades := _count_shades(pixels)) > 1:
            return [TWO_SHADES if shades == 2 else FEW_SHADES.replace("#", str(shades))]
        counted = np.bincount(sample.ravel()).cumsum()
        low, high = counted.searchsorted((0.05 * sample.size, 0.95 * sample.size)).tolist()
        if high - low < _FLAT:
            return _describe_flat(pixels, sample, low, high)
    if _is_noise(pixels, high - low):
        return ["neighbouring pixels differ as in noise"]
    return _describe_texture(pixels) or _describe_damage(pixels) + _describe_areas(pixels, few)


def _describe_texture(pixels: Pixels) -> list[str]:
    """A note on an image without the texture of a radiograph, at a scale of 64 pixels for the shorter side.

    There a step from pixel to pixel bends by so much of its size on average: 0.48 to 0.81 in 7,800 radiographs of two
    public collections, 0.34 and more where they were scaled down to 64 pixels; below 0.16 in gradients, heat maps and
    distance maps, where rounding is no bend, and 0.9 and more in label maps.
    """
    side = min(pixels.shape)
    if side < _LEAST_SIDE:
        return []
    every = max(1, round(side / _SAMPLED))
    sample = pixels[every // 2 :: every, every // 2 :: every]
    line = sample[len(sample) // 2].tobytes()
    steps = list(map(sub, line, line[1:]))
    bent, stepped = sum(abs(a - b) for a, b in pairwise(steps)), 2 * sum(map(abs, steps))
    few_still = steps.count(0) < _STILL_BESIDE_EDGES * len(line)
    if few_still and 1.25 * _PARTLY_SMOOTH * stepped < bent < 0.9 * _EDGED * stepped:
        return []  # mostly
    bend = _bend([sample, sample.T])
    still = float((sample[:, 1:] == sample[:, :-1]).mean())
    if bend > _EDGED and still > _STILL_BESIDE_EDGES:
        return [PLAIN_AREAS]
    counts = np.bincount(sample.ravel(), minlength=256 + 2)
    near = counts[:-2] + counts[1:-1] + counts[2:]
    peak = int(near.argmax())
    others = np.concatenate([near[: max(0, peak - _SHADE)], near[peak + _SHADE :]])
    of_two = int(near[peak] + others.max(initial=0)) > _OF_TWO_PEAKS * sample.size
    if bend < _SMOOTH or (bend < _PARTLY_SMOOTH and still > _STILL) or of_two:
        return [TOO_SMOOTH]
    return []


def _bend(lines: Sequence[Pixels]) -> float:
    """How much steps along rows bend, less what rounding makes, over the size of the steps; 0.5 without any step."""
    bent = stepped = 0
    for rows in lines:
        steps = np.diff(rows.astype(np.int16), axis=1)
        bent += int(np.maximum(np.abs(np.diff(steps, axis=1)) - 1, 0).sum())
        stepped += int(np.abs(steps[:, 1:]).sum() + np.abs(steps[:, :-1]).sum())
    return bent / stepped if stepped else 0.5


def _describe_damage(pixels: Pixels) -> list[str]:
    """Notes on an image that is damaged, repeated or an edge map, judged by 64 x 64 pixels and their neighbours.

    None of 7,818 radiographs of three public collections has one. In these, and in the bounds: gray levels are 84 and
    more (40); 0.2 % of the pixels at most are 40 gray levels over or under all of their neighbours (0.6 %); two rows
    side by side differ 0.84 times as much as the next but one (1.25); two halves correlate by 0.96 (0.985); in no
    strip neighbours differ as much as 0.18 of what unrelated pixels do (0.85); one line in 128 is unlike both beside it
    (4); and 0.56 of the variance and more is between blocks of 4 x 4 of the pixels (0.3; 0.62 on black or white, where
    it is 0.69).
    """
    height, width = pixels.shape
    if min(height, width) < _LEAST_SIDE:
        return []
    centre, *beside = pixels.ravel().take(_places(height, width)).astype(np.int16)
    up, down, left, right = beside
    steps = [np.abs(centre - other) for other in beside]
    notes = []
    if steps[0].mean() > _STEEP and (_has_noisy_strip(centre, up, left) or _has_noisy_strip(centre.T, left.T, up.T)):
        notes.append("neighbouring pixels differ as in noise, in a part of the image")
    elif _count_single(centre, beside) > _SINGLE * centre.size:
        notes.append("single pixels unlike all of their neighbours, as salt and pepper")
    elif (
        float((steps[0] + steps[1]).mean()) > 2 * _OUT_OF_LINE * max(float(np.abs(up - down).mean()), 0.5)
        or float((steps[2] + steps[3]).mean()) > 2 * _OUT_OF_LINE * max(float(np.abs(left - right).mean()), 0.5)
        or max(_count_lines(pixels), _count_lines(pixels.T)) >= _LINES
    ):
        notes.append("rows or columns unlike those beside them, as where lines are lost, shifted or drawn")
    else:
        blocks = centre.reshape(_SAMPLED // 4, 4, -1, 4).mean(axis=(1, 3))
        between = float(blocks.var() / max(centre.var(), 1))
        if between < _FINE or (between < _FINE_ON_PLAIN and not _PLAIN[0] < np.median(centre) < _PLAIN[1]):
            notes.append("fine detail without bright and dark areas, as edge maps are")
    rows, columns = _alike_share(pixels), _alike_share(pixels.T)
    if share := max(rows, columns):
        notes.append(f"{share:.0%} of the {'rows' if rows >= columns else 'columns'} alike, as where data are missing")
    halves = (("left and right", pixels), ("upper and lower", pixels.T))
    if same := [which for which, lines in halves if _are_halves_alike(lines)]:
        notes.append(f"{' and '.join(same)} halves the same, as of one image repeated")
    if not notes and np.count_nonzero(np.bincount(centre.ravel())) <= _FEW_LEVELS:
        levels = int(np.count_nonzero(np.bincount(pixels.ravel())))
        notes += [f"{levels} gray levels alone, as where bits are lost"] * (levels <= _FEW_LEVELS)
    return notes


@lru_cache(maxsize=64)
def _places(height: int, width: int) -> npt.NDArray[np.intp]:
    """(5, 64, 64) places in an image's pixels, row by row: of some, of those above, below, left and right of them."""
    rows, columns = (np.linspace(1, side - 2, _SAMPLED).round().astype(np.intp) for side in (height, width))
    beside = np.array([0, -width, width, -1, 1], np.intp)
    places: npt.NDArray[np.intp] = rows[:, None] * width + columns + beside[:, None, None]
    return places


def _count_single(centre: Pixels, beside: Sequence[Pixels]) -> int:
    """How many pixels are far brighter or darker than all of those beside them."""
    above, below = centre - np.maximum.reduce(beside), np.minimum.reduce(beside) - centre
    return int(np.count_nonzero(np.maximum(above, below) > _STANDS_OUT))


def _count_lines(pixels: Pixels) -> int:
    """How many of up to 128 rows in the middle are on average far brighter or darker than both beside them."""
    height, width = pixels.shape
    means = pixels[max(0, height // 2 - 64) : height // 2 + 64, :: width // 48].mean(axis=1)
    steps = np.diff(means)
    return int(np.count_nonzero((steps[1:] * steps[:-1] < 0) & (np.abs(steps[1:]) > 20) & (np.abs(steps[:-1]) > 20)))


def _has_noisy_strip(centre: Pixels, up: Pixels, left: Pixels) -> bool:
    """Whether in a quarter of the rows neighbours in both directions differ nearly as unrelated pixels do."""
    steps = [(centre - other).reshape(4, -1) for other in (up, left)]
    unlike = np.minimum(*(np.square(step, dtype=np.float32).mean(axis=1) for step in steps))
    return bool((unlike > _OF_NOISE * 2 * (centre.reshape(4, -1).var(axis=1) + _LEAST_SPREAD)).any())


def _alike_share(pixels: Pixels) -> float:
    """The share of rows in the largest band of equal ones; 0 for less than a tenth, for black and white ones, and for a
    plain margin of less than a quarter.
    """
    height, width = pixels.shape
    found, column = 0.0, pixels[:, width // 2].tobytes()
    for band in re.finditer(rb"(.)\1{%d,}" % (height // _BANDS), column, re.DOTALL):
        rows, share = pixels[slice(*band.span())], len(band[0]) / height
        low, high = int(rows[0].min()), int(rows[0].max())
        is_margin = low == high and (band.start() == 0 or band.end() == height)
        if high > _BLACK and low < 255 - _BLACK and (rows == rows[0]).all() and share > _MARGIN * is_margin:
            found = max(found, share)
    return found


def _are_halves_alike(pixels: Pixels) -> bool:
    """Whether the left half is the right one, by what differs along rows: a ramp down the image has no such."""
    height, width = pixels.shape
    half = width - width // 2
    line = pixels[height // 2].tobytes()
    every = max(1, width // 32)
    if sum(abs(a - b) for a, b in zip(line[::every], line[half::every], strict=False)) > 256:
        return False  # the usual case: 16 pixels differ by more than 16 gray levels
    rows = np.linspace(1, height - 2, _LEAST_SIDE).round().astype(np.intp)
    columns = np.linspace(2, width // 2 - 3, _LEAST_SIDE).round().astype(np.intp)
    one, two = (pixels[np.ix_(rows, columns + start)].astype(np.float32) for start in (0, half))
    one, two = (values - values.mean(axis=1, keepdims=True) for values in (one, two))
    size = max(_LEAST_SPREAD * one.size, float(np.sqrt(np.square(one).sum() * np.square(two).sum())))
    return bool((one * two).sum() > _REPEATED * size)


def _describe_areas(pixels: Pixels, few: Sequence[int]) -> list[str]:
    """Notes on an image that looks like two in one, half of which is black or white, or that looks inverted.

    `few` are some of its pixels, sorted. Of 7,800 radiographs of two public collections one each is like two in one and
    half black, none is half white, and 9 look inverted, which lie on their side or are overexposed; of the same
    radiographs inverted, a third to a half have that note.
    """
    height, width = pixels.shape
    if min(height, width) < _LEAST_SIDE:
        return []
    notes = []
    if _DOUBLE[0] < max(height, width) / min(height, width) < _DOUBLE[1]:
        notes.append(f"{width} x {height} pixels, as of two images in one")
    if _is_inverted(pixels):
        notes.append("may be inverted: white around the body, and the lungs brighter than the middle")
    if bisect_right(few, _BLACK) > 0.4 * len(few):
        notes += _describe_halves(pixels, "black")
    if bisect_left(few, 255 - _BLACK) < 0.6 * len(few):
        notes += _describe_halves(255 - pixels, "white")
    return notes


def _describe_halves(pixels: Pixels, shade: str) -> list[str]:
    height, width = pixels.shape
    halves = {
        ("left", "right"): (pixels[:, : width // 2], pixels[:, width // 2 :]),
        ("upper", "lower"): (pixels[: height // 2], pixels[height // 2 :]),
    }
    notes = []
    for sides, two in halves.items():
        shares = [float((half[::4, ::4] <= _BLACK).mean()) for half in two]
        if max(shares) > _BLACK_SHARE and min(shares) < 0.5:
            notes.append(f"{sides[shares[0] < shares[1]]} half {shade}")
    return notes


def _is_inverted(pixels: Pixels) -> bool:
    """Whether most of the border is bright, and the lungs, at the left and right, are brighter than the middle."""
    height, width = pixels.shape
    columns = [int(share * width) for share in (0.26, 0.5, 0.73, 0.01, 0.99)]
    sums = [sum(pixels.item(height * row // 10, column) for row in (3, 4, 5, 6)) for column in columns]
    if sums[0] + sums[2] <= 2 * sums[1] or max(sums[3:]) <= 2 * _BRIGHT_BORDER:
        return False  # the usual case
    places = (np.linspace(0, side - 1, _SAMPLED).round().astype(np.intp) for side in pixels.shape)
    sample = pixels[np.ix_(*places)].astype(np.float64)
    lungs = (sample[16:44, 10:24].mean() + sample[16:44, 40:54].mean()) / 2
    border = np.median(np.hstack((sample[:, :3], sample[:, -3:])))
    return bool(border > _BRIGHT_BORDER and lungs > sample[16:48, 28:36].mean() + _BRIGHTER)


def describe_colours(rgb: bytes) -> list[str]:
    """Notes on the colours of some of an image's pixels, three bytes each.

    What JPEG makes of gray, and a slight tint, need none.
    """
    red, green, blue = rgb[::3], rgb[1::3], rgb[2::3]
    if red == green == blue:  # the usual case
        return []
    channels = np.frombuffer(rgb, np.uint8).reshape(-1, 3).astype(np.float64)
    coloured = channels[np.ptp(channels, axis=1) > _CHROMA]
    share = len(coloured) / len(channels)
    if share < _COLOURED_SHARE:
        return []
    hues = coloured @ np.exp(2j * np.pi / 3 * np.arange(3))
    if share > 0.5 and abs((hues / np.abs(hues)).mean()) < _ONE_HUE:
        return [COLOUR_CODED]
    return [f"colour on {share:.0%} of the area converted to gray"]


def has_coloured_marks(rgb: bytes, width: int) -> bool:
    """Whether some pixels in several of an image's rows are strongly coloured, as thin lines are; three bytes each."""
    if rgb[::3] == rgb[1::3] == rgb[2::3]:
        return False
    channels = np.frombuffer(rgb, np.uint8).reshape(-1, width, 3)
    coloured = (channels.max(axis=2) - channels.min(axis=2)) > _CHROMA
    return int(np.count_nonzero(coloured.any(axis=1))) >= _MARKED_ROWS


def find_other_images(notes: Mapping[str, Sequence[str]], problems: Mapping[str, str]) -> dict[str, str]:
    """The reasons to leave out images that are no radiographs by header or content, by name; none where all are such.

    Args:
        notes: of the images, by name.
        problems: why others can't be read, by name; among them are DICOM objects without an image.
    """
    kinds = {name: map(generalize_note, own) for name, own in notes.items()}
    found = {name: _REASONS[kind] for name, own in kinds.items() for kind in own if kind in _REASONS}
    found |= {name: _REASONS[NO_RADIOGRAPH] for name, problem in problems.items() if is_other_object(problem)}
    return found if len(found) < len(notes) + len(problems) else {}


def is_other_object(problem: str) -> bool:
    """Whether a file can't be read because it is a sound DICOM object without an image, such as a report."""
    return bool(_OTHER_OBJECT.search(problem))


def _count_shades(pixels: Pixels) -> int:
    """How many shades the pixels are of, as in masks and label maps; 0 where these are more than a few.

    Scaling and JPEG make a few others of each, most of them close to it, and some between.
    """
    counts = np.bincount(pixels.ravel(), minlength=256)
    shades = int(np.count_nonzero(counts))
    if shades <= _FEW_SHADES:
        return shades if np.count_nonzero(counts >= _LEAST_PIXELS) > 1 else 1
    left = pixels.size
    for shade in range(1, _FEW_SHADES + 1):
        level = int(counts.argmax())
        near = counts[max(0, level - _SHADE) : level + _SHADE + 1]
        own = near.sum()
        if counts[max(0, level - 1) : level + 2].sum() < _AT_SHADE * own:
            return 0
        near[:] = 0
        left -= own
        if left < (1 - _OF_SHADES) * pixels.size:
            return shade
    return 0


def _describe_flat(pixels: Pixels, sample: Pixels, low: int, high: int) -> list[str]:
    """Notes on an image of little contrast; `low` and `high` are the 5 and 95 percentiles of a sample."""
    if sample.std() < _CONSTANT:
        return ["of one shade" if pixels.min() == pixels.max() else "nearly of one shade"]
    notes = ["nearly black"] if high < _DARK else ["nearly white"] if low > _BRIGHT else []
    return [*notes, "nearly without contrast"]


def _is_noise(pixels: Pixels, spread: int) -> bool:
    """Whether neighbours in rows, or in columns, differ as much as any two pixels do.

    Of two independent pixels the mean squared difference is twice the variance.
    """
    height, width = pixels.shape
    run = pixels[height // 2, width // 2 : width // 2 + _RUN].tobytes()
    down = pixels[height // 2 : height // 2 + _RUN, width // 2].tobytes()
    if 2 * max(max(run) - min(run), max(down) - min(down)) < spread:
        return False  # the usual case: 16 pixels of noise have nearly the whole spread
    if 5 * max(sum(map(abs, map(sub, run, run[1:]))), sum(map(abs, map(sub, down, down[1:])))) < _RUN * spread:
        return False  # the usual case: in noise these steps are a third of the spread
    rows, columns = pixels[:: -(-height // _SAMPLED)], pixels[:, :: -(-width // _SAMPLED)]
    return min(height, width) >= _RUN and any(
        float(np.square(np.diff(values.astype(np.float32), axis=axis)).mean()) > 2 * _NOISE * rows.var()
        for values, axis in ((rows, 1), (columns, 0))
    )


def needs_attention(note: str) -> bool:
    """Whether a note tells of more than a routine step."""
    return not _ROUTINE.match(note)


def group_notes(names: Sequence[str], notes: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """The images with each kind of note that needs attention, the commonest kind first.

    Args:
        names: of N images.
        notes: of each.

    Returns:
        Names by the first note of the kind; notes of one kind differ in their numbers.
    """
    groups: dict[str, tuple[str, list[str]]] = {}
    for name, own in zip(names, notes, strict=True):
        for kind, note in {generalize_note(note): note for note in own if needs_attention(note)}.items():
            groups.setdefault(kind, (note, []))[1].append(name)
    return dict(sorted(groups.values(), key=lambda group: -len(group[1])))


def describe_notes(names: Sequence[str], notes: Iterable[Sequence[str]]) -> list[str]:
    """`group_notes` as sentences.

    >>> describe_notes(["a.png", "b.png"], [["nearly black"], ["nearly black", "12 bits stored"]])
    ['2 images read with the note "nearly black": a.png, b.png.']
    """
    groups = group_notes(names, notes).items()
    return [f'{plural(len(own), "image")} read with the note "{note}": {shorten(own, 3)}.' for note, own in groups]


def generalize_note(note: str) -> str:
    """A note with its numbers replaced by "#", so that it is the same for many images."""
    return re.sub(r"-?\d+(\.\d+)?", "#", note)

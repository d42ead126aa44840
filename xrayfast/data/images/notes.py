"""All notes on reading an image: what they say, what `check` makes of them, and how a stored note is recognized."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from string import Formatter

from xrayfast.errors import plural, shorten

ROUTINE, NOTED = "routine", "noted"
"""The kinds of notes on steps that many sound files need, which only `xrayfast check` and `predict` show; and of notes
that `check` lists by their text."""


class Note(Enum):
    """A note: its text, under which kind `check` lists it (see `audit.findings`), and whether it is routine even so.

    Call it with the values in its text. Text in files is for people; programs read it with `recognize` alone.
    """

    # {:...} stands for a number, {} for one word or number, {!s} for any text. The first row that fits a text counts.

    # How stored values became gray levels
    BITS_STORED = "{} bits stored", ROUTINE
    RANGE = "{} range {:g}..{:g}", ROUTINE
    FULL_FOR_WINDOW = "full range {:g}..{:g} for {!s}", ROUTINE
    WINDOW = "window {:g}/{:g} {}", ROUTINE
    VOI_LUT = "VOI LUT {}", ROUTINE
    MODALITY_LUT = "modality LUT", ROUTINE  # above MODALITY, which fits it too
    RESCALED = "rescaled by {:g} and {:+g}", ROUTINE
    PADDING = "pixel padding set to black", ROUTINE
    MONOCHROME1 = "MONOCHROME1 inverted", "inverted", True
    WHITE_IS_ZERO = "WhiteIsZero inverted", "inverted", True
    SCALED = "{}-bit scaled from 0..{:g}", ROUTINE
    HIGH_BITS = "16-bit channels: only the high 8 bits are used", ROUTINE
    MODE = "mode {} converted to gray", ROUTINE
    COLOR = "{} converted to gray", ROUTINE
    PALETTE = "PALETTE COLOR converted to gray", ROUTINE
    PYDICOM = "pydicom: {!s} on header values", ROUTINE
    PILLOW = "Pillow: {!s}"
    OTHER_SUFFIX = "{} in a file named {}"
    OTHER_SIGN = "values are evidently {}, although the header says {}"
    MORE_BITS = "values use {} bits, although the header says {}"
    HIGH_BITS_IGNORED = "bits above the lowest {} ignored"
    MORE_BYTES = "{} bytes after the last pixel ignored"
    SURROUND = "area of constant value {:g} around the image set to black"
    OFFSET = "offset of {} subtracted"
    MINIMUM = "minimum {:g} set to black"
    BELOW = "values below {:g} set to black"
    ABOVE = "values above {:g} (up to {:g}) set to white"
    MANY_PADDINGS = "{} different values, which the header declares as padding, set to black"
    PADDING_INSIDE = "single pixels inside the image set to black, because the header declares their value as padding"
    SHAPE_INVERTED = "{} inverted, because its Presentation LUT Shape is {}", "inverted"
    SHAPE_NOT_INVERTED = "{} not inverted, because its Presentation LUT Shape is {}"
    UNKNOWN_SHAPE = "unknown Presentation LUT Shape ignored"
    PRESENTATION_LUT = "Presentation LUT ignored"
    UNKNOWN_FUNCTION = "unknown VOI LUT Function treated as LINEAR"
    INVALID_WINDOW = "window without a valid width ignored"
    WINDOW_SATURATES = "the window makes {:.0%} of the pixels black or white", "saturated"
    WINDOW_BLANKS = "{!s} ignored, because it makes {:.0%} of the image black or white", "window_ignored"
    WINDOW_FLATTENS = "{!s} ignored, because it leaves only {} gray levels", "window_ignored"
    ENLARGED = "only {} x {} pixels, enlarged for the network"
    RESAMPLED = "pixels of {:.3g}:1 resampled to square ones"
    NOT_RESAMPLED = "pixels of {:.3g}:1 not resampled"
    NOT_SQUARE = "pixels are not square according to the header, but were not resampled"
    EXIF = "EXIF orientation applied", "turned"
    GAMMA = "gamma of {:.3g} in the file not applied"
    FIRST_FRAME = "only the first of several frames is used", "several_frames"
    TRANSPARENT = "fully transparent", "transparent"
    PARTLY_TRANSPARENT = "transparent areas shown on black"

    # What the header says
    NO_RADIOGRAPH = "not a radiograph, according to its header", "no_radiograph"
    MODALITY = "modality {!s}"
    BODY_PART = "body part {!s}"
    LATERAL = "lateral view", ROUTINE
    OTHER_PART = "another part of the body, according to its description"
    ORIENTATION = "{!s} according to its Patient Orientation; not corrected"
    REPORT = "a report or a screenshot, according to its description"
    RAW = "raw values FOR PROCESSING, not meant for viewing"
    PROCESSED = "processed or not a plain radiograph, according to its description"
    BURNED_IN = "text is burned in, according to its header"
    QUALITY_CONTROL = "an image for quality control, according to its header"
    REJECTED = "rejected, according to its comments"
    ANIMAL = "an animal, according to its header"
    SHUTTER = "display shutter ignored"

    # Color and compression
    COLOR_CODED = "color-coded", "color_coded"
    COLORED = "color on {:.0%} of the area, converted to gray"
    COLORED_MARKS = "colored lines or marks converted to gray", "colored_marks"
    TINTED = "slightly tinted, as in photos of radiographs and screens"
    COMPRESSED = "strongly compressed, {:.0f}:1, so that fine detail is lost", "compressed"
    LOW_QUALITY = "strongly compressed JPEG (quality 25 or less)", "compressed"
    MISSING_ROWS = "the last rows are plain gray, as if data were missing", "missing_rows"
    MORE_ROWS = "image data continue after the last row given in the header"
    MISSING_SCANS = "scans of a progressive JPEG are missing, so that fine detail is lost"
    CUT_SCAN = "the last scan of a progressive JPEG is cut off, so that fine detail is lost"

    # Little to see
    ONE_LEVEL = "only one gray level", "constant"
    NEARLY_ONE_LEVEL = "almost only one gray level", "constant"
    TWO_SHADES = "only two shades of gray", "two_shades"
    FEW_SHADES = "only {:d} shades of gray", "few_shades"
    DARK = "nearly black", "dark"
    BRIGHT = "nearly white", "bright"
    FLAT = "nearly without contrast", "flat"
    MOSTLY = "three quarters of the pixels are {}, as after a wrong gamma or window", "gamma"
    HALF_BLACK = "{} half black", "half_black"
    HALF_WHITE = "{} half white", "half_white"
    WHITE_AROUND = "white on all four sides, as a figure or a page is", "white_border"
    ON_BLACK = "the image fills {:.0%} of the area, and the rest is black", "on_black"
    # In runs of 0.14 and older
    OLD_ONE_SHADE = "of one shade", "constant"
    OLD_NEARLY_ONE_SHADE = "nearly of one shade", "constant"
    OLD_FEW_SHADES = "of {:d} shades", "few_shades"

    # Damage
    NOISE = "neighboring pixels are unrelated, as in noise", "noise"
    PARTLY_NOISE = "neighboring pixels are unrelated in a part of the image, as in noise", "noise"
    OVERFLOW = "jumps from white to black between neighbors, as if values had overflowed", "damaged"
    SALT_AND_PEPPER = "single pixels differ from all their neighbors, as in salt-and-pepper noise", "damaged"
    ODD_LINES = "rows or columns differ from those next to them, as if lines were lost, shifted or drawn", "damaged"
    REPEATED_LINES = "rows or columns are repeated, as after enlarging without interpolation", "damaged"
    WRONG_WIDTH = "each row is shifted against the next, as after reading with a wrong width", "damaged"
    FEW_LEVELS = "only {} gray levels, as if bits were lost", "damaged"
    GROUPED_LEVELS = "gray levels form {} groups, as if bits were lost", "damaged"
    LINES_ALIKE = "{:.0%} of the {} are identical, as if data were missing", "missing_rows"

    # No plain radiograph
    TOO_SMOOTH = "smooth, as blurred masks and heat maps are", "too_smooth"
    PLAIN_AREAS = "plain areas with sharp edges, as in label maps", "plain_areas"
    EDGE_MAP = "fine detail but no bright or dark areas, as in edge maps", "edge_map"
    REPEATED = "{!s} halves are identical, as if one image was repeated", "repeated"
    MIRRORED = "{!s} halves are mirror images of each other", "repeated"
    STRIP = "{} x {} pixels, far from square: a part of a radiograph, or a stretched one", "strip"
    IN_ONE = "{} x {} pixels, as if it were {} images in one", "two_in_one"
    BOX = "a plain box on {:.0%} of the area, drawn there or covering text", "box"
    EQUALIZED = "all gray levels are equally frequent, as after histogram equalization", "equalized"
    PANEL = "a plain area with text or symbols along one side, as in a screenshot of an image viewer", "panel"
    GRID = "sharp edges at regular distances, as from shifted blocks, tiles or a drawn grid", "composed"
    MIDDLE_EDGE = "a sharp edge along the middle, as from swapped halves or two images side by side", "composed"
    THREE_IN_ONE = "sharp edges at one third and two thirds, as from three images in one", "composed"
    SIDE_BY_SIDE = "looks like {} radiographs side by side", "composed"
    TEST_OBJECT = "symmetrical from left to right and from top to bottom, as test objects are", "test_object"
    SPECTRUM = "unchanged when rotated by 180 degrees, as Fourier spectra are", "spectrum"
    CIRCLE = "blank outside a circle, as if a circle was cut out", "circle"
    COVERED = "a plain gray area in the middle, as if something was covered", "covered"
    BLACK_INSIDE = "a black area inside the image ({:.0%} of it), as if the lungs were blacked out", "covered"
    GAP = "a {} area between two parts, as in lost data, lungs alone, or images side by side", "covered"
    SLANTED = "slanted {} edges, as after rotation or shearing", "slanted"
    TEXT = "white or black lines in the middle, such as burned-in text, wires or metal", "text"
    UPSIDE_DOWN = "may be upside down", "may_be_turned"
    ON_ITS_SIDE = "may lie on its side", "may_be_turned"
    MAY_BE_INVERTED = "may be inverted: the lungs are brighter than the body around them", "may_be_inverted"

    def __init__(self, text: str, kind: str = NOTED, is_routine: bool = False) -> None:
        self.text, self.kind = text, kind
        self.is_routine = is_routine or kind == ROUTINE

    def __call__(self, *values: object) -> str:
        """Return the text with these values in it."""
        return self.text.format(*values)

    @property
    def pattern(self) -> str:
        """A regular expression for the whole text, with any values."""
        parts = Formatter().parse(self.text)
        return "".join(
            re.escape(literal) + ("" if name is None else ".+" if conversion else r"[-+]?\d\S*" if form else r"\S+")
            for literal, name, form, conversion in parts
        )


_ANY = re.compile("|".join(f"(?P<{note.name}>{note.pattern})" for note in Note), re.DOTALL)

_SENTENCE = 'read with the note "{}"'

_BLANK = frozenset({"constant", "few_shades", "dark", "bright", "flat"})

_REASONS = {
    "no_radiograph": "DICOM objects that are not radiographs, according to their header",
    "two_shades": f"{Note.TWO_SHADES.text}, as in masks",
    "few_shades": "only a few shades of gray, as in label maps",
    "color_coded": f"{Note.COLOR_CODED.text}, as maps and overlays are",
}
"""The reasons for leaving out images that are no radiographs, keyed by the kind of note on them."""

OTHER_KIND, NO_PIXEL_DATA = "found a DICOM object of another kind", "found a DICOM object with no pixel data"
UNKNOWN_CLASS = "of unknown class"
"""What the error of a DICOM object says that is no radiograph: one of the first two, and then its class in brackets."""

_OTHER_OBJECT = re.compile(rf": ({OTHER_KIND}|{NO_PIXEL_DATA}) \((?!{UNKNOWN_CLASS})")


TINY = 64
"""The side in pixels below which an image is a thumbnail, too small to see most labels."""


def note_enlarged(width: int, height: int, side: int) -> tuple[str, ...]:
    """Return a note on a thumbnail that is enlarged at least twofold to the side of a network's input.

    >>> note_enlarged(28, 30, 224), note_enlarged(28, 30, 32), note_enlarged(100, 100, 224)
    (('only 28 x 30 pixels, enlarged for the network',), (), ())
    """
    return (Note.ENLARGED(width, height),) * (min(width, height) < min(TINY, side / 2))


def recognize(note: str) -> Note | None:
    """Return which note a stored text is; None if this version makes no such note."""
    found = _ANY.fullmatch(note)
    return Note[str(found.lastgroup)] if found else None


def kind_of(note: str) -> str:
    """Return under which kind `check` lists a note; "noted" if this version makes no such note."""
    known = recognize(note)
    return known.kind if known else NOTED


def needs_attention(note: str) -> bool:
    """Whether a note is about more than a routine step."""
    known = recognize(note)
    return not (known and known.is_routine)


def is_about_blank_images(sentence: str) -> bool:
    """Whether a sentence of `describe_notes`, which a run may have stored, is about images in which little is seen."""
    found = re.search(_SENTENCE.format("(.+?)"), sentence)
    return bool(found and kind_of(found[1]) in _BLANK)


def find_other_images(notes: Mapping[str, Sequence[str]], problems: Mapping[str, str]) -> dict[str, str]:
    """Return the reasons for leaving out images that are no radiographs by header or content, keyed by name.

    If no image would be left, return none. `problems` say why other files, among them DICOM objects without an image,
    can't be read.
    """
    kinds = {name: map(kind_of, own) for name, own in notes.items()}
    found = {name: _REASONS[kind] for name, own in kinds.items() for kind in own if kind in _REASONS}
    found |= {name: _REASONS["no_radiograph"] for name, problem in problems.items() if is_other_object(problem)}
    return found if len(found) < len(notes) + len(problems) else {}


def is_other_object(problem: str) -> bool:
    """Whether a file can't be read because it is a sound DICOM object without an image, such as a report."""
    return bool(_OTHER_OBJECT.search(problem))


def group_notes(names: Sequence[str], notes: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """Return the names of the images with each kind of note that needs attention, the commonest kind first.

    They are keyed by the first note of the kind; notes of one kind differ only in their numbers.
    """
    groups: dict[str, tuple[str, list[str]]] = {}
    for name, own in zip(names, notes, strict=True):
        for kind, note in {generalize_note(note): note for note in own if needs_attention(note)}.items():
            groups.setdefault(kind, (note, []))[1].append(name)
    return dict(sorted(groups.values(), key=lambda group: -len(group[1])))


def describe_notes(names: Sequence[str], notes: Iterable[Sequence[str]]) -> list[str]:
    """Return the groups of `group_notes` as sentences.

    >>> describe_notes(["a.png", "b.png"], [["nearly black"], ["nearly black", "12 bits stored"]])
    ['2 images read with the note "nearly black": a.png, b.png.']
    """
    groups = group_notes(names, notes).items()
    return [f"{plural(len(own), 'image')} {title_of(note)}: {shorten(own, 3)}." for note, own in groups]


def title_of(note: str) -> str:
    """Return what is said of images with a note, after their number."""
    return _SENTENCE.format(note)


def generalize_note(note: str) -> str:
    """Return a note with its numbers replaced by "#", so that it is the same for many images."""
    return re.sub(r"-?\d+(\.\d+)?", "#", note)

"""Which notes of the reader are passed on, and how."""

import pytest

from xrayfast.data.images.notes import describe_notes, group_notes, needs_attention

ROUTINE = [
    "12 bits stored", "full range 0..4095", "full range 0..4095 for window 2048/4000 LINEAR",
    "percentile range -3..1e+04",
    "window 2048/4096 LINEAR", "window -0.5/1e+06 SIGMOID", "VOI LUT 2", "modality LUT", "rescaled by 2 and -1024",
    "pixel padding made black", "MONOCHROME1 inverted", "WhiteIsZero inverted", "16-bit scaled from 0..4095",
    "32-bit scaled from 0..1", "16-bit channels: the high 8 bits kept", "mode CMYK converted to gray",
    "PALETTE COLOR converted to gray", "RGB converted to gray", "pydicom: 2 warnings on header values",
]  # fmt: skip
ATTENTION = [
    "saturates 76% of the pixels", "window 100/50 LINEAR ignored, as it saturates 100% of the image", "of one shade",
    "VOI LUT 1 ignored, as it saturates 99% of the image", "window of no width ignored", "nearly black", "nearly white",
    "unknown VOI LUT function taken as LINEAR", "values of 14 bits, where the header says 12", "fully transparent",
    "bits above the 12 stored ignored", "MONOCHROME2 inverted, by its Presentation LUT Shape INVERSE",
    "transparency laid on black", "EXIF orientation applied", "first of several frames", "JPEG in a file named .png",
    "values above 4095 made white, up to 65535", "last rows plain gray, as where data are missing",
    "values evidently signed, against the header", "neighbouring pixels differ as in noise",
    "Pillow: Corrupt EXIF data", "of 3 shades", "colour-coded", "colour on 31% of the area converted to gray",
]  # fmt: skip


@pytest.mark.parametrize("note", ROUTINE)
def test_routine_notes_need_no_attention(note):
    assert not needs_attention(note)


@pytest.mark.parametrize("note", ATTENTION)
def test_other_notes_need_attention(note):
    assert needs_attention(note)


def test_notes_that_differ_in_numbers_are_one_kind():
    notes = [["saturates 60% of the pixels", "12 bits stored"], [], ["saturates 75% of the pixels"], ["nearly black"]]
    grouped = group_notes(["a", "b", "c", "d"], notes)
    assert list(grouped.items()) == [("saturates 60% of the pixels", ["a", "c"]), ("nearly black", ["d"])]
    assert describe_notes(["a", "b", "c", "d"], notes)[0] == (
        '2 images read with the note "saturates 60% of the pixels": a, c.'
    )
    assert describe_notes(["a"], [["12 bits stored"]]) == []

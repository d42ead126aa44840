"""A data set with every kind of defect at once: `check` lists each kind, and `fit` refuses the data set."""

import json
import struct

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

import xrayfast as xf
from tests.data.images.dicom_files import dicom_bytes, report_bytes
from xrayfast.errors import DataError
from xrayfast.synthetic import CONDITIONS, phantom

SIDE = 96
SPLIT_OF = {"train": 14, "valid": 8, "test": 8}


def film(number):
    return phantom(CONDITIONS[number % 2], patient=number, image=0, size=SIDE)


def claimed(path, width, height):
    """Change the size in the header of the JPEG file at `path`."""
    content = bytearray(path.read_bytes())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory):
    """A table of sound images, plus one or more images per kind of defect."""
    root = tmp_path_factory.mktemp("oddities") / "data"
    (root / "images").mkdir(parents=True)
    rows = []

    def add(name, label=None, patient=None, split="train", study="", view="PA"):
        label = label or ["Pneumonia", "No finding"][len(rows) % 2]
        rows.append([f"images/{name}", label, f"p{len(rows):03d}" if patient is None else patient, study, split, view])
        return root / "images" / name

    def save(name, image, save_options=None, **row):
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
            add(name, **row), **(save_options or {})
        )

    number = 0
    for split, count in SPLIT_OF.items():
        for _ in range(count):
            save(f"{number:03d}.png", film(number), split=split)
            number += 1
    first, last = film(0), film(number - 1)
    # Labels
    save("spelled.png", film(50), label="pneumonia")
    save("printed.png", film(77), label="b'Pneumonia'")
    save("typed.png", film(51), label="Pneumomia")
    save("dated.png", film(52), label="2-Jan")
    save("blank.png", film(53), label="N/A")
    # Splits, patients, studies
    save("equal.png", first, split="valid")
    save("recoded.jpg", film(1), {"quality": 70}, split="test")
    save("person_a.png", film(54), patient="0012")
    save("person_b.png", film(55), patient="12.0", split="valid")
    save("study_a.png", film(56), patient="", study="1.2.3", split="train")
    save("study_b.png", film(57), patient="", study="1.2.3", split="test")
    save("lateral.png", film(58), view="LATERAL")
    # Other than radiographs
    disc = np.add.outer(np.arange(-48, 48) ** 2, np.arange(-48, 48) ** 2) < 1200
    save("lung_mask.png", film(59))
    save("000_pred_left.png", film(78))
    save("region.png", (disc * 255).astype(np.uint8))
    save("regions.png", (disc * 90 + np.tri(SIDE, dtype=bool) * 60).astype(np.uint8))
    save("numbered.png", disc.astype(np.uint8) + np.tri(SIDE, dtype=np.uint8))
    save("hot.png", colormaps["hot"](film(60), bytes=True)[..., :3])
    add("segments.dcm").write_bytes(dicom_bytes(film(76), Modality="SEG"))
    add("report.dcm").write_bytes(report_bytes())
    hues = np.stack([film(60), 255 - film(60), np.roll(film(60), 40, 1)], -1)
    save("hues.png", hues)
    tinted = np.stack([film(61), film(61) * 0.8, film(61) * 0.4], -1).astype(np.uint8)
    save("tinted.png", tinted)
    # Contents
    save("shade.png", np.full((SIDE, SIDE), 9, np.uint8))
    save("black.png", film(62) // 6)
    save("white.png", 205 + film(63) // 6)
    save("noise.png", np.random.default_rng(0).integers(0, 256, (SIDE, SIDE)).astype(np.uint8))
    save("small.png", Image.fromarray(film(64)).resize((40, 40)))
    save("long.png", Image.fromarray(film(65)).resize((40, 160)))
    framed = np.full((SIDE, SIDE), 255, np.uint8)
    framed[8:-8, 8:-8] = film(66)[8:-8, 8:-8]
    save("framed.png", framed)
    # Encodings
    save("clear.png", Image.merge("LA", [Image.fromarray(film(67)), Image.new("L", (SIDE, SIDE))]))
    exif = Image.Exif()
    exif[274] = 6
    save("turned.jpg", film(68), {"exif": exif})
    save("pages.tif", film(69), {"save_all": True, "append_images": [Image.fromarray(last)]})
    save("named.png", film(70), {"format": "JPEG"})
    save("cut.jpg", film(71))
    claimed(root / "images" / "cut.jpg", SIDE, 2 * SIDE)
    save("wrapped.png", (film(72).astype(np.int32) * 250 - 32000).astype(np.int16).view(np.uint16))
    wide = film(73).astype(np.uint16) * 16
    add("window.dcm").write_bytes(dicom_bytes(wide, bits=12, WindowCenter=-900, WindowWidth=9))
    add("bits.dcm").write_bytes(dicom_bytes(film(74).astype(np.uint16) * 64, bits=12))
    add("lut.dcm").write_bytes(dicom_bytes(film(75), PresentationLUTShape="INVERSE"))
    # Files
    add("empty.png").write_bytes(b"")
    add("page.png").write_bytes(b"<html>")
    add("gone.png")
    text = "\n".join(",".join(row) for row in [["image", "label", "patient", "study_uid", "split", "view"], *rows])
    (root / "labels.csv").write_text(text + "\n")
    return root


@pytest.fixture(scope="module")
def checked(odd_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("check")
    data = xf.open_data(odd_folder, missing="skip", blank="ignore", cache=False)
    found = xf.check(data, size=64, output=output)
    content = json.loads((output / "check.json").read_text())
    return found, content, (output / "check.html").read_text()


NOTES = [
    "1 row of labels.csv left out, because the image file is missing: images/gone.png.",
    "Spellings of one label are joined: 'Pneumonia' (also 'pneumonia', \"b'Pneumonia'\")",
    "Labels that may be two names for one label are kept separate: 'Pneumonia' and 'Pneumomia'.",
    "Labels that look like dates, into which spreadsheets convert texts such as 1-2: '2-Jan'.",
    "Read as blank cells: 'N/A' 1 times in 'label'.",
    "1 patient identifier joined",
    "patients is in more than one given split",
    "1 of 1 study is in more than one given split",
    "1 lateral view used like the other images",
    "2 images left out (mask, overlay, map or thumbnail by name): images/lung_mask.png, images/000_pred_left.png.",
]
"""Of how the data set was opened."""

FINDINGS = {
    "shared_patients": (),
    "shared_studies": ("study_a.png", "study_b.png"),
    "shared_exact": ("000.png", "equal.png"),
    "shared_near": ("001.png", "recoded.jpg"),
    "unreadable": ("empty.png", "page.png"),
    "all_masked": ("blank.png",),
    "two_shades": ("region.png",),
    "few_shades": ("regions.png", "numbered.png"),
    "color_coded": ("hues.png", "hot.png"),
    "no_radiograph": ("segments.dcm",),
    "other_objects": ("report.dcm",),
    "constant": ("shade.png", "clear.png"),
    "transparent": ("clear.png",),
    "noise": ("noise.png",),
    "missing_rows": ("cut.jpg",),
    "dark": ("black.png",),
    "bright": ("white.png",),
    "tiny": ("small.png", "long.png"),
    "long": ("long.png",),
    "white_border": ("framed.png",),
    "several_frames": ("pages.tif",),
    "turned": ("turned.jpg",),
    "inverted": ("lut.dcm",),
    "window_ignored": ("window.dcm",),
}
"""The kinds of findings, and images that each finding must name."""

NOTED = {
    "JPEG in a file named .png": "named.png",
    "values are evidently signed, although the header says unsigned": "wrapped.png",
    "values use 14 bits, although the header says 12": "bits.dcm",
    "of the area, converted to gray": "tinted.png",
}
"""Notes of the reader that become findings unchanged, and the image of each."""


@pytest.mark.parametrize("words", NOTES)
def test_opening_the_data_gives_notes(checked, words):
    assert any(words in note for note in checked[1]["notes"])


@pytest.mark.parametrize("kind", FINDINGS)
def test_each_kind_of_defect_is_a_finding(checked, kind):
    found, content, page = checked
    images = {image for finding in found.findings if finding.kind == kind for image in finding.images}
    assert {f"images/{name}" for name in FINDINGS[kind]} <= images
    finding = next(one for one in content["findings"] if one["kind"] == kind)
    assert finding["title"].split("'")[0] in page


@pytest.mark.parametrize("note", NOTED)
def test_other_notes_are_findings_too(checked, note):
    (finding,) = [one for one in checked[0].findings if one.kind == "noted" and note in one.title]
    assert f"images/{NOTED[note]}" in finding.images


def test_no_sound_image_has_a_finding_of_its_own(checked):
    sound = {f"images/{i:03d}.png" for i in range(2, sum(SPLIT_OF.values()))}
    about = [one for one in checked[0].findings if one.kind not in ("no_patients", "patients_in_classes")]
    assert not [(one.kind, sound.intersection(one.images)) for one in about if sound.intersection(one.images)]


def test_fit_refuses_it(odd_folder, tmp_path):
    options = {"weights": "none", "size": 64, "epochs": 1, "device": "cpu", "resamples": 0, "runs": tmp_path}
    with pytest.raises(DataError, match="not found"):
        xf.fit(odd_folder, **options)
    data = xf.open_data(odd_folder, missing="skip", blank="ignore", cache=False)
    with pytest.raises(DataError, match=r"2 of \d+ images can't be read"):
        xf.fit(data, **options)
    data = xf.open_data(odd_folder, missing="skip", unreadable="skip", blank="ignore", cache=False)
    with pytest.raises(DataError) as caught:
        xf.fit(data, **options)
    for words in ("1 patient in more than one split", "1 study in", "1 image in", "1 near-duplicate image in"):
        assert words in str(caught.value)

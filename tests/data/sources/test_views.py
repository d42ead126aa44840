"""Which images the option `views` selects, and the studies that `study_col` names."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.data.builders import lines, make, message, noted, opened, splits, table
from tests.data.sources.patients.test_headers import dicoms, headers  # noqa: F401 - a fixture
from xrayfast.data.demographics import kind_of_view, parse_views
from xrayfast.data.images.names import view_in_name
from xrayfast.errors import ConfigError, DataError

VIEWS = {
    "frontal": [
        "PA",
        "ap",
        "AP SUPINE",
        "AP_horizontal",
        "AP AXIAL",
        "PA LLD",
        "Frontal",
        "postero-anterior",
        "p.a.",
        "face",
        "\u6b63\u4f4d",
    ],
    "lateral": [
        "L",
        "LL",
        "RL",
        "Lateral",
        "lat",
        "XTABLE LATERAL",
        "lateral derecha",
        "L-LAT",
        "seitl.",
        "profil",
        "\u0431\u043e\u043a\u043e\u0432\u0430\u044f",
    ],
    "other": ["LAO", "LATERAL DECUBITUS", "Left lat decub", "SWIMMERS", "COSTAL", "EXCLUDE", "7"],
    "": ["", "  ", "UNKNOWN", "unk"],
}


@pytest.mark.parametrize(("kind", "cell"), [(kind, cell) for kind, cells in VIEWS.items() for cell in cells])
def test_the_kind_of_a_view(kind, cell):
    assert kind_of_view(parse_views([cell])[0]) == kind


NAMES = {
    "frontal": ["p1/study1/view1_frontal.jpg", "a/12_PA.png", "AP/7.png", "x.1-pa.dcm", "Frontal_001.png"],
    "lateral": ["p1/study1/view2_lateral.jpg", "a/12-lat.png", "LAT/3.png", "frontal_and_lateral/1_lateral.png"],
    "": ["a/1.png", "patient_pa_12/1.png", "collateral/lateralised.png", "flat.png", "front/1.png"],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NAMES.items() for name in names])
def test_the_view_in_a_name(kind, name):
    assert view_in_name(name) == kind


def write_views(root):
    """Write 12 frontal, 4 lateral and 2 oblique images, and 2 of unknown view, one of which is named lateral."""
    views = ["PA"] * 10 + ["Frontal"] * 2 + ["LL"] * 4 + ["LAO"] * 2 + ["", ""]
    names = [f"i{i}{'_lateral' if i == 19 else ''}.png" for i in range(20)]
    make(root, *names)
    rows = "".join(f"{name},{'ab'[i % 2]},{view}\n" for i, (name, view) in enumerate(zip(names, views, strict=True)))
    table(root, "image,label,ViewPosition\n" + rows)
    return root


def test_frontal_and_lateral_images_are_used_and_the_others_counted(tmp_path):
    root = write_views(tmp_path)
    frontal, lateral, every = (opened(root, views=views) for views in ("frontal", "lateral", "all"))
    assert sorted(frontal.table["image"]) == sorted([*(f"i{i}.png" for i in range(12)), "i18.png"])
    assert sorted(lateral.table["image"]) == sorted([*(f"i{i}.png" for i in range(12, 16)), "i19_lateral.png"])
    assert len(every) == 20
    assert noted(frontal, "Views: 12 frontal, 5 lateral, 2 another view, 1 of unknown view.")
    assert noted(frontal, "7 images left out because of --views frontal: i12.png")
    assert noted(lateral, "15 images left out because of --views lateral")
    assert ("Left out: view other than frontal (--views)", 7) in frontal.flow()
    assert not noted(frontal, "used like the other images") and noted(
        every, "5 lateral views used like", "--views frontal"
    )


def test_a_split_of_all_views_holds_for_the_frontal_ones(tmp_path):
    root = write_views(tmp_path / "data")
    every = opened(root)
    every.split_table().to_csv(tmp_path / "split.csv", index=False)
    frontal = opened(root, views="frontal", split_file=tmp_path / "split.csv")
    assert splits(frontal) == {image: splits(every)[image] for image in frontal.table["image"]}
    # The data of a run, opened again.
    again = opened_again(frontal)
    assert splits(again) == splits(frontal) and again.left_out == frontal.left_out


def opened_again(data):
    from xrayfast.data.open_manifest import open_manifest

    left_out = {name: reason for reason, names in data.left_out for name in names}
    return open_manifest(data.config, leave_out=left_out)


def test_views_that_no_image_has_are_an_error(tmp_path):
    make(tmp_path, *(f"{one}/{i}.png" for one in "ab" for i in range(5)))
    found = message(DataError, tmp_path, views="frontal")
    assert "views='frontal': the view of no image is known; expected a column such as view" in found
    make(tmp_path / "c", *(f"{one}/{i}_pa.png" for one in "ab" for i in range(5)))
    assert "no image has that view: 10 frontal" in message(DataError, tmp_path / "c", views="lateral")


def test_headers_are_used_for_views_and_studies_only_if_requested(tmp_path, headers):  # noqa: F811
    dicoms(tmp_path, "x", "y", "z", "w")
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.dcm"))
    rows = "".join(f"{name},{'ab'[i % 2]},{i // 2}\n" for i, name in enumerate(names))
    table(tmp_path, "file,label,patient\n" + rows)
    assert "study" not in opened(tmp_path, labels=tmp_path / "labels.csv").table
    data = opened(tmp_path, labels=tmp_path / "labels.csv", views="frontal")
    assert noted(data, "Views: 8 frontal.") and data.table["patient"].nunique() == 4
    data = opened(tmp_path, labels=tmp_path / "labels.csv", study_col="dicom:AccessionNumber")
    assert "AccessionNumber" in dict(map(reversed, headers.asked)) and data.table["study"].nunique() == 4
    assert noted(data, "Studies from the DICOM headers (AccessionNumber): 4 on 8 of 8 images.")
    make(tmp_path / "png", *(f"{one}/{i}.png" for one in "ab" for i in range(5)))
    found = message(DataError, tmp_path / "png", study_col="dicom:StudyInstanceUID")
    assert "found no studies in the images' headers; expected DICOM files with StudyInstanceUID" in found


def test_studies_from_a_column_and_names(tmp_path):
    make(tmp_path, *(f"i{i}.png" for i in range(10)))
    table(tmp_path, lines("image,label,patient,follow", "i{i}.png,{ab},{p},{ab}"))
    table(tmp_path, lines("image,label,patient,follow", "i{i}.png,{ab},{p},"), "blank.csv")
    data = opened(tmp_path, labels=tmp_path / "blank.csv", study_col="follow")
    assert noted(data, "No studies are known: 'follow' is blank in all rows.")
    data = opened(tmp_path, labels=tmp_path / "labels.csv", study_col="follow")
    # Study numbers that restart for each patient.
    assert data.table["study"].nunique() == 10
    assert opened(tmp_path, study_col="patient").table["study"].nunique() == 5
    by_name = opened(tmp_path, study_col="name:(i[0-4])")
    assert by_name.table["study"].notna().sum() == 5 and noted(
        by_name, "Studies from file names", "5 on 5 of 10 images"
    )
    assert "found no column 'nothing'" in message(DataError, tmp_path, study_col="nothing")
    assert "has no group; expected one around the study" in message(ConfigError, tmp_path, study_col="name:i[0-4]")
    assert "found no match" in message(DataError, tmp_path, study_col="name:(z)")
    classes = make(tmp_path / "classes", *(f"{one}/{i}.png" for one in "ab" for i in range(5)))
    assert "study_col names a column, but there is no table" in message(ConfigError, classes, study_col="exam")


def test_a_study_column_is_not_used_if_set_to_none(tmp_path):
    make(tmp_path, *(f"i{i}.png" for i in range(10)))
    table(tmp_path, lines("image,label,study_id", "i{i}.png,{ab},{p}"))
    assert opened(tmp_path).table["study"].nunique() == 5
    assert "study" not in opened(tmp_path, study_col="none").table
    assert pd.isna(opened(tmp_path, study_col="none").table["patient"]).all()


@pytest.mark.parametrize(
    ("view", "note"),
    [
        ("lateral derecha", "6 lateral views used like the other images"),
        ("oblique", "6 images with a view that is neither frontal nor lateral (OBLIQUE 6)"),
    ],
)
def test_views_in_words_are_noted(tmp_path, view, note):
    make(tmp_path, *(f"{i}.png" for i in range(12)))
    text = "".join(f"{i}.png,{'ab'[i % 4 // 2]},{['p.a.', view][i % 2]}\n" for i in range(12))
    table(tmp_path, f"image,label,Projektion\n{text}")
    assert noted(opened(tmp_path), note) and len(opened(tmp_path, views="frontal")) == 6


def test_slices_by_their_view_are_noted(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(12)))
    text = "".join(f"{i}.png,{'ab'[i % 4 // 2]},{['PA', 'Axial'][i % 2]}\n" for i in range(12))
    table(tmp_path, f"image,label,view\n{text}")
    assert noted(opened(tmp_path), "6 images with the view of a slice, as in CT (AXIAL 6)")
    assert len(opened(tmp_path, views="frontal")) == 6

"""Names of files, patients and folders are found in texts, and other texts are accepted."""

import getpass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrayfast.hub.identifying import Identifiers

KNOWN = Identifiers(["normal/p0001_1.png", "b c.png", "7"], ["p0001", "12", "Doe^Jane"], ["/home/anna/films"])


@pytest.mark.parametrize(
    "text",
    [
        "Blank: normal/p0001_1.png.",
        "see P0001_1.PNG, and others",
        "'b c.png' is white",
        "patient p0001 is in both",
        "(Doe^Jane)",
        "read /home/anna/films/labels.csv",
    ],
)
def test_names_are_found(text):
    assert KNOWN.find(text) and not KNOWN.is_clean(text)


@pytest.mark.parametrize(
    "text", ["12 images of 7 patients", "normal 0.83", "p00012 is another", "--test-fraction 0.15"]
)
def test_other_texts_are_accepted(text):
    assert KNOWN.short == 1  # the patient named 12
    assert KNOWN.find(text.replace("7", "8")) is None and KNOWN.is_clean(text.replace("7", "8"))


@pytest.mark.parametrize("text", ["/srv/x is full", "C:\\films\\a", "~/films", f"made by {getpass.getuser()}."])
def test_paths_and_user_names_are_found(text):
    assert KNOWN.find(text) is None and not KNOWN.is_clean(text)


@pytest.mark.parametrize("text", ["beside it: a/9_1.jpg, b.dcm and 3 more", "x.PNG", "y.jfif", "'f.nii.gz'"])
def test_image_files_that_are_not_from_the_run_are_found_too(text):
    assert KNOWN.find(text) and not KNOWN.is_clean(text)


@pytest.mark.parametrize(
    "text",
    [
        "Columns of clinic.csv: a from 'b'.",
        "read x.parquet",
        "Columns of site 9: 'pat'.",
        "not used: images/IM0001 and 3 more.",
    ],
)
def test_sentences_that_name_files_and_tables_are_found(text):
    known = Identifiers([], [], [], ["site 9"])
    assert known.find(text) is None and not known.is_clean(text)
    assert known.is_clean("Labels of 0/1, PA/AP, AUROC 0.65.")
    assert known.is_clean("To keep this split when images are added, pass its split.csv to --split-file.")


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=4, max_size=12))
def test_every_patient_is_found_wherever_it_is_named(name):
    known = Identifiers([], [name], [])
    for text in (name, f"In {name}.", f"'{name}', x", f"a ({name})", f"scans/{name}"):
        assert known.find(text)

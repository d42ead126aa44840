from __future__ import annotations

from xrayfast.data.sources.patients.groups import (
    count_shared,
    group_images,
    group_patients,
    hash_identifiers,
    pseudonymize,
    studies_everywhere,
    studies_without_patient,
)


def test_pseudonyms_and_groups():
    assert pseudonymize(["x", "", "y", "x"], "P").tolist() == ["P00001", None, "P00002", "P00001"]
    assert pseudonymize(["", ""], "P") is None and pseudonymize(None, "P") is None
    assert group_patients(["x", "", "y", "x", None]).tolist() == [0, 2, 1, 0, 3]
    assert group_patients(["", ""]) is None and group_patients(None) is None


def test_groups_by_study_where_the_patient_is_unknown():
    groups = group_images(["x", "x", "", "", None], ["s1", "s2", "s3", "s3", ""])
    assert groups.tolist() == [0, 0, 1, 1, 2]
    assert group_images(None, ["s1", "s1", "s2"]).tolist() == [0, 0, 1]
    assert group_images(["x", "y", ""], None).tolist() == group_patients(["x", "y", ""]).tolist()
    assert group_images(None, None) is None and group_images(["", ""], ["", ""]) is None
    assert group_images(None, ["1"] * 21) is None  # numbers that restart for each patient
    assert group_images(["5", "", ""], ["1", "5", "5"]).tolist() == [0, 1, 1], "patient 5 is not study 5"


def test_studies_count_only_without_a_patient():
    assert studies_without_patient(["x", "", None], ["s", "s", ""]) == [None, "s", None]
    many = studies_without_patient(["x"] * 20 + [""], ["s"] * 21)
    assert many == [None] * 20 + ["s"], "of the 21 images only one is of an unknown patient"
    assert studies_without_patient(["x"], None) == [None]


def test_studies_known_everywhere_are_those_with_identifiers_like_uids():
    patients = ["12", "12", "", "x", None]
    studies = ["12 1234567", "1234567", "1.2.840.113", "12345", "12 1234567"]
    assert studies_everywhere(patients, studies) == ["", "1234567", "1.2.840.113", "", "12 1234567"]


def test_images_of_unknown_patients_are_not_of_one_patient_in_several_splits():
    assert count_shared(["x", None, "", "x"], ["train", "train", "test", "train"]) == (0, 1)
    assert count_shared(["x", None, "y", "x"], ["train", "valid", "test", "test"]) == (1, 2)


def test_spellings_of_an_identifier_have_one_hash():
    first, same, blank, other = hash_identifiers(["0012", "12.0", "", "13"], 4).tolist()
    assert first == same != other and blank == 0
    assert hash_identifiers(None, 2).tolist() == [0, 0]

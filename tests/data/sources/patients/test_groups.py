from __future__ import annotations

from xrayfast.data.sources.patients.groups import group_images, group_patients, pseudonymize


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

"""Patients, studies and images in more than one split."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.audit.sets import SIDE, cropped, film, jpeg, manifest, shown
from xrayfast.audit.duplicates import Duplicates
from xrayfast.audit.findings import leak_findings
from xrayfast.audit.leaks import Leaks, compare_images, group_linked_images, leaks_between_splits, redraw_leaky_splits
from xrayfast.data.splits.words import SPLITS

ROWS = 30


@pytest.fixture(scope="module")
def planted():
    """30 films: two shared patients, one exact and two near copies across splits, and copies within a split."""
    data_dir = [film(i) for i in range(ROWS)]
    data_dir[20] = data_dir[0].copy()  # train = valid
    data_dir[25] = jpeg(data_dir[1], 50)  # train ~ test
    data_dir[21] = cropped(data_dir[26], 0.02, 0.01, 0.0, 0.03)  # valid ~ test
    data_dir[3] = data_dir[2].copy()  # within train
    data_dir[22] = jpeg(data_dir[23], 60)  # within valid
    split = ["train"] * 20 + ["valid"] * 5 + ["test"] * 5
    patients = [f"P{i:05d}" for i in range(ROWS)]
    patients[24] = patients[27] = patients[5]
    patients[6] = patients[7]
    patients[8] = None
    patients[10] = patients[29] = ""  # unknown too
    patients[28] = patients[9]
    return manifest(np.zeros((ROWS, 1)), split=split, patients=patients, drawn=False), data_dir


def test_exactly_what_was_planted_leaks(planted):
    data, data_dir = planted
    told = []
    _, leaks = compare_images(data, shown(data, data_dir), lambda stage, done, total: told.append(stage))
    assert [(p.patient, dict(p.images)) for p in leaks.patients] == [
        ("P00005", {"train": ("i0005.png",), "valid": ("i0024.png",), "test": ("i0027.png",)}),
        ("P00009", {"train": ("i0009.png",), "test": ("i0028.png",)}),
    ]
    assert [(p.kind, dict(p.images)) for p in leaks.images] == [
        ("exact", {"train": ("i0000.png",), "valid": ("i0020.png",)}),
        ("near", {"train": ("i0001.png",), "test": ("i0025.png",)}),
        ("near", {"valid": ("i0021.png",), "test": ("i0026.png",)}),
    ]
    assert [group.rows for group in leaks.duplicates] == [(0, 20), (2, 3), (1, 25), (21, 26), (22, 23)]
    assert leaks
    assert list(dict.fromkeys(told)) == ["decoding", "inspecting", "comparing"]


def test_a_study_of_an_unknown_patient_in_two_splits_is_a_leak_too(planted):
    data, _ = planted
    patients = [None] * 10 + [f"P{i:05d}" for i in range(10, ROWS)]
    patients[21] = None
    studies = ["S00001", *(None for _ in range(20)), "S00001", *(f"S{i:05d}" for i in range(22, ROWS))]
    studies[10] = studies[22]  # of two known patients
    data = replace(data, table=data.table.assign(patient=patients, study=studies))
    leaks = leaks_between_splits(data, ())
    assert leaks and leaks.patients == ()
    assert leaks.sentences() == ["1 study in more than one split: S00001 (1 train, 1 valid)."]
    assert [finding.kind for finding in leak_findings(leaks)] == ["shared_studies"]


def test_sentences_name_them(planted):
    data, data_dir = planted
    _, leaks = compare_images(data, shown(data, data_dir))
    assert leaks.sentences(1) == [
        "2 patients in more than one split: P00005 (1 train, 1 valid, 1 test) and 1 more.",
        "1 image in more than one split: i0000.png (train) = i0020.png (valid).",
        "2 near-duplicate images in more than one split: i0001.png (train) ~ i0025.png (test) and 1 more.",
    ]
    assert Leaks().sentences() == []


def test_unreadable_files_are_left_out(planted):
    data, data_dir = planted
    data_dir = list(data_dir)
    data_dir[20] = "/films/i0020.png: found an empty file."
    _, leaks = compare_images(data, shown(data, data_dir))
    assert leaks.unreadable == {"/films/i0020.png": data_dir[20]}
    assert [group.rows for group in leaks.duplicates] == [(2, 3), (1, 25), (21, 26), (22, 23)]


def test_without_leaks_it_is_false(planted):
    data = manifest(np.zeros((ROWS, 1)), split=planted[0].table["split"].tolist())
    assert not compare_images(data, shown(data, [film(i) for i in range(ROWS)]))[1]


def test_a_drawn_split_is_redrawn_so_that_duplicates_stay_together():
    """The steps of `fit`: find duplicates, redraw the splits, and check again without reading an image."""
    data_dir = [film(i) for i in range(40)]
    for i in range(0, 12, 2):
        data_dir[i + 20] = data_dir[i].copy() if i < 6 else jpeg(data_dir[i], 60)
    split = ["train"] * 20 + ["valid"] * 20
    patients = [f"P{i // 2}" for i in range(40)]
    data = manifest(np.arange(40)[:, None] % 2, split=split, patients=patients)
    _, leaks = compare_images(data, shown(data, data_dir, side=SIDE))
    assert len(leaks.images) == 6
    redrawn = data.redraw_splits(group_linked_images(data, leaks.duplicates))
    assert not leaks_between_splits(redrawn, leaks.duplicates)
    assert set(redrawn.table["split"]) == {"train", "valid"}


def test_a_drawn_split_without_leaks_is_kept_although_it_has_copies():
    data = manifest(np.zeros((ROWS, 1)), split=["train"] * 20 + ["valid"] * 10)
    leaks = leaks_between_splits(data, [Duplicates((2, 3), "near", 0.99)])
    assert data.drawn.all() and redraw_leaky_splits(data, leaks)[0] is data


groups_of = st.lists(st.sets(st.integers(0, ROWS - 1), min_size=2, max_size=5), max_size=6)


@settings(max_examples=60, deadline=None)
@given(groups_of, groups_of, st.lists(st.integers(0, 12), min_size=ROWS, max_size=ROWS), st.randoms())
def test_together_joins_patients_and_duplicates_and_nothing_else(exact, near, patients, random):
    """Groups of one kind don't overlap, because they are connected components."""

    def apart(sets):
        taken, kept = set(), []
        for one in sets:
            if not one & taken:
                taken |= one
                kept.append(tuple(sorted(one)))
        return kept

    names = [f"P{number}" if number else None for number in patients]
    data = manifest(np.zeros((ROWS, 1)), patients=names, split=[random.choice(SPLITS) for _ in range(ROWS)])
    groups = [Duplicates(rows, "exact", 1.0) for rows in apart(exact)]
    groups += [Duplicates(rows, "near", 0.99) for rows in apart(near)]
    found = group_linked_images(data, groups)
    wanted = list(range(ROWS))
    links = [(group.rows[0], row) for group in groups for row in group.rows[1:]]
    links += [(names.index(name), row) for row, name in enumerate(names) if name]
    for a, b in links:
        wanted = [wanted[a] if number == wanted[b] else number for number in wanted]
    assert [[found[i] == found[j] for j in range(ROWS)] for i in range(ROWS)] == [
        [wanted[i] == wanted[j] for j in range(ROWS)] for i in range(ROWS)
    ]
    leaks = leaks_between_splits(data, groups)
    split = data.table["split"].tolist()
    crossing = [group for group in groups if len({split[row] for row in group.rows}) > 1]
    assert len(leaks.images) == len(crossing)
    shared = {name for name in names if name and len({split[i] for i in range(ROWS) if names[i] == name}) > 1}
    assert {patient.patient for patient in leaks.patients} == shared

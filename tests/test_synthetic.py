"""Synthetic radiographs: their content, that they depend only on seeds, and the folders written."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from xrayfast import synthetic as module
from xrayfast.errors import DataError
from xrayfast.synthetic import CONDITIONS, DatasetSummary, phantom, write_dataset

# Regions of a film of 128 pixels that hold for all usual positions.
UPPER_LEFT = np.s_[38:62, 28:42]  # lung fields; left and right are the viewer's
UPPER_RIGHT = np.s_[38:62, 88:102]
MEDIASTINUM = np.s_[38:62, 60:68]
BELOW_LEFT = np.s_[110:124, 30:46]  # under the diaphragm
LUNG_LEFT = np.s_[30:84, 22:48]
LUNG_RIGHT = np.s_[30:84, 80:106]


def render(condition: str, **where: int) -> np.ndarray:
    return phantom(condition, size=128, **where).astype(float)


@cache
def rise(condition: str, patient: int) -> np.ndarray:
    """Return what a condition adds to the patient's normal film; anatomy and grain cancel out."""
    return gaussian_filter(render(condition, patient=patient) - render("normal", patient=patient), 2)


@pytest.mark.parametrize("size", [16, 63, 64, 256, 600])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_dtype_shape_and_range(condition, size):
    image = phantom(condition, patient=3, size=size)
    assert image.dtype == np.uint8
    assert image.shape == (size, size)
    assert image.min() < 60
    assert image.max() > 150
    assert image.std() > 30
    image[0, 0] = 1  # the array is writeable


def test_equal_arguments_give_equal_images():
    first = phantom("covid-19", patient=5, image=2, seed=9, size=64)
    phantom("normal", patient=6, size=64)
    assert np.array_equal(first, phantom("covid-19", patient=5, image=2, seed=9, size=64))


@pytest.mark.parametrize("change", [{"patient": 6}, {"image": 3}, {"seed": 10}, {"condition": "normal"}])
def test_every_argument_matters(change):
    given = {"condition": "covid-19", "patient": 5, "image": 2, "seed": 9, "size": 64}
    assert not np.array_equal(phantom(**given), phantom(**{**given, **change}))


def test_global_random_state_is_untouched():
    numpys, pythons = np.random.get_state()[1].copy(), random.getstate()
    phantom("pneumonia", patient=1, size=64)
    assert np.array_equal(np.random.get_state()[1], numpys)
    assert random.getstate() == pythons


@pytest.mark.parametrize("condition", CONDITIONS)
def test_images_of_one_patient_differ_but_are_more_alike_than_those_of_others(condition):
    images = [[phantom(condition, patient=p, image=i, size=64).ravel() for i in range(3)] for p in range(5)]
    for own in images:
        assert len({image.tobytes() for image in own}) == 3
    like = np.corrcoef(np.concatenate(images).astype(float))
    same = np.kron(np.eye(5), np.ones((3, 3))).astype(bool)
    within, between = like[same & ~np.eye(15, dtype=bool)].mean(), like[~same].mean()
    assert within > between + 0.005


@pytest.mark.parametrize("patient", range(12))
def test_lungs_are_dark_mediastinum_and_abdomen_bright(patient):
    image = render("normal", patient=patient)
    lungs = max(image[UPPER_LEFT].mean(), image[UPPER_RIGHT].mean())
    assert lungs + 40 < image[MEDIASTINUM].mean()
    assert lungs + 40 < image[BELOW_LEFT].mean()
    assert image[0:6, 0:6].mean() < lungs  # air beside the neck


def test_heart_lies_to_the_viewers_right():
    # The mean over patients evens out shift and height of the diaphragm.
    heart = np.mean([render("normal", patient=p)[72:86] for p in range(12)], axis=0)
    assert heart[:, 70:92].mean() > heart[:, 36:58].mean() + 15


@pytest.mark.parametrize("patient", range(12))
def test_pneumonia_brightens_one_lung(patient):
    more = rise("pneumonia", patient)
    clear, ill = sorted([more[LUNG_LEFT], more[LUNG_RIGHT]], key=np.mean)
    assert ill.max() > 30
    assert ill.mean() > 5
    assert clear.max() < 0.1 * ill.max()


@pytest.mark.parametrize("patient", range(12))
def test_covid_brightens_both_lungs_more_below_than_above(patient):
    more = rise("covid-19", patient)
    for side in (LUNG_LEFT, LUNG_RIGHT):
        assert more[side].max() > 20
    above, below = more[20:48].mean(), more[56:84].mean()
    assert below > above


def test_covid_is_nearer_to_the_chest_wall_than_pneumonia():
    def mean_offset(condition):
        weights = sum(rise(condition, p).clip(0) for p in range(12)).sum(axis=0)
        return np.average(np.abs(np.arange(128) - 63.5), weights=weights)

    assert mean_offset("covid-19") > mean_offset("pneumonia") + 3


def test_pneumonia_comes_on_either_side():
    more = [rise("pneumonia", patient) for patient in range(12)]
    assert 2 <= sum(ill[LUNG_LEFT].mean() > ill[LUNG_RIGHT].mean() for ill in more) <= 10


def test_unknown_condition_is_named_with_the_known_ones():
    with pytest.raises(DataError, match=r"'covid'.*normal, pneumonia, covid-19"):
        phantom("covid", patient=0)


@pytest.mark.parametrize("wrong", [{"patient": -1}, {"image": -1}, {"seed": -1}, {"size": 8}, {"size": 5000}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(DataError, match=str(next(iter(wrong.values())))):
        phantom("normal", **{"patient": 0, **wrong})


@pytest.fixture
def quick(monkeypatch):
    """Make plain gray images, for tests of folders only."""
    monkeypatch.setattr(module, "phantom", lambda *_, size, **__: np.full((size, size), 99, dtype=np.uint8))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pngs(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


def test_class_folders_and_table_agree(tmp_path):
    folder = tmp_path / "new" / "data"
    summary = write_dataset(folder, images=20, size=32)
    rows = table(folder)
    assert list(rows[0]) == ["image", "labels", "patient"]
    assert {row["image"] for row in rows} == pngs(folder)
    assert len(rows) == len({row["image"] for row in rows}) == 20
    for row in rows:
        place, name = row["image"].split("/")
        assert row["labels"] == place
        assert name.startswith(row["patient"] + "_")
    counts = {"normal": 7, "pneumonia": 7, "covid-19": 6}
    patients = len({row["patient"] for row in rows})
    assert summary == DatasetSummary(folder, 20, patients, counts)
    with Image.open(folder / rows[0]["image"]) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (32, 32))
        number, image_number = (int(number) for number in Path(rows[0]["image"]).stem[1:].split("_"))
        condition = rows[0]["labels"]
        assert np.array_equal(image, phantom(condition, patient=number, image=image_number, size=32))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["data"]


def test_patients_have_one_condition_and_few_images(tmp_path, quick):
    write_dataset(tmp_path / "data", images=60, images_per_patient=3, size=16)
    labels_of = defaultdict(list)
    for row in table(tmp_path / "data"):
        labels_of[row["patient"]].append(row["labels"])
    assert all(len(set(labels)) == 1 for labels in labels_of.values())
    assert {len(labels) for labels in labels_of.values()} == {1, 2, 3}


def test_one_image_per_patient(tmp_path, quick):
    assert write_dataset(tmp_path / "data", images=9, images_per_patient=1, size=16).patients == 9


def test_multi_label(tmp_path, quick):
    summary = write_dataset(tmp_path / "data", images=9, size=16, multi_label=True)
    assert set(summary.counts) == {"normal", "pneumonia", "covid-19+pneumonia"}
    for row in table(tmp_path / "data"):
        assert row["labels"].split("|") == row["image"].split("/")[0].split("+")


@pytest.mark.parametrize("images", [6, 7, 90])
@pytest.mark.parametrize("seed", range(3))
def test_split_is_by_patient(tmp_path, quick, images, seed):
    folder = tmp_path / "data"
    summary = write_dataset(folder, images=images, size=16, seed=seed, split=True)
    assert set(summary.counts) == {f"{name}/{c}" for name in ("train", "valid") for c in CONDITIONS}
    assert sum(summary.counts.values()) == summary.images == len(pngs(folder)) == images
    patients = defaultdict(set)
    for row in table(folder):
        patients[row["image"].split("/")[0]].add(row["patient"])
    assert not patients["train"] & patients["valid"]
    assert len(patients["train"] | patients["valid"]) == summary.patients
    if images == 90:
        assert 0.12 <= len(patients["valid"]) / summary.patients <= 0.28


def test_equal_seeds_give_equal_folders(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_dataset(tmp_path / name, images=6, size=16, seed=seed)
    contents = {
        name: {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.*")} for name in "abc"
    }
    assert contents["a"] == contents["b"] != contents["c"]


def test_an_empty_folder_is_used(tmp_path, quick):
    (tmp_path / "data").mkdir()
    assert write_dataset(tmp_path / "data", images=3, size=16).images == 3
    assert len(pngs(tmp_path / "data")) == 3


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match=r"not empty.*mine\.txt.*new or empty folder"):
        write_dataset(tmp_path, images=3, size=16)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_instead_of_the_folder_is_refused(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataError, match="/data"):
        write_dataset(tmp_path / "data", images=3, size=16)
    assert (tmp_path / "data").read_text() == "a file"


def test_no_permission_names_the_folder(tmp_path, monkeypatch):
    def refuse(**_):  # chmod would not stop root
        raise PermissionError(13, "Permission denied", str(tmp_path / ".data-x"))

    monkeypatch.setattr(module.tempfile, "mkdtemp", refuse)
    with pytest.raises(DataError, match=r"/data.*Permission denied"):
        write_dataset(tmp_path / "data", images=3, size=16)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("there", [True, False])
def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, error, there):
    if there:
        (tmp_path / "data").mkdir()
    calls = []

    def fail_later(*args, **options):
        calls.append(args)
        if len(calls) == 4:
            raise error
        return phantom(*args, **options)

    monkeypatch.setattr(module, "phantom", fail_later)
    with pytest.raises(error):
        write_dataset(tmp_path / "data", images=9, size=16)
    assert list(tmp_path.rglob("*")) == ([tmp_path / "data"] if there else [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 2}, "at least 3"),
        ({"images": 5, "split": True}, "at least 6"),
        ({"images_per_patient": 0}, "images_per_patient"),
        ({"size": 8}, "size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_numbers_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        write_dataset(tmp_path / "data", **options)
    assert not list(tmp_path.iterdir())

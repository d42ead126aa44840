from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.builders import classes, make, message, opened, parts, rows
from xrayfast.errors import ConfigError, DataError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="real data not at hand")


def test_fractions_and_seed(tmp_path):
    classes(tmp_path, a=20, b=20)
    data = opened(tmp_path, valid_fraction=0.25, test_fraction=0.25, split_seed=1)
    assert data.counts().loc["images"].to_dict() == {"train": 20, "valid": 10, "test": 10}
    assert parts(data) == parts(opened(tmp_path, valid_fraction=0.25, test_fraction=0.25, split_seed=1))
    assert parts(data) != parts(opened(tmp_path, valid_fraction=0.25, test_fraction=0.25, split_seed=2))
    assert any("seed 1" in note and "25% valid and 25% test" in note for note in data.notes)
    assert "leave nothing to train on" in message(ConfigError, tmp_path, valid_fraction=0.5, test_fraction=0.5)


def test_valid_is_drawn_where_only_train_and_test_are_given(tmp_path):
    classes(tmp_path / "train", a=10, b=10)
    classes(tmp_path / "test", a=3, b=4)
    data = opened(tmp_path)
    assert data.counts().loc["images"].to_dict() == {"train": 16, "valid": 4, "test": 7}
    assert all((part == "test") == image.startswith("test/") for image, part in parts(data).items())


def test_implied_labels(tmp_path):
    classes(tmp_path, covid=5, pneumonia=5, normal=5)
    data = opened(tmp_path, imply=("covid=pneumonia", "pneumonia=abnormal"))
    assert data.task == "multi" and data.labels == ("abnormal", "covid", "normal", "pneumonia")
    assert rows(data)["covid/covid000.png"] == "abnormal|covid|pneumonia"
    assert rows(data)["normal/normal000.png"] == "normal"
    assert "a -> b -> a" in message(ConfigError, tmp_path, imply=("a=b", "b=a"))
    assert "Did you mean 'covid'?" in message(DataError, tmp_path, imply=("covi=pneumonia",))
    assert "task single" in message(ConfigError, tmp_path, imply=("covid=pneumonia",), task="single")


def test_part(tmp_path):
    data = opened(classes(tmp_path, a=10, b=10))
    valid = data.part("valid")
    assert len(valid) == 4 and set(valid.table["split"]) == {"valid"}
    assert valid.table.index.tolist() == [0, 1, 2, 3] and valid.targets.shape == (4, 2)
    assert valid.targets.sum(0).tolist() == [2, 2] and valid.labels == data.labels
    with pytest.raises(ConfigError, match="Did you mean 'valid'"):
        data.part("vaild")


def test_fingerprint_follows_the_data_and_not_the_place(tmp_path):
    for place in ("one", "two"):
        classes(tmp_path / place, a=5, b=5)
    one, two = (opened(tmp_path / place).fingerprint() for place in ("one", "two"))
    assert one == two and len(one) == 64
    assert opened(tmp_path / "one", split_seed=9).fingerprint() != one
    assert opened(tmp_path / "one", imply=("a=b",)).fingerprint() != one
    data = opened(tmp_path / "two")
    make(tmp_path / "two", "a/a000.png", content="of another size")
    assert data.fingerprint() != one
    (tmp_path / "two" / "a" / "a000.png").unlink()
    with pytest.raises(DataError, match=r"a000\.png: can't be read"):
        data.fingerprint()


# Real data sets


@real_data
def test_darkcovid_as_folders():
    data = opened(SHARED / "darkcovid")
    assert len(data) == 1124 and data.task == "single"
    assert data.counts().sum(axis=1).to_dict() == {
        "covid-19": 124, "normal": 500, "pneumonia": 500, "images": 1124
    }  # fmt: skip
    assert data.counts()["valid"].tolist() == [25, 100, 100, 225]


@real_data
def test_darkcovid_with_an_implied_label():
    data = opened(SHARED / "darkcovid", imply=("covid-19=pneumonia",))
    assert data.task == "multi"
    assert data.counts().sum(axis=1)["pneumonia"] == 624


@real_data
def test_nih_as_a_table():
    data = opened(SHARED / "nih_multilabel", test_fraction=0.1)
    assert len(data) == 6676 and data.task == "multi" and len(data.labels) == 14
    assert data.table["patient"].nunique() == 2212
    assert data.table.groupby("patient")["split"].nunique().max() == 1
    for part, fraction in (("train", 0.7), ("valid", 0.2), ("test", 0.1)):
        rows = (data.table["split"] == part).to_numpy()
        assert abs(rows.mean() - fraction) < 0.01
        assert np.abs(data.targets[rows].sum(0) - fraction * data.targets.sum(0)).max() < 3


def test_a_patient_in_two_given_parts_is_noted(tmp_path):
    make(tmp_path, "a.png", "b.png", "c.png", "d.png")
    table = tmp_path / "t.csv"
    table.write_text("image,label,split,patient\na.png,x,train,7\nb.png,y,train,8\nc.png,x,valid,7\nd.png,y,valid,9\n")
    notes = opened(tmp_path, labels=table).notes
    assert any("1 of 3 patients stand in more than one part" in note for note in notes)
    table.write_text("image,label,split,patient\na.png,x,train,7\nb.png,y,train,8\nc.png,x,valid,\nd.png,y,valid,9\n")
    assert not any("more than one part" in note for note in opened(tmp_path, labels=table).notes)

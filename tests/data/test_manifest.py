from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import xrayfast as xf
from tests.data.builders import cells, classes, lines, make, message, noted, opened, rows, splits, table
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors import ConfigError, DataError

LABELS = [
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
]  # fmt: skip


def test_fractions_and_seed(tmp_path):
    classes(tmp_path, a=20, b=20)
    data = opened(tmp_path, valid_fraction=0.25, test_fraction=0.25, split_seed=1)
    assert data.counts().loc["images"].to_dict() == {"train": 20, "valid": 10, "test": 10}
    assert splits(data) == splits(opened(tmp_path, valid_fraction=0.25, test_fraction=0.25, split_seed=1))
    assert splits(data) != splits(opened(tmp_path, valid_fraction=0.25, test_fraction=0.25, split_seed=2))
    assert any("seed 1" in note and "25% valid and 25% test" in note for note in data.notes)
    assert "leave nothing to train on" in message(ConfigError, tmp_path, valid_fraction=0.5, test_fraction=0.5)


def test_valid_is_drawn_if_only_train_and_test_are_given(tmp_path):
    classes(tmp_path / "train", a=10, b=10)
    classes(tmp_path / "test", a=3, b=4)
    data = opened(tmp_path)
    assert data.counts().loc["images"].to_dict() == {"train": 16, "valid": 4, "test": 7}
    assert all((split == "test") == image.startswith("test/") for image, split in splits(data).items())


def test_a_label_that_validation_lacks_is_named(tmp_path):
    classes(tmp_path / "train", a=4, b=4)
    classes(tmp_path / "valid", a=4)
    assert "No validation images of b." in opened(tmp_path).notes


def test_implied_labels(tmp_path):
    classes(tmp_path, covid=5, pneumonia=5, normal=5)
    data = opened(tmp_path, imply=("covid=pneumonia", "pneumonia=abnormal"))
    assert data.task == "multi" and data.labels == ("abnormal", "covid", "normal", "pneumonia")
    assert rows(data)["covid/covid000.png"] == "abnormal|covid|pneumonia"
    assert rows(data)["normal/normal000.png"] == "normal"
    assert "a -> b -> a" in message(ConfigError, tmp_path, imply=("a=b", "b=a"))
    assert "Did you mean 'covid'?" in message(DataError, tmp_path, imply=("covi=pneumonia",))
    assert "task is single" in message(ConfigError, tmp_path, imply=("covid=pneumonia",), task="single")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.assign(split="training"), "found the split 'training'; expected train, valid or test"),
        (lambda table: table.iloc[:3], "found 3 rows, and targets of 20 images"),
        (lambda table: table.drop(columns="patient"), "found 0 columns 'patient'; expected one"),
        (lambda table: pd.concat([table, table[["path"]]], axis=1), "found 2 columns 'path'; expected one"),
        (
            lambda table: table.assign(labels="a"),
            "found the labels 'a' of b/b000.png, which are not those of its targets",
        ),
        (lambda table: table[::-1], "found the labels 'b' of b/b009.png, which are not those of its targets"),
    ],
)
def test_a_table_that_was_changed_so_that_it_does_not_fit_is_refused(tmp_path, change, words):
    data = opened(classes(tmp_path, a=10, b=10))
    data.require_consistent()
    changed = replace(data, table=change(data.table))
    for use in (xf.dataloaders, xf.split, xf.fit):
        with pytest.raises(DataError, match=words):
            use(changed)


def test_other_splits_are_one_name_for_each_image_in_their_order(tmp_path):
    data = opened(classes(tmp_path, a=10, b=10))
    names = ["valid", *["train"] * 17, "test", "valid"]
    for given in (names, np.array(names), pd.Series(names, index=range(19, -1, -1))):
        assert data.with_splits(given, "mine").table["split"].tolist() == names
    assert data.subset("train").with_splits(["valid", *["train"] * 15], "mine").counts().loc["images", "valid"] == 1
    for given, words in (
        (["train"], "found 1 split for 20 images; expected one split per image"),
        (["trian", *names[1:]], "found the split 'trian'; expected train, valid or test"),
        (["train"] * 20, "no images in the valid split"),
    ):
        with pytest.raises(DataError, match=words):
            data.with_splits(given, "mine")


def test_labels_of_a_config_file_for_other_data_are_noted(tmp_path):
    for name in ("old", "new"):
        classes(tmp_path / name, a=10, b=10)
        table(tmp_path / name, "image,label\n" + "".join(f"{c}/{c}{i:03d}.png,{c}\n" for c in "ab" for i in range(10)))
    (tmp_path / "config.yaml").write_text(f"data: {{source: {tmp_path}/old, labels: {tmp_path}/old/labels.csv}}")
    config, words = xf.Config.read(tmp_path / "config.yaml"), "which the config file names"
    assert noted(open_manifest(config.updated({"source": tmp_path / "new"}).data), words)
    for given in ({}, {"source": tmp_path}, {"source": tmp_path / "old"}):
        assert not noted(open_manifest(config.updated(given).data), words)
    given = {"source": tmp_path / "new", "labels": tmp_path / "old/labels.csv"}
    assert not noted(open_manifest(config.updated(given).data), words)


def test_a_subset_is_no_data_set_to_train_on(tmp_path):
    """Training on such data used to run an epoch and then report that training diverged."""
    data = opened(classes(tmp_path, a=10, b=10))
    for split, other in (("train", "valid"), ("valid", "train")):
        for use in (xf.fit, xf.find_lr):
            with pytest.raises(DataError, match=f"found no images in the {other} split; expected some in both"):
                use(data.subset(split))
    with pytest.raises(DataError, match="no images in the train split"):
        xf.dataloaders(data.subset("valid"))
    with pytest.raises(ConfigError, match="found the split 'None'"):
        data.subset(None)


def test_subset(tmp_path):
    data = opened(classes(tmp_path, a=10, b=10))
    valid = data.subset("valid")
    assert len(valid) == 4 and set(valid.table["split"]) == {"valid"}
    assert valid.table.index.tolist() == [0, 1, 2, 3] and valid.targets.shape == (4, 2)
    assert valid.targets.sum(0).tolist() == [2, 2] and valid.labels == data.labels
    with pytest.raises(ConfigError, match="Did you mean 'valid'"):
        data.subset("vaild")


def test_the_fingerprint_depends_on_the_data_and_not_on_its_folder(tmp_path):
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


def test_a_patient_in_two_given_splits_is_noted(tmp_path):
    make(tmp_path, "a.png", "b.png", "c.png", "d.png")
    file = tmp_path / "t.csv"
    file.write_text("image,label,split,patient\na.png,x,train,7\nb.png,y,train,8\nc.png,x,valid,7\nd.png,y,valid,9\n")
    notes = opened(tmp_path, labels=file).notes
    assert any("1 of 3 patients is in more than one given split" in note for note in notes)
    file.write_text("image,label,split,patient\na.png,x,train,7\nb.png,y,train,8\nc.png,x,valid,\nd.png,y,valid,9\n")
    assert not any("more than one split" in note for note in opened(tmp_path, labels=file).notes)


def test_masks(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(10)))
    text = "image,A,B\n" + "".join(f"{i}.png,{i % 2},{int(i > 4)}\n" for i in range(10))
    table(tmp_path, text.replace("3.png,1,0", "3.png,-1,").replace("8.png,0,1", "8.png,,1"))
    data = opened(tmp_path)
    assert data.targets.dtype == np.float32 and data.truth.dtype == np.int8
    assert np.isnan(data.targets).sum() == 3 and (data.truth < 0).sum() == 3
    assert cells(data, "3.png") == {"A": None, "B": None} and rows(data)["3.png"] == ""
    assert data.counts().loc[["A", "B"]].sum(axis=1).tolist() == [4, 5]
    train = data.subset("train")
    assert len(train.drawn) == len(train.targets) == len(train.truth) == len(train) and train.drawn.all()
    assert opened(tmp_path, uncertain=("smooth",)).targets[3].tolist()[0] == pytest.approx(0.7)


def test_the_fingerprint_depends_on_masked_cells(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(10)))
    text = "image,A,B\n" + "".join(f"{i}.png,{i % 2},{int(i > 4)}\n" for i in range(10))
    table(tmp_path, text)
    certain = opened(tmp_path).fingerprint()
    table(tmp_path, text.replace("2.png,0,0", "2.png,-1,0").replace("3.png,1,0", "3.png,1,"))
    prints = {
        policy: opened(tmp_path, uncertain=(policy,)).fingerprint()
        for policy in ("ignore", "zeros", "smooth:0.6", "smooth:0.7")
    }
    assert len({certain, *prints.values()}) == 5
    assert opened(tmp_path, uncertain=("zeros",), blank=("zeros",)).fingerprint() == certain


def test_a_single_label_table_with_uncertain_cells_is_multi_label(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(10)))
    text = "image,A,B\n" + "".join(f"{i}.png,{i % 2},{1 - i % 2}\n" for i in range(10))
    table(tmp_path, text)
    assert opened(tmp_path).task == "single"
    table(tmp_path, text.replace("3.png,1,0", "3.png,1,-1"))
    assert opened(tmp_path).task == "multi"
    assert opened(tmp_path, uncertain=("zeros",)).task == "single"
    assert "row 5: found 1 labels (A) and masked ones" in message(DataError, tmp_path, task="single")


def test_no_finding_beside_one_label(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(10)))
    table(tmp_path, lines("image,label", "{i}.png,{ab}").replace(",a", ",No finding").replace("1.png,b", "1.png,b|c"))
    assert opened(tmp_path).labels == ("b", "c")
    assert opened(tmp_path, keep_no_finding=True).labels == ("b", "c", "No finding")


def test_one_label_that_all_images_have(tmp_path):
    make(tmp_path, *(f"{i}.png" for i in range(4)))
    table(tmp_path, "image,A\n" + "".join(f"{i}.png,{1 if i else -1}\n" for i in range(4)))
    assert "only one class, 'A'" in message(DataError, tmp_path)
    assert opened(tmp_path, uncertain=("zeros",), valid_fraction=0.3).labels == ("A",)


def test_the_split_table(tmp_path):
    found = opened(classes(tmp_path, a=5, b=5)).split_table()
    assert list(found.columns) == ["image", "patient", "split", "labels"] and len(found) == 10
    assert found.to_csv(index=False).splitlines()[1] == f"a/a000.png,,{found['split'][0]},a"


# Real data sets


def test_darkcovid_as_folders(shared):
    data = opened(shared / "data" / "darkcovid")
    assert len(data) == 1124 and data.task == "single"
    assert data.counts().sum(axis=1).drop("patients").to_dict() == {
        "covid-19": 124, "normal": 500, "pneumonia": 500, "images": 1124
    }  # fmt: skip
    assert data.table["patient"].notna().sum() == 1000 and noted(
        data, "NIH ChestX-ray14 file names", "on 1000 of 1124 images"
    )
    assert data.table["patient"].nunique() == 682
    assert data.table.groupby("patient")["split"].nunique().max() == 1
    share = data.counts()["valid"] / data.counts().sum(axis=1)
    assert share.drop("patients").between(0.19, 0.21).all()
    data = opened(shared / "data" / "darkcovid", patient_col="none")
    assert data.counts()["valid"].tolist() == [25, 100, 100, 225]


def test_darkcovid_with_an_implied_label(shared):
    data = opened(shared / "data" / "darkcovid", imply=("covid-19=pneumonia",))
    assert data.task == "multi"
    assert data.counts().sum(axis=1)["pneumonia"] == 624


def test_darkcovid_as_a_table(shared):
    folder = shared / "data" / "darkcovid"
    data = opened(folder, labels=folder / "manifest.csv")
    assert data.labels == ("covid-19", "normal", "pneumonia") and data.task == "single" and len(data) == 1124
    assert data.table["patient"].nunique() == 765
    names = opened(folder)
    assert rows(data) == rows(names)
    both = data.table.merge(names.table, on="image").dropna()
    assert len(both) == 1000 and both.groupby("patient_x")["patient_y"].nunique().max() == 1
    assert both.groupby("patient_y")["patient_x"].nunique().max() == 1


def test_nih_as_a_table(shared):
    data = opened(shared / "data" / "nih_multilabel", test_fraction=0.1)
    assert len(data) == 6676 and data.task == "multi" and len(data.labels) == 14
    assert data.table["patient"].nunique() == 2212
    assert data.table.groupby("patient")["split"].nunique().max() == 1
    for split, fraction in (("train", 0.7), ("valid", 0.2), ("test", 0.1)):
        rows = (data.table["split"] == split).to_numpy()
        assert abs(rows.mean() - fraction) < 0.01
        assert np.abs(data.targets[rows].sum(0) - fraction * data.targets.sum(0)).max() < 3
    assert set(data.table["sex"]) == {"F", "M"} and set(data.table["view"]) == {"AP", "PA"}
    assert data.table["age"].between(0, 120).sum() > 6600
    names = opened(shared / "data" / "nih_multilabel", patient_col="name", test_fraction=0.1)
    assert splits(names) == splits(data)


# Scale


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["generic", "NIH"])
def test_many_images_open_in_linear_time_and_little_memory(tmp_path, dataset):
    """A tenth of the 400,000 rows that must load in 20 s and with 1.5 GB."""
    rng = np.random.default_rng(0)
    count = 40_000
    names = [f"{i // 4:08d}_{i % 4:03d}.png" for i in range(count)]
    for i, name in enumerate(names):
        folder = tmp_path / f"images_{i // 4000:03d}" / "images"
        if i % 4000 == 0:
            folder.mkdir(parents=True)
        (folder / name).touch()
    present = rng.random((count, len(LABELS))) < 0.06
    if dataset == "NIH":
        head = "Image Index,Finding Labels,Patient ID\n"
        texts = ["|".join(np.array(LABELS)[row]) or "No Finding" for row in present]
        text = head + "".join(f"{name},{labels},{name[:8]}\n" for name, labels in zip(names, texts, strict=True))
    else:
        flags = [",".join(map(str, row)) for row in present.astype(int)]
        text = f"path,patient,{','.join(LABELS)}\n" + "".join(
            f"images_{i // 4000:03d}/images/{name},{name[:8]},{flags[i]}\n" for i, name in enumerate(names)
        )
    file = table(tmp_path, text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    data = opened(tmp_path, labels=file)
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (
        2**20 if sys.platform == "darwin" else 2**10
    )
    assert (data.truth == present).all() and len(data) == count
    assert seconds < 6, f"{seconds:.1f} s"
    assert grown < 200, f"{grown:.0f} MB"

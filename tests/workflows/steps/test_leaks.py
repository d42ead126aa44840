"""The check before training that each patient and each image is in one split."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.errors import DataError, WriteError
from xrayfast.runs.run import Run
from xrayfast.workflows.split import balance
from xrayfast.workflows.split import split as write_split
from xrayfast.workflows.steps.data.images import decode, image_infos, split_table
from xrayfast.workflows.steps.leaks import compare_all_images, require_leak_free


@pytest.fixture
def copies(data_dir, tmp_path):
    """The films, each with a re-encoded copy under another name, so any split by image divides pairs."""
    folder = shutil.copytree(data_dir, tmp_path / "data")
    (folder / "labels.csv").unlink()
    for path in sorted(folder.glob("*/*.png")):
        Image.open(path).save(path.with_name(f"{path.stem.replace('_', 'x')}.jpg"), quality=90)
    return folder


@pytest.fixture
def given(data_dir, tmp_path):
    """Split folders that share a patient and an image, and the name of that image."""
    folder = tmp_path / "given"
    table = pd.read_csv(data_dir / "labels.csv")
    for i, name in enumerate(table["image"]):
        target = (folder / ("train" if i % 3 else "valid") / name).parent
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_dir / name, target)
    duplicate = next((folder / "train" / "normal").iterdir())
    shutil.copy(duplicate, folder / "valid" / "normal" / "again.png")
    return folder, duplicate.name


def test_duplicates_stay_together_in_a_split_that_is_drawn(copies):
    data = xf.open_data(copies)
    assert any("Split drawn" in note for note in data.notes)
    checked = require_leak_free(data, compare_all_images(data, decode(data, 64)[1]), allow_leaks=False)
    kept, remarks, looked = checked.data, checked.warnings, checked.looked
    assert not any("leaks" in remark for remark in remarks)
    assert any("No image is in more than one split" in sentence for sentence in looked)
    table = kept.table.assign(film=kept.table["image"].str.replace("x", "_").str.extract(r"(p\d+_\d+)")[0])
    assert (table.groupby("film")["split"].nunique() == 1).all()
    assert (data.table.assign(film=table["film"]).groupby("film")["split"].nunique() > 1).any(), "nothing to mend"
    assert set(kept.table["split"]) == {"train", "valid"}


def test_a_given_split_with_leaks_is_refused_by_name_and_nothing_is_written(given, tmp_path):
    folder, image = given
    with pytest.raises(DataError) as caught:
        xf.fit(folder, runs=tmp_path / "runs", **SMALL)
    message = str(caught.value)
    assert image in message
    assert "again.png" in message
    assert "allow_leaks=True" in message
    assert not (tmp_path / "runs").exists()


def test_a_split_file_with_leaks_is_refused_with_advice_on_the_file(given, tmp_path):
    folder, _ = given
    xf.open_data(folder).split_table().to_csv(tmp_path / "split.csv", index=False)
    data = xf.open_data(folder, split_file=tmp_path / "split.csv")
    words = r"fix the split file, or leave out split_file= .* at size=, so xf.split has to"
    with pytest.raises(DataError, match=words):
        require_leak_free(data, compare_all_images(data, decode(data, 64)[1]), allow_leaks=False)


def test_leaks_that_are_allowed_are_recorded_and_reported(given, tmp_path):
    folder, _ = given
    run = xf.fit(folder, runs=tmp_path, epochs=1, allow_leaks=True, **SMALL)
    assert Run(run.path).config.train.allow_leaks
    assert "leaks allowed" in run.info["remarks"][0]
    assert "again.png" in run.info["remarks"][0]
    xf.interpret(run)
    assert "Trained with leaks allowed" in run.report_path.read_text()


def test_a_patient_on_both_sides_of_a_split_column_is_a_leak_and_goes_by_a_pseudonym(data_dir, tmp_path):
    folder = shutil.copytree(data_dir, tmp_path / "data")
    table = pd.read_csv(folder / "labels.csv")
    table["patient"] = "secret-" + table["patient"]
    table["split"] = ["valid" if i % 2 else "train" for i in table.groupby("patient").cumcount()]
    table.to_csv(folder / "labels.csv", index=False)
    data = xf.open_data(folder, labels=folder / "labels.csv")
    with pytest.raises(DataError, match=r"P0000\d \(\d+ train, \d+ valid\)") as caught:
        require_leak_free(data, compare_all_images(data, decode(data, 64)[1]), allow_leaks=False)
    assert "secret" not in str(caught.value)


def test_a_split_that_is_written_is_replayed(copies, tmp_path):
    file = tmp_path / "split.csv"
    written = write_split(xf.open_data(copies, test_fraction=0.2), output=file)
    again = xf.open_data(copies, split_file=file)
    with pytest.raises(WriteError, match="is an input of this command"):
        write_split(again, output=file)
    assert again.table["split"].tolist() == written.table["split"].tolist()
    assert not again.drawn.any()
    remarks = require_leak_free(again, compare_all_images(again, decode(again, 64)[1]), allow_leaks=False).warnings
    assert not any("leaks" in remark for remark in remarks)


def test_a_split_file_of_images_with_the_same_names_is_noted(data_dir, tmp_path):
    folder = shutil.copytree(data_dir, tmp_path / "data")
    data = xf.open_data(folder)
    infos = image_infos(data, decode(data, 64)[1])
    split_table(data, infos).to_csv(tmp_path / "split.csv", index=False)
    again, words = (
        xf.open_data(folder, split_file=tmp_path / "split.csv"),
        "have other pixels than the images of the same",
    )
    assert not any(words in note for note in decode(again, 64)[0].notes)
    path = Path(data.table["path"][3])
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    for noted in (decode(again, 64)[0], xf.check(again).data):
        assert any(f"1 of 36 images {words}" in note for note in noted.notes)


def test_rare_labels_and_contradicting_labels_are_warned_of(data_dir, tmp_path):
    folder = shutil.copytree(data_dir, tmp_path / "data")
    (folder / "labels.csv").unlink()
    image = sorted(folder.glob("normal/*.png"))[0]
    shutil.copy(image, folder / "pneumonia" / "again.png")
    for path in sorted(folder.glob("covid-19/*.png"))[8:]:
        path.unlink()
    data = xf.open_data(folder)
    warnings = require_leak_free(data, compare_all_images(data, decode(data, 64)[1]), allow_leaks=False).warnings
    assert [warning.partition(". ")[0] for warning in warnings] == [
        "1 group of duplicates with contradicting labels",
        "1 label too rare to learn",
        "3 labels too rare to evaluate in valid",
    ]
    assert f"normal/{image.name} is 'normal' but pneumonia/again.png is 'pneumonia'" in warnings[0]
    assert "'covid-19' 6" in warnings[1]


def test_a_run_on_a_split_that_was_mended_resumes_and_loads_on_its_own_split(copies, tmp_path):
    run = xf.fit(copies, runs=tmp_path, epochs=1, **SMALL)
    learn = xf.load(run)
    expected = pd.read_csv(run.split_path).set_index("image")["split"]
    found = learn.dls.manifest.table.set_index("image")["split"]
    assert found.to_dict() == expected.to_dict()


def test_the_balance_counts_labels_by_split(data_dir):
    data = xf.open_data(data_dir, labels=data_dir / "labels.csv", test_fraction=0.2)
    table = balance(data)
    for split in ("train", "valid", "test"):
        rows = data.table[data.table["split"] == split]
        for label in data.labels:
            assert table.loc[label, split] == (rows["labels"] == label).sum()
            assert table.loc[label, f"{split}_share"] == pytest.approx((rows["labels"] == label).mean())
        assert table.loc["patients", split] == rows["patient"].nunique()
    assert table.filter(like="share").loc["images"].sum() == pytest.approx(1)


def test_if_all_images_belong_together_check_reports_it_and_fit_refuses(data_dir, tmp_path):
    image = next(data_dir.glob("normal/*.png"))
    for label in ("a", "b"):
        for i in range(4):
            (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(image, tmp_path / "data" / label / f"{label}{i}.png")
    assert xf.check(tmp_path / "data", size=64, output=tmp_path / "check").leaks
    assert (tmp_path / "check" / "check.html").is_file()
    with pytest.raises(DataError, match=r"Remove copies") as caught:
        xf.fit(tmp_path / "data", runs=tmp_path / "runs", **SMALL)
    assert "a0.png" in str(caught.value)
    assert "ignore_split" not in str(caught.value), "no split is given"


def test_near_duplicates_stay_together_at_a_training_size_too_small_to_tell_them(copies, tmp_path):
    run = xf.fit(copies, runs=tmp_path, epochs=1, **SMALL)
    table = pd.read_csv(run.split_path)
    data_dir = table.assign(film=table["image"].str.extract(r"(p\d+_\d+)")[0]).groupby("film")["split"]
    assert run.config.model.size == 32
    assert (data_dir.nunique() == 1).all()

"""Evaluation on a run's own splits and on other data."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

import xrayfast as xf
from tests.audit.sets import marked
from tests.conftest import SMALL
from xrayfast.config import Config, DataConfig
from xrayfast.data.cache.image_cache import open_images
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors import ConfigError, DataError, RunError
from xrayfast.metrics.claims.headline import optimism
from xrayfast.runs.run import Run
from xrayfast.synthetic import write_dataset
from xrayfast.workflows import evaluate as module
from xrayfast.workflows.evaluate import evaluate
from xrayfast.workflows.steps.evaluation import evaluated_data
from xrayfast.workflows.steps.seen import NOT_FOUND, OTHER_PATIENTS, SAME_ARCHIVE, describe_seen

FEW = {"resamples": 20, "device": "cpu"}


@pytest.fixture
def page():
    """Requested by tests of `evaluation.html`, which takes longer than the rest; other tests skip the page."""


@pytest.fixture(autouse=True)
def no_page(request, monkeypatch):
    if "page" not in request.fixturenames:
        monkeypatch.setattr(module, "write_page", lambda *_: None)


@pytest.fixture
def run(tiny_run, tmp_path):
    return Run(shutil.copytree(tiny_run.path, tmp_path / "tiny"))


@pytest.fixture
def multi_run(tiny_multi_run, tmp_path):
    return Run(shutil.copytree(tiny_multi_run.path, tmp_path / "multi"))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """24 images that no run has seen, in three class folders."""
    folder = tmp_path_factory.mktemp("others") / "elsewhere"
    write_dataset(folder, images=24, size=64, seed=11)
    (folder / "labels.csv").unlink(missing_ok=True)
    return folder


def listed(others, folder, header="image,labels", row="{path},{label}"):
    """Copy the images to `folder`, write a table of them, and return its path."""
    shutil.copytree(others, folder / "images")
    data_dir = sorted(path for path in (folder / "images").rglob("*.png"))
    rows = [row.format(path=path.relative_to(folder), label=path.parent.name, i=i) for i, path in enumerate(data_dir)]
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "labels.csv"


def files_of(run):
    return sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*"))


def warned(metrics):
    """Return the texts of the warnings, keyed by code."""
    found = {}
    for one in metrics["result"]["warnings"]:
        found.setdefault(one["code"], []).append(one["text"])
    return found


def require_alike(found, expected):
    """Check that two trees are equal up to the nine digits with which predictions are saved."""
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert list(found) == list(expected)
        for name in found:
            require_alike(found[name], expected[name])
    elif isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            require_alike(one, other)
    elif isinstance(found, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    else:
        assert found == expected


# On the run's own data


def test_evaluating_the_run_s_test_split_gives_its_own_metrics(run, page):
    before = files_of(run)
    found = evaluate(run, command="xrayfast evaluate tiny")
    assert found.path == run.path / "evaluations" / "test"
    metrics = found.metrics
    expected = {name: value for name, value in run.metrics["test"].items() if name != "subgroups"}
    assert {"few images", "few patients"} <= warned(metrics).keys()
    require_alike(metrics["result"], expected)
    assert (metrics["split"], metrics["own"]) == ("test", True)
    n = len(run.predictions("test"))
    assert metrics["images"] == {"found": n, "left_out": [], "evaluated": n, "own_test": n}
    assert metrics["labels"] == {"used": list(run.labels), "unknown": [], "lacking": []}
    assert metrics["decision"] == run.decision.to_json()
    assert found.info["command"] == "xrayfast evaluate tiny"
    assert np.array_equal(found.predictions.probability, run.predictions("test").probability)
    overall = pd.read_csv(found.table_path("overall")).set_index("metric")
    assert overall.loc["accuracy", "value"] == pytest.approx(metrics["result"]["overall"]["accuracy"])
    assert overall.loc["accuracy", "low"] <= overall.loc["accuracy", "value"]
    by_label = pd.read_csv(found.table_path("per_label"))
    assert set(by_label["label"]) == set(run.labels)
    assert found.report_path.read_text().lower().startswith("<!doctype html>")
    new = {path for path in files_of(run) if path not in before}
    assert all(path.startswith("evaluations") for path in new)
    assert [one.path for one in run.evaluations] == [found.path]


def test_a_second_evaluation_takes_the_next_name_and_a_given_one_is_never_overwritten(run):
    first, second = evaluate(run, resamples=0), evaluate(run, resamples=0)
    assert (first.path.name, second.path.name) == ("test", "test-2")
    assert "intervals" not in second.metrics["result"]
    evaluate(run, name="mine", resamples=0)
    with pytest.raises(RunError, match="mine"):
        evaluate(run, name="mine", resamples=0)
    assert (run.path / "evaluations" / "mine" / "metrics.json").is_file()


def test_the_warnings_of_an_evaluation_of_an_older_version_are_read(run):
    found = evaluate(run, resamples=0)
    content = json.loads((found.path / "metrics.json").read_text())
    content["warnings"] = ["Few images."]
    del content["result"]["warnings"]
    found.write_metrics(content)
    assert found.metrics["result"]["warnings"] == [{"code": "data", "text": "Few images.", "advice": ""}]


def test_the_prior_of_the_run_s_own_data_is_not_corrected(run):
    with pytest.raises(ConfigError, match="correct_prior without data"):
        evaluate(run, correct_prior=True)


def test_the_validation_split_comes_with_a_warning(run):
    found = evaluate(run, split="valid", resamples=0).metrics
    assert found["split"] == "valid"
    assert warned(found)["chosen here"] == [optimism()]


def test_a_run_without_a_test_split_says_what_to_do(multi_run):
    with pytest.raises(RunError) as caught:
        evaluate(multi_run)
    for words in ("no predictions of a test split", "test_fraction=0.15", "split='valid'", "DATA"):
        assert words in str(caught.value)
    assert not (multi_run.path / "evaluations").exists()
    with pytest.raises(ConfigError, match="split is train; expected test or valid"):
        evaluate(multi_run, split="train")
    with pytest.raises(ConfigError, match="found tta and device and batch_size without data"):
        evaluate(multi_run, split="valid", tta=True, device="cpu", batch_size=4)


def test_an_unknown_subgroup_is_an_error(run):
    known = run.predictions("test").attributes
    missing = next(name for name in ("view", "sex", "age") if name not in known)
    in_folders = run.config.data.labels is None
    kind, words = (
        (ConfigError, "do not contain {}; they contain ") if in_folders else (DataError, "found no column '{}'")
    )
    for name in (missing, "hospital"):
        with pytest.raises(kind, match=words.format(name)):
            evaluate(run, by=name)
    assert not (run.path / "evaluations").exists()


# On other data


def test_training_images_are_left_out_whatever_their_file_names(run, data_dir, tmp_path, page):
    """Copies with other names in another lossless format: only the test split is left, with the same metrics."""
    for number, path in enumerate(sorted(data_dir.rglob("*.png"))):
        target = tmp_path / "copy" / path.parent.name / f"renamed-{number:03d}.tif"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    found = evaluate(run, tmp_path / "copy", **FEW)
    counts = run.info["counts"]
    assert found.metrics["images"] == {
        "found": 36,
        "left_out": [
            ["seen in training", counts["train"]["images"]],
            ["seen in validation", counts["valid"]["images"]],
        ],
        "evaluated": counts["test"]["images"],
        "own_test": counts["test"]["images"],
    }
    said = "are in the run's own test split: this is not an external test"
    assert any(said in one for one in warned(found.metrics)["data"])
    assert "External test" not in run.model_card_path.read_text()
    assert "External test" not in found.report_path.read_text()
    own, again = run.predictions("test"), found.predictions
    assert np.allclose(np.sort(own.raw, axis=0), np.sort(again.raw, axis=0), atol=1e-5)
    ours, theirs = run.metrics["test"]["overall"], found.metrics["result"]["overall"]
    assert theirs["auroc_macro"] == pytest.approx(ours["auroc_macro"])


@pytest.mark.parametrize(
    "how",
    [
        "re-encoded or marked",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("scaled", "cropped", "turned", "padded")),
    ],
)
def test_copies_of_training_images_are_left_out_as_check_finds_them(run, data_dir, others, tmp_path, how):
    """If the run's own data are gone, a warning says that copies could not be found."""
    folder = Path(shutil.copytree(others, tmp_path / "data"))
    splits = pd.read_csv(run.split_path)
    train, valid = (splits["image"][splits["split"] == split] for split in ("train", "valid"))
    for place, name in enumerate((*train, *valid)):
        image = Image.open(data_dir / name).convert("L")
        encoded = how == "re-encoded or marked" and place % 2 == 0
        if how == "re-encoded or marked" and not encoded:
            image = Image.fromarray(marked(np.asarray(image)))
        if how == "scaled":
            image = image.resize((58, 58))
        if how == "cropped":
            image = image.crop((2, 1, 63, 62))
        if how == "turned":
            image = ImageOps.invert(image.rotate(90))
        if how == "padded":
            image = ImageOps.expand(image, 8)
        target = folder / name.split("/")[0] / ("copy-" + name.split("/")[-1])
        image.save(target.with_suffix(".jpg") if encoded else target, quality=80)
    found = evaluate(run, folder, **FEW)
    assert found.metrics["images"]["left_out"] == [
        ["seen in training (near duplicate)", len(train)],
        ["seen in validation (near duplicate)", len(valid)],
    ]
    assert found.metrics["images"]["evaluated"] == 24
    config = run.config
    run.write_config(config.model_copy(update={"data": config.data.model_copy(update={"source": tmp_path / "gone"})}))
    found = evaluate(run, folder, **FEW).metrics
    assert NOT_FOUND in warned(found)["data"] and found["images"]["left_out"] == []


def test_patients_and_studies_of_training_are_left_out(others, data_dir, tmp_path):
    """Leading zeros of identifiers are ignored; patient_col='none' turns the comparison off."""
    own = pd.read_csv(data_dir / "labels.csv")
    own["patient"] = [f"{i // 2:04d}" for i in range(len(own))]
    own["study_uid"] = [f"1.2.{i}" for i in range(len(own))]
    own.to_csv(tmp_path / "own.csv", index=False)
    run = xf.fit(xf.open_data(data_dir, labels=tmp_path / "own.csv"), runs=tmp_path / "runs", epochs=1, **SMALL)
    trained = own[own["image"].isin(pd.read_csv(run.split_path).query("split == 'train'")["image"])]
    table = listed(others, tmp_path)
    new = pd.read_csv(table)
    new["patient"], new["study_uid"] = [f"n{i}" for i in range(24)], ""
    new.loc[[0, 1], "patient"] = [f" {int(trained.iloc[0]['patient'])}", ""]
    new.loc[1, "study_uid"] = trained.iloc[-1]["study_uid"]
    new.to_csv(table, index=False)
    found = evaluate(run, table, **FEW).metrics
    assert found["images"]["left_out"] == [
        ["seen in training (other images of the patient)", 1],
        ["seen in training (other images of the study)", 1],
    ]
    assert any(
        note.startswith("By identifiers, 1 of 23 patients of these data is in the run's own data.")
        for note in found["notes"]
    )
    new.iloc[:2].to_csv(table, index=False)
    with pytest.raises(DataError, match=r"none of the 2 images can be used.*patient_col='none' ignores identifiers"):
        evaluate(run, table, **FEW)
    new.to_csv(table, index=False)
    config = Config().updated({"source": table, "patient_col": "none"})
    assert [n for _, n in evaluate(run, config=config, **FEW).metrics["images"]["left_out"]] == [1]


def test_equal_patient_numbers_of_another_source_are_other_patients(others, data_dir, tmp_path, monkeypatch):
    """p0001 of other data is another person, unless a shared image, study or folder shows that it is one archive."""
    data_dir = Path(shutil.copytree(data_dir, tmp_path / "own"))
    own = pd.read_csv(data_dir / "labels.csv").assign(patient=[f"p{i // 2:04d}" for i in range(36)], exam=range(36))
    own.to_csv(tmp_path / "own.csv", index=False)
    run = xf.fit(xf.open_data(data_dir, labels=tmp_path / "own.csv"), runs=tmp_path / "runs", epochs=1, **SMALL)
    table = listed(others, tmp_path)
    new = pd.read_csv(table).assign(patient=[f"p{i // 2:04d}" for i in range(24)], exam=range(24))
    new.to_csv(table, index=False)
    found = evaluate(run, table, **FEW).metrics
    assert found["images"]["left_out"] == []
    assert any("12 of 12 patients of these data are in the run's own data, but no image" in n for n in found["notes"])
    split = new.assign(split=["train", "valid"] * 12)
    split.to_csv(table, index=False)
    data = xf.open_data(table)
    (remark,) = describe_seen(run, data, open_images(data.config, 32))
    assert remark.startswith(f"{run.path}: By identifiers, ") and remark.endswith(OTHER_PATIENTS)
    monkeypatch.chdir(tmp_path)
    of_one_table = replace(data, config=data.config.model_copy(update={"labels": Path("own.csv")}))
    (remark,) = describe_seen(run, of_one_table, open_images(data.config, 32))
    assert "other images of the patient" in remark and OTHER_PATIENTS not in remark
    shutil.copytree(others, data_dir / "later")
    later = new.assign(image=[f"later/{Path(image).parent.name}/{Path(image).name}" for image in new["image"]])
    later.to_csv(tmp_path / "later.csv", index=False)
    with pytest.raises(DataError, match=r": \d\d seen in training \(other images of the patient\)"):  # the same folder
        evaluate(run, config=Config().updated({"source": data_dir, "labels": tmp_path / "later.csv"}), **FEW)
    trained = pd.read_csv(run.split_path).query("split == 'train'")["image"].iloc[0]
    shutil.copy(data_dir / trained, (tmp_path / new.iloc[-1]["image"]).with_name("known.png"))
    known = new.iloc[-1:].assign(image=str(Path(new.iloc[-1]["image"]).with_name("known.png")), patient="x")
    pd.concat([new, known]).to_csv(table, index=False)
    with pytest.raises(DataError, match=r": 1 seen in training; \d\d seen in training \(other images of the patient\)"):
        evaluate(run, table, **FEW)


@pytest.mark.parametrize("own_column", [pytest.param(False, marks=pytest.mark.slow), True])
def test_patients_in_names_of_a_public_data_set_are_the_same_persons(others, data_dir, tmp_path, own_column):
    """Also if one side has them in a column; patient_col='none' ignores them, and other names are other persons."""
    own = pd.read_csv(data_dir / "labels.csv")[["image", "labels"]]
    for i, image in enumerate(own["image"]):
        target = tmp_path / "own" / image.split("/")[0] / f"{i // 2:08d}_{i % 2:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_dir / image, target)
        own.loc[i, "image"] = str(target.relative_to(tmp_path / "own"))
    if own_column:
        own.assign(patient=[i // 2 for i in range(len(own))]).to_csv(tmp_path / "own" / "labels.csv", index=False)
    labels = tmp_path / "own" / "labels.csv" if own_column else None
    run = xf.fit(xf.open_data(tmp_path / "own", labels=labels), runs=tmp_path / "runs", epochs=1, **SMALL)
    trained = pd.read_csv(run.split_path).query("split == 'train'")["image"].iloc[0]
    patient = trained.split("/")[-1][:8]
    folder = Path(shutil.copytree(others, tmp_path / "new"))
    first, second, *_ = sorted(folder.rglob("*.png"))
    first.rename(first.with_name(f"{patient}_099.png"))
    second.rename(second.with_name("00009999_000.png"))
    found = evaluate(run, folder, **FEW).metrics
    assert found["images"]["left_out"] == [["seen in training (other images of the patient)", 1]]
    assert any(note.startswith("By identifiers, 1 of 2 patients") and SAME_ARCHIVE in note for note in found["notes"])
    config = Config().updated({"source": folder, "patient_col": "none"})
    assert evaluate(run, config=config, **FEW).metrics["images"]["left_out"] == []


def test_the_splits_of_other_data_are_named(run, others, tmp_path):
    """Patients of neither side are known: that is said once."""
    table = listed(others, tmp_path)
    data = pd.read_csv(table).assign(split=["train", "valid", "test"] * 8)
    data.to_csv(table, index=False)
    with pytest.warns(UserWarning, match="images of all splits of the data"):  # as in a script, without a display
        found = evaluate(run, table, **FEW).metrics
    assert found["images"]["evaluated"] == 24
    note = "The images of all splits of the data (train 8, valid 8, test 8) are evaluated; --split chooses one."
    assert note in found["notes"]
    texts = [*found["notes"], *(one["text"] for one in found["result"]["warnings"])]
    assert len([text for text in texts if "patients" in text.lower() and "known" in text]) == 1
    found = evaluate(run, table, split="valid", **FEW).metrics
    assert found["images"]["evaluated"] == 8 and note not in found["notes"]
    data.assign(split="test").to_csv(table, index=False)
    of_one_split = open_manifest(DataConfig(source=others, labels=table), to_train=False)
    assert evaluated_data.describe_splits(of_one_split) == ""


def test_files_that_are_no_radiographs_are_left_out(run, others, tmp_path):
    folder = Path(shutil.copytree(others, tmp_path / "data"))
    disc = (np.add.outer(np.arange(-32, 32) ** 2, np.arange(-32, 32) ** 2) < 400) * 255
    Image.fromarray(disc.astype(np.uint8)).save(folder / "normal" / "region.png")
    shutil.copy(next(folder.glob("normal/*.png")), folder / "normal" / "x_overlay.png")
    found = evaluate(run, folder, **FEW).metrics["images"]
    assert found["left_out"] == [
        ["mask, overlay, map or thumbnail by name", 1],
        ["only two shades of gray, as in masks", 1],
    ]
    assert (found["found"], found["evaluated"]) == (26, 24)


def test_nothing_but_training_images(run, data_dir, tmp_path):
    split = pd.read_csv(run.path / "split.csv")
    for image in split.loc[split["split"] != "test", "image"]:
        (tmp_path / "copy" / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_dir / image, tmp_path / "copy" / image)
    with pytest.raises(DataError) as caught:
        evaluate(run, tmp_path / "copy", **FEW)
    counts = run.info["counts"]
    assert f"{counts['train']['images']} seen in training; {counts['valid']['images']} seen in validation" in str(
        caught.value
    )
    assert "neither trained nor selected on" in str(caught.value)
    assert not (run.path / "evaluations").exists()


def test_an_external_test(run, others, page, tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYFAST_CACHE", str(tmp_path / "cache"))  # an empty cache, so images are compared anew
    steps = []
    found = evaluate(run, others, progress=lambda *step: steps.append(step), **FEW)
    metrics = found.metrics
    assert found.path.name == "elsewhere"
    assert metrics["images"] == {"found": 24, "left_out": [], "evaluated": 24, "own_test": 0}
    assert (metrics["own"], metrics["split"], metrics["source"], metrics["table"]) == (False, None, str(others), None)
    predictions = found.predictions
    assert np.allclose(predictions.probability, run.decision.calibrated(predictions.raw), atol=1e-6)
    table = xf.predict(run, others, device="cpu").set_index("file")
    columns = [f"prob_{label}" for label in run.labels]
    expected = table.loc[[str(others / image) for image in predictions.images], columns].to_numpy()
    assert np.allclose(predictions.probability, expected, atol=1e-5)
    interval = metrics["result"]["intervals"]["overall"]["accuracy"]
    assert interval["low"] <= metrics["result"]["overall"]["accuracy"] <= interval["high"]
    actual = predictions.truth.argmax(axis=1)
    cross_entropy = -np.log(predictions.raw[np.arange(24), actual])
    assert np.allclose(predictions.loss, cross_entropy, rtol=1e-5)
    assert {stage for stage, _, _ in steps} == {
        "decoding", "inspecting", "comparing", "predicting", "computing metrics",
    }  # fmt: skip
    assert ("predicting", 24, 24) in steps and steps[-1] == ("computing metrics", 24, 24)
    text = found.report_path.read_text()
    assert "elsewhere" in text and "not for diagnosis" in text


def test_other_data_are_compared_with_the_run_s_test_split_and_the_prior_is_corrected_on_request(run, others, page):
    plain, corrected = (evaluate(run, others, correct_prior=asked, **FEW) for asked in (False, True))
    metrics = plain.metrics
    assert metrics["internal"]["split"] == "test"
    (first,) = [row for row in metrics["internal"]["rows"] if row["metric"] == "auroc_macro"]
    own, here = run.metrics["test"]["overall"]["auroc_macro"], metrics["result"]["overall"]["auroc_macro"]
    assert (first["internal"], first["external"], first["difference"]) == (own, here, pytest.approx(here - own))
    valid = {row["label"]: row for row in run.metrics["valid"]["per_label"]}
    for row in metrics["prevalence"]:
        own = valid[row["label"]]
        assert row["validation"] == own["support"] / (own["support"] + own["negatives"])
        assert row["here"] == pytest.approx(1 / 3)
    assert corrected.metrics["prevalence"] == metrics["prevalence"]
    before, after = plain.predictions, corrected.predictions
    np.testing.assert_array_equal(before.raw, after.raw)
    shares = [row["estimated"] for row in metrics["prevalence"]]
    np.testing.assert_allclose(after.probability.mean(axis=0), shares, atol=1e-6)
    assert not np.allclose(before.probability, after.probability)
    assert any("corrected for the prevalence in these data" in note for note in corrected.metrics["notes"])
    text = plain.report_path.read_text()
    assert "Compared with the run&#39;s own test split" in text and "Estimated here" in text


def test_three_images_of_one_class(run, others, tmp_path):
    for path in sorted((others / "normal").glob("*.png"))[:3]:
        (tmp_path / "few" / "normal").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "few" / "normal" / path.name)
    found = evaluate(run, tmp_path / "few", **FEW).metrics
    assert found["images"]["evaluated"] == 3
    assert found["labels"] == {"used": ["normal"], "unknown": [], "lacking": ["covid-19", "pneumonia"]}
    rows = {row["label"]: row for row in found["result"]["per_label"]}
    assert rows["normal"]["support"] == 3 and rows["normal"]["auroc"] is None
    assert rows["covid-19"]["support"] == 0
    assert any("covid-19, pneumonia" in note for note in found["result"]["notes"])


def test_files_that_can_t_be_read_are_left_out_by_name(run, others, tmp_path):
    copy = shutil.copytree(others, tmp_path / "copy")
    (copy / "normal" / "broken.png").write_bytes(b"\x89PNG no image")
    found = evaluate(run, copy, **FEW)
    assert found.metrics["images"] == {"found": 25, "left_out": [["unreadable", 1]], "evaluated": 24, "own_test": 0}
    assert "1 file can't be read: normal/broken.png." in warned(found.metrics)["data"]
    assert list(found.info["unreadable"]) == ["normal/broken.png"]
    shutil.rmtree(copy / "covid-19")
    for path in copy.rglob("*.png"):
        path.write_bytes(b"no image")
    text = (
        r"copy: none of the 17 images can be used for evaluation: 17 unreadable. The first that can't be read: .*\.png"
    )
    with pytest.raises(DataError, match=text):
        evaluate(run, copy, **FEW)


def test_if_no_image_is_left_the_error_names_the_table_and_what_to_do(run, tmp_path, monkeypatch):
    source = run.config.data.source
    split = pd.read_csv(run.split_path)
    seen = split["image"][split["split"] != "test"]
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{source / image},{image.split('/')[0]}\n" for image in seen)
    (tmp_path / "table.csv").write_text("image,label\n" + rows)
    text = rf"^table.csv: none of the {len(seen)} images can be .*: .* seen in training; .* seen in validation. "
    with pytest.raises(DataError, match=text + r".* nor selected on; xf.evaluate"):
        evaluate(run, "table.csv", **FEW)


def test_a_label_map_joins_labels_with_other_names(run, others, tmp_path):
    table = listed(others, tmp_path / "t")
    table.write_text(table.read_text().replace(",normal", ",healthy").replace(",covid-19", ",Fracture"))
    (tmp_path / "map.txt").write_text("Normal = Healthy\n")
    config = Config().updated({"source": table, "label_map": tmp_path / "map.txt"})
    found = evaluate(run, config=config, **FEW).metrics
    assert found["labels"] == {"used": ["normal", "pneumonia"], "unknown": [["Fracture", 8]], "lacking": ["covid-19"]}
    assert found["images"]["left_out"] == [["without any of the network's classes", 8]]
    assert found["images"]["evaluated"] == 16
    assert "'Normal' in the data is the network's 'normal'." in found["notes"]
    table.write_text(table.read_text().replace(",pneumonia", ",Mass"))
    with pytest.raises(DataError, match=r"no label in common.*covid-19, normal, pneumonia.*label_map="):
        evaluate(run, table, **FEW)


def test_labels_of_a_multi_label_run_are_masked_where_the_data_lack_them(multi_run, others):
    assert multi_run.task == "multi"
    found = evaluate(
        multi_run, shutil.copytree(others, multi_run.path.parent / "o", ignore=lambda *_: ["covid-19"]), **FEW
    )
    lacking = [label for label in multi_run.labels if label == "covid-19"]
    assert found.metrics["labels"]["lacking"] == lacking == ["covid-19"]
    assert ["normal", 8] in found.metrics["labels"]["unknown"] or "normal" in found.metrics["labels"]["used"]
    predictions = found.predictions
    column = predictions.truth[:, predictions.labels.index("covid-19")]
    assert (column == -1).all()
    rows = {row["label"]: row for row in found.metrics["result"]["per_label"]}
    assert rows["covid-19"]["support"] == rows["covid-19"]["negatives"] == 0
    assert rows["covid-19"]["auroc"] is None and rows["covid-19"]["specificity"] is None
    assert rows["pneumonia"]["support"] == 8 and rows["pneumonia"]["negatives"] == 8
    assert any("its other labels are counted as absent" in note for note in found.metrics["notes"])


def test_by_any_column_of_the_table(run, others, tmp_path):
    table = listed(others, tmp_path / "t", "image,labels,hospital,loss,number", "{path},{label},H{i},a,{i}")
    text = table.read_text().splitlines()
    hospitals = ["", "N/A", *("East" if i % 3 else "West " for i in range(len(text) - 3))]
    rows = [line.replace(f",H{i},", f",{hospitals[i]},") for i, line in enumerate(text[1:])]
    table.write_text("\n".join([text[0], *rows]) + "\n")
    found = evaluate(run, table, by="Hospital", **FEW)
    (groups,) = found.metrics["result"]["subgroups"]
    counts = {one["value"]: one["images"] for one in groups["groups"]}
    assert counts == {"East": sum(h == "East" for h in hospitals), "West": sum(h == "West " for h in hospitals)}
    assert groups["by"] == "Hospital" and groups["missing"] == 2
    with pytest.raises(ConfigError, match=r"'number' of labels.csv has 24 values.*expected 1 to 20 groups"):
        evaluate(run, table, by="number", **FEW)
    with pytest.raises(ConfigError, match="'loss' is already a column of the predictions"):
        evaluate(run, table, by="loss", **FEW)
    with pytest.raises(DataError, match=r"found no column 'hospitl'.*Did you mean 'hospital'"):
        evaluate(run, table, by="hospitl", **FEW)


def test_interpret_by_a_column_of_the_run_s_own_table(data_dir, tmp_path, quick):
    own = pd.read_csv(data_dir / "labels.csv")
    own["hospital"] = [f"0{i % 2 + 1}" if i else "" for i in range(len(own))]
    own.to_csv(tmp_path / "own.csv", index=False)
    run = xf.fit(xf.open_data(data_dir, labels=tmp_path / "own.csv"), runs=tmp_path / "runs", epochs=1, **SMALL)
    with pytest.raises(DataError, match="found no column 'nothing'"):
        xf.interpret(run, by="nothing")
    with pytest.raises(ConfigError, match=r"'image' is already a column of the predictions"):
        xf.interpret(run, by="image")
    xf.interpret(run, by="hospital")
    xf.interpret(run, target_sensitivity=0.9)  # computes the metrics again
    hospital_of = dict(zip(own["image"], own["hospital"], strict=True))
    expected = [hospital_of[image] for image in run.predictions("valid").images]
    assert run.predictions("valid").attributes["hospital"].tolist() == expected
    groups = next(one for one in run.metrics["valid"]["subgroups"] if one["by"] == "hospital")
    assert {one["value"]: one["images"] for one in groups["groups"]} == {h: expected.count(h) for h in ("01", "02")}
    assert "hospital" in run.report_path.read_text()


def test_by_subgroup(run, others, tmp_path):
    header, row = "image,labels,sex,age", "{path},{label},{i},{i}"
    table = listed(others, tmp_path / "t", header, row)
    lines = table.read_text().splitlines()
    for i in range(1, len(lines)):
        path, label, _, _ = lines[i].split(",")
        lines[i] = f"{path},{label},{'FM'[i % 2] if i > 2 else ''},{i * 4}"
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="found no column 'view'"):
        evaluate(run, table, by=["sex", "view"], **FEW)
    found = evaluate(run, table, by=["sex", "age"], **FEW)
    sex, age = found.metrics["result"]["subgroups"]
    assert (sex["by"], sex["missing"], [one["value"] for one in sex["groups"]]) == ("sex", 2, ["F", "M"])
    assert [one["value"] for one in age["groups"]] == ["0-17", "18-39", "40-59", "60-79", "80+"]
    assert sum(one["images"] for one in age["groups"]) == 24
    assert sex["gaps"]
    assert found.predictions.attributes["age"].max() == 90
    table = pd.read_csv(found.table_path("subgroups"))
    rows = table[(table["by"] == "sex") & (table["group"] == "F") & table["label"].isna()]
    accuracy = sex["groups"][0]["overall"]["accuracy"]
    assert rows.set_index("metric").loc["accuracy", "value"] == pytest.approx(accuracy, abs=1e-5)
    assert len(pd.read_csv(found.table_path("gaps"))) == len(sex["gaps"]) + len(age["gaps"])


def test_splits_of_other_data(run, others, tmp_path):
    header, row = "image,labels,split", "{path},{label},{i}"
    table = listed(others, tmp_path / "t", header, row)
    lines = table.read_text().splitlines()
    lines[1:] = [f"{line.rpartition(',')[0]},{'train' if i % 3 else 'test'}" for i, line in enumerate(lines[1:])]
    table.write_text("\n".join(lines) + "\n")
    assert evaluate(run, table, **FEW).metrics["images"]["found"] == 24
    found = evaluate(run, table, split="test", **FEW).metrics
    assert (found["images"]["found"], found["split"]) == (8, "test")
    with pytest.raises(DataError, match="has no valid split; found train, test"):
        evaluate(run, table, split="valid", **FEW)


def test_an_opened_data_set(run, others):
    found = evaluate(run, xf.open_data(others), **FEW)
    assert found.metrics["images"]["evaluated"] == 24


def test_the_window_is_the_run_s_unless_another_is_asked_for(run, others):
    settings = run.config
    changed = settings.model_copy(update={"data": settings.data.model_copy(update={"window": "percentile"})})
    run.write_config(changed)
    assert evaluated_data.open_external(run, others, None, None).config.window == "percentile"
    assert evaluated_data.open_external(run, xf.open_data(others), None, None).config.window == "percentile"
    assert evaluated_data.open_external(run, others, Config().updated({"window": "full"}), None).config.window == "full"


def test_a_stated_prevalence(run, others):
    found = evaluate(run, others, prevalence=["normal=0.3"], **FEW).metrics["result"]
    rows = {row["label"]: row for row in found["per_label"]}
    assert rows["normal"]["npv_at_prevalence"] is not None
    with pytest.raises(ConfigError, match="found the label 'nomal'"):
        evaluate(run, others, prevalence="nomal=0.3", **FEW)


def test_prevalence_is_not_compared_without_validation_predictions(run, others):
    shutil.rmtree(run.path / "predictions")
    metrics = evaluate(run, others, correct_prior=True, **FEW).metrics
    assert "prevalence" not in metrics and metrics["internal"]["split"] == "test"
    assert any(
        note.startswith("The prevalence is not compared with the validation split's") for note in metrics["notes"]
    )


def test_an_older_run_can_t_recognize_its_images(run, data_dir):
    split = pd.read_csv(run.path / "split.csv")
    run.write_split(split.drop(columns="digest"))
    found = evaluate(run, data_dir, **FEW).metrics
    assert found["images"]["evaluated"] == 36
    assert "could not be checked" in warned(found)["data"][0]


@pytest.mark.parametrize(
    ("place", "name", "kind"), [(module, "write_tables", OSError), (evaluated_data, "shown_cases", KeyboardInterrupt)]
)
def test_a_stopped_evaluation_leaves_no_folder(run, others, monkeypatch, place, name, kind):
    def stop(*_, **__):
        raise kind

    before = files_of(run)
    monkeypatch.setattr(place, name, stop)
    with pytest.raises((kind, RunError)):
        evaluate(run, others, **FEW)
    assert files_of(run) == before


def test_a_run_without_patients_has_no_results_by_patient_on_data_with_patients(run, data_dir):
    with pytest.raises(DataError, match=r"no patient of the images that .*tiny was trained and validated on is known"):
        xf.evaluate(run, data_dir / "labels.csv", unit="patient")

"""Label review, from proposals to a run trained with the corrections that a reader accepted."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import xrayfast as xf
from tests.conftest import SMALL, UNCHECKED
from xrayfast.cli import app
from xrayfast.errors import ConfigError, DataError, RunError
from xrayfast.workflows.steps.data.reopening import find_data


def as_cross_validation(run, path, probability=None, change=lambda table: table):
    """Copy a run as a cross-validation whose out-of-fold predictions are those of the validation split."""
    shutil.copytree(run.path, path, ignore=UNCHECKED)
    (path / "cross_validation.json").write_text('{"folds": 2}')
    cv = xf.CrossValidation(path)
    found = cv.predictions("valid")
    p = found.probability if probability is None else probability
    columns = {f"{kind}_{label}": p[:, i] for i, label in enumerate(cv.labels) for kind in ("prob", "raw")}
    change(found.table().assign(**columns)).to_csv(path / "predictions" / "valid.csv", index=False)
    return cv


@pytest.fixture(scope="module")
def crossed(tiny_run, tmp_path_factory):
    """All predictions agree with the labels, except for the first image, predicted as the next class with certainty."""
    truth = tiny_run.predictions("valid").truth
    p = np.where(truth == 1, 0.9, 0.1 / (truth.shape[1] - 1))
    p[0] = np.roll(p[0], 1)
    return as_cross_validation(tiny_run, tmp_path_factory.mktemp("review") / "cv", p)


def test_proposals_are_ranked_and_written_for_a_reader(crossed, tmp_path):
    found = xf.review(crossed, tmp_path / "review")
    predictions = crossed.out_of_fold
    (proposal,) = found.proposals.to_dict("records")
    given = predictions.truth[0].argmax()
    assert proposal["image"] == predictions.images[0] == found.ranked["image"][0]
    assert (proposal["given"], proposal["proposed"]) == (
        crossed.labels[given], crossed.labels[(given + 1) % len(crossed.labels)],
    )  # fmt: skip
    assert proposal["accept"] == "" and proposal["probability"] == pytest.approx(0.9)
    assert repr(found) == f"LabelReview(1 proposal on {len(predictions)} labels)"
    table = pd.read_csv(tmp_path / "review" / "corrections.csv", dtype=str, keep_default_na=False)
    assert table.columns.tolist() == ["image", "label", "given", "proposed", "accept", "quality", "probability"]
    page = re.sub(r"\s+", " ", found.path.read_text())
    assert "A reader must check each proposal." in page and proposal["image"] in page and "p = 0.90" in page
    assert page.count("data:image/jpeg") == 1 and "prefers-color-scheme: dark" in page
    with pytest.raises(RunError, match="may contain a reader's answers"):
        xf.review(crossed, tmp_path / "review")


def test_the_command_prints_and_writes_proposals(crossed, tmp_path):
    done = CliRunner().invoke(app, ["review", str(crossed.path), "-o", str(tmp_path / "out"), "--top", "0"])
    assert done.exit_code == 0 and "A reader must check each proposal" in done.output and "1 proposal on" in done.output
    (head,) = [line.split() for line in done.output.splitlines() if "proposed" in line and "given" in line]
    assert head == ["image", "given", "proposed", "probability"], (
        "no column for the label, which single-label data lack"
    )
    assert "data:image/jpeg" not in (tmp_path / "out" / "review.html").read_text()
    assert "0 of 1 are shown" in (tmp_path / "out" / "review.html").read_text()


def test_several_cross_validations_are_averaged_by_image(crossed, tiny_run, tmp_path):
    """Each finds another label wrong, and the second has its images in another order."""
    p = crossed.out_of_fold.probability.copy()
    p[0] = np.where(crossed.out_of_fold.truth[0] == 1, 0.6, 0.4 / (p.shape[1] - 1))
    p[1] = np.roll(p[1], 1)
    other = as_cross_validation(tiny_run, tmp_path / "other", p, lambda table: table[::-1])
    found = xf.review([crossed, other.path], tmp_path / "review")
    of_image = found.ranked.set_index("image")
    mean = (crossed.out_of_fold.probability + p) / 2
    images, truth = crossed.out_of_fold.images, crossed.out_of_fold.truth
    assert found.ranked["quality"].is_monotonic_increasing
    np.testing.assert_allclose(of_image.loc[images, "quality"], (mean * truth).sum(axis=1))
    np.testing.assert_allclose(of_image.loc[images, "probability"], mean.max(axis=1))
    np.testing.assert_allclose(of_image.loc[images, "probability_other"], p[np.arange(len(p)), mean.argmax(axis=1)])
    table = pd.read_csv(tmp_path / "review" / "corrections.csv")
    assert table.columns.tolist()[-3:] == ["probability", "probability_cv", "probability_other"]
    assert "averaged over cv, other; their single values" in found.path.read_text()


def leave_one_out(table):
    return table[1:]


def relabel(table):
    return table.assign(truth=[table["truth"][table["truth"] != table["truth"][0]].iloc[0], *table["truth"][1:]])


def repeat_a_row(table):
    return pd.concat([table, table[:1]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (leave_one_out, "1 image only in one of them: {image}"),
        (relabel, "1 of the {n} images of the same name have different labels, '{image}'"),
        (repeat_a_row, "'{image}' is more than once in its predictions of split 'valid'"),
    ],
)
def test_cross_validations_that_differ_are_refused_by_name(change, said, crossed, tiny_run, tmp_path):
    other, found = as_cross_validation(tiny_run, tmp_path / "other", change=change), crossed.out_of_fold
    with pytest.raises(RunError, match=re.escape(said.format(image=found.images[0], n=len(found)))) as raised:
        xf.review([crossed, other], tmp_path / "review")
    assert str(other.path) in str(raised.value)
    assert not (tmp_path / "review").exists()


def test_a_cell_that_one_cross_validation_masks_is_refused(tiny_multi_run, tmp_path):
    one, other = (as_cross_validation(tiny_multi_run, tmp_path / name) for name in ("one", "other"))
    assert len(xf.review([one, other]).ranked) == len(xf.review(one).ranked)
    label = one.labels[0]
    file = other.path / "predictions" / "valid.csv"
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    row = table.index[[label not in cell.split("|") for cell in table["truth"]]][0]
    table.loc[row, "masked"] = label
    table.fillna("").to_csv(file, index=False)
    with pytest.raises(RunError, match=r"other: can't be averaged .* cells that are masked in only one"):
        xf.review([one, other])


def test_cross_validations_of_the_same_name_are_told_apart_by_path(crossed, tiny_run, tmp_path):
    other = as_cross_validation(tiny_run, tmp_path / "cv")
    assert {f"probability_{one.path}" for one in (crossed, other)} <= set(xf.review([crossed, other]).ranked)
    with pytest.raises(ConfigError, match=r"^Found /.*cv twice; expected one or more cross-v"):
        xf.review([crossed, crossed.path])
    with pytest.raises(ConfigError, match=r"^Found no cross-validation; expected one"):
        xf.review([])


def test_labels_of_images_are_reviewed_where_results_are_of_patients(crossed, tmp_path):
    cv = shutil.copytree(crossed.path, tmp_path / "cv")
    settings = (cv / "config.yaml").read_text()
    assert "unit: image" in settings
    (cv / "config.yaml").write_text(settings.replace("unit: image", "unit: patient"))
    assert xf.review(cv).ranked["image"].tolist() == xf.review(crossed).ranked["image"].tolist()


def test_a_run_that_is_no_cross_validation_is_refused_and_nothing_written(tiny_run, tmp_path):
    with pytest.raises(RunError, match="is not a cross-validation's folder"):
        xf.review(tiny_run.path, tmp_path / "review")
    assert not (tmp_path / "review").exists()


def test_labels_of_a_multi_label_task_are_reviewed_without_masked_ones(tiny_multi_run, tmp_path):
    truth = tiny_multi_run.predictions("valid").truth
    p = np.where(truth == 1, 0.9, 0.1)
    row, column = np.argwhere(truth == 1)[0]
    p[row, column] = 0.05
    cv = as_cross_validation(tiny_multi_run, tmp_path / "cv", p)
    found = xf.review(cv, tmp_path / "review")
    assert len(found.ranked) == sum(len(set(column[column >= 0])) == 2 and (column >= 0).sum() for column in truth.T)
    first = found.ranked.iloc[0]
    assert (first["image"], first["label"]) == (cv.out_of_fold.images[row], cv.labels[column])
    assert (first["given"], first["proposed"]) == ("1", "0") and first["probability"] == pytest.approx(0.95)
    if first["is_proposed"]:
        assert f"no {cv.labels[column]}" in (tmp_path / "review" / "review.html").read_text()


@pytest.fixture(scope="module")
def corrected(crossed, data_dir, tmp_path_factory):
    """A run trained with an accepted proposal, and the file of corrections."""
    folder = tmp_path_factory.mktemp("corrected")
    xf.review(crossed, folder / "review")
    file = folder / "review" / "corrections.csv"
    pd.read_csv(file, dtype=str, keep_default_na=False).assign(accept="yes").to_csv(file, index=False)
    data = xf.open_data(data_dir, labels=data_dir / "labels.csv", corrections=file)
    return xf.fit(data, runs=folder, epochs=1, **SMALL), file


def test_a_run_records_what_was_corrected_and_finds_its_data_again(corrected):
    run, file = corrected
    proposal = pd.read_csv(file).iloc[0]
    split = pd.read_csv(run.split_path).set_index("image")
    assert split.loc[proposal["image"], "labels"] == proposal["proposed"]
    assert run.config.data.corrections == file and len(run.config.data.corrections_sha256) == 64
    assert any("corrects 1 label of 1 image" in note for note in run.info.data_notes)
    again = find_data(run)
    assert again.fingerprint() == run.info.fingerprint and len(again.corrections) == 1
    text = file.read_text()
    try:
        file.write_text(text.replace("yes", "no"))  # the run has a copy of the file
        assert find_data(run).fingerprint() == run.info.fingerprint
        with pytest.raises(DataError, match="as recorded in corrections_sha256"):
            xf.fit(config=run.config)
    finally:
        file.write_text(text)


def test_corrected_labels_are_not_proposed_again(corrected, crossed, tmp_path):
    run, file = corrected
    cv = shutil.copytree(crossed.path, tmp_path / "again")
    shutil.copy(run.path / "corrections.csv", cv)
    settings = (cv / "config.yaml").read_text()
    (cv / "config.yaml").write_text(settings.replace("corrections: null", f"corrections: {file}"))
    found = xf.review(cv)
    assert found.proposals["accept"].tolist() == ["yes"] and not found.ranked["is_proposed"].any()
    copy = shutil.copytree(cv, tmp_path / "copy")
    assert xf.review([cv, copy]).proposals["accept"].tolist() == ["yes"]
    with pytest.raises(RunError, match="trained with other corrections"):
        xf.review([cv, crossed])

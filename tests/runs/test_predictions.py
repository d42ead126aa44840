"""The table of predictions is read back as written, and patients become groups."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from xrayfast.errors import DataError, RunError
from xrayfast.metrics.operating_points.calibration import Temperature
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.reporting.wording import population_text
from xrayfast.runs.predictions import Predictions, image_attributes

LABELS = ("a", "b,|c".replace("|", ""), "d e")


def example(n=6, patients=("P00002", "", "P00001", "P00002", "", "P00003")):
    random = np.random.default_rng(0)
    raw = random.dirichlet(np.ones(3), n)
    return Predictions(
        labels=LABELS,
        images=np.array([f"f{i}.png" for i in range(n)], object),
        patients=np.array(patients, object),
        truth=random.integers(-1, 2, (n, 3)),
        probability=raw,
        loss=random.random(n),
        raw=raw,
        attributes={
            "sex": np.array(["F", "M", "", "F", "M", "F"], object),
            "age": np.array([40.0, np.nan, 90, 3, 71, 55]),
            "view": np.array(["PA", "NA", "", "AP", "PA", "PA"], object),
        },
    )


def test_predictions_are_read_back_as_written(tmp_path):
    first = example().calibrated(Decision("single", LABELS, Temperature(1.7)))
    first.write(tmp_path / "p.csv")
    again = Predictions.read(tmp_path / "p.csv", LABELS)
    for name in ("images", "patients", "truth"):
        assert (getattr(again, name) == getattr(first, name)).all(), name
    for name in ("probability", "raw", "loss"):
        np.testing.assert_allclose(getattr(again, name), getattr(first, name), rtol=1e-8)
    assert not np.allclose(again.probability, again.raw)
    assert again.attributes.keys() == first.attributes.keys()
    assert (again.attributes["view"] == first.attributes["view"]).all()
    np.testing.assert_array_equal(again.attributes["age"], first.attributes["age"])


def test_older_files_were_not_calibrated(tmp_path):
    first = example()
    first.write(tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    table.drop(columns=[name for name in table if name.startswith("raw_") or name in first.attributes]).to_csv(
        tmp_path / "old.csv", index=False
    )
    old = Predictions.read(tmp_path / "old.csv", LABELS)
    assert (old.raw == old.probability).all()
    assert old.attributes == {}
    table.rename(columns={"masked": "unknown"}).to_csv(tmp_path / "older.csv", index=False)
    assert (Predictions.read(tmp_path / "older.csv", LABELS).truth == first.truth).all()


def test_raw_probabilities_of_only_some_labels_are_an_error(tmp_path):
    example().write(tmp_path / "p.csv")
    raw = f"raw_{LABELS[0]}"
    pd.read_csv(tmp_path / "p.csv", keep_default_na=False).drop(columns=raw).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(RunError, match=rf"p\.csv: lacks the columns {raw}"):
        Predictions.read(tmp_path / "p.csv", LABELS)


def test_images_of_unknown_patients_are_resampled_separately():
    groups = example().groups
    assert groups[0] == groups[3]
    assert len(set(groups.tolist())) == 5
    assert example(patients=[""] * 6).groups is None


def test_selected_rows_keep_all_columns_aligned():
    some = example().select(np.array([True, False, True, False, False, True]))
    assert some.images.tolist() == ["f0.png", "f2.png", "f5.png"]
    assert some.attributes["age"].tolist() == [40, 90, 55]
    assert len(some) == len(some.raw) == len(some.loss) == 3


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [
        *(("prob_a", value, "") for value in ("2", "-0.1", "", "x", "nan")),
        *((column, "inf", r" \(a loss or an age is infinite") for column in ("loss", "age")),
    ],
)
def test_a_value_out_of_range_is_an_error(column, value, found, tmp_path):
    example().write(tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv", dtype=str, keep_default_na=False)
    table.loc[2, column] = value
    table.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(RunError, match=rf"p\.csv: can't be read as predictions{found}"):
        Predictions.read(tmp_path / "p.csv", LABELS)


def test_ages_from_90_on_are_written_as_90():
    table = pd.DataFrame({"image": ["a", "b", "c"], "age": [89.0, 97.0, np.nan], "sex": ["F", None, "M"]})
    found = image_attributes(table)
    np.testing.assert_array_equal(found["age"], [89, 90, np.nan])
    assert found["sex"].tolist() == ["F", "", "M"]
    assert "view" not in found


def test_a_copy_with_other_probabilities_does_not_change_the_original():
    first = example()
    second = first.calibrated(Decision("single", LABELS, Temperature(3.0)))
    assert dataclasses.replace(second, probability=first.probability).raw is first.raw
    assert (first.probability == first.raw).all()


def test_the_population_counts_sex_and_age_by_patient_and_views_by_image():
    found = example().population()
    # Images 0 and 3 are of one patient; images without a patient count individually.
    assert found == {
        "patients": True,
        "sex": {"": 1, "F": 2, "M": 2},
        "view": {"": 1, "AP": 1, "NA": 1, "PA": 3},
        "age": {"q1": 51.25, "median": 63.0, "q3": 75.75, "unknown": 1},
    }
    sentence = population_text({"population": found})
    assert sentence == (
        "Patients: 40.0% female, 40.0% male, 20.0% not known, median age 63, quartiles 51 and 76 (not known of 1). "
        "Views: 50.0% PA, 16.7% not known, 16.7% AP, 16.7% NA."
    )
    bare = dataclasses.replace(example(patients=("",) * 6), attributes={})
    assert bare.population() == {"patients": False}
    assert population_text({"population": bare.population()}) == "Not known: sex, age, view."
    assert population_text({}) == ""


def test_units_have_the_name_of_an_image_and_the_values_of_their_images(tmp_path):
    studies = np.array(["S1", "S2", "S1", "", "S2", ""], object)
    found = dataclasses.replace(example(), studies=studies, truth=np.zeros((6, 3), int))
    units = found.by_unit("study", "mean", "multi")
    assert units.images.tolist() == ["f0.png", "f1.png", "f3.png", "f5.png"]
    assert units.patients.tolist() == ["P00002", "", "P00002", "P00003"]
    assert units.counts.tolist() == [2, 2, 1, 1] and not units.differ.any()
    truth = np.eye(6, 3, dtype=int)
    assert dataclasses.replace(found, truth=truth).by_unit("study", "max", "multi").differ.tolist() == [1, 1, 0, 0]
    assert units.attributes["sex"].tolist() == ["F", "M", "F", "F"]
    assert units.attributes["view"].tolist() == ["PA", "NA+PA", "AP", "PA"]
    assert units.attributes["age"].tolist() == [65, 71, 3, 55]
    np.testing.assert_allclose(units.loss, [found.loss[[0, 2]].mean(), found.loss[[1, 4]].mean(), *found.loss[[3, 5]]])
    named = found.by_unit("study", "mean", "multi", named_by={"f2.png", "f4.png"})
    assert named.images.tolist() == ["f2.png", "f4.png", "f3.png", "f5.png"]
    units.write(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().startswith("image,patient,study,images_of_study,truth,")
    again = Predictions.read(tmp_path / "p.csv", LABELS)
    assert (again.unit, again.n_images, again.counts.tolist()) == ("study", 6, [2, 2, 1, 1])
    assert again.studies.tolist() == ["S1", "S2", "", ""]
    assert repr(again) == "Predictions(4 studies, 3 labels)"
    assert again.select(np.array([0, 2])).n_images == 3
    assert found.by_unit("image", "mean", "multi") is found


@pytest.mark.parametrize("unit", ["study", "patient"])
def test_units_that_are_not_known_are_refused_by_name(unit):
    found = dataclasses.replace(example(), patients=np.full(6, "", object))
    with pytest.raises(DataError, match=f"unit='{unit}': no image's {unit} is known.*Name a column with {unit}_col=,"):
        found.by_unit(unit, "mean", "multi")


def test_a_unit_with_several_classes_is_refused_by_name_unless_one_is_the_positive_class():
    studies = np.array(["S1", "S1", "S2", "S2", "S3", "S4"], object)
    one_hot = np.eye(3, dtype=int)[[0, 0, 1, 2, 2, 2]]
    found = dataclasses.replace(example(), studies=studies, truth=one_hot)
    with pytest.raises(
        DataError, match=r"1 study with images of several classes: the study of 'f2.png' has b,c and d e"
    ):
        found.by_unit("study", "mean", "single")
    two = dataclasses.replace(found, labels=("normal", "sick"), **{
        name: getattr(found, name)[:, 1:] for name in ("probability", "raw")
    }, truth=np.eye(2, dtype=int)[[0, 0, 0, 1, 1, 0]])  # fmt: skip
    assert two.by_unit("study", "max", "single", "sick").truth.argmax(1).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("cell", ["two", "1e99", "99999999999999999999"])
def test_an_invalid_count_of_images_is_an_error(tmp_path, cell):
    found = dataclasses.replace(example(), studies=np.array(["S1"] * 6, object), truth=np.zeros((6, 3), int))
    found.by_unit("study", "mean", "multi").write(tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv", dtype=str, keep_default_na=False)
    table["images_of_study"] = cell
    table.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(RunError, match="can't be read as predictions"):
        Predictions.read(tmp_path / "p.csv", LABELS)

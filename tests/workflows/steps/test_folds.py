"""Which images the network of a fold is trained on, and how the folds are pooled, without training."""

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from xrayfast.config import ResultsConfig
from xrayfast.errors import RunError
from xrayfast.metrics.claims.headline import Remark
from xrayfast.metrics.operating_points.calibration import Scaling
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.runs.predictions import Predictions
from xrayfast.workflows.steps.cross_validation import folds as module
from xrayfast.workflows.steps.cross_validation.folds import DealtImages, _join_remarks, join, pool_folds, spread

GROUPS = np.repeat(np.arange(30), 2)
NUMBERS = np.column_stack([np.repeat([0, 1, 2, 3, 1, 2, 3, 1, 2, 3], 6), np.repeat([0, 3, 3, 2, 2, 1, 1, 3, 2, 1], 6)])


def dealt(**changes):
    """Return 60 images of 30 patients in three folds, twice; the first 6 are in the test split."""
    targets = np.random.default_rng(0).integers(0, 2, (60, 2)).astype(float)
    table = pd.DataFrame({"patient": [f"P{group}" for group in GROUPS]})
    data = SimpleNamespace(
        targets=targets, config=SimpleNamespace(split_seed=3), table=table, labels=("a", "b"), notes=(),
        flow=lambda: [("Read", 60), ("Split train", 60)], fingerprint=str,
    )  # fmt: skip
    return DealtImages(data, None, SimpleNamespace(shortcuts=[]), NUMBERS, GROUPS, False, **changes)


def test_the_fold_is_the_validation_split_and_test_images_are_in_no_fold():
    for repeat, fold in ((1, 2), (2, 3)):
        splits, own = np.array(dealt()._splits(repeat, fold)), NUMBERS[:, repeat - 1]
        assert ((splits == "test") == (own == 0)).all()
        assert ((splits == "valid") == (own == fold)).all()


def test_with_an_inner_validation_split_the_fold_is_tested_and_patients_stay_together():
    found = {}
    for repeat, fold in ((1, 2), (2, 2)):
        splits, own = np.array(dealt(inner_valid=0.25)._splits(repeat, fold)), NUMBERS[:, repeat - 1]
        assert ((splits == "test") == ((own == 0) | (own == fold))).all()
        rest = splits[splits != "test"]
        assert 0.2 < (rest == "valid").mean() < 0.3
        assert (splits[::2] == splits[1::2]).all()
        found[repeat] = splits
    alone = np.array(replace(dealt(inner_valid=0.25), by_image=True)._splits(1, 2))
    assert (alone[::2] != alone[1::2]).any()
    same = replace(dealt(inner_valid=0.25), numbers=NUMBERS[:, [0, 0]])
    assert same._splits(1, 2) == found[1].tolist() != same._splits(2, 2), "each repeat has another seed"


def test_remarks_count_the_patients_and_images_of_several_folds():
    assert dealt().remarks == []
    (said,) = replace(dealt(), groups=None, by_image=True).remarks
    assert "random_folds has no effect" in said
    numbers = NUMBERS.copy()
    numbers[[6, 9], 0] = 3  # of two patients, whose other images are in fold 1
    (said,) = replace(dealt(), by_image=True, numbers=numbers).remarks
    assert Remark.of(said) is Remark.LEAKS_ALLOWED
    assert "2 patients (or groups of duplicates) with 4 images of 54 are in several folds" in said


def test_counts_are_of_positives_and_patients_by_images_in_folds_and_test_images():
    whole = dealt()
    whole.data.targets[:8, 0] = np.nan
    facts = whole.facts()
    used = NUMBERS[:, 0] > 0
    for split, rows in (("valid", used), ("test", ~used)):
        positives = {label: int((whole.data.targets[rows, i] == 1).sum()) for i, label in enumerate("ab")}
        images = int(rows.sum())
        assert facts["counts"][split] == {**positives, "images": images, "patients": images // 2}
    assert facts["flow"] == [["Read", 60], ["Split folds", 54], ["Split test", 6]]


def predicted(images, values):
    n = len(images)
    cells = np.array(values, float)
    names, nobody = np.array([*images], object), np.full(n, "", object)
    return Predictions(("a",), names, nobody, np.ones((n, 1), np.int64), cells[:, None], cells, cells[:, None])


def test_folds_are_pooled_in_the_order_of_the_images():
    folds = [predicted("cb", [0.3, 0.2]), predicted("da", [0.4, 0.1]), predicted("e", [0.5])]
    pooled = pool_folds([*"abcde"], folds)
    assert (pooled.images.tolist(), pooled.raw[:, 0].tolist()) == ([*"abcde"], [0.1, 0.2, 0.3, 0.4, 0.5])
    for images in ("abcd", "abcdef", "abcdf"):
        with pytest.raises(RunError, match=f"5 images, 5 of them different; expected {len(images)}, each once"):
            pool_folds([*images], folds)
    with pytest.raises(RunError, match="5 images, 4 of them different; expected 5"):
        pool_folds([*"abcde"], [*folds[:2], predicted("a", [0.5])])


def test_the_spread_is_over_the_folds_in_which_a_metric_is_defined():
    rows = [{"x": 1.0, "y": None, "z": 0.0}, {"x": 2.0, "y": None, "z": None}, {"x": 4.0, "y": None, "z": None}]
    found = spread(rows)
    values = [row["x"] for row in rows]
    assert found["x"] == {
        "folds": 3, "mean": pytest.approx(np.mean(values)), "sd": pytest.approx(np.std(values, ddof=1)),
        "lowest": 1, "highest": 4,
    }  # fmt: skip
    assert found["y"] == {"folds": 0, "mean": None, "sd": None, "lowest": None, "highest": None}
    assert found["z"] == {"folds": 1, "mean": 0.0, "sd": None, "lowest": 0.0, "highest": 0.0}


def test_a_remark_of_some_folds_names_them():
    def stand_in(by_image, *remarks):
        return SimpleNamespace(
            folds=SimpleNamespace(by_image=by_image), info=SimpleNamespace(remarks=["own", "in all"])
        ), [
            SimpleNamespace(path=SimpleNamespace(name=f"fold-{i}"), info=SimpleNamespace(remarks=[*of]))
            for i, of in enumerate(remarks, 1)
        ]

    leaks = f"{Remark.LEAKS_ALLOWED}: 3 images"
    found = _join_remarks(*stand_in(False, ["in all", "in one", leaks], ["in all"]))
    assert found == ["own", "in all", "fold-1: in one", leaks]
    assert _join_remarks(*stand_in(True, [leaks], [leaks])) == ["own", "in all"]


IMAGES = [f"{i}.png" for i in range(24)]
TESTED = ["x.png", "y.png"]
TRUTH = dict(zip([*IMAGES, *TESTED], np.random.default_rng(5).integers(0, 2, 26), strict=True))


@pytest.fixture
def joined(monkeypatch):
    """A function that joins two folds in each of two repeats, and returns what is written and the folds' predictions.

    With `inner_valid`, each network has its fold and the test images as its test split.
    """

    def predict(images, seed):
        raw = np.random.default_rng(seed).random(len(images))
        return replace(predicted(images, raw), truth=np.array([[TRUTH[image]] for image in images]))

    def make(inner_valid):
        numbers = np.random.default_rng(1).permutation([1, 2] * 24).reshape(24, 2)
        runs, written, n = [], {}, 0
        for repeat in range(2):
            for fold in (1, 2):
                inside = [image for image, own in zip(IMAGES, numbers[:, repeat], strict=True) if own == fold][::-1]
                valid, test = (IMAGES[:5], [*TESTED, *inside]) if inner_valid else (inside, TESTED)
                splits = {"valid": predict(valid, n), "test": predict(test, n + 100)}
                n += 1
                info = SimpleNamespace(
                    finished=str(n), seconds=n, best_epoch=n, remarks=[], model_dump=lambda: defaultdict(str)
                )
                path = SimpleNamespace(name=f"repeat{repeat + 1}-fold{fold}")
                runs.append(
                    SimpleNamespace(
                        predictions=splits.__getitem__, predicted_splits=("valid", "test"), info=info, path=path
                    )
                )
        decision = Decision("multi", ("a",), (Scaling(2.0, 0.5),))
        cv = SimpleNamespace(
            runs=runs, folds=SimpleNamespace(folds=2, inner_valid=inner_valid, by_image=False), task="multi",
            config=SimpleNamespace(results=ResultsConfig(), train=SimpleNamespace(seed=0)), decision=decision,
            images_in_folds=lambda: (IMAGES, numbers), info=SimpleNamespace(remarks=[]), metrics={"valid": {}},
            update_info=written.update, write_metrics=lambda found: written.update(metrics=found),
            write_out_of_fold=lambda found: written.update(out_of_fold=found), remove_leftovers=lambda: None,
        )  # fmt: skip
        monkeypatch.setattr(module, "write_page_and_card", lambda cv: None)
        monkeypatch.setattr(module, "choose_decision", lambda on, *_: on)
        monkeypatch.setattr(
            module, "finalize_results", lambda cv, found, settings, seed, chosen: written.update(found, chosen=chosen)
        )
        join(cv)
        return written, runs, numbers, decision

    return make


@pytest.mark.parametrize("inner_valid", [0.0, 0.3])
def test_out_of_fold_predictions_are_pooled_by_repeat_and_calibrated_together(joined, inner_valid):
    written, runs, numbers, decision = joined(inner_valid)
    own = [run.predictions("test" if inner_valid else "valid") for run in runs]
    of_image = [dict(zip(one.images, one.raw[:, 0], strict=True)) for one in own]
    repeats = [[of_image[2 * repeat + fold - 1][image] for image, fold in zip(IMAGES, numbers[:, repeat], strict=True)]
               for repeat in range(2)]  # fmt: skip
    assert written["valid"].images.tolist() == IMAGES
    np.testing.assert_allclose(written["valid"].raw[:, 0], np.mean(repeats, axis=0))
    for (column, found), expected, folds in zip(written["out_of_fold"], repeats, numbers.T, strict=True):
        assert np.array_equal(column, folds) and found.images.tolist() == IMAGES
        np.testing.assert_allclose(found.probability, decision.calibrated(np.array(expected)[:, None]))
    tested = [run.predictions("test").select(np.arange(2)) for run in runs]
    assert written["test"].images.tolist() == TESTED
    np.testing.assert_allclose(written["test"].raw, np.mean([one.raw for one in tested], axis=0))
    if inner_valid:
        np.testing.assert_allclose(
            written["chosen"].raw, np.mean([run.predictions("valid").raw for run in runs], axis=0)
        )
    assert (written["chosen"] is not None) == written["chosen_inside"] == bool(inner_valid)


def test_each_fold_has_a_row_with_its_metrics(joined):
    written, runs, _, decision = joined(0.0)
    rows = written["metrics"]["folds"]
    assert [(row["repeat"], row["fold"], row["run"]) for row in rows] == [
        (repeat, fold, f"repeat{repeat}-fold{fold}") for repeat in (1, 2) for fold in (1, 2)
    ]
    for n, (row, run) in enumerate(zip(rows, runs, strict=True), 1):
        valid = run.predictions("valid")
        gaps = decision.calibrated(valid.raw) - valid.truth
        assert row["overall"]["brier_macro"] == pytest.approx(np.square(gaps).mean())
        assert (row["images"], row["best_epoch"]) == (len(valid), n)
    assert written["metrics"]["spread"]["brier_macro"]["mean"] == pytest.approx(
        np.mean([row["overall"]["brier_macro"] for row in rows])
    )
    assert (written["finished"], written["seconds"], written["status"]) == ("4", 10, "completed")

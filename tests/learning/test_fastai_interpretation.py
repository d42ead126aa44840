"""The interpretation compared with scikit-learn and fastai, for both tasks, without running the network again."""

import numpy as np
import pytest
import sklearn.metrics as skm

import xrayfast as xf
from xrayfast.errors import DataError
from xrayfast.learning.fastai_api import ClassificationInterpretation, Learner
from xrayfast.learning.fastai_interpretation import RadiographInterpretation
from xrayfast.reporting.interpretation import Interpretation
from xrayfast.runs.predictions import Predictions

pytestmark = pytest.mark.usefixtures("empty_figures")


@pytest.fixture(scope="module")
def single(tiny_run):
    return xf.interpret(tiny_run, split="valid")


@pytest.fixture(scope="module")
def multi(tiny_multi_run):
    return xf.interpret(tiny_multi_run)


def test_it_is_a_fastai_interpretation_and_runs_no_network(tiny_run, monkeypatch):
    monkeypatch.setattr(Learner, "__init__", lambda *_, **__: pytest.fail("a learner was made"))
    found = xf.interpret(tiny_run)
    assert isinstance(found, ClassificationInterpretation)
    found.confusion_matrix()
    found.plot_top_losses(3)


def test_single_label_agrees_with_fastai_s_own(single, tiny_run):
    learn = xf.load(tiny_run)
    with learn.no_bar():
        theirs = ClassificationInterpretation.from_learner(learn)
        assert (single.confusion_matrix() == theirs.confusion_matrix()).all()
        assert {(a, p): n for a, p, n in single.most_confused()} == {(a, p): n for a, p, n in theirs.most_confused()}
    np.testing.assert_allclose(single.losses.numpy(), theirs.losses.numpy(), rtol=1e-3, atol=1e-5)
    assert single.top_losses(3)[1].tolist() == theirs.top_losses(3)[1].tolist()


def test_multi_label_agrees_with_scikit_learn_where_fastai_flattens(multi):
    truth, probability = multi.predictions.truth, multi.predictions.probability
    predicted = probability >= multi.decision.thresholds
    assert (multi.confusion_matrix() == skm.multilabel_confusion_matrix(truth, predicted)).all()
    assert (multi.cooccurrence() == truth.T @ predicted).all()
    table = multi.label_table()
    _, _, f1, support = skm.precision_recall_fscore_support(truth, predicted, zero_division=0)
    assert table["support"].tolist() == support.tolist()
    np.testing.assert_allclose(table["f1"], f1, atol=1e-9)
    assert table["auroc"].tolist() == pytest.approx(skm.roc_auc_score(truth, probability, average=None))


def test_top_losses_have_their_files(single):
    losses, order, names = single.top_losses(4, items=True)
    assert losses.tolist() == sorted(single.losses.tolist(), reverse=True)[:4]
    assert names == [single.predictions.images[i] for i in order]
    table = single.top_losses_table(4)
    assert table["image"].tolist() == names
    assert (table["loss"].to_numpy() == losses.numpy()).all()
    case = single.cases(1)[0]
    assert case.image == names[0]
    assert case.pixels.shape == (256, 256)
    smallest, _ = single.top_losses(1, largest=False)
    assert smallest[0] == single.losses.min()


def test_a_multi_label_case_has_each_label_s_probability(multi):
    case, (_, order) = multi.cases(1)[0], multi.top_losses(1)
    i = int(order[0])
    truth, probability = multi.predictions.truth[i], multi.predictions.probability[i]
    for text, row in ((case.actual, truth), (case.predicted, probability >= multi.decision.thresholds)):
        expected = [f"{label} {probability[j]:.2f}" for j, label in enumerate(multi.vocab) if row[j]]
        assert text == ", ".join(expected)
    assert np.isnan(case.probability)


def test_a_case_does_not_carry_labels_of_masked_cells():
    truth = np.array([[1, -1, 0], [-1, -1, -1]])
    images, probability = np.array(["a.png", "b.png"], dtype=object), np.full((2, 3), 0.25)
    predictions = Predictions(("A", "B", "C"), images, images, truth, probability, np.array([0.9, 0.1]), probability)
    found = Interpretation(predictions, "multi", {})
    assert [case.actual for case in found.cases(2)] == ["A 0.25", ""]
    assert found.top_losses_table()["actual"].tolist() == ["A", ""]


def test_from_learner_gives_the_same(single, tiny_run):
    learn = xf.load(tiny_run)
    found = RadiographInterpretation.from_learner(learn)
    np.testing.assert_allclose(found.predictions.probability, single.predictions.raw, atol=1e-6)
    assert found.summary["confusion"] == single.summary["confusion"]
    with pytest.raises(DataError, match="ds_idx"):
        RadiographInterpretation.from_learner(learn, dl=learn.dls.valid)


def test_the_training_split_is_predicted_without_augmentation(tiny_run):
    learn = xf.load(tiny_run)
    first, second = (RadiographInterpretation.from_learner(learn, ds_idx=0).predictions for _ in range(2))
    files = [learn.dls.manifest.config.source / image for image in first.images]
    expected = xf.predict(tiny_run, files).filter(like="prob_").to_numpy(dtype=float)
    np.testing.assert_allclose(tiny_run.decision.calibrated(first.raw), expected, atol=1e-6)
    assert (first.probability == second.probability).all()


def test_methods_that_need_a_learner_say_so(single):
    with pytest.raises(DataError, match="saved predictions"):
        single[0]


def test_a_missing_image_is_left_out(tiny_run):
    found = xf.interpret(tiny_run, split="valid")
    found.paths = {}
    assert found.cases(2)[0].pixels is None


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_figures_and_report_are_printed(kind, request, capsys):
    found = request.getfixturevalue(kind)
    found.print_classification_report()
    printed = capsys.readouterr().out
    for words in ("pneumonia", "AUROC", "F1, macro"):
        assert words in printed
    assert len(found.plot_confusion_matrix().axes) >= 1
    assert len(found.plot_top_losses(range(2)).axes) >= 2
    assert len(found.plot_cooccurrence().axes) >= 1


def test_interpret_writes_these_files(single, multi, tiny_run, tiny_multi_run):
    for run, own in ((tiny_run, "confusion"), (tiny_multi_run, "cooccurrence")):
        drawn = {"curves", "batches", "confusion", "top_losses", "roc", "precision_recall", "reliability"}
        drawn |= {"headline", "probabilities", "decision_curve"}
        drawn |= {"cooccurrence"} if own == "cooccurrence" else set()
        assert {path.name for path in (run.path / "figures").iterdir()} == {f"{name}.png" for name in drawn}
        assert {path.stem for path in (run.path / "tables").iterdir()} == {
            "per_label",
            "most_confused",
            "top_losses",
            "operating",
            own,
        }
        page = run.report_path.read_text()
        assert run.path.name in page
        assert "not for diagnosis" in page

"""Training compared with validation, in words."""

import pandas as pd
import pytest

from xrayfast.reporting.overfitting import TrainAndValid, overfitting_in_final_metrics, overfitting_in_history

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2],
        **{f"{split}_{name}": [0.5, value] for split, value in (("train", 0.98), ("valid", 0.91))
           for name in ("loss", "accuracy", "precision_macro", "f1_macro")},
    }
)  # fmt: skip


def test_values_are_from_the_epoch():
    found = overfitting_in_history(HISTORY, 2, "single")
    assert found.values == dict.fromkeys(("loss", "accuracy", "precision_macro", "f1_macro"), (0.98, 0.91))
    assert found.gap_sentences().startswith("Training accuracy 0.980, validation 0.910: a gap of 0.070.")
    assert "made during the epoch" in found.method_sentences()


@pytest.mark.parametrize(
    ("epoch", "history"), [(None, HISTORY), (7, HISTORY), (2, HISTORY.drop(columns="train_accuracy"))]
)
def test_without_an_epoch_or_training_metrics_there_is_nothing_to_show(epoch, history):
    assert overfitting_in_history(history, epoch, "single") is None


def test_undefined_values_stay_undefined():
    found = overfitting_in_history(HISTORY.assign(train_accuracy=float("nan")), 2, "single")
    assert found.values["accuracy"] == (None, 0.91)
    assert found.gap_sentences() == ""


@pytest.mark.parametrize(
    ("train", "valid", "words"),
    [
        (0.98, 0.91, "a gap of 0.070. The network does better"),
        (0.70, 0.81, "validation is higher by 0.110"),
        (0.915, 0.91, "a gap of 0.005, which is small"),
    ],
)
def test_the_sentence_depends_on_the_size_and_sign_of_the_gap(train, valid, words):
    assert words in TrainAndValid("multi", {"subset_accuracy": (train, valid)}, 3, final=True).gap_sentences()


def test_final_values_equal_the_metrics():
    overall = {"subset_accuracy": 0.9, "f1_macro": 0.8, "auroc_macro": 0.7}
    metrics = {"train": {"overall": overall}, "valid": {"overall": overall}, "loss": {"train": 0.1, "valid": 0.2}}
    found = overfitting_in_final_metrics(metrics, 3, "multi")
    assert found.values == {"loss": (0.1, 0.2), "subset_accuracy": (0.9, 0.9), "f1_macro": (0.8, 0.8)}
    assert "without augmentation. Both are at the thresholds" in found.method_sentences()
    averaged = overfitting_in_final_metrics(metrics, 3, "multi", tta=True).method_sentences()
    assert "without augmentation, those of validation averages over augmented views." in averaged


@pytest.mark.parametrize(
    ("final", "unit", "start"),
    [
        (False, "study", "Training accuracy 0.980 by image, validation 0.910 by study: a gap"),
        (True, "patient", "Training accuracy 0.980 by patient, validation 0.910 by patient: a gap"),
    ],
)
def test_the_unit_of_each_value_is_named_unless_it_is_the_image(final, unit, start):
    found = TrainAndValid("single", {"accuracy": (0.98, 0.91)}, 2, final, unit=unit)
    assert found.gap_sentences().startswith(start)
    assert (f"and gives them by {unit}, as validation is" in found.method_sentences()) is not final

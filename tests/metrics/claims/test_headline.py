"""The conditions of the warnings that are shown with the headline."""

import pytest

from xrayfast.metrics.claims.headline import (
    HeadlineFacts,
    HeadlineWarning,
    Remark,
    headline_warnings,
)

LABELS = ("covid-19", "normal", "pneumonia")


def facts(auroc=(0.7, 0.9), accuracy=(0.8, 0.9), per_label=0.95, patients=60, units=60, **options):
    """Return the facts of a split that gives no warning, except for what the arguments change."""
    summary = {
        "images": 90,
        "patients": patients,
        "overall": {"auroc_macro": sum(auroc) / 2, "accuracy": sum(accuracy) / 2},
        "per_label": [{"label": label, "auroc": per_label} for label in LABELS],
        "most_common": {"label": "normal", "share": 0.7},
        "intervals": {
            "by": "patient",
            "units": units,
            "overall": {
                name: dict(zip(("low", "high"), end, strict=True))
                for name, end in (("auroc_macro", auroc), ("accuracy", accuracy))
            },
            "per_label": {label: {"auroc": {"low": per_label - 0.2, "high": 1.0}} for label in LABELS},
        },
    }
    counts = options.pop("counts", dict.fromkeys(LABELS, (20, 40)))
    return HeadlineFacts(summary, "single", counts, **options)


def test_a_split_without_problems_has_no_warning():
    assert headline_warnings(facts(remarks=["Training is in bf16."])) == []


@pytest.mark.parametrize(
    ("code", "changed", "said"),
    [
        ("leaks", {"remarks": [f"{Remark.LEAKS_ALLOWED}: results are optimistic. p1."]}, "p1"),
        ("seen before", {"remarks": [f"{Remark.SEEN_BEFORE}, and results on them are optimistic."]}, "have seen"),
        ("seen before", {"remarks": [f"fold1, fold3: {Remark.SEEN_BEFORE}, and results are."]}, "fold1, fold3: The"),
        ("chosen here", {"chosen_on": "the folds"}, "Results on the folds are optimistic"),
        ("patients unknown", {"patients": None}, "Patients are not known"),
        ("chance", {"auroc": (0.5, 0.7)}, "the mean over labels (0.500 to 0.700)"),
        ("reversed", {"auroc": (0.3, 0.4)}, "the ranking is reversed: the mean over labels (0.300 to 0.400)"),
        ("chance", {"per_label": 0.69}, "covid-19 (0.490 to 1.000), normal"),
        ("constant", {"accuracy": (0.7, 0.9)}, "0.800 (0.700 to 0.900) is not shown to be above 0.700"),
        ("few patients", {"counts": {"covid-19": (9, 40), "normal": (10, 10)}}, "covid-19 (9 with it)."),
        ("few patients", {"counts": {"covid-19": (40, 9)}}, "covid-19 (9 without it)."),
        ("few images", {"units": 29}, "only 29 patients"),
        ("shortcut", {"shortcuts": {"normal": 0.95, "pneumonia": 0.94}}, ": normal (0.95, the network 0.95)."),
        ("blank images", {"blank": ['2 images read with the note "nearly black": a.png, b.png.']}, "a.png"),
        ("data", {"further": [HeadlineWarning("data", "1 file can't be read.")]}, "1 file"),
    ],
)
def test_each_condition_alone_gives_its_warning_alone(code, changed, said):
    (found,) = headline_warnings(facts(**changed))
    assert found["code"] == code
    assert said in found["text"]
    assert found["text"].endswith(".") and found.keys() == {"code", "text", "advice"}


def test_a_leak_between_the_splits_of_the_run_gives_no_warning_about_other_data():
    remarks = [f"{Remark.LEAKS_ALLOWED}: results are optimistic."]
    assert headline_warnings(facts(remarks=remarks, external=True)) == []


def test_without_intervals_accuracy_and_auroc_themselves_are_compared():
    found = facts(auroc=(0.4, 0.6), accuracy=(0.6, 0.7))
    del found.summary["intervals"]
    chance, constant = headline_warnings(found)
    assert (chance["code"], "the mean over labels (0.500, no interval)." in chance["text"]) == ("chance", True)
    assert (constant["code"], "0.650 is" in constant["text"]) == ("constant", True)
    found.summary["overall"]["auroc_macro"] = 0.51
    assert [one["code"] for one in headline_warnings(found)] == ["constant"]


def test_with_two_classes_only_the_positive_class_is_named():
    found = facts(auroc=(0.4, 0.6))
    del found.summary["per_label"][2]
    found.summary["positive"] = "covid-19"
    assert headline_warnings(found) == []
    found.summary["intervals"]["per_label"]["covid-19"]["auroc"] = {"low": 0.45, "high": 0.7}
    (warning,) = headline_warnings(found)
    assert warning["text"].endswith(": covid-19 (0.450 to 0.700).")


@pytest.mark.parametrize(("support", "negatives", "answer"), [(30, 70, "no mass"), (70, 30, "mass")])
def test_accuracy_of_one_label_is_compared_with_a_constant_answer(support, negatives, answer):
    row = {"label": "mass", "auroc": 0.9, "support": support, "negatives": negatives}
    summary = {"images": 100, "patients": 100, "overall": {"auroc_macro": 0.9, "subset_accuracy": 0.7}}
    (warning,) = headline_warnings(HeadlineFacts({**summary, "per_label": [row]}, "multi", {}))
    assert warning["code"] == "constant"
    assert f"0.700 is not shown to be above 0.700, the accuracy of always predicting '{answer}'" in warning["text"]


def test_advice_about_a_table_does_not_suggest_patients_from_file_names():
    advice = [headline_warnings(facts(patients=None, of_table=table))[0]["advice"] for table in (True, False)]
    assert ["name:REGEX" in one for one in advice] == [False, True]

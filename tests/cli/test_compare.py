"""`xrayfast compare` as a user runs it."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from tests.cli.test_cli import call
from tests.metrics.cases import many_labels, one_class
from tests.workflows.test_compare import better, kept, told
from xrayfast.metrics.registry import overall_metrics


@pytest.fixture
def runs(at):
    """Three runs in runs/; c is the best."""
    truth, probability = one_class(n=60)
    for name, share in (("a", 0.05), ("b", 0.0), ("c", 0.25)):
        kept(at / "runs", name, test=told(truth, better(probability, truth, share)))
    return at / "runs"


def test_the_screen_shows_intervals_first_and_corrected_p_values_next_to_them(runs, monkeypatch):
    said = call("compare", "runs", "--resamples", 50).stdout
    assert "60 test images, with 95% intervals; sorted by macro AUROC" in said
    assert re.search(r"^c +\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)", said, flags=re.M)
    assert re.search(r"^a +−\d\.\d{3} \([−+]\d\.\d{3} to [−+]\d\.\d{3}\)", said, flags=re.M)
    assert re.search(r"^b +AUROC tumour .* (yes|no) *$", said, flags=re.M)
    for words in (
        "Difference from c on the 60 test images in common",
        "p also corrected for 15 tests",
        "How they were trained",
    ):
        assert words in said
    order = [said.index(f"\n{name} ") for name in "cab"]
    assert order == sorted(order)
    monkeypatch.setenv("COLUMNS", "80")
    narrow = call("compare", "runs", "--resamples", 20).stdout
    tables = narrow[: narrow.index("Note: ")]
    assert max(map(len, tables.splitlines())) <= 80
    assert re.search(r"\d\.\d{3} to [−+]\d\.\d{3}\) *$", tables, flags=re.M)  # no interval is broken across lines


def test_differences_of_runs_with_different_splits_are_on_the_images_in_common(at):
    """Run a has images 0 to 59, run b images 25 to 59 and 5 others; the heading counts the 35 shared images."""
    truth, probability = one_class(n=65)
    whole = told(truth, better(probability, truth, 0.2))
    kept(at / "runs", "a", test=whole.select(np.arange(60)))
    kept(at / "runs", "b", test=whole.select(np.arange(25, 65)))
    said = call("compare", "runs", "--resamples", 20).stdout
    assert "40 to 60 test images, with" in said
    assert re.search(r"Difference from [ab] on the 35 test images in common", said)


def test_heads_are_shown_if_they_differ(at):
    truth, probability = one_class(n=30)
    for name, options in (("a", {}), ("b", {}), ("c", {"head": "linear"})):
        kept(at / "runs", name, options=options, valid=told(truth, probability))
    said = call("compare", "runs", "--resamples", 20).stdout
    assert re.search(r"^run +arch +head +trained", said, flags=re.M)
    assert re.search(r"^c +resnet18 +linear +by hand +ce", said, flags=re.M)
    said = call("compare", "runs/a", "runs/b", "--resamples", 20).stdout
    assert re.search(r"^run +arch +trained", said, flags=re.M)


def test_many_labels_show_only_the_smallest_p_values(at):
    truth, probability = many_labels(labels=24, n=60)
    labels = [f"label-{i}" for i in range(24)]
    for name, share in (("a", 0.0), ("b", 0.2)):
        kept(at / "runs", name, "multi", valid=told(truth, better(probability, truth, share), labels))
    said = call("compare", "runs/a", "runs/b", "--resamples", 20, "--csv", "all.csv").stdout
    assert "p also corrected for 25 tests; the 20 smallest p" in said
    assert said.count("AUROC label-") + said.count("\na    Subset accuracy ") == 20
    assert "validation images" in said
    assert len(pd.read_csv("all-differences.csv")) == 24 + 4


def test_csv_and_json_contain_everything(runs):
    done = call("compare", "runs/a", "runs/b", "runs/c", "--csv", "all.csv", "--json", "--resamples", 20,
                "--order", "brier", "--reference", "a")  # fmt: skip
    content = json.loads(done.stdout)
    assert [row["run"] for row in content["runs"]] == ["c", "a", "b"]
    assert (content["order"], content["reference"], content["split"]) == ("brier", "a", "test")
    assert "Brier score" in done.stderr
    table, differences = pd.read_csv("all.csv"), pd.read_csv("all-differences.csv")
    assert table["run"].tolist() == ["c", "a", "b"]
    for name in overall_metrics("single"):
        assert {name, f"{name}_low", f"{name}_high"} <= set(table)
        for row, told_row in zip(table.to_dict("records"), content["runs"], strict=True):
            assert row[f"{name}_low"] == pytest.approx(told_row["metrics"][name]["low"], nan_ok=True)
    assert set(differences["reference"]) == {"a"}
    assert {"difference", "low", "high", "test", "p", "p_corrected", "significant"} <= set(differences)
    assert "Differences: all-differences.csv" in done.stderr


ERRORS = {
    "one": (["runs/a"], 1, ["two or more runs", "xrayfast compare runs"]),
    "none": ([], 2, ["Missing argument"]),
    "no run": (["runs/a", "nowhere"], 1, ["nowhere: no such run"]),
    "metric": (["runs", "--order", "acuracy"], 2, ["--order is 'acuracy'", "Did you mean 'accuracy'"]),
    "part": (["runs", "--split", "train"], 2, ["train"]),
    "reference": (["runs", "--reference", "z"], 2, ["--reference is 'z'", "a, b, c"]),
    "folder": (["runs", "--csv", "no/where.csv", "--resamples", "5"], 1, ["no/where.csv: the folder"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_of_compare_are_named(runs, case):
    words, code, expected = ERRORS[case]
    said = re.sub(r"\s+", " ", call("compare", *words, code=code).stderr)
    for text in expected:
        assert text in said, said

"""Masked cells from the table to the report."""

import numpy as np
import pandas as pd
import pytest
from fastai.metrics import accuracy_multi

import xrayfast as xf
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def uncertain(data_dir, tmp_path_factory):
    """A table of the films with two columns of 1, 0, -1 and blank cells; ten images have only masked cells."""
    table = pd.read_csv(data_dir / "labels.csv")
    rng = np.random.default_rng(0)
    for name in ("covid-19", "pneumonia"):
        flags = (table["labels"] == name).astype(int).astype(str)
        flags[rng.random(len(flags)) < 0.2] = "-1"
        flags[rng.random(len(flags)) < 0.1] = ""
        table[name] = flags
    table.loc[:9, ["covid-19", "pneumonia"]] = "-1"
    file = tmp_path_factory.mktemp("uncertain") / "labels.csv"
    table.drop(columns="labels").to_csv(file, index=False)
    return file


def test_a_run_with_masked_cells_trains_measures_and_reports(uncertain, data_dir, tmp_path):
    data = xf.open_data(data_dir, labels=uncertain)
    assert np.isnan(data.targets).any()
    run = xf.fit(data, runs=tmp_path, unfreeze=True, epochs=1, class_weights="auto", **(SMALL | {"batch_size": 4}))
    assert np.isfinite(run.history[["train_loss", "valid_loss"]].to_numpy()).all()
    valid = data.subset("valid")
    predictions = run.predictions("valid")
    assert (predictions.truth == valid.truth).all()
    assert "masked" in pd.read_csv(run.path / "predictions" / "valid.csv")
    assert sum(run.metrics["valid"]["masked"].values()) == (valid.truth < 0).sum()
    xf.interpret(run)
    assert "because the label is masked" in run.report_path.read_text()


def test_a_warning_names_metrics_that_see_masked_cells(uncertain, data_dir):
    dls = xf.dataloaders(xf.open_data(data_dir, labels=uncertain), size=32, workers=0, device="cpu")
    with pytest.warns(UserWarning, match="metrics accuracy_multi: masked cells .* are NaN in the targets"):
        xf.learner(dls, arch="resnet18", weights="none", metrics=[accuracy_multi])


def test_policies_change_what_is_learned(uncertain, data_dir):
    counts = {}
    for policy in ("ignore", "zeros", "ones", "smooth:0.6"):
        data = xf.open_data(data_dir, labels=uncertain, uncertain=policy, blank="zeros")
        counts[policy] = [float(np.isnan(data.targets).sum()), float(np.nansum(data.targets))]
        if policy.startswith("smooth"):
            assert (np.isclose(data.targets, 0.6) == ((data.truth < 0) & ~np.isnan(data.targets))).all()
    assert counts["zeros"][0] == counts["ones"][0] == counts["smooth:0.6"][0] == 0 < counts["ignore"][0]
    assert counts["ones"][1] == counts["zeros"][1] + counts["ignore"][0]

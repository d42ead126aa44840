"""What trackers record of a run, read with the trackers' own readers; results are the same with and without them."""

import math
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import xrayfast as xf
from tests.conftest import INTERVALS, SMALL, add_tiny_resnet
from xrayfast.cli import app
from xrayfast.config import Config
from xrayfast.errors import ConfigError, Interrupted
from xrayfast.progress import NullReporter
from xrayfast.tracking import session, trackers

EXACT = ["epoch", "train_loss", "valid_loss", "valid_auroc_macro", "lr"]


def train(data_dir, runs, **options):
    add_tiny_resnet()
    data = xf.open_data(data_dir, test_fraction=0.2)
    return xf.fit(data, runs=runs, name="a", unfreeze=True, epochs=2, **SMALL | INTERVALS | options)


@pytest.fixture(scope="module")
def plain(data_dir, tmp_path_factory):
    return train(data_dir, tmp_path_factory.mktemp("plain"))


def require_equal_results(run, other):
    pd.testing.assert_frame_equal(run.history[EXACT], other.history[EXACT], check_exact=True)
    for split in ("valid", "test"):
        np.testing.assert_array_equal(run.predictions(split).raw, other.predictions(split).raw)


def expected_values(run):
    """Return every number that a tracker must record, by name and step."""
    rows = run.history.to_dict("records")
    found = {("train/loss", row["epoch"]): row["train_loss"] for row in rows}
    found |= {("valid/auroc_macro", row["epoch"]): row["valid_auroc_macro"] for row in rows}
    summary, last = run.metrics["test"], len(rows)
    interval = summary["intervals"]["overall"]["auroc_macro"]
    found["final/test/auroc_macro", last] = summary["overall"]["auroc_macro"]
    found["final/test/auroc_macro/low", last], found["final/test/auroc_macro/high", last] = (
        interval["low"],
        interval["high"],
    )
    for row in summary["per_label"]:
        found[f"final/test/auroc/{row['label']}", last] = row["auroc"]
    return found


def test_settings_epochs_results_and_figures_can_be_read_from_tensorboard(data_dir, tmp_path, plain):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train(data_dir, tmp_path, track="tensorboard")
    require_equal_results(run, plain)
    events = reading.EventAccumulator(str(run.path / "tensorboard"), {reading.SCALARS: 0, reading.IMAGES: 0})
    events.Reload()
    found = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    for key, value in expected_values(run).items():
        assert found[key] == pytest.approx(value, rel=1e-6), key
    assert set(events.Tags()["images"]) == {
        "training", "test/roc", "test/precision_recall", "test/calibration", "test/confusion"
    }  # fmt: skip
    [text] = events.Tensors("settings/text_summary")
    settings = text.tensor_proto.string_val[0].decode()
    assert "| train.epochs | 2 |" in settings and "| model.arch | tiny_resnet |" in settings
    assert str(data_dir) not in settings and "| data.source | data |" in settings
    assert "hparams" in events.summary_metadata["_hparams_/experiment"].plugin_data.plugin_name
    assert run.info.status == "completed"


@pytest.mark.slow
def test_settings_epochs_results_and_figures_can_be_read_from_mlflow(data_dir, tmp_path, plain, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    run = train(data_dir, tmp_path, track=["mlflow", "tensorboard"])
    require_equal_results(run, plain)
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    [found] = client.search_runs([client.get_experiment_by_name("xrayfast").experiment_id])
    assert (found.info.run_name, found.info.status) == ("a", "FINISHED")
    assert found.data.params["train.epochs"] == "2" and found.data.params["data.source"] == "data"
    for (name, step), value in expected_values(run).items():
        [metric] = [m for m in client.get_metric_history(found.info.run_id, name.replace("é", "_")) if m.step == step]
        assert metric.value == pytest.approx(value, rel=1e-12), name
    files = {one.path for one in client.list_artifacts(found.info.run_id, "figures")}
    figures = ("training", "test_roc", "test_precision_recall", "test_calibration", "test_confusion")
    assert files == {f"figures/{name}.png" for name in figures}
    assert len(list((tmp_path / "mlruns").rglob("*.png"))) == len(figures)  # as the guide says


class Told:
    """A tracker that records its calls."""

    def __init__(self, made):
        self.calls = []
        made.append(self)

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.fixture
def told(monkeypatch):
    """Replace real trackers, and return those that were created, with their calls."""
    made = []
    monkeypatch.setattr(session, "make_tracker", lambda name: Told(made))
    return made


class StopsAfter(NullReporter):
    """Requests a stop after a number of epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.left = epochs
        self.notes = []
        self.note = self.notes.append

    def epoch(self, row, best):
        self.left -= 1


@pytest.mark.slow
def test_an_interrupted_run_and_its_resumption_are_tracked(data_dir, tmp_path, told):
    reporter = StopsAfter(2)
    with pytest.raises(Interrupted):
        train(data_dir, tmp_path, track="tensorboard", reporter=reporter, interrupted=lambda: reporter.left <= 0)
    run = xf.resume(tmp_path / "a", reporter=StopsAfter(9))
    first, second = told
    assert [call[2] for call in first.calls if call[0] == "log"] == [1, 2]
    assert first.calls[-1] == ("finish", "interrupted")
    assert [call[2] for call in second.calls if call[0] == "log"] == [1, 2, 3, 3]
    assert second.calls[-1] == ("finish", "completed")
    assert first.calls[0][1].name == "a" and run.config.train.track == ("tensorboard",)


@pytest.mark.slow
def test_a_tracker_that_fails_is_a_note_and_the_run_is_complete(data_dir, tmp_path, monkeypatch, plain):
    def refuse(name):
        raise OSError("no disk")

    monkeypatch.setattr(session, "make_tracker", refuse)
    reporter = StopsAfter(9)
    run = train(data_dir, tmp_path, track=["tensorboard", "tensorboard"], reporter=reporter)
    assert sum("tensorboard failed" in note and "no disk" in note for note in reporter.notes) == 1
    require_equal_results(run, plain)


def within_block(run, reporter, error=None, rows=()):
    with session.tracked(["mlflow"], run, run.config, rows, reporter) as shown:
        shown.epoch({"epoch": 1, "train_loss": 0.5}, True)
        if error:
            raise error


def test_results_that_cannot_be_logged_do_not_fail_a_complete_run(tiny_run, monkeypatch, told):
    def fail(run):
        raise ValueError("no figure")

    monkeypatch.setattr(session, "_figures", fail)
    reporter = StopsAfter(9)
    within_block(tiny_run, reporter)
    assert reporter.left == 8 and ["no figure" in note for note in reporter.notes] == [True]
    assert [call[0] for call in told[0].calls] == ["start", "log", "finish"]
    assert told[0].calls[-1] == ("finish", "completed")


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "interrupted"), (Interrupted("x", 130), "interrupted"), (OSError(), "failed")],
)
def test_the_final_status_of_a_run_is_tracked(tiny_run, told, error, status):
    with pytest.raises(type(error)):
        within_block(tiny_run, NullReporter(), error, rows=[{"epoch": 1, "lr": 0.1}])
    assert [call[1:] for call in told[0].calls[1:]] == [({"lr": 0.1}, 1), ({"train/loss": 0.5}, 1), (status,)]


def test_a_missing_package_is_named_before_anything_is_written(data_dir, tmp_path, monkeypatch):
    for module in ("tensorboard",):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"track is tensorboard.*pip install 'xrayfast\[tensorboard\]'"):
        train(data_dir, tmp_path, track="tensorboard")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="expected 'tensorboard', 'wandb', 'mlflow' or 'trackio'"):
        train(data_dir, tmp_path, track="comet")


def test_the_command_names_a_missing_package_before_it_opens_data(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    words = ["fit", str(tmp_path / "none"), "--track", "tensorboard", "--runs", str(tmp_path)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2 and isinstance(found.exception, SystemExit), found.output
    assert "pip install 'xrayfast[tensorboard]'" in " ".join(found.output.split())


def test_the_name_of_a_network_begins_with_those_of_what_it_is_part_of(tmp_path):
    folder = tmp_path / "cv" / "fold1" / "member-2"
    folder.mkdir(parents=True)
    for path in (folder, *folder.parents[:2]):
        (path / "run.json").write_text("{}")
    assert session._run_name(xf.Run(folder)) == "cv fold1 member-2"
    assert session._run_name(xf.Run(tmp_path / "cv")) == "cv"


def test_logged_settings_have_no_folders_and_logged_epochs_no_undefined_numbers():
    config = Config().updated(
        {"source": "/home/anna/films", "weights": "/home/anna/runs/first", "progressive": (64, 224)}
    )
    settings = session.settings_of(config)
    assert "anna" not in str(settings)
    assert (settings["data.source"], settings["model.weights"]) == ("films", "first")
    assert (settings["train.progressive"], settings["train.lr"]) == ("64, 224", 0.002)
    row = {"epoch": 3, "phase": "head", "train_loss": 0.5, "valid_loss": math.nan, "valid_ap_macro": None, "lr": 0.1}
    assert session.epoch_values(row) == {"train/loss": 0.5, "lr": 0.1}


def test_metric_names_are_valid_in_mlflow():
    assert trackers._mlflow_name("final/test/auroc/Épanchement (droit)") == "final/test/auroc/_panchement _droit_"

"""The scripts of examples/ run."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import xrayfast as xf

ROOT = Path(__file__).resolve().parents[1]
GRID = ROOT / "examples" / "published_grid.py"
EXAMPLES = sorted(set((ROOT / "examples").glob("*.py")) - {GRID, ROOT / "examples" / "beside_fastai.py"})


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A function that runs a script in a new folder, in this process because a new one would import torch for 10 s."""

    def script(code, argument):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["script.py", str(argument)])
        exec(compile(code, "script.py", "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    return script


# test_guide.py runs similar code of README and guide, so by default only one example runs here.
LONG = [path for path in EXAMPLES if path.stem != "multi_label_focal"]


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.slow] * (path in LONG), id=path.stem) for path in EXAMPLES]
)
def test_examples_run(path, data_dir, tmp_path, run):
    # The unchanged script, except that it trains one epoch.
    code = re.sub(r"epochs=8|fit_one_cycle\(8", lambda found: found[0].replace("8", "1"), path.read_text())
    assert code != path.read_text()
    out = run(code, data_dir)
    assert out.strip()
    assert list((tmp_path / "runs").glob("*/report.html"))
    assert next((tmp_path / "runs").glob("*/run.json")).read_text().count('"completed"') == 1


def test_there_are_three_examples_and_the_grid():
    assert {path.stem for path in EXAMPLES} == {"single_label", "multi_label_focal", "plain_fastai"}
    assert GRID.is_file()


@pytest.fixture
def grid(monkeypatch):
    """The main function of examples/published_grid.py."""
    monkeypatch.syspath_prepend(GRID.parent)  # as Python does for a script
    return runpy.run_path(str(GRID))["main"]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """72 synthetic films of 72 patients: enough for intervals on a fifth of them."""
    folder = tmp_path_factory.mktemp("grid") / "data"
    xf.synth(folder, images=72, images_per_patient=1, size=64, seed=3)
    return folder


SMALLEST = ["--quick", "--arch", "resnet18", "--size", "32", "--runs", "grid"]
TWO = [*SMALLEST, "--layers", "dense", "--layers", "all", "--loss", "bce", "--epochs", "2"]
DENSE, ALL = "resnet18-mlp-dense-adam-bce", "resnet18-mlp-all-adam-bce"


@pytest.mark.slow
def test_the_grid_trains_what_is_not_there_resumes_what_was_killed_and_keeps_the_rest(
    grid, films, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    fit = xf.fit

    def killed(*arguments, name, **options):
        """Stop the second run after its first epoch without updating run.json, like kill -9."""
        if name == DENSE:
            return fit(*arguments, name=name, **options)
        from xrayfast.workflows.steps import training

        publish = training.publish_epochs

        def publish_and_die(run, rows):
            publish(run, rows)
            raise SystemExit("killed")

        with monkeypatch.context() as patch:
            patch.setattr(training, "publish_epochs", publish_and_die)
            return fit(*arguments, name=name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(xf, "fit", killed)
        with pytest.raises(SystemExit, match="killed"):
            grid([str(films), *TWO])
    first, second = (xf.Run(tmp_path / "grid" / name) for name in (DENSE, ALL))
    assert (first.info["status"], second.info["status"]) == ("completed", "running")
    assert len(second.history) == 1
    assert not Path("grid/published.md").exists()

    before = first.info
    capsys.readouterr()
    grid([str(films), *TWO])
    out = capsys.readouterr().out
    assert f"1 of 2: {DENSE} is done" in out
    assert f"2 of 2: {ALL} goes on" in out
    assert first.info == before
    assert second.info["status"] == "completed"
    assert len(second.history) == 2
    ended = second.info["finished"]

    for file in Path("grid").glob("published.*"):
        file.unlink()
    grid([str(films), *TWO])
    out = capsys.readouterr().out
    assert out.count("is done") == 2
    assert "is trained" not in out
    assert "goes on" not in out
    assert second.info["finished"] == ended
    check_results((first, second), out)

    with pytest.raises(SystemExit, match="other settings"):
        grid([str(films), *TWO, "--epochs", "3"])


def check_results(runs, out):
    """Check tables, page and predictions against the runs."""
    table = pd.read_csv("grid/published.csv")
    assert table["layers"].tolist() == ["dense", "all"]
    assert table["published_accuracy"].tolist() == ["0.93 [a]", "0.945 [a]"]
    for (_, row), run in zip(table.iterrows(), runs, strict=True):
        assert run.labels == ("infected", "normal")
        assert run.info.best_epoch == row["epoch"]
        kept = run.history.loc[row["epoch"] - 1]
        for name in ("train_accuracy", "train_loss", "valid_loss"):
            assert row[name] == pytest.approx(kept[name])
        for split in ("valid", "test"):
            overall = run.metrics[split]["overall"]
            ends = run.metrics[split]["intervals"]["overall"]["accuracy"]
            assert row[f"{split}_accuracy"] == pytest.approx(overall["accuracy"])
            assert [row[f"{split}_accuracy_low"], row[f"{split}_accuracy_high"]] == pytest.approx(
                [ends["low"], ends["high"]]
            )
            assert f"{overall['accuracy']:.3f} ({ends['low']:.3f} to {ends['high']:.3f})" in out
            (a, b), (c, d) = run.metrics[split]["confusion"]
            assert f"{a} {b} / {c} {d}" in out
    page, text = Path("grid/published.html").read_text(), Path("grid/published.md").read_text()
    for words in ("not public", "0.93 [a]", "0.945 [a]", "These are other images", "12,000 radiographs to train"):
        assert words in page
        assert words in text
        assert words in out
    # Figures: the losses of both runs; batches, two matrices and images of each run.
    assert page.count('src="data:image/png;base64,') == 1 + 2 * 4
    predicted = pd.read_csv("grid/test_predictions.csv")
    assert list(predicted["run"].unique()) == [DENSE, ALL]
    for run in runs:
        rows, saved = predicted[predicted["run"] == run.path.name].set_index("image"), run.predictions("test")
        rows = rows.loc[list(saved.images)]
        assert len(rows) == len(saved)
        assert rows["prob_infected"].to_numpy() == pytest.approx(saved.probability[:, 0], rel=1e-6)
        assert (rows["actual"] == ["infected" if row[0] else "normal" for row in saved.truth]).all()
        assert (rows["predicted"] == ["infected" if p >= 0.5 else "normal" for p in saved.probability[:, 0]]).all()


@pytest.mark.slow
def test_three_labels_are_trained_with_the_papers_focal_loss(grid, films, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [
        "--imply",
        "covid-19=pneumonia",
        "--layers",
        "dense",
        "--loss",
        "focal",
        "--epochs",
        "1",
        "--optimizer",
        "sgd-1e-4-20",
    ]
    grid([str(films), *SMALLEST, *options])
    out = capsys.readouterr().out
    run = xf.Run("grid/resnet18-mlp-dense-sgd-1e-4-20-focal")
    assert run.labels == ("covid-19", "normal", "pneumonia")
    train = run.config.train
    assert (train.optimizer, train.momentum, train.lr, train.wd, train.schedule) == ("sgd", 0.9, 1e-4, 0, "constant")
    assert (train.batch_size, run.config.model.head_width) == (20, (120,))
    found = run.predictions("valid")
    p = np.where(found.truth == 1, found.raw, 1 - found.raw)  # of the true value of each label; alpha is 1
    assert found.loss == pytest.approx((-((1 - p) ** 2) * np.log(p)).mean(axis=1), rel=1e-4)
    overall = run.metrics["test"]["overall"]
    (row,) = pd.read_csv("grid/published.csv").to_dict("records")
    assert row["test_subset_accuracy"] == pytest.approx(overall["subset_accuracy"])
    assert row["train_subset_accuracy"] == pytest.approx(run.history["train_subset_accuracy"].iloc[0])
    assert row["published_subset_accuracy"] == "0.935 to 0.957 [c]"
    assert row["published_f1_macro"] == "0.882 to 0.920 [c]"
    for label, ((tn, fp), (fn, tp)) in run.metrics["test"]["confusion_per_label"].items():
        assert f"{label} {tn} {fp} / {fn} {tp}" in out
    assert (found.probability == found.raw).all()
    assert run.decision.thresholds.tolist() == [0.5] * 3
    assert "[c] Student report" in out and "628 to test" in out


@pytest.mark.slow
def test_experiments_that_cannot_be_trained_are_skipped_with_the_reason(grid, films, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lost = ["--arch", "vgg16", "--weights", "vgg16=lost.pth", "--loss", "bce", "--epochs", "1", "--layers", "dense"]
    grid([str(films), *SMALLEST, *lost])
    name = "vgg16-mlp-dense-adam-bce"
    assert re.search(rf"2 of 2: {name} is skipped\. .*lost\.pth", capsys.readouterr().out)
    assert re.search(f"Not trained: {name}. .*lost.pth", Path("grid/published.md").read_text())
    assert f"Not trained: {name}" in Path("grid/published.html").read_text()
    assert not (tmp_path / "grid" / name).exists()
    assert pd.read_csv("grid/published.csv")["run"].tolist() == [DENSE]
    with pytest.raises(SystemExit, match="No experiment could be trained"):
        grid([str(films), "--quick", "--runs", "grid", *lost])


def test_a_grid_cell_killed_before_training_began_is_begun_anew(grid, films, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stump = tmp_path / "grid" / DENSE
    stump.mkdir(parents=True)
    for name in ("config.yaml", "run.json", ".split.csv.0a1b.tmp"):
        (stump / name).write_text("{}")
    seen = []
    monkeypatch.setattr(xf, "fit", lambda *_, **options: seen.append(options["name"]) or sys.exit("enough"))
    with pytest.raises(SystemExit, match="enough"):
        grid([str(films), *SMALLEST])
    assert seen == [DENSE]
    assert not stump.exists()
    stump.mkdir()
    (stump / "thesis.txt").write_text("dear to somebody")
    with pytest.raises(OSError, match="not empty"):
        grid([str(films), *SMALLEST])
    assert (stump / "thesis.txt").is_file()


def test_the_grid_has_the_published_experiments(grid, capsys):
    grid(["--list", "--head", "mlp", "--loss", "bce"])
    resnet = ["dense", "last-block", "last-two-blocks", "all"]
    vgg = ["dense", "one-layer", "three-layers", "later-half", "all"]
    names = [f"resnet18-mlp-{layers}" for layers in resnet] + [f"vgg16-mlp-{layers}" for layers in vgg]
    assert capsys.readouterr().out.split("\n")[:9] == [f"{name}-adam-bce" for name in names]

    from published.experiments import OPTIMIZERS, Experiment, experiments

    found = experiments(["resnet18", "vgg16"], ["mlp", "classifier"], [], OPTIMIZERS, ["bce", "focal"])
    assert len(found) == len({experiment.name for experiment in found}) == (4 + 5 + 5) * 5 * 2
    trains = set()
    for experiment in found:
        settings = experiment.settings
        train = xf.Config().updated(settings | {"arch": experiment.network}).train
        assert (train.schedule, train.wd, train.batch_size) == ("constant", 0, 20)
        if train.unfreeze or train.unfreeze_blocks or train.unfreeze_layers:
            assert (train.freeze_epochs, train.lr_div) == (0, 1)
        assert (train.gamma, train.alpha) == (2, None)
        trains.add((train.optimizer, train.momentum, train.beta2, train.eps, train.lr, train.epochs))
        assert settings["head_width"] == (120 if experiment.network == "resnet18" else 500)
    sgd = {("sgd", 0.9, None, None, lr, epochs) for lr in (1e-3, 1e-4) for epochs in (10, 20)}
    assert trains == {("adam", 0.9, 0.999, 1e-8, 1e-3, 6)} | sgd
    three = Experiment("vgg16", "classifier", "three layers", "adam", "focal").settings
    assert (three["head"], three["unfreeze_layers"], three["loss"]) == ("classifier", 5, "focal"), "two are of the head"


@pytest.mark.slow
def test_the_grid_is_cross_validated_and_goes_on(grid, films, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [str(films), *SMALLEST, "--layers", "dense", "--loss", "bce", "--epochs", "1", "--cross-validate", "2"]
    grid(words)
    out = capsys.readouterr().out
    cv = xf.CrossValidation(Path("grid") / DENSE)
    (row,) = pd.read_csv("grid/cross_validated.csv").to_dict("records")
    values = [fold["overall"]["accuracy"] for fold in cv.metrics["folds"]]
    assert row["accuracy_mean"] == pytest.approx(np.mean(values)) and row["images"] == 72
    assert row["accuracy_sd"] == pytest.approx(np.std(values, ddof=1))
    assert row["accuracy"] == pytest.approx(cv.metrics["valid"]["overall"]["accuracy"])
    for text in (
        f"{np.mean(values):.3f} ± ",
        "0.93 [a]",
        "2 folds by patient",
        "five random folds that are validation",
    ):
        assert text in out and text in Path("grid/cross_validated.md").read_text()
    grid(words)
    assert f"1 of 1: {DENSE} is done" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        grid([str(films), *SMALLEST, "--random-folds"])

"""The command line as a user runs it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tests import forking
from tests.test_config import NUMBERS, numeric_kind
from xrayfast.cli import app
from xrayfast.cli.commands.fit import checking_settings
from xrayfast.cli.loading import Commands
from xrayfast.config import EMA_DECAY, Config, DataConfig
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors import ConfigError
from xrayfast.runs.run import Run

TINY = ["--weights", "none", "--size", "32", "--batch-size", "8", "--device", "cpu"]
SMALL = ["--arch", "tiny_resnet", "--resamples", "0", *TINY]


def call(*words, code=0):
    """Run a command in this process and return its standard output and error."""
    monkey = pytest.MonkeyPatch()
    monkey.setattr(sys, "argv", ["xrayfast", *map(str, words)])
    try:
        done = CliRunner().invoke(app, [str(word) for word in words], prog_name="xrayfast")
    finally:
        monkey.undo()
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


def test_single_process_commands_are_refused_in_several_ranks(at, monkeypatch):
    """They are allowed in a batch script and as the only task of a step, which see the variables of the job too."""
    job = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n1", "SLURM_PROCID": "2"}
    for name, value in (job | {"SLURM_ARRAY_TASK_ID": "3"}).items():
        monkeypatch.setenv(name, value)
    call("predict", "--help")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    for command in set(Commands()) - {"fit", "cross-validate", "lr-find", "cache", "models"}:
        said = " ".join(call(command, "x", code=2).stderr.split())
        assert (
            f"{command} runs in one process; found 4 processes, started by srun. Start one process without srun" in said
        )
    call("fit", "--help")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    call("predict", "--help")
    assert not list(at.iterdir())


def test_the_main_commands_work_as_documented(at):
    """Run synth, lr-find, fit, interpret and predict with the defaults for DATA and RUN."""
    made = call("synth", "data", "--images", 36, "--size", 64)
    assert "36 images" in made.stdout
    found = call("lr-find", "--steps", 30, *TINY)
    assert (at / "lr-find.png").read_bytes().startswith(b"\x89PNG")
    curve = pd.read_csv(at / "lr-find.csv")
    assert list(curve.columns) == ["lr", "loss"]
    assert len(curve) >= 20
    for method in ("valley", "slide", "minimum", "steep"):
        assert method in found.stdout
    line = re.search(r"Train with: (xrayfast fit .*)", found.stdout).group(1)
    assert line.startswith("xrayfast fit --weights none --size 32 --batch-size 8 --device cpu --lr ")
    fitted = call(*line.split()[1:], "--unfreeze", "--epochs", 1, "--resamples", 100)
    assert re.search(r"label +train +valid +test", fitted.stdout)
    assert "Training head: 1 epoch, learning rate" in fitted.stdout
    assert "Run: runs/resnet18-1" in fitted.stdout
    report = call("interpret", "--top", 3)
    assert "Report: runs/resnet18-1/report.html" in report.stdout
    for words in ("By label", "Most confused", "Largest losses", "AUROC"):
        assert words in report.stdout
    shutil.copytree("data/normal", "new_images")
    call("predict", "runs/resnet18-1", "new_images/", "-o", "predictions.csv")
    table = pd.read_csv("predictions.csv")
    assert len(table) == 12
    labels = ["prob_covid-19", "prob_normal", "prob_pneumonia"]
    assert list(table.columns) == ["file", "predicted", *labels, "notes", "error"]


def test_json_is_one_object_on_standard_output(at, data_dir):
    done = call("fit", data_dir, *SMALL, "--epochs", 1, "--json")
    content = json.loads(done.stdout)
    assert content["run"] == "runs/tiny_resnet-1"
    assert 0 <= content["metrics"]["valid"]["overall"]["accuracy"] <= 1
    assert "epoch 1 (head)" in done.stderr
    assert json.loads(call("interpret", "--json").stdout)["report"].endswith("report.html")
    models = call("models", "--json")
    assert json.loads(models.stdout)["models"][0]["arch"] == "resnet18"
    assert "one more block: vgg16 (119.5 M parameters), vgg16_bn (119.5 M parameters)." in models.stderr
    listed = json.loads(call("models", "--layers", "vgg16", "--size", 64, "--json").stdout)
    assert (listed["arch"], listed["size"], len(listed["layers"])) == ("vgg16", 64, 13)
    assert listed["layers"][-1] == {
        "last": 1, "name": "block5.conv3", "block": "block5", "weight": [512, 512, 3, 3], "output": [512, 4, 4],
        "parameters": 512 * 512 * 9 + 512,
    }  # fmt: skip
    table = call("models", "--layers", "resnet18").stdout
    assert "layer4.1.conv2" in table and "512×512×3×3" in table and "512×7×7" in table
    synth = json.loads(call("synth", "x", "--images", 9, "--size", 32, "--json").stdout)
    assert synth["images"] == 9


def test_a_config_file_is_replayed_and_options_override_it(at, data_dir):
    call("fit", data_dir, *SMALL, "--epochs", 1, "--head-width", "20,10", "--name", "first")
    call("fit", "--config", "runs/first/config.yaml", "--name", "second")
    third = call("fit", data_dir, "--config", "runs/first/config.yaml", "--name", "third", "--head-width", "8")
    assert "data settings are not used" not in third.output
    first, second, third = (Run(Path("runs") / name) for name in ("first", "second", "third"))
    assert first.config == second.config
    assert first.history.drop(columns="seconds").equals(second.history.drop(columns="seconds"))
    assert third.config.model.head_width == (8,)
    assert third.config.train == first.config.train
    assert first.info["command"].startswith("xrayfast fit ")


def test_multi_label_by_implication(at, data_dir):
    done = call(
        "fit", data_dir, *SMALL, "--epochs", 1, "--imply", "covid-19=pneumonia", "--loss", "focal", "--alpha", "0.25"
    )
    assert "a multi-label task" in done.stdout
    for words in ("AUROC, macro", "Mean average precision", "Confusion by label"):
        assert words in done.stdout
    assert "Report" in call("interpret").stdout


def test_a_csv_with_patients(at, data_dir):
    done = call("fit", data_dir, "--labels", data_dir / "labels.csv", *SMALL, "--epochs", 1, "--test-fraction", "0.2")
    assert "patients" in done.stdout
    split = pd.read_csv("runs/tiny_resnet-1/split.csv")
    assert (split.groupby("patient")["split"].nunique() == 1).all()
    assert set(split["split"]) == {"train", "valid", "test"}
    assert not split["patient"].isin(pd.read_csv(data_dir / "labels.csv")["patient"]).any(), "identifiers leaked"
    assert "test results" in done.stdout


def test_an_unreadable_file_has_a_row_and_sets_the_exit_code(at, tiny_run, data_dir):
    shutil.copytree(data_dir / "normal", "in")
    Path("in/aaa.png").write_bytes(b"no image")
    done = call("predict", tiny_run.path, "in", code=1)
    table = pd.read_csv("predictions.csv")
    assert "aaa.png" in table["error"][0]
    assert table["error"].isna().sum() == len(table) - 1
    assert "of 13 files predicted" in done.stdout


ERRORS = {
    "no data": (["fit", *TINY], 1, ["data", "xrayfast synth data"]),
    "no runs": (["interpret"], 1, ["runs: contains no runs", "xrayfast fit"]),
    "no such run": (["interpret", "runs/x"], 1, ["runs/x: no such run"]),
    "a file": (["interpret", __file__], 1, ["is a file, not a run's folder", "runs/resnet18-1"]),
    "an exported model": (["evaluate", "model.onnx", "data"], 1, ["model.onnx: found no such file"]),
    "not a run": (["predict", "empty", "x.png"], 1, ["empty: is not a run's folder", "run.json"]),
    "empty folder": (["fit", "empty", *TINY], 1, ["empty", "Expected one of", "xrayfast synth"]),
    "one class": (["fit", "one", *TINY], 1, ["one", "normal"]),
    "one image in a class": (["fit", "lonely", *TINY], 1, ["class 'b' has 1 image", "at least 2"]),
    "unreadable image": (["fit", "broken", *TINY, "--epochs", "1"], 1, ["broken/a/0.png"]),
    "missing file": (["fit", "two", "--labels", "missing.csv", *TINY], 1, ["missing.csv row 3", "nowhere.png"]),
    "duplicate row": (["fit", "two", "--labels", "twice.csv", *TINY], 1, ["twice.csv row 4", "row 2"]),
    "unknown column": (
        ["fit", "two", "--labels", "good.csv", "--label-col", "lable", *TINY],
        1,
        ["lable", "Did you mean 'label'"],
    ),
    "wrong label": (
        ["fit", "two", "--labels", "onehot.csv", *TINY],
        1,
        ["onehot.csv row 4", "'2'", "expected 1, 0, -1"],
    ),
    "wrong implication": (["fit", "two", "--imply", "c=a", *TINY], 1, ["'c'"]),
    "cycle": (["fit", "two", "--imply", "a=b", "--imply", "b=a", *TINY], 2, ["--imply: found a cycle", "a -> b -> a"]),
    "unknown arch": (["fit", "none", "--arch", "resnet81"], 2, ["--arch is 'resnet81'", "Did you mean 'resnet18'"]),
    "wrong values": (
        ["fit", "two", "--loss", "hinge", "--epochs", "0", "--head-width", "a"],
        2,
        ["--loss is 'hinge'", "--epochs is 0; expected at least 1.", "--head-width is 'a'; expected a whole number."],
    ),
    "contradicting values": (
        ["fit", "two", "--progressive", "64,128", "--thresholds", "youden", "--target-sensitivity", "0.9"],
        2,
        ["found --thresholds and --target-sensitivity; expected one."],
    ),
    "size and progressive": (
        ["fit", "two", "--progressive", "64,128"],
        2,
        ["--progressive ends at 128, and --size is 224"],
    ),
    "loss of the other task": (
        ["fit", "two", *TINY, "--loss", "asl"],
        2,
        ["loss asl is for multi", "--loss ce or focal"],
    ),
    "no such weights": (
        ["fit", "two", "--weights", "runs/x"],
        1,
        ["runs/x: found no such file or folder", "a run's folder"],
    ),
    "no such fold": (
        ["cross-validate", "two", *TINY, "--folds", "2", "--fold", "3"],
        2,
        ["--fold is 3; expected one from 1 to 2"],
    ),
    "no further run": (
        ["predict", "RUN", "runs/x", "two"],
        1,
        ["runs/x: no such file", "It is not a run's folder either"],
    ),
    "out of range": (["fit", "two", "--jobs", "3"], 2, ["Error: No such option: --jobs", "fit --help' lists"]),
    "too large": (
        ["cross-validate", "two", "--folds", "1"],
        2,
        ["Error: Invalid value for '--folds': expected at least 2.", "cross-validate --help' lists"],
    ),
    "nothing to predict on": (["predict", "RUN"], 2, ["Error: Missing argument"]),
    "monitor of the other task": (["fit", "two", *TINY, "--monitor", "ap_macro"], 2, ["--monitor is 'ap_macro'"]),
    "two ways to unfreeze": (
        ["fit", "two", *TINY, "--unfreeze", "--unfreeze-blocks", "1"],
        2,
        ["use one of the three"],
    ),
    "three ways to unfreeze": (
        ["fit", "two", *TINY, "--unfreeze-layers", "2", "--unfreeze-blocks", "1"],
        2,
        ["--unfreeze-layers", "use one of the three"],
    ),
    "more layers than there are": (
        ["fit", "two", *TINY, "--unfreeze-layers", "18"],
        2,
        ["--unfreeze-layers is 18", "has only 17 layers", "xrayfast models --layers ARCH"],
    ),
    "nothing to unfreeze gradually": (
        ["fit", "two", *TINY, "--gradual-unfreeze", "2"],
        2,
        ["--gradual-unfreeze is 2, but nothing is to be unfrozen"],
    ),
    "layers of no network": (["models", "--layers", "resnet81"], 2, ["Did you mean 'resnet18'"]),
    "size without layers": (["models", "--size", "64"], 2, ["--size", "Only with --layers"]),
    "no such config": (["fit", "two", "-c", "no.yaml"], 1, ["no.yaml: found no such file"]),
    "wrong config": (["fit", "two", "-c", "wrong.yaml"], 1, ["wrong.yaml: epochs is 'x'; expected a whole number."]),
    "misplaced key": (["fit", "two", "-c", "flat.yaml"], 1, ["unknown key 'epochs'. 'epochs' belongs under 'train:'."]),
    "name taken": (["fit", "two", *TINY, "--name", "two", "--runs", "."], 1, ["never overwritten"]),
    "not a folder": (["fit", "two", *TINY, "--runs", "good.csv"], 1, ["good.csv", "can't be written"]),
    "weights": (["fit", "two", "--weights", "good.csv"], 1, ["good.csv: is not a plain state dict"]),
    "resume with options": (["fit", "two", "--resume", "x"], 2, ["Give --resume without other options"]),
    "resume nothing": (["fit", "--resume", "runs/x"], 1, ["runs/x: no such run"]),
    "synth onto data": (["synth", "two"], 1, ["two"]),
    "output without folder": (
        ["predict", "RUN", "two", "-o", "no/where.csv"],
        1,
        ["no/where.csv", "does not exist"],
    ),
    "no such source": (["predict", "RUN", "nothing*"], 1, ["nothing*: no file matches this pattern"]),
    "unknown option": (["fit", "--epoch", "3"], 2, ["No such option", "--epochs"]),
    "unknown command": (["fitt"], 2, ["fitt"]),
    "bad split": (["interpret", "RUN", "--split", "train"], 2, ["train"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_state_the_problem_its_place_and_the_remedy(case, at, data_dir, tiny_run):
    images = sorted(data_dir.rglob("*.png"))
    for folder, classes in {
        "one": {"normal": 4},
        "lonely": {"a": 5, "b": 1},
        "broken": {"a": 5, "b": 5},
        "two": {"a": 4, "b": 4},
    }.items():
        for name, count in classes.items():
            Path(folder, name).mkdir(parents=True)
            for i in range(count):
                shutil.copy(images.pop(), Path(folder, name, f"{i}.png"))
    Path("empty").mkdir()
    Path("wrong.yaml").write_text("train:\n  epochs: x\n")
    Path("flat.yaml").write_text("epochs: 3\n")
    Path("broken/a/0.png").write_bytes(Path("broken/a/1.png").read_bytes()[:200])
    rows = "a/0.png,a\na/1.png,a\nb/0.png,b\nb/1.png,b\n"
    Path("good.csv").write_text("image,label\n" + rows)
    Path("missing.csv").write_text("image,label\na/0.png,a\nnowhere.png,b\n" + rows)
    Path("twice.csv").write_text("image,label\na/0.png,a\nb/0.png,b\na/0.png,b\n")
    flags = [f"{x}/{i}.png,{int(x == 'a')},{int(x == 'b')}" for x in "ab" for i in range(4)]
    flags[2] = "a/2.png,1,2"
    Path("onehot.csv").write_text("\n".join(["image,a,b", *flags]))
    words, code, expected = ERRORS[case]
    done = call(*[tiny_run.path if word == "RUN" else word for word in words], code=code)
    said = re.sub(r"\s+", " ", done.stderr)
    assert "Error: " in said and "╭" not in said
    for text in expected:
        assert text in said, said
    assert not Path("runs").exists() or case == "unreadable image"


def test_a_current_folder_that_was_deleted_is_named(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "The current folder does not exist any more. Go to another one" in call("models", code=1).stderr


def test_settings_are_checked_while_images_are_decoded(data_dir):
    """The first image that is decoded after the check failed raises its error."""
    manifest, settings = open_manifest(DataConfig(source=data_dir)), Config().updated({"arch": "resnet81"})
    deadline = time.monotonic() + 120
    with pytest.raises(ConfigError, match="resnet81"), checking_settings(manifest, settings) as raise_problem:
        while time.monotonic() < deadline:
            raise_problem()
            time.sleep(0.01)


def test_a_run_name_in_use_is_refused_before_the_data_are_opened(at, data_dir):
    (at / "runs" / "mine").mkdir(parents=True)
    done = call("fit", data_dir, *SMALL, "--name", "mine", code=1)
    assert "runs/mine: already exists" in done.stderr and done.stdout == ""


def test_no_permission_to_write(at, data_dir, monkeypatch):
    """Root may write anywhere, so the test makes the refusal itself."""

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    done = call("fit", data_dir, *SMALL, "--no-cache", code=1)
    assert "runs: can't be written (Permission denied)" in done.stderr
    assert "--runs" in done.stderr


def test_an_input_without_permission_is_named(at, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_dir", refuse)
    said = "closed/run: permission denied. Check who may read and write it and the folders above it."
    assert said in call("interpret", "closed/run", code=1).stderr


def test_a_traceback_is_shown_only_with_debug(at):
    assert "Traceback" not in call("interpret", code=1).stderr
    done = CliRunner().invoke(app, ["--debug", "interpret"])
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert "contains no runs" in done.stderr


def test_ctrl_c_stops_at_a_batch_and_resume_completes(at, data_dir):
    """The command runs in its own process, so that it can be interrupted as by a user."""
    command = [sys.executable, "-m", "xrayfast", "fit", str(data_dir), *TINY, "--epochs", "40", "--name", "r"]
    process = forking.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    history = at / "runs" / "r" / "history.csv"
    deadline = time.monotonic() + 120
    while not history.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)  # otherwise it may have finished on a busy machine
    refused = call("fit", "--resume", "runs/r", code=1).stderr
    process.send_signal(signal.SIGCONT)
    assert f"another process is writing to this run (process {process.pid} on " in refused
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert "xrayfast fit --resume runs/r" in err
    assert err.startswith("Stopped after ") and "Error" not in err
    run, epochs = Run("runs/r"), len(pd.read_csv(history))
    run.write_config(run.config.updated({"epochs": epochs + 1}))
    assert "Run: runs/r" in call("fit", "--resume", "runs/r").stdout
    assert len(Run("runs/r").history) == epochs + 1


@pytest.mark.parametrize(("words", "code"), [("cache info --json", 0), ("interpret nowhere", 1), ("fit --no-such", 2)])
def test_a_process_flushes_its_output_and_calls_its_exit_handlers_but_skips_the_teardown(at, words, code):
    script = """
import atexit, os, xrayfast.cli

class Last:
    def __del__(self, write=os.write): write(1, b"torn down\\n")

last = Last()
register = atexit.register
atexit.register = lambda *given: [register(*given), register(print, "called at exit")]
xrayfast.cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script, *words.split()], capture_output=True, text=True, timeout=300)
    assert done.returncode == code
    assert done.stdout.endswith("called at exit\n")
    assert "torn down" not in done.stdout
    assert ('"folders"' in done.stdout) if code == 0 else done.stderr


def test_a_closed_standard_output_is_no_error_at_the_end(at):
    command = ["sh", "-c", f"{sys.executable} -m xrayfast cache info --json >&-"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=300)
    assert "Traceback" not in done.stderr and "atexit" not in done.stderr


def test_an_error_while_torch_is_imported_is_reported_at_once(at, data_dir, monkeypatch):
    from xrayfast.cli.commands import fit
    from xrayfast.errors import DataError
    from xrayfast.workflows.steps.data import images

    def refuse(*_):
        raise DataError("mine")

    release, checked = threading.Event(), []
    monkeypatch.setattr(images, "decode", refuse)
    monkeypatch.setattr(fit, "_check", lambda *_: checked.append(release.wait(300)))
    assert "mine" in call("fit", data_dir, *SMALL, code=1).stderr
    assert not checked
    release.set()


def test_the_demo_ends_by_naming_its_report(at, monkeypatch):
    from xrayfast.cli.commands import synthetic
    from xrayfast.config import ModelConfig, TrainConfig

    tiny = synthetic.DEMO.model_copy(
        update={"model": ModelConfig(arch="tiny_resnet", weights="none", size=32), "train": TrainConfig(epochs=1)}
    )
    monkeypatch.setattr(synthetic, "DEMO", tiny)
    monkeypatch.setattr(synthetic, "DEMO_IMAGES", 36)
    for number in (1, 2):  # the second time the data exist
        done = call("demo")
        assert done.stdout.rstrip().endswith(f"Report: demo/runs/tiny_resnet-{number}/report.html")
    assert Path(f"demo/runs/tiny_resnet-{number}/report.html").is_file()


def test_help_of_every_command():
    names = ["demo", "synth", "lr-find", "fit", "interpret", "predict", "models"]
    overview = call("--help").stdout
    for name in names:
        assert name in overview
        assert "Usage: xrayfast " + name in call(name, "--help").stdout


def test_help_shows_the_square_brackets_of_an_extra():
    assert "'xrayfast[review]'" in call("review", "--help").stdout
    assert "'xrayfast[timm]'" in call("fit", "--help").stdout  # of an option


def test_help_is_not_cut_at_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("check", "split", "predict", "interpret"):
        assert "…" not in call(name, "--help").stdout, name
    assert "--[no-]exact-labels" in call("check", "--help").stdout


def test_the_live_display_shows_phase_epoch_losses_metrics_and_rate(monkeypatch):
    import io

    from rich.console import Console

    from xrayfast.cli.output import Output
    from xrayfast.cpus import METER
    from xrayfast.learning.training.phases import Phase
    from xrayfast.progress.terminal import LiveReporter, reporting

    screen = io.StringIO()
    monkeypatch.setattr(Output, "console", Console(file=screen, force_terminal=True, highlight=False, width=140))
    monkeypatch.setattr(METER, "describe", lambda: "other programs use 1.6 of 2 CPUs")
    with reporting(Output()) as reporter:
        assert isinstance(reporter, LiveReporter)
        reporter.note("a note")
        reporter.phase(Phase("head", 2, 1, (1e-3, 1e-3)))
        for split in ("train", "valid"):
            reporter.batch(split=split, done=1, total=4, epoch=1, loss=0.5, images=8, seconds=2.0)
            reporter.progress.refresh()
        row = {"epoch": 1, "phase": "head", "train_loss": 0.5, "valid_accuracy": 0.25, "train_accuracy": 0.75}
        reporter.epoch(row | {"seconds": 3.0}, best=True)
    shown = screen.getvalue()
    for words in (
        "a note",
        "Training head: 2 epochs",
        "head · epoch 1 · train",
        "1/4",
        "loss 0.500",
        "4.0 images/s (busy: other programs use 1.6 of 2 CPUs)",
    ):
        assert words in shown
    assert "head · epoch 1 · valid" in shown
    assert "accuracy 0.250 (train 0.750)" in shown


@pytest.fixture
def leaky(at, data_dir):
    """A data set with its own splits, two of which share an image."""
    for split in ("train", "valid"):
        for label in ("normal", "pneumonia"):
            files = sorted((data_dir / label).glob("*.png"))
            target = at / "leaky" / split / label
            target.mkdir(parents=True)
            for file in files[:7] if split == "train" else files[7:]:
                shutil.copy(file, target)
    shutil.copy(next((at / "leaky/train/normal").iterdir()), at / "leaky/valid/normal/again.png")
    return at / "leaky"


def test_check_reports_leaks_in_words_files_and_exit_code(leaky):
    done = call("check", "leaky", "--size", 64, code=1)
    assert "Leak: " in done.stdout
    assert "again.png" in done.stdout
    assert json.loads(Path("check/check.json").read_text())["leaks"] is True
    assert "again.png" in Path("check/check.html").read_text()
    (leaky / "valid/normal/again.png").unlink()
    content = json.loads(call("check", "leaky", "--size", 64, "--json", "-o", "again").stdout)
    assert content["leaks"] is False
    assert Path("again/check.html").is_file()


def test_fit_refuses_leaks_unless_they_are_allowed(leaky):
    refused = call("fit", "leaky", *SMALL, "--epochs", 1, code=1)
    assert "again.png" in refused.output
    assert not Path("runs").exists()
    call("fit", "leaky", *SMALL, "--epochs", 1, "--allow-leaks")
    assert "Trained with leaks allowed" in json.loads(Path("runs/tiny_resnet-1/run.json").read_text())["remarks"][0]


def test_no_table_overwrites_its_source_data(at, data_dir, tiny_run):
    shutil.copytree(data_dir, "films")
    table, image = Path("films/labels.csv"), min(Path("films").rglob("*.png"))
    archive = Path(shutil.make_archive("films", "zip", "films"))
    before = [file.read_bytes() for file in (archive, table, image)]
    for arguments in (
        ("predict", tiny_run.path, archive, "-o", archive),
        ("predict", tiny_run.path, image, "-o", image),
        ("compare", tiny_run.path, tiny_run.path, "--csv", archive),
        ("compare", tiny_run.path, tiny_run.path, "--page", image),
        ("split", table, "--size", 64, "-o", table),
        ("split", archive, "--size", 64, "-o", archive),
        ("split", "films", "--labels", table, "--size", 64, "-o", at / "films/../films/labels.csv"),
    ):
        assert "Choose another" in call(*arguments, code=1).output.replace("\n", " ")
    assert [file.read_bytes() for file in (archive, table, image)] == before
    Path("notes.csv").write_text("my own notes\n")
    assert "did not write" in call("predict", tiny_run.path, image, "-o", "notes.csv", code=1).output.replace("\n", " ")
    for _ in range(2):
        call("predict", tiny_run.path, image, "-o", "predicted.csv")


def test_split_writes_what_fit_replays(at, data_dir):
    done = call("split", data_dir, "-o", "split.csv", "--test-fraction", 0.2, "--size", 64)
    assert re.search(r"label +train", done.stdout)
    assert "split.csv" in call("split", data_dir, "-o", "split.csv", "--test-fraction", 0.2, "--size", 64).stdout
    written = pd.read_csv("split.csv").set_index("image")["split"]
    call("fit", data_dir, *SMALL, "--epochs", 1, "--split-file", "split.csv")
    used = pd.read_csv("runs/tiny_resnet-1/split.csv").set_index("image")["split"]
    assert used.to_dict() == written.to_dict()
    assert "does not exist" in call("split", data_dir, "-o", "no/split.csv", code=1).output


def test_the_cache_command_shows_and_clears_the_cache(at, data_dir):
    call("check", data_dir, "--size", 64, "--cache-dir", "decoded")
    shown = json.loads(call("cache", "info", "--cache-dir", "decoded", "--json").stdout)
    assert shown["folders"][0]["images"] == 36
    assert "64 px" in call("cache", "info", "--cache-dir", "decoded").stdout
    assert json.loads(call("cache", "clear", "--cache-dir", "decoded", "--json").stdout)["freed_bytes"] > 36 * 64**2
    assert "Nothing is cached" in call("cache", "info", "--cache-dir", "decoded").stdout


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--labels", "a.csv", "--labels", "b.csv"],
        ["fit", "-e", "3", "--epochs", "3"],
        ["fit", "--unfreeze", "--no-unfreeze"],
        ["lr-find", "--steps", "30", "--steps=40"],
        ["predict", "run", "a.png", "-o", "a.csv", "--output", "b.csv"],
        ["cache", "info", "--cache-dir", "a", "--cache-dir", "b"],
    ],
)
def test_an_option_of_one_value_is_given_once(words):
    done = call(*words, code=2)
    assert "found 2 times; expected once" in " ".join(done.stderr.split())


def test_repeatable_options_accept_several_values(at, data_dir):
    done = call("check", "nowhere", "--imply", "a=b", "--imply", "b=c", code=1)
    assert "nowhere" in done.stderr


@pytest.mark.parametrize("words", [["fit", "--resume", "run"], ["interpret", "run"], ["evaluate", "run"]])
def test_the_folder_of_runs_together_with_a_run_is_a_usage_error(words):
    assert "--runs" in call(*words, "--runs", "other", code=2).stderr or words[0] == "fit"


def test_an_option_with_an_optional_number_works_without_it(at, monkeypatch):
    found = []
    monkeypatch.setattr(
        "xrayfast.cli.commands.fit.read_settings", lambda config, given, recipe: found.append(given) or 1 / 0
    )
    (at / "data").mkdir()
    for words in (["--ema"], ["--ema", "0.9"], ["--ema=0.9"], ["--ema", "data"], ["data", "--ema", "--epochs", "3"]):
        CliRunner().invoke(app, ["fit", *words], prog_name="xrayfast")
    assert [given["ema"] for given in found] == [EMA_DECAY, 0.9, 0.9, EMA_DECAY, EMA_DECAY]
    assert [given.get("epochs") for given in found] == [None] * 4 + [3]
    text = " ".join(call("fit", "data", "--ema", "abc", code=2).stderr.split())
    assert "found 'abc', which is neither a number nor a file or folder that exists; expected a number above 0" in text


def test_options_that_contradict_others_stop_before_the_data_are_read(at):
    done = call("fit", "nowhere", "--gamma", "3", "--lr-div", "5", code=2)
    text = " ".join(done.stderr.split())
    assert "which has no effect" in text and "nowhere" not in text


def commands():
    """Return every command with the words that call it."""
    for name, command in Commands().items():
        parts = getattr(command, "commands", {})
        yield from ((f"{name} {part}", inside) for part, inside in parts.items()) if parts else [(name, command)]


def by_command(holds):
    """Return every command that has parameters for which `holds` returns True, with these parameters."""
    found = [(words, [param for param in command.params if holds(param)]) for words, command in commands()]
    return [pytest.param(words, params, id=words.replace(" ", "-")) for words, params in found if params]


def kind_of(param):
    """Return the type of a parameter's value."""
    return numeric_kind(param.name) if param.name in NUMBERS else param.type_descriptor.annotation


def arguments_of(words, run, data):
    """Return words for the required arguments of a command."""
    own = {"predict": [run, data], "evaluate": [run, data], "interpret": [run], "compare": [run, run], "synth": ["new"],
           "review": [run], "export": [run], "push": [run, "org/name"],
           "report": [run / "predictions" / "valid.csv"]}  # fmt: skip
    return own.get(
        words, [data] if words in ("fit", "lr-find", "check", "split", "cross-validate", "cache build") else []
    )


@pytest.mark.parametrize(("words", "params"), by_command(lambda param: kind_of(param) in (int, float)))
def test_every_number_has_bounds(words, params, at, data_dir, tiny_run):
    values = {int: ["1" + "0" * 20, "-1" + "0" * 20], float: ["1" + "0" * 20, "-1" + "0" * 20, "nan", "inf", "-inf"]}
    for flag, value in ((max(param.opts, key=len), value) for param in params for value in values[kind_of(param)]):
        done = call(*words.split(), *arguments_of(words, tiny_run.path, data_dir), f"{flag}={value}", code=2)
        said = re.sub(r"[\s│]+", " ", done.output)
        assert flag in said and re.search(
            "expected (at|above|below|a finite)|should be (less|greater|a finite)", said
        ), said
        assert "defect" not in said
    assert not list(at.iterdir())


@pytest.mark.parametrize(("words", "params"), by_command(lambda param: not getattr(param, "is_flag", False)))
def test_empty_options_and_arguments_are_refused(words, params, at, tiny_run, data_dir):
    """`--cache-dir ""` used to write into the working folder."""
    for name in (param.opts[0] for param in params):
        is_option = name.startswith("-")
        given = [name, "", *arguments_of(words, tiny_run.path, data_dir)] if is_option else [""]
        done = call(*words.split(), *given, code=2)
        assert "found an empty value; expected a value" in re.sub(r"[\s│]+", " ", done.output), name
        assert not list(at.iterdir()), name


def test_output_replaces_no_pipe_or_device(at, tiny_run, data_dir):
    os.mkfifo("fifo")
    Path("null").symlink_to(os.devnull)
    for words in (["predict", tiny_run.path, data_dir, "-o"], ["split", data_dir, "-o"]):
        for where in ("fifo", at, "null"):
            assert "expected a file to write to" in call(*words, where, code=1).stderr
    assert Path("fifo").is_fifo() and Path("null").is_char_device()


@pytest.mark.parametrize("given", ["curve.png", "curve.CSV", "curve"])
def test_the_files_of_a_range_test_are_named_once(given, at, data_dir, monkeypatch):
    from xrayfast.learning.training.lr_find import METHODS, LRCurve

    curve = LRCurve(np.geomspace(1e-6, 1, 30), np.linspace(1, 0, 30), dict.fromkeys(METHODS, 1e-3))
    monkeypatch.setattr("xrayfast.workflows.find_lr.find_lr", lambda *_, **__: curve)
    call("lr-find", data_dir, "-o", given)
    assert sorted(path.name for path in at.iterdir()) == ["curve.csv", "curve.png"]


def test_the_files_of_a_range_test_have_no_other_format(at, data_dir):
    done = call("lr-find", data_dir, "-o", "curve.tsv", code=1)
    assert "curve.tsv: found the suffix '.tsv'; expected a name for a CSV table" in done.stderr
    assert not list(at.iterdir())


PATHS = [
    pytest.param(words, param.opts[0], id=f"{words}-{param.name}".replace(" ", "-"))
    for words, command in commands()
    for param in command.params
    if param.type_descriptor.annotation in (Path, list[Path]) or param.name in ("weights", "sources")
    # without those written last, or under other names
    if (words, param.name) not in (("lr-find", "output"), ("compare", "csv"), ("compare", "page"))
]


def with_path(path, words, name, tiny_run, data_dir):
    """Return the words of a call with `path` as the given option or argument."""
    needed, trains = arguments_of(words, tiny_run.path, data_dir), words in ("fit", "cross-validate", "lr-find")
    if name in ("--resume", "--join") or (name == "--runs" and not trains):
        needed = []
    elif trains and name != "--weights":
        needed = [*needed, "--weights", "none"]
    if name.startswith("-"):
        return [*words.split(), *map(str, needed), name, path]
    names = {"run": 0, "cv": 0, "runs": 1, "source": 0, "sources": 1, "data": 1, "folder": 0, "predictions": 0}
    return [*words.split(), *map(str, [*needed[: names[name]], path, *needed[names[name] + 1 :]])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "name"), [*PATHS, ("fit", "--name"), ("evaluate", "--name"), ("lr-find", "--output")]
)
def test_a_name_that_is_too_long_for_any_file_is_named(words, name, at, tiny_run, data_dir):
    """`fit --name` with 300 characters used to fail with "[Errno 36]"."""
    given = with_path("n" * 300, words, name, tiny_run, data_dir)
    done = CliRunner().invoke(app, given, prog_name="xrayfast")
    assert done.exit_code in (1, 2) or words.startswith("cache"), done.output
    assert "is a bug" not in done.output and "nnn" in done.output
    assert "Error: [Errno" not in done.output and not [path for path in at.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("words", "name"), PATHS)
def test_no_command_waits_for_a_pipe(words, name, at, tiny_run, data_dir):
    os.mkfifo(at / "fifo")
    given = with_path("fifo", words, name, tiny_run, data_dir)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waits for a pipe"))
    signal.alarm(60)
    try:
        done = CliRunner().invoke(app, given, prog_name="xrayfast")
    finally:
        signal.alarm(0)
    assert done.exit_code in (1, 2) or words.startswith("cache"), done.output
    assert "defect" not in done.output and "fifo" in done.output
    assert (at / "fifo").is_fifo()


@pytest.mark.parametrize(
    "words",
    [
        "compare a b --split", "compare a b --unit", "compare a b --unit-join", "evaluate a --split",
        "evaluate a --unit", "predict a b --device", "serve --device", "export a --format", "export a --precision",
        "models --head", "fit --recipe", "report a.csv --task", "interpret --split",
    ],
)  # fmt: skip
def test_an_unknown_choice_is_a_usage_error_that_lists_the_choices(words):
    *_, flag = given = words.split()
    assert f"Invalid value for {flag}: 'wrong' is not one of " in call(*given, "wrong", code=2).stderr

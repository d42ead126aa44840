"""The options that are no fields of the config: each changes the outcome, or the command says why it does not.

For the fields of the config see tests/test_option_effects.py.
"""

import re
import shutil
import sys

import pandas as pd
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tests.cli.test_cli import commands
from tests.conftest import add_tiny_vgg
from xrayfast.cli import app
from xrayfast.config import FIELD_SECTIONS
from xrayfast.synthetic import write_dataset

DATA = "data --labels data/table.csv"
NET = "--arch tiny_vgg --weights none --size 32 --batch-size 8 --device cpu"
FIT = f"fit {DATA} {NET} --epochs 1 --resamples 0"
CROSS = f"cross-validate {DATA} {NET} --folds 2 --epochs 1 --resamples 0"
LR = f"lr-find {DATA} {NET} --steps 20"
OWN, OTHER = "evaluate runs/a", "evaluate runs/a other --resamples 0"
PREDICT = "predict runs/a other"
BY_NAME = "--patient-col name:([0-9]+)"
COMPARE = "compare runs/a runs/b --resamples 10"
LAYERS = "models --layers tiny_vgg"
TEST, VALID = "runs/a/predictions/test.csv", "runs/a/predictions/valid.csv"
REPORT = f"report {TEST} --resamples 0"
REVIEW = "review runs/whole"
EXPORT = "export runs/a"
BUILD = f"cache build {DATA}"
JSON = "--json"

ACTS = {
    ("fit", "recipe"): (FIT, "--recipe best"),
    ("fit", "config"): (FIT, "--config other.yaml"),
    ("fit", "runs"): (FIT, "--runs elsewhere"),
    ("fit", "name"): (FIT, "--name mine"),
    ("fit", "resume"): (FIT, "fit --resume runs/a"),
    ("fit", "as_json"): (FIT, JSON),
    ("cross-validate", "recipe"): (CROSS, "--recipe best"),
    ("cross-validate", "config"): (CROSS, "--config other.yaml"),
    ("cross-validate", "runs"): (CROSS, "--runs elsewhere"),
    ("cross-validate", "name"): (CROSS, "--name mine"),
    ("cross-validate", "repeats"): (CROSS, "--repeats 2"),
    ("cross-validate", "random_folds"): (CROSS, "--random-folds"),
    ("cross-validate", "inner_valid"): (CROSS, "--inner-valid 0.3"),
    ("cross-validate", "resume"): (CROSS, "cross-validate --resume runs/part"),
    ("cross-validate", "join"): (CROSS, "cross-validate --join runs/part"),
    ("cross-validate", "as_json"): (CROSS, JSON),
    ("lr-find", "config"): (LR, "--config other.yaml"),
    ("lr-find", "steps"): (LR, LR.replace("20", "25")),
    ("lr-find", "output"): (LR, "-o curve"),
    ("lr-find", "as_json"): (LR, JSON),
    ("check", "size"): (f"check {DATA}", "--size 96"),
    ("check", "config"): (f"check {DATA}", "--config other.yaml"),
    ("check", "output"): (f"check {DATA}", "-o found"),
    ("check", "as_json"): (f"check {DATA}", JSON),
    ("split", "size"): (f"split {DATA}", "--size 96"),
    ("split", "config"): (f"split {DATA}", "--config other.yaml"),
    ("split", "output"): (f"split {DATA}", "-o drawn.csv"),
    ("split", "as_json"): (f"split {DATA}", JSON),
    ("evaluate", "run"): ("evaluate --runs runs", "runs/a"),
    ("evaluate", "data"): (OWN, "other"),
    ("evaluate", "by"): (OWN, "--by sex"),
    ("evaluate", "split"): (OWN, "--split valid"),
    ("evaluate", "name"): (OWN, "--name mine"),
    ("evaluate", "config"): (OTHER, "--config other.yaml"),
    ("evaluate", "runs"): ("evaluate", "--runs elsewhere"),
    ("evaluate", "as_json"): (OWN, JSON),
    ("evaluate", "prevalence"): (OWN, "--prevalence 0.1"),
    ("evaluate", "resamples"): (OWN, "--resamples 30"),
    ("evaluate", "tta"): (OTHER, "--tta"),
    ("evaluate", "correct_prior"): (OTHER, "--correct-prior"),
    ("evaluate", "device"): (OTHER, "--device mps"),
    ("interpret", "run"): ("interpret --runs runs", "runs/a"),
    ("interpret", "split"): ("interpret runs/a", "--split valid"),
    ("interpret", "top"): ("interpret runs/a", "--top 1"),
    ("interpret", "saliency"): ("interpret runs/a", "--saliency 1"),
    ("interpret", "explain"): ("interpret runs/a", "--explain other/normal/1.png"),
    ("interpret", "by"): ("interpret runs/a", "--by sex"),
    ("interpret", "figure_format"): ("interpret runs/a", "--figure-format svg"),
    ("interpret", "runs"): ("interpret", "--runs elsewhere"),
    ("interpret", "as_json"): ("interpret runs/a", JSON),
    ("interpret", "thresholds"): ("interpret runs/a", "--thresholds half"),
    ("interpret", "target_sensitivity"): ("interpret runs/a", "--target-sensitivity 0.9"),
    ("interpret", "target_specificity"): ("interpret runs/a", "--target-specificity 0.9"),
    ("interpret", "target_confidence"): ("interpret runs/a --target-specificity 0.5", "--target-confidence 0.6"),
    ("interpret", "positive"): ("interpret runs/a", "--positive normal"),
    ("interpret", "calibrate"): ("interpret runs/a", "--no-calibrate"),
    ("interpret", "prevalence"): ("interpret runs/a", "--prevalence 0.1"),
    ("interpret", "resamples"): ("interpret runs/a", "--resamples 30"),
    ("interpret", "unit"): ("interpret runs/a", "--unit patient"),
    ("interpret", "unit_join"): ("interpret runs/a --unit patient", "--unit-join max"),
    ("predict", "run"): (PREDICT, "predict runs/b other"),
    ("predict", "sources"): (PREDICT, "predict runs/a data"),
    ("predict", "output"): (PREDICT, "-o answers.csv"),
    ("predict", "abstain_below"): (PREDICT, "--abstain-below 0.9"),
    ("predict", "as_json"): (PREDICT, JSON),
    ("predict", "tta"): (PREDICT, "--tta"),
    ("predict", "device"): (PREDICT, "--device mps"),
    ("predict", "unit"): (PREDICT, f"--unit patient {BY_NAME}"),
    ("predict", "unit_join"): (f"{PREDICT} --unit patient {BY_NAME}", "--unit-join max"),
    ("predict", "patient_col"): (f"{PREDICT} --unit patient {BY_NAME}", "--patient-col name:([0-9])[.]"),
    ("predict", "study_col"): (f"{PREDICT} --unit study --study-col name:([a-z]+)", "--study-col name:([0-9])[.]"),
    ("compare", "runs"): (COMPARE, "compare runs/b elsewhere/c --resamples 10"),
    ("compare", "split"): (COMPARE, "--split valid"),
    ("compare", "order"): (COMPARE, "--order brier"),
    ("compare", "reference"): (f"{COMPARE} --reference a", f"{COMPARE} --reference b"),
    ("compare", "by"): (COMPARE, "--by sex"),
    ("compare", "unit"): (COMPARE, "--unit patient"),
    ("compare", "unit_join"): (f"{COMPARE} --unit patient", "--unit-join max"),
    ("compare", "csv"): (COMPARE, "--csv table.csv"),
    ("compare", "page"): (COMPARE, "--page page.html"),
    ("compare", "resamples"): (COMPARE, COMPARE.replace("10", "20")),
    ("compare", "seed"): (COMPARE, "--seed 3"),
    ("compare", "as_json"): (COMPARE, JSON),
    ("report", "predictions"): (REPORT, f"report {VALID} --resamples 0"),
    ("report", "output"): (REPORT, "-o pages"),
    ("report", "task"): (REPORT, "--task multi"),
    ("report", "positive"): ("report two.csv", "--positive normal"),
    ("report", "threshold"): ("report two.csv", "--threshold 0.2"),
    ("report", "patient_col"): (REPORT, "--patient-col sex"),
    ("report", "by"): (REPORT, "--by sex"),
    ("report", "prevalence"): (REPORT, "--prevalence 0.1"),
    ("report", "resamples"): (REPORT, f"report {TEST} --resamples 30"),
    ("report", "seed"): (f"report {TEST} --resamples 30", "--seed 3"),
    ("report", "as_json"): (REPORT, JSON),
    ("export", "run"): (EXPORT, "export runs/whole"),
    ("export", "output"): (EXPORT, "-o other.onnx"),
    ("export", "format"): (EXPORT, "--format torch-export"),
    ("export", "precision"): (EXPORT, "--precision fp16"),
    ("export", "images"): (EXPORT, "--images other/normal"),
    ("export", "as_json"): (EXPORT, JSON),
    ("review", "cv"): (REVIEW, "review runs/other-cv"),
    ("review", "output"): (REVIEW, "-o labels"),
    ("review", "top"): (REVIEW, "--top 0"),
    ("review", "as_json"): (REVIEW, JSON),
    ("models", "layers"): ("models", "--layers tiny_vgg"),
    ("models", "size"): (LAYERS, "--size 64"),
    ("models", "head"): (LAYERS, "--head classifier"),
    ("models", "as_json"): (LAYERS, JSON),
    ("synth", "folder"): ("synth new --images 6 --size 32", "synth newer --images 6 --size 32"),
    ("synth", "images"): ("synth new --size 32 --images 6", "synth new --size 32 --images 9"),
    ("synth", "size"): ("synth new --images 6 --size 32", "synth new --images 6 --size 64"),
    ("synth", "seed"): ("synth new --images 6 --size 32", "--seed 3"),
    ("synth", "multi_label"): ("synth new --images 6 --size 32", "--multi-label"),
    ("synth", "split"): ("synth new --images 6 --size 32", "--split"),
    ("synth", "as_json"): ("synth new --images 6 --size 32", JSON),
    ("cache build", "size"): (BUILD, "--size 64"),
    ("cache build", "shards"): (BUILD, "--shards 1/2"),
    ("cache build", "config"): (BUILD, "--config other.yaml"),
    ("cache build", "as_json"): (BUILD, JSON),
    ("cache info", "cache_dir"): ("cache info", "--cache-dir cached"),
    ("cache info", "as_json"): ("cache info", JSON),
    ("cache clear", "cache_dir"): ("cache clear", "--cache-dir cached"),
    ("cache clear", "as_json"): ("cache clear", JSON),
}
"""Per command and option: a call without it, and the words to add (or the whole call) that change the outcome."""

IDLE = {
    ("fit", "config"): ("fit --resume runs/a --config other.yaml", "Give --resume without other options"),
    ("fit", "runs"): ("fit --resume runs/a --runs runs", "Give --resume without other options"),
    ("fit", "name"): ("fit --resume runs/a --name b", "Give --resume without other options"),
    ("fit", "resume"): ("fit --resume runs/a --epochs 3", "Give --resume without other options"),
    ("cross-validate", "resume"): (
        "cross-validate --resume runs/part --epochs 3",
        "Give --resume without other options",
    ),
    ("cross-validate", "join"): ("cross-validate --join runs/part --name b", "Give --join without other options"),
    ("evaluate", "config"): ("evaluate runs/a --config other.yaml", "applies only to other data: give DATA too"),
    ("evaluate", "tta"): ("evaluate runs/a --tta", "applies only to other data"),
    ("evaluate", "correct_prior"): ("evaluate runs/a --correct-prior", "applies only to other data"),
    ("evaluate", "device"): ("evaluate runs/a --device cpu", "applies only to other data"),
    ("evaluate", "batch_size"): ("evaluate runs/a --batch-size 4", "applies only to other data"),
    ("evaluate", "labels"): ("evaluate runs/a --labels data/table.csv", "applies only to other data"),
    ("evaluate", "runs"): ("evaluate runs/a --runs runs", "can't be used with RUN"),
    ("evaluate", "output"): ("evaluate runs/a other --output there", "saved in its folder"),
    ("interpret", "runs"): ("interpret runs/a --runs runs", "can't be used with RUN"),
    ("interpret", "saliency"): ("interpret elsewhere/c --saliency 1", "elsewhere"),
    ("models", "size"): ("models --size 64", "Only with --layers"),
    ("models", "head"): ("models --head classifier", "Only with --layers"),
}
"""Calls in which an option would do nothing, and the message about it. Other options have an effect in every call."""

NOT_CALLED = {
    ("", "version"): "test_help_of_every_command",
    ("", "install_completion"): "Typer's own",
    ("", "show_completion"): "Typer's own",
    ("", "debug"): "test_a_traceback_is_shown_only_with_debug",
    ("demo", "folder"): "test_the_demo_ends_by_naming_its_report",
    ("demo", "as_json"): "test_the_demo_ends_by_naming_its_report",
    ("evaluate", "batch_size"): "how much is computed at once: the results are the same but for rounding",
    ("evaluate", "output"): "test_the_command_needs_no_torch_and_names_the_folder",
    ("predict", "batch_size"): "likewise",
    ("push", "run"): "tests/hub",
    ("push", "repository"): "tests/hub",
    ("push", "public"): "test_the_command_lists_what_it_uploads",
    ("push", "with_predictions"): "tests/hub",
    ("push", "with_split"): "tests/hub",
    ("push", "dry_run"): "test_the_command_lists_what_it_uploads",
    ("push", "as_json"): "test_the_command_lists_what_it_uploads",
    **{
        ("serve", name): "tests/serving: it goes on until it is ended"
        for name in ("run", "host", "port", "password", "abstain_below", "device", "as_json")
    },
    ("export", "with_script"): "test_the_script_predicts_without_torch",
    ("cross-validate", "jobs"): "test_folds_trained_at_the_same_time_give_the_same_bytes",
}
"""Options that are not tested here, with the reason."""


SECONDS = re.compile(r"\"seconds\": [\d.]+")


def test_every_option_of_every_command_has_its_row():
    """For commands that take --config, the fields of the config are in tests/test_option_effects.py."""
    there = [("", param.name) for param in get_command(app).params]
    for words, command in commands():
        names = [param.name for param in command.params]
        there += [(words, name) for name in names if not ("config" in names and name in FIELD_SECTIONS)]
    assert set(there) <= ACTS.keys() | NOT_CALLED.keys()
    assert not ACTS.keys() & NOT_CALLED.keys()
    every = {(words, param.name) for words, command in commands() for param in command.params}
    assert (ACTS.keys() | IDLE.keys() | NOT_CALLED.keys()) - every == {key for key in NOT_CALLED if not key[0]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder: two runs with a test split, a third whose data are missing, other images and a cache."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        add_tiny_vgg(patch)
        patch.chdir(folder)
        patch.setenv("XRAYFAST_CACHE", "user_cache")
        for name, seed in {"data": 3, "other": 4}.items():
            write_dataset(folder / name, images=48, size=64, seed=seed)
            table = pd.read_csv(f"{name}/labels.csv")
            table.assign(sex=["F", "M"] * 24).to_csv(f"{name}/table.csv", index=False)
        (folder / "other.yaml").write_text(
            "data: {labels: other/table.csv, split_seed: 5, valid_fraction: 0.4}\ntrain: {seed: 7}\n"
        )
        fit = FIT.replace("--epochs 1 --resamples 0", "--epochs 3 --unfreeze --resamples 20 --test-fraction 0.4")
        for words in ("--name a", "--name b --lr 0.02", "--name c --runs elsewhere --seed 2"):
            assert run(f"{fit} {words}").exit_code == 0
        assert run(f"{CROSS} --name part --fold 1").exit_code == 0
        for words in ("--name whole", "--name other-cv --seed 2"):
            assert run(f"{CROSS} {words}").exit_code == 0
        assert run("check other --cache-dir cached").exit_code == 0
        (folder / "two.csv").write_text("truth,prob_normal,prob_tb\nnormal,0.75,0.25\ntb,0.375,0.625\n")
        settings = folder / "elsewhere/c/config.yaml"
        settings.write_text(settings.read_text().replace(f"{folder}/data", f"{folder}/gone"))
        (folder / "elsewhere/c/checksums.txt").unlink()
        yield folder


def run(words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["xrayfast", *words.split()])
        return CliRunner().invoke(app, words.split(), prog_name="xrayfast")


@pytest.fixture(scope="module")
def outcome(place):
    """Return a function that returns the output of a call, its files (except those with times) and the caches."""
    found = {}

    def of(words, anew=False):
        if words not in found or anew:
            copy = place.with_name("copy")
            shutil.copytree(place, copy)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(copy)
                done = run(words)
            assert "Traceback" not in done.output and "defect" not in done.output
            text = re.sub(r"\d+ s\b|\d\d:\d\d", "", SECONDS.sub("", done.output))
            kinds = (".csv", ".png", ".yaml", ".html", ".json")
            files = {path.relative_to(copy): path for path in copy.rglob("*") if path.suffix in kinds}
            pages = ("report.html", "evaluation.html", "check.html", "review.html")
            timed = ("history.csv", "run.json", "evaluation.json", *pages)
            caches = sorted(str(path.relative_to(copy)) for path in copy.rglob("*px-*"))
            content = {name: path.read_bytes() for name, path in files.items() if name.name not in timed}
            content |= {n: SECONDS.sub("", c.decode()) for n, c in content.items() if n.suffix == ".json"}
            found[words] = text, content, caches
            shutil.rmtree(copy)
        return found[words]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("words", sorted({without for without, _ in ACTS.values()}))
def test_a_call_without_the_option_is_repeatable(words, outcome):
    first, again = outcome(words), outcome(words, anew=True)
    assert first[0] == again[0] and first[2] == again[2]
    assert not {name for name in first[1] | again[1] if first[1].get(name) != again[1].get(name)}


@pytest.mark.slow
@pytest.mark.parametrize(("command", "name"), ACTS)
def test_an_option_changes_what_comes_out(command, name, outcome):
    without, changed = ACTS[command, name]
    changed = changed if changed.startswith(f"{command} ") else f"{without} {changed}"
    assert outcome(without) != outcome(changed)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "name"), IDLE)
def test_an_option_without_an_effect_is_mentioned(command, name, outcome):
    words, said = IDLE[command, name]
    assert said in re.sub(r"[\s│]+", " ", outcome(words)[0])

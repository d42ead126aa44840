"""The folder of a run has exactly its files, contains no code and overwrites nothing."""

import base64
import io
import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import xrayfast as xf
from tests.conftest import UNCHECKED, Payload
from xrayfast.errors import ConfigError, RunError, WeightsError
from xrayfast.learning.training.checkpoint import save_checkpoint
from xrayfast.metrics.registry import history_metrics
from xrayfast.metrics.summary import compute_epoch_metrics
from xrayfast.runs.evaluation import Evaluation
from xrayfast.runs.run import Run

pytestmark = pytest.mark.usefixtures("empty_figures")

FILES = {
    "checksums.txt",
    "config.yaml",
    "run.json",
    "labels.json",
    "model.safetensors",
    "split.csv",
    "history.csv",
    "batches.csv",
    "metrics.json",
    "training_images.json",
    "model_card.md",
    "claim.md",
    "predictions/checksums.txt",
    "predictions/valid.csv",
    "predictions/test.csv",
}


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copy(tiny_run, tmp_path):
    return Run(shutil.copytree(tiny_run.path, tmp_path / "copy", ignore=UNCHECKED))


def test_a_completed_run_has_exactly_these_files(tiny_run):
    written_by_interpret = {name for name in files(tiny_run.path) if name.startswith(("figures/", "tables/", "report"))}
    assert files(tiny_run.path) - written_by_interpret == FILES


def test_the_report_shows_training_images_as_the_network_saw_them(copy):
    shown, split = copy.training_images, pd.read_csv(copy.path / "split.csv", dtype=str).set_index("image")
    assert len(shown) == 8 and len({one["labels"] for one in shown}) == 3
    data = xf.open_data(copy.config.data.source).table.set_index("image")
    for one in shown:
        assert (split.loc[one["image"], "split"], split.loc[one["image"], "labels"]) == ("train", one["labels"])
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["data"]))).convert("L")).astype(float)
        assert seen.shape == (one["height"], one["width"]) == (copy.config.model.size,) * 2
        plain = Image.open(data.loc[one["image"], "path"]).convert("L").resize(seen.shape, Image.Resampling.BOX)
        # It shows the same image, slightly brighter, rotated or smaller.
        assert np.corrcoef(seen.ravel(), np.asarray(plain, float).ravel())[0, 1] > 0.5
    xf.interpret(copy)
    page = copy.report_path.read_text("utf-8")
    row = re.search('(?s)<details id="training-images">.*?</details>', page)[0]
    assert "as the network sees them" in row and all(one["data"] in row for one in shown)
    (copy.path / "training_images.json").write_text('{"images": [{"image": "a", "labels": "b", "data": "<"}]}')
    with pytest.raises(RunError, match=r"training_images\.json: images\.0\.data is '<'"):
        _ = copy.training_images


def test_the_files_have_the_expected_content(tiny_run, data_dir):
    info = tiny_run.info
    assert info["status"] == "completed"
    assert set(info["versions"]) >= {"python", "torch", "torchvision", "fastai"}
    assert [phase["name"] for phase in info["phases"]] == ["head", "all"]
    assert tiny_run.labels == ("covid-19", "normal", "pneumonia")
    history = tiny_run.history
    assert history["phase"].tolist() == ["head", "all"]
    names = ["loss", *history_metrics("single")]
    assert {f"valid_{name}" for name in names} | {"lr", "seconds"} <= set(history)
    assert {f"train_{name}" for name in ("loss", "accuracy", "precision_macro", "f1_macro")} <= set(history)
    assert info["best_epoch"] == history["valid_auroc_macro"].argmax() + 1
    lines = (tiny_run.path / "split.csv").read_text().splitlines()
    assert lines[0] == "image,patient,split,labels,digest"
    assert len(lines) == 37
    assert tiny_run.config.data.source == data_dir
    for split in ("valid", "test"):
        predictions = tiny_run.predictions(split)
        np.testing.assert_allclose(predictions.probability.sum(axis=1), 1, atol=1e-6)
        truth = -np.log(predictions.raw[predictions.truth == 1].clip(1e-7))
        np.testing.assert_allclose(predictions.loss, truth, rtol=1e-4, atol=1e-5)
        assert tiny_run.metrics[split]["images"] == len(predictions)


def test_report_and_card_state_the_batch_size_over_all_ranks(copy):
    assert copy.global_batch == copy.config.train.batch_size
    copy.update_info(global_batch=None)
    assert copy.global_batch == copy.config.train.batch_size
    copy.update_info(global_batch=77)
    assert copy.global_batch == 77
    xf.interpret(copy)
    assert "<dt>Batch size</dt><dd>77</dd>" in copy.report_path.read_text()
    assert "| Batch size | 77 |" in copy.model_card_path.read_text()


def test_the_weights_of_the_best_epoch_give_its_metrics(tiny_run):
    best = tiny_run.history.iloc[tiny_run.info["best_epoch"] - 1]
    valid = tiny_run.predictions("valid")
    # A temperature changes AUROC slightly, because its effect on an image depends on the other classes of that image.
    found = compute_epoch_metrics(valid.truth, valid.raw, "single")
    assert tiny_run.metrics["valid"]["overall"]["accuracy"] == found["accuracy"]
    assert found["accuracy"] == pytest.approx(best["valid_accuracy"], abs=1e-6)
    assert found["auroc_macro"] == pytest.approx(best["valid_auroc_macro"], abs=1e-6)
    assert tiny_run.predictions("valid").loss.mean() == pytest.approx(best["valid_loss"], rel=1e-3)


def test_no_file_of_a_run_is_pickled(tiny_run):
    for path in tiny_run.path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not content.startswith((b"\x80", b"PK")), path
            if path.suffix in (".json", ".yaml", ".csv", ".html"):
                content.decode("utf-8")


def test_the_newest_run_is_the_one_started_last(tiny_run, tmp_path):
    with pytest.raises(RunError, match="contains no runs"):
        Run.newest(tmp_path)
    for name, started in (("a", "2026-01-02"), ("b", "2026-01-01")):
        Run.create(tmp_path, name, "x", tiny_run.config, {"started": started})
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    with pytest.warns(UserWarning, match=r"Ignored while searching for the newest run: .*damaged/run\.json"):
        assert Run.newest(tmp_path).path.name == Run.newest(str(tmp_path)).path.name == "a"
    with pytest.raises(ConfigError, match="root is None"):
        Run.newest(None)


def test_names_count_up_and_nothing_is_overwritten(tiny_run, tmp_path):
    made = [Run.create(tmp_path, None, "resnet18", tiny_run.config, {}).path.name for _ in range(3)]
    assert made == ["resnet18-1", "resnet18-2", "resnet18-3"]
    with pytest.raises(RunError, match="never overwritten"):
        Run.create(tmp_path, "resnet18-2", "x", tiny_run.config, {})
    for name in ("../out", "a/b", "", ".hidden", ".."):
        with pytest.raises(RunError, match="plain folder name"):
            Run.create(tmp_path, name, "x", tiny_run.config, {})


@pytest.mark.parametrize(
    ("missing", "use"),
    [
        ("model.safetensors", lambda run: xf.predict(run, run.path / "run.json")),
        ("labels.json", lambda run: xf.load(run)),
        ("config.yaml", lambda run: xf.load(run)),
        ("history.csv", lambda run: xf.interpret(run)),
        ("run.json", lambda run: Run(run.path)),
    ],
)
def test_a_folder_that_lacks_a_file_is_a_named_error(copy, missing, use):
    (copy.path / missing).unlink()
    with pytest.raises(RunError) as caught:
        use(copy)
    assert missing in str(caught.value)
    assert str(copy.path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["config.yaml", "labels.json", "run.json", "model.safetensors", "predictions/valid.csv"]
)
def test_a_hostile_folder_runs_nothing(copy, tmp_path, name):
    trace = tmp_path / "ran"
    for content in (
        pickle.dumps(Payload(str(trace))),
        f"!!python/object/apply:builtins.open ['{trace}', 'w']".encode(),
        f"model: {{arch: !!python/object/apply:builtins.open ['{trace}', w]}}".encode(),
    ):
        (copy.path / name).write_bytes(content)
        with pytest.raises((RunError, ConfigError, WeightsError)):
            xf.interpret(copy) if name.startswith("predictions") else xf.load(Run(copy.path))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("model", "arch", "__import__('os')", "arch is"),
        ("model", "size", -1, "size is -1"),
        ("model", "head_width", [7], "another network"),
        ("model", "arch", "mobilenet_v2", "another network"),
    ],
)
def test_a_config_that_was_tampered_with_is_refused(copy, section, field, value, words):
    content = yaml.safe_load((copy.path / "config.yaml").read_text())
    content[section][field] = value
    (copy.path / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises((RunError, WeightsError, ConfigError), match=words):
        xf.load(copy)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"task": "none", "labels": []}',
        '{"task": "single", "labels": [1]}',
        '{"task": "single", "labels": ["a", "a"]}',
    ],
)
def test_damaged_labels_are_a_named_error(copy, content):
    (copy.path / "labels.json").write_text(content)
    with pytest.raises(RunError, match=r"labels\.json"):
        xf.load(copy)


def test_images_are_read_only_from_the_data_of_the_run(copy, data_dir):
    path = copy.path / "predictions" / "test.csv"
    secret = next(data_dir.glob("normal/*.png"))
    lines = path.read_text().splitlines()
    lines[1] = ",".join([str(secret), *lines[1].split(",")[1:]])
    path.write_text("\n".join(lines))
    cases = {case.image: case for case in xf.interpret(copy).cases(100)}
    assert cases[str(secret)].pixels is None
    assert sum(case.pixels is not None for case in cases.values()) == len(cases) - 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("history.csv", "epoch,phase,train_loss,valid_loss\nx,head,a,b\n"),
        ("history.csv", "a,b\n1,2\n"),
        ("run.json", '{"phases": "x"}'),
        ("run.json", '{"counts": 3, "seconds": "x"}'),
    ],
)
def test_files_of_another_structure_are_a_named_error(copy, name, content):
    (copy.path / name).write_text(content)
    with pytest.raises(RunError, match=name):
        xf.interpret(copy)


def test_predictions_of_other_labels_are_a_named_error(copy):
    labels = json.loads((copy.path / "labels.json").read_text())
    labels["labels"][0] = "other"
    (copy.path / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(RunError, match="prob_other"):
        copy.predictions("valid")


@pytest.mark.parametrize(("column", "cell"), [("train_loss", "inf"), ("valid_accuracy", "x"), ("seconds", "9" * 5000)])
def test_a_history_holds_finite_numbers(tiny_run, tmp_path, column, cell):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "copy"))
    table = pd.read_csv(run.path / "history.csv", dtype=str)
    table.loc[0, column] = cell
    table.to_csv(run.path / "history.csv", index=False)
    (run.path / "checksums.txt").unlink(missing_ok=True)
    with pytest.raises(RunError, match=r"history\.csv: expected numbers \(") as caught:
        _ = run.history
    assert len(str(caught.value)) < 5000


# A stranger's run


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
@pytest.mark.parametrize(
    ("link", "write"),
    [
        ("figures", lambda run: xf.interpret(run)),
        ("tables", lambda run: run.table_path("per_label")),
        ("predictions", lambda run: run.write_predictions("test", run.predictions("test"))),
        ("evaluations", lambda run: run.create_evaluation(None, "other", print)),
        ("checkpoint.new", lambda run: save_checkpoint(run.checkpoint, None, None)),
    ],
)
def test_nothing_is_written_through_a_link_in_a_run(tiny_run, tmp_path, quick, link, write):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    elsewhere = tmp_path / "elsewhere"
    if (run.path / link).exists():
        (run.path / link).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (run.path / link).symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in elsewhere.rglob("*")}
    with pytest.raises(RunError, match=rf"{link}: is a symbolic link to .*elsewhere"):
        write(run)
    assert {path: path.read_bytes() for path in elsewhere.rglob("*")} == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
def test_a_linked_report_is_replaced_and_the_linked_run_is_used(tiny_run, tmp_path, quick):
    shutil.copytree(tiny_run.path, tmp_path / "run")
    shutil.copyfile(tiny_run.path / "metrics.json", tmp_path / "mine")
    for name in ("report.html", "model_card.md", "metrics.json"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
        (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    before = (tmp_path / "mine").read_bytes()
    (tmp_path / "latest").symlink_to("run")
    xf.interpret(tmp_path / "latest", target_sensitivity=0.9)
    assert (tmp_path / "mine").read_bytes() == before
    assert (tmp_path / "run" / "report.html").read_text("utf-8").startswith("<!")
    assert not any(path.is_symlink() for path in (tmp_path / "run").rglob("*"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions")
def test_all_files_of_a_run_have_the_permissions_of_the_umask(tiny_run):
    mask = os.umask(0o022)
    os.umask(mask)
    files = {path.name: path.stat().st_mode & 0o777 for path in tiny_run.path.rglob("*") if path.is_file()}
    assert "model.safetensors" in files and set(files.values()) == {0o666 & ~mask}


def test_generated_names_are_portable_and_differ_in_more_than_case(tiny_run, tmp_path):
    assert Run.create(tmp_path, None, "timm:a/B", tiny_run.config, {}).path.name == "timm_a_B-1"
    assert Run.create(tmp_path, None, "TIMM_A_B", tiny_run.config, {}).path.name == "TIMM_A_B-2"
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    made = [run.create_evaluation(None, stem, print).path.name for stem in ("Site A", "site a", "CON", "a:b\n", "..")]
    assert made == ["Site A", "site a-2", "_CON", "a_b_", "unnamed"]


def test_an_evaluation_appears_with_all_its_files_or_not_at_all(tiny_run, tmp_path):
    """If killed before that, it leaves nothing that counts as an evaluation or occupies a name."""
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations")))
    root = run.path / "evaluations"
    content = {"result": {"images": 1, "overall": {}, "per_label": []}}

    def write(evaluation):
        evaluation.write_metrics(content)
        assert not (root / "mine").exists() and run.evaluations == []
        shutil.copytree(evaluation.path, root / ".run.0123abcd.tmp")  # what a kill leaves here

    def stop(evaluation):
        write(evaluation)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.create_evaluation("mine", "stem", stop)
    assert [path.name for path in root.iterdir()] == [".run.0123abcd.tmp"] and run.evaluations == []
    shutil.rmtree(root / ".run.0123abcd.tmp")
    evaluation = run.create_evaluation("mine", "stem", write)
    assert [one.path for one in run.evaluations] == [evaluation.path] == [root / "mine"]
    assert sorted(path.name for path in evaluation.path.iterdir()) == ["checksums.txt", "metrics.json"]
    assert evaluation.metrics["result"] == content["result"]
    os.utime(root / ".run.0123abcd.tmp", (1e9, 1e9))
    run.create_evaluation(None, "mine", lambda evaluation: None)
    assert sorted(path.name for path in root.iterdir()) == ["mine", "mine-2"]
    for name, words in {"mine": "Choose another name=.$", "mine-2": "no finished evaluation, .* remove it"}.items():
        with pytest.raises(RunError, match=words):
            run.require_new_evaluation(name)


def test_a_run_appears_with_all_its_first_files_or_not_at_all(tiny_run, tmp_path):
    def killed(run):
        (run.path / "split.csv").touch()
        raise KeyboardInterrupt

    old, new, other = (tmp_path / name for name in (".run.0123abcd.tmp", ".run.1123abcd.tmp", ".run.mine.tmp"))
    for path in (old, new, other):
        path.mkdir()
    for path in (old, other):
        os.utime(path, (1e9, 1e9))
    with pytest.raises(KeyboardInterrupt):
        Run.create(tmp_path, "r", "x", tiny_run.config, {}, killed)
    assert sorted(tmp_path.iterdir()) == [new, other], "what a killed process left goes after an hour"
    run = Run.create(tmp_path, "r", "x", tiny_run.config, {}, lambda run: run.write_split(pd.DataFrame({"image": []})))
    assert {path.name for path in run.path.iterdir()} == {"checksums.txt", "config.yaml", "run.json", "split.csv"}


def test_the_error_about_a_name_in_use_says_what_uses_it(tiny_run, tmp_path):
    for name, status, text in [
        (
            "ended",
            "created",
            "It belongs to a run that ended before training began; if it contains nothing that you need, remove",
        ),
        ("stopped", "interrupted", "unfinished run: xf.resume\\('.*stopped'\\) resumes it."),
        ("done", "completed", r"Choose another name=\.$"),
    ]:
        run = Run.create(tmp_path, name, "x", tiny_run.config, {"status": status})
        if name != "ended":
            run.write_split(pd.DataFrame({"image": []}))
        with pytest.raises(RunError, match=text):
            Run.create(tmp_path, name, "x", tiny_run.config, {})


def test_a_run_of_a_relative_path_is_found_after_the_working_folder_changed(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_run.path.parent)
    run, evaluation = xf.Run(tiny_run.path.name), Evaluation(Path("e"), ["a"])
    assert (str(run.path), str(run.model_card_path)) == (tiny_run.path.name, f"{tiny_run.path.name}/model_card.md")
    monkeypatch.chdir(tmp_path)
    assert run.path == tiny_run.path and run.metrics == tiny_run.metrics and run.model_card_path.is_file()
    assert evaluation.report_path == tiny_run.path.parent / "e" / "evaluation.html"
    monkeypatch.chdir(tiny_run.path.parent)
    assert str(run.path) == tiny_run.path.name

"""`members` trains several networks with consecutive seeds into one run, which averages their probabilities."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import xrayfast as xf
from tests.conftest import SMALL, StopAfter
from xrayfast.cli import app
from xrayfast.errors import ConfigError, Interrupted, RunError, TrainingError
from xrayfast.learning.inference.predictor import predictor_of_run
from xrayfast.progress import NullReporter
from xrayfast.reporting.markdown.methods import describe_methods
from xrayfast.workflows.steps import members as steps
from xrayfast.workflows.steps.cross_validation.fold_processes import FoldWatch

OPTIONS = SMALL | {"unfreeze": True, "epochs": 1, "seed": 3, "resamples": 20, "train_metrics": "final"}


@pytest.fixture(scope="module")
def data(data_dir):
    return xf.open_data(data_dir, test_fraction=0.2)


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    """A run with two networks."""
    return xf.fit(data, members=2, name="pair", runs=tmp_path_factory.mktemp("pair"), **OPTIONS)


def bytes_of(run):
    """Return the content of all files that hold no times and no checksums of such files."""
    timed = {"run.json", "history.csv", "metrics.json", "checksums.txt", "model_card.md", "claim.md"}
    found = (path for path in sorted(run.path.rglob("*")) if path.is_file() and path.name not in timed)
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in found}


def test_each_network_is_that_of_its_seed_and_the_run_averages_them(data, pair, tmp_path):
    alone = [xf.fit(data, runs=tmp_path, **OPTIONS | {"seed": seed}) for seed in (3, 4)]
    assert [run.path.relative_to(pair.path).as_posix() for run in pair.members] == ["member-1", "member-2"]
    for member, run in zip(pair.members, alone, strict=True):
        assert member.model_path.read_bytes() == run.model_path.read_bytes()
        assert (member.config.train.seed, member.config.train.members) == (run.config.train.seed, 1)
    for split in ("valid", "test", "train"):
        mean = np.mean([run.predictions(split).raw for run in alone], axis=0)
        assert np.allclose(pair.predictions(split).raw, mean, atol=1e-7)
    assert pair.metrics["loss"]["train"] == pytest.approx(np.mean([run.metrics["loss"]["train"] for run in alone]))
    together = xf.ensemble(alone, folder=tmp_path)
    for split in ("valid", "test"):
        assert pair.metrics[split]["overall"]["log_loss"] == pytest.approx(
            together.metrics[split]["overall"]["log_loss"], abs=1e-6
        )
    assert pair.decision.calibration.temperature == pytest.approx(together.decision.calibration.temperature, rel=1e-6)


def test_its_files_describe_all_networks(pair, tmp_path):
    assert pair.is_finished and (pair.config.train.members, pair.config.train.seed) == (2, 3)
    first = pair.members[0].info
    assert (pair.info.phases, pair.info.counts, pair.info.flow) == (first.phases, first.counts, first.flow)
    card = pair.model_card_path.read_text(encoding="utf-8")
    assert "2 such networks, with different seeds, are averaged." in card
    assert 'xf.load(run + "/member-1")' in card and "Of each network the weights of the best epoch were kept" in card
    assert "The probabilities of 2 networks were averaged." in pair.claim_path.read_text(encoding="utf-8")
    assert "The probabilities of 2 networks were averaged, which differ in seed;" in describe_methods(pair)
    reported = xf.Run(shutil.copytree(pair.path, tmp_path / "pair"))
    xf.interpret(reported, saliency=0)
    report = reported.report_path.read_text(encoding="utf-8")
    assert "2, averaged" in report and "3 to 4 (split 0)" in report and "Losses and metrics" in report
    assert "is of the first of 2 networks, <code>member-1</code>" in report
    assert "Training values are from the weights at the end" in report and "--train-metrics final" not in report
    assert "; 2 networks; test split" in pair._repr_html_()
    for read in (pair.plot_history, pair.plot_batches):
        with pytest.raises(RunError, match="averages 2 runs and has no network of its own"):
            read()
    assert xf.compare([pair, pair.members[0]]).table["epochs"].tolist() == [2, 2]


def test_a_replayed_config_trains_the_same_networks(pair, tmp_path):
    again = xf.fit(config=pair.config, runs=tmp_path, name="pair")
    assert {name: content for name, content in bytes_of(again).items() if name.endswith("model.safetensors")} == {
        name: content for name, content in bytes_of(pair).items() if name.endswith("model.safetensors")
    }


def test_stopped_within_the_second_network_it_resumes_to_the_same_bytes(data, pair, tmp_path):
    stop = StopAfter(9)  # of two epochs for each network, with two training batches and one for validation
    said = r"1 finished network of 2, in member-2 after 0 finished epochs and .*Resume with: xf.resume"
    with pytest.raises(Interrupted, match=said):
        xf.fit(data, members=2, name="pair", runs=tmp_path, interrupted=stop, **OPTIONS)
    run = xf.Run(tmp_path / "pair")
    assert run.info.status == "interrupted" and not run.is_finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrayfast.workflows.steps.network._train", lambda training: None)
        notes = []
        xf.resume(run.path / "member-2", reporter=NullReporter(note=notes.append))
        assert notes[-1].startswith(f"This is one network of a run. 'xrayfast fit --resume {run.path}' trains")
    again = xf.resume(run)
    assert bytes_of(again) == bytes_of(pair) and again.info.status == "completed"
    with pytest.raises(RunError, match="is complete: there is nothing to resume"):
        xf.resume(again)
    again.model_card_path.unlink()
    xf.resume(again)
    assert again.is_finished


def test_a_network_that_never_began_is_trained_by_resume(data_dir, pair, tmp_path):
    run = xf.Run(shutil.copytree(pair.path, tmp_path / "pair"))
    shutil.rmtree(run.path / "member-2")  # or was deleted
    with pytest.raises(RunError, match=r"pair: member-2, .*, is missing; .* 'completed'. xf.resume\(.* trains it"):
        xf.predict(run, data_dir)
    damaged = xf.Run(shutil.copytree(run.path, tmp_path / "damaged"))
    (damaged.path / "member-1" / "run.json").write_text("{")
    damaged.update_info(status="interrupted")
    with pytest.raises(RunError, match="member-1"):
        xf.resume(damaged)
    assert "trains the others" in damaged._repr_html_() and damaged.info.status == "failed"
    changed = xf.Run(shutil.copytree(pair.path, tmp_path / "changed"))
    changed.update_info(status="interrupted")
    (changed.path / "member-2" / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"member-2/model\.safetensors: has changed"):
        xf.resume(changed)
    again = xf.resume(run)
    assert bytes_of(again) == bytes_of(pair) and again.info.remarks == pair.info.remarks
    first, second = (member.info.data_notes for member in again.members)
    assert first == second and any("drawn with seed" in note for note in second)


def test_seeds_that_end_above_the_largest_are_refused_before_training(data, tmp_path):
    with pytest.raises(ConfigError, match="seed is"):
        xf.fit(data, members=2, runs=tmp_path, **OPTIONS | {"seed": 2**63 - 1})
    assert not list(tmp_path.iterdir())


def test_all_networks_have_the_split_that_was_drawn_again_and_code_of_their_own(data_dir, tmp_path, monkeypatch):
    copied = Path(shutil.copytree(data_dir, tmp_path / "data"))
    for path in list(copied.rglob("*.png")):
        shutil.copy(path, path.with_name(f"b{path.name[2:]}"))
    trained = []

    def fail(data, config, images, compared, request, **_):
        trained.append((data.table["split"].tolist(), data.fingerprint(), request.code["loss"]))
        raise TrainingError("diverged")

    monkeypatch.setattr(steps, "train_network", fail)
    data, loss = xf.open_data(copied), torch.nn.CrossEntropyLoss()
    with pytest.raises(TrainingError, match="diverged"):
        xf.fit(data, members=2, name="pair", runs=tmp_path, **OPTIONS, loss=loss)
    run = xf.Run(tmp_path / "pair")
    with pytest.raises(TrainingError, match="diverged"):
        xf.resume(run, loss=loss)
    with pytest.raises(TrainingError, match="diverged"):
        xf.cross_validate(copied, folds=2, members=2, name="cv", runs=tmp_path, **OPTIONS, loss=loss)
    split = pd.read_csv(run.split_path)["split"].tolist()
    assert split != data.table["split"].tolist() and run.info.fingerprint == trained[0][1]
    assert all((one[0], one[1]) == (split, run.info.fingerprint) for one in trained[:2])
    assert len({id(one[2]) for one in (*trained, (0, 0, loss))}) == 4


def test_it_predicts_only_once_the_mean_is_calibrated(pair, data_dir, tmp_path):
    run = xf.Run(shutil.copytree(pair.path, tmp_path / "pair"))
    run.update_info(status="interrupted")
    with pytest.raises(RunError, match=r"pair: its networks are not averaged yet; its status is 'interrupted'\. "):
        xf.predict(run, data_dir / "normal")


def test_a_network_that_was_copied_over_another_is_not_averaged_with_it(pair, data_dir, tmp_path):
    run = xf.Run(shutil.copytree(pair.path, tmp_path / "pair"))
    shutil.rmtree(run.path / "member-2")
    shutil.copytree(run.path / "member-1", run.path / "member-2")
    with pytest.raises(RunError, match=r"member-2: has the same weights as .*member-1, so one is a copy of the other"):
        xf.predict(run, data_dir / "normal")


def test_a_failure_is_recorded(data, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise TrainingError("diverged")

    monkeypatch.setattr(steps, "train_network", fail)
    with pytest.raises(TrainingError, match="diverged"):
        xf.fit(data, members=2, name="pair", runs=tmp_path, **OPTIONS)
    assert xf.Run(tmp_path / "pair").info.status == "failed"


def test_each_fold_of_a_cross_validation_has_all_networks(data_dir, tmp_path):
    cv = xf.cross_validate(data_dir, folds=2, members=2, name="cv", runs=tmp_path, **OPTIONS)
    names = ["fold1/member-1", "fold1/member-2", "fold2/member-1", "fold2/member-2"]
    assert [run.path.relative_to(cv.path).as_posix() for run in cv.members] == names
    assert len(predictor_of_run(cv, "cpu").members) == 4
    out_of_fold = cv.out_of_fold
    for fold in cv.runs:
        of_fold = [member.predictions("valid") for member in fold.members]
        rows = np.flatnonzero(np.isin(out_of_fold.images, of_fold[0].images))
        order = [of_fold[0].images.tolist().index(image) for image in out_of_fold.images[rows]]
        assert np.allclose(out_of_fold.raw[rows], np.mean([one.raw[order] for one in of_fold], axis=0), atol=1e-7)
    watch = FoldWatch(cv)
    shutil.rmtree(cv.path / "fold2" / "member-2")
    assert watch.look({2}) and watch.share == 0.75
    titles = [(one.name, one.status) for one in watch.folds]
    assert titles[2:] == [("fold 2, network 1", "done"), ("fold 2, network 2", "waiting")]
    card = cv.model_card_path.read_text(encoding="utf-8")
    assert "2 such networks, with different seeds, are averaged." in card and '"/fold1/member-1"' in card


def test_the_command_line_says_what_the_results_are_of(data_dir, tmp_path):
    words = ["fit", data_dir, "--members", 2, "--name", "pair", "--runs", tmp_path, "--size", 32, "--epochs", 1]
    words += ["--arch", "tiny_resnet", "--weights", "none", "--device", "cpu", "--resamples", 20, "--json"]
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["metrics"]["training"]["members"]) == 2
    done = CliRunner().invoke(app, [*map(str, words[:-1]), "--resume", "auto"])
    assert re.search(r"complete: there is nothing to resume", done.output)
    assert re.search(r"validation\s+results\s+of\s+2\s+networks\s+together", done.output)

"""A run on a stand-in for the Hub identifies no patient and no machine, and predicts the same."""

import getpass
import json
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import xrayfast as xf
from tests.conftest import SMALL, with_other_weights
from tests.hub.server import Repository
from xrayfast.cli import app
from xrayfast.errors import ConfigError, RunError, XrayfastError
from xrayfast.files.checksums import file_digest
from xrayfast.hub import download as download_module
from xrayfast.hub.download import ALLOWED, download, is_hub_name
from xrayfast.runs.run import Run

FILES = {
    "README.md", "checksums.txt", "config.yaml", "history.csv", "labels.json", "metrics.json", "model.safetensors",
    "run.json",
}  # fmt: skip


@pytest.fixture
def run(tiny_run, tmp_path):
    """The tiny run with remarks that name a file, a patient and a folder, and with notes about single images."""
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "tiny"))
    image = run.predictions("valid").images[0]
    remarks = [f"{image} is blank.", f"Labels of {tmp_path}/labels.csv.", "Patients are not known."]
    run.update_info(remarks=remarks, data_notes=remarks, audit=remarks, flow=[[f"Left out of {image}", 1], ["Used", 3]])
    metrics = dict(run.metrics)
    metrics["failures"] = {"valid": [{"image": image}]}
    metrics["valid"] = {**metrics["valid"], "notes": remarks}
    run.write_metrics(metrics)
    return run


def uploaded(hub, name="group/chest"):
    files = dict(hub.repositories[name].at("main")[1])
    del files[".gitattributes"]
    return files


def require_private(files, run):
    """Check that no text contains the name of an image, a patient, the user, the machine or a folder."""
    images = {name for split in ("valid", "test") for name in run.predictions(split).images}
    names = {name.rpartition("/")[2] for name in images} | {str(run.path.parent), str(run.config.data.source), "blank."}
    for file, content in files.items():
        if file != "model.safetensors":
            text = content.decode()
            assert not [name for name in names if name in text], file
            words = set(text.replace('"', " ").replace("/", " ").split())
            assert not words & {getpass.getuser(), socket.gethostname()}, file
    header = files["model.safetensors"]
    assert not [name for name in names if name.encode() in header[: int.from_bytes(header[:8], "little") + 8]]


def test_a_published_run_holds_no_name_and_predicts_the_same(run, hub, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes = []
    pushed = xf.push(run, "group/chest", note=notes.append)
    files = uploaded(hub)
    assert set(files) == set(pushed.files) == FILES and pushed.private and hub.repositories["group/chest"].private
    require_private(files, run)
    assert notes == ["Left out of the published run: 3 sentences that may name files or patients."]
    card = files["README.md"].decode()
    assert "For research and teaching, not for diagnosis" in card and 'run = "hf:group/chest"' in card
    assert "Patients are not known." in json.loads(files["run.json"])["remarks"]
    accepted_by_the_hub(card)
    with pytest.warns(UserWarning, match=rf"revision main is hf:group/chest@{pushed.commit}"):
        found = xf.Run("hf:group/chest")
    ours, theirs = (xf.predict(one, data_dir / "normal", device="cpu") for one in (run, found))
    assert theirs.pop("run").unique().tolist() == [pushed.name]
    assert ours.equals(theirs)
    test = xf.evaluate(pushed.name, data_dir, resamples=0, device="cpu", progress=False)
    assert test.path == Path("chest-evaluations/data") and test.info["run"] == pushed.name
    assert any("could not be checked" in one["text"] for one in test.metrics["result"]["warnings"])
    assert "internal" in test.metrics
    with pytest.warns(UserWarning, match="gets a black image instead"):
        learn = xf.load(found, device="cpu")
    weights = xf.load(run, device="cpu").model.state_dict()
    assert all((weights[name] == value).all() for name, value in learn.model.state_dict().items())
    before = sorted(found.path.rglob("*"))
    for change in (lambda: xf.interpret(found), lambda: xf.resume(found), lambda: found.lock().__enter__()):
        with pytest.raises(RunError):
            change()
    assert sorted(found.path.rglob("*")) == before


def accepted_by_the_hub(card):
    """Check that huggingface_hub accepts a card, as far as possible without a network."""
    from huggingface_hub import EvalResult, ModelCard

    found = ModelCard(card, ignore_metadata_errors=False).data
    assert found.library_name == "xrayfast" and found.pipeline_tag == "image-classification"
    assert found.model_name == "tiny" and all(isinstance(one, EvalResult) for one in found.eval_results)
    values = {(one.dataset_split, one.metric_type) for one in found.eval_results}
    assert {("validation", "roc_auc"), ("test", "accuracy")} <= values
    assert yaml.safe_load(found.to_yaml()) == yaml.safe_load(card.split("---")[1])


def test_files_that_name_patients_are_uploaded_if_requested_and_removed_by_the_next_push(run, hub):
    pushed = xf.push(run, "group/chest", with_predictions=True, with_split=True, note=lambda _: None)
    more = {"split.csv", "predictions/valid.csv", "predictions/test.csv", "predictions/checksums.txt"}
    assert set(uploaded(hub)) == FILES | more
    found = xf.Run(pushed.name)
    assert found.predicted_splits == ("valid", "test")
    np.testing.assert_array_equal(found.predictions("test").raw, run.predictions("test").raw)
    xf.push(run, "group/chest", note=lambda _: None)
    assert set(uploaded(hub)) == FILES
    assert Run(pushed.name).has_checksums  # the earlier commit still exists


def test_an_ensemble_is_published_with_its_networks(run, hub, data_dir, tmp_path):
    both = xf.ensemble([run, with_other_weights(run, tmp_path / "second")], folder=tmp_path / "both")
    pushed = xf.push(both, "group/both", note=lambda _: None)
    assert {"member-1/model.safetensors", "member-2/run.json"} < set(pushed.files)
    assert "model.safetensors" not in pushed.files
    files = uploaded(hub, "group/both")
    texts = {name: content for name, content in files.items() if not name.endswith(".safetensors")}
    require_private(texts | {"model.safetensors": files["member-1/model.safetensors"]}, run)
    ours, theirs = (xf.predict(one, data_dir / "normal", device="cpu") for one in (both, pushed.name))
    assert ours.equals(theirs.drop(columns="run"))


def test_downloaded_files_are_used_offline(run, hub, monkeypatch):
    import huggingface_hub

    pushed = xf.push(run, "group/chest", note=lambda _: None)
    with pytest.warns(UserWarning, match="revision main"):
        first = Run("hf:group/chest")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert Run(pushed.name).path == first.path and download("hf:group/chest").commit == pushed.commit
    with pytest.warns(
        UserWarning, match=rf"{pushed.commit}, from an earlier download, because the server can't be reached now"
    ):
        Run("hf:group/chest")
    assert hub.requests == []
    with pytest.raises(RunError, match=r"can't be reached .*revision main was not downloaded before"):
        download("hf:group/other")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub.repositories.clear()  # the repositories are gone; the cache is not
    with pytest.raises(RunError, match="no such repository, or it is private"):
        download("hf:group/chest")


def test_only_files_of_a_run_are_downloaded_from_a_hostile_repository(run, hub, data_dir, tmp_path):
    xf.push(run, "group/chest", note=lambda _: None)
    repository = hub.repositories["group/chest"]
    files = dict(repository.at("main")[1])
    evil = ("model.pkl", "pytorch_model.bin", "setup.py", "predictions/evil.py", "member-1/x.pkl", "a/../../run.json")
    commit = repository.commit(files | dict.fromkeys(evil, b"cos\nsystem\n"))
    found = download(f"hf:group/chest@{commit}")
    there = {path.relative_to(found.path).as_posix() for path in found.path.rglob("*") if path.is_file()}
    assert there == FILES - {"README.md"}
    assert not [path for _, path in hub.requests if path.endswith((".pkl", ".py", ".bin"))]
    unchecked = {name: content for name, content in files.items() if name != "checksums.txt"}
    weights = repository.commit(unchecked | {"model.safetensors": b"\x80\x04cos\nsystem\n"})
    with pytest.raises(XrayfastError, match=r"model\.safetensors"):
        xf.predict(f"hf:group/chest@{weights}", data_dir / "normal", device="cpu")
    info = json.loads(files["run.json"]) | {"members": ["../../../../tiny"]}
    outside = repository.commit(unchecked | {"run.json": json.dumps(info).encode()})
    with pytest.raises(RunError, match="refers to runs outside its folder"):
        xf.predict(f"hf:group/chest@{outside}", data_dir / "normal", device="cpu")


def test_errors_are_named(run, hub, monkeypatch):
    for name in ("hf:chest", "hf:a/b/c", "hf:a/b@", "hf:a/b@x y", "hf:"):
        with pytest.raises(ConfigError, match="expected hf:ORG/NAME"):
            Run(name)
    with pytest.raises(ConfigError, match="expected ORG/NAME"):
        xf.push(run, "chest")
    hub.repositories["group/open"] = Repository(private=False)
    with pytest.raises(RunError, match=r"is not an xrayfast run: found \.gitattributes"):
        Run("hf:group/open")
    with pytest.raises(RunError, match="already exists and is public, but public= was not given"):
        xf.push(run, "group/open", note=lambda _: None)
    assert list(hub.repositories["group/open"].at("main")[1]) == [".gitattributes"]
    assert not xf.push(run, "group/open", public=True, note=lambda _: None).private
    with pytest.raises(RunError, match="has no revision 'v2'"):
        Run("hf:group/open@v2")
    monkeypatch.setattr(download_module, "MAX_RUN_BYTES", 1000)
    with pytest.raises(RunError, match=r"expected at most 1,000\. Nothing was downloaded"):
        Run("hf:group/open")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="not logged in to the Hub"):
        xf.push(run, "group/chest")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(RunError, match="hf:group/chest"):
        xf.push(run, "group/chest", note=lambda _: None)
    run.update_info(status="interrupted")
    with pytest.raises(RunError, match="'interrupted'; expected a complete run"):
        xf.push(run, "group/chest")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'xrayfast\[hub\]'"):
        Run("hf:group/open")


def test_a_label_named_like_a_file_stops_the_push(run, hub, monkeypatch):
    from xrayfast.workflows import push as module

    monkeypatch.setattr(module, "_public_settings", lambda config: config)  # with the folder of the data
    with pytest.raises(RunError, match=r"config\.yaml: contains '.*' *, which is the name of"):
        xf.push(run, "group/chest", note=lambda _: None)
    assert "group/chest" not in hub.repositories


def test_the_command_lists_what_it_uploads(run, hub):
    dry = CliRunner().invoke(app, ["push", str(run.path), "group/chest", "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    assert set(json.loads(dry.stdout)["files"]) == FILES and not hub.repositories
    done = CliRunner().invoke(app, ["push", str(run.path), "group/chest", "--public"])
    assert done.exit_code == 0 and "Uploaded to group/chest, public" in done.output
    assert all(name in done.output for name in FILES)
    assert not hub.repositories["group/chest"].private


def test_file_addresses_are_no_runs():
    names = ("hf:a/b@main", Path("hf:a/b"), "hf://datasets/a/b", Path("hf://a"), "runs/a")
    assert [is_hub_name(name) for name in names] == [
        True, True, False, False, False
    ]  # fmt: skip


def test_only_a_run_s_files_are_allowed():
    assert not [name for name in ALLOWED if name.endswith((".py", ".pkl", ".bin", ".pt", "/", "*"))]
    assert os.sep not in "".join(FILES)


def test_training_starts_from_a_run_on_the_hub(run, hub, data_dir, tmp_path):
    pushed = xf.push(run, "group/chest", note=lambda _: None)
    with pytest.warns(UserWarning, match="revision main"):
        options = SMALL | {"epochs": 1, "weights": "hf:group/chest", "arch": run.config.model.arch}
        found = xf.fit(xf.open_data(data_dir), runs=tmp_path, name="from-hub", **options)
    assert found.config.model.weights == pushed.name and pushed.name in found.info.starting_weights
    assert found.info.weights_sha256 == file_digest(run.model_path)
    assert any("does not record which images its network was trained on" in remark for remark in found.info.remarks)
    with pytest.raises(RunError, match="no such repository"):
        xf.fit(xf.open_data(data_dir), runs=tmp_path, **options | {"weights": "hf:group/none"})

"""Public functions raise the errors that their docstrings name."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

import xrayfast as xf
from tests.conftest import SMALL, UNCHECKED, StopAfter
from xrayfast import errors
from xrayfast.learning.fastai_api import Learner


def documented():
    """Yield (function, error) for each error named under "Raises"."""
    for name in xf.__all__:
        text = (getattr(xf, name).__doc__ or "").partition("Raises:\n")[2].partition("\n\n")[0]
        indent = re.match(r" *", text)[0]
        yield from ((name, found) for found in re.findall(rf"(?m)^{indent}(\w+): ", text))


CASES = {
    ("CrossValidation", "RunError"): lambda p: xf.CrossValidation(p.run.path),
    ("FocalLoss", "ConfigError"): lambda p: xf.FocalLoss("single", gamma=-1.0),
    ("RadiographBlock", "ConfigError"): lambda p: xf.RadiographBlock(augment=lambda: None),
    ("Run", "ConfigError"): lambda p: xf.Run("hf:none"),
    ("Run", "RunError"): lambda p: xf.Run(p.folder / "none"),
    ("build_cache", "DataError"): lambda p: xf.build_cache(p.folder / "none"),
    ("build_cache", "ConfigError"): lambda p: xf.build_cache(p.data, shards="2/1"),
    ("build_cache", "WriteError"): lambda p: xf.build_cache(p.unwritable),
    ("check", "DataError"): lambda p: xf.check(p.folder / "none"),
    ("check", "WriteError"): lambda p: xf.check(p.data, output=p.file / "x"),
    ("check", "RunError"): lambda p: xf.check(p.data, output=p.in_use),
    ("check", "ConfigError"): lambda p: xf.check(p.data, size=0),
    ("compare", "RunError"): lambda p: xf.compare(p.run),
    ("compare", "ConfigError"): lambda p: xf.compare([p.run, p.other], order="x"),
    ("compare", "WriteError"): lambda p: xf.compare([p.run, p.other], page=p.folder),
    ("cross_validate", "XrayfastError"): lambda p: xf.cross_validate(p.data, arch="none"),
    ("cross_validate", "ConfigError"): lambda p: xf.cross_validate(p.data, fold=1),
    ("cross_validate", "Interrupted"): lambda p: xf.cross_validate(
        p.data, folds=2, runs=p.folder, interrupted=StopAfter(0), **SMALL
    ),
    ("dataloaders", "ConfigError"): lambda p: xf.dataloaders(p.data, device="mps"),
    ("dataloaders", "DataError"): lambda p: xf.dataloaders(p.broken, size=32),
    ("dataloaders", "WriteError"): lambda p: xf.dataloaders(p.unwritable, size=32),
    ("ensemble", "ConfigError"): lambda p: xf.ensemble([p.run]),
    ("ensemble", "RunError"): lambda p: xf.ensemble([p.unfinished, p.run], folder=p.folder),
    ("evaluate", "DataError"): lambda p: xf.evaluate(p.run, p.folder / "none"),
    ("evaluate", "ConfigError"): lambda p: xf.evaluate(p.run, by="none"),
    ("evaluate", "RunError"): lambda p: xf.evaluate(p.unfinished),
    ("evaluate", "WeightsError"): lambda p: xf.evaluate(p.foreign, p.source),
    ("explain", "ConfigError"): lambda p: xf.explain(p.run, p.image, label="none"),
    ("explain", "ReadError"): lambda p: xf.explain(p.run, p.file),
    ("explain", "RunError"): lambda p: xf.explain(p.unfinished, p.image),
    ("explain", "WeightsError"): lambda p: xf.explain(p.foreign, p.image),
    ("export", "ConfigError"): lambda p: xf.export(p.run, p.folder / "model.bin"),
    ("export", "RunError"): lambda p: xf.export(p.gone, p.folder / "model.onnx"),
    ("export", "DataError"): lambda p: xf.export(p.run, p.folder / "model.onnx", images=p.folder / "none"),
    ("export", "WeightsError"): lambda p: xf.export(p.foreign),
    ("export", "WriteError"): lambda p: xf.export(p.run, p.file / "model.onnx"),
    ("find_lr", "XrayfastError"): lambda p: xf.find_lr(p.data, arch="none"),
    ("fit", "XrayfastError"): lambda p: xf.fit(p.data, arch="none"),
    ("fit", "DataError"): lambda p: xf.fit(p.folder / "none"),
    ("fit", "Interrupted"): lambda p: xf.fit(p.data, runs=p.folder, interrupted=StopAfter(0), **SMALL),
    ("interpret", "ConfigError"): lambda p: xf.interpret(p.run, by="none"),
    ("interpret", "DataError"): lambda p: xf.interpret(p.without_table, by="sex"),
    ("interpret", "RunError"): lambda p: xf.interpret(p.unfinished),
    ("interpret", "WriteError"): lambda p: xf.interpret(p.locked),
    ("join_folds", "RunError"): lambda p: xf.join_folds(p.stopped_cv),
    ("learner", "ConfigError"): lambda p: xf.learner(p.dls, arch="none"),
    ("learner", "WeightsError"): lambda p: xf.learner(p.dls, weights=p.file),
    ("load", "ConfigError"): lambda p: xf.load(p.run, loss=len),
    ("load", "RunError"): lambda p: xf.load(p.unfinished),
    ("load", "DataError"): lambda p: xf.load(p.run, p.multi),
    ("load", "WeightsError"): lambda p: xf.load(p.foreign),
    ("open_data", "DataError"): lambda p: xf.open_data(p.folder / "none"),
    ("open_data", "ConfigError"): lambda p: xf.open_data(p.source, folds=1),
    ("phantom", "DataError"): lambda p: xf.phantom("none", patient=0),
    ("predict", "DataError"): lambda p: xf.predict(p.run, p.folder / "none"),
    ("predict", "ConfigError"): lambda p: xf.predict(p.run, p.image, abstain_below=2.0),
    ("predict", "RunError"): lambda p: xf.predict(p.unfinished, p.image),
    ("predict", "WeightsError"): lambda p: xf.predict(p.foreign, p.image),
    ("report", "ConfigError"): lambda p: xf.report(p.predictions, prevalence="2"),
    ("report", "DataError"): lambda p: xf.report(p.file),
    ("report", "RunError"): lambda p: xf.report(p.predictions, p.in_use),
    ("report", "WriteError"): lambda p: xf.report(p.predictions, p.file / "x"),
    ("push", "ConfigError"): lambda p: xf.push(p.run, "none"),
    ("push", "RunError"): lambda p: xf.push(p.own_code, "group/none"),
    ("resume", "ConfigError"): lambda p: xf.resume(p.own_code),
    ("resume", "RunError"): lambda p: xf.resume(p.run),
    ("resume", "Interrupted"): lambda p: xf.resume(p.stopped, interrupted=StopAfter(0)),
    ("resume_cross_validation", "ConfigError"): lambda p: xf.resume_cross_validation(p.own_cv),
    ("resume_cross_validation", "RunError"): lambda p: xf.resume_cross_validation(p.run.path),
    ("resume_cross_validation", "Interrupted"): lambda p: xf.resume_cross_validation(
        p.stopped_cv, interrupted=StopAfter(0)
    ),
    ("review", "ConfigError"): lambda p: p.without_cleanlab(),
    ("review", "RunError"): lambda p: xf.review(p.stopped_cv),
    ("review", "WriteError"): lambda p: xf.review(p.cv, output=p.file / "x"),
    ("save", "ConfigError"): lambda p: xf.save(Learner(p.dls, p.learn.model), runs=p.folder),
    ("save", "DataError"): lambda p: xf.save(xf.load(p.gone, device="cpu"), runs=p.folder),
    ("save", "RunError"): lambda p: xf.save(p.learn, runs=p.file / "x"),
    ("split", "DataError"): lambda p: xf.split(p.broken),
    ("split", "WriteError"): lambda p: xf.split(p.data, output=p.source),
    ("synth", "DataError"): lambda p: xf.synth(p.source),
}


def test_every_documented_error_has_its_case():
    assert set(documented()) == CASES.keys()


class Places:
    """Intact and damaged runs, data and files."""

    def __init__(self, run, source, multi, folder):
        self.folder, self.source = folder, source
        self.run = xf.Run(shutil.copytree(run.path, folder / "run"))
        self.other = xf.Run(shutil.copytree(run.path, folder / "other"))
        self.data, self.multi = xf.open_data(source), xf.open_data(multi)
        self.image, self.file = Path(self.data.table["path"][0]), folder / "file.png"
        self.file.write_text("no image")
        self.predictions = self.run.path / "predictions" / "valid.csv"
        shutil.copytree(source, folder / "broken")
        next((folder / "broken/normal").rglob("*.png")).write_text("no image")
        self.broken = xf.open_data(folder / "broken")
        self.unwritable = xf.open_data(source, cache_dir=self.file / "cache")
        self.dls = xf.dataloaders(self.data, size=32, batch_size=8, device="cpu", workers=0)
        self.learn = xf.learner(self.dls, weights="none")
        self.unfinished = self.changed("unfinished", "seed: 0", "seed: 1")
        for name in ("model.safetensors", "predictions/valid.csv", "predictions/test.csv"):
            (self.unfinished / name).unlink()
        self.foreign = self.changed("foreign", "arch: tiny_resnet", "arch: resnet34")
        self.own_code = self.changed("own", "loss: auto", "loss: own:mine")
        info = (self.own_code / "run.json").read_text()
        (self.own_code / "run.json").write_text(info.replace("completed", "interrupted"))
        self.gone = self.changed("gone", str(source), str(folder / "nowhere"))
        self.without_table = self.changed("table", "labels: null", "labels: nowhere.csv")
        self.locked = folder / "locked"
        shutil.copytree(run.path, self.locked)
        (self.locked / "report.html").unlink(missing_ok=True)
        (self.locked / "report.html").mkdir()
        self.in_use = folder / "in-use"
        self.in_use.mkdir()
        holder = {"host": "elsewhere", "pid": 1, "start": 0, "since": "today", "command": "xrayfast"}
        (self.in_use / "output.lock").write_text(json.dumps(holder))
        with pytest.raises(errors.Interrupted):
            xf.fit(self.data, runs=folder, name="stopped", interrupted=StopAfter(0), **SMALL)
        self.stopped = folder / "stopped"
        with pytest.raises(errors.Interrupted):
            xf.cross_validate(self.data, folds=2, runs=folder, name="cv", interrupted=StopAfter(0), **SMALL)
        self.stopped_cv = folder / "cv"
        self.cv = shutil.copytree(run.path, folder / "whole-cv")
        (self.cv / "cross_validation.json").write_text('{"folds": 2}')
        self.own_cv = shutil.copytree(self.stopped_cv, folder / "own-cv", ignore=UNCHECKED)
        settings = (self.own_cv / "config.yaml").read_text().replace("loss: auto", "loss: own:mine")
        (self.own_cv / "config.yaml").write_text(settings)

    def without_cleanlab(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "cleanlab.filter", None)
            xf.review(self.cv)

    def changed(self, name, old, new):
        """Return a copy of the run with `old` replaced in its config.yaml."""
        copy = shutil.copytree(self.run.path, self.folder / name, ignore=UNCHECKED)
        text = (copy / "config.yaml").read_text()
        assert old in text
        (copy / "config.yaml").write_text(text.replace(old, new))
        return copy


@pytest.fixture(scope="module")
def places(tiny_run, data_dir, multi_dir, tmp_path_factory):
    return Places(tiny_run, data_dir, multi_dir, tmp_path_factory.mktemp("raises"))


@pytest.mark.slow
@pytest.mark.parametrize(("function", "error"), CASES)
def test_a_documented_error_is_raised(function, error, places, quick):
    with pytest.raises(getattr(errors, error)) as caught:
        CASES[function, error](places)
    assert isinstance(caught.value, errors.XrayfastError) and str(caught.value)

"""Every public function checks its arguments and names a wrong one."""

import inspect
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.config import Config
from xrayfast.errors import ConfigError, DataError, XrayfastError, did_you_mean, shorten
from xrayfast.errors.arguments import as_python
from xrayfast.runs.evaluation import Evaluation

NONSENSE = [5, 1.5, "nonsense", None, object(), len, [], {}, b"x", np.float32(1), "a\0b", [None], float("nan"), -1]

FUNCTIONS = [
    name
    for name in xf.__all__
    if name
    not in ("Config", "CrossValidation", "Manifest", "Run", "XrayfastError", "__version__", "RadiographInterpretation")
    and name != "FocalLoss"
]


@pytest.fixture(scope="module")
def good(data_dir, tiny_run, tmp_path_factory):
    """Valid arguments of each function, so that a test can replace one of them."""
    data = xf.open_data(data_dir)
    dls = xf.dataloaders(data, size=32, batch_size=8, device="cpu", workers=0)
    image = Path(data.table["path"][0])
    cv = shutil.copytree(tiny_run.path, tmp_path_factory.mktemp("cv") / "cv")
    (cv / "cross_validation.json").write_text('{"folds": 2}')
    return {
        "build_cache": {"data": data},
        "check": {"data": data},
        "compare": {"runs": [tiny_run, tiny_run]},
        "cross_validate": {"data": data, "runs": tmp_path_factory.mktemp("runs"), **SMALL},
        "dataloaders": {"data": data, "device": "cpu"},
        "ensemble": {"runs": [tiny_run, tiny_run]},
        "evaluate": {"run": tiny_run},
        "explain": {"run": tiny_run, "files": image},
        "export": {"run": tiny_run},
        "find_lr": {"data": data},
        "fit": {"data": data, "runs": tmp_path_factory.mktemp("runs"), "name": "taken", **SMALL},
        "interpret": {"run": tiny_run},
        "join_folds": {"cv": cv},
        "learner": {"dls": dls, "weights": "none"},
        "load": {"run": tiny_run},
        "open_data": {"source": data_dir},
        "phantom": {"condition": "normal", "patient": 0},
        "predict": {"run": tiny_run, "sources": image},
        "push": {"run": tiny_run, "repository": "org/name"},
        "RadiographBlock": {},
        "report": {"predictions": tiny_run.path / "predictions" / "valid.csv"},
        "resume": {"run": tiny_run},
        "resume_cross_validation": {"cv": cv},
        "review": {"cv": cv},
        "save": {"learn": xf.learner(dls, weights="none")},
        "split": {"data": data},
        "synth": {"folder": tmp_path_factory.mktemp("synth")},
    }


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nonsense_arguments_are_named_errors(function, good):
    """Replace each argument with each nonsense value; only the check of arguments runs."""
    check = getattr(xf, function).check
    check(**good[function])
    named = [name for name, p in inspect.signature(getattr(xf, function)).parameters.items() if p.kind != p.VAR_KEYWORD]
    for name in named:
        refused = [value for value in NONSENSE if not passes(check, **{**good[function], name: value})]
        assert len(refused) >= 5, (name, refused)


def passes(check, *values, **arguments):
    try:
        check(*values, **arguments)
    except XrayfastError as error:
        assert len(str(error)) < 700
        return False
    return True


@pytest.mark.slow
def test_methods_accept_or_refuse_nonsense_arguments(tiny_run, data_dir):
    data, interpretation = xf.open_data(data_dir), xf.interpret(tiny_run)
    evaluation = Evaluation(tiny_run.path, tiny_run.labels)
    calls = [
        data.deal_folds, data.redraw_splits, data.subset, partial(data.with_splits, note="mine"),
        evaluation.is_finished, evaluation.table_path,
        interpretation.cases, interpretation.image, interpretation.most_confused, interpretation.of,
        interpretation.plot_calibration, interpretation.plot_confusion_matrix, interpretation.plot_pr,
        interpretation.plot_roc, interpretation.plot_top_losses, interpretation.ranked, interpretation.right_cases,
        interpretation.top_losses, interpretation.top_losses_table,
        interpretation.predictions.calibrated, interpretation.predictions.of_labels, interpretation.predictions.select,
        tiny_run.figure_path, tiny_run.learner, tiny_run.plot_batches, tiny_run.plot_history, tiny_run.predictions,
        tiny_run.require_new_evaluation, tiny_run.table_path, tiny_run.total_seconds,
        xf.CrossValidation, xf.CrossValidation.is_there, xf.Run, xf.Run.newest, xf.Run.of,
    ]  # fmt: skip
    for call in calls:
        refused = [value for value in NONSENSE if not passes(call, value)]
        assert len(refused) >= 8, (call, refused)


def test_arguments_that_would_draw_nothing_are_refused(tiny_run):
    interpretation = xf.interpret(tiny_run)
    with pytest.raises(ConfigError, match=r"labels is empty; expected one or more of .*, or leave it out"):
        interpretation.plot_roc([])
    with pytest.raises(ConfigError, match=r"k is empty; expected the places"):
        interpretation.plot_top_losses([])
    with pytest.raises(ConfigError, match=r"image is 'nonsense'; expected the name of an image of the test split"):
        interpretation.image("nonsense")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda g: xf.learner(g["dls"], loss="nonsense"),
            "loss is 'nonsense'; expected 'auto', 'ce', 'bce', 'asl' or 'focal'",
        ),
        (lambda g: xf.learner(g["dls"], loss="foacl"), "Did you mean 'focal'"),
        (lambda g: xf.learner(g["dls"], loss=3), "loss is 3; expected 'auto'"),
        (
            lambda g: xf.learner(g["dls"], arch=3),
            r"arch is 3; expected a string or code \(a function, a class or a module\)\.",
        ),
        (lambda g: xf.fit("data", arch=5), r"arch is 5; expected a string, or in Python a torch\.nn\.Module or what"),
        (lambda g: xf.learner(g["dls"], weights="xrv:nope"), "^found xrv:nope; expected xrv:NAME"),
        (lambda g: xf.learner(g["dls"], arch="resnet81"), "Did you mean 'resnet18'"),
        (lambda g: xf.learner(g["dls"], groups="blcoks"), "Did you mean 'blocks'"),
        (lambda g: xf.learner(g["dls"], gamma=3.0), "gamma is 3.0, which has no effect"),
        (lambda g: xf.learner(g["dls"], loss="focal", alpha="x"), "alpha is 'x'; expected a number or a list"),
        (lambda g: xf.fit("data", loss="focal", alpha="x"), "alpha is 'x'; expected a number or a list of them"),
        (lambda g: xf.learner(g["dls"], beta2=0.9, optimizer="sgd"), "beta2 is 0.9, which has no effect"),
        (lambda g: xf.learner(object()), r"dls is an object; expected a DataLoaders \(from xrayfast\.dataloaders\)\."),
        (lambda g: xf.learner(g["dls"], lrr=1), "Did you mean 'lr'"),
        (lambda g: xf.learner(g["dls"], loss_func=len), "Did you mean 'loss'"),
        (lambda g: xf.fit("data", callbacks=[]), "unknown option 'callbacks'. Did you mean 'cbs'"),
        (lambda g: xf.find_lr("data", num_it=5), "unknown option 'num_it'. Did you mean 'steps'"),
        (
            lambda g: xf.fit("data", "resnet18"),
            "fit: found 'resnet18' without a name; expected data and then arguments by name, as in name=value",
        ),
        (
            lambda g: xf.fit("data", cbs="mixup"),
            "cbs is 'mixup'; expected a Callback, a subclass of Callback or a list",
        ),
        (
            lambda g: xf.learner(g["dls"], augment="extreme"),
            r"expected 'mild', 'default', 'strong' or 'off', a boolean, code \(a function, .*\) or a list\.",
        ),
        (lambda g: xf.interpret([g["dls"]]), "run is a list of a RadiographDataLoaders; expected a Run"),
        (lambda g: xf.RadiographInterpretation.from_learner(g["dls"]), r"expected a RadiographLearner \(from xrayfast"),
        (lambda g: xf.predict(g["run"], []), "No files to predict on"),
        (lambda g: xf.predict(g["run"], "a\0b"), "NUL character"),
        (lambda g: xf.predict(g["run"], "x.png", batch_size=0), "batch_size is 0; expected at least 1"),
        (lambda g: xf.Run(None), "path is None"),
        (lambda g: xf.Config.read(5), "path is 5"),
        (lambda g: xf.FocalLoss("nonsense"), "task is 'nonsense'; expected 'single' or 'multi'"),
        (lambda g: xf.FocalLoss("single", gamma="2"), "gamma is '2'"),
        (lambda g: xf.interpret(g["run"], top=-1), "top is -1; expected at least 0"),
        (lambda g: xf.open_data("data", valid_fraction=float("nan")), "is nan; expected a finite number"),
        (lambda g: xf.predict(g["run"], "x.png", abstain_below=float("inf")), "is inf; expected a finite number"),
        (lambda g: xf.predict(g["run"], "x.png", note=lambda: 0), "expected a function of 1 argument"),
        (lambda g: xf.predict(g["run"], "x.png", progress=lambda done: 0), "a boolean or a function of 2 arguments"),
        (lambda g: xf.find_lr("data", progress=lambda: 0), "a boolean or a function of 3 arguments"),
        (lambda g: xf.Config(epochs=3), "unknown key 'epochs'. 'epochs' belongs under 'train:'"),
        (lambda g: xf.Config(train={"epochs": 0}), "epochs is 0; expected at least 1"),
        (lambda g: xf.Config().updated(None), "options is None; expected"),
        (lambda g: xf.Config().updated([3]), "options is \\[3\\]; expected"),
        (
            lambda g: xf.fit(g["dls"].manifest, runs="not yet", name="n" * 300, **SMALL),
            "found 300 bytes; expected at most 255, as file systems allow. Choose a shorter name=",
        ),
        (lambda g: xf.evaluate(g["run"], name="\xe9" * 128), "found 256 bytes; expected at most 255"),
        *(
            (partial(call, "n" * 300), "nnn: is too long for the file system; .* Choose a shorter name")
            for call in (
                lambda name, g: xf.predict(g["run"], name),
                lambda name, g: xf.predict(name, "x.png"),
                lambda name, g: xf.open_data(name),
                lambda name, g: xf.open_data(Path(g["dls"].manifest.config.source), labels=name),
                lambda name, g: xf.learner(g["dls"], weights=name),
            )
        ),
    ],
)
def test_messages(call, words, good):
    with pytest.raises(XrayfastError, match=words):
        call({"dls": good["learner"]["dls"], "run": good["load"]["run"]})


def test_a_single_image_per_batch_is_for_prediction_only(good):
    for name in ("predict", "evaluate"):
        getattr(xf, name).check(**good[name], batch_size=1)
    with pytest.raises(ConfigError, match="batch_size is 1; expected at least 2"):
        xf.dataloaders.check(**good["dataloaders"], batch_size=1)


def test_numbers_of_numpy_and_paths_are_taken(data_dir, good, tmp_path):
    data = xf.open_data(str(data_dir), split_seed=np.int64(3), valid_fraction=np.float32(0.25), cache=np.bool_(True))
    assert data.config.split_seed == 3 and type(data.config.cache) is bool
    dls = xf.dataloaders(data, size=np.int32(32), batch_size=np.int64(8), device="cpu", workers=np.int8(0))
    weights = good["load"]["run"].path / "model.safetensors"
    learn = xf.learner(
        dls, arch="tiny_resnet", weights=weights, loss="focal", alpha=np.array([0.5, 1.0, 2.0]), lr=np.float64(1e-3)
    )
    assert learn.settings["alpha"] == [0.5, 1.0, 2.0] and learn.settings["weights"] == str(weights)
    assert as_python([np.float64(1), "a"]) == [1.0, "a"]


def test_the_check_keeps_signature_and_documentation():
    assert list(inspect.signature(xf.fit).parameters)[:2] == ["data", "config"]
    assert xf.fit.__doc__.startswith("Train a network")
    with pytest.raises(ConfigError, match=r"predict: missing a required argument: 'run'"):
        xf.predict()


def test_a_message_is_never_longer_than_a_screen():
    name = "a" * 1_000_000
    message = str(DataError(f"labels.csv: found {name}; expected less. Do this."))
    assert len(message) < 4100 and message.startswith("labels.csv: found a") and message.endswith(" Do this.")
    assert f"[{1_000_000 + len('labels.csv: found ; expected less. Do this.') - 4000:,} characters left out]" in message
    assert len(shorten([name] * 10)) < 1200 and did_you_mean(name, [name]) == ""
    with pytest.raises(ConfigError) as caught:
        Config().updated({"loss": name, "epochs": 10**5000})
    assert len(str(caught.value)) < 800 and "epochs is a whole number of more than" in str(caught.value)

"""A user's own callbacks and metrics in `fit`, `resume` and `find_lr`."""

import csv
from functools import partial
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import (
    CancelBatchException,
    CancelEpochException,
    CancelStepException,
    CancelTrainException,
    FetchPredsCallback,
)
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import CSVLogger, ProgressCallback
from fastai.callback.schedule import ParamScheduler
from fastai.callback.tracker import (
    EarlyStoppingCallback,
    ReduceLROnPlateau,
    SaveModelCallback,
    TerminateOnNaNCallback,
)
from fastai.callback.training import GradientAccumulation, GradientClip, ShortEpochCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner, Metric
from fastai.metrics import F1Score, F1ScoreMulti, RocAucMulti, accuracy, accuracy_multi, error_rate, skm_to_fastai
from fastai.optimizer import SGD
from matplotlib.figure import Figure
from sklearn import metrics as skm
from torch.nn import MultiMarginLoss

import xrayfast as xf
from tests.conftest import TINY, StopAfter
from xrayfast.errors import ConfigError, Interrupted, TrainingError
from xrayfast.learning.callback_rules import make_callbacks
from xrayfast.learning.fastai_api import Callback, CancelFitException
from xrayfast.learning.training.metrics import OwnMetric, build_epoch_metrics
from xrayfast.learning.training.phases import Phase, run_phase
from xrayfast.metrics.summary import compute_epoch_metrics
from xrayfast.runs.history import History, valid_column
from xrayfast.runs.predictions import Predictions
from xrayfast.workflows.steps.finishing import (
    describe_changed_validation,
    describe_constant_outputs,
    describe_empty_metrics,
    describe_untrained,
    head_weights,
)

pytestmark = pytest.mark.usefixtures("tiny_vgg_arch")

SETTINGS = TINY | {"arch": "tiny_vgg"}
macro_f1 = partial(skm.f1_score, average="macro", zero_division=0)
ovr = partial(skm.roc_auc_score, multi_class="ovr")


def largest_logit(outputs, targets):
    return outputs.max()


def own_accuracy(outputs, targets):
    return accuracy(outputs, targets)


own_accuracy.__name__ = "accuracy"


class Watch(Callback):
    """Records the shapes of training batches, the gradient norms, and the losses of epochs."""

    order = 61  # after GradientClip, and after the metrics of an epoch

    def __init__(self):
        self.shapes, self.norms, self.losses, self.recorded = [], [], [], []

    def before_batch(self):
        if self.training:
            self.shapes.append(tuple(self.xb[0].shape))

    def before_step(self):
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))

    def after_epoch(self):
        if len(self.recorder.values[-1]) > 1:  # a range test does not validate
            self.losses.append(float(self.recorder.values[-1][1]))

    def after_fit(self):
        self.recorded.append({**vars(self.recorder)})


@pytest.fixture(scope="module")
def watched(data_dir, tmp_path_factory):
    """A run with several kinds of callbacks and metrics, its Watch, and the log of its CSVLogger."""
    folder, watch = tmp_path_factory.mktemp("own"), Watch()
    run = xf.fit(
        data_dir,
        runs=folder,
        name="run",
        unfreeze=True,
        freeze_epochs=3,
        epochs=1,
        cbs=[watch, GradientClip(1e-3), CSVLogger(folder / "log.csv", append=True)],
        metrics=[
            error_rate,
            accuracy,
            skm.matthews_corrcoef,
            macro_f1,
            ovr,
            skm_to_fastai(skm.cohen_kappa_score),
            largest_logit,
        ],
        **SETTINGS,
    )
    return run, watch, folder / "log.csv"


def test_callbacks_act_in_all_phases(watched):
    run, watch, _ = watched
    assert len(watch.norms) == len(run.batches) == 4 * len(watch.shapes) // len(run.history)
    assert max(watch.norms) < 1.001e-3
    assert watch.losses == pytest.approx(run.history["valid_loss"].tolist())


def test_a_log_of_fastai_s_is_written_beside_the_run(watched):
    run, _, log = watched
    rows = [row for row in csv.reader(log.open()) if row[0] != "epoch"]
    assert [float(row[2]) for row in rows] == pytest.approx(run.history["valid_loss"].tolist())


def test_metrics_are_in_the_history(watched):
    run, _, _ = watched
    found, best = run.predictions("valid"), run.history.iloc[run.info.best_epoch - 1]
    truth, decided = found.truth.argmax(axis=1), found.raw.argmax(axis=1)
    assert best["valid_accuracy"] == pytest.approx((truth == decided).mean())  # fastai's accuracy replaces ours
    assert best["valid_error_rate"] == pytest.approx((truth != decided).mean())
    assert best["valid_matthews_corrcoef"] == pytest.approx(skm.matthews_corrcoef(truth, decided))
    assert best["valid_f1_score"] == pytest.approx(macro_f1(truth, decided))
    assert best["valid_roc_auc_score"] == pytest.approx(ovr(truth, found.raw), abs=1e-6)
    assert best["valid_cohen_kappa_score"] == pytest.approx(skm.cohen_kappa_score(truth, decided))
    assert np.isfinite(run.history["valid_largest_logit"]).all()


def test_the_run_names_own_code(watched):
    run, _, _ = watched
    assert run.info.own_code["cbs"] == "Watch, GradientClip, CSVLogger"
    assert run.info.own_code["metrics"].startswith("error_rate, matthews_corrcoef, f1_score, roc_auc_score, ")
    assert "cbs Watch, GradientClip, CSVLogger, metrics error_rate" in run.model_card_path.read_text()


def test_the_report_has_further_metrics(watched):
    run, _, _ = watched
    xf.interpret(run)
    assert run.report_path.read_text().count("matthews_corrcoef") == 2  # table of epochs, list of own code


def test_frozen_features_are_not_cached_for_callbacks_that_may_use_images(watched):
    run, watch, _ = watched
    assert run.info.frozen_feature_groups == [0, 0]
    assert {shape[1:] for shape in watch.shapes} == {(3, 32, 32)}
    assert any("Watch may use images" in remark for remark in run.info.remarks)


def test_a_run_s_learner_has_what_fastai_recorded(watched):
    """The recorder has the values of both phases, one after the other."""
    run, watch, _ = watched
    recorder, (head, last) = run.learner().recorder, watch.recorded
    batches = head["iters"][-1]
    assert recorder.metric_names == head["metric_names"]
    assert recorder.iters == [*head["iters"], *(batches + n for n in last["iters"])]
    np.testing.assert_allclose(recorder.lrs, head["lrs"] + last["lrs"], rtol=1e-6)
    np.testing.assert_allclose(recorder.losses[:batches], head["losses"], rtol=1e-5)
    for ours, theirs in zip(recorder.values, [*head["values"], *last["values"]], strict=True):
        assert list(ours[1:]) == pytest.approx([float(value) for value in theirs[1:]], abs=1e-6)


def test_a_run_s_learner_plots(watched):
    learn = watched[0].learner()
    learn.validate()  # validation must not change the recorder
    axes = learn.recorder.plot_loss(skip_start=0, ax=Figure().subplots())
    train, valid = axes.lines
    assert len(train.get_ydata()) == len(watched[0].batches)
    assert list(valid.get_ydata()) == pytest.approx(watched[0].history["valid_loss"].tolist())
    learn.recorder.plot_sched()
    rates, momenta = (ax.lines[0].get_ydata() for ax in plt.gcf().axes)
    np.testing.assert_allclose(rates, watched[0].batches["lr"])
    head, last = watched[1].recorded
    np.testing.assert_allclose(momenta, [float(m) for phase in (head, last) for m in phase["hps"]["mom"]], rtol=1e-6)
    plt.close("all")


def test_a_run_s_learner_says_which_callbacks_and_metrics_it_lacks(watched):
    with pytest.warns(
        UserWarning, match=r"was trained with cbs Watch, .*metrics error_rate.* learn\.add_own\(cbs, metr"
    ):
        learn = watched[0].learner()
    learn.add_own([Watch], [error_rate])
    assert "error_rate" in [metric.name for metric in learn.metrics]


def fit(data, folder, **options):
    return xf.fit(data, runs=folder, **SETTINGS | options)


TWICE = GradientClip(1.0)


class Misspelled(Callback):
    def after_batches(self):
        pass


class OfKeras(Callback):
    def on_epoch_end(self):
        pass


class WithHelpers(Callback):
    after_every = 2

    def after_batch(self):
        self.after_every_second()

    def after_every_second(self):
        pass


def test_methods_that_a_callback_itself_calls_may_have_any_name():
    assert [type(cb) for cb in make_callbacks(WithHelpers)] == [WithHelpers]


@pytest.mark.parametrize(
    ("cbs", "options", "words"),
    [
        (SaveModelCallback, {}, "SaveModelCallback: it pickles weights .* chosen by monitor="),
        (CSVLogger, {}, "CSVLogger: it overwrites its file in each phase"),
        (ProgressCallback, {}, "ProgressCallback: fit displays its own"),
        (ShortEpochCallback(), {}, "ShortEpochCallback: it leaves epochs unfinished"),
        (ParamScheduler({"lr": lambda pos: 0.1}), {}, "schedule='constant'"),
        (ReduceLROnPlateau(), {}, "schedule='constant'"),
        (MixUp, {"reuse_frozen": "on"}, "MixUp mixes images"),
        (MixUp, {"cutmix": 1.0}, "MixUp mixes images, and so do mixup and cutmix"),
        (EarlyStoppingCallback("auroc_macr"), {}, "'auroc_macr'; expected one of: .* Did you mean 'auroc_macro'"),
        (EarlyStoppingCallback("accuracy", comp=np.less), {}, "lower values of accuracy .* comp=np.greater"),
        (EarlyStoppingCallback("valid_loss", comp=np.greater), {}, "higher values of valid_loss .* comp=np.less"),
        ([TWICE, TWICE], {}, "cbs: the same GradientClip is there twice"),
        (Misspelled, {}, "Misspelled.after_batches would never be called, .* Did you mean 'after_batch'"),
        (OfKeras(), {}, "OfKeras.on_epoch_end would never be called"),
        (3, {}, "cbs is 3; expected"),
        (ParamScheduler, {}, r"ParamScheduler\(\) fails with TypeError: .* Pass an instance"),
    ],
)
def test_callbacks_that_can_not_work_are_refused(data_dir, tmp_path, cbs, options, words):
    with pytest.raises(ConfigError, match=words):
        fit(data_dir, tmp_path, cbs=cbs, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (own_accuracy, "found 'accuracy', which is already the name of a recorded column"),
        ([error_rate, error_rate], "found 'error_rate'"),
        (partial(partial(error_rate)), None),
        (partial(torch.nn.Identity()), "without a name"),
        ("f1", "metrics is 'f1'; expected"),
    ],
)
def test_metrics_need_names_of_their_own(data_dir, tmp_path, metrics, words):
    if words is None:
        words, metrics = "found 'error_rate'", [metrics, error_rate]
    with pytest.raises(ConfigError, match=words):
        fit(data_dir, tmp_path, metrics=metrics)


def never_better():
    """Return a callback that ends each phase after two epochs, because no epoch counts as better."""
    return EarlyStoppingCallback(min_delta=1e9, patience=1)


@pytest.mark.parametrize("batches", [pytest.param(6, id="head", marks=pytest.mark.slow), pytest.param(15, id="all")])
def test_a_callback_ends_its_phase_and_a_resumed_run_is_the_same(data_dir, tmp_path, batches, request):
    options = {"unfreeze": True, "freeze_epochs": 3, "epochs": 3, "reuse_frozen": "off"}
    whole = fit(data_dir, tmp_path, name="whole", cbs=never_better(), **options)
    assert whole.history["phase"].tolist() == ["head", "head", "all", "all"]
    assert whole.info.ended_phases == {"head": 2, "all": 2}
    with pytest.raises(Interrupted):
        fit(data_dir, tmp_path, name="cut", cbs=never_better(), interrupted=StopAfter(batches), **options)
    resumed = xf.resume(tmp_path / "cut", cbs=never_better())
    pd.testing.assert_frame_equal(resumed.history.drop(columns="seconds"), whole.history.drop(columns="seconds"))
    assert resumed.model_path.read_bytes() == whole.model_path.read_bytes()


def test_replaying_a_run_needs_its_code(watched, data_dir, tmp_path):
    config = watched[0].config
    assert config == xf.Config.read(watched[0].path / "config.yaml").updated({})
    for options in ({}, {"epochs": 2}, {"cbs": Watch}):
        with pytest.raises(ConfigError, match=r"run names code .*metrics error_rate.* again in Python, as "):
            xf.fit(data_dir, config=config, runs=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_run_is_resumed_with_the_code_that_it_began_with(data_dir, tmp_path):
    with pytest.raises(Interrupted, match=r"xf\.resume\('.*run', cbs=\.\.\., metrics=\.\.\.\) in Python"):
        fit(data_dir, tmp_path, name="run", epochs=1, cbs=Watch, metrics=error_rate, interrupted=StopAfter(1))
    with pytest.raises(ConfigError, match=r"cbs Watch, metrics error_rate\. .*in Python, as cbs=, metrics=\."):
        xf.resume(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"cbs is Watch, Watch2, but when the run began, it was Watch\."):
        xf.resume(tmp_path / "run", cbs=[Watch, type("Watch2", (Watch,), {})], metrics=error_rate)
    assert "valid_error_rate" in xf.resume(tmp_path / "run", cbs=Watch, metrics=error_rate).history


class EndWithin(Callback):
    """Raises a Cancel exception after a training batch."""

    def __init__(self, kind):
        self.kind = kind

    def after_batch(self):
        if self.training:
            raise self.kind


class EndEarly(Callback):
    """Raises an exception in one event."""

    def __init__(self, event, kind=CancelFitException):
        self.kind = kind
        setattr(self, event, self.end)

    def end(self):
        raise self.kind


@pytest.mark.parametrize(
    ("end", "when"),
    [
        (EndWithin, CancelFitException),
        (EndWithin, CancelTrainException),
        (EndEarly, "before_fit"),
        (EndEarly, "before_train"),
        (partial(EndEarly, kind=CancelTrainException), "before_train"),
        (EndEarly, "before_batch"),
        (partial(EndEarly, kind=CancelEpochException), "before_epoch"),
    ],
)
def test_an_epoch_that_is_cut_short_is_an_error(data_dir, tmp_path, end, when):
    with pytest.raises(TrainingError, match="A callback ended epoch 1 before it was trained and validated"):
        fit(data_dir, tmp_path, cbs=end(when))


def test_an_exception_of_fastai_that_ends_nothing_is_the_callback_s_error(data_dir, tmp_path):
    with pytest.raises(TrainingError, match=r"callback EndEarly failed with CancelTrainException .*, in end"):
        fit(data_dir, tmp_path, cbs=EndEarly("before_epoch", CancelTrainException))


class ReplaceHead(Callback):
    def before_fit(self):
        self.learn.model[1][-1] = torch.nn.Linear(512, 3)


def test_layers_that_no_optimizer_trains_are_refused(data_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"A callback replaced layers of the network: .*weight.* arch= instead"):
        fit(data_dir, tmp_path, cbs=ReplaceHead, reuse_frozen="off")
    assert not list(tmp_path.glob("*/model.safetensors"))


class OtherLabels(Callback):
    """Sets the labels of each batch to the first class."""

    def before_batch(self):
        self.learn.yb = (torch.zeros_like(self.yb[0]),)


def test_labels_that_a_callback_changes_in_validation_are_noted(data_dir, tmp_path):
    with pytest.warns(UserWarning, match=r"was 1.000 in training, but is 0\.\d+ for the saved .*: OtherLabels changed"):
        run = fit(data_dir, tmp_path, cbs=OtherLabels, epochs=3, lr=0.03)
    assert any("OtherLabels changed images, labels or outputs" in remark for remark in run.info.remarks)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_image_of_a_rare_label_that_rounding_moves_is_not_noted_as_a_changed_validation(precision):
    truth = (np.arange(200)[:, None] < [100, 50, 1]).astype(int)
    before = 0.2 + 0.6 * truth
    before[:2, 2] = 0.501, 0.4999
    after = before.copy()
    after[:2, 2] = 0.4998, 0.4999
    found = compute_epoch_metrics(truth, before, "multi")
    history = History([{valid_column(name): value for name, value in found.items()}])
    learn = SimpleNamespace(
        dls=SimpleNamespace(manifest=SimpleNamespace(task="multi")), precision=precision, own_code={"cbs": "Log"}
    )
    for raw, is_changed in ((after, False), (1 - after, True)):
        names, none = np.arange(200).astype(str).astype(object), np.zeros(200)
        saved = Predictions(("a", "b", "c"), names, names, truth, raw, none, raw)
        assert (describe_changed_validation(learn, history, saved) is not None) == is_changed


class NoStep(Callback):
    def before_step(self):
        raise CancelStepException


def not_a_number(outputs, targets):
    return float("nan")


def test_training_that_changes_nothing_and_a_metric_without_values_are_remarked(data_dir, tmp_path):
    run = xf.fit(data_dir, runs=tmp_path, cbs=[NoStep()], metrics=[not_a_number, accuracy], **SETTINGS)
    text = "\n".join(run.info.remarks)
    assert "changed the head's weights by less than 0.01%: the network has learned nothing" in text
    assert "the loss (constant), or NoStep." in text
    assert "not a finite number in any epoch, so that their columns are empty: not_a_number." in text


def test_an_own_metric_that_is_monitored_and_empty_is_named_once():
    class Empty(OwnMetric):
        name = "empty"

        def __init__(self):
            pass

    learn, history = SimpleNamespace(metrics=[Empty()]), SimpleNamespace(rows=[{"valid_empty": None}])
    remark = describe_empty_metrics(learn, history, "valid_empty")
    assert "empty: empty. The best epoch was chosen by the validation loss instead." in remark


class OtherLoss(Callback):
    def before_fit(self):
        self.learn.loss_func = MultiMarginLoss()


class WrapNetwork(Callback):
    def before_fit(self):
        self.learn.model = torch.nn.Sequential(self.learn.model)


@pytest.mark.parametrize(("own", "name"), [(OtherLoss, "loss_func"), (WrapNetwork, "model")])
def test_a_loss_or_network_that_a_callback_replaces_is_remarked(data_dir, tmp_path, own, name):
    run = xf.fit(data_dir, runs=tmp_path, cbs=[own()], **SETTINGS)
    said = [remark for remark in run.info.remarks if "was replaced" in remark]
    assert said == [
        f"learn.{name} was replaced in Python, so config.yaml does not describe how this network was trained."
    ]


class UnfreezeAll(Callback):
    def before_fit(self):
        self.learn.unfreeze()
        self.learn.opt.set_hyper("wd", 0.5)


def test_what_a_callback_unfreezes_or_sets_in_the_optimizer_is_remarked(data_dir, tmp_path):
    run = xf.fit(data_dir, runs=tmp_path, cbs=[UnfreezeAll()], **SETTINGS)
    assert [remark for remark in run.info.remarks if " changed " in remark] == [
        "UnfreezeAll changed the frozen layers, wd in the phase 'head', so config.yaml does not describe how this "
        "network was trained."
    ]


class OtherOptimizer(Callback):
    def before_fit(self):
        self.learn.create_opt()


def test_an_optimizer_that_a_callback_replaces_is_remarked_and_a_learning_rate_is_not():
    model = torch.nn.Linear(2, 2)
    targets = torch.zeros(4, 2)
    dls = DataLoaders(*[DataLoader([(targets[0], targets[0])] * 4, bs=2)] * 2)
    for callbacks, changed in (([OtherOptimizer()], ["the optimizer"]), ([ParamScheduler({"lr": lambda p: p})], [])):
        learn = Learner(dls, model, loss_func=torch.nn.MSELoss(), opt_func=SGD, cbs=[])
        learn.create_opt()
        with learn.no_bar(), learn.no_logging():
            phase = Phase("head", 1, 0, (0.1,))
            assert run_phase(learn, phase, schedule="constant", momentum=0.9, callbacks=callbacks) == changed


@pytest.mark.parametrize(
    ("change", "is_remarked"),
    [
        (lambda w: w * 0.9, True),  # weight decay alone
        (lambda w: w + 1e-9, True),
        (lambda w: w.flip(0), False),
        (lambda w: w * (1 + 1e-3 * torch.arange(6.0).view(2, 3)), False),
    ],
)
def test_weights_that_only_decay_are_untrained(change, is_remarked):
    head = torch.nn.Linear(3, 2)
    learn = SimpleNamespace(groups=[SimpleNamespace(parameters=list(head.parameters()))], own_cbs=[])
    before = head_weights(learn)
    head.weight.data = change(head.weight.data)
    assert (describe_untrained(before, learn) is not None) == is_remarked


@pytest.mark.parametrize(("difference", "is_remarked"), [(0.0, True), (1e-9, True), (1e-4, False)])
def test_probabilities_that_do_not_depend_on_the_image_are_remarked(difference, is_remarked):
    raw, names = np.full((3, 2), 0.5), np.arange(3).astype(str).astype(object)
    raw[0, 1] += difference
    saved = Predictions(("a", "b"), names, names, np.eye(3, 2, dtype=int), raw, np.zeros(3), raw)
    assert (describe_constant_outputs(saved) is not None) == is_remarked


class SkipBatches(Callback):
    """Skips the first batch of each pass; counts the targets of the others."""

    def __init__(self):
        self.rows = {True: 0, False: 0}

    def before_batch(self):
        if self.iter == 0:
            raise CancelBatchException
        self.rows[self.training] += len(self.yb[0])


class CountRows(Metric):
    """Counts the images of the validation split that metrics see."""

    name = "rows"

    def reset(self):
        self.count = 0

    def accumulate(self, learn):
        self.count += len(learn.yb[0])

    @property
    def value(self):
        return self.count


def test_skipped_batches_are_in_no_result(data_dir, tmp_path):
    skip = SkipBatches()
    run = fit(data_dir, tmp_path, cbs=skip, metrics=CountRows(), epochs=1, batch_size=2)
    assert skip.rows[True] and skip.rows[False]
    assert len(run.batches) == skip.rows[True] / 2
    assert run.history["valid_rows"].tolist() == [skip.rows[False]]
    assert run.history["train_loss"].iloc[-1] == pytest.approx(run.batches["loss"].mean())


def raises(outputs, targets):
    raise KeyError("no such column")


class FailsLate(CountRows):
    """Fails without a message once it has counted a whole split."""

    @property
    def value(self):
        raise KeyError


def last_batch(outputs, targets):
    if len(outputs) < 3:
        raise ValueError(f"{len(outputs)} images")
    return outputs.mean()


def test_a_metric_that_fails_late_is_named(data_dir, tmp_path):
    with pytest.raises(TrainingError, match="The metric rows failed with KeyError"):
        fit(data_dir, tmp_path, metrics=FailsLate(), epochs=1)
    with pytest.raises(TrainingError, match="The metric last_batch failed with ValueError: 1 images"):
        fit(data_dir, tmp_path, metrics=last_batch, epochs=1, batch_size=3)


def erase(outputs, targets):
    outputs.zero_()
    targets.zero_()
    return 0.0


def test_a_metric_that_changes_its_arguments_changes_no_other_metric(data_dir, tmp_path):
    plain, erased = (
        fit(data_dir, tmp_path, epochs=1, metrics=metrics).history.set_index("epoch") for metrics in ((), erase)
    )
    columns = [name for name in plain if name.startswith("valid_")]
    assert erased[columns].equals(plain[columns])


class Divides(Callback):
    """Fails in a helper method."""

    def after_batch(self):
        self.rate()

    def rate(self):
        return 1 / 0


class FailsWithoutWords(Callback):
    def before_train(self):
        raise KeyError


class FailsInTraining(torch.nn.Module):
    """A whole network that fails for batches of more than 2 images; it is tried with 2 before training."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 3)

    def forward(self, x):
        if len(x) > 2:
            raise ValueError(f"{len(x)} images")
        return self.layer(x).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            {"cbs": Divides},
            r"The callback Divides failed with ZeroDivisionError: division by zero .*\.py, line",
        ),
        (
            {"cbs": FailsWithoutWords},
            r"The callback FailsWithoutWords failed with KeyError \(test_own_callbacks\.",
        ),
        ({"arch": FailsInTraining}, r"The network FailsInTraining \(own code\) failed with ValueError: \d+ images \(t"),
    ],
)
def test_an_error_of_the_user_s_own_code_says_whose_and_where(data_dir, tmp_path, own, message):
    with pytest.raises(TrainingError, match=message) as caught:
        fit(data_dir, tmp_path, epochs=1, **own)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("metric", [accuracy, error_rate, F1Score(average="macro"), partial(accuracy, axis=1)])
def test_fastai_s_metrics_of_one_class_are_refused_for_several_labels(metric):
    with pytest.raises(ConfigError, match=r"fastai's \w+ is for single-label targets.*Use accuracy_multi"):
        build_epoch_metrics("multi", 3, metric)
    build_epoch_metrics("single", 3, metric)


@pytest.mark.parametrize("metric", [accuracy_multi, partial(accuracy_multi, thresh=0.3), F1ScoreMulti(), RocAucMulti()])
def test_fastai_s_metrics_of_several_labels_are_refused_for_one_class(metric):
    with pytest.raises(ConfigError, match=r"fastai's \w+ is for multi-label targets.*Use accuracy,"):
        build_epoch_metrics("single", 3, metric)
    build_epoch_metrics("multi", 3, metric)


class BreakGradient(Callback):
    """Makes a gradient NaN while the loss is finite."""

    def before_step(self):
        next(p for p in self.model.parameters() if p.grad is not None).grad.fill_(float("nan"))


def test_a_gradient_that_is_not_finite_names_the_user_s_own_code(data_dir, tmp_path):
    with pytest.raises(TrainingError, match=r"batch 2 of .* gradient that is not finite .* own: cbs BreakGradient"):
        fit(data_dir, tmp_path, cbs=BreakGradient, epochs=1)


class Vector(CountRows):
    name, value = "vector", np.ones(3)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (skm.roc_auc_score, "roc_auc_score fails for random logits .* validation split: multi_class must be in"),
        (raises, "raises fails for random logits .*no such column"),
        (lambda outputs, targets: "high", "<lambda> fails for random logits"),
        (lambda outputs, targets: outputs, r"metric <lambda> gave an array of shape \(7, 3\); expected one number"),
        (partial(skm.f1_score, average=None), r"metric f1_score gave an array of shape \(3,\); expected one number"),
        (Vector, r"metric vector gave an array of shape \(3,\); expected one number"),
        (skm.get_scorer("roc_auc"), "which scores a model of scikit-learn; expected a function"),
    ],
)
def test_a_metric_is_tried_before_training(data_dir, tmp_path, metric, message):
    with pytest.raises(ConfigError, match=message):
        fit(data_dir, tmp_path, metrics=metric)


def test_a_first_loss_that_is_not_finite_names_the_user_s_own_code(data_dir, tmp_path):
    class Broken(Callback):
        def after_loss(self):
            self.learn.loss = self.learn.loss * float("nan")

    with pytest.raises(TrainingError, match="first batch, so the cause may be code of your own: cbs Broken"):
        fit(data_dir, tmp_path, cbs=Broken)


def test_a_loss_that_is_not_finite_is_reported_with_own_callbacks_too(data_dir, tmp_path):
    with pytest.raises(TrainingError, match=r"training loss is (nan|inf) in epoch 2, batch"):
        fit(data_dir, tmp_path, unfreeze=True, lr=900.0, optimizer="sgd", epochs=3, cbs=TerminateOnNaNCallback)


class CountSteps(Callback):
    def __init__(self):
        self.steps = 0

    def after_step(self):
        self.steps += 1


@pytest.mark.slow
def test_gradients_accumulate(data_dir, tmp_path):
    """Two batches of 8 give the same step as one batch of 16."""
    data = xf.open_data(data_dir, valid_fraction=0.12)
    assert (data.table["split"] == "train").sum() == 32
    options = {"head": "linear", "schedule": "constant", "optimizer": "sgd", "reuse_frozen": "on", "frozen_views": 1}
    options |= {"lr": 0.01, "epochs": 1}
    half = fit(data, tmp_path, **options, batch_size=8, cbs=[GradientAccumulation(16)])
    whole, few = (fit(data, tmp_path, **options, batch_size=size) for size in (16, 8))
    heads = [xf.load(run).model[1][-1].weight.detach().numpy() for run in (half, whole, few)]
    np.testing.assert_allclose(heads[0], heads[1], atol=1e-6)
    assert np.abs(heads[0] - heads[2]).max() > 1e-5


@pytest.mark.parametrize("callback", [MixUp, pytest.param(CutMix, marks=pytest.mark.slow)])
def test_images_are_mixed(multi_dir, data_dir, tmp_path, callback):
    for data in (data_dir, multi_dir):
        run = fit(data, tmp_path, epochs=3, cbs=callback(0.4))
        assert run.info.status == "completed" and run.info.frozen_feature_groups == [0]
        assert len(run.history) == 3


def test_a_range_test_takes_callbacks(data_dir):
    watch = Watch()
    curve = xf.find_lr(data_dir, steps=20, cbs=watch, **{k: v for k, v in SETTINGS.items() if k != "resamples"})
    assert len(watch.norms) == len(curve.lrs)
    with pytest.raises(ConfigError, match="SaveModelCallback"):
        xf.find_lr(data_dir, cbs=SaveModelCallback)


def test_a_callback_predicts_after_each_epoch(data_dir, tmp_path):
    fetch = FetchPredsCallback()
    run = xf.fit(data_dir, runs=tmp_path, epochs=2, cbs=fetch, **SETTINGS)
    found = run.predictions("valid")
    probability, target = fetch.preds
    assert len(run.history) == 2 and run.info.best_epoch == 2
    np.testing.assert_allclose(probability, found.raw, atol=1e-5)
    assert target.tolist() == found.truth.argmax(axis=1).tolist()

"""RadiographLearner: a fastai Learner that records its settings, and keeps to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xrayfast.config import Precision
from xrayfast.errors import ConfigError, DataError, XrayfastError, shorten
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import warn
from xrayfast.files.atomic import replace_atomically
from xrayfast.learning.callback_rules import make_callbacks
from xrayfast.learning.dataloaders.loaders import RadiographDataLoaders
from xrayfast.learning.dataloaders.transforms import ChestAugmentation
from xrayfast.learning.device import require_usual_torch
from xrayfast.learning.fastai_api import (
    Callback,
    Callbacks,
    ContextManagers,
    L,
    Learner,
    Metric,
    Metrics,
    Recorder,
    event,
)
from xrayfast.learning.model.layers import LayerGroup
from xrayfast.learning.model.network import StartingWeights
from xrayfast.learning.model.pretrained.timm_networks import is_timm
from xrayfast.learning.training.metrics import EpochMetric, ValidationUnits, build_epoch_metrics, try_metrics
from xrayfast.learning.training.mixed_precision import leave_autocast, set_precision
from xrayfast.learning.training.optional.averaging import AverageWeights
from xrayfast.learning.training.recorders import EpochRecorder
from xrayfast.own_code import is_own, name_of


class RadiographLearner(Learner):
    """A fastai Learner on RadiographDataLoaders that records its settings.

    Attributes:
        groups: its layer groups, from the input to the head.
        made_for: labels and task of the DataLoaders that it was made with.
        settings: the arguments of `learner` except `groups`, and the DataLoaders' size and batch size.
        network_notes: sentences for the user: on metrics that do not leave out masked cells, on whether the user's own
            network is whole or a backbone, on unused tensors of the weight file, and on weights taken from another run.
        start: provenance of the initial weights, if they come from a file or a run.
        made_with: `model`, `loss_func` and `opt_func` as `learner` set them.
        precision: the float type for training; None until "auto" is decided, see `training_precision`.
        average: the callback that averages the weights, if they are averaged.
        validation_units: how to join the validation split's outputs, if metrics are per study or patient; see `fit`.
        own_code: names of the user's own callbacks ("cbs"), "metrics" and transforms ("dls"), or of those of the run
            that was loaded.
        run_path: the folder of the run that was loaded, or None. Not `run`, which is an attribute of fastai's
            callbacks.
    """

    dls: RadiographDataLoaders

    def __init__(
        self,
        dls: RadiographDataLoaders,
        model: nn.Module,
        *,
        groups: Sequence[LayerGroup],
        settings: dict[str, Any],
        network_notes: Sequence[str] = (),
        start: StartingWeights | None = None,
        **options: Any,
    ) -> None:
        self.groups, self.settings, self.network_notes = tuple(groups), settings, tuple(network_notes)
        self.start = start
        self.precision: Precision | None = None
        self.average: AverageWeights | None = None
        self.validation_units: ValidationUnits | None = None
        self.own_cbs: list[Callback] = []
        self.own_code: dict[str, str] = {}
        self.run_path: Path | None = None
        self.made_for = dls.manifest.labels, dls.manifest.task
        super().__init__(dls, model, splitter=self._parameters_by_group, **options)
        # fastai's save and load keep the metadata of a state dict.
        model._register_state_dict_hook(partial(_add_labels, dls.manifest.labels))
        model._register_load_state_dict_pre_hook(partial(_require_labels, dls.manifest.labels))
        self.made_with = {name: getattr(self, name) for name in ("model", "loss_func", "opt_func")}
        self.remove_cbs(Recorder)
        self.add_cb(EpochRecorder())

    def _parameters_by_group(self, model: nn.Module) -> list[list[nn.Parameter]]:
        return [group.parameters for group in self.groups]

    def validate_by(self, units: ValidationUnits) -> None:
        """Compute validation metrics per study or patient; to be called before `add_own`."""
        self.validation_units = units
        self.metrics = build_epoch_metrics(units.task, len(units.images.labels), (), units)

    @check_arguments()
    def add_own(self, cbs: Callbacks, metrics: Metrics) -> None:
        """Add the user's own callbacks and metrics.

        Raises:
            ConfigError: a metric has no name, has the name of another one, or fails; or a callback can't be made, or
                has the name of an attribute of the learner.
            DataError: `dls` was replaced, see `require_known_dls`.
        """
        self.require_known_dls()
        own = make_callbacks(cbs)
        for cb in own:
            # Not hasattr, which also finds the network's attributes.
            found = vars(self).get(cb.name, getattr(type(self), cb.name, None))
            if (cb.name in vars(self) or found is not None) and not isinstance(found, Callback):
                raise ConfigError(
                    f"cbs: {type(cb).__name__} would replace learn.{cb.name}, because fastai adds a callback to the "
                    "learner under the name of its class. Rename the class."
                )
        task, labels = self.dls.manifest.task, self.dls.manifest.labels
        self.metrics = build_epoch_metrics(task, len(labels), metrics, self.validation_units)
        if L(metrics):
            target = torch.as_tensor(self.dls.manifest.subset("valid").targets, device=self.dls.device)
            try_metrics(self.metrics, self.dls.manifest.task, target, self.to_detach)
        self.own_cbs = own
        self.add_cbs(self.own_cbs)
        self.own_code |= own_names(self.own_cbs, self.metrics)
        of_batches = [m.name for m in self.metrics if type(getattr(m, "metric", m)).__module__.startswith("fastai.")]
        if of_batches and np.isnan(self.dls.manifest.subset("valid").targets).any():
            self.network_notes += (
                f"metrics {', '.join(of_batches)}: masked cells of the validation split are NaN in the targets, and "
                "most metrics do not leave them out; fastai's accuracy_multi counts them as positives.",
            )

    def require_known_dls(self) -> None:
        """Check that `dls` has a manifest.

        Raises:
            DataError: `dls` was replaced by other DataLoaders, or by those of other labels, or left out by `export`.
        """
        self.require_own_labels()
        if isinstance(self.dls, RadiographDataLoaders):
            return
        if not len(self.dls.train.dataset):
            raise DataError("This learner has no data set: learn.export keeps none.")
        raise DataError(
            "learn.dls was replaced by DataLoaders that xrayfast does not know, so they can't be described in the "
            "run. Pass them to xrayfast.learner(dls) or xrayfast.load(run, dls), and train that learner."
        )

    def require_own_labels(self) -> None:
        """Raise a DataError if `dls` was replaced by DataLoaders of other labels."""
        labels, task = self.made_for
        if isinstance(self.dls, RadiographDataLoaders):
            found, kind = self.dls.manifest.labels, self.dls.manifest.task
        else:
            found, kind = tuple(map(str, getattr(self.dls, "vocab", labels))), task
        if (found, kind) != self.made_for:
            raise DataError(
                f"learn.dls was replaced by DataLoaders of the labels {shorten(found)} ({kind}-label), but the network "
                f"was made for {shorten(labels)} ({task}-label). Make a learner for them with "
                "xrayfast.learner(dls, weights=RUN)."
            )

    def fit(self, n_epoch: int, *arguments: Any, **options: Any) -> None:
        """Train as fastai does; afterwards the network has the average of its weights, if they are averaged.

        An autocast context that an error or Ctrl-C within a batch left open is closed.

        Raises:
            ConfigError: as in `require_usual_torch`.
            DataError: as in `require_own_labels`; also `validate` and `get_preds`.
        """
        self.require_own_labels()
        require_usual_torch(training=True)
        try:
            super().fit(n_epoch, *arguments, **options)
        finally:
            leave_autocast(self)
            if self.average is not None:
                self.average.finish()

    def __call__(self, event_name: str | Iterable[str]) -> None:
        """Call the callbacks that have a method for the event.

        fastai calls all callbacks, and each looks for the method in itself, the learner and the network. In each batch
        that takes longer than the callbacks' own work.
        """
        for name in [event_name] if isinstance(event_name, str) else event_name:
            if not hasattr(event, name):
                super().__call__(name)  # raises fastai's error
            for callback in sorted(self.cbs, key=attrgetter("order")):
                kind: Any = type(callback)
                has_method = hasattr(kind, name) or name in vars(callback) or _looks_elsewhere(kind)
                # after_fit: fastai then sets `run` of every callback to True again.
                if has_method or name == "after_fit" or callback._default != Callback._default:
                    callback(name)

    def all_batches(self) -> None:
        """Run all batches as fastai does; when an epoch resumes, batches keep their numbers in the whole epoch."""
        self.n_iter: int = len(self.dl)
        done: int = getattr(self.dl, "n_done", 0)
        for number, batch in enumerate(self.dl if done < self.n_iter else (), done):
            self.one_batch(number, batch)

    def validation_context(self, cbs: Any = None, inner: bool = False) -> ContextManagers:
        """Return fastai's context for `validate` and `get_preds`, in which the recorder keeps the records of the last
        fit. An autocast context that an error or Ctrl-C within a batch left open is closed.
        """
        self.require_own_labels()
        closing = ExitStack()
        closing.callback(leave_autocast, self)
        return ContextManagers([closing, _keep_records(self), super().validation_context(cbs, inner)])

    def tta(self, ds_idx: int = 1, dl: Any = None, **options: Any) -> Any:
        """Run fastai's test-time augmentation with the views of `xrayfast.predict`, which depend only on the seed and
        on each image.

        Raises:
            ConfigError: the augmentation of `dls` is "off", so there are no views.
        """
        if isinstance(self.dls, RadiographDataLoaders) and self.dls.augment == "off":
            raise ConfigError("augment is off, so there are no views to average. Use get_preds.")
        dl = self.dls[ds_idx].new(shuffled=False, drop_last=False) if dl is None else dl
        augmentations = [t for t in dl.after_batch.fs if isinstance(t, ChestAugmentation)]
        for augmentation in augmentations:
            augmentation.view = lambda: (self.settings["seed"], self.epoch)  # fastai's tta counts views in `epoch`
        try:
            with _keep_records(self):
                return super().tta(ds_idx, dl, **options)
        finally:
            for augmentation in augmentations:
                augmentation.view = None

    def summary(self) -> Any:
        """Return fastai's summary, which starts a fit, but keep the records of the last fit in the recorder."""
        with _keep_records(self):
            return super().summary()

    def to_fp16(self, **options: Any) -> RadiographLearner:
        """Train in float16 from now on, which needs CUDA; `options` are those of fastai's gradient scaling."""
        return self._train_in("fp16", **options)

    def to_bf16(self) -> RadiographLearner:
        """Train in bfloat16 from now on, on any device."""
        return self._train_in("bf16")

    def to_fp32(self) -> RadiographLearner:
        """Train in float32 from now on."""
        return self._train_in("fp32")

    def _train_in(self, precision: Precision, **options: Any) -> RadiographLearner:
        set_precision(self, precision, **options)
        self.settings["precision"] = precision
        return self

    def export(self, fname: str | Path = "export.pkl", **options: Any) -> None:
        """Export the whole learner as a pickle, as fastai does, with a warning: loading a pickle can run code.

        Raises:
            ConfigError: something in it can't be pickled, such as the open file of a callback. The learner keeps its
                data and optimizer, which fastai takes from it while it pickles.
            WriteError: the file can't be written.
        """
        warn(
            f"{fname} is a pickle: load_learner runs the code in it. The folder that xrayfast.save writes contains "
            "no code."
        )
        kept = {name: getattr(self, name) for name in ("dls", "opt", "own_cbs")}
        self.own_cbs = [cb for cb in self.own_cbs if cb in self.cbs]  # without those that were removed
        try:
            with replace_atomically(self.path / fname) as temporary:
                super().export(temporary.absolute(), **options)
        except XrayfastError:
            raise
        except Exception as error:  # whatever the pickling of the user's own code raises
            raise ConfigError(
                f"{fname}: the learner can't be pickled ({type(error).__name__}: {error}). Callbacks with a file, such "
                "as CSVLogger, can't be: learn.remove_cb(CSVLogger). xrayfast.save pickles nothing."
            ) from error
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    @property
    def network_settings(self) -> dict[str, Any]:
        """The settings of a run that are known only after the network is built."""
        return {name: self.settings[name] for name in ("head", "weights")}

    @property
    def is_own(self) -> bool:
        """Whether the network is the user's own code."""
        return is_own(self.arch)

    @property
    def is_torchvision(self) -> bool:
        """Whether the network is one of torchvision's, which torch.fx is known to trace correctly."""
        return not (self.is_own or is_timm(self.arch))

    @property
    def arch(self) -> str:
        """The name of the backbone or of the user's own network."""
        return self.settings["arch"]


def own_names(cbs: Sequence[Callback], metrics: Iterable[Metric]) -> dict[str, str]:
    """Return the names of the user's own callbacks ("cbs") and "metrics"; kinds without any are left out."""
    found = {"cbs": name_of(cbs), "metrics": ", ".join(m.name for m in metrics if not isinstance(m, EpochMetric))}
    return {kind: names for kind, names in found.items() if names}


def _add_labels(labels: Sequence[str], model: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    """Add the labels to the metadata of a network's state dict."""
    metadata["labels"] = [*labels]


def _require_labels(labels: Sequence[str], state: Any, prefix: str, metadata: dict[str, Any], *_: Any) -> None:
    """Raise a DataError if a state dict is that of a learner of other labels."""
    found = metadata.get("labels", [*labels])
    if not prefix and found != [*labels]:
        raise DataError(
            f"The weights are of a learner of the labels {shorten(found)}, but this one has {shorten(labels)}, in this "
            "order. To start from them, save that learner with xrayfast.save, and use xrayfast.learner(weights=RUN)."
        )


@lru_cache
def _looks_elsewhere(kind: type) -> bool:
    """Whether callbacks of a class may handle events without a method of that name, such as by delegating to another
    object.
    """
    names = ("__call__", "__getattr__", "__getattribute__")
    return any(getattr(kind, name) is not getattr(Callback, name) for name in names)


@contextmanager
def _keep_records(learn: Learner) -> Iterator[None]:
    """After the block, restore the recorder's losses, learning rates and epochs to what they were before.

    fastai's FetchPredsCallback removes the recorder while it predicts.
    """
    names = ("lrs", "iters", "losses", "values", "metric_names", "of_run", "n_fits", "used")
    if "recorder" not in vars(learn):
        yield
        return
    recorder = learn.recorder
    kept = {name: vars(recorder)[name] for name in names if name in vars(recorder)}
    try:
        yield
    finally:
        for name in names:
            vars(recorder).pop(name, None)
        vars(recorder).update(kept)

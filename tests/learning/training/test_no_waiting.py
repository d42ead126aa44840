"""Training waits for the device only at the end of an epoch.

On the device "meta", which has no values, reading any value fails, and each copy to the device can be observed.
"""

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.learning.dataloaders import augment, device_data
from xrayfast.learning.fastai_api import Callback, CancelFitException
from xrayfast.learning.training import frozen_features
from xrayfast.learning.training.callbacks.preparation import EpochSeeds
from xrayfast.learning.training.frozen_features import FrozenFeatures, training_on_features
from xrayfast.learning.training.optional import mixing
from xrayfast.learning.training.recorders import EpochRecorder, TrainRecorder

META = torch.device("meta")


class Copies(TorchDispatchMode):
    """Records the copies of CPU tensors to the device, except those by `send`, by their place in our code."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.sending, self.waited, self.sent = False, [], 0

        def send(tensor, device):
            self.sending = True
            try:
                self.sent += 1
                return tensor.to(device)
            finally:
                self.sending = False

        for module in (augment, device_data, mixing, frozen_features):
            monkeypatch.setattr(module, "send", send)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func)
        to_meta = name.startswith("aten._to_copy") and kwargs.get("device") == META and args[0].device != META
        if name.startswith("aten.copy_"):
            to_meta = args[0].device == META != args[1].device
        if to_meta and not self.sending:
            self.waited.append([(f.name, f.lineno) for f in traceback.extract_stack() if "xrayfast" in f.filename][-1])
        return func(*args, **kwargs)


class EndAfterTraining(Callback):
    """Ends the fit just before the losses of the epoch would be read."""

    order = 52

    def after_batch(self):
        self.batches = self.iter + 1

    def after_train(self):
        raise CancelFitException


def test_reading_a_value_on_the_device_is_an_error():
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(torch.zeros((), device=META))


CASES = [
    ("data_dir", {}),
    ("data_dir", {"loss": "focal", "class_weights": "auto", "ema": 0.9, "clip_grad": 1.0}),
    ("multi_dir", {"mixup": 0.4, "cutmix": 1.0, "accumulate": 2}),
    ("multi_dir", {"loss": "asl", "optimizer": "sgd", "augment": "strong"}),
]


@pytest.mark.parametrize(("folder", "options", "cached"), [*((*case, False) for case in CASES), (*CASES[1], True)])
def test_no_batch_waits_for_the_device(folder, options, cached, request, monkeypatch):
    data = xf.open_data(request.getfixturevalue(folder))
    options, augmentation = {**options}, options.get("augment", "default")
    options.pop("augment", None)
    dls = xf.dataloaders(data, size=32, batch_size=8, device="cpu", data_on_device="on", augment=augmentation)
    learn = xf.learner(dls, arch=SMALL["arch"], weights="none", precision="fp32", precise_bn=False, **options)
    learn.model.to(META)
    learn.loss_func.to(META)
    for dl in dls.loaders:
        dl.feed.device = META
        dl.feed._pixels = torch.empty((len(dl.dataset), 1, 32, 32), dtype=torch.uint8, device=META)
        dl.feed.targets = dl.feed.targets.to(META)
    learn.dls.device = META
    ended = EndAfterTraining()
    recorder = TrainRecorder(len(learn.groups) - 1 if cached else 0, data.task, len(data.labels))
    monkeypatch.setattr(EpochRecorder, "after_fit", lambda self: None)
    learn.freeze_to(-1) if cached else learn.unfreeze()
    copies = Copies(monkeypatch)
    values = torch.empty((2, len(dls.train.dataset), 128), dtype=torch.float16, device=META)
    targets = dls.train.feed.targets, dls.valid.feed.targets
    features = FrozenFeatures(len(learn.groups) - 1, (torch.Size([128]),), values, values[0], targets, "")
    learn.create_opt()
    with learn.no_bar(), learn.no_logging(), learn.added_cbs([ended, recorder, EpochSeeds(0, 0)]):
        for _ in range(2):  # what the very first batch creates exists in the second epoch
            copies.waited.clear()
            with copies:
                if cached:
                    with training_on_features(learn, features):
                        learn.fit(1)
                else:
                    learn.fit(1)
    assert ended.batches == len(dls.train) > 3
    assert copies.sent >= len(dls.train)
    assert len(copies.waited) < 3, copies.waited  # once per epoch, such as for the mean of its losses

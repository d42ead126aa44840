"""Train with the plain fastai Learner and a callback of your own, then save it as a run."""

import sys

from fastai.callback.core import Callback
from fastai.callback.training import GradientClip

import xrayfast as xf


class LargestLoss(Callback):
    """Remembers the largest training loss: any fastai callback will do."""

    def before_fit(self):
        self.largest = 0.0

    def after_batch(self):
        if self.training:
            self.largest = max(self.largest, float(self.loss.detach()))


folder = sys.argv[1] if len(sys.argv) > 1 else "data"
dls = xf.dataloaders(xf.open_data(folder), size=64, batch_size=32)
learn = xf.learner(dls, arch="resnet18", weights="none", loss="focal")
learn.unfreeze()

watch = LargestLoss()
learn.fit_one_cycle(8, 1e-3, cbs=[watch, GradientClip(1.0)])
print("largest loss", watch.largest)

run = xf.save(learn)  # a folder like any other run's
print(xf.interpret(run).label_table())
again = xf.load(run)  # a Learner again
print(again.validate())

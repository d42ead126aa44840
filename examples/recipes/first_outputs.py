"""Which part of the first outputs of a head matters: heads on frozen features of resnet18, a line per fold and variant.

    python examples/recipes/first_outputs.py DATA --patient-col none --size 128 --batch-size 32 --fold 1,2,3

The options are those of `run.py`. Each line has the validation loss and AUROC after five epochs.
"""

import tempfile
import warnings
from pathlib import Path

from run import open_fold, options

import xrayfast as xf
from xrayfast.learning.model import network
from xrayfast.learning.training import build_learner

VARIANTS = {"fastai's": (1.0, False), "prevalence": (1.0, True), "small": (0.1, False), "both": (0.1, True)}
"""Factor of the last layer's initial weights, and whether outputs start at the prevalence."""


def main() -> None:
    args = options(None)
    for fold in args.fold:
        data = open_fold(args, fold)
        for name, (factor, at_prevalence) in VARIANTS.items():
            build_learner.start_head_at = start_with(factor, at_prevalence)
            with tempfile.TemporaryDirectory() as runs:
                settings = {"size": args.size, "batch_size": args.batch_size, "epochs": 5, "allow_leaks": True}
                run = xf.fit(data, runs=Path(runs), arch="resnet18", resamples=0, progress=False, **settings)
                last = run.history.iloc[-1]
            found = f"loss {last['valid_loss']:.3f}, AUROC {last['valid_auroc_macro']:.3f}"
            print(f"fold {fold}, {name}: {found}", flush=True)


def start_with(factor, at_prevalence):
    def start(head, logits):
        drawn = head[-1].weight.detach().clone()
        bias = head[-3].bias.detach().clone()
        network.start_head_at(head, logits)
        head[-1].weight.data = drawn * factor
        if at_prevalence:
            head[-3].bias.data *= 0.1 / factor  # the same logits with the larger weights
        else:
            head[-3].bias.data = bias

    return start


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()

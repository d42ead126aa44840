"""Remarks on rows of the page, by key: why a row misses its target, or what to know when reading it."""

AS_GOOD = (
    "As good means: its mean is not below the other's by more than the larger of the two spreads over seeds, and a "
    "paired t-test over seeds does not find it lower. Accuracies are of the last epoch."
)

OLDER_DATA = (
    "1,124 radiographs of [Ozturk et al. 2020](https://doi.org/10.1016/j.compbiomed.2020.103792), which the commands "
    "below took without `--data` at these commits"
)
"""The originals of rows that do not name theirs."""

EXPLANATIONS: dict[str, str] = {
    "frozen10": "The fixed cost of a run is under linear; it does not grow with the images, so the ratio does.",
    "unfrozen": "In `--precision auto`, which is bf16 on CPUs with AMX; the limit in fp32 is in the tables below.",
    "progressive": f"{AS_GOOD} The times of the row are of its own settings.",
    "limit": "xrayfast's epoch is timed without the writing of its checkpoint, which the totals hold. The limit is the "
    "median of two epochs after a first one, ours of four; above 1 is noise.",
    "interpret": "The second call in a process: the first imports.",
    "help": "The median of seven.",
    "start": "Commands in turn with `import torch`; the median of five ratios.",
    "vgg16_bn": "Random weights, time only: ImageNet's were not on the machine.",
    "densenet121": "Random weights, time only: ImageNet's were not on the machine.",
    "linear": "The fixed start by a profile (`py-spy record -r 100 -t -f raw -- xrayfast fit`, 24 training images, 10 "
    "epochs of the head, 16 s): 9 to 10 s of imports, partly beside decoding (by `-X importtime` torch 2.9, "
    "torch._dynamo through torchvision 2.6, scikit-learn with scipy.stats 1.8, timm 0.9 where it is installed, "
    "matplotlib 0.5), 1 to 2 to read the data set with pandas, 1 to build the network, 1 to 2 to write weights "
    "eighteen times, 1 for predictions, intervals and card.",
    "distributed": "In fp32, at the default learning rate, from cached frozen features, as by default.",
    "distributed-all": "In float32 rounding grows in a network that is trained as a whole from the first step in "
    "batches of 16; until version 0.9 this row compared its 0.034 with 0.0001. In float64 two and four ranks agree "
    "with one process to 1e-9 over two epochs: tests/learning/training/test_distributed.py.",
    "rank-reads": "Counted, not timed, where the cache of decoded images is read.",
    "reuse": AS_GOOD,
    "precision": AS_GOOD,
}

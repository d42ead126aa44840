"""Remarks on rows of the page, by key: why a row misses its target, or what to know when reading it."""

AS_GOOD = (
    '"As good" means that the mean is below the other\'s by no more than the larger of the two spreads over seeds, and '
    "that a paired t-test over seeds does not find it lower. Accuracies are those of the last epoch."
)

OLDER_DATA = (
    "1,124 radiographs of [Ozturk et al. 2020](https://doi.org/10.1016/j.compbiomed.2020.103792), which the commands "
    "below used without `--data` at these commits"
)
"""The originals of those results that do not record theirs."""

EXPLANATIONS: dict[str, str] = {
    "frozen10": "The fixed cost of a run is given under linear. It does not grow with the images, so the ratio does.",
    "unfrozen": "With `--precision auto`, which is bf16 on CPUs with AMX. The limit in fp32 is in the tables below.",
    "progressive": f"{AS_GOOD} The times are those of the row's own settings.",
    "limit": "xrayfast's epoch is timed without writing its checkpoint, which the totals include. The limit is the "
    "median of two epochs after a first one, ours the median of four. Values above 1 are noise. Since "
    "version 0.7 an epoch of ours ends with a forward pass over the last 256 training images (here all 96) for "
    "batch-norm statistics (`--precise-bn`), which the limit does not make: with "
    "`--xrayfast-options=--no-precise-bn` the ratio is 0.88 "
    "(n = 1). Version 0.1 had 1.00.",
    "interpret": "The second call in a process; the first one also imports.",
    "help": "The median of seven calls.",
    "start": "Commands alternate with `import torch`; the value is the median of five ratios.",
    "vgg16_bn": "Random weights, and times only: ImageNet weights were not available on the machine.",
    "densenet121": "Random weights, and times only: ImageNet weights were not available on the machine.",
    "linear": "The fixed start according to a profile (`py-spy record -r 100 -t -f raw -- xrayfast fit`, 24 training "
    "images, 10 epochs of the head, 16 s): 9 to 10 s of imports, partly in parallel with decoding (by `-X importtime` "
    "torch 2.9, torch._dynamo through torchvision 2.6, scikit-learn with scipy.stats 1.8, timm 0.9 if installed, "
    "matplotlib 0.5), 1 to 2 to read the data set with pandas, 1 to build the network, 1 to 2 to write weights "
    "eighteen times, 1 for predictions, intervals and card.",
    "distributed": "In fp32, at the default learning rate and from cached frozen features, which is the default.",
    "distributed-all": "In float32, rounding errors grow when all layers are trained from the first step in batches "
    "of 16. Until version 0.9 this row compared its 0.034 with 0.0001. In float64, two and four ranks agree with one "
    "process to 1e-9 over two epochs: tests/learning/training/test_train_as_rank.py.",
    "rank-reads": "Reads from the cache of decoded images are counted, not timed.",
    "reuse": AS_GOOD,
    "precision": AS_GOOD,
}

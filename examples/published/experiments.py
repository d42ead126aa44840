"""The published experiments (networks, heads, layers trained, optimizers, losses), their values and protocols."""

from dataclasses import dataclass
from itertools import product

HEADS = {
    # Pooled as in the network itself: 512 features of resnet18, 25,088 of vgg16.
    ("resnet", "mlp"): {"head": "mlp", "head_width": 120},
    ("vgg", "mlp"): {"head": "mlp", "head_width": 500},
    # The network's own two layers of 4,096 units, the last layer replaced by 500 units and the labels.
    ("vgg", "classifier"): {"head": "classifier", "head_width": 500},
}
LAYERS = {
    ("resnet", "mlp"): {
        "dense": {},
        "last block": {"unfreeze_blocks": 1},
        "last two blocks": {"unfreeze_blocks": 2},
        "all": {"unfreeze": True},
    },
    ("vgg", "mlp"): {
        "dense": {},
        "one layer": {"unfreeze_layers": 1},
        "three layers": {"unfreeze_layers": 3},
        "later half": {"unfreeze_blocks": 2},  # 6 of 13 convolutions
        "all": {"unfreeze": True},
    },
    # The two layers of 4,096 units are the last block and count as layers; the convolutions come before them.
    ("vgg", "classifier"): {
        "dense": {"unfreeze_blocks": 1},
        "one layer": {"unfreeze_layers": 2 + 1},
        "three layers": {"unfreeze_layers": 2 + 3},
        "later half": {"unfreeze_blocks": 1 + 2},
        "all": {"unfreeze": True},
    },
}
ADAM = {"optimizer": "adam", "lr": 1e-3, "momentum": 0.9, "beta2": 0.999, "eps": 1e-8, "epochs": 6}
SGD = {"optimizer": "sgd", "momentum": 0.9}
OPTIMIZERS = {"adam": ADAM} | {
    f"sgd-{lr}-{epochs}": SGD | {"lr": float(lr), "epochs": epochs}
    for lr, epochs in product(("1e-3", "1e-4"), (10, 20))
}
LOSSES = {
    # Cross entropy if each image has one label; with two classes it is the BCE of the difference of the logits.
    "bce": {"loss": "auto"},
    # The mean of (1 - p)^2 times the BCE of each element, where p is the probability of the truth. The papers' alpha of
    # 1 is a factor of 1, the same as no alpha.
    "focal": {"loss": "focal", "gamma": 2.0},
}
COMMON = {
    "batch_size": 20,
    "schedule": "constant",
    "wd": 0.0,
    "thresholds": "half",
    "calibrate": False,
    "seed": 0,
}
TOGETHER = {"freeze_epochs": 0, "lr_div": 1.0}
"""Unfrozen layers are trained together with the head from the start, all at one learning rate."""

PROTOCOL = (
    "Yours: batch size 20, no schedule, no weight decay, the same learning rate for all trained layers,"
    " images fitted into {size} px, small rotations and changes of brightness, no flips. The weights are those of"
    " the epoch with the best macro AUROC on the validation split ('epoch'); its training accuracy and loss are "
    "from the predictions made while training. Labels are predicted at 0.5, without calibration. 95% intervals "
    "in brackets, by patient where patients are known. 'bce' is cross entropy where each image has one label. "
    "The head 'mlp' has 120 hidden units with resnet18 and 500 with vgg16; 'classifier' is vgg16's own, "
    "whose two layers of 4,096 units are trained in all its rows, with 500 units before the last layer."
)
DATA_NOT_THE_SAME = (
    "These are other images than the published ones: agreement or disagreement says as much about the data as "
    "about the networks."
)


@dataclass(frozen=True)
class Protocol:
    """The data and the method behind a published value."""

    mark: str
    text: str


TWO_CLASSES = (
    "a set of two classes (infected, normal) that is not public, 12,000 radiographs to train, 1,500 to validate, "
    "1,500 to test"
)
A = Protocol(
    "a",
    f"Student report, ImageNet weights: accuracy on 1,500 radiographs of {TWO_CLASSES}. Which of the last two the"
    " number is of is not recorded here, so it stands beside both. No interval is given. 'dense' is the fully "
    "connected layers alone, 'one layer' the last convolution, 'later half' the later half of the convolutions; "
    "optimizer and loss of each number are not recorded here.",
)
B = Protocol(
    "b",
    f"Second student report, on {TWO_CLASSES}: accuracy/F1 of four networks 0.953/0.961, 0.973/0.978, "
    "0.925/0.938, 0.968/0.973; which network, split and average of F1 is not recorded here. No intervals are "
    "given.",
)
C = Protocol(
    "c",
    "Student report, ImageNet weights, three labels, covid-19 implying pneumonia, on a set that is not public, "
    "6,200 radiographs to train, 629 to validate, 628 to test: the range of four experiments, subset accuracy "
    "0.952, 0.952, 0.957, 0.935 and macro F1 0.899, 0.920, 0.913, 0.882; which network, loss, optimizer and split"
    " is not recorded here. No intervals are given.",
)
D = Protocol(
    "d",
    "DarkCovidNet (Ozturk et al. 2020), trained from scratch for 100 epochs on a public set (1,125 radiographs: "
    "125 covid-19, 500 normal, 500 pneumonia): accuracy 0.870 with three classes, 0.981 with covid-19 and normal,"
    " the mean of five random folds that are validation folds, with no test split. No intervals are given.",
)
PROTOCOLS = {("single", 2): (A, B, D), ("single", 3): (D,), ("multi", 3): (C,)}
"""Protocols by task and number of labels."""

ACCURACY = {
    ("resnet18", "dense"): "0.93", ("resnet18", "all"): "0.945",
    ("vgg16", "dense"): "0.9306", ("vgg16", "one layer"): "0.944", ("vgg16", "later half"): "0.9693",
    ("vgg16", "all"): "0.9493",
}  # fmt: skip
"""Accuracies of report a, by network and layers trained."""


@dataclass(frozen=True)
class Experiment:
    """A row of the published tables."""

    network: str
    head: str
    layers: str
    optimizer: str
    loss: str

    @property
    def name(self) -> str:
        return "-".join((self.network, self.head, self.layers, self.optimizer, self.loss)).replace(" ", "-")

    @property
    def settings(self) -> dict[str, object]:
        """Return the experiment as options of xf.fit."""
        kind = (family(self.network), self.head)
        layers = LAYERS[kind][self.layers]
        layers = layers and layers | TOGETHER
        return COMMON | HEADS[kind] | layers | OPTIMIZERS[self.optimizer] | LOSSES[self.loss]

    def published(self, task: str, labels: int) -> dict[str, str]:
        """Return the published values by metric, each with the mark of its protocol; "–" if there is none."""
        values = dict.fromkeys(("subset_accuracy" if task == "multi" else "accuracy", "f1_macro"), "–")
        if (task, labels) == ("multi", 3):
            return {"subset_accuracy": f"0.935 to 0.957 [{C.mark}]", "f1_macro": f"0.882 to 0.920 [{C.mark}]"}
        value = ACCURACY.get((self.network.removesuffix("_bn"), self.layers))
        if (task, labels) == ("single", 2) and value:
            values["accuracy"] = f"{value} [{A.mark}]"
        return values


def family(network: str) -> str:
    """Return the family of a network, "vgg" or "resnet", which decides its layers and heads."""
    return "vgg" if network.startswith("vgg") else "resnet"


def experiments(networks, heads, layers, optimizers, losses) -> list[Experiment]:
    """Return all existing combinations, ordered by optimizer."""
    return [
        Experiment(network, head, depth, optimizer, loss)
        for optimizer, network, head in product(optimizers, networks, heads)
        for depth in LAYERS.get((family(network), head), ())
        for loss in losses
        if not layers or depth in layers
    ]

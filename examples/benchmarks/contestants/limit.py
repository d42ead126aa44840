"""The limit of the machine: the same forward, backward and optimizer steps on batches that lie in memory.

xrayfast's own network, memory order and precision, torch's fused AdamW, no loader, no metrics, no files. A few epochs
of each phase are timed after a first one that is not, and their median is taken for all.
"""

import statistics
import time

import torch
from torch import nn

import xrayfast as xf
from benchmarks.contestants.common import answer, read_orders
from xrayfast.learning.fastai_api import Learner
from xrayfast.learning.training.mixed_precision import autocast, training_precision

TIMED = 2
"""Epochs of a phase that are timed, at most."""


def main() -> None:
    orders = read_orders()
    torch.manual_seed(orders.seed)
    settings = orders.settings
    data = xf.open_data(orders.folder, split_file=orders.split_file, cache_dir=orders.scratch)
    dls = xf.dataloaders(data, size=settings["size"], batch_size=settings["batch_size"])
    learn = xf.learner(dls, arch=settings["arch"], weights=settings["weights"], precision=settings["precision"])
    network = learn.model
    train, valid = (held(dl) for dl in (dls.train, dls.valid))
    images = {"train_images": len(dls.train_ds), "valid_images": len(dls.valid_ds)}
    phases, seconds = [("head", settings["freeze_epochs"]), ("all", settings["epochs"])], {}
    if settings["unfreeze"] == "none":
        phases = [("head", settings["epochs"])]
    for phase, epochs in phases:
        if epochs:
            frozen = frozen_blocks(network, settings["unfreeze"] if phase == "all" else "none")
            seconds[phase] = timed(learn, frozen, train, valid, epochs)
    rows = [{"phase": phase, "seconds": seconds[phase]} for phase, epochs in phases for _ in range(epochs)]
    answer(epochs=rows, precision=training_precision(learn), **images)


def held(loader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All batches, as plain tensors on the device, in channels-last order."""
    return [
        (x.as_subclass(torch.Tensor).contiguous(memory_format=torch.channels_last), y.as_subclass(torch.Tensor))
        for x, y in loader
    ]


def frozen_blocks(network: nn.Module, trained: str) -> int:
    """How many blocks of the backbone are frozen."""
    return {"none": len(network[0]), "last block": len(network[0]) - 1, "all": 0}[trained]


def timed(learn: Learner, frozen: int, train, valid, epochs: int) -> float:
    """Median seconds of an epoch with its validation."""
    network = learn.model
    blocks = list(network[0])
    before, after = nn.Sequential(*blocks[:frozen]), nn.Sequential(*blocks[frozen:], network[1])
    network.requires_grad_(True)
    before.requires_grad_(False)
    optimizer = torch.optim.AdamW(after.parameters(), lr=1e-5, fused=True)

    def epoch() -> None:
        network.train()
        before.eval()
        for images, target in train:
            with autocast(learn):
                with torch.no_grad():
                    features = before(images)
                output = after(features)
            nn.functional.cross_entropy(output.float(), target).backward()
            optimizer.step()
            optimizer.zero_grad()
        network.eval()
        with torch.inference_mode(), autocast(learn):
            for images, _ in valid:
                network(images)
        if learn.dls.device.type == "cuda":
            torch.cuda.synchronize()

    epoch()
    took = []
    for _ in range(min(epochs, TIMED)):
        began = time.perf_counter()
        epoch()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


if __name__ == "__main__":
    main()

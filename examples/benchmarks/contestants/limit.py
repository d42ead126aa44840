"""The compute-only limit of the machine: the same forward, backward and optimizer steps on batches in memory.

It uses xrayfast's network, memory format and precision, and torch's fused AdamW, without loader, metrics or files. In
each phase, a few epochs after the first one are timed, and their median is used for all.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

import xrayfast as xf
from benchmarks.contestants.common import answer, read_orders
from xrayfast.learning.fastai_api import Learner
from xrayfast.learning.training.mixed_precision import training_precision

TIMED = 2
"""Maximum number of timed epochs per phase."""


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
    phases, seconds, how = [("head", settings["freeze_epochs"]), ("all", settings["epochs"])], {}, ""
    if settings["unfreeze"] == "none":
        phases = [("head", settings["epochs"])]
    for phase, epochs in phases:
        if epochs:
            frozen = frozen_blocks(network, settings["unfreeze"] if phase == "all" else "none")
            seconds[phase], how = timed(learn, frozen, train, valid, epochs)
    rows = [{"phase": phase, "seconds": seconds[phase]} for phase, epochs in phases for _ in range(epochs)]
    answer(epochs=rows, precision=training_precision(learn), how=how, **images)


def held(loader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return all batches as plain tensors on the device, in channels-last format."""
    return [
        (x.as_subclass(torch.Tensor).contiguous(memory_format=torch.channels_last), y.as_subclass(torch.Tensor))
        for x, y in loader
    ]


def frozen_blocks(network: nn.Module, trained: str) -> int:
    """Return how many blocks of the backbone are frozen."""
    return {"none": len(network[0]), "last block": len(network[0]) - 1, "all": 0}[trained]


def timed(learn: Learner, frozen: int, train, valid, epochs: int) -> tuple[float, str]:
    """Return the median seconds of an epoch with validation, and how it was computed: the faster of eager steps and, on
    CUDA, one graph per batch, which takes no time to launch kernels.
    """
    took = {"eager": epoch_seconds(learn, frozen, train, valid, epochs, graphs=False)}
    if learn.dls.device.type == "cuda":
        try:
            took["CUDA graphs"] = epoch_seconds(learn, frozen, train, valid, epochs, graphs=True)
        except RuntimeError as error:
            print(f"no CUDA graphs: {error}", file=sys.stderr)
    how = min(took, key=lambda name: took[name])
    return took[how], how


def epoch_seconds(learn: Learner, frozen: int, train, valid, epochs: int, graphs: bool) -> float:
    """Return the median seconds of an epoch with validation, either with or without CUDA graphs."""
    network, cuda = learn.model, learn.dls.device.type == "cuda"
    blocks = list(network[0])
    before, after = nn.Sequential(*blocks[:frozen]), nn.Sequential(*blocks[frozen:], network[1])
    network.requires_grad_(True)
    before.requires_grad_(False)
    optimizer = torch.optim.AdamW(after.parameters(), lr=1e-5, fused=True, capturable=graphs)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training_precision(learn))

    def cast():
        return torch.autocast(learn.dls.device.type, precision, precision is not None, cache_enabled=not graphs)

    def step(images: torch.Tensor, target: torch.Tensor) -> None:
        with cast():
            with torch.no_grad():
                features = before(images)
            output = after(features)
        nn.functional.cross_entropy(output.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    def look(images: torch.Tensor, target: torch.Tensor) -> None:
        with torch.no_grad(), cast():
            network(images)

    def training() -> None:
        network.train()
        before.eval()

    training()
    step_on = captured(step, train[0]) if graphs else step
    network.eval()
    look_at = captured(look, valid[0]) if graphs else look

    def epoch() -> None:
        training()
        for images, target in train:
            step_on(images, target)
        network.eval()
        for images, target in valid:
            look_at(images, target)
        if cuda:
            torch.cuda.synchronize()

    epoch()
    took = []
    for _ in range(min(epochs, TIMED)):
        began = time.perf_counter()
        epoch()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def captured(function: Callable[..., None], example) -> Callable[..., None]:
    """Return the function as a CUDA graph for batches of the example's shape; other batches are computed eagerly."""
    given = [tensor.clone() for tensor in example]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function(*given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function(*given)

    def replay(*batch: torch.Tensor) -> None:
        if batch[0].shape != given[0].shape:
            function(*batch)
            return
        for place, tensor in zip(given, batch, strict=True):
            place.copy_(tensor)
        graph.replay()

    return replay


if __name__ == "__main__":
    main()

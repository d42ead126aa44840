"""timm: create_model, create_transform, timm's optimizer and schedule, and a loop like its train.py."""

from pathlib import Path

import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

from benchmarks.contestants.common import EpochClock, answer, read_orders
from benchmarks.contestants.torchvision_loop import data_loaders, seed_all, train_epoch, validate


def main() -> None:
    orders, device = read_orders(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed_all(orders.seed)
    settings, clock = orders.settings, EpochClock()
    network = build(settings["arch"], settings["weights"], len(orders.labels)).to(device)
    config = resolve_data_config({"input_size": (3, settings["size"], settings["size"])}, model=network)
    train, valid = data_loaders(
        orders, create_transform(**config, is_training=True), create_transform(**config, is_training=False)
    )
    phases = [("head", settings["freeze_epochs"]), ("all", settings["epochs"])]
    if settings["unfreeze"] == "none":
        phases = [("head", settings["epochs"])]
    for phase, epochs in phases:
        if not epochs:
            continue
        for parameter in network.parameters():
            parameter.requires_grad = phase == "all"
        for parameter in network.get_classifier().parameters():
            parameter.requires_grad = True
        rate = settings["lr"] if phase == "head" else settings["lr"] / 20
        optimizer = create_optimizer_v2(network, opt="adamw", lr=rate, weight_decay=0.01)
        schedule, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs, warmup_epochs=0)
        for epoch in range(epochs):
            clock.start()
            train_epoch(network, train, optimizer, device)
            schedule.step(epoch + 1)
            clock.stop(phase, *validate(network, valid, device))
    answer(epochs=clock.rows, train_images=len(train.dataset), valid_images=len(valid.dataset))


def build(arch: str, weights: str, labels: int) -> nn.Module:
    """Return the network with torchvision's weights, so that all contestants start from the same."""
    if weights != "imagenet":
        return timm.create_model(arch, num_classes=labels)
    name = Path(timm.get_pretrained_cfg(f"{arch}.tv_in1k").url or "resnet18-f37072fd.pth").name
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    return timm.create_model(arch, pretrained=True, num_classes=labels, pretrained_cfg_overlay={"file": str(file)})


if __name__ == "__main__":
    main()

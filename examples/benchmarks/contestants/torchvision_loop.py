"""The training loop of torchvision's classification reference: PIL, RandomResizedCrop, flip, DataLoader."""

import os
import random

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import models, transforms

from benchmarks.contestants.common import EpochClock, Orders, answer, read_orders

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Files(torch.utils.data.Dataset):
    """A dataset of files and labels that reads images like ImageFolder."""

    def __init__(self, rows, labels, transform) -> None:
        self.rows, self.labels, self.transform = rows, labels, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        path, label = self.rows[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), self.labels.index(label)


def main() -> None:
    orders, device = read_orders(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed_all(orders.seed)
    settings, clock = orders.settings, EpochClock()
    train, valid = loaders(orders)
    network = build(settings["arch"], settings["weights"], len(orders.labels)).to(device)
    head = list(network.children())[-1]
    phases = [("head", settings["freeze_epochs"]), ("all", settings["epochs"])]
    if settings["unfreeze"] == "none":
        phases = [("head", settings["epochs"])]
    for phase, epochs in phases:
        set_trainable(network, head, settings["unfreeze"] if phase == "all" else "none")
        rate = settings["lr"] if phase == "head" else settings["lr"] / 20
        optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(epochs, 1))
        for _ in range(epochs):
            clock.start()
            train_epoch(network, train, optimizer, device)
            schedule.step()
            clock.stop(phase, *validate(network, valid, device))
    answer(epochs=clock.rows, train_images=len(train.dataset), valid_images=len(valid.dataset))


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def loaders(orders: Orders):
    """Return DataLoaders with the reference's transforms and one worker per core."""
    size = orders.settings["size"]
    last = [transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float), transforms.Normalize(MEAN, STD)]
    crop = [transforms.RandomResizedCrop(size, antialias=True), transforms.RandomHorizontalFlip()]
    whole = [transforms.Resize(size * 256 // 224, antialias=True), transforms.CenterCrop(size)]
    return data_loaders(orders, transforms.Compose(crop + last), transforms.Compose(whole + last))


def data_loaders(orders: Orders, augmented, plain):
    """Return the DataLoaders of training and validation."""
    common = {"batch_size": orders.settings["batch_size"], "num_workers": os.cpu_count() or 1}
    common["pin_memory"] = torch.cuda.is_available()
    train = Files(orders.subset("train"), orders.labels, augmented)
    valid = Files(orders.subset("valid"), orders.labels, plain)
    return (
        torch.utils.data.DataLoader(train, shuffle=True, drop_last=len(train) % common["batch_size"] == 1, **common),
        torch.utils.data.DataLoader(valid, **common),
    )


def build(arch: str, weights: str, labels: int) -> nn.Module:
    """Return the network with a new last layer."""
    network = models.get_model(arch, weights="IMAGENET1K_V1" if weights == "imagenet" else None)
    name, last = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
    place, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(place), attribute, nn.Linear(last.in_features, labels))
    return network


def set_trainable(network: nn.Module, head: nn.Module, what: str) -> None:
    """Unfreeze only the head ("none"), also the last block ("last block"), or all layers ("all")."""
    for parameter in network.parameters():
        parameter.requires_grad = what == "all"
    unfrozen = [head] + ([list(network.children())[-3]] if what == "last block" else [])  # pooling is in between
    for module in unfrozen:
        for parameter in module.parameters():
            parameter.requires_grad = True


def train_epoch(network, loader, optimizer, device) -> None:
    network.train()
    for images, target in loader:
        images, target = images.to(device), target.to(device)
        loss = nn.functional.cross_entropy(network(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def validate(network, loader, device) -> tuple[float, float]:
    """Return accuracy and loss."""
    network.eval()
    right = total = 0.0
    with torch.inference_mode():
        for images, target in loader:
            images, target = images.to(device), target.to(device)
            output = network(images)
            total += nn.functional.cross_entropy(output, target, reduction="sum").item()
            right += (output.argmax(1) == target).sum().item()
    return right / len(loader.dataset), total / len(loader.dataset)


if __name__ == "__main__":
    main()

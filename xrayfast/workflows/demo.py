"""The settings of the demo: synthetic films, from scratch, small enough for two cores."""

from __future__ import annotations

from xrayfast.config import Config, DataConfig, ModelConfig, TrainConfig

IMAGES = 600
SIZE = 128
"""The number of synthetic films, and their side in pixels."""

SETTINGS = Config(
    data=DataConfig(test_fraction=0.15),
    model=ModelConfig(arch="resnet18", weights="none", size=64),
    train=TrainConfig(unfreeze=True, freeze_epochs=0, epochs=14),
)

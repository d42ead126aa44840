"""The recipes of `--recipe`: named groups of settings. Their results are in `examples/guide/recipes.md`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from xrayfast.config import EMA_DECAY, Config

Recipe = Literal["fast", "default", "best"]

UNFREEZING: Mapping[str, Any] = MappingProxyType({"unfreeze": False, "unfreeze_blocks": None, "unfreeze_layers": None})
"""Mutually exclusive options, with their defaults."""

RECIPES: dict[Recipe, Mapping[str, Any]] = {
    # For a first look: train only the head, on features of small images that are computed once.
    "fast": {"size": 128, **UNFREEZING, "epochs": 3},
    # The options' own defaults.
    "default": {},
    # Train all layers, and stabilize predictions: averaged weights (EMA), averaged views (TTA), label smoothing.
    "best": {**UNFREEZING, "unfreeze": True, "epochs": 12, "ema": EMA_DECAY, "label_smoothing": 0.1, "tta": True},
}
"""The config fields that each recipe sets."""


def with_recipe(config: Config | None, recipe: Recipe, options: Mapping[str, Any]) -> Config:
    """Return the settings with those of a recipe added.

    The recipe's settings don't count as given by the user: if an option makes one of them ineffective, that is a note
    instead of an error.

    Args:
        config: the settings; None for the defaults.
        recipe: the recipe's name.
        options: the user's options, keyed by field. They override the recipe and are not set here.
    """
    config = config or Config()
    given = {name: getattr(config, name).model_fields_set for name in Config.model_fields}
    left = set(options) | (set(UNFREEZING) if set(UNFREEZING) & set(options) else set())
    fields = {name: value for name, value in RECIPES[recipe].items() if name not in left}
    return config.updated(fields).with_given(given)

"""`--recipe`: settings that go together. What each gave is in `examples/guide/recipes.md`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from xrayfast.config import EMA_DECAY, Config

Recipe = Literal["fast", "default", "best"]

UNFREEZING: Mapping[str, Any] = MappingProxyType({"unfreeze": False, "unfreeze_blocks": None, "unfreeze_layers": None})
"""Options of which at most one can be given, and their defaults."""

RECIPES: dict[Recipe, Mapping[str, Any]] = {
    # For a first look: a head on features of small images, which are computed once.
    "fast": {"size": 128, **UNFREEZING, "epochs": 3},
    # The options' own defaults.
    "default": {},
    # All layers, and what makes predictions steadier: averages of weights and of views, and targets below 1.
    "best": {**UNFREEZING, "unfreeze": True, "epochs": 12, "ema": EMA_DECAY, "label_smoothing": 0.1, "tta": True},
}
"""The fields that each sets."""


def with_recipe(config: Config | None, recipe: Recipe, options: Mapping[str, Any]) -> Config:
    """Settings with those of a recipe, which do not count as given: an option by which one has no effect is a note.

    Args:
        config: the settings; None for the defaults.
        recipe: its name.
        options: given beside it, by field. They go over the recipe's, and are not set here.
    """
    config = config or Config()
    given = {name: getattr(config, name).model_fields_set for name in Config.model_fields}
    left = set(options) | (set(UNFREEZING) if set(UNFREEZING) & set(options) else set())
    fields = {name: value for name, value in RECIPES[recipe].items() if name not in left}
    return config.updated(fields).with_given(given)

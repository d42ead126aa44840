"""The recipes of `--recipe`: named groups of settings. Their results are in `examples/guide/recipes.md`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from xrayfast.config import FIELD_SECTIONS, Config
from xrayfast.errors import shorten
from xrayfast.errors.escapes import warn

Recipe = Literal["fast", "default", "best"]

UNFREEZING: Mapping[str, Any] = MappingProxyType({"unfreeze": False, "unfreeze_blocks": None, "unfreeze_layers": None})
"""Mutually exclusive options, with their defaults."""

RECIPES: dict[Recipe, Mapping[str, Any]] = {
    # For a first look: train only the head, on features of small images that are computed once.
    "fast": {"size": 128, **UNFREEZING, "epochs": 3},
    # The options' own defaults.
    "default": {},
    # Train all layers of several networks, and average their probabilities.
    "best": {**UNFREEZING, "unfreeze": True, "epochs": 5, "members": 3},
}
"""The config fields that each recipe sets."""


def with_recipe(config: Config | None, recipe: Recipe, options: Mapping[str, Any]) -> Config:
    """Return the settings with those of a recipe added, and warn of the settings of `config` that it replaces.

    Args:
        config: the settings; None for the defaults.
        recipe: the recipe's name.
        options: the user's options, keyed by field. They override the recipe and are not set here.
    """
    config = config or Config()
    left = set(options) | (set(UNFREEZING) if set(UNFREEZING) & set(options) else set())
    fields = {name: value for name, value in RECIPES[recipe].items() if name not in left}
    new, default = config.updated(fields), Config()
    replaced = []
    for name in fields:
        now, before, usual = (getattr(getattr(of, FIELD_SECTIONS[name]), name) for of in (new, config, default))
        if before not in (now, usual):
            replaced.append(f"{name} {now} instead of {before}")
    if replaced:
        warn(f"The recipe {recipe} overrides the config: {shorten(replaced)}. Options override both.")
    return new

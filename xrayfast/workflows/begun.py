"""Find the run that an earlier start of the same command began, so that a job queue can simply start it again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from xrayfast.config import Config
from xrayfast.errors import ConfigError
from xrayfast.runs.run import Run


def find_begun(runs: Path, name: str, settings: Config) -> Run | None:
    """Return the run `name` if it was begun with the same settings; None if no such run exists.

    Args:
        runs: the folder of runs.
        name: the run's name.
        settings: the present settings. Of the sections `data` and `model`, only fields that were given explicitly are
            compared: for others, such as columns, a run records what it inferred from the data.

    Raises:
        ConfigError: the run was begun with other settings.
        RunError: a folder of that name exists and is not a run.
    """
    if not os.path.lexists(runs / name):
        return None
    run = Run(runs / name)
    config = run.config
    for section in ("train", "results", "data", "model"):
        given, begun = getattr(settings, section), getattr(config, section)
        names = type(given).model_fields if section in ("train", "results") else given.model_fields_set
        for field in names:
            now, then = _comparable(getattr(given, field)), _comparable(getattr(begun, field))
            if now != then:
                raise ConfigError(
                    f"{field} is {now}, but {run.path} was started with {then}, and a run keeps its settings. Use "
                    "the same value, or another --name."
                )
    return run


def _comparable(value: Any) -> Any:
    """Return the value as a run records it: paths are absolute."""
    return value.absolute() if isinstance(value, Path) else value

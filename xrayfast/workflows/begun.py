"""Go on with the run of a name where it was begun: a command that a queue may start again as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from xrayfast.config import Config
from xrayfast.errors import ConfigError
from xrayfast.runs.run import Run


def find_begun(runs: Path, name: str, settings: Config) -> Run | None:
    """The run of that name, begun with the same settings; None where there is none.

    Args:
        runs: the folder of runs.
        name: of the run.
        settings: as they are given now. Of data and network those are compared that were given: what a run records of
            the others, such as columns, it has found in the data.

    Raises:
        ConfigError: the run was begun with other settings.
        RunError: there is a folder of that name, and it is not a run.
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
                    f"{field} is {now}, and {run.path} was begun with {then}; a run keeps its settings. Give the same, "
                    "or another --name."
                )
    return run


def _comparable(value: Any) -> Any:
    """Paths as a run records them."""
    return value.absolute() if isinstance(value, Path) else value

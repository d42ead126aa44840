"""What `--resume` needs: weights, the optimiser's averages and where training stood; tensors and JSON, no pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from xrayfast.errors import RunError
from xrayfast.files import write_json
from xrayfast.learning.fastai_api import Learner
from xrayfast.learning.model.weights import load_weights, save_tensors, save_weights

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save(folder: Path, learn: Learner, state: dict[str, Any]) -> None:
    """Write a checkpoint in place of the one before; at any moment one of the two is whole."""
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    save_weights(learn.model, fresh / MODEL)
    tensors, numbers = {}, []
    for i, entry in enumerate(learn.opt.state_dict()["state"]):
        numbers.append({key: value for key, value in entry.items() if not isinstance(value, torch.Tensor)})
        tensors.update({f"{i}.{key}": value for key, value in entry.items() if isinstance(value, torch.Tensor)})
    save_tensors(tensors, fresh / OPTIMIZER)
    write_json(fresh / STATE, {**state, "optimizer": numbers})
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Where training stood, or None where no epoch was finished.

    Raises:
        RunError: the checkpoint is damaged.
    """
    place = _whole(folder)
    if place is None:
        return None
    try:
        state = json.loads((place / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{place / STATE}: can't be read ({error}). Start a new run.") from error
    if not isinstance(state, dict):
        raise RunError(f"{place / STATE}: expected a JSON object. Start a new run.")
    return state


def restore_weights(folder: Path, learn: Learner) -> None:
    """Bring back the weights of the last finished epoch.

    Raises:
        RunError: there is no checkpoint.
        WeightsError: the weights are damaged or of another network.
    """
    load_weights(learn.model, _there(folder) / MODEL)


def restore_optimizer(folder: Path, learn: Learner) -> None:
    """Bring back the optimiser's averages; needed only within a phase, each phase starts them anew.

    Raises:
        RunError: there is no checkpoint, or the optimiser's file is damaged.
    """
    place, state = _there(folder), read_state(folder) or {}
    device = next(learn.model.parameters()).device
    try:
        entries: list[dict[str, Any]] = [dict(numbers) for numbers in state["optimizer"]]
        for key, tensor in safetensors.torch.load_file(place / OPTIMIZER).items():
            number, name = key.split(".", 1)
            entries[int(number)][name] = tensor.to(device)
        learn.opt.load_state_dict({"state": entries, "hypers": learn.opt.hypers})
    except (OSError, SafetensorError, ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
        raise RunError(f"{place}: the optimiser's state is damaged ({error}). Start a new run.") from error


def _there(folder: Path) -> Path:
    place = _whole(folder)
    if place is None:
        raise RunError(f"{folder}: the checkpoint is gone. Start a new run.")
    return place


def _whole(folder: Path) -> Path | None:
    """The checkpoint, or the one before where a crash hit the moment between two renames."""
    candidates = (folder, folder.with_name(folder.name + ".old"))
    return next((place for place in candidates if (place / STATE).is_file()), None)

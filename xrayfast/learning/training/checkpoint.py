"""The checkpoint from which `--resume` continues: weights, optimizer, history and batches; no pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError

from xrayfast.batches import empty_batches, read_batches
from xrayfast.errors import RunError
from xrayfast.files import ensure_folder, write_json
from xrayfast.learning.fastai_api import Learner
from xrayfast.learning.model.weights import load_weights, save_tensors, save_weights

MODEL, OPTIMIZER, STATE, BATCHES = "model.safetensors", "optimizer.safetensors", "state.json", "batches.csv"


def save_checkpoint(folder: Path, learn: Learner, state: dict[str, Any], batches: Path) -> None:
    """Replace the checkpoint by a new one, with a copy of `batches.csv`; at any moment one of the two is complete."""
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    ensure_folder(fresh)
    save_weights(learn.model, fresh / MODEL)
    tensors, scalars = {}, []
    for i, entry in enumerate(learn.opt.state_dict()["state"]):
        scalars.append({key: value for key, value in entry.items() if not isinstance(value, torch.Tensor)})
        tensors.update({f"{i}.{key}": value for key, value in entry.items() if isinstance(value, torch.Tensor)})
    save_tensors(tensors, fresh / OPTIMIZER)
    shutil.copyfile(batches, fresh / BATCHES)
    write_json(fresh / STATE, {**state, "optimizer": scalars})
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any] | None:
    """The state that was saved with the last finished epoch, or None if there is none.

    Raises:
        RunError: the checkpoint is damaged.
    """
    checkpoint = _newest(folder)
    if checkpoint is None:
        return None
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{checkpoint / STATE}: can't be read ({error}). Start a new run.") from error
    if not isinstance(state, dict):
        raise RunError(f"{checkpoint / STATE}: expected a JSON object. Start a new run.")
    return state


def read_saved_batches(folder: Path) -> pd.DataFrame:
    """The batches of the finished epochs; none where an earlier version saved the checkpoint.

    Raises:
        RunError: there is no checkpoint, or the file is damaged.
    """
    path = _existing(folder) / BATCHES
    return read_batches(path) if path.is_file() else empty_batches()


def restore_weights(folder: Path, learn: Learner) -> None:
    """Load the weights of the last finished epoch.

    Raises:
        RunError: there is no checkpoint.
        WeightsError: the weights are damaged or of another network.
    """
    load_weights(learn.model, _existing(folder) / MODEL)


def restore_optimizer(folder: Path, learn: Learner) -> None:
    """Load the optimizer's state; needed only within a phase, since each phase resets it.

    Raises:
        RunError: there is no checkpoint, or the optimizer's file is damaged.
    """
    checkpoint, state = _existing(folder), read_state(folder) or {}
    device = next(learn.model.parameters()).device
    try:
        entries: list[dict[str, Any]] = [dict(scalars) for scalars in state["optimizer"]]
        for key, tensor in safetensors.torch.load_file(checkpoint / OPTIMIZER).items():
            index, name = key.split(".", 1)
            entries[int(index)][name] = tensor.to(device)
        learn.opt.load_state_dict({"state": entries, "hypers": learn.opt.hypers})
    except (OSError, SafetensorError, ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
        raise RunError(f"{checkpoint}: the optimizer's state is damaged ({error}). Start a new run.") from error


def _existing(folder: Path) -> Path:
    checkpoint = _newest(folder)
    if checkpoint is None:
        raise RunError(f"{folder}: the checkpoint is gone. Start a new run.")
    return checkpoint


def _newest(folder: Path) -> Path | None:
    """The checkpoint, or the one before if a crash came between two renames."""
    candidates = (folder, folder.with_name(folder.name + ".old"))
    return next((path for path in candidates if (path / STATE).is_file()), None)

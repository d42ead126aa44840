"""From a run's folder to a fastai Learner, and from a Learner back into a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xrayfast.config import Config, DataConfig, Device, Task
from xrayfast.data.cache.image_cache import UncachedImages, open_images
from xrayfast.data.manifest import Manifest
from xrayfast.errors import ConfigError, DataError, RunError
from xrayfast.files import replace_atomically
from xrayfast.learning.model.weights import load_weights, save_weights
from xrayfast.learning.training.callbacks import History
from xrayfast.learning.training.learner import RadiographLearner, learner_from_config
from xrayfast.learning.training.loaders import dataloaders
from xrayfast.learning.training.mixed_precision import restore_precision
from xrayfast.metrics.decision import Decision
from xrayfast.run import Run
from xrayfast.workflows.data import find_data, split_table, with_absolute_paths
from xrayfast.workflows.fit import finish
from xrayfast.workflows.provenance import facts


def load(run: Run | Path | str, data: Manifest | None = None, *, device: Device = "auto") -> RadiographLearner:
    """A working fastai Learner with the weights of a run's best epoch, its body frozen.

    Nothing in the folder can run code: settings are read by a safe YAML parser and checked, weights are safetensors.

    Args:
        run: the run or its folder.
        data: what the learner's DataLoaders are to hold; by default the run's own data where it still lies unchanged,
            else one black image, which is enough to predict on new files.
        device: where to run.

    Raises:
        RunError: the folder is not a whole run.
        WeightsError: the weights are not those of the network that the folder describes.
    """
    run = Run.of(run)
    known = (run.labels, run.task)
    if data is None:
        data = find_data(run) or _blank_manifest(run.labels, run.task, run.config.model.size)
        if (data.labels, data.task) != known:
            raise RunError(f"{run.path}: labels.json names other labels than the data that the run was trained on.")
    elif (data.labels, data.task) != known:
        raise DataError(
            f"{run.path} was trained on the labels {', '.join(run.labels)} ({run.task}-label); this data has "
            f"{', '.join(data.labels)} ({data.task}-label)."
        )
    return _load(run, data, device)


def save(learn: RadiographLearner, *, name: str | None = None, runs: Path | str = "runs") -> Run:
    """Keep a learner that was trained by hand in a new run's folder, like one that `fit` made.

    Args:
        learn: a learner from `xrayfast.learner` or `xrayfast.load`; its last `fit` gives the history.
        name: of the run; default the arch and a number that counts up.
        runs: the folder that runs are kept in.

    Raises:
        ConfigError: the learner was not made by xrayfast, so that its network can't be described.
        DataError: it holds no data set.
        RunError: the folder can't be written.
    """
    settings = getattr(learn, "settings", None)
    if settings is None:
        raise ConfigError(
            "This learner was not made by xrayfast.learner or xrayfast.load, so its network can't be described in a "
            "run's folder."
        )
    manifest = learn.dls.manifest
    if _is_blank(manifest):
        raise DataError(
            "This learner holds no data set, only a stand-in: load the run with data=xrayfast.open_data(...)."
        )
    config = Config().updated(settings).model_copy(update={"data": with_absolute_paths(manifest.config)})
    run = Run.create(
        Path(runs),
        name,
        learn.arch,
        config,
        facts(learn, "", remarks=["Trained by hand, in Python."]),
    )
    run.write_decision(Decision(manifest.task, manifest.labels))
    run.write_split(split_table(manifest, open_images(manifest.config, config.model.size)))
    history = _recorded(learn)
    run.write_history(history.rows)
    with replace_atomically(run.new_model_path) as temporary:
        save_weights(learn.model, temporary)
    finish(run, learn, history, config, seconds=0.0)
    return run


def _load(run: Run, data: Manifest, device: Device) -> RadiographLearner:
    config = run.config
    train = config.train
    dls = dataloaders(
        data,
        size=config.model.size,
        batch_size=train.batch_size,
        workers=0,
        device=device,
        seed=train.seed,
        images=UncachedImages(config.model.size) if _is_blank(data) else None,
    )
    # The body's weights are in the run's own file; fp16 is the one precision that another machine may lack.
    bare = config.model.model_copy(update={"weights": "none"})
    precision = "auto" if train.precision == "fp16" else train.precision
    learn = learner_from_config(dls, bare, train.model_copy(update={"precision": precision}))
    restore_precision(learn, run.info.precision)
    load_weights(learn.model, run.model_path)
    learn.settings["weights"] = str(run.model_path.absolute())
    return learn


def _blank_manifest(labels: tuple[str, ...], task: Task, size: int) -> Manifest:
    """A stand-in for data that are gone: one black image each in train and valid."""
    black = np.zeros((size, size), dtype=np.uint8)
    targets = np.zeros((2, len(labels)), dtype=np.float32)
    targets[:, 0] = 1
    table = pd.DataFrame(
        {
            "image": ["blank-1", "blank-2"],
            "path": pd.Series([black, black], dtype=object),
            "patient": pd.Series([None, None], dtype=object),
            "split": ["train", "valid"],
            "labels": [labels[0], labels[0]],
        }
    )
    return Manifest(
        table=table, labels=labels, targets=targets, task=task, config=DataConfig(), notes=(), drawn=np.zeros(2, bool)
    )


def _is_blank(data: Manifest) -> bool:
    """Whether this is a stand-in from `_blank_manifest`."""
    return isinstance(data.table["path"].iloc[0], np.ndarray)


def _recorded(learn: RadiographLearner) -> History:
    """The rows of the learner's last `fit`, as far as fastai's Recorder has them."""
    recorder: Any = getattr(learn, "recorder", None)
    rows = []
    for number, values in enumerate(getattr(recorder, "values", []), 1):
        named = dict(zip(recorder.metric_names[1:], values, strict=False))
        rows.append(
            {
                "epoch": number,
                "phase": "by hand",
                "size": learn.dls.size,
                **{
                    key: None if value is None or np.isnan(float(value)) else float(value)
                    for key, value in named.items()
                },
                "lr": float(recorder.lrs[recorder.iters[number - 1] - 1]),
            }
        )
    # Kept are the weights that the learner has now; no epoch was chosen.
    return History(rows)

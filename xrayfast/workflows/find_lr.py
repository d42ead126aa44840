"""Find a learning rate."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import Unpack

from xrayfast.config import Config, Options
from xrayfast.data.manifest import Manifest
from xrayfast.errors import ReadError
from xrayfast.learning.loaders import named
from xrayfast.learning.lr_find import LRCurve, range_test
from xrayfast.learning.randomness import isolated_rng
from xrayfast.workflows.data import as_manifest
from xrayfast.workflows.fit import prepare


def find_lr(
    data: Manifest | Path | str = "data",
    *,
    config: Config | None = None,
    steps: int = 100,
    **options: Unpack[Options],
) -> LRCurve:
    """Train for some steps while the learning rate grows, and suggest where to train.

    With `unfreeze` all layers are trained at the same rate; else the head alone.

    Args:
        data: a Manifest from `open_data`, or the folder of a data set.
        config: settings to start from; `options` go over them.
        steps: batches.
        options: any field of ModelConfig and TrainConfig.

    Returns:
        The curve: `.lrs`, `.losses`, `.suggestions`, `.best`, `.plot()`, `.to_csv(path)`.

    Raises:
        XrayfastError: settings, data or weights that can't be used.
    """
    manifest = as_manifest(data)
    config = (config or Config()).updated(options)
    learn = prepare(manifest, config)
    groups = len(learn.opt.param_lists)
    if config.train.unfreeze:
        learn.unfreeze()
    elif config.train.unfreeze_blocks is not None:
        learn.freeze_to(max(groups - 1 - config.train.unfreeze_blocks, 0))
    with isolated_rng(config.train.seed, "range test"):
        try:
            return range_test(learn, steps)
        except ReadError as error:
            raise named(error) from error

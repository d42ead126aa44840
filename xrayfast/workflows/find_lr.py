"""Find a learning rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import Unpack

from xrayfast.config import MAX_EPOCHS, Config, Options, field_types
from xrayfast.data.manifest import Manifest
from xrayfast.errors import ReadError
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import warn
from xrayfast.launch import require_alone
from xrayfast.learning.callback_rules import check_callbacks
from xrayfast.learning.dataloaders.loaders import as_read_error
from xrayfast.learning.fastai_api import Callbacks
from xrayfast.learning.own_failures import name_own_code
from xrayfast.learning.randomness import isolated_rng
from xrayfast.learning.threads import FreeThreads
from xrayfast.learning.training.lr_find import LRCurve, range_test
from xrayfast.learning.training.phases import plan_phases
from xrayfast.metrics.registry import history_metrics
from xrayfast.option_effects import check_range_test
from xrayfast.own_code import separate_code
from xrayfast.progress import StageProgress, show_progress
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.data.images import decode
from xrayfast.workflows.steps.data.opening import resolve_inputs
from xrayfast.workflows.steps.preparing import prepare, require_settings


@check_arguments(field_types)
def find_lr(
    data: Manifest | Path | str | None = None,
    *,
    config: Config | None = None,
    steps: Annotated[int, Field(ge=20, le=MAX_EPOCHS)] = 100,
    progress: bool | StageProgress | None = None,
    note: Callable[[str], None] = warn,
    cbs: Callbacks = (),
    **options: Unpack[Options],
) -> LRCurve:
    """Train for a few batches with a growing learning rate, and suggest learning rates (LR range test).

    The trained layers are those of the last phase of `fit` with the same options, all at one learning rate: only the
    head or, with `unfreeze`, the whole network.

    Args:
        data: a Manifest from `open_data`, or the folder of a data set; by default the `source` of `config` ("data/").
        config: settings; `options` override them.
        steps: number of batches, at least 20.
        progress: whether to display progress, by default only in a notebook or a terminal; or a function to call with
            the stage, the images done and the total.
        note: function to call with each note, such as on options without effect.
        cbs: further fastai callbacks, as in `fit`.
        options: any field of ModelConfig and TrainConfig, as in `fit`.

    Returns:
        The curve: `.lrs`, `.losses`, `.suggestions`, `.best`, `.plot()`, `.to_csv(path)`.

    Raises:
        XrayfastError: the settings, data or weights can't be used.
    """
    require_alone("lr-find trains in one process")
    settings, code = separate_code(options)
    # A range test does not need the callbacks and metrics of a run.
    Run.require_code_of((config or Config()).updated(settings), code | {"cbs": cbs, "metrics": ()})
    manifest, config, idle = resolve_inputs(data, config, settings)
    require_settings(manifest, config, code)
    cbs = check_callbacks(cbs, None, "off", history_metrics(manifest.task), config.train.mixes_images)
    with show_progress(progress) as reporter:
        for text in check_range_test(options) + idle:
            note(text)
        manifest, images = decode(manifest, config.model.size, reporter.preparing)
        learn = prepare(manifest, config, images, code=code)
        learn.add_own(cbs, ())
        for text in (*learn.network_notes, *learn.dls.notes):
            note(text)
        learn.freeze_to(plan_phases(config.train, len(learn.groups), 1.0, pretrained=True)[-1].frozen_groups)
        with learn.no_bar(), isolated_rng(config.train.seed, "range test"), FreeThreads():
            try:
                return range_test(learn, steps, progress=reporter.preparing)
            except ReadError as error:
                raise as_read_error(error) from error
            except Exception as error:
                if (named := name_own_code(error, learn)) is not error:
                    raise named from error
                raise

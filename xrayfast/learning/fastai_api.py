# ruff: noqa: F401 - the names are imported for other modules
"""Every fastai name that xrayfast uses, imported in one place.

The order of fastai's imports matters: the modules below patch `fit_one_cycle`, `lr_find` and `to_fp16` into `Learner`,
and add to `defaults.callbacks`, which each new Learner gets. `fastai.vision.all` would also import fastai's text
modules, and with them spaCy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from xrayfast.learning.deferred_imports import deferring

_DEFERRED = {
    "fastprogress.fastprogress": ["format_time", "master_bar", "progress_bar"],
    "matplotlib": [],
    "matplotlib.patches": [],
    "matplotlib.patheffects": [],
    "matplotlib.pyplot": ["Axes.imshow", "Figure", "subplots"],
    "requests": [],
    "scipy.ndimage": [],
    "scipy.stats": [],
    "sklearn": [],
    "sklearn.metrics": [],
    "sklearn.model_selection": ["train_test_split"],
}
"""Modules that fastai imports and training does not need. fastai's progress bar even imports a web server."""

with warnings.catch_warnings():
    # torch 2.15 deprecates torch.jit.script, which fastai calls on import.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    # A fastai that imports other names from these modules fails here, and imports the real modules below.
    with suppress(ImportError), deferring(_DEFERRED):
        import fastai.basics
        import fastai.callback.training
        import fastai.vision.core
    from fastai.basics import defaults
    from fastai.callback.core import Callback, CancelBatchException, CancelFitException, TrainEvalCallback, event
    from fastai.callback.fp16 import MixedPrecision
    from fastai.callback.progress import ProgressCallback
    from fastai.callback.schedule import ParamScheduler, SuggestionMethod, combined_cos
    from fastai.callback.training import GradientClip
    from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
    from fastai.data.core import DataLoaders, TfmdDL
    from fastai.data.transforms import EncodedMultiCategorize, IntToFloatTensor, MultiCategory, ToTensor
    from fastai.imports import noop
    from fastai.interpret import ClassificationInterpretation
    from fastai.learner import AvgLoss, AvgSmoothLoss, Learner, Metric, Recorder, mk_metric
    from fastai.optimizer import Optimizer
    from fastai.torch_core import TensorCategory, TensorImage, TensorImageBW, TensorMultiCategory, show_title
    from fastai.vision.core import PILImageBW
    from fastcore.basics import chunked
    from fastcore.foundation import L
    from fastcore.xtras import ContextManagers
    from fasttransform import Pipeline, Transform


def register_drawing() -> None:
    """Import fastai's functions that draw images, such as those of `show_batch`; it dispatches on types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fastai.vision.learner  # also imports timm if it is installed


Callbacks: TypeAlias = Callback | type[Callback] | Sequence[Callback | type[Callback]]
"""One or several callbacks, as fastai takes them."""

Metrics: TypeAlias = Callable[..., Any] | Metric | Sequence[Callable[..., Any] | Metric]
"""One or several metrics, as fastai takes them: functions of outputs and targets, or fastai's own."""

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

from xrayfast.learning.deferred import deferring

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
        import fastai.vision.core  # noqa: F401
    from fastai.basics import defaults as defaults
    from fastai.callback.core import Callback as Callback
    from fastai.callback.core import CancelBatchException as CancelBatchException
    from fastai.callback.core import CancelFitException as CancelFitException
    from fastai.callback.core import TrainEvalCallback as TrainEvalCallback
    from fastai.callback.core import event as event
    from fastai.callback.fp16 import MixedPrecision as MixedPrecision
    from fastai.callback.progress import ProgressCallback as ProgressCallback
    from fastai.callback.schedule import ParamScheduler as ParamScheduler
    from fastai.callback.schedule import SuggestionMethod as SuggestionMethod
    from fastai.callback.schedule import combined_cos as combined_cos
    from fastai.callback.training import GradientClip as GradientClip
    from fastai.data.block import CategoryBlock as CategoryBlock
    from fastai.data.block import DataBlock as DataBlock
    from fastai.data.block import TransformBlock as TransformBlock
    from fastai.data.core import DataLoaders as DataLoaders
    from fastai.data.core import TfmdDL as TfmdDL
    from fastai.data.transforms import EncodedMultiCategorize as EncodedMultiCategorize
    from fastai.data.transforms import IntToFloatTensor as IntToFloatTensor
    from fastai.data.transforms import MultiCategory as MultiCategory
    from fastai.data.transforms import ToTensor as ToTensor
    from fastai.imports import noop as noop
    from fastai.interpret import ClassificationInterpretation as ClassificationInterpretation
    from fastai.learner import AvgLoss as AvgLoss
    from fastai.learner import AvgSmoothLoss as AvgSmoothLoss
    from fastai.learner import Learner as Learner
    from fastai.learner import Metric as Metric
    from fastai.learner import Recorder as Recorder
    from fastai.learner import mk_metric as mk_metric
    from fastai.optimizer import Optimizer as Optimizer
    from fastai.torch_core import TensorCategory as TensorCategory
    from fastai.torch_core import TensorImage as TensorImage
    from fastai.torch_core import TensorImageBW as TensorImageBW
    from fastai.torch_core import TensorMultiCategory as TensorMultiCategory
    from fastai.torch_core import show_title as show_title
    from fastai.vision.core import PILImageBW as PILImageBW
    from fastcore.basics import chunked as chunked
    from fastcore.foundation import L as L
    from fastcore.xtras import ContextManagers as ContextManagers
    from fasttransform import Pipeline as Pipeline
    from fasttransform import Transform as Transform


def register_drawing() -> None:
    """Import fastai's functions that draw images, such as those of `show_batch`; it dispatches on types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fastai.vision.learner  # noqa: F401 - also imports timm if it is installed


Callbacks: TypeAlias = Callback | type[Callback] | Sequence[Callback | type[Callback]]
"""One or several callbacks, as fastai takes them."""

Metrics: TypeAlias = Callable[..., Any] | Metric | Sequence[Callable[..., Any] | Metric]
"""One or several metrics, as fastai takes them: functions of outputs and targets, or fastai's own."""

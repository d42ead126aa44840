"""xrayfast: train, evaluate and report classifiers of chest radiographs, on fastai.

For research and teaching, not for diagnosis.

Public names are imported when they are first used, so that `import xrayfast` and `xrayfast --help` are fast.

    >>> import xrayfast as xf
    >>> run = xf.fit("data/", arch="resnet18", unfreeze=True)  # doctest: +SKIP
    >>> xf.interpret(run)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from xrayfast._version import __version__ as __version__

if TYPE_CHECKING:
    from xrayfast.config import Config as Config
    from xrayfast.data.manifest import Manifest as Manifest
    from xrayfast.errors import XrayfastError as XrayfastError
    from xrayfast.learning.dataloaders.loaders import RadiographBlock as RadiographBlock
    from xrayfast.learning.dataloaders.loaders import dataloaders as dataloaders
    from xrayfast.learning.fastai_interpretation import RadiographInterpretation as RadiographInterpretation
    from xrayfast.learning.model.losses import FocalLoss as FocalLoss
    from xrayfast.learning.training.build_learner import learner as learner
    from xrayfast.runs.cross_validation import CrossValidation as CrossValidation
    from xrayfast.runs.run import Run as Run
    from xrayfast.synthetic import phantom as phantom
    from xrayfast.synthetic import write_dataset
    from xrayfast.workflows.build_cache import build_cache as build_cache
    from xrayfast.workflows.check import check as check
    from xrayfast.workflows.compare import compare as compare
    from xrayfast.workflows.cross_validate import cross_validate as cross_validate
    from xrayfast.workflows.cross_validate import join_folds as join_folds
    from xrayfast.workflows.cross_validate import resume_cross_validation as resume_cross_validation
    from xrayfast.workflows.ensemble import ensemble as ensemble
    from xrayfast.workflows.evaluate import evaluate as evaluate
    from xrayfast.workflows.explain import explain as explain
    from xrayfast.workflows.export import export as export
    from xrayfast.workflows.find_lr import find_lr as find_lr
    from xrayfast.workflows.fit import fit as fit
    from xrayfast.workflows.fit import resume as resume
    from xrayfast.workflows.interpret import interpret as interpret
    from xrayfast.workflows.load import load as load
    from xrayfast.workflows.load import save as save
    from xrayfast.workflows.open_data import open_data as open_data
    from xrayfast.workflows.predict import predict as predict
    from xrayfast.workflows.push import push as push
    from xrayfast.workflows.report import report as report
    from xrayfast.workflows.review import review as review
    from xrayfast.workflows.split import split as split

    synth = write_dataset

_HOMES = {
    "Config": "xrayfast.config:Config",
    "CrossValidation": "xrayfast.runs.cross_validation:CrossValidation",
    "FocalLoss": "xrayfast.learning.model.losses:FocalLoss",
    "Manifest": "xrayfast.data.manifest:Manifest",
    "RadiographBlock": "xrayfast.learning.dataloaders.loaders:RadiographBlock",
    "RadiographInterpretation": "xrayfast.learning.fastai_interpretation:RadiographInterpretation",
    "Run": "xrayfast.runs.run:Run",
    "XrayfastError": "xrayfast.errors:XrayfastError",
    "build_cache": "xrayfast.workflows.build_cache:build_cache",
    "check": "xrayfast.workflows.check:check",
    "compare": "xrayfast.workflows.compare:compare",
    "cross_validate": "xrayfast.workflows.cross_validate:cross_validate",
    "dataloaders": "xrayfast.learning.dataloaders.loaders:dataloaders",
    "ensemble": "xrayfast.workflows.ensemble:ensemble",
    "evaluate": "xrayfast.workflows.evaluate:evaluate",
    "explain": "xrayfast.workflows.explain:explain",
    "export": "xrayfast.workflows.export:export",
    "find_lr": "xrayfast.workflows.find_lr:find_lr",
    "fit": "xrayfast.workflows.fit:fit",
    "interpret": "xrayfast.workflows.interpret:interpret",
    "join_folds": "xrayfast.workflows.cross_validate:join_folds",
    "learner": "xrayfast.learning.training.build_learner:learner",
    "load": "xrayfast.workflows.load:load",
    "open_data": "xrayfast.workflows.open_data:open_data",
    "phantom": "xrayfast.synthetic:phantom",
    "predict": "xrayfast.workflows.predict:predict",
    "push": "xrayfast.workflows.push:push",
    "report": "xrayfast.workflows.report:report",
    "resume": "xrayfast.workflows.fit:resume",
    "resume_cross_validation": "xrayfast.workflows.cross_validate:resume_cross_validation",
    "review": "xrayfast.workflows.review:review",
    "save": "xrayfast.workflows.load:save",
    "split": "xrayfast.workflows.split:split",
    "synth": "xrayfast.synthetic:write_dataset",
}

__all__ = sorted(["__version__", *_HOMES])


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'xrayfast' has no attribute '{name}'")
    module, attribute = _HOMES[name].split(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__

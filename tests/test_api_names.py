"""A setting has one name: keywords of the Python API are fields of the config."""

import inspect

import pytest

import xrayfast as xf
from xrayfast.config import FIELD_SECTIONS, DataConfig

NOT_SETTINGS = {
    "data": "a Manifest or the folder of a data set; `source` is only the folder",
    "config": "all settings at once",
    "recipe": "settings that go together, which it sets",
    "options": "fields of the config, typed by `Options`",
    "run": "a run, or its folder",
    "cv": "a cross-validation, or its folder",
    "repeats": "of a cross-validation",
    "random_folds": "of a cross-validation",
    "inner_valid": "of a cross-validation",
    "jobs": "of a cross-validation",
    "runs": "the folder of runs, or the runs to compare",
    "name": "of a run's or an evaluation's folder",
    "output": "a file or folder to write",
    "command": "the command line, for the record",
    "progress": "whether to display it, or what is called while it works",
    "note": "called with what was left out",
    "reporter": "called while it trains",
    "interrupted": "asked whether to stop",
    "dls": "fastai's DataLoaders",
    "metrics": "further ones of a learner, in Python",
    "cbs": "fastai's callbacks, in Python",
    "groups": "of a learner: one per block or one per layer; `unfreeze_layers` says which",
    "learn": "fastai's Learner",
    "images": "decoded images; how many to synthesize; those to compare an export on",
    "format": "of an exported file",
    "with_script": "whether to write one beside an exported file",
    "repository": "on the Hub",
    "public": "whether everybody sees a repository",
    "with_predictions": "whether to publish them",
    "with_split": "whether to publish it",
    "dry_run": "whether only to list what would be published",
    "sources": "images to predict, more than one `source`",
    "files": "images to explain",
    "label": "one label of the run; `labels` is a table",
    "split": "train, valid or test; how `synth` writes them",
    "shards": "which share of a cache to build",
    "by": "columns of subgroups",
    "order": "of the rows",
    "reference": "the run that others are compared with",
    "page": "a file to write as HTML",
    "steps": "of a learning-rate range test",
    "top": "how many cases to show",
    "saliency": "how many cases to explain",
    "figure_format": "of the files in figures/",
    "predictions": "tables of any tool",
    "threshold": "of probabilities of any tool",
    "abstain_below": "a probability, of one call",
    "correct_prior": "of one evaluation",
    "condition": "of a phantom",
    "patient": "of a phantom: its number",
    "image": "of a phantom: its number",
    "folder": "to write synthetic data to; in which an ensemble is made",
    "images_per_patient": "of synthetic data",
    "multi_label": "of synthetic data",
}
"""Keywords that are no settings of a run, and what they are."""

FUNCTIONS = [name for name in xf.__all__ if inspect.isfunction(getattr(xf, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_keyword_is_a_setting_by_its_name_in_the_config(name):
    assert not {*inspect.signature(getattr(xf, name)).parameters} - {*FIELD_SECTIONS} - {*NOT_SETTINGS}


def test_no_keyword_that_is_not_a_setting_has_the_name_of_one():
    assert not {*NOT_SETTINGS} & {*FIELD_SECTIONS}
    used = {keyword for name in FUNCTIONS for keyword in inspect.signature(getattr(xf, name)).parameters}
    assert used >= {*NOT_SETTINGS}


def test_open_data_takes_each_setting_of_the_data_with_its_default():
    found = inspect.signature(xf.open_data).parameters
    assert list(found) == list(DataConfig.model_fields)
    defaults = {name: keyword.default for name, keyword in found.items()}
    assert DataConfig(**defaults) == DataConfig()

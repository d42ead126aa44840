"""A recipe sets some fields of the config; options given explicitly take precedence."""

import pytest

import xrayfast as xf
from tests.conftest import SMALL
from xrayfast.config import FIELD_SECTIONS, Config
from xrayfast.workflows.recipes import RECIPES, with_recipe


def value(config, name):
    return getattr(getattr(config, FIELD_SECTIONS[name]), name)


@pytest.mark.filterwarnings("ignore:The recipe")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_only_its_fields_and_options_take_precedence(recipe, tmp_path):
    before = Config().updated({"unfreeze_blocks": 2, "wd": 0.3})
    (tmp_path / "config.yaml").write_text(with_recipe(before, recipe, {}).to_yaml())
    found = Config.read(tmp_path / "config.yaml")
    for name in FIELD_SECTIONS:
        assert value(found, name) == RECIPES[recipe].get(name, value(before, name)), name
    options = {"epochs": 2, "size": 64}
    config = with_recipe(before, recipe, options).updated(options)
    assert (config.train.epochs, config.model.size, config.train.wd) == (2, 64, 0.3)


def test_settings_of_the_config_that_a_recipe_overrides_are_warned_of(recwarn):
    config = Config().updated({"size": 64, "epochs": 3, "wd": 0.3})
    with_recipe(config, "fast", {"epochs": 2})
    with_recipe(config, "default", {})
    with_recipe(None, "best", {})
    (found,) = recwarn
    assert "recipe fast overrides the config: size 128 instead of 64. Options" in str(found.message)


def test_an_option_of_unfreezing_replaces_the_recipe_s():
    config = with_recipe(None, "best", {"unfreeze_layers": 3}).updated({"unfreeze_layers": 3})
    assert (config.train.unfreeze, config.train.unfreeze_layers, config.train.epochs) == (False, 3, 5)
    assert with_recipe(None, "best", {"unfreeze": False}).updated({"unfreeze": False}).train.unfreeze is False


def test_fit_and_cross_validate_take_a_recipe(data_dir, tmp_path):
    options = SMALL | {"epochs": 1, "members": 2}
    run = xf.fit(data_dir, recipe="best", runs=tmp_path, **options)
    cv = xf.cross_validate(data_dir, recipe="best", folds=2, fold=1, name="cv", runs=tmp_path, **options)
    for config in (run.config, cv.config):
        for name, expected in RECIPES["best"].items():
            assert value(config, name) == options.get(name, expected)
    assert [member.history["phase"].tolist() for member in run.members] == [["head", "all"]] * 2

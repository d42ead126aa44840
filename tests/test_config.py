"""Settings: YAML files, Python and the command line share one list of fields."""

import inspect
import json
import re
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pydantic_core import PydanticUndefined

from xrayfast.cli import options
from xrayfast.cli.commands import fit, lr_find
from xrayfast.config import (
    FIELD_SECTIONS,
    LOSS_SETTINGS,
    SECTIONS,
    Config,
    DataConfig,
    Options,
    ResultsConfig,
    TrainConfig,
    losses_with,
    option,
)
from xrayfast.errors import ConfigError
from xrayfast.own_code import OWN_SETTINGS

FIELDS = {name: SECTIONS[section].model_fields[name] for name, section in FIELD_SECTIONS.items()}
PYTHON_ONLY = {name for name, field in FIELDS.items() if "python_only" in field.json_schema_extra}


def test_field_names_are_unique_over_the_sections():
    assert list(SECTIONS) == list(Config.model_fields)
    assert len(FIELD_SECTIONS) == sum(len(model.model_fields) for model in SECTIONS.values())


def test_python_keywords_are_the_fields_of_all_sections_but_data():
    assert set(Options.__annotations__) == set(FIELDS) - set(DataConfig.model_fields)


WIDER_IN_PYTHON = {"weights", "ema"}
"""A run, as a path or `Run`; True for the default decay."""


def test_python_keywords_have_the_types_of_the_fields():
    hints = typing.get_type_hints(Options)
    for model in SECTIONS.values():
        for name, hint in typing.get_type_hints(model).items():
            if name in OWN_SETTINGS:
                assert set(typing.get_args(hint | Callable[..., typing.Any])) <= set(typing.get_args(hints[name])), name
            elif name in hints and typing.get_origin(hint) is not tuple:  # a single value is allowed instead of a list
                kinds, allowed = (set(typing.get_args(kind)) or {kind} for kind in (hint, hints[name]))
                assert kinds == allowed or (name in WIDER_IN_PYTHON and kinds < allowed), name


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_as_parameter_gives_an_option_per_field(section):
    @options.takes(section)
    def command(given):
        pass

    assert set(inspect.signature(command).parameters) == set(SECTIONS[section].model_fields) - PYTHON_ONLY


def test_fit_takes_an_option_for_every_field():
    assert set(inspect.signature(fit.fit).parameters) >= set(FIELDS) - PYTHON_ONLY


def test_a_new_field_is_an_option_of_fit(monkeypatch):
    class Longer(TrainConfig):
        warmup: float | None = option(None, "Fraction of the steps.", panel="Loss", metavar="X", short="-w")

    monkeypatch.setitem(options.SECTIONS, "train", Longer)
    monkeypatch.setitem(options.FIELD_SECTIONS, "warmup", "train")
    monkeypatch.setitem(options.FIELDS, "warmup", Longer.model_fields["warmup"])

    @options.takes("train")
    def command(given):
        assert given == {"warmup": 0.5}

    annotation = inspect.signature(command).parameters["warmup"].annotation
    kind, made = typing.get_args(annotation)
    assert kind == float | None
    assert ([made.default, *made.param_decls], made.rich_help_panel) == (["--warmup", "-w"], "Loss")
    assert (made.help, made.metavar, made.show_default) == ("Fraction of the steps.", "X", False)
    command(**dict.fromkeys(TrainConfig.model_fields), warmup=0.5)


def test_lr_find_takes_the_fields_that_have_an_effect_in_a_range_test():
    left_out = set(FIELDS) - PYTHON_ONLY - set(inspect.signature(lr_find.lr_find).parameters)
    assert left_out == {
        "ema",
        "freeze_epochs",
        "gradual_unfreeze",
        "epochs",
        "lr",
        "lr_div",
        "schedule",
        "precise_bn",
        "sync_bn",
        "early_stop",
        "members",
        "monitor",
        "train_metrics",
        "tta",
        "allow_leaks",
        "track",
        "progressive",
        "reuse_frozen",
        "frozen_views",
        *ResultsConfig.model_fields,
    }


@pytest.mark.parametrize("name", sorted(set(FIELDS) - PYTHON_ONLY - {"source", "labels"}))
def test_an_option_has_the_field_s_name_and_shows_its_default(name):
    alias = inspect.signature(fit.fit).parameters[name].annotation
    (option,) = typing.get_args(alias)[1:]
    assert option.help and option.rich_help_panel
    flag = "--" + name.replace("_", "-")
    # In Annotated, Typer stores the first spelling as the default.
    declared = [option.default, *option.param_decls]
    assert flag in [spelling for names in declared for spelling in names.split("/")]
    default = FIELDS[name].default
    assert default is not PydanticUndefined
    if default is None or default == ():
        assert option.show_default is False or name in ("lr_div", "workers", "beta2", "eps", "dropout")
    elif isinstance(default, bool):
        assert option.show_default == ("on" if default else "off")
    else:
        assert option.show_default == str(default)


def test_yaml_gives_the_same_settings_back(tmp_path):
    config = Config().updated(
        {"arch": "vgg16", "head_width": (500, 100), "lr": "auto", "alpha": (0.25, 0.5), "imply": ["a=b"], "source": "x"}
    )
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert Config.read(tmp_path / "c.yaml") == config


def test_options_go_over_a_file(tmp_path):
    (tmp_path / "c.yaml").write_text("train:\n  epochs: 3\n  lr: 0.1\n")
    config = Config.read(tmp_path / "c.yaml").updated({"epochs": 5})
    assert (config.train.epochs, config.train.lr, config.train.batch_size) == (5, 0.1, 32)


def test_every_wrong_field_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        Config().updated({"epochs": 0, "loss": "hinge", "size": "big"})
    assert len(str(caught.value).splitlines()) == 3
    for words in ("epochs is 0", "loss is 'hinge'", "size is 'big'"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train:\n  epoch: 3\n", "unknown key 'train.epoch'. Did you mean 'epochs'"),
        ("trian:\n  epochs: 3\n", "unknown key 'trian'. Did you mean 'train'"),
        ("epochs: 3\n", "unknown key 'epochs'. 'epochs' belongs under 'train:'."),
        ("train:\n  arch: vgg16\n", "unknown key 'train.arch'. 'arch' belongs under 'model:'."),
        ("train:\n  lr: fast\n", "lr is 'fast'; expected a number or 'auto'."),
        ("- 1\n", "expected the sections"),
        ("# epochs: 3\n", "expected the sections data, model, train and results; found no settings."),
        ("a: [", "not plain YAML"),
        ("train: !!python/object/apply:os.system ['true']\n", "not plain YAML"),
        ("train:\n  epochs: [1]\n", "epochs is"),
        ("train: 3\n1: 2\n", "train is 3; expected a dictionary."),
    ],
)
def test_wrong_files_are_reported(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Config.read(tmp_path / "c.yaml")
    assert words in str(caught.value)
    assert "c.yaml" in str(caught.value)


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.yaml: found no such file"):
        Config.read(tmp_path / "no.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        Config.read(tmp_path / "b.yaml")


def test_an_unknown_option_has_a_suggestion():
    with pytest.raises(ConfigError, match=r"'epoch'. Did you mean 'epochs'"):
        Config().updated({"epoch": 3})


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 3


def test_yaml_is_plain(tmp_path):
    assert yaml.safe_load(Config().to_yaml())["train"]["lr"] == 0.002


@pytest.mark.parametrize(
    "options",
    [
        {"thresholds": "youden", "target_sensitivity": 0.9},
        {"target_sensitivity": 0.9, "target_specificity": 0.9},
    ],
)
def test_thresholds_are_chosen_by_one_criterion(options):
    with pytest.raises(ConfigError, match="expected one"):
        Config().updated(options)


def test_no_confidence_for_a_rate_of_1():
    with pytest.raises(ConfigError, match="target_confidence for a rate of 1; expected a lower rate"):
        Config().updated({"target_sensitivity": 1.0, "target_confidence": 0.9})


def test_yaml_s_on_and_off_are_words_for_reuse_frozen(tmp_path):
    for word in ("on", "off", "auto"):
        (tmp_path / "c.yaml").write_text(f"train: {{reuse_frozen: {word}}}")
        assert Config.read(tmp_path / "c.yaml").train.reuse_frozen == word


def test_sizes_that_are_no_numbers_are_reported_once():
    with pytest.raises(ConfigError) as caught:
        Config().updated({"progressive": ("a", "b")})
    assert str(caught.value).count("whole number") == 1


def test_a_last_progressive_size_that_is_not_the_size_is_reported_with_both(tmp_path):
    with pytest.raises(ConfigError, match=r"progressive ends at 128, and size is 224.*size=128"):
        Config().updated({"progressive": (64, 128)})
    assert Config().updated({"progressive": (64, 128), "size": 128}).train.progressive == (64, 128)


def test_a_loss_is_described_with_the_settings_that_it_takes(monkeypatch):
    assert TrainConfig(loss="ce", gamma=3).describe_loss("ce") == "ce"
    smoothed = TrainConfig(label_smoothing=0.1)
    assert smoothed.describe_loss("CrossEntropyLoss") == "CrossEntropyLoss, label_smoothing 0.1"
    focal = TrainConfig(loss="focal", gamma=3, alpha=(0.25, 0.5))
    assert focal.describe_loss("FocalLoss") == "FocalLoss, gamma 3, alpha (0.25, 0.5)"
    monkeypatch.setitem(LOSS_SETTINGS, "bce", ("gamma",))
    assert TrainConfig(loss="bce", alpha=0.5).describe_loss("bce") == "bce, gamma 2"
    assert losses_with("gamma") == "--loss bce or focal"


def numeric_kind(name):
    """Return float or int if the field takes such a number or a list of them, else None."""
    kinds = [FIELDS[name].annotation]
    for kind in kinds:
        kinds += typing.get_args(kind)
    return next((kind for kind in (float, int) if kind in kinds), None)


NUMBERS = [name for name in FIELDS if numeric_kind(name)]
NO_NUMBERS = ["1" + "0" * 20, "-1" + "0" * 20, "9" * 4200, "nan", "inf", "-inf"]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_bounds_in_python_and_in_files(name, tmp_path):
    """A number out of bounds gives an error that names option, value and bound."""
    for text in NO_NUMBERS:
        value = float(text) if text[-1] in "nf" else int(text)
        with pytest.raises(ConfigError) as in_python:
            Config().updated({name: value})
        in_yaml = {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(text, text)
        (tmp_path / "c.yaml").write_text(f"{FIELD_SECTIONS[name]}:\n  {name}: {in_yaml}\n")
        with pytest.raises(ConfigError) as in_file:
            Config.read(tmp_path / "c.yaml")
        for error in map(str, (in_python.value, in_file.value)):
            assert f"{name} is " in error and "; expected " in error and len(error) < 500, error


def test_bounds_allow_realistic_values():
    given = {"epochs": 1000, "head_width": (4096, 4096), "batch_size": 4096, "seed": 2**32, "resamples": 100_000}
    assert Config().updated(given).train.seed == 2**32


@pytest.mark.parametrize("name", [name for name in FIELDS if FIELDS[name].annotation is not bool])
def test_empty_strings_and_nul_characters_are_refused(name, tmp_path):
    """An empty path would mean the working folder, and a path can't have a NUL character."""
    for text, shown in (("", "''"), ("a\0b", r"'a\\x00b'")):
        with pytest.raises(ConfigError, match=f"{name} is {shown}; expected "):
            Config().updated({name: text})
        (tmp_path / "c.yaml").write_text(f"{FIELD_SECTIONS[name]}: {{{name}: {json.dumps(text)}}}\n")
        with pytest.raises(ConfigError, match=f"{name} is {shown}; expected "):
            Config.read(tmp_path / "c.yaml")


@pytest.mark.parametrize("name", [name for name in FIELDS if numeric_kind(name) or FIELDS[name].annotation is bool])
def test_numbers_and_booleans_need_the_right_type(name, tmp_path):
    """Strings are not taken for numbers, true not for 1, 1.0 not for an integer, "false" not for a boolean."""
    kind = numeric_kind(name) or bool
    wrong = {int: ["2", "0.5", 1.0, 2.5, True, ["1"], [1.0]], float: ["0.5", True, False, ["0.5"]]}
    for value in wrong.get(kind, ["false", "yes", "1", 0, 1, 1.0, [True]]):
        if name == "ema" and isinstance(value, bool):  # true means the default decay, false no averaging
            continue
        with pytest.raises(ConfigError) as in_python:
            Config().updated({name: value})
        (tmp_path / "c.yaml").write_text(f"{FIELD_SECTIONS[name]}: {{{name}: {json.dumps(value)}}}\n")
        with pytest.raises(ConfigError) as in_file:
            Config.read(tmp_path / "c.yaml")
        for text in map(str, (in_python.value, in_file.value)):
            assert f"{name} is " in text and re.search("; expected .*(number|boolean|integer)", text), text


def test_common_spellings_of_yaml_values_are_read(tmp_path):
    text = "train: {lr: 1e-3, wd: 0, eps: 1.E-6, alpha: [0.5, 1], unfreeze: on}\nmodel: {head_width: [64, 32]}\n"
    (tmp_path / "c.yaml").write_text(text + "data: {labels: a.csv, label_col: [1e3x, '1e3'], imply: a=b}")
    config = Config.read(tmp_path / "c.yaml")
    train, model, data = config.train, config.model, config.data
    assert (train.lr, train.wd, train.eps, train.alpha, train.unfreeze) == (0.001, 0.0, 1e-6, (0.5, 1.0), True)
    assert (model.head_width, data.label_col, data.imply) == ((64, 32), ("1e3x", "1e3"), ("a=b",))
    assert data.labels == Path("a.csv")
    (tmp_path / "c.yaml").write_text("train:\nmodel: {size: 64}\n")  # all lines of a section are commented out
    assert Config.read(tmp_path / "c.yaml").model.size == 64
    for text in ("1e3", "1.0", "on", "0x1f", "~"):  # a column may have such a name
        (tmp_path / "c.yaml").write_text(Config().updated({"label_col": text}).to_yaml())
        assert Config.read(tmp_path / "c.yaml").data.label_col == (text,)


def test_settings_of_an_older_run_keep_their_meaning():
    old = Path(__file__).parent / "old_runs" / "single" / "config.yaml"
    assert "precise_bn" not in old.read_text()
    assert Config.read(old).train.precise_bn is False
    assert Config().train.precise_bn is True


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"unfreeze": True}, 100.0),
        ({"unfreeze_blocks": 2}, 100.0),
        ({"unfreeze": True, "lr_div": 7.0}, 7.0),
        ({"unfreeze": True, "precise_bn": True}, None),  # of this version
        ({}, None),  # nothing is unfrozen
        ({"unfreeze": True, "weights": "none"}, None),  # the default was 1 and still is
    ],
)
def test_the_learning_rates_of_an_older_run_are_kept(tmp_path, change, expected):
    content = Config().updated(change).model_dump(mode="json")
    if "precise_bn" not in change:
        del content["train"]["precise_bn"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    assert Config.read(tmp_path / "c.yaml").train.lr_div == expected


def test_a_file_of_a_few_settings_leaves_the_others_as_they_are_now(tmp_path):
    (tmp_path / "c.yaml").write_text("train:\n  epochs: 3\n  lr: 0.1\n")
    assert Config.read(tmp_path / "c.yaml").train.precise_bn is True

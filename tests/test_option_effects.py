"""Each option either has an effect, or an error or a note says that it has none."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import xrayfast as xf
from tests.conftest import SMALL, add_tiny_vgg
from xrayfast.config import FIELD_SECTIONS, Config, ResultsConfig
from xrayfast.data.decoding import decode_manifest
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors import ConfigError
from xrayfast.learning.model.backbones import BACKBONES
from xrayfast.option_effects import (
    EFFECTS,
    NOT_IN_RANGE_TEST,
    DataFacts,
    DecisionFacts,
    DecodedFacts,
    EvaluationFacts,
    PlanFacts,
    check_effects,
    check_range_test,
    check_settings,
)
from xrayfast.workflows.steps.data.opening import resolve_inputs
from xrayfast.workflows.steps.evaluation.evaluated_data import open_external
from xrayfast.workflows.steps.results import refit_decision

pytestmark = pytest.mark.usefixtures("quick")

SELF_REPORTED = frozenset({"uncertain", "blank", "label_map", "corrections", "views", "unit"})
"""Options whose note or result says how many cells, labels or images they changed, even if none."""

UNFREEZE = {"unfreeze": True}
# For each effect that depends only on settings: options with which it acts, and options with which it does not.
BY_SETTINGS = [
    ("valid_fraction", {"valid_fraction": 0.3}, {"valid_fraction": 0.3, "folds": 3}, "one of the folds"),
    (
        "corrections_sha256",
        {"corrections_sha256": "x", "corrections": "x.csv"},
        {"corrections_sha256": "x"},
        "no corrections",
    ),
    ("cache_dir", {"cache_dir": "x"}, {"cache_dir": "x", "cache": False}, "cache=False"),
    ("freeze_epochs", {"freeze_epochs": 2, **UNFREEZE}, {"freeze_epochs": 2}, "nothing is unfrozen"),
    ("lr_div", {"lr_div": 5, "unfreeze_blocks": 1}, {"lr_div": 5}, "nothing is unfrozen"),
    ("beta2", {"beta2": 0.9}, {"beta2": 0.9, "optimizer": "sgd"}, "belongs to adam"),
    ("eps", {"eps": 0.1}, {"eps": 0.1, "optimizer": "sgd"}, "belongs to adam"),
    ("early_stop", {"early_stop": 5}, {"early_stop": 6}, "no more epochs"),
    ("progressive", {"progressive": (32, 224)}, {"progressive": (32, 64, 224), "epochs": 2}, "more sizes"),
    ("progressive", {"progressive": (32, 224)}, {"progressive": 224}, "one size"),
    (
        "reuse_frozen",
        {"reuse_frozen": "on", **UNFREEZE},
        {"reuse_frozen": "on", "freeze_epochs": 0, **UNFREEZE},
        "all layers",
    ),
    ("frozen_views", {"frozen_views": 3}, {"frozen_views": 3, "reuse_frozen": "off"}, "no features are cached"),
    ("gamma", {"gamma": 3, "loss": "focal"}, {"gamma": 3}, "takes none. Use loss='focal'"),
    ("gamma_neg", {"gamma_neg": 3, "loss": "asl"}, {"gamma_neg": 3}, "takes none. Use loss='asl'"),
    ("gamma_pos", {"gamma_pos": 1, "loss": "asl"}, {"gamma_pos": 1, "loss": "bce"}, "takes none. Use loss='asl'"),
    ("margin", {"margin": 0.1, "loss": "asl"}, {"margin": 0.1, "loss": "focal"}, "takes none. Use loss='asl'"),
    ("unit_join", {"unit_join": "max", "unit": "study"}, {"unit_join": "max"}, "each image counts for itself"),
    ("alpha", {"alpha": 0.3, "loss": "focal"}, {"alpha": 0.3, "loss": "bce"}, "takes none. Use loss='focal'"),
    (
        "reuse_frozen",
        {"reuse_frozen": "auto", "mixup": 0.2},
        {"reuse_frozen": "on", "mixup": 0.2},
        "mix images anew in each batch. Leave out mixup=",
    ),
    (
        "label_smoothing",
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.1, "loss": "focal"},
        "takes none. Use loss='ce' or 'bce'",
    ),
    ("tta", {"tta": True, "augment": "mild"}, {"tta": True, "augment": False}, "views are augmented by"),
    ("frozen_views", {"frozen_views": 3}, {"frozen_views": 3, "augment": "off"}, "all views are the same"),
    ("splitter", {"splitter": "own:f", "arch": "own:g"}, {"splitter": "own:f"}, "are known"),
    (
        "target_confidence",
        {"target_confidence": 0.95, "target_sensitivity": 0.9},
        {"target_confidence": 0.95},
        "no target is given. Use target_sensitivity=",
    ),
    (
        "train_metrics",
        {"train_metrics": "final", "mixup": 0.2},
        {"train_metrics": "running", "cutmix": 0.2},
        "mixed images have no label of their own. Use train_metrics='final'",
    ),
    ("workers", {"workers": 2}, {"workers": 2, "data_on_device": "on"}, "before the first batch, by threads"),
    ("device_share", {"device_share": 0.2}, {"device_share": 0.2, "data_on_device": "off"}, "data_on_device='auto'"),
    ("class_weights", {"class_weights": "auto"}, {"class_weights": "auto", "loss": "own:f"}, "code of your own"),
]


def check(config):
    return check_effects(config.data) + check_settings(config)


@pytest.mark.parametrize(("name", "acting", "idle", "words"), BY_SETTINGS)
def test_an_option_that_contradicts_others_is_an_error_where_it_was_given(tmp_path, name, acting, idle, words):
    assert check(Config().updated(acting)) == []
    with pytest.raises(ConfigError, match=words) as caught:
        check(Config().updated(idle))
    assert str(caught.value).startswith(f"{name} is ") and len(str(caught.value).splitlines()) == 1
    # If the option is read from a run's config.yaml, this is a note.
    (tmp_path / "c.yaml").write_text(Config().updated(idle).to_yaml())
    notes = check(Config.read(tmp_path / "c.yaml"))
    is_default = idle[name] == getattr(getattr(Config(), FIELD_SECTIONS[name]), name)
    assert [note.partition(" (")[0] for note in notes] == ([] if is_default else [name])


def test_an_option_without_effect_is_reported_only_if_it_was_given(tmp_path):
    assert check(Config()) == []
    (tmp_path / "c.yaml").write_text(Config().to_yaml())
    assert check(Config.read(tmp_path / "c.yaml")) == []
    with pytest.raises(ConfigError, match=r"gamma is 2\.0, which has no effect"):
        check(Config().updated({"gamma": 2.0}))
    with pytest.raises(ConfigError, match="freeze_epochs"):
        check(Config.read(tmp_path / "c.yaml").updated({"freeze_epochs": 1}))


@pytest.mark.parametrize(
    ("off", "others"),
    [
        ({"beta2": None}, {"optimizer": "sgd"}),
        ({"cache_dir": None}, {"cache": False}),
        ({"lr_div": None}, {}),
        ({"tta": False}, {"augment": "off"}),
        ({"class_weights": "none"}, {"loss": "own:f"}),
    ],
)
def test_a_default_that_means_off_contradicts_nothing_even_if_it_was_given(off, others):
    assert check(Config().updated(off | others)) == []


def test_all_contradictions_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        check_settings(Config().updated({"gamma": 3, "lr_div": 5, "early_stop": 9}))
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["lr_div", "early_stop", "gamma"]


DATA = DataFacts(
    table=True,
    flags=False,
    no_finding=True,
    given=frozenset(),
    own_split=True,
    drawn=True,
    missing=True,
    spellings=lambda: True,
    dicom=lambda: True,
)
"""A data set on which every option acts."""

PLAN = PlanFacts(
    epochs=6,
    batches=8,
    stoppable=4,
    sizes=frozenset({32, 224}),
    frozen=True,
    cached=True,
    cached_by_auto=True,
    views=2,
    leaks=True,
    norms=True,
    uneven=True,
    cuda=True,
    world_size=2,
)
"""A run in which every option acts."""


DECODED, EVALUATION = DecodedFacts(unreadable=True, others=True), EvaluationFacts(one_split=True)
DECISION = DecisionFacts(most_likely=False, binary=True)


def no():
    return False


BY_FACTS = [
    ("label_delim", ";", {"table": False}),
    ("label_delim", ";", {"flags": True}),
    ("exact_labels", True, {"spellings": no}),
    ("keep_no_finding", True, {"no_finding": False}),
    ("valid_fraction", 0.3, {"given": frozenset({"valid"})}),
    ("test_fraction", 0.3, {"given": frozenset({"test"})}),
    ("split_seed", 3, {"drawn": False}),
    ("ignore_split", True, {"own_split": False}),
    ("split_col", "x", {"one_split": False}),
    ("split_file", "x.csv", {"one_split": False}),
    ("unreadable", "skip", {"unreadable": False}),
    ("keep_masks", True, {"others": False}),
    ("missing", "skip", {"table": False}),
    ("missing", "skip", {"missing": False}),
    ("window", "full", {"dicom": no}),
    ("thresholds", "half", {"most_likely": True}),
    ("positive", "covid-19", {"binary": False}),
    ("early_stop", 4, {"stoppable": 3}),
    ("monitor", "accuracy", {"epochs": 1}),
    ("allow_leaks", True, {"leaks": False}),
    ("precise_bn", False, {"norms": False}),
    ("sync_bn", True, {"world_size": 1}),
    ("progressive", (32, 224), {"sizes": frozenset()}),
    ("progressive", (32, 224), {"sizes": frozenset({224})}),
    ("reuse_frozen", "on", {"frozen": False}),
    ("reuse_frozen", "off", {"cached_by_auto": False}),
    ("frozen_views", 2, {"cached": False}),
    ("frozen_views", 2, {"views": 3}),
    ("balanced_sampling", True, {"uneven": False}),
    ("device_share", 0.2, {"cuda": False}),
    ("accumulate", 2, {"batches": 1}),
]


@pytest.mark.parametrize(("name", "value", "change"), BY_FACTS)
def test_options_without_effect_on_data_or_phases_are_errors_or_notes(name, value, change):
    section = getattr(Config().updated({name: value}), FIELD_SECTIONS[name])
    (facts,) = [facts for facts in (DATA, DECODED, EVALUATION, PLAN, DECISION) if vars(facts).keys() >= change.keys()]
    assert check_effects(section, facts) == []
    try:
        (said,) = check_effects(section, type(facts)(**{**vars(facts), **change}))
        harmless = True
    except ConfigError as error:
        said, harmless = str(error), False
    assert said.startswith(name)
    # Options of tables are errors without a table; what depends on the values in data or run is a note.
    assert harmless == (name not in ("label_delim", "keep_no_finding", "positive") and change != {"table": False})


def test_every_effect_has_its_case():
    cases = [name for name, *_ in BY_SETTINGS] + [name for name, *_ in BY_FACTS]
    for name, effects in Counter(effect.option for effect in EFFECTS).items():
        # Not here: two values of one effect, an option that never acts, and one of data without a table (test_levels).
        others = {"reuse_frozen": 1, "unreadable": -1, "class_level": -1}.get(name, 0)
        assert cases.count(name) == effects + others, name


# On data


def write_images(folder, names):
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path):
    write_images(tmp_path / "d", [f"{kind}/{i}.png" for kind in ("a", "b") for i in range(6)])
    return tmp_path / "d"


@pytest.fixture
def table(tmp_path):
    names = [f"{i}.png" for i in range(12)]
    write_images(tmp_path / "t", names)
    split = ["train"] * 8 + ["valid"] * 2 + ["test"] * 2
    content = pd.DataFrame({"image": names, "label": ["a", "b"] * 6, "split": split})
    content.to_csv(tmp_path / "t" / "labels.csv", index=False)
    return tmp_path / "t"


@pytest.mark.parametrize(
    "options",
    [{"label_delim": ";"}, {"keep_no_finding": True}, {"missing": "skip"}],
)
def test_options_of_tables_are_errors_on_class_folders(folders, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} is .* has no effect"):
        xf.open_data(folders, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"valid_fraction": 0.3},
        {"test_fraction": 0.3},
        {"split_seed": 3},
        {"window": "full"},
        {"missing": "skip"},
        {"exact_labels": True},
    ],
)
def test_options_that_change_nothing_are_noted(table, options):
    def notes(**options):
        return [note for note in xf.open_data(table, **options).notes if "has no effect" in note]

    (note,) = notes(**options)
    assert note.startswith(f"{next(iter(options))} (")
    assert notes() == []


def test_reopened_data_repeat_no_notes_on_options(table):
    config = Config().updated({"source": table, "window": "full"}).data
    assert not [note for note in open_manifest(config, leave_out={}).notes if "has no effect" in note]


@pytest.mark.parametrize("option", ["uncertain", "blank"])
def test_policies_say_on_how_many_cells_they_acted(table, option):
    assert [note for note in xf.open_data(table, **{option: "zeros"}).notes if note.startswith("There are no ")]


def test_a_range_test_says_what_it_does_not_use(table):
    assert set(NOT_IN_RANGE_TEST) >= set(ResultsConfig.model_fields)
    assert check_range_test({"epochs": 3, "arch": "vgg16", "tta": True}) == [
        "No effect on a range test, which has no phases and no results: epochs, tta."
    ]
    assert check_range_test({"arch": "vgg16"}) == []


def test_options_for_unusable_files_are_noted_when_images_are_decoded(table):
    data = xf.open_data(table, unreadable="skip", keep_masks=True)
    decoded = xf.dataloaders(data, size=32, device="cpu").manifest
    assert [note.split()[0] for note in decoded.notes if note not in data.notes] == ["keep_masks", "unreadable"]
    again, _ = decode_manifest(decoded, 32)
    assert again.notes == decoded.notes
    (table / "3.png").write_bytes(b"no image")
    Image.fromarray(np.tile(np.uint8([0, 255]), (40, 20))).save(table / "4.png")
    decoded = xf.dataloaders(data, size=32, device="cpu").manifest
    assert not [note for note in decoded.notes if "has no effect" in note] and len(decoded) == 11


def test_a_delimiter_that_no_cell_has_and_a_label_that_no_cell_has_are_noted(table):
    notes = xf.open_data(table, label_delim=";").notes
    assert "label_delim (;) has no effect: no cell of 'label' contains it." in notes
    notes = xf.open_data(table, imply="a=bb").notes
    assert "The label 'bb' comes only from --imply. Did you mean 'b'?" in notes
    assert not [note for note in xf.open_data(table, imply="a=b").notes if "--imply alone" in note]


def test_data_settings_of_a_config_are_noted_if_data_are_given_too(table, folders, tiny_run):
    data = xf.open_data(table, valid_fraction=0.3)
    config = Config().updated({"source": folders, "valid_fraction": 0.4, "task": "single", "size": 32})
    words = r"data settings are not used, .*: source \(.*/d; .*/t is used\), task \(single; auto is used\), valid_"
    one_line = f"The config's {words}.*Leave out the data"

    def said(notes):
        return [note for note in notes if note.startswith("The config's data settings")]

    with pytest.warns(UserWarning) as warned:
        found = (
            xf.check(data, config=config).data.notes,
            xf.split(data, config=config).notes,
            open_external(tiny_run, data, config, None).notes,
        )
    texts = [str(entry.message) for entry in warned]
    assert said(texts) == [note for notes in found for note in said(notes)]
    for notes in (*found, resolve_inputs(data, config, {})[2]):
        (note,) = said(notes)
        assert re.match(one_line, note), note
    # For a folder, the other settings are used.
    (note,) = said(resolve_inputs(table, config, {})[2])
    assert f"source ({folders}; {table} is used)." in note and "task" not in note
    # An equal setting, as a relative path or a default, is no contradiction.
    same = Config().updated({"source": table, "valid_fraction": 0.3})
    assert not said(resolve_inputs(data, same, {})[2] + resolve_inputs(data, None, {})[2])
    assert not said(resolve_inputs(None, same, {})[2] + resolve_inputs(data, Config(), {"size": 64})[2])


# On a run


def test_an_evaluation_notes_options_without_effect(tiny_run, tmp_path):
    run = xf.Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    write_images(tmp_path / "e", [f"normal/{i}.png" for i in range(3)])
    config = Config().updated({"source": tmp_path / "e", "ignore_split": True, "unreadable": "skip"})
    notes = xf.evaluate(run, config=config, resamples=0).info.data_notes
    assert [note.split()[0] for note in notes if "has no effect" in note] == ["ignore_split", "unreadable"]
    # A run's label "No Finding" is not an option, so data can't contradict it.
    labels = tuple("No Finding" if label == "normal" else label for label in run.labels)
    run.write_decision(replace(run.decision, labels=labels))
    (tmp_path / "e" / "normal").rename(tmp_path / "e" / "covid-19")
    assert open_external(run, tmp_path / "e", None, None).task == "multi"


def test_a_run_says_which_options_changed_nothing(tiny_run, tmp_path):
    data = xf.open_data(tiny_run.config.data.source, test_fraction=0.2)
    options = {"monitor": "accuracy", "allow_leaks": True, "frozen_views": 3, "thresholds": "half"}
    weights = tiny_run.path / "model.safetensors"
    run = xf.fit(data, runs=tmp_path, epochs=1, **{**SMALL, "weights": weights}, **options)
    idle = {remark.split()[0] for remark in run.info["remarks"] if "has no effect" in remark}
    assert idle == set(options)
    found = {split: run.predictions(split) for split in run.predicted_splits}
    with pytest.warns(UserWarning, match=r"thresholds \(half\) has no effect: exactly one class applies"):
        refit_decision(run, {"thresholds": "half", "resamples": 0}, found)
    (said,) = [remark for remark in run.info["remarks"] if "the head starts from random weights" in remark]
    assert "Not used: 1." in said


def test_precise_statistics_act_where_the_backbone_trains_batch_norm():
    from torch import nn

    from xrayfast.learning.model.layers import LayerGroup
    from xrayfast.learning.training.phases import Phase
    from xrayfast.workflows.steps.training import ScheduledPhase, plan_facts

    modules = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm1d(3)
    groups = [LayerGroup("", (module,)) for module in modules]

    def norms(*frozen):
        scheduled = [ScheduledPhase(Phase("", 1, count, ()), 0, 0, (64,)) for count in frozen]
        return plan_facts(scheduled, Config().train, groups, batches=1, leaks=False).norms

    assert norms(2, 0)
    assert not norms(2, 1)
    assert not norms(2)


def test_when_early_stopping_can_act():
    """This depends on the phases; the very first epoch is always the best so far."""
    from xrayfast.learning.training.phases import Phase
    from xrayfast.workflows.steps.training import ScheduledPhase, plan_facts

    def stoppable(*phases):
        scheduled = [ScheduledPhase(Phase("", len(s), 0, ()), 0, 0, s) for s in phases]
        return plan_facts(scheduled, Config().train, groups=(), batches=1, leaks=False).stoppable

    assert stoppable((64,) * 6) == 4  # epoch 1 is best, 4 more do not improve, and the 6th is skipped
    assert stoppable((64,), (64,) * 6) == 5  # the best epoch may be in the first phase
    assert stoppable((32,), (32, 32, 64, 64, 64)) == 1


# Options that act in every combination.

ON_DATA = {
    "source": ({}, {"source": "other"}),
    "labels": ({}, {"labels": "table.csv"}),
    "path_col": ({"labels": "table.csv", "path_col": "image"}, {"path_col": "again"}),
    "label_col": ({"labels": "table.csv", "label_col": "label"}, {"label_col": "kind"}),
    "imply": ({}, {"imply": "a=b"}),
    "task": ({}, {"task": "multi"}),
    "patient_col": ({"labels": "table.csv"}, {"patient_col": "none"}),
    "study_col": ({"labels": "table.csv", "patient_col": "none"}, {"study_col": "patient_id"}),
    "folds": ({"folds": 3}, {"folds": 2}),
    "fold": ({"folds": 3}, {"fold": 2}),
    "cache": ({}, {"cache": False}),
}
"""By option, other options of the data, and the change: what `open_data` gives is another, or the cache is."""

ON_RUNS = {
    "arch": {"arch": "mobilenet_v2"},
    "weights": {"weights": "weights.pth"},
    "head": {"head": "mlp"},
    "head_width": {"head_width": 8},
    "size": {"size": 64},
    "unfreeze": {"unfreeze": True},
    "unfreeze_blocks": {"unfreeze_blocks": 1},
    "unfreeze_layers": {"unfreeze_layers": 1},
    "gradual_unfreeze": {"gradual_unfreeze": 1, "unfreeze_blocks": 2},
    "epochs": {"epochs": 2},
    "lr": {"lr": 0.01},
    "schedule": {"schedule": "constant"},
    "optimizer": {"optimizer": "sgd"},
    "momentum": {"momentum": 0.5},
    "wd": {"wd": 0.5},
    "ema": {"ema": 0.9},
    "clip_grad": {"clip_grad": 0.1},
    "dropout": {"dropout": 0.1},
    "seed": {"seed": 1},
    "members": {"members": 2},
    "loss": {"loss": "focal"},
    "precision": {"precision": "bf16"},
    "batch_size": {"batch_size": 4},
    "target_sensitivity": {"target_sensitivity": 0.9},
    "target_specificity": {"target_specificity": 0.9},
    "calibrate": {"calibrate": False},
    "prevalence": {"prevalence": "0.1"},
    "resamples": {"resamples": 30},
    "augment": {"augment": "strong"},
    "mixup": {"mixup": 0.5},
    "cutmix": {"cutmix": 1.0},
}
"""By option, what is added to a run: other weights, history, predictions, thresholds or metrics come out."""

BASES = {"gradual_unfreeze": {"unfreeze_blocks": 2}}
"""What a run has without the option, where it is not that of the others."""

SAME_RESULTS = {
    "data_on_device": "where images lie; batches are equal to the bit",
    "track": "who else is told; tests/tracking compares the histories to the bit",
    "device": "where is computed; another gives an error here",
}
"""Options that act on how a run is made, and not on what comes out."""


def test_every_option_is_of_one_kind():
    """It has rows in `EFFECTS`, reports itself, or acts always: on the data, on runs, or on how a run is made."""
    kinds = [{effect.option for effect in EFFECTS}, SELF_REPORTED, ON_DATA.keys(), ON_RUNS.keys(), SAME_RESULTS.keys()]
    assert Counter(name for kind in kinds for name in kind) == Counter(FIELD_SECTIONS.keys())


@pytest.mark.parametrize("name", ON_DATA)
def test_an_option_of_the_data_changes_them(name, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(folders)
    monkeypatch.setenv("XRAYFAST_CACHE", "cached")
    shutil.copytree(folders / "a", folders.parent / "other" / "a")
    shutil.copytree(folders / "b", folders.parent / "other" / "c")
    names = [f"{kind}/{i}.png" for kind in ("a", "b") for i in range(6)]
    again = [*reversed(names[:6]), *reversed(names[6:])]
    columns = {"label": ["a", "b"] * 6, "kind": ["x", "y", "z"] * 4, "patient_id": [f"p{i % 5}" for i in range(12)]}
    pd.DataFrame({"image": names, "again": again, **columns}).to_csv("table.csv", index=False)

    def found(options):
        source = folders.parent / options.pop("source") if "source" in options else folders
        data = xf.open_data(source, **options)
        if name == "cache":
            decode_manifest(data, 32)
        cached = sorted(path.name for path in (folders / "cached").rglob("*px-*"))
        shutil.rmtree(folders / "cached", ignore_errors=True)
        return data.split_table().to_csv(), data.labels, data.task, data.targets.tolist(), cached

    base, change = ON_DATA[name]
    assert found({**base}) == found({**base})
    assert found({**base}) != found({**base, **change})


@pytest.fixture(scope="module")
def results(data_dir, tmp_path_factory):
    """A function that trains with options and returns the files of the run without times and settings; cached."""
    made, folder = {}, tmp_path_factory.mktemp("always")
    data = xf.open_data(data_dir)
    with pytest.MonkeyPatch.context() as patch:
        options = SMALL | {"arch": add_tiny_vgg(patch), "epochs": 1, "resamples": 0}
        torch.save(BACKBONES["tiny_vgg"].build().state_dict(), folder / "weights.pth")

        def of(changed):
            if (key := repr(changed)) not in made:
                if "weights" in changed:
                    changed = {"weights": folder / changed["weights"]}
                run = xf.fit(data, runs=folder, **options | changed)
                files = [path for path in run.path.rglob("*") if path.suffix in (".csv", ".json", ".safetensors")]
                content = {path.relative_to(run.path): path.read_bytes() for path in files if path.name != "run.json"}
                content[Path("history.csv")] = run.history.drop(columns="seconds", errors="ignore").to_csv()
                metrics = re.sub(r'"seconds": [\d.]+', "", (run.path / "metrics.json").read_text())
                made[key] = content | {Path("metrics.json"): metrics}
            return made[key]

        yield of


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_RUNS)
def test_an_option_that_always_acts_changes_results(name, results):
    assert results(BASES.get(name, {})) != results(ON_RUNS[name])


@pytest.mark.slow
def test_a_run_is_repeatable(results):
    assert results({}) == results({"seed": 0})

"""The JSON files of a run as typed models: defaults, keys of older versions, and errors that name file and field."""

import json
import shutil

import pytest

import xrayfast as xf
from xrayfast.errors import RunError
from xrayfast.reporting.html.pages import run_page
from xrayfast.reporting.markdown import descriptions
from xrayfast.reporting.markdown.model_card import render_model_card
from xrayfast.reporting.markdown.run_facts import read_run_facts
from xrayfast.runs.info_types import LabelsFile, RunInfo
from xrayfast.runs.json_files import read_typed
from xrayfast.runs.metrics_types import EvaluationMetrics, MetricsFile
from xrayfast.runs.run import Run

pytestmark = pytest.mark.usefixtures("empty_figures")

SUMMARY = {"images": 3, "overall": {"accuracy": 1.0, "ece": None}, "per_label": [{"label": "a", "support": 3}]}
INTERVALS = {"overall": {"accuracy": {"low": 0.1}}}


def read(folder, content, form):
    (folder / "some.json").write_text(json.dumps(content))
    return read_typed(folder / "some.json", form)


@pytest.fixture
def copy(tiny_run, tmp_path):
    return Run(shutil.copytree(tiny_run.path, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("content", "form", "said"),
    [
        ({"phases": "x"}, RunInfo, r"phases is 'x'; expected a list"),
        ({"phases": [{"name": "head", "epochs": 1}]}, RunInfo, r"lacks phases\.0\.lrs"),
        ({"counts": 3}, RunInfo, r"counts is 3; expected a dictionary"),
        ({"seconds": "long"}, RunInfo, r"seconds is 'long'; expected a number"),
        ({"flow": [["found", "many"]]}, RunInfo, r"flow\.0\.1 is 'many'; expected a\w* integer"),
        ({"task": "none", "labels": ["a"]}, LabelsFile, r"task is 'none'; expected 'single' or 'multi'"),
        ({"task": "multi", "labels": ["a", "a"]}, LabelsFile, r"labels is \['a', 'a'\]; expected a list of different"),
        ({"test": {"images": 3, "per_label": []}}, MetricsFile, r"lacks test\.overall"),
        ({"test": {**SUMMARY, "overall": []}}, MetricsFile, r"test\.overall is \[\]; expected a dictionary"),
        ({"test": {**SUMMARY, "per_label": [{}]}}, MetricsFile, r"test\.per_label\.0 is {}; expected the name of a"),
        ({"test": {**SUMMARY, "per_label": [{"label": "a", "f1": "b"}]}}, MetricsFile, r"expected a number or null"),
        ({"test": {**SUMMARY, "intervals": INTERVALS}}, MetricsFile, r"lacks test\.intervals\.overall\.accuracy\.high"),
        ({"result": SUMMARY, "images": {"left_out": [["x"]]}}, EvaluationMetrics, r"images\.left_out\.0 is \['x'\]"),
    ],
)
def test_an_error_names_file_field_and_what_was_expected(content, form, said, tmp_path):
    with pytest.raises(RunError, match=rf"/some\.json: .*{said}.*The file is damaged or from another version"):
        read(tmp_path, content, form)


def test_keys_of_older_versions_are_renamed_to_the_current_ones(tmp_path):
    saliency = {"part": "test", "cases": []}
    metrics = read(tmp_path, {"test": {**SUMMARY, "unknown": {"a": 2}}, "saliency": saliency}, MetricsFile)
    assert metrics["test"] == {**SUMMARY, "masked": {"a": 2}}
    assert metrics["saliency"] == {"split": "test", "cases": []}
    gap = {"label": None, "highest": "F", "lowest": "M", "highest_value": 0.9, "lowest_value": 0.7, "difference": 0.2}
    gaps = [{**gap, "measure": "accuracy", "low": None, "high": None}]
    subgroups = [{"by": "sex", "groups": [], "gaps": gaps}]
    metrics = read(tmp_path, {"test": {**SUMMARY, "subgroups": subgroups}}, MetricsFile)
    assert metrics["test"]["subgroups"][0]["gaps"][0]["metric"] == "accuracy"
    assert read(tmp_path, {"part": None, "result": SUMMARY}, EvaluationMetrics)["split"] is None
    assert read(tmp_path, {"test": {**SUMMARY, "masked": {"a": 2}}}, MetricsFile) == {
        "test": {**SUMMARY, "masked": {"a": 2}}
    }


def test_missing_keys_get_defaults_and_unknown_keys_are_kept(tmp_path):
    info = read(tmp_path, {"status": "completed", "mine": 3}, RunInfo)
    assert (info["status"], info.lr, info.phases, info.remarks, info["mine"]) == ("completed", None, None, [], 3)
    with pytest.raises(KeyError):
        info["nothing"]
    metrics = {"test": {**SUMMARY, "mine": 3}, "yours": [4]}
    assert read(tmp_path, metrics, MetricsFile) == metrics


@pytest.mark.parametrize("fixture", ["tiny_run", "tiny_multi_run"])
def test_a_run_s_files_are_read_as_they_were_written(request, fixture):
    run = request.getfixturevalue(fixture)
    for name, found in (("metrics.json", run.metrics), ("run.json", run.info.model_dump(mode="json"))):
        content = json.loads((run.path / name).read_text("utf-8").replace('"unknown": ', '"masked": '))
        assert {key: found[key] for key in content} == content


def test_a_bug_in_rendering_is_not_called_a_damaged_file(copy, monkeypatch):
    def broken(*_):
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(descriptions, "headline_markdown", broken)
        with pytest.raises(KeyError, match="a bug"):
            render_model_card(read_run_facts(copy))
    with monkeypatch.context() as patch:
        patch.setattr(run_page, "epochs_table", broken)
        with pytest.raises(KeyError, match="a bug"):
            xf.interpret(copy)


def test_metrics_of_another_version_are_computed_again(copy):
    before = copy.metrics
    del before["test"]["scored"]
    copy.write_metrics(before)
    xf.interpret(copy)
    assert copy.metrics["test"]["scored"] == copy.metrics["test"]["images"]


@pytest.mark.parametrize("content", ['{"lr": NaN}', "[" * 100_000, '{"lr": 1' + "0" * 5000 + "}", "\udcff"])
def test_values_that_json_cannot_store_are_a_named_error(content, tmp_path):
    (tmp_path / "run.json").write_text(content, "utf-8", "surrogateescape")
    with pytest.raises(RunError, match=r"/run\.json: "):
        read_typed(tmp_path / "run.json", RunInfo)


def test_a_json_file_of_hundreds_of_megabytes_is_not_read(tmp_path, monkeypatch):
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(200 << 20)
    monkeypatch.setattr(json, "loads", lambda *a, **k: pytest.fail("read"))
    with pytest.raises(
        RunError, match=r"run\.json: found a file of 209,715,200 bytes; expected a JSON object of at most"
    ):
        read_typed(tmp_path / "run.json", RunInfo)

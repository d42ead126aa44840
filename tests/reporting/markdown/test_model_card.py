import html
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import UNCHECKED
from tests.decisions import fit_decision
from xrayfast.config import Config
from xrayfast.errors import RunError
from xrayfast.errors.escapes import escape_hidden
from xrayfast.metrics.subgroups import subgroups
from xrayfast.metrics.summary import summarize
from xrayfast.reporting.markdown.markup import DASH, GAP, PURPOSE, escape, markdown_table
from xrayfast.reporting.markdown.model_card import render_model_card
from xrayfast.reporting.markdown.run_facts import read_run_facts
from xrayfast.reporting.wording import interval_methods
from xrayfast.runs.predictions import Predictions
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.results import write_cards

markdown_it = pytest.importorskip("markdown_it")  # installed with rich

LABELS = {"single": ("covid-19", "normal", "pneumonia"), "multi": ("Effusion", "Hernia", "Mass")}
HOSTILE = "<script>alert(1)</script> a|b `c` *d* [e](http://f.g) \\ {{ 7*7 }} : # -"
SALIENCY = {"split": "test", "cases": [{"image": "a.png"}], "notes": ["Much heat lies outside."]}
SECTIONS = [
    "Model details",
    "Uses",
    "Bias, risks and limitations",
    "How to get started with the model",
    "Training details",
    "Evaluation",
    "Model examination",
    "Environmental impact",
    "Technical specifications",
    "Citation",
    "Model card authors and contact",
]


def predicted(task, labels, seed, people=20):
    """Return predictions of 60 images of 20 patients; for multi-label, no image has the second label."""
    random = np.random.default_rng(seed)
    n = len(labels)
    raw = random.random((60, n))
    if task == "single":
        truth = np.eye(n, dtype=np.int64)[random.integers(0, n, 60)]
        raw /= raw.sum(axis=1, keepdims=True)
    else:
        truth = random.integers(0, 2, (60, n))
        truth[:, 1] = 0
    patients = np.array([f"P{i % people:05d}" if people else "" for i in range(60)], dtype=object)
    images = np.array([f"{seed}-{i}.png" for i in range(60)], dtype=object)
    return Predictions(labels, images, patients, truth, raw, np.ones(60), raw)


def measured(sample, decision, resamples=20, by_sex=True):
    options = {"threshold": decision.thresholds, "groups": sample.groups, "resamples": resamples}
    summary = summarize(sample.truth, sample.probability, sample.labels, decision.task, raw=sample.raw, **options)
    if by_sex:
        sex = {"sex": np.where(np.arange(60) % 2, "F", "M")}
        summary["subgroups"] = subgroups(sample.truth, sample.probability, sample.labels, decision.task, sex, **options)
    return summary


def made(folder, task="single", labels=None, test=True, people=20, resamples=20, name="baseline"):
    """Return a run as `fit` leaves it, except for the weights."""
    labels = labels or LABELS[task]
    splits = ("valid", "test") if test else ("valid",)
    counts = {
        split: {**dict.fromkeys(labels, 20), "images": 60, **({"patients": people} if people else {})}
        for split in ("train", *splits)
    }
    info = {
        "status": "completed",
        "started": "2026-01-01",
        "command": f"xrayfast fit {folder}/secret/radiographs",
        "xrayfast": "9.8.7",
        "versions": {"python": "3.11.0", "torch": "2.0.1"},
        "platform": "Linux",
        "device": "cpu",
        "device_name": "2 cores",
        "arch": "resnet18",
        "parameters": 11705408,
        "loss": "CrossEntropyLossFlat",
        "counts": counts,
        "fingerprint": "f1ngerpr1nt",
        "data_notes": ["Split drawn with seed 0: 20% valid, by patient."],
        "flow": [["files found", 190], ["with a label", 180]],
        "audit": ["No duplicates were found."],
        "remarks": ["A remark on the run."],
        "phases": [{"name": "all", "epochs": 3, "frozen_groups": 0, "lrs": [1e-5, 1e-3]}],
        "seconds": 7200.0,
        "best_epoch": 2,
    }
    config = Config().updated({"source": f"{folder}/secret/radiographs", "size": 96})
    run = Run.create(folder / "runs", name, "stem", config, info)
    decision = fit_decision(
        predicted(task, labels, 0).truth,
        predicted(task, labels, 0).raw,
        labels,
        task,
        rule="f1" if task == "multi" else None,
    )
    run.write_decision(decision)
    rows = [
        (f"{split}-{i}.png", f"P{split}{i % people}" if people else "", split) for split in counts for i in range(60)
    ]
    table = pd.DataFrame(rows, columns=["image", "patient", "split"])
    run.write_split(table.assign(labels="", digest=[f"d{i}" for i in range(len(table))]))
    run.write_history([{"epoch": i, "phase": "all", "train_loss": 1.0, "valid_loss": 1.0} for i in (1, 2, 3)])
    metrics = {}
    for seed, split in enumerate(splits):
        sample = predicted(task, labels, seed, people).calibrated(decision)
        run.write_predictions(split, sample)
        metrics[split] = measured(sample, decision, resamples)
    run.write_metrics({**metrics, "decision": decision.to_json()})
    return run


def evaluated(run, source, name="elsewhere"):
    """Return a finished evaluation of a run."""
    sample = predicted(run.task, run.labels, 5).calibrated(run.decision)
    result = measured(sample, run.decision, by_sex=False)
    metrics = {
        "source": str(source),
        "split": None,
        "images": {"found": 77, "left_out": [["seen in training", 17]], "evaluated": 60},
        "labels": {"used": list(run.labels), "unknown": [["Gout", 3]], "lacking": [run.labels[0]]},
        "notes": ["A note on the test."],
        "decision": run.decision.to_json(),
        "result": result,
    }
    run.create_evaluation(name, "stem", lambda test: test.write_metrics(metrics))
    return result


def changed(run, tmp_path, file, change):
    """Return a copy of a run with one JSON file changed."""
    copy = Run(shutil.copytree(run.path, tmp_path / "copy" / run.path.name, ignore=UNCHECKED))
    content = json.loads((copy.path / file).read_text("utf-8"))
    change(content)
    (copy.path / file).write_text(json.dumps(content), "utf-8")
    return copy


def parted(card):
    """Split a card into metadata and text, as the Hub does."""
    found = re.match(r"^---\n(.*?)\n---\n(.*)$", card, re.DOTALL)
    return yaml.safe_load(found[1]), found[2]


def tokens(text):
    return markdown_it.MarkdownIt("commonmark", {"linkify": False}).enable("table").parse(text)


def tables(text):
    """Return the cells of every table as rows of plain text."""
    found, row = [], []
    for token, inline in zip(tokens(text), [*tokens(text)[1:], None], strict=True):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            row = []
            found[-1].append(row)
        elif token.type in ("td_open", "th_open"):
            row.append("".join(child.content for child in inline.children))
    return found


def assert_clean(text, links=0):
    """Check that there is no HTML and no link from strangers, and that tables are intact."""
    parsed = tokens(text)
    inner = [child for token in parsed for child in token.children or ()]
    kinds = [token.type for token in (*parsed, *inner)]
    assert "html_block" not in kinds and "html_inline" not in kinds and "image" not in kinds
    assert kinds.count("link_open") == links
    assert all(len({len(row) for row in rows}) == 1 for rows in tables(text))


@pytest.fixture(scope="module", params=["single", "multi"])
def run(request, tmp_path_factory):
    return made(tmp_path_factory.mktemp("made"), request.param)


@pytest.fixture(scope="module")
def card(run):
    return render_model_card(read_run_facts(run))


# Markdown


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab1 \n\x00`*_[]()<>#+-.!|~$\\&;:/@=\u00a0\u202e\u200b\U0001fa7b") | st.characters()))
def test_plain_text_is_shown_as_it_is(text):
    shown = " ".join(escape_hidden(text).split())
    for before in ("x: ", "- x ", "## x ", "", "## ", "| h |\n| --- |\n| "):
        inline = [token for token in tokens(before + escape(text)) if token.type == "inline"]
        content = "".join(child.content for child in inline[-1].children) if inline else ""
        assert not inline or {child.type for child in inline[-1].children} <= {"text"}
        assert not shown or content.removeprefix("x: ").removeprefix("x ") == shown


@pytest.mark.parametrize(
    "text", ["# a", "- a", "+ a", "1. a", "2) a", "---", "===", "> a", "    a", "```", "| a |", "*"]
)
def test_plain_text_starts_no_markdown_block(text):
    assert [token.type for token in tokens(escape(text))] == ["paragraph_open", "inline", "paragraph_close"]
    assert html.unescape(markdown_it.MarkdownIt().render(escape(text))).strip() == f"<p>{text.strip()}</p>"


def test_addresses_do_not_become_links():
    text = "http://a.b www.a.b c@d.e"
    assert "http://" not in escape(text) and "www." not in escape(text) and "@" not in escape(text)
    assert html.unescape(markdown_it.MarkdownIt().renderInline(escape(text))) == text


def test_table_cells_stay_in_their_columns_for_any_content():
    made_of = [[HOSTILE, "a\nb", "1"], ["x\\", "|", "-"]]
    (found,) = tables(markdown_table(("a|b", "c", "d"), made_of))
    assert [len(row) for row in found] == [3, 3, 3]
    assert found[1][0] == HOSTILE and found[2][:2] == ["x\\", "|"]


# Metadata


def assert_hub(metadata):
    """Check the Hub's specification, hub-docs/modelcard.md, as far as it is used."""
    assert metadata["library_name"] == "xrayfast" and metadata["pipeline_tag"] == "image-classification"
    assert not {"license", "base_model", "datasets"} & set(metadata)
    assert all(isinstance(tag, str) and tag for tag in metadata["tags"])
    for index in metadata.get("model-index", ()):
        assert set(index) == {"name", "results"} and isinstance(index["name"], str) and index["results"]
        for result in index["results"]:
            assert result["task"]["type"] == "image-classification"
            assert set(result["dataset"]) <= {"type", "name", "split"} and result["dataset"]["name"]
            assert re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", result["dataset"]["type"])
            assert result["metrics"]
            for metric in result["metrics"]:
                assert set(metric) == {"type", "name", "value"} and isinstance(metric["value"], float)
                assert metric["type"] in metadata["metrics"]


def test_metadata_have_the_hubs_fields_and_the_metrics(run, card):
    metadata, _ = parted(card)
    assert_hub(metadata)
    results = metadata["model-index"][0]["results"]
    assert [result["dataset"]["split"] for result in results] == ["validation", "test"]
    for result, split in zip(results, ("valid", "test"), strict=True):
        values = {metric["name"]: metric["value"] for metric in result["metrics"]}
        assert values["AUROC, macro"] == pytest.approx(run.metrics[split]["overall"]["auroc_macro"], abs=1e-6)
        assert result["dataset"]["name"] == f"radiographs, {'validation' if split == 'valid' else 'test'} split"


def test_the_hubs_own_library_reads_it(card):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(card).data
    assert data.pipeline_tag == "image-classification"
    assert {result.metric_type for result in data.eval_results} >= {"accuracy", "f1", "roc_auc"}


def test_a_metric_without_a_value_is_left_out(run, tmp_path):
    copy = changed(run, tmp_path, "metrics.json", lambda m: m["test"]["overall"].update(auroc_macro=None))
    metadata, text = parted(render_model_card(read_run_facts(copy)))
    kinds = [[metric["type"] for metric in result["metrics"]] for result in metadata["model-index"][0]["results"]]
    assert "roc_auc" in kinds[0] and "roc_auc" not in kinds[1]
    assert f"| AUROC, macro | {DASH} |" in text


# Text


def test_the_sections_follow_the_hubs_template(card):
    assert re.findall(r"(?m)^## (.+)$", card) == SECTIONS
    assert PURPOSE in parted(card)[1][:300] and card.count(GAP) > 5
    assert_clean(parted(card)[1])


def test_numbers_come_with_their_intervals_and_patients(run, card):
    for split in ("valid", "test"):
        summary = run.metrics[split]
        ends = summary["intervals"]["overall"]["auroc_macro"]
        value = summary["overall"]["auroc_macro"]
        assert f"| {value:.3f} ({ends['low']:.3f} to {ends['high']:.3f}) |" in card
    assert f"95% confidence intervals ({interval_methods(summary)}) from 20 patients, 20 bootstrap resamples" in card
    assert "60 images of 20 patients" in card


def test_every_label_and_subgroup_has_its_row(run, card):
    rows = [row for found in tables(parted(card)[1]) for row in found]
    first, ends = run.metrics["test"]["per_label"][0], run.metrics["test"]["intervals"]["per_label"][run.labels[0]]
    expected = f"{first['auroc']:.3f} ({ends['auroc']['low']:.3f} to {ends['auroc']['high']:.3f})"
    assert [run.labels[0], f"{first['support']}", f"{first['negatives']}", expected] in [row[:4] for row in rows]
    for label in run.labels:
        assert sum(row[0] == label for row in rows) >= 3  # counts and both splits
    assert sum(row[0] in ("F", "M") for row in rows) == 4
    assert "By sex" in card


def test_an_absent_label_has_dashes(tmp_path):
    (hernia,) = [
        row
        for found in tables(parted(render_model_card(read_run_facts(made(tmp_path, "multi", test=False))))[1])
        for row in found
        if row[0] == "Hernia" and len(row) > 8
    ]
    assert hernia[1] == "0" and DASH in hernia


CHANGES = [
    ("run.json", lambda c: c.update(arch="vgg16"), "torchvision's vgg16"),
    ("run.json", lambda c: c.update(parameters=1234567), "1,234,567 parameters"),
    ("run.json", lambda c: c.update(device_name="An odd GPU"), "An odd GPU"),
    ("run.json", lambda c: c.update(seconds=36000), "10.00 h"),
    ("run.json", lambda c: c.update(best_epoch=3), "epoch 3 of 3"),
    ("run.json", lambda c: c["versions"].update(torch="7.7.7"), "torch 7.7.7"),
    ("run.json", lambda c: c.update(xrayfast="0.0.7"), "xrayfast 0.0.7"),
    ("run.json", lambda c: c.update(audit=["Two patients leak."]), "Two patients leak."),
    ("run.json", lambda c: c.update(flow=[["radiographs", 12345]]), "| radiographs | 12,345 |"),
    ("run.json", lambda c: c["counts"]["train"].update(images=4321), "4,321"),
    ("run.json", lambda c: c.update(remarks=["Beware of it."]), "Beware of it."),
    ("metrics.json", lambda c: c.update(saliency=SALIENCY), "Much heat lies outside."),
    ("run.json", lambda c: c["phases"][0].update(epochs=17), "17 epochs"),
    ("metrics.json", lambda c: c["test"]["overall"].update(ece=7.12345, ece_macro=7.12345), "7.123"),
    ("metrics.json", lambda c: c["test"]["intervals"].update(units=4711), "4,691 images of unknown patients"),
    ("metrics.json", lambda c: c["test"].update(notes=["A note of a split."]), "A note of a split."),
]


@pytest.mark.parametrize(("file", "change", "expected"), CHANGES)
def test_the_card_agrees_with_the_files(run, card, tmp_path, file, change, expected):
    assert expected not in card
    assert expected in render_model_card(read_run_facts(changed(run, tmp_path, file, change)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"weights": "none"}, "All weights were drawn at random"),
        ({"weights": "/home/me/own.pth"}, "the weights in the file own.pth"),
        ({"size": 333}, "a square of 333 px"),
        ({"head_width": (70, 50)}, "70 hidden units, then 50 hidden units"),
        ({"head": "linear"}, "without its classifier, then its own average pooling and one linear layer, and"),
        (
            {"head": "mlp", "head_width": 70},
            "without its classifier, then its own average pooling, 70 hidden units, and",
        ),
        ({"head": "classifier"}, "with its own classifier but for the last layer, and"),
        ({"head": "classifier"}, "The backbone and its own classifier started from torchvision's ImageNet weights"),
        ({"head": "classifier", "head_width": 70}, "but for the last layer, 70 hidden units, and"),
        ({"batch_size": 77}, "| Batch size | 77 |"),
        ({"loss": "focal", "gamma": 3.5, "alpha": 0.3}, "gamma 3.5, alpha 0.3"),
        ({"monitor": "valid_loss"}, "the best according to loss on the validation split"),
        ({"tta": True}, "averaged over augmented views"),
        ({"window": "percentile"}, "the window 'percentile'"),
        ({"early_stop": 4}, "after 4 epochs without gain"),
    ],
)
def test_settings_are_those_of_the_config(run, card, tmp_path, options, expected):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy", ignore=UNCHECKED))
    (copy.path / "config.yaml").write_text(run.config.updated(options).to_yaml())
    assert expected not in card
    assert expected in render_model_card(read_run_facts(copy))


def test_disjoint_splits_are_read_from_split_csv(run, card, tmp_path):
    assert "By patient as far as patients are known, which is on 180 of 180 images: none is" in card
    assert "No image is in more than one split" in card
    copy = Run(shutil.copytree(run.path, tmp_path / "copy", ignore=UNCHECKED))
    split = pd.read_csv(copy.path / "split.csv", dtype=str, keep_default_na=False)
    split.loc[split["patient"] == "Ptest3", "patient"] = "Ptrain3"
    split.loc[100, "digest"] = split.loc[0, "digest"]
    copy.write_split(split)
    leaked = render_model_card(read_run_facts(copy))
    assert "1 of 59 are in more than one split" in leaked and "1 image is in" in leaked


def test_calibration_and_thresholds_are_the_chosen_ones(run, card):
    sample = run.decision.to_json()
    if run.task == "single":
        assert f"a temperature of {sample['calibration']['temperature']:.3g}" in card
        assert "The most likely class is predicted." in card
    else:
        first, second = sample["operating_points"]["labels"][:2]
        assert f"| Effusion | {first['threshold']:.4g} |" in card
        assert second["threshold"] is None and second["reason"] in html.unescape(card)
        assert "chosen on validation for the highest F1" in card


def test_external_tests_are_listed_and_tests_on_the_runs_own_data_are_not_called_external(run, card, tmp_path):
    assert "It was not evaluated on other data" in card
    copy = Run(shutil.copytree(run.path, tmp_path / "copy", ignore=UNCHECKED))
    evaluated(copy, copy.config.data.source, "test")
    assert "It was not evaluated on other data" in render_model_card(read_run_facts(copy))
    result = evaluated(copy, "/far/away/hospital")
    metadata, text = parted(render_model_card(read_run_facts(copy)))
    assert "It was not evaluated on other data" not in text
    assert "Data: hospital, all images." in text and "77 images found; 17 left out (seen in training); 60 eval" in text
    assert "Gout (3 images)" in text and f"do not have: {copy.labels[0]}." in text and "A note on the test." in text
    assert_hub(metadata)
    last = metadata["model-index"][0]["results"][-1]
    assert len(metadata["model-index"][0]["results"]) == 3
    assert last["dataset"]["name"] == "hospital, all images (evaluation elsewhere)" and "split" not in last["dataset"]
    assert last["metrics"][0]["value"] == pytest.approx(next(iter(result["overall"].values())), abs=1e-6)


def test_no_path_of_the_machine_is_revealed(run, card):
    assert "secret" not in card and str(run.path.parent) not in card


# Strangers, older runs, damage


@pytest.mark.parametrize("task", ["single", "multi"])
def test_names_from_strangers_are_escaped(tmp_path, task):
    labels = ("---\nlicense: mit", HOSTILE.replace("|", ""), "\N{BELL}null: [*")
    run = made(tmp_path, task, labels, name="a `b` *c* &amp; #d")
    evaluated(run, f"/x/a\n---\n{HOSTILE}".replace("/script", ""), "e|v<i>al")
    bad = changed(
        run,
        tmp_path,
        "run.json",
        lambda c: c.update(
            arch=HOSTILE,
            device_name=HOSTILE,
            platform=HOSTILE,
            fingerprint=HOSTILE,
            xrayfast=HOSTILE,
            loss=HOSTILE,
            data_notes=[HOSTILE, "# drawn", "\n\n---\n"],
            remarks=[HOSTILE],
            audit=[HOSTILE],
            flow=[[HOSTILE, 5]],
        ),
    )
    bad.write_metrics({**bad.metrics, "saliency": {**SALIENCY, "notes": [HOSTILE]}})
    metadata, text = parted(render_model_card(read_run_facts(bad)))
    assert_hub(metadata)
    assert all("\n" not in result["dataset"]["name"] for result in metadata["model-index"][0]["results"])
    assert metadata["tags"][-1] == HOSTILE and "license" not in metadata
    assert_clean(text)
    assert re.findall(r"(?m)^## (.+)$", text) == SECTIONS
    assert "<script" not in text and text.count("{{ 7*7 }}") == 0 and "{{ 7\\*7 }}" in text
    assert any(row[0] == HOSTILE for rows in tables(text) for row in rows)


def test_an_older_run_with_few_fields_has_a_card(run, tmp_path):
    old = Run(shutil.copytree(run.path, tmp_path / "old", ignore=UNCHECKED))
    (old.path / "run.json").write_text('{"status": "completed"}')
    (old.path / "split.csv").unlink()
    (old.path / "config.yaml").write_text("model:\n  arch: vgg16\n")
    (old.path / "labels.json").write_text(json.dumps({"task": run.task, "labels": run.labels, "threshold": 0.5}))
    keep = ("images", "overall", "per_label")
    (old.path / "metrics.json").write_text(json.dumps({"valid": {key: run.metrics["valid"][key] for key in keep}}))
    metadata, text = parted(render_model_card(read_run_facts(old)))
    assert_hub(metadata)
    assert_clean(text)
    assert text.count("not recorded") >= 5
    assert "No confidence intervals were computed" in text and "Probabilities were not calibrated" in text
    assert "No test split was evaluated" in text and "None is recorded" in text


def test_a_run_without_results_says_so(run, tmp_path):
    bare = Run(shutil.copytree(run.path, tmp_path / "bare", ignore=shutil.ignore_patterns("predictions", "metrics*")))
    metadata, text = parted(render_model_card(read_run_facts(bare)))
    assert "model-index" not in metadata and "metrics" not in metadata
    assert "No results are recorded." in text


def test_without_patients_and_test_split_the_limitations_say_so(tmp_path):
    text = render_model_card(read_run_facts(made(tmp_path, people=0, test=False, resamples=0)))
    assert "By image: no patients are known" in text
    assert "No test split was evaluated" in text and "these are point estimates" in text
    assert "of 0 patients" not in text and "| Patients | –" in text


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("run.json", lambda c: c.update(phases=[{}])),
        ("run.json", lambda c: c.update(seconds="long")),
        ("run.json", lambda c: c.update(counts=[1])),
        ("metrics.json", lambda c: c.update(test={"images": 3})),
        ("metrics.json", lambda c: c["test"].update(overall=[])),
        ("labels.json", lambda c: c.update(labels=[])),
    ],
)
def test_a_damaged_run_is_named(run, tmp_path, file, change):
    copy = changed(run, tmp_path, file, change)
    with pytest.raises(RunError, match=re.escape(str(copy.path))):
        render_model_card(read_run_facts(copy))


@pytest.mark.parametrize("fixture", ["tiny_run", "tiny_multi_run"])
def test_a_run_of_fit_has_its_card(fixture, request, tmp_path):
    copy = Run(shutil.copytree(request.getfixturevalue(fixture).path, tmp_path / "copy"))
    write_cards(copy)
    path = copy.model_card_path
    assert path == copy.path / "model_card.md"
    metadata, text = parted(path.read_text("utf-8"))
    assert_hub(metadata)
    assert_clean(text)
    assert len(metadata["model-index"][0]["results"]) == len(copy.predicted_splits)
    assert "not recorded" not in text

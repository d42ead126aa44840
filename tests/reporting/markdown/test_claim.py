import json
import re
import shutil

import pandas as pd
import pytest

from tests.conftest import UNCHECKED
from tests.reporting.markdown.test_model_card import (
    HOSTILE,
    LABELS,
    SALIENCY,
    assert_clean,
    changed,
    evaluated,
    made,
    tables,
)
from xrayfast.errors import RunError
from xrayfast.reporting.markdown.claim import ITEMS, render_claim
from xrayfast.reporting.markdown.markup import DASH, PURPOSE
from xrayfast.reporting.markdown.run_facts import read_run_facts
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.results import write_cards

SECTIONS = {
    "Title": [1],
    "Abstract": [2],
    "Introduction": [3, 4],
    "Methods: study design": [5, 6],
    "Methods: data": list(range(7, 14)),
    "Methods: reference standard": list(range(14, 19)),
    "Methods: data partitions": [19, 20],
    "Methods: testing data": [21],
    "Methods: model": [22, 23, 24],
    "Methods: training": [25, 26, 27],
    "Methods: evaluation": list(range(28, 35)),
    "Results: data": [35, 36],
    "Results: model performance": [37, 38, 39],
    "Discussion": [40, 41],
    "Other information": [42, 43, 44],
}
"""The 44 items of the 2024 update (Tejani et al., doi:10.1148/ryai.240300), by section."""

AUTHORS = {2, 3, 4, 5, 6, 13, 15, 16, 18, 21, 34, 41, 44}
"""Items that no run can answer."""


def answers(text):
    """Return the text under the heading of each item."""
    pieces = re.split(r"(?m)^### (\d+)\. .*$", re.sub(r"(?m)^## .*$", "", text))
    return {int(number): body for number, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def statuses(text):
    return {number: re.search(r"Status: \*\*(\w+)\*\*", body)[1] for number, body in answers(text).items()}


@pytest.fixture(scope="module", params=["single", "multi"])
def run(request, tmp_path_factory):
    return made(tmp_path_factory.mktemp("made"), request.param)


@pytest.fixture(scope="module")
def claim(run):
    return render_claim(read_run_facts(run))


def test_the_44_items_are_in_the_sections_of_2024(claim):
    found = {}
    for line in claim.splitlines():
        if heading := re.match(r"## (.+)", line):
            section = heading[1]
        elif item := re.match(r"### (\d+)\. \S", line):
            found.setdefault(section, []).append(int(item[1]))
    assert found == SECTIONS
    assert [item.number for item in ITEMS] == list(range(1, 45))


def test_each_item_has_a_status_and_the_top_counts_them(claim):
    found = list(statuses(claim).values())
    assert len(found) == 44 and set(found) == {"filled", "partly", "author"}
    counts = [found.count(status) for status in ("filled", "partly", "author")]
    top = re.search(r"44 items: (\d+) filled, (\d+) partly, (\d+) left to the author", claim[:600])
    assert [int(count) for count in top.groups()] == counts
    assert PURPOSE in claim[:300] and "10.1148/ryai.240300" in claim


def test_a_status_agrees_with_its_answer(claim):
    for number, body in answers(claim).items():
        given, _, todo = body.partition("**To be completed by the author:**")
        given = given.split("**", 2)[2].strip()
        expected = "author" if not given else "partly" if todo.strip() else "filled"
        assert statuses(claim)[number] == expected, number
        assert given or todo.strip()


def test_items_that_no_run_can_know_are_left_to_the_author(run, claim):
    assert {number for number, status in statuses(claim).items() if status == "author"} == AUTHORS | {31, 33}


def test_a_complete_run_fills_all_items_that_it_can(claim):
    filled = {number for number, status in statuses(claim).items() if status == "filled"}
    assert filled == {9, 19, 20, 22, 23, 24, 25, 27, 29, 32, 35, 37, 38}


CHANGES = [
    (1, "run.json", lambda c: c.update(arch="vgg16"), "vgg16"),
    (7, "run.json", lambda c: c.update(fingerprint="c0ffee"), "c0ffee"),
    (8, "run.json", lambda c: c.update(flow=[["radiographs", 12345]]), "| radiographs | 12,345 |"),
    (12, "metrics.json", lambda c: c["test"].update(masked={"Zebra": 12}), "Zebra 12"),
    (19, "run.json", lambda c: c.update(data_notes=["Splits from the folders a, b."]), "Splits from the folders a, b."),
    (22, "run.json", lambda c: c.update(parameters=1234567), "1,234,567 parameters"),
    (23, "run.json", lambda c: c["versions"].update(torch="7.7.7"), "torch 7.7.7"),
    (23, "run.json", lambda c: c.update(device_name="An odd GPU"), "An odd GPU"),
    (25, "run.json", lambda c: c["phases"][0].update(epochs=17), "17 epochs"),
    (25, "run.json", lambda c: c.update(seconds=36000), "10.00 h"),
    (26, "run.json", lambda c: c.update(best_epoch=3), "epoch 3 of 3"),
    (29, "metrics.json", lambda c: c["test"]["intervals"].update(units=4711), "4,691 images of unknown patients"),
    (30, "metrics.json", lambda c: c["test"]["subgroups"][0]["groups"][0].update(value="Unheard"), "| Unheard |"),
    (31, "metrics.json", lambda c: c.update(saliency=SALIENCY), "Much heat lies outside."),
    (32, "metrics.json", lambda c: c["test"].update(images=4321), "4,321 images"),
    (35, "run.json", lambda c: c["counts"]["train"].update(images=4321), "4,321"),
    (36, "metrics.json", lambda c: c["test"]["subgroups"][0].update(missing=4321), "unknown 4,321"),
    (37, "metrics.json", lambda c: c["test"]["overall"].update(ece=7.12345, ece_macro=7.12345), "7.123"),
    (38, "metrics.json", lambda c: c["test"]["per_label"][0].update(negatives=4321), "4,321"),
    (39, "metrics.json", lambda c: c["test"]["most_confused"][0].update(count=4321), "4,321"),
    (40, "run.json", lambda c: c.update(remarks=["Beware of it."]), "Beware of it."),
    (43, "run.json", lambda c: c.update(xrayfast="0.0.7"), "xrayfast 0.0.7"),
]


@pytest.mark.parametrize(("number", "file", "change", "expected"), CHANGES)
def test_each_answer_agrees_with_the_files(run, claim, tmp_path, number, file, change, expected):
    assert expected not in claim
    assert expected in answers(render_claim(read_run_facts(changed(run, tmp_path, file, change))))[number]


@pytest.mark.parametrize(
    ("number", "options", "expected"),
    [
        (7, {"labels": "/home/me/findings.csv"}, "the table findings.csv"),
        (9, {"size": 333}, "a square of 333 px"),
        (12, {"uncertain": ("Edema=ones",)}, "Uncertain cells of the labels: Edema=ones."),
        (14, {"imply": ("covid-19=pneumonia",)}, "covid-19=pneumonia"),
        (24, {"weights": "/home/me/own.pth"}, "the weights in the file own.pth"),
        (25, {"batch_size": 77}, "| Batch size | 77 |"),
        (27, {"tta": True}, "averaged over augmented views"),
    ],
)
def test_settings_are_those_of_the_config(run, claim, tmp_path, number, options, expected):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy", ignore=UNCHECKED))
    (copy.path / "config.yaml").write_text(run.config.updated(options).to_yaml())
    assert expected not in claim
    assert expected in answers(render_claim(read_run_facts(copy)))[number]
    assert "/home/me" not in render_claim(read_run_facts(copy))


def test_the_level_of_disjointness_is_read_from_the_split(run, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy", ignore=UNCHECKED))
    split = pd.read_csv(copy.path / "split.csv", dtype=str, keep_default_na=False)
    split.loc[split["patient"] == "Ptest3", "patient"] = "Ptrain3"
    copy.write_split(split)
    assert "1 of 59 are in more than one split" in answers(render_claim(read_run_facts(copy)))[20]
    split.loc[0, "patient"] = ""
    copy.write_split(split)
    text = render_claim(read_run_facts(copy))
    assert "on 179 of 180 images" in answers(text)[20] and statuses(text)[20] == "partly"


def test_a_test_on_other_data_is_external_and_one_on_its_own_is_not(run, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy", ignore=UNCHECKED))
    evaluated(copy, copy.config.data.source, "own")
    assert statuses(render_claim(read_run_facts(copy)))[33] == "author"
    evaluated(copy, "/far/away/hospital", "elsewhere")
    text = render_claim(read_run_facts(copy))
    assert statuses(text)[33] == "partly" and "Data: hospital" in answers(text)[33] and "own" not in answers(text)[33]


def test_without_test_split_intervals_and_patients_fewer_items_are_filled(tmp_path):
    text = render_claim(read_run_facts(made(tmp_path, people=0, test=False, resamples=0)))
    found = statuses(text)
    assert [found[number] for number in (11, 20, 29, 32, 37, 38)] == ["author", *["partly"] * 5]
    assert "By image: no patients are known" in answers(text)[20]
    assert "these are point estimates" in answers(text)[29]


def test_undefined_numbers_are_dashes(tmp_path):
    text = render_claim(read_run_facts(made(tmp_path, "multi")))
    (hernia,) = [row for rows in tables(answers(text)[38]) for row in rows if row[0] == "Hernia"]
    assert DASH in hernia and "nan" not in text.lower().split() and "None" not in hernia


def test_a_run_trained_with_fastai_calls_leaves_its_schedule_to_the_author(run, tmp_path):
    text = render_claim(
        read_run_facts(changed(run, tmp_path, "run.json", lambda c: (c.pop("phases"), c.update(best_epoch=None))))
    )
    found = statuses(text)
    assert found[25] == "partly" and "one-cycle" not in text
    assert "no epoch was chosen" in answers(text)[26] and found[32] == "partly"


def test_names_from_strangers_are_escaped(tmp_path):
    labels = ("## 45. b", HOSTILE.replace("|", ""), "\N{BELL}null: [*")
    run = made(tmp_path, "multi", labels, name="a `b` *c* &amp; #d")
    evaluated(run, f"/x/{HOSTILE}".replace("/script", ""), "e|v<i>al")
    many = dict.fromkeys(("arch", "device_name", "platform", "fingerprint", "xrayfast", "loss"), HOSTILE)
    lists = {"data_notes": ["\n### 45. part", HOSTILE + "split"], "remarks": [HOSTILE]}
    text = render_claim(
        read_run_facts(changed(run, tmp_path, "run.json", lambda c: c.update(**many, **lists, flow=[[HOSTILE, 5]])))
    )
    assert_clean(text, links=1)
    assert "<script" not in text and sorted(answers(text)) == list(range(1, 45))
    assert any(row[0] == HOSTILE for rows in tables(text) for row in rows)


def test_an_older_run_with_few_fields_has_a_checklist(run, tmp_path):
    old = Run(shutil.copytree(run.path, tmp_path / "old", ignore=shutil.ignore_patterns("split.csv", "checksums.txt")))
    (old.path / "run.json").write_text('{"status": "completed"}')
    (old.path / "labels.json").write_text(json.dumps({"task": run.task, "labels": run.labels, "threshold": 0.5}))
    keep = ("images", "overall", "per_label")
    (old.path / "metrics.json").write_text(json.dumps({"valid": {key: run.metrics["valid"][key] for key in keep}}))
    text = render_claim(read_run_facts(old))
    found = statuses(text)
    assert_clean(text, links=1)
    assert [found[number] for number in (19, 20, 35)] == ["author"] * 3
    assert "The number of parameters is not recorded" in answers(text)[22]


def test_a_run_without_results_leaves_them_to_the_author(run, tmp_path):
    bare = Run(shutil.copytree(run.path, tmp_path / "bare", ignore=shutil.ignore_patterns("predictions", "metrics*")))
    found = statuses(render_claim(read_run_facts(bare)))
    assert {found[number] for number in (12, 28, 29, 30, 32, 37, 38, 39)} == {"author"}


def test_a_damaged_run_is_named(run, tmp_path):
    copy = changed(run, tmp_path, "run.json", lambda c: c.update(flow=7))
    with pytest.raises(RunError, match=re.escape(str(copy.path))):
        render_claim(read_run_facts(copy))


def test_the_folder_name_does_not_depend_on_how_the_run_was_opened(run, claim, monkeypatch):
    monkeypatch.chdir(run.path)
    assert render_claim(read_run_facts(Run("."))) == claim and claim.startswith("# CLAIM checklist of baseline\n")


@pytest.mark.parametrize("fixture", ["tiny_run", "tiny_multi_run"])
def test_a_run_of_fit_has_its_checklist(fixture, request, tmp_path):
    copy = Run(shutil.copytree(request.getfixturevalue(fixture).path, tmp_path / "copy"))
    write_cards(copy)
    path = copy.claim_path
    assert path == copy.path / "claim.md"
    text = path.read_text("utf-8")
    assert_clean(text, links=1)
    assert sorted(answers(text)) == list(range(1, 45))
    assert set(LABELS["single"]) <= {row[0] for rows in tables(answers(text)[38]) for row in rows}

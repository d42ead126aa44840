import base64
import dataclasses
import hashlib
import itertools
import re

import numpy as np
import pytest

from tests.conftest import draw_nothing
from tests.reporting.samples import (
    HOSTILE,
    LABELS,
    MANY,
    Outline,
    evaluation,
    predictions,
    report,
    split_report,
    visible,
    with_info,
)
from xrayfast.errors import WriteError
from xrayfast.files.atomic import write_text
from xrayfast.metrics.claims.headline import PATIENTS_UNKNOWN
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.summary import summarize
from xrayfast.reporting.figures.headline import headline_figure
from xrayfast.reporting.html.pages.evaluation_page import render_evaluation_page
from xrayfast.reporting.html.pages.run_page import render_run_page
from xrayfast.reporting.html.plots import figure_blocks

SECTIONS = ["glance", "results-valid", "failures", "saliency", "data", "remarks", "training", "decision", "limits"]
SECTIONS += ["reproduce"]
OF_EVALUATION = ["glance", "results-external", "failures", "saliency", "data", "decision", "limits", "reproduce"]


@pytest.fixture(scope="module", params=["single", "multi"])
def task(request):
    return request.param


@pytest.fixture(scope="module", params=["report", "evaluation"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def page(task, kind):
    """The page of a report, or of an evaluation without figures, whose figures are the same."""
    if kind == "report":
        return render_run_page(report(task))
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        return render_evaluation_page(evaluation(task))


def test_the_page_has_exactly_its_sections(page, kind):
    outline = Outline(page)
    sections = SECTIONS if kind == "report" else OF_EVALUATION
    assert outline.sections == sections
    assert [link["href"] for link in outline.of("a")][1:] == [f"#{id}" for id in sections]


def test_a_test_split_has_its_own_section_and_removes_the_limitation(undrawn):
    text = render_run_page(report(splits=("valid", "test")))
    assert Outline(text).sections == ["glance", "results-test", *SECTIONS[2:4], "results-valid", *SECTIONS[4:]]
    assert "No test split" not in text
    # The first screen is about the test split; all of validation is folded.
    glance = re.search('(?s)<section id="glance".*?</section>', text)[0]
    assert "On 40 test images" in visible(glance) or "Of 40 test images" in visible(glance)
    assert "validation" not in visible(glance)
    validation = re.search('(?s)<section id="results-valid".*?</section>', text)[0]
    assert re.sub("(?s)<details.*</details>", "", validation).count("<table") == 0 < validation.count("<table")
    assert "<details open" not in text


def folded(text):
    """Return the text without its folded sections."""
    while "<details" in text:
        text = re.sub(r"(?s)<details[^>]*>(?:(?!<details).)*?</details>", "", text)
    return text


def test_the_first_screen_has_the_answer_the_warnings_and_one_figure_in_this_order(page, task):
    glance = re.search('(?s)<section id="glance".*?</section>', page)[0]
    assert glance.count('class="plot') == 1 and glance.count('<ol class="examples">') == 1 and "<table" not in glance
    places = [glance.index(part) for part in ('<p class="words">', '<dl class="tiles">', "<figure", 'class="examples"')]
    assert places == sorted(places)
    tiles = re.findall("<dt>(.*?)</dt>", glance)
    if task == "multi":
        assert tiles[:2] == ["AUROC, macro", "Mean average precision"] and "Subset accuracy" not in tiles
        assert "Subset accuracy" in visible(page)
    plots = [image["alt"] for image in Outline(folded(page)).of("img") if image.get("class", "").startswith("plot")]
    assert any("confusion" in alt or "each label with intervals" in alt for alt in plots)
    assert not any(alt.startswith(("Confusion", "Reliability", "ROC curves of")) for alt in plots)


def test_with_two_classes_the_first_screen_names_only_the_positive_class(undrawn):
    split, decision = split_report("single", ("covid", "normal"), "test")
    truth, probability = split.predictions.truth, split.predictions.probability
    summary = summarize(truth, probability, ("covid", "normal"), "single", resamples=50, positive="covid")
    split = dataclasses.replace(split, summary=summary)
    data = dataclasses.replace(report("single", (), labels=("covid", "normal")), splits=(split,), decision=decision)
    glance = re.search('(?s)<section id="glance".*?</section>', render_run_page(data))[0]
    row = summary["per_label"][0]
    assert f"AUROC for covid was {row['auroc']:.3f} (" in visible(glance)
    assert re.findall("<dt>(.*?)</dt>", glance)[:3] == ["AUROC", "Recall (sensitivity)", "Specificity"]
    assert f"{row['specificity']:.3f}" in visible(glance)


def test_with_many_saliency_maps_three_of_each_kind_are_unfolded(undrawn):
    data = report(saliency=5)
    page = render_run_page(data)
    maps = re.search('(?s)<section id="saliency".*?</section>', page)[0]
    assert folded(maps).count('alt="Radiograph') == 3 and maps.count('alt="Radiograph') == 5
    assert "<summary>2 more</summary>" in maps


def test_the_first_screen_describes_the_population(undrawn):
    data = report()
    split = data.splits[0]
    population = {"patients": True, "sex": {"F": 3, "M": 1}, "age": {"q1": 30, "median": 40, "q3": 50, "unknown": 0}}
    split = dataclasses.replace(split, summary={**split.summary, "population": population})
    page = render_run_page(dataclasses.replace(data, splits=(split,), source="lung.csv"))
    glance = " ".join(visible(re.search('(?s)<section id="glance".*?</section>', page)[0]).split())
    n, patients = split.summary["images"], split.summary["patients"]
    told = "Patients: 75.0% female, 25.0% male, median age 40, quartiles 30 and 50. Not known: view."
    assert glance.index(f"Validation {told}") < glance.index("were classified correctly")
    assert f"Of {n} validation images of {patients} patients, " in glance
    assert "Data: lung.csv ." in " ".join(visible(re.search("(?s)<header>.*?</header>", page)[0]).split())


def test_a_confusion_matrix_of_very_many_classes_is_capped(undrawn):
    names = tuple(f"class {i:02d}" for i in range(40))
    split, _ = split_report("single", names, "test", n=200, divided=False, resamples=2)
    [block] = [b for b in figure_blocks("test", split.summary, "single", None) if b.title == "Confusion matrix"]
    assert len(block.table.rows) == len(block.table.labels) == 24 and block.table.labels[-1] == "17 others"
    assert sum(map(sum, block.table.rows)) == 200 and "metrics.json has all 40" in block.text
    figure = headline_figure(split.summary, "single", split.predictions)
    assert [text.get_text() for text in figure.axes[1].get_yticklabels()][-1] == "31 others"


def test_correctly_predicted_images_are_shown_next_to_the_wrong_ones(undrawn):
    data = report(saliency=2)
    right = dataclasses.replace(data.splits[0].cases[0], image="right.png", actual="a", predicted="a")
    split = dataclasses.replace(data.splits[0], right=(right,))
    explained = [dataclasses.replace(split.saliency[0], image="right.png"), split.saliency[1]]
    split = dataclasses.replace(split, saliency=tuple(explained))
    words = " ".join(visible(render_run_page(dataclasses.replace(data, splits=(split,)))).split())
    assert words.index("Correct a 0.90") < words.index("Wrong actual: ")
    maps = words[words.rindex("Saliency maps") :]
    assert (
        maps.index("Largest losses") < maps.index("1.png") < maps.index("Predicted correctly") < maps.index("right.png")
    )


def test_the_document_is_well_formed_and_its_headings_are_in_order(page):
    outline = Outline(page)
    assert not outline.wrong and not outline.open
    assert outline.levels[0] == 1 and outline.levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(outline.levels))
    ids = [attrs["id"] for _, attrs in outline.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = [attrs["aria-labelledby"] for _, attrs in outline.elements if "aria-labelledby" in attrs]
    assert set(named) <= set(ids)


def test_names_from_strangers_are_escaped(page):
    assert page.count("<script>") == 1 and "alert('x')</script>" not in page
    assert HOSTILE in visible(page)
    assert not [name for _, attrs in Outline(page).elements for name in attrs if name.startswith("on")]


def test_undefined_numbers_are_dashes_and_never_nan_or_none(page, task):
    words = visible(page)
    assert not re.search(r"\b(nan|NaN|None|inf|undefined)\b", words)
    assert "not defined" in words and "—" in words
    if task == "multi":
        assert "No image in this split has Hernia" in words


def test_nothing_is_loaded_from_anywhere(page):
    outline = Outline(page)
    addresses = [v for _, attrs in outline.elements for k, v in attrs.items() if k in ("src", "href")]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r'"data:[^"]*"', "", page).replace("// ", ""))
    assert {tag for tag, _ in outline.elements} & {"iframe", "object", "embed", "form", "base"} == set()


def test_the_policy_allows_only_the_script_and_style_of_the_page(page):
    policy = next(m["content"] for m in Outline(page).of("meta") if "http-equiv" in m)
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        content = re.search(f"(?s)<{tag}>(.*?)</{tag}>", page)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy
    assert not [attrs for _, attrs in Outline(page).elements if "style" in attrs]


def test_the_table_by_label_sorts_by_buttons_and_shows_its_order(page, task):
    table = next(table for table in re.findall(r'(?s)<table class="sortable">.*?</table>', page) if "by-label" in table)
    head = re.findall(r'<th scope="col"( class="num")? aria-sort="none"><button type="button">(.*?)<span', table)
    threshold = ["Threshold"] if task == "multi" else []
    metrics = ["AUROC", "Average precision", "Recall (sensitivity)", "Specificity", "Precision", "F1"]
    assert [name for _, name in head] == ["Label", "Images", *threshold, *metrics]
    assert table.count('<th scope="row">') == len(LABELS[task])
    values = re.findall(r'data-value="([^"]*)"', table)
    assert values and all(np.isfinite(float(value)) for value in values)


def test_tables_scroll_in_place_and_have_caption_and_scope(page):
    assert page.count("<table") == page.count("<caption") == len(re.findall(r'tabindex="0"[^>]*>\s*<table', page))
    assert not re.search(r"<th(?! scope)[ >]", page)


def test_figures_have_alternative_texts(page, task, kind):
    images = Outline(page).of("img")
    assert all(image["alt"] and image["width"] and image["height"] for image in images)
    plots = [image["alt"] for image in images if image.get("class", "").startswith("plot")]
    # Headline, precision-recall, probabilities, net benefit, ROC, reliability, matrices, two of subgroups; and the
    # epochs, which an evaluation lacks.
    assert len(plots) == (9 if task == "single" else 10) + (kind == "report")


def test_the_result_is_stated_in_words_with_the_number_of_images(page, task, kind):
    words = " ".join(visible(page).split())
    split = "validation" if kind == "report" else "external test"
    assert re.search(f"O[nf] 40 {split} images of [0-9]+ patients, ", words)
    assert ("were classified correctly" if task == "single" else "mean AUROC over 3 labels was 0.") in words
    assert "expected by chance" in words and not re.search("resamples.*resamples", words.split("Results")[0])
    assert "For research and teaching, not for diagnosis." in words
    assert "The file can no longer be read" in words and "gone.png" in words


def test_counts_separate_labels_and_totals_even_if_a_label_is_named_images(undrawn):
    table = re.search(r'(?s)<caption id="counts">.*?</table>', render_run_page(report("multi")))[0]
    body, foot = table.split("<tfoot>")
    assert body.count('scope="row"') == 4 and foot.count('scope="row"') == 2
    assert "All images" in foot and "All patients" in foot
    assert "100.0%" in body and "%" not in foot


def test_unknown_patients_are_among_the_limitations(undrawn):
    assert "The data do not identify patients" in render_run_page(report(patients=False))
    assert "The data do not identify patients" not in render_run_page(report())


def test_without_epochs_and_splits_the_page_says_so():
    data = dataclasses.replace(with_info(report(epochs=0), remarks=[], best_epoch=None), splits=())
    words = visible(render_run_page(data))
    assert "No epoch was finished" in words and "No split has been evaluated" in words
    assert "Remarks on training" not in words


def test_warnings_precede_the_headline_and_are_not_repeated_as_remarks(undrawn):
    data = report()
    warning = {"code": "patients unknown", "text": "Patients are not known.", "advice": "Name <them>."}
    summary = {**data.splits[0].summary, "warnings": [warning]}
    remarks = ["Patients are not known. --patient-col", "Trained in bf16."]
    data = dataclasses.replace(
        with_info(data, remarks=remarks), splits=(dataclasses.replace(data.splits[0], summary=summary),)
    )
    words = " ".join(visible(render_run_page(data)).split())
    assert words.count("Patients are not known.") == 1
    assert words.index("were classified correctly") < words.index("Patients are not known. Name <them>.")
    assert words.index("Name <them>.") < words.index("Balanced accuracy")
    assert "Trained in bf16." in words


def test_a_remark_on_patients_in_the_words_of_an_older_version_is_not_shown_again(undrawn):
    data = report()
    warning = {"code": "patients unknown", "text": PATIENTS_UNKNOWN, "advice": ""}
    summary = {**data.splits[0].summary, "warnings": [warning]}
    remarks = ["Patients are not known: one of them may be in several splits, which makes results optimistic."]
    data = dataclasses.replace(
        with_info(data, remarks=remarks), splits=(dataclasses.replace(data.splits[0], summary=summary),)
    )
    words = " ".join(visible(render_run_page(data)).split())
    assert PATIENTS_UNKNOWN in words
    assert "one of them may be" not in words


@pytest.mark.slow
def test_a_thousand_images_of_fourteen_labels_stay_small():
    split, decision = split_report("multi", MANY, "valid", n=100, cases=12, saliency=12)
    split = dataclasses.replace(split, predictions=predictions("multi", MANY, 1000))
    text = render_run_page(dataclasses.replace(report("multi", (), labels=MANY), splits=(split,), decision=decision))
    # Twice that, for validation and test.
    assert 2 * len(text.encode()) < 5_000_000
    images = [image for image in Outline(text).of("img") if "plot" not in image.get("class", "")]
    # Each case except the missing one, and each map with its image,
    # and six of them on the first screen.
    assert len(images) == 12 + 2 * 12 + 6
    assert max(int(image[side]) for image in images for side in ("width", "height")) == 224


def test_the_page_is_reproducible_and_accepts_names_that_are_not_unicode(tmp_path, undrawn):
    data = dataclasses.replace(report(cases=0), run_name="bad \udcff\x00\n\x1b[31m\u202e name")
    assert render_run_page(data) == render_run_page(data)
    write_text(tmp_path / "report.html", render_run_page(data))
    text = (tmp_path / "report.html").read_text("utf-8")
    assert r"<h1>bad \xff\x00\n\x1b[31m\u202e name</h1>" in text
    test = dataclasses.replace(evaluation(), run_name=data.run_name)
    write_text(tmp_path / "evaluation.html", render_evaluation_page(test))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["evaluation.html", "report.html"]
    with pytest.raises(WriteError, match="does not exist"):
        write_text(tmp_path / "nowhere" / "report.html", render_run_page(data))


def test_a_run_of_an_older_version_has_a_page_too(undrawn, task):
    """No intervals, curves, subgroups, decision or flow: only the summary that `summarize` returns by default."""
    data = report(task)
    split = data.splits[0]
    summary = summarize(split.predictions.truth, split.predictions.probability, data.labels, task)
    bare = dataclasses.replace(split, summary=summary, predictions=None, saliency=(), saliency_notes=())
    data = with_info(data, flow=[], audit=[])
    decision = Decision(task, tuple(data.labels))
    text = render_run_page(dataclasses.replace(data, splits=(bare,), decision=decision, source=""))
    assert Outline(text).sections == [id for id in SECTIONS if id != "saliency"]
    words = " ".join(visible(text).split())
    assert "resamples" not in words and "ROC curves" not in words and "Flow of images" not in words
    assert "The numbers are point estimates" in words and "not calibrated" in words
    assert not re.search(r"\b(nan|NaN|None|inf)\b", words)


def test_the_limitations_name_what_was_chosen_on_validation(undrawn):
    words = " ".join(visible(render_run_page(report("multi"))).split())
    assert "Chosen on the validation images: the best epoch, the calibration, the thresholds." in words
    assert "point estimates" not in words and "threshold of 0.5" not in words
    undecided = dataclasses.replace(report(), decision=Decision("single", LABELS["single"]))
    words = " ".join(visible(render_run_page(with_info(undecided, best_epoch=None))).split())
    assert "Chosen on the validation images" not in words


def test_the_flow_goes_from_the_files_to_the_splits(undrawn):
    chart = re.search(r'(?s)<ol class="flow">.*?</ol>', render_run_page(report()))[0]
    assert re.findall(r'<li class="(\w+)">', chart) == ["step", "out", "step", "split", "split"]
    words = " ".join(visible(chart).split())
    assert words.endswith("57 Images used 17 Training 10 patients 40 Validation 40 patients")


def test_an_evaluation_names_its_labels_and_the_images_left_out(undrawn):
    words = " ".join(visible(render_evaluation_page(evaluation("multi"))).split())
    assert "50 Images found 7 Left out: seen in training 3 Left out: " in words
    assert "Fracture 1,200 images" in words
    assert f"Only in the network {' '.join(HOSTILE.split())} " in words
    assert "One external data set is one other site" in words
    own = " ".join(visible(render_evaluation_page(evaluation("multi", "test"))).split())
    assert "These images come from the data set that the network was trained on" in own


def test_images_and_maps_have_descriptions(undrawn):
    text = render_run_page(report(saliency=2))
    maps = re.search(r'(?s)<ol class="saliency">.*?</ol>', text)[0]
    images = Outline(maps).of("img")
    assert len(images) == 4 and all(image["alt"] for image in images)
    assert images[3]["alt"].endswith("1.0% of it outside the central thorax")
    words = " ".join(visible(maps).split())
    assert "Actual not known" in words and "Outside no heat" in words and "Outside 1.0% of the heat" in words


def test_the_best_and_worst_label_have_enough_images(undrawn):
    data = report("multi", labels=MANY, n=60)
    split = data.splits[0]
    rows = [{**row, "support": 10 if row["label"] in ("Mass", "Edema") else 9} for row in split.summary["per_label"]]
    summary = {**split.summary, "per_label": rows}
    page = render_run_page(dataclasses.replace(data, splits=(dataclasses.replace(split, summary=summary),)))
    one, two = sorted((row for row in rows if row["label"] in ("Mass", "Edema")), key=lambda row: -row["auroc"])
    told = f"highest for {one['label']} ({one['auroc']:.3f}) and lowest for {two['label']} ({two['auroc']:.3f})"
    assert f"{told}, among labels with at least 10 images." in " ".join(visible(page).split())


def test_a_run_that_was_started_in_python_has_no_empty_command():
    data = report(splits=())
    text = visible(render_run_page(with_info(data, command="")))
    assert "The run was started in Python." in text and "was started with" not in text
    assert "The run was started with" in visible(render_run_page(data))

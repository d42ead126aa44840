import base64
import dataclasses
import hashlib
import html
import io
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xrayfast.errors import WriteError
from xrayfast.metrics.summary import PER_LABEL, summarise
from xrayfast.report.page import Case, ReportData, SplitReport, render, write_page

HOSTILE = "<script>alert('x')</script>\"'&{{ 7*7 }}"
LABELS = {
    "single": ("covid-19", HOSTILE, "pneumonia"),
    "multi": ("Effusion", "Hernia", "images", HOSTILE),
}
SECTIONS = ["glance", "warnings", "data", "training", "results-valid", "failures", "limits", "reproduce"]


def report(task="single", splits=("valid",), cases=2, epochs=3, patients=True):
    random = np.random.default_rng(0)
    labels = LABELS[task]
    n = len(labels)
    probability = random.random((40, n))
    if task == "single":
        truth = np.eye(n, dtype=int)[random.integers(0, n, 40)]
        metrics = ("accuracy", "f1_macro", "auroc_macro")
    else:
        truth = random.integers(0, 2, (40, n))
        truth[:, 1] = 0  # nothing carries Hernia
        metrics = ("subset_accuracy", "f1_macro", "auroc_macro", "ap_macro")
    summary = summarise(truth, probability, labels, task)
    pixels = random.integers(0, 256, (700, 600), np.uint8)
    shown = tuple(
        Case(
            f"{HOSTILE}{'w' * 200}{i}.png",
            HOSTILE,
            "",
            0.9,
            3.0,
            pixels,
        )
        for i in range(cases)
    )
    gone = Case("gone.png", "covid-19", "pneumonia", float("nan"), float("nan"), None)
    history = pd.DataFrame({"epoch": range(1, epochs + 1), "phase": "head", "train_loss": 1.0, "valid_loss": 1.0})
    history = history.assign(**dict.fromkeys(metrics, 0.5), lr=1e-3, seconds=2.0)
    history["auroc_macro"] = np.nan
    rows = [*labels, "images", *(["patients"] if patients else [])]
    return ReportData(
        run_name=HOSTILE,
        created="22 November 2025",
        command=f"xrayfast fit --labels {HOSTILE}",
        facts={"arch": "resnet18", "batch_size": HOSTILE, "seed": "0"},
        task=task,
        labels=labels,
        counts=pd.DataFrame({"train": 10.0, "valid": 40.0, "test": np.nan}, index=rows),
        data_notes=(HOSTILE,),
        history=history,
        best_epoch=2,
        splits=tuple(SplitReport(split, summary, (*shown, gone), HOSTILE) for split in splits),
        warnings=(HOSTILE,),
    )


@pytest.fixture
def quick(monkeypatch):
    """Figures of one pixel, for tests of everything else."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    monkeypatch.setattr("xrayfast.report.blocks.png_bytes", lambda figure, transparent: buffer.getvalue())


@pytest.fixture(scope="module", params=["single", "multi"])
def task(request):
    return request.param


@pytest.fixture(scope="module")
def page(task):
    return render(report(task))


class Outline(HTMLParser):
    """Ids of sections, levels of headings, open elements, and every element with its attributes."""

    VOID = frozenset(("meta", "link", "img", "br"))

    def __init__(self, text):
        super().__init__()
        self.sections, self.levels, self.elements, self.open, self.wrong = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self.sections.append(dict(attrs)["id"])
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def of(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def visible(text):
    """The text that a reader sees, without style, script and tags."""
    body = re.sub(r"(?s)<(style|script)\b.*?</\1>", "", text)
    return html.unescape(re.sub(r"<[^>]*>", " ", body))


def test_the_page_has_exactly_its_sections(page):
    outline = Outline(page)
    assert outline.sections == SECTIONS
    assert [link["href"] for link in outline.of("a")][1:] == [f"#{id}" for id in SECTIONS]


def test_a_test_split_has_its_own_section_and_takes_back_the_limit(quick):
    text = render(report(splits=("valid", "test")))
    assert Outline(text).sections == [*SECTIONS[:5], "results-test", *SECTIONS[5:]]
    assert "No test split" not in text


def test_the_document_is_well_formed_and_its_headings_are_in_order(page):
    outline = Outline(page)
    assert not outline.wrong and not outline.open
    assert outline.levels[0] == 1 and outline.levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(outline.levels))
    ids = [attrs["id"] for _, attrs in outline.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = [attrs["aria-labelledby"] for _, attrs in outline.elements if "aria-labelledby" in attrs]
    assert set(named) <= set(ids)


def test_what_strangers_named_is_escaped(page):
    assert page.count("<script>") == 1 and "alert('x')</script>" not in page
    assert HOSTILE in visible(page)
    assert not [name for _, attrs in Outline(page).elements for name in attrs if name.startswith("on")]


def test_undefined_numbers_are_dashes_and_never_nan_or_none(page, task):
    words = visible(page)
    assert not re.search(r"\b(nan|NaN|None|inf|undefined)\b", words)
    assert "not defined" in words and "—" in words
    if task == "multi":
        assert "No image of this split carries Hernia" in words


def test_nothing_is_loaded_from_anywhere(page):
    outline = Outline(page)
    addresses = [v for _, attrs in outline.elements for k, v in attrs.items() if k in ("src", "href")]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r'"data:[^"]*"', "", page).replace("// ", ""))
    assert {tag for tag, _ in outline.elements} & {"iframe", "object", "embed", "form", "base"} == set()


def test_the_policy_allows_this_script_and_this_style_alone(page):
    policy = next(m["content"] for m in Outline(page).of("meta") if "http-equiv" in m)
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        content = re.search(f"(?s)<{tag}>(.*?)</{tag}>", page)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy
    assert not [attrs for _, attrs in Outline(page).elements if "style" in attrs]


def test_the_table_by_label_sorts_by_buttons_and_tells_its_order(page, task):
    table = re.search(r'(?s)<table class="sortable">.*?</table>', page)[0]
    head = re.findall(r'<th scope="col"( class="num")? aria-sort="none"><button type="button">(.*?)<span', table)
    assert [name for _, name in head] == ["Label", *PER_LABEL.values()]
    assert table.count('<th scope="row">') == len(LABELS[task])
    values = re.findall(r'data-value="([^"]*)"', table)
    assert values and all(np.isfinite(float(value)) for value in values)


def test_tables_scroll_in_their_own_place_with_caption_and_scope(page):
    assert page.count("<table") == page.count("<caption") == len(re.findall(r'tabindex="0"[^>]*>\s*<table', page))
    assert not re.search(r"<th(?! scope)[ >]", page)


def test_figures_have_texts_in_their_place(page, task):
    images = Outline(page).of("img")
    assert all(image["alt"] and image["width"] and image["height"] for image in images)
    plots = [image["alt"] for image in images if image.get("class", "").startswith("plot")]
    assert len(plots) == (2 if task == "single" else 3)


def test_the_result_is_said_in_words_with_the_number_of_images(page, task):
    words = " ".join(visible(page).split())
    assert "Of 40 validation images, " in words
    assert ("were given the right class" if task == "single" else "exactly the right set of labels") in words
    assert "For research and teaching, not for diagnosis." in words
    assert "The file can no longer be read" in words and "gone.png" in words


def test_counts_keep_labels_and_totals_apart_even_where_a_label_is_named_images(quick):
    table = re.search(r'(?s)<caption id="counts">.*?</table>', render(report("multi")))[0]
    body, foot = table.split("<tfoot>")
    assert body.count('scope="row"') == 4 and foot.count('scope="row"') == 2
    assert "All images" in foot and "All patients" in foot
    assert "100.0%" in body and "%" not in foot


def test_unknown_patients_are_named_among_the_limits(quick):
    assert "which images are of one patient" in render(report(patients=False))
    assert "which images are of one patient" not in render(report())


def test_without_epochs_and_splits_the_page_says_so():
    data = dataclasses.replace(report(epochs=0), splits=(), warnings=(), data_notes=(), best_epoch=None)
    words = visible(render(data))
    assert "No epoch was finished" in words and "No split has been evaluated" in words
    assert "raised no warning" in words


def test_twenty_cases_a_split_stay_small():
    text = render(report("multi", splits=("valid", "test"), cases=20))
    assert len(text.encode()) < 5_000_000
    pictures = [image for image in Outline(text).of("img") if image["alt"].startswith("Radiograph")]
    assert len(pictures) == 40
    assert max(int(image[side]) for image in pictures for side in ("width", "height")) == 160


def test_the_page_is_the_same_twice_and_survives_names_that_are_no_unicode(tmp_path, quick):
    data = dataclasses.replace(report(cases=0), run_name="bad \udcff\x00 name")
    assert render(data) == render(data)
    write_page(data, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "<h1>bad \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} name</h1>" in text
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(WriteError, match="can't be written"):
        write_page(data, tmp_path / "nowhere" / "report.html")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Added to the page's script, under the hash of both: sorts, looks, and tells the page around it what it saw.
PROBE = """
window.addEventListener("load", () => {
  const header = document.querySelectorAll("table.sortable th")[1], seen = [];
  for (let press = 0; press < 2; press++) {
    header.querySelector("button").click();
    const rows = [...document.querySelectorAll("table.sortable tbody tr")];
    const values = rows.map(row => Number(row.cells[1].textContent));
    seen.push({ order: header.getAttribute("aria-sort"), values });
  }
  for (const details of document.querySelectorAll("details")) details.open = true;
  const root = document.documentElement;
  parent.postMessage({ width: root.clientWidth, needed: root.scrollWidth, seen }, "*");
});
"""
# Chromium's own window is never narrower than 500 px; a frame may be.
AROUND = """<!DOCTYPE html><title>a</title><pre></pre><script>
const told = [];
window.addEventListener("message", event => {
  told.push(event.data);
  document.querySelector("pre").textContent = JSON.stringify(told);
});
</script>
<iframe src="page.html" style="border:0;width:390px;height:900px"></iframe>
<iframe src="page.html" style="border:0;width:1440px;height:900px"></iframe>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_browser_it_sorts_fits_and_complains_of_nothing(tmp_path, page):
    script = re.search("(?s)<script>(.*?)</script>", page)[1]
    both = script + PROBE
    old, new = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in (script, both))
    (tmp_path / "page.html").write_text(page.replace(old, new).replace(script, both), "utf-8")
    (tmp_path / "around.html").write_text(AROUND, "utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-component-update "
    flags += "--disable-background-networking --disable-sync --hide-scrollbars --enable-logging=stderr "
    flags += "--virtual-time-budget=3000 --window-size=1600,1000 --dump-dom"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    address = (tmp_path / "around.html").as_uri()
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    told = json.loads(re.search("(?s)<pre>(.*?)</pre>", done.stdout)[1])
    assert sorted((frame["width"], frame["needed"]) for frame in told) == [(390, 390), (1440, 1440)]
    for frame in told:
        down, up = frame["seen"]
        assert (down["order"], up["order"]) == ("descending", "ascending")
        assert down["values"] == sorted(down["values"], reverse=True) and len(set(down["values"])) > 1
        assert up["values"] == sorted(up["values"])

"""The pages in headless Chromium, if it is installed."""

import base64
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess

import pytest

from tests.reporting.samples import MANY, evaluation, report
from xrayfast.reporting.html.pages.evaluation_page import render_evaluation_page
from xrayfast.reporting.html.pages.run_page import render_run_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr"),
    *("--virtual-time-budget=3000", "--window-size=1900,1000", "--dump-dom"),
)

# Appended to the script of the page, with the hash updated: sorts, measures, and posts the results to the parent page.
PROBE = """
window.addEventListener("load", () => {
  const root = document.documentElement, tables = [];
  const closed = () => document.querySelectorAll("details:not([open])").length;
  const height = root.scrollHeight, folded = [closed()];
  dispatchEvent(new Event("beforeprint"));
  folded.push(closed());
  dispatchEvent(new Event("afterprint"));
  folded.push(closed());
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const table of document.querySelectorAll("table.sortable")) {
    const headers = [...table.tHead.rows[0].cells];
    const column = headers.findIndex(header => header.classList.contains("num"));
    const seen = [];
    for (let press = 0; press < 2; press++) {
      headers[column].querySelector("button").click();
      const values = [...table.tBodies[0].rows].map(row => row.cells[column].dataset.value);
      seen.push({ order: headers[column].getAttribute("aria-sort"), values: values.map(v => v ?? null) });
    }
    tables.push({ id: table.caption.id, seen });
  }
  parent.postMessage({
    width: root.clientWidth, height, needed: root.scrollWidth, folded, tables,
    paper: getComputedStyle(document.body).backgroundColor,
  }, "*");
});
"""
# A Chromium window is at least 500 px wide; a frame can be narrower.
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


def looked_at(page, folder, *flags):
    """Return what the probe reports on a page 390 and 1440 px wide, and the error output of the browser."""
    script = re.search("(?s)<script>(.*?)</script>", page)[1]
    both = script + PROBE
    old, new = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in (script, both))
    (folder / "page.html").write_text(page.replace(old, new).replace(script, both), "utf-8")
    (folder / "around.html").write_text(AROUND, "utf-8")
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", (folder / "around.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    frames = json.loads(re.search("(?s)<pre>(.*?)</pre>", done.stdout)[1])
    return sorted(frames, key=lambda frame: frame["width"]), done.stderr


# An A4 sheet within Chromium's margins is 718 px wide; if anything does not fit, all is printed smaller.
SHEET = """<script>addEventListener("load", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  const tops = of => [...of.children].map(one => Math.round(one.getBoundingClientRect().top));
  const wide = [...document.querySelectorAll("table, img, pre, p")]
    .filter(one => one.getBoundingClientRect().right > 718);
  const found = {
    wide: wide.map(one => one.textContent.trim().slice(0, 80)),
    three: [...document.querySelectorAll(".figures")].map(tops).filter(one => one.length == 3),
    empty: [...document.querySelectorAll("details.split h3")].filter(one => one.offsetHeight
      && one.nextElementSibling.offsetHeight === 0).length,
    glance: document.querySelector(".glance").getBoundingClientRect().bottom,
  };
  document.body.innerHTML = "<pre id=found></pre>";
  document.querySelector("#found").textContent = JSON.stringify(found);
});</script></body>"""


@pytest.mark.slow
def test_a_printed_page_fits_the_first_screen_all_columns_and_three_figures_side_by_side(tmp_path):
    data = report(
        "single", ("test", "valid"), labels=("covid-19", "normal"), n=60, epochs=12, cases=6, saliency=0, resamples=5
    )
    splits = tuple(dataclasses.replace(split, predictions_note="") for split in data.splits)
    page = render_run_page(dataclasses.replace(data, splits=splits))
    page = re.sub("<meta http-equiv=[^>]*>", "", page).replace("@media screen", "@media not all")
    (tmp_path / "sheet.html").write_text(page.replace("@media print", "@media all").replace("</body>", SHEET), "utf-8")
    command = [CHROMIUM, *FLAGS, "--window-size=718,1000", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, (tmp_path / "sheet.html").as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    found = json.loads(re.search('(?s)<pre id="found">(.*?)</pre>', done.stdout)[1])
    assert found["wide"] == []
    assert found["glance"] <= 1040  # the height of a sheet
    assert len(found["three"]) == 2 and all(len(set(tops)) == 1 for tops in found["three"])
    assert found["empty"] == 0


@pytest.mark.parametrize("kind", ["report", pytest.param("evaluation", marks=pytest.mark.slow)])
def test_a_page_sorts_fits_folds_and_logs_no_error(tmp_path, quick, kind):
    settings = {"n": 60, "labels": MANY, "resamples": 5}
    page = (
        render_run_page(report("multi", **settings))
        if kind == "report"
        else render_evaluation_page(evaluation(**settings))
    )
    frames, complaints = looked_at(page, tmp_path)
    assert "CONSOLE" not in complaints
    assert [(frame["width"], frame["needed"]) for frame in frames] == [(390, 390), (1440, 1440)]
    for frame in frames:
        before, in_print, after = frame["folded"]
        assert in_print == 0 < before == after
        ids = {table["id"] for table in frame["tables"]}
        name = "valid" if kind == "report" else "external"
        assert {f"{name}-by-label", f"{name}-by-0", f"{name}-by-0-gaps", f"{name}-delong", "thresholds"} <= ids
        for table in frame["tables"]:
            for one, order in zip(table["seen"], ("descending", "ascending"), strict=True):
                known = [float(value) for value in one["values"] if value is not None]
                assert one["order"] == order
                assert known == sorted(known, reverse=order == "descending"), table["id"]
                # Undefined values stay last.
                assert one["values"][len(known) :] == [None] * (len(one["values"]) - len(known))


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "longest"), [(("covid-19", "normal"), 7500), (MANY, 8500)])
def test_a_page_has_a_limited_height(tmp_path, labels, longest):
    task = "single" if len(labels) == 2 else "multi"
    data = report(task, ("valid", "test"), labels=labels, n=200, cases=12, saliency=12, resamples=5)
    named = {"actual": labels[0], "predicted": labels[1]}
    splits = []
    for split in data.splits:
        cases, maps = (
            tuple(dataclasses.replace(case, image=f"00001397_{i:03d}.png", **named) for i, case in enumerate(shown))
            for shown in (split.cases, split.saliency)
        )
        splits.append(dataclasses.replace(split, cases=cases, saliency=maps, right=cases[:8], predictions_note=""))
    page = render_run_page(dataclasses.replace(data, splits=tuple(splits)))
    (_, wide), _ = looked_at(page, tmp_path)
    print(labels[:2], wide["height"])
    assert 3000 < wide["height"] <= longest


@pytest.mark.slow
def test_a_dark_page_has_its_own_figures_and_print_style(tmp_path):
    page = render_run_page(report())
    (light, *_), _ = looked_at(page, tmp_path, "--blink-settings=preferredColorScheme=1")
    (dark, *_), complaints = looked_at(page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert (light["paper"], dark["paper"]) == ("rgb(252, 252, 251)", "rgb(19, 23, 28)")
    assert "CONSOLE" not in complaints
    assert (dark["width"], dark["needed"]) == (390, 390)

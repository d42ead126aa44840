"""The page of an audit is complete and safe, and shows the images of each pair."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from xrayfast.audit.check import audit
from xrayfast.audit.duplicates import Duplicates
from xrayfast.audit.findings import duplicate_findings
from xrayfast.config import DataConfig
from xrayfast.data.cache.image_cache import UncachedImages
from xrayfast.data.open_manifest import open_manifest
from xrayfast.reporting.html.pages.check_page import COPIES_SHOWN, render_check_page, shown_groups, shown_rows
from xrayfast.reporting.html.render import whole_flags

HOSTILE = "<script>alert(1)<"


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The audit of data with an image in three files, one of them with another label and with markup in its name."""
    folder = tmp_path_factory.mktemp("check") / "data"
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (12, 12), np.uint8)
            Image.fromarray(pixels).resize((80, 80), Image.Resampling.BICUBIC).save(folder / label / f"{i}.png")
    twin = Image.open(folder / "a" / "0.png")
    twin.save(folder / "a" / "again.bmp")
    twin.save(folder / "b" / f"{HOSTILE}.png")
    data = open_manifest(DataConfig(source=folder, patient_col="none"))
    images = UncachedImages(64)
    return SimpleNamespace(audit=audit(data, images), images=images)


@pytest.fixture(scope="module")
def page(found):
    paths = found.audit.data.table["path"].tolist()
    rows = {row for group in shown_groups(found.audit) for row in shown_rows(group)}
    shown = {row: found.images.image(paths[row]) for row in rows}
    return render_check_page(found.audit, shown, f"set {HOSTILE}", "today")


def test_every_finding_and_the_images_of_a_pair_are_there(found, page):
    assert found.audit.findings
    text = re.sub(r"\s+", " ", page.replace("&#39;", "'"))
    for finding in found.audit.findings:
        assert finding.title in text
    (group,) = found.audit.duplicates
    tags = Tags()
    tags.feed(page)
    images = [attrs for tag, attrs in tags.found if tag == "img"]
    assert len(images) == len(group.rows) == 3 <= COPIES_SHOWN
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert "labels differ" in page


def test_names_from_strangers_are_escaped_and_the_page_loads_nothing(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    tags = Tags()
    tags.feed(page)
    for tag, attrs in tags.found:
        assert not any(name.startswith("on") or name == "style" for name in attrs), (tag, attrs)
        for name in ("src", "href"):
            assert attrs.get(name, "data:").startswith(("data:", "#")), (tag, attrs)
    assert "default-src &#39;none&#39;" in page
    assert "not for diagnosis" in page


def test_no_line_is_broken_within_a_flag(page):
    assert '<span class="flag">--patient-col</span>' in page
    assert whole_flags("<b> --a-b-, x--y \x00") == r'&lt;b&gt; <span class="flag">--a-b</span>-, x--y \x00'


def test_patients_are_called_known_if_some_are_unknown(found):
    data = found.audit.data
    some = [f"P{i // 2}" if i < 6 else None for i in range(len(data))]
    partly = replace(found.audit, data=replace(data, table=data.table.assign(patient=some)))
    page = render_check_page(partly, {}, "set", "today")
    assert "<dt>Known patients</dt><dd>3</dd>" in page
    assert '<th scope="col">Images of a patient</th>' in page and 'data-value="3.0"' in page
    every = replace(found.audit, data=replace(data, table=data.table.assign(patient="P1")))
    assert "<dt>Patients</dt><dd>1</dd>" in render_check_page(every, {}, "set", "today")


def test_a_set_without_findings_has_a_page_too(found):
    empty = replace(found.audit, findings=(), duplicates=())
    page = render_check_page(empty, {}, "set", "today")
    assert "Nothing was found." in page
    assert "No image was found twice." in page


def test_a_missing_image_is_reported(found):
    assert "The file can't be read" in render_check_page(found.audit, {}, "set", "today")


def test_a_leak_is_not_listed_again_as_a_duplicate(found):
    data, (group,) = found.audit.data, found.audit.duplicates
    rows = list(group.rows)
    kinds = {}
    for last in ("train", "valid"):
        table = data.table.assign(split="train")
        table.loc[rows[-1], "split"] = last
        kinds[last] = [one.kind for one in duplicate_findings(replace(data, table=table), [group])]
    assert kinds == {"train": ["conflicting_labels", "duplicates_exact"], "valid": ["conflicting_labels"]}


def test_copies_within_a_group_of_near_duplicates_are_shown_once(found):
    (group,) = found.audit.duplicates
    other = next(row for row in range(len(found.audit.data)) if row not in group.rows)
    near = Duplicates((*group.rows, other), "near", 0.98)
    both = replace(found.audit, duplicates=(group, near))
    assert shown_groups(both) == [near]
    page = render_check_page(both, {}, "set", "today")
    assert page.count('<p class="pair-title">') == 1


@pytest.mark.parametrize(
    ("images", "changes", "words"),
    [
        (2, (), "Near duplicates (correlation 0.980)<"),
        (2, ("mirrored",), "Near duplicates (correlation 0.980), one mirrored<"),
        (3, ("mirrored", "inverted"), "Near duplicates (correlation 0.980), some mirrored, inverted<"),
    ],
)
def test_the_title_of_a_group_says_how_its_images_differ(found, images, changes, words):
    table = found.audit.data.table.assign(split="train", labels="a")
    group = Duplicates(tuple(range(images)), "near", 0.98, changes)
    audit = replace(found.audit, data=replace(found.audit.data, table=table), duplicates=(group,))
    assert words in render_check_page(audit, {}, "set", "today")

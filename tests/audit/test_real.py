"""Known defects of real data sets."""

import numpy as np
import pytest

from tests.audit.sets import Shown, cropped, gamma, jpeg, resized
from xrayfast.audit.check import audit
from xrayfast.audit.duplicates import find_duplicates
from xrayfast.audit.features import compute_features
from xrayfast.config import DataConfig
from xrayfast.data.cache.image_cache import ImageCache
from xrayfast.data.images.reader import read
from xrayfast.data.open_manifest import open_manifest


@pytest.fixture(scope="module")
def darkcovid(shared):
    folder = shared / "data" / "darkcovid"
    return open_manifest(
        DataConfig(source=folder, labels=folder / "manifest.csv", path_col="file", label_col="class",
                   patient_col="patient_id")
    )  # fmt: skip


@pytest.mark.slow
def test_darkcovid(darkcovid, cache):
    found = audit(darkcovid, ImageCache(96, root=cache))
    names = darkcovid.table["image"]
    assert [([names[row] for row in group.rows], group.kind) for group in found.duplicates] == [
        (["normal/00002658_001.jpg", "normal/00002658_002.jpg"], "exact"),
        (
            [
                "covid-19/E63574A7-4188-4C8D-8D17-9D67A18A1AFA.jpg",
                "covid-19/F4341CE7-73C9-45C6-99C8-8567A5484B63.jpg",
            ],
            "near",
        ),
    ]
    said = {finding.kind: finding for finding in found.findings}
    assert said["patients_in_classes"].count == 21
    assert len(said["patients_in_classes"].images) == 74
    assert not found.leaks
    assert found.shortcuts.auroc["size"]["covid-19"] > 0.95
    assert found.shortcuts.auroc["all"]["covid-19"] > 0.98
    warned = [finding.title for finding in found.findings if finding.kind == "shortcut"]
    assert any("'covid-19'" in title and title.endswith(" can be predicted without the lungs") for title in warned)


@pytest.mark.slow
def test_nih(shared, cache):
    folder = shared / "data" / "nih_multilabel"
    data = open_manifest(DataConfig(source=folder, labels=folder / "labels.csv", patient_col="patient_id"))
    found = audit(data, ImageCache(96, root=cache))
    names = data.table["image"]
    pair = ("images/00001989_004.jpg", "images/00001989_005.jpg")
    assert [(tuple(names[row] for row in group.rows), group.kind) for group in found.duplicates] == [(pair, "exact")]
    said = {finding.kind: finding for finding in found.findings}
    assert said["conflicting_labels"].images == pair
    assert not found.leaks


def test_copies_of_real_films_are_found_and_nothing_else(shared, darkcovid):
    rows = np.linspace(0, len(darkcovid) - 1, 60).astype(int).tolist()
    data_dir = [read(darkcovid.table["path"][row]).pixels for row in rows]
    copies = [jpeg(gamma(resized(cropped(x, 0.02, 0.03, 0.01, 0.04), 0.6), 1.3), 60) for x in data_dir]
    table = darkcovid.table.iloc[np.repeat([rows], 2, axis=0).ravel()].reset_index(drop=True)
    table["patient"], table["path"] = None, [str(i) for i in range(120)]
    data = type(darkcovid)(table, darkcovid.labels, darkcovid.targets[:120], "single", darkcovid.config, (),
                           darkcovid.drawn[:120])  # fmt: skip
    paths = table["path"].tolist()
    images = Shown(dict(zip(paths, [*data_dir, *copies], strict=True)))
    features = compute_features(paths, np.arange(120), images)
    found = {group.rows for group in find_duplicates(data, features, images)}
    right = {(i, 60 + i) for i in range(60)}
    assert found <= right
    assert len(found) >= 57

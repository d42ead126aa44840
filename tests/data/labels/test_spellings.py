from __future__ import annotations

import pytest

from xrayfast.data.labels.spellings import note_odd_names


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["Nodule", "Nodules", "Normal"], "'Nodule' and 'Nodules'"),
        (["Pneumonia", "pneumomia"], "'Pneumonia' and 'pneumomia'"),
        (["Cardiomegaly", "Cardiomegayl"], "'Cardiomegaly' and 'Cardiomegayl'"),
        (["Stage 1", "Stage 2"], ""),
        (["Mass", "Mast", "hyperinflation", "hypoinflation"], ""),
        (
            ["normal-2-Jan", "2-Jan", "12/31/2019", "2019-12-31 00:00:00", "Mar-20", "1-2"],
            "Labels that look like dates",
        ),
        (["1-2", "covid-19", "May", "3/4"], ""),
        (["normal", "mass (1)"], "Labels that look like copies of others: 'mass (1)'"),
        (["1,000", "2"], "Labels that may be thousands or decimals, and are compared as written: '1,000'"),
        (["grade (1a)", "photocopy", "1,5"], ""),
    ],
)
def test_labels_that_may_be_errors_are_noted(names, note):
    found = note_odd_names(names)
    assert [note in text for text in found] == [True] * bool(note)
    assert all("normal-2-Jan" not in text for text in found)

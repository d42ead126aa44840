from __future__ import annotations

import numpy as np
import pytest

from xrayfast.data.demographics import parse_ages, parse_sexes, parse_views
from xrayfast.data.sources.datasets.padchest import ages_at_study


def test_sexes():
    found, notes = parse_sexes(["F", "m", "Female", " MALE ", "", "Unknown", "O"])
    assert found == ["F", "M", "F", "M", None, None, None]
    assert notes == ["2 images with a sex that is neither F nor M: used as unknown."]
    assert parse_sexes(["F", ""])[1] == []


@pytest.mark.parametrize("cells", ["HOMBRE MUJER", "Mann Frau", "h f", "E K", "m v", "м ж", "男 女"])
def test_sexes_in_other_languages(cells):
    assert parse_sexes(cells.split()) == (["M", "F"], [])


def test_m_beside_h_is_mujer():
    found, notes = parse_sexes(["H", "M", "m", "", "I"])
    assert found == ["M", "F", "F", None, None]
    assert notes[0] == "The sexes H and M are read as hombre and mujer: M is female." and len(notes) == 2


def test_ages():
    cells = ["58", "058Y", "57.0", "006M", "014D", "10W", "", "411", "-3", "old", "120", "121Y"]
    found, notes = parse_ages(cells)
    assert found[:6] == pytest.approx([58, 58, 57, 0.5, 14 / 365.25, 70 / 365.25])
    assert np.isnan(found[6:10]).all() and found[10] == 120 and np.isnan(found[11])
    assert notes == ["4 images with an age that is not a number up to 120: used as unknown."]


def test_ages_at_a_date():
    found, notes = parse_ages(
        ages_at_study(["1930.0", "1950", "", "None", "2015"], ["20140915", "20141231", "20140101", "20140101", ""])
    )
    assert found[:2] == [84, 64] and np.isnan(found[2:]).all() and notes == []


def test_views():
    assert parse_views(["PA", "ap ", "L", "", "LL", "AP_horizontal"]) == [
        "PA",
        "AP",
        "LATERAL",
        None,
        "LATERAL",
        "AP_HORIZONTAL",
    ]
    assert parse_views(["AP", "", ""], ["Frontal", "Lateral", ""]) == ["AP", "LATERAL", None]

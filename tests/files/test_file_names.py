"""Names that are valid on every system and in every table."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrayfast.errors import DataError
from xrayfast.files.file_names import portable_name, require_utf8


def test_a_name_that_is_not_utf_8_is_refused_and_shown():
    require_utf8(["a/b\u00e9.png", Path("\u80f8.png")])
    with pytest.raises(DataError, match=r"a/\\xff\.png: found a name that is not UTF-8"):
        require_utf8(["a.png", Path("a/\udcff.png")])


@given(st.text(st.sampled_from("aCONcom1.: \\/<>|?*\u202e\t") | st.characters(codec="utf-8")))
def test_a_portable_name_is_valid_on_every_system(text):
    name = portable_name(text * 9)
    assert 0 < len(name.encode()) <= 201 and portable_name(name) in (name, f"_{name}")
    assert not re.search(r'[<>:"/\\|?*\x00-\x1f]|^[.]|[. ]$', name)
    assert name.split(".")[0].upper() not in {
        "CON",
        "PRN",
        "AUX",
        "NUL",
        *(f"{d}{i}" for d in ("COM", "LPT") for i in range(10)),
    }

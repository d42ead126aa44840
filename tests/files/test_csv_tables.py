"""Spreadsheets read our tables as we do, and tables are read back unchanged."""

import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import xrayfast
from xrayfast.data.sources.tables import read_table
from xrayfast.files.csv_tables import quote_cell, read_csv, unquote_cell, write_csv

RISKY = st.text(st.sampled_from("'=+-@\t\r\n\uff1d,;\"a1 ") | st.characters(codec="utf-8", exclude_characters="\0"))


@pytest.mark.parametrize("start", "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
def test_cells_that_begin_like_a_formula_are_quoted(start):
    for text in (start, f"{start}1+1", f"'{start}1", f"''{start}"):
        assert quote_cell(text) == f"'{text}" and unquote_cell(quote_cell(text)) == text


@given(RISKY)
def test_any_text_is_read_back(text):
    assert unquote_cell(quote_cell(text)) == text
    assert quote_cell(text)[:1] not in list("=+-@\t\r\n")
    assert quote_cell(text) in (text, f"'{text}")


@settings(max_examples=200)
@given(texts=st.lists(RISKY, min_size=1, max_size=4), name=RISKY.filter(str.strip))
@example(texts=[",\t", ",\t"], name=",\t")
def test_any_table_is_read_back_unchanged_by_all_readers(tmp_path_factory, texts, name):
    path = tmp_path_factory.getbasetemp() / "round.csv"
    column = f"={name}"
    table = pd.DataFrame({"row": [f"r{i}" for i in range(len(texts))], column: texts, "value": -0.5})
    write_csv(path, table)
    pd.testing.assert_frame_equal(
        read_csv(path, ["row", column], dtype={"row": str, f"'{column}": str}, keep_default_na=False), table
    )
    read = read_table(path).columns
    assert read["row"] == table["row"].tolist() and read["value"] == ["-0.5"] * len(texts)
    assert read[column.strip()] == texts


def test_ordinary_tables_and_numbers_are_written_as_by_pandas(tmp_path):
    table = pd.DataFrame(
        {
            "image": ["a/b-1.png", "'a' and \"b\", c.png", "z\u00e4hne =1.png", "[red]"],
            "value": [-0.5, float("nan"), 1e-20, float("-inf")],
            "mixed": [-0.25, None, "a", -3],
            "count": [-1, 2, 3, 4],
            "yes": [True, False, True, False],
            "kind": pd.Categorical(["a", "b", "a", "b"]),
        }
    )
    for form in (None, "%.6g"):
        write_csv(tmp_path / "a.csv", table, form)
        expected = table.to_csv(index=False, lineterminator="\n", float_format=form)
        assert (tmp_path / "a.csv").read_text("utf-8") == expected
    mixed = pd.DataFrame({"mixed": [-0.25, "=1", None, -3]})
    write_csv(tmp_path / "a.csv", mixed)
    assert (tmp_path / "a.csv").read_text() == 'mixed\n-0.25\n\'=1\n""\n-3\n'
    assert mixed["mixed"].tolist()[1] == "=1"


def test_every_table_of_the_package_is_written_by_this_module():
    """Exceptions: numbers only, generated names (synthetic data), and the standalone script exported with a model."""
    package = Path(xrayfast.__file__).parent
    files = {str(path.relative_to(package)): path.read_text("utf-8") for path in package.rglob("*.py")}
    writers = {
        name
        for name, text in files.items()
        if re.search(r"\b(?!found)\w+\.to_csv\(|csv\.writer|DictWriter|sep=\",\"", text)
    }
    assert writers == {"files/csv_tables.py", "synthetic.py", "exported/onnx_predict.py"}
    readers = {name for name, text in files.items() if re.search(r"pd\.read_csv\(|csv\.reader", text)}
    # writable.py reads the header of a file that is to be replaced.
    assert readers == {"files/csv_tables.py", "data/sources/tables/delimited.py", "files/writable.py"}

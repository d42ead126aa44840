"""`xf.check`: the audit and the files that it writes."""

import json

import pandas as pd
import pytest

import xrayfast as xf
from xrayfast.errors import WriteError


def test_check_writes_json_and_a_page_and_returns_the_audit(data_dir, tmp_path):
    found = xf.check(data_dir, size=64, output=tmp_path / "check")
    content = json.loads((tmp_path / "check" / "check.json").read_text())
    assert content == json.loads(json.dumps(found.to_json()))
    assert content["images"] == 36
    assert not found.leaks
    assert "<html" in (tmp_path / "check" / "check.html").read_text()


def test_no_patient_identifier_reaches_the_files(data_dir, tmp_path):
    table = pd.read_csv(data_dir / "labels.csv")
    table["patient"] = "secret-" + table["patient"]
    table.to_csv(tmp_path / "labels.csv", index=False)
    found = xf.check(xf.open_data(data_dir, labels=tmp_path / "labels.csv"), size=64, output=tmp_path / "check")
    assert found.to_json()["patients"] == table["patient"].nunique()
    for file in (tmp_path / "check").iterdir():
        assert "secret" not in file.read_text()


def test_an_output_that_cannot_be_made_is_refused_before_the_work(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"file: can't be written \(it is a file\)"):
        xf.check(data_dir, size=64, output=tmp_path / "file" / "check")

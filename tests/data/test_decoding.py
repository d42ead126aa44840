from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xrayfast as xf
from tests.conftest import SMALL
from tests.data.builders import opened
from tests.data.images.dicom_files import dicom_bytes, report_bytes
from xrayfast.config import Config
from xrayfast.errors import DataError
from xrayfast.errors.advice import name_arguments
from xrayfast.runs.run import Run
from xrayfast.synthetic import write_dataset
from xrayfast.workflows.steps.data.images import decode
from xrayfast.workflows.steps.data.reopening import reopen_data


@pytest.fixture
def folder(tmp_path):
    write_dataset(tmp_path / "data", images=40, size=64, seed=3)
    return tmp_path / "data"


def unreadable(folder: Path) -> list[str]:
    files = sorted(folder.rglob("*.png"))[3:30:9]
    for file in files:
        file.write_bytes(file.read_bytes()[:200])
    return [file.relative_to(folder).as_posix() for file in files]


def test_unreadable_files_are_an_error_or_left_out(folder):
    names = unreadable(folder)
    options = {"cache": False, "patient_col": "none", "test_fraction": 0.2}
    with pytest.raises(DataError, match=r"3 of 40 images can't be read.*unreadable='skip'"):
        decode(opened(folder, **options), 64)
    data, images = decode(opened(folder, unreadable="skip", **options), 64)
    assert len(data) == 37 and data.left_out == (("unreadable", tuple(names)),)
    assert ("Left out: unreadable", 3) in data.flow() and any(
        "3 images left out (unreadable)" in note for note in data.notes
    )
    assert len(images.batch(data.table["path"].tolist())) == 37
    for name in names:
        (folder / name).unlink()
    assert data.fingerprint() == opened(folder, **options).fingerprint()


@pytest.mark.filterwarnings("error:You are shadowing")  # fastai warns about a callback and a Learner
def test_a_run_lists_unreadable_files_and_finds_its_data_again(folder, tmp_path):
    names = unreadable(folder)
    config = Config().updated({"unreadable": "skip", "cache": False, "patient_col": "none"})
    options = {"arch": SMALL["arch"], "weights": "none", "size": 64, "epochs": 1, "device": "cpu", "resamples": 0}
    with pytest.warns(UserWarning) as warned:  # all notes, as there is no display
        run = xf.fit(folder, config=config, runs=tmp_path / "runs", **options)
    texts = [str(w.message) for w in warned]
    assert run.info.data_notes and run.info.remarks and len(set(texts)) == len(texts)
    assert {name_arguments(note) for note in (*run.info.data_notes, *run.info.remarks)} <= set(texts)
    assert (run.path / "left_out.csv").read_text().splitlines() == ["image,reason", *(f"{n},unreadable" for n in names)]
    assert ["Left out: unreadable", 3] in [list(step) for step in run.info.flow]
    assert len(reopen_data(Run(run.path))) == 37
    said = [*run.info.data_notes, *run.info.remarks]
    assert sum("--patient-col" in note and "'name:REGEX'" in note for note in said) == 1


def test_dicom_objects_that_are_no_images_are_left_out_unless_masks_are_kept(folder):
    """A report, a segmentation, and a mask by its header are left out; an object without a class is an error."""
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    own = {"a.dcm": report_bytes(), "b.dcm": dicom_bytes(values, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")}
    own["c.dcm"] = dicom_bytes(values, Modality="SEG")
    for name, content in own.items():
        (folder / "normal" / name).write_bytes(content)
    options = {"cache": False, "patient_col": "none"}
    data = decode(opened(folder, **options), 64)[0]
    reason = "DICOM objects that are not radiographs, according to their header"
    assert data.left_out == ((reason, tuple(f"normal/{name}" for name in own)),) and len(data) == 40
    with pytest.raises(DataError, match="2 of 43 images can't be read"):
        decode(opened(folder, keep_masks=True, **options), 64)
    found = {one.kind: one for one in xf.check(folder, size=64).findings}
    assert found["other_objects"].images == ("normal/a.dcm", "normal/b.dcm")
    assert found["no_radiograph"].images == ("normal/c.dcm",) and "unreadable" not in found
    (folder / "normal" / "d.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    with pytest.raises(DataError, match="1 of 44 images can't be read"):
        decode(opened(folder, **options), 64)


def test_images_of_two_shades_are_left_out_unless_masks_are_kept(folder):
    options = {"cache": False, "patient_col": "none"}
    clean = decode(opened(folder, **options), 64)[0]
    for side, label in ((20, "normal"), (30, "pneumonia")):
        mask = np.zeros((64, 64), np.uint8)
        mask[10:50, side:50] = 255
        Image.fromarray(mask).save(folder / label / "zz.png")
    data = decode(opened(folder, **options), 64)[0]
    assert data.left_out == (("only two shades of gray, as in masks", ("normal/zz.png", "pneumonia/zz.png")),)
    assert data.fingerprint() == clean.fingerprint()
    assert len(decode(opened(folder, **options), 64, may_leave_out=False)[0]) == 42
    assert len(decode(opened(folder, keep_masks=True, **options), 64)[0]) == 42

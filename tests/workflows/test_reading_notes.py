"""Notes of the image reader reach fit, the run, evaluate and predict, also for cached images."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import xrayfast as xf
from tests.conftest import SMALL
from tests.data.images.dicom_files import dicom_bytes
from xrayfast.cli.app import app
from xrayfast.config import Config
from xrayfast.progress import NullReporter
from xrayfast.runs.run import Run

BLACK = '1 image read with the note "only one gray level": normal/black.png.'
WINDOW = "window 100/50 LINEAR ignored, because it makes 100% of the image black or white"


@pytest.fixture(scope="module")
def odd_dir(data_dir, tmp_path_factory):
    """Class folders with an image of one shade and a DICOM file with an unusable window."""
    folder = tmp_path_factory.mktemp("odd") / "data"
    shutil.copytree(data_dir, folder)
    Image.new("L", (64, 64)).save(folder / "normal" / "black.png")
    film = np.asarray(Image.open(next(folder.glob("normal/*.png"))).convert("L")).astype(np.uint16) * 16 + 200
    (folder / "normal" / "window.dcm").write_bytes(dicom_bytes(film, bits=13, WindowCenter=100, WindowWidth=50))
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["cached", "not cached"])
def fitted(odd_dir, tmp_path_factory, request):
    folder, notes = tmp_path_factory.mktemp("runs"), []
    where = {"cache": True, "cache_dir": folder / "cache"} if request.param else {"cache": False}
    data = xf.open_data(odd_dir, test_fraction=0.2, **where)
    if request.param:
        from xrayfast.workflows.steps.data.images import decode

        decode(data, SMALL["size"])  # so that fit finds all images cached
    return xf.fit(data, runs=folder, epochs=1, reporter=NullReporter(note=notes.append), **SMALL), notes


def test_fit_passes_notes_on_to_the_console_and_the_run(fitted):
    run, notes = fitted
    for said in (notes, run.info.remarks):
        assert BLACK in said
        assert f'1 image read with the note "{WINDOW}": normal/window.dcm.' in said
        assert not any("bits stored" in one for one in said)
    assert "only one gray level" in run.model_card_path.read_text()


def test_evaluate_passes_notes_on(tiny_run, odd_dir, tmp_path):
    shutil.copytree(odd_dir, tmp_path / "other")
    config = Config().updated({"source": tmp_path / "other", "cache": False})
    run = shutil.copytree(tiny_run.path, tmp_path / "run")
    found = xf.evaluate(run, config=config, resamples=0)
    assert BLACK in found.metrics["notes"]
    assert [one["text"] for one in found.metrics["result"]["warnings"] if one["code"] == "blank images"] == [BLACK]
    assert "only one gray level" in found.report_path.read_text()


def test_predict_has_a_column_of_notes(tiny_run, odd_dir, tmp_path):
    files = [odd_dir / "normal" / name for name in ("black.png", "window.dcm")]
    good, bad = next(odd_dir.glob("normal/*.png")), tmp_path / "bad.png"
    bad.write_bytes(b"<html>")
    said = []
    table = xf.predict(tiny_run, [*files, good, bad], note=said.append)
    assert list(table.columns[-2:]) == ["notes", "error"]
    assert table["notes"][0] == "only one gray level" and WINDOW in table["notes"][1].split("; ")
    assert table["notes"][2:].tolist() == ["", ""]
    assert f'1 image read with the note "only one gray level": {files[0]}.' in said
    out = tmp_path / "p.csv"
    result = CliRunner().invoke(app, ["predict", str(tiny_run.path), *map(str, files), "-o", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert "only one gray level" in result.stderr and json.loads(result.stdout)["files"] == 2
    assert pd.read_csv(out)["notes"][0] == "only one gray level"


def test_predict_notes_what_is_no_radiograph(tiny_run, odd_dir, tmp_path):
    names = [tmp_path / "masks" / "a.png", tmp_path / "b_overlay.png", tmp_path / "c.png"]
    for name in names:
        name.parent.mkdir(exist_ok=True)
        shutil.copy(min(odd_dir.glob("pneumonia/*.png")), name)
    disc = (np.add.outer(np.arange(-32, 32) ** 2, np.arange(-32, 32) ** 2) < 400) * 255
    Image.fromarray(disc.astype(np.uint8)).save(tmp_path / "d.png")
    by_name = "mask, overlay, map or thumbnail by name"
    found = xf.predict(tiny_run, [*names, tmp_path / "d.png"], note=lambda text: None)
    assert found["notes"].tolist() == [by_name, by_name, "", "only two shades of gray"]


def test_predict_notes_how_small_an_image_is_and_its_view(tiny_run, odd_dir, tmp_path):
    film = Image.open(min(odd_dir.glob("pneumonia/*.png"))).convert("L")
    film.resize((12, 14)).save(tmp_path / "a.png")
    (tmp_path / "b.dcm").write_bytes(dicom_bytes(np.asarray(film), bits=8, ViewPosition="LL"))
    (tmp_path / "c.dcm").write_bytes(dicom_bytes(np.asarray(film), bits=8, ViewPosition="PA"))
    film.save(tmp_path / "view2_lateral.png")
    run, said = Run(shutil.copytree(tiny_run.path, tmp_path / "run")), []
    valid = run.predictions("valid")
    run.write_predictions("valid", replace(valid, attributes={"view": np.full(len(valid), "PA", object)}))
    found = xf.predict(
        run, [tmp_path / name for name in ("a.png", "b.dcm", "c.dcm", "view2_lateral.png")], note=said.append
    )
    assert found["notes"][0] == "only 12 x 14 pixels, enlarged for the network"
    assert ["lateral view" in text.split("; ") for text in found["notes"]] == [False, True, False, True]
    assert any(text.startswith("2 images with a lateral view, while there is none among ") for text in said)
    assert not any("lateral" in text for text in xf.predict(tiny_run, tmp_path / "c.dcm", note=said.append)["notes"])

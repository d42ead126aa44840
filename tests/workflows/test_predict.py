"""Prediction on files, folders and patterns."""

import os
import shutil
import threading
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import xrayfast as xf
from xrayfast.errors import DataError
from xrayfast.workflows.steps.predictions.image_files import find_images


def test_rows_are_in_the_order_of_the_input_with_their_errors(tiny_run, data_dir, tmp_path):
    good = sorted(data_dir.glob("normal/*.png"))[:3]
    bad, empty = tmp_path / "bad.png", tmp_path / "empty.jpg"
    bad.write_text("<html>not found</html>")
    empty.write_bytes(b"")
    table = xf.predict(tiny_run, [good[2], bad, good[0], empty, good[1]])
    assert table["file"].tolist() == [str(path) for path in (good[2], bad, good[0], empty, good[1])]
    probabilities = [f"prob_{label}" for label in tiny_run.labels]
    assert list(table.columns) == ["file", "predicted", *probabilities, "notes", "error"]
    assert (table["error"] != "").tolist() == [False, True, False, True, False]
    assert str(bad) in table["error"][1]
    assert table["predicted"].isna().tolist() == [False, True, False, True, False]
    probability = table.filter(like="prob_").to_numpy(dtype=float)
    np.testing.assert_allclose(probability[[0, 2, 4]].sum(axis=1), 1, atol=1e-6)
    alone = xf.predict(tiny_run, good[0])
    np.testing.assert_allclose(probability[2], alone.filter(like="prob_").to_numpy(dtype=float)[0], atol=1e-6)


def test_unreadable_files_alone_give_a_table_of_errors(tiny_run, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    table = xf.predict(tiny_run, tmp_path)
    assert len(table) == 1
    assert table["error"][0] != ""


def test_multi_label_predictions_are_joined(tiny_multi_run, multi_dir):
    table = xf.predict(tiny_multi_run, multi_dir)
    probability = table.filter(like="prob_").to_numpy(dtype=float)
    thresholds = tiny_multi_run.decision.thresholds
    for row, text in zip(probability, table["predicted"], strict=True):
        called = zip(tiny_multi_run.labels, row, thresholds, strict=True)
        assert text == "|".join(label for label, p, threshold in called if p >= threshold)


def test_tta_mixes_in_augmented_views_and_is_reproducible(tiny_run, data_dir):
    file = next(data_dir.glob("covid-19/*.png"))
    plain, first, second = (
        xf.predict(tiny_run, file, tta=tta).filter(like="prob_").to_numpy(dtype=float) for tta in (False, True, True)
    )
    assert (first == second).all()
    assert not np.allclose(plain, first, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 3])
def test_files_read_by_several_threads_stay_in_order(tiny_run, data_dir, tmp_path, monkeypatch, threads):
    """Small and large files alternate, so later files are ready before earlier ones."""
    from xrayfast.learning.inference import reading
    from xrayfast.workflows import predict

    small = sorted(data_dir.glob("*/*.png"))[:8]
    files = []
    for i, image in enumerate(small):
        files += [tmp_path / f"{i}.png", image, tmp_path / f"{i}.dcm"]
        Image.open(image).resize((1500, 1500)).save(files[-3], compress_level=1)
        files[-1].write_bytes(b"nothing")
    monkeypatch.setattr(reading, "cpu_count", lambda: threads)
    monkeypatch.setattr(reading, "CHUNK", 10)
    seen = set()
    real = predict._try_read
    monkeypatch.setattr(predict, "_try_read", lambda *args: (seen.add(threading.get_ident()), real(*args))[1])
    before = warnings.filters, warnings.showwarning
    table = predict.predict(tiny_run, files)
    assert (warnings.filters, warnings.showwarning) == before
    assert len(seen) == threads
    assert table["file"].tolist() == [str(file) for file in files]
    assert (table["error"] != "").tolist() == [False, False, True] * 8
    assert all(str(file) in error for file, error in zip(files[2::3], table["error"][2::3], strict=True))
    alone = pd.concat([xf.predict(tiny_run, file) for file in files[:2]], ignore_index=True)
    columns = [f"prob_{label}" for label in tiny_run.labels]
    np.testing.assert_allclose(table[columns][:2].astype(float), alone[columns].astype(float), atol=1e-6)


WHERE = {
    "_try_read": "xrayfast.workflows.predict._try_read",
    "probabilities": "xrayfast.learning.inference.predictor.Predictor.probabilities",
}


@pytest.mark.parametrize("where", [*WHERE, "progress"])
def test_an_interruption_leaves_no_thread_and_no_warning_filter(tiny_run, data_dir, monkeypatch, where):
    """Ctrl-C, at several places."""
    from xrayfast.workflows import predict

    def stop(*args, **options):
        raise KeyboardInterrupt

    if where != "progress":
        monkeypatch.setattr(WHERE[where], stop)
    before = threading.active_count(), warnings.filters, warnings.showwarning
    with pytest.raises(KeyboardInterrupt) as caught:
        predict.predict(tiny_run, data_dir, progress=stop)
    assert (threading.active_count(), warnings.filters, warnings.showwarning) == before
    assert caught.tb  # it refers to all frames, so garbage collection has freed nothing of them


def test_other_files_in_a_folder_are_counted_and_named(tiny_run, data_dir, tmp_path):
    shutil.copy(next(data_dir.rglob("*.png")), tmp_path / "1.png")
    (tmp_path / "1.gif").write_bytes(b"GIF89a")
    notes = []
    assert len(xf.predict(tiny_run, tmp_path, note=notes.append)) == 1
    assert notes == [f"1 file left out, because hidden or not an image: {tmp_path / '1.gif'}."]


def test_sources(tmp_path):
    for name in ("b/2.png", "b/1.PNG", "b/c/3.jpg", "b/.hidden.png", "b/notes.txt", "a.weird", "b/.Trash/7.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path, format="PNG")
    for name in ("b/4.jfif", "b/5.JPE", "b/6.gif", "b/.DS_Store", "b/._2.png"):
        (tmp_path / name).touch()
    found, left_out, repeated = find_images([tmp_path / "a.weird", tmp_path / "b", tmp_path / "b" / "2.png"])
    others = ("6.gif", "notes.txt", ".Trash/7.png", ".hidden.png")
    assert left_out == [f"{tmp_path}/b/{name}" for name in others]
    assert [os.path.relpath(path, tmp_path) for path in found] == [
        "a.weird", "b/1.PNG", "b/2.png", "b/4.jfif", "b/5.JPE", "b/c/3.jpg"
    ]  # fmt: skip
    assert repeated == [str(tmp_path / "b" / "2.png")]
    assert find_images([str(tmp_path / "b" / "*.png")]) == ([str(tmp_path / "b" / "2.png")], [], [])
    with pytest.raises(DataError, match=r"no such file or folder|no file matches"):
        find_images([tmp_path / "nothing*"])
    with pytest.raises(DataError, match="No files"):
        find_images([])
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as packed:
        packed.write(tmp_path / "b" / "2.png", "in/8.png")
    both = [str(tmp_path / "b" / "c" / "3.jpg"), str(tmp_path / "c.zip" / "in/8.png")]
    assert find_images([tmp_path / "**" / "c*"]) == (both, [], [])  # a folder and an archive
    with pytest.raises(DataError, match="Patterns match only files on disk: give an archive"):
        find_images([tmp_path / "c.zip" / "in" / "*.png"])
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="contains no images"):
        find_images([tmp_path / "none"])
    csv = tmp_path / "labels.csv"
    csv.touch()
    assert find_images([csv, tmp_path / "a.weird"]) == ([str(tmp_path / "a.weird")], [str(csv)], [])
    with pytest.raises(DataError, match=rf"^{csv}: is a table.* xf.evaluate.RUN, '{csv}'. predicts"):
        find_images([csv])
    with pytest.raises(DataError, match="none: contains no images"):  # also after a table
        find_images([csv, tmp_path / "none", tmp_path / "a.weird"])


def test_large_inputs_go_in_chunks(tiny_run, data_dir, tmp_path, monkeypatch):
    from xrayfast.learning.inference import reading
    from xrayfast.workflows import predict

    shutil.copytree(data_dir / "normal", tmp_path / "in")
    whole = xf.predict(tiny_run, tmp_path / "in")
    monkeypatch.setattr(reading, "CHUNK", 5)
    done = []
    chunked = predict.predict(tiny_run, tmp_path / "in", progress=lambda now, total: done.append((now, total)))
    np.testing.assert_allclose(
        whole.filter(like="prob_").to_numpy(dtype=float), chunked.filter(like="prob_").to_numpy(dtype=float), atol=1e-6
    )
    assert done[-1] == (len(whole), len(whole))
    assert len(done) > 1


def test_a_file_given_twice_has_one_row_and_a_note(tiny_run, tmp_path, monkeypatch):
    Image.new("L", (64, 64), 90).save(tmp_path / "1.png")
    monkeypatch.chdir(tmp_path)
    notes = []
    table = xf.predict(tiny_run, ["1.png", "./1.png", str(tmp_path / "1.png")], note=notes.append)
    assert table["file"].tolist() == ["1.png"]
    assert notes[0] == f"2 files given more than once, but predicted once: ./1.png, {tmp_path / '1.png'}."


def test_the_same_image_in_two_files_is_noted(tiny_run, tmp_path):
    for name, gray in (("1.png", 90), ("2.png", 40), ("3.png", 90)):
        Image.effect_noise((64, 64), gray).save(tmp_path / name)
    shutil.copy(tmp_path / "1.png", tmp_path / "0.png")
    (tmp_path / "4.png").write_bytes(b"no image")
    (tmp_path / "5.png").write_bytes(b"no image")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "2.png", "2.png")
    notes = []
    table = xf.predict(tiny_run, [tmp_path / "a.zip", tmp_path], note=notes.append)
    assert len(table) == 7
    assert [text for text in notes if "pixels of an earlier file" in text] == [
        f"2 files with the pixels of an earlier file, each predicted: {tmp_path / '1.png'} (as {tmp_path / '0.png'}), "
        f"{tmp_path / '2.png'} (as {tmp_path / 'a.zip' / '2.png'})."
    ]
    notes.clear()
    xf.predict(tiny_run, [tmp_path / "1.png", tmp_path / "2.png", tmp_path / "3.png"], note=notes.append)
    assert not [text for text in notes if "earlier file" in text]

"""WebDataset shards are read as a table of their samples."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from tests.data.builders import opened, rows
from xrayfast.data.images.reader import read
from xrayfast.data.sources.datasets.webdataset import MAX_SHARDS, expand_shards, is_shards
from xrayfast.errors import DataError
from xrayfast.files.virtual.paths import to_path
from xrayfast.workflows.steps.predictions.image_files import find_images


def png(seed):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24), np.uint8)).save(content, "PNG")
    return content.getvalue()


def write_shard(path, samples):
    """Write samples, given as dictionaries of suffix and content, as WebDataset's TarWriter does."""
    with tarfile.open(path, "w") as shard:
        for key, files in samples.items():
            for suffix, content in files.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))


def shards(folder, make, count=3, size=4):
    for number in range(count):
        keys = range(number * size, (number + 1) * size)
        write_shard(folder / f"data-{number:06d}.tar", {f"{key:06d}": make(key) for key in keys})
    return folder / f"data-{{000000..{count - 1:06d}}}.tar"


def test_classes_are_read_from_cls_files(tmp_path):
    pattern = shards(tmp_path, lambda i: {"png": png(i), "cls": ("normal", "mass")[i % 2].encode()})
    found = opened(pattern)
    assert len(found) == 12 and found.labels == ("mass", "normal") and found.task == "single"
    assert rows(found)["data-000001.tar/000005.png"] == "mass"
    assert read(found.table["path"][5]).pixels.tobytes() == read_png(png(5)).tobytes()


def read_png(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_numbers_are_classes(tmp_path):
    found = opened(shards(tmp_path, lambda i: {"png": png(i), "cls": b"%d" % (i % 3)}))
    assert found.labels == ("0", "1", "2") and found.task == "single"


def test_the_keys_of_json_files_are_columns(tmp_path):
    def sample(i):
        about = {
            "labels": ["Mass", "Edema"][i % 3 // 2 :],
            "patient_id": f"p{i // 2}",
            "split": "test" if i > 9 else "train",
        }
        return {"png": png(i), "json": json.dumps(about | {"more": {"a": 1}}).encode(), "seg.png": png(99), "txt": b"x"}

    found = opened(shards(tmp_path, sample))
    assert len(found) == 12 and found.task == "multi" and set(found.labels) == {"Mass", "Edema"}
    assert found.table["patient"].nunique() == 6 and (found.table["split"] == "test").sum() == 2
    assert any("'more'" in note and ".seg.png" in note and ".txt" in note for note in found.notes)


def test_one_shard_needs_no_pattern_and_class_folders_in_a_tar_stay_class_folders(tmp_path):
    shards(tmp_path, lambda i: {"jpg": png(i), "cls": b"ab"[i % 2 : i % 2 + 1]}, count=1, size=10)
    assert rows(opened(tmp_path / "data-000000.tar"))["data-000000.tar/000003.jpg"] == "b"
    write_shard(tmp_path / "folders.tar", {f"{'ab'[i % 2]}/{i}": {"png": png(i)} for i in range(10)})
    assert not is_shards(to_path(tmp_path / "folders.tar"))
    assert rows(opened(tmp_path / "folders.tar"))["a/0.png"] == "a"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "found invalid JSON"), (b"[1]", "found list"), (b"[" * 100_000, "found invalid JSON")],
)
def test_invalid_json_is_named(tmp_path, content, message):
    pattern = shards(tmp_path, lambda i: {"png": png(i), "json": content if i == 5 else b'{"label": "a"}'})
    with pytest.raises(DataError, match=rf"data-000001\.tar/000005\.json: .*{message}"):
        opened(pattern)


def test_missing_shards_and_shards_without_labels_are_named(tmp_path):
    pattern = shards(tmp_path, lambda i: {"png": png(i)})
    with pytest.raises(DataError, match="no labels"):
        opened(pattern)
    (tmp_path / "data-000001.tar").unlink()
    with pytest.raises(DataError, match=r"data-000001\.tar: found no such shard"):
        opened(pattern)
    with pytest.raises(DataError, match="found no shards"):
        opened(tmp_path / "data-{9..1}.tar")
    with pytest.raises(DataError, match=f"more than {MAX_SHARDS:,}"):
        expand_shards(tmp_path / "data-{0..9}{000000000..999999999}.tar")


def test_a_shard_that_is_missing_is_named_with_those_that_are_there(tmp_path):
    shards(tmp_path, lambda i: {"png": png(i), "cls": b"mass"}, count=2)
    with pytest.raises(
        DataError, match=rf"data-000002.tar: found no such shard; .* {tmp_path} contains data-00000[01].tar, "
    ):
        opened(tmp_path / "data-{000000..000002}.tar")


def test_shards_with_a_table_are_an_error(tmp_path):
    pattern = shards(tmp_path, lambda i: {"png": png(i), "cls": b"mass"}, count=1)
    (tmp_path / "labels.csv").write_text("image,label\n000000.png,a\n")
    with pytest.raises(DataError, match=r"found labels in the shards, and .*labels.csv is a table"):
        opened(pattern, labels=tmp_path / "labels.csv")


def test_predict_takes_shards_by_braces(tmp_path):
    pattern = shards(tmp_path, lambda i: {"png": png(i), "cls": b"mass"})
    files, left_out, _ = find_images([pattern, tmp_path / "data-{000000..000000}.tar"])
    assert files == [f"{tmp_path}/data-{i // 4:06d}.tar/{i:06d}.png" for i in range(12)]
    assert {to_path(file).suffix for file in left_out} == {".cls"}
    with pytest.raises(DataError, match=r"data-000003.tar: no such file or folder\. .* contains data-"):
        find_images([tmp_path / "data-{000000..000003}.tar"])

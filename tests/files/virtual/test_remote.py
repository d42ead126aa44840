"""Remote objects are read once, like local files, and errors are named without any text from the server."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fsspec.registry import _registry

import xrayfast as xf
from tests.data.builders import opened, rows, table
from tests.data.cache.image_files import write_images
from tests.data.sources.test_webdataset import png, shards
from tests.files.virtual.fake_s3 import FakeS3
from xrayfast.config import Config
from xrayfast.data.cache.image_cache import ImageCache
from xrayfast.data.images.reader import read
from xrayfast.errors import ConfigError, DataError, ReadError, RemoteError, RunError, WriteError
from xrayfast.errors.credentials import hide_credentials
from xrayfast.files.virtual import access, archives, remote
from xrayfast.files.virtual.addresses import identity, name_of_address
from xrayfast.files.virtual.paths import to_path
from xrayfast.workflows.steps.predictions.image_files import find_images


def forget_all():
    """Forget all state, as in a new process."""
    for known in (remote._states, remote._folders, archives._archives, access._trees):
        known.clear()


@pytest.fixture
def s3(tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    monkeypatch.setitem(_registry, "s3", FakeS3)
    monkeypatch.setattr(FakeS3, "store", {})
    monkeypatch.setattr(FakeS3, "pseudo_dirs", [""])
    monkeypatch.setattr(FakeS3, "fail", staticmethod(lambda kind: None))
    FakeS3.asked.clear()
    FakeS3.clear_instance_cache()
    forget_all()
    yield FakeS3()
    forget_all()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    for i, label in enumerate(("normal", "pneumonia")):
        write_images(folder / label, 6, seed=i)
    return folder


def pack(plain, tmp_path, kind):
    return Path(shutil.make_archive(str(tmp_path / "images"), kind, plain))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "gztar"])
def test_a_bucket_is_read_like_the_folder_and_only_once(s3, plain, tmp_path, kind):
    source = "s3://bucket/images"
    if kind == "folder":
        s3.upload(plain, "bucket/images")
    else:
        archive = pack(plain, tmp_path, kind)
        source += archive.name.removeprefix("images")
        s3.pipe_file(source, archive.read_bytes())
    local, first = opened(plain), opened(source)
    assert rows(first) == rows(local) and first.fingerprint() == local.fingerprint()
    paths = first.table["path"].tolist()
    images, reference = ImageCache(24), ImageCache(24)
    assert images.build(paths, workers=0) == {}
    np.testing.assert_array_equal(images.batch(paths), reference.batch(local.table["path"].tolist()))
    forget_all()
    FakeS3.asked.clear()
    images = ImageCache(24)
    assert images.build(opened(source).table["path"].tolist(), workers=0) == {}
    images.batch(paths)
    # One listing, and two files that a Hugging Face `datasets` folder would have.
    assert FakeS3.asked["read"] == 0 and FakeS3.asked["find"] + FakeS3.asked["info"] <= 3


def test_an_interrupted_build_resumes_and_a_changed_object_is_read_again(s3, plain):
    s3.upload(plain, "bucket")
    paths = opened("s3://bucket").table["path"].tolist()
    left = [4]

    def fail(kind):
        left[0] -= kind == "read"
        if left[0] < 0:
            raise ConnectionResetError

    FakeS3.fail = staticmethod(fail)
    with pytest.raises(RemoteError):
        ImageCache(24).build(paths, workers=0)
    FakeS3.fail = staticmethod(lambda kind: None)
    FakeS3.asked.clear()
    ImageCache(24).build(paths, workers=0)
    assert FakeS3.asked["read"] == len(paths) - 4
    s3.pipe_file(paths[0], Path(plain / "pneumonia/0003.png").read_bytes())
    FakeS3.asked.clear()
    images = ImageCache(24)
    images.build(opened("s3://bucket").table["path"].tolist(), workers=0)
    assert FakeS3.asked["read"] == 1
    assert (images.image(paths[0]) == ImageCache(24).image(plain / "pneumonia/0003.png")).all()


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), TimeoutError(), OSError(5, "SECRET"), RuntimeError("SECRET")]
)
def test_a_transient_error_is_retried(s3, plain, error):
    s3.upload(plain, "bucket")
    failures = [error] * 3

    def fail(kind):
        if failures:
            raise failures.pop()

    FakeS3.fail = staticmethod(fail)
    assert read("s3://bucket/normal/0000.png").pixels.shape == read(plain / "normal/0000.png").pixels.shape


def refused():
    error = RuntimeError("SECRET")
    error.status = 403
    return error


def unreachable():
    """The error of fsspec's HTTP file system without a connection."""
    error = FileNotFoundError("SECRET")
    error.__cause__ = OSError(111, "SECRET")
    return error


@pytest.mark.parametrize(
    ("error", "tries", "words"),
    [
        (ConnectionResetError("SECRET"), 4, "after 4 tries"),
        (unreachable(), 4, "Connection refused, after 4 tries"),
        (OSError(111, "SECRET"), 4, "Connection refused, after 4 tries"),
        (PermissionError("SECRET"), 1, "Set the credentials in the environment"),
        (refused(), 1, "status 403"),
    ],
)
def test_a_permanent_error_is_named_without_the_text_of_the_server(s3, plain, error, tries, words):
    s3.upload(plain, "bucket")
    listed = opened("s3://bucket").table["path"].tolist()
    asked = []

    def fail(kind):
        asked.append(kind)
        raise error

    FakeS3.fail = staticmethod(fail)
    with pytest.raises(RemoteError) as raised:
        ImageCache(24).build(listed[:1], workers=0)
    text = str(raised.value)
    assert text.startswith(listed[0]) and words in text and "SECRET" not in text and len(asked) == tries
    assert raised.value.__cause__ is None and raised.value.__suppress_context__
    forget_all()
    with pytest.raises(RemoteError, match="s3://bucket"):
        opened("s3://bucket")


def test_a_missing_object_is_an_unreadable_file(s3, plain):
    s3.upload(plain, "bucket")
    paths = opened("s3://bucket").table["path"].tolist()
    s3.rm(paths[2])
    problems = ImageCache(24).build(paths, workers=0)
    assert list(problems) == [paths[2]] and "no such object" in problems[paths[2]]
    with pytest.raises(DataError, match=r"s3://bucket/none: found no such folder"):
        opened("s3://bucket/none")


def test_known_object_versions_are_passed_to_workers(s3, plain):
    s3.upload(plain, "bucket")
    paths = opened("s3://bucket").table["path"].tolist()
    states = json.loads(json.dumps(access.known_states([*paths, str(plain)])))
    forget_all()
    remote.remember_states(states)
    FakeS3.asked.clear()
    assert ImageCache(24).build(paths, workers=0) == {}
    assert FakeS3.asked == {"read": len(paths)}


def test_tables_can_refer_to_objects_anywhere(s3, plain, tmp_path):
    s3.upload(plain, "bucket/a")
    s3.pipe_file("s3://other/b.zip", pack(plain, tmp_path, "zip").read_bytes())
    cells = [f"s3://bucket/a/normal/000{i}.png" for i in range(4)]
    cells += [f"zip://normal/000{i}.png::s3://other/b.zip" for i in range(4, 6)]
    labels = table(tmp_path / "x", "image,label\n" + "".join(f"{cell},{'ab'[i % 2]}\n" for i, cell in enumerate(cells)))
    found = opened(tmp_path / "x", labels=labels)
    assert found.table["image"][0] == cells[0]
    assert found.table["image"].tolist()[-1] == "s3://other/b.zip/normal/0005.png"
    assert ImageCache(24).build(found.table["path"].tolist(), workers=0) == {}
    from_bucket = opened("s3://bucket/a", labels=labels)
    assert from_bucket.table["image"][0] == "normal/0000.png"
    s3.pipe_file("s3://bucket/labels.csv", labels.read_bytes())
    assert rows(opened("s3://bucket/labels.csv")) == rows(opened("s3://bucket", labels=labels))
    labels.write_text(labels.read_text().replace("0003", "0009"))
    with pytest.raises(DataError, match=r"row 5: image 's3://bucket/a/normal/0009.png' not found"):
        opened(tmp_path / "x", labels=labels)


def test_labels_of_remote_shards_are_stored_with_their_index(s3, tmp_path):
    for file in [shards(tmp_path, lambda i: {"png": png(i), "cls": b"ab"[i % 2 : i % 2 + 1]})]:
        s3.upload(file.parent, "bucket/shards")
    pattern = "s3://bucket/shards/data-{000000..000002}.tar"
    first = opened(pattern)
    assert ImageCache(24).build(first.table["path"].tolist(), workers=0) == {}
    forget_all()
    FakeS3.asked.clear()
    assert rows(opened(pattern)) == rows(first) and FakeS3.asked["read"] == 0


def test_images_of_a_bucket_are_predicted(s3, plain, tmp_path):
    s3.upload(plain, "bucket/new")
    files, others, _ = find_images(["s3://bucket/new", pack(plain, tmp_path, "zip"), "https://host/1.png?sig=SECRET"])
    assert len(files) == 25 and not others
    assert files[0] == "s3://bucket/new/normal/0000.png" and files[-1] == "https://host/1.png?sig=SECRET"


SIGNED = "https://host/b/1.png?X-Amz-Signature=SECRET&X-Amz-Date=2"


def test_signed_addresses_in_a_table_are_cached_without_their_signature(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "attempt", None)  # nothing is read
    header, again = "image,label\n", SIGNED.replace("SECRET", "OTHER")
    labels = table(
        tmp_path, header + f"{SIGNED},a\nhttps://host/2.png,b\n" * 1 + "https://host/get?id=3,a\nhttps://host/4,b\n"
    )
    found = opened(tmp_path, labels=labels)
    names = found.table["image"].tolist()
    assert names[:2] == ["https://host/b/1.png", "https://host/2.png"] and "SECRET" not in str(names)
    assert found.table["path"][0] == SIGNED
    assert identity(SIGNED) == identity(again) != identity("https://host/b/2.png?X-Amz-Signature=SECRET")
    assert "SECRET" not in str(found.split_table()) + str(found.notes)


@pytest.mark.parametrize("address", [SIGNED, "https://me:SECRET@host/a.zip", "s3://KEY:SECRET@bucket/x"])
def test_no_address_with_credentials_becomes_a_setting(address):
    for name in ("source", "labels"):
        with pytest.raises(ConfigError) as error:
            Config().updated({name: address})
        assert "SECRET" not in str(error.value) and "password" in str(error.value)
    assert "SECRET" not in hide_credentials(f"{address}: can't be read")
    assert "SECRET" not in name_of_address(address)


def test_nothing_is_written_to_a_bucket(s3, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    s3.upload(plain, "bucket")
    data = opened("s3://bucket")
    with pytest.raises(ConfigError, match="a folder of this machine"):
        Config().updated({"cache_dir": "s3://bucket/cache"})
    with pytest.raises(WriteError, match="s3://bucket/check: is remote"):
        xf.check(data, output="s3://bucket/check")
    with pytest.raises(RunError, match="s3://bucket/runs: is remote"):
        xf.fit(data, runs="s3://bucket/runs")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_and_http_folders_are_named_errors(monkeypatch):
    def missing(*args, **options):
        raise ImportError("SECRET")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    for address, extra in {"gs://b/x": "gcs", "az://b/x": "azure", "abfs://b/x": "azure"}.items():
        with pytest.raises(ConfigError, match=rf"pip install 'xrayfast\[{extra}\]'"):
            remote.state_of(address)
    with pytest.raises(ConfigError, match=r"xrayfast\[http\]"):
        read("https://host/1.png")
    with pytest.raises(DataError, match=r"has no folders to list|found a file"):
        opened("https://host/images")


def test_a_setting_keeps_the_address_as_it_is_written(s3, plain):
    s3.upload(plain, "bucket/images")
    data = opened("s3://bucket/images")
    config = Config().updated({"source": data.config.source})
    assert "source: s3://bucket/images\n" in config.to_yaml()
    assert str(to_path(Path("s3://bucket/images"))) == "s3://bucket/images"
    with pytest.raises(ReadError, match=r"s3://bucket/images/normal/9\.png"):
        read(Path("s3://bucket/images/normal/9.png"))

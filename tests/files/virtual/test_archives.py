"""Members of archives are read like the original files, and hostile archives are refused."""

import gzip
import io
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.builders import opened, rows, table
from tests.data.cache.image_files import assert_true_to, write_images
from xrayfast.data.cache.folders import clear_cache
from xrayfast.data.cache.image_cache import ImageCache
from xrayfast.data.images.reader import read
from xrayfast.errors import DataError, ReadError
from xrayfast.files.virtual import access, archives, indexes
from xrayfast.files.virtual.access import is_folder, list_folder, open_binary, outer_file, state_of
from xrayfast.files.virtual.addresses import canonical, holds_credentials, is_remote
from xrayfast.files.virtual.archives import open_archive
from xrayfast.files.virtual.paths import VirtualPath, to_path

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XRAYFAST_CACHE", str(tmp_path / "cache"))


def pack(folder: Path, archive: Path) -> Path:
    """Pack all files of a folder, in an order other than that of their names."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), reverse=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for i, file in enumerate(files):
                packed.write(file, file.relative_to(folder), zipfile.ZIP_STORED if i % 2 else None)
    else:
        kind = {".tar": "", ".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}[archive.suffix]
        with tarfile.open(archive, f"w:{kind}") as packed:
            for file in files:
                packed.add(file, f"./{file.relative_to(folder)}")
    return archive


def tar_of(path: Path, *members: tuple[tarfile.TarInfo | str, bytes], end: bool = True) -> Path:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as packed:
        for info, data in members:
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            if info.isreg():
                info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    path.write_bytes(content.getvalue() if end else content.getvalue().rstrip(b"\0"))
    return path


def zip_of(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for info, data in members:
            packed.writestr(info, data)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    for i, label in enumerate(("normal", "pneumonia")):
        write_images(folder / label, 8, seed=i)
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_of_class_folders_is_read_like_the_folder(plain, tmp_path, suffix):
    archive = pack(plain, tmp_path / f"images{suffix}")
    unpacked, packed = opened(plain), opened(archive)
    assert rows(packed) == rows(unpacked) and packed.fingerprint() == unpacked.fingerprint()
    images, reference = ImageCache(24), ImageCache(24)
    paths = packed.table["path"].tolist()
    assert images.build(paths, workers=0) == {}
    np.testing.assert_array_equal(images.batch(paths), reference.batch(unpacked.table["path"].tolist()))
    assert_true_to(images, paths)


def test_cached_images_are_not_read_again_and_an_interrupted_build_resumes(plain, tmp_path, monkeypatch):
    archive = pack(plain, tmp_path / "images.tar.gz")
    paths = opened(archive).table["path"].tolist()
    ImageCache(24).build(paths[:5], workers=0)
    wanted = []
    real = archives.Archive.read
    monkeypatch.setattr(archives.Archive, "read", lambda self, name: wanted.append(name) or real(self, name))
    ImageCache(24).build(paths, workers=0)
    assert len(wanted) == len(paths) - 5
    wanted.clear()
    monkeypatch.setattr(indexes, "_read_index", None)  # and its members are not listed again
    archives._archives.clear()
    images = ImageCache(24)
    assert images.build(opened(archive).table["path"].tolist(), workers=0) == {}
    images.batch(paths)
    assert wanted == []


def test_a_compressed_tar_is_read_once_by_a_build(plain, tmp_path, monkeypatch):
    paths = opened(pack(plain, tmp_path / "images.tar.gz")).table["path"].tolist()
    begun = []
    monkeypatch.setattr(
        archives, "open_unpacked", lambda path, packed: begun.append(path) or indexes.open_unpacked(path, packed)
    )
    back, rewind = [], gzip._GzipReader._rewind
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda self: back.append(1) or rewind(self))
    assert ImageCache(24).build(paths, workers=0) == {}
    assert (len(begun), len(back)) == (1, 0)


def test_an_archive_that_changes_is_read_again(plain, tmp_path):
    archive = pack(plain, tmp_path / "images.zip")
    path = f"{archive}/normal/0000.png"
    images = ImageCache(24)
    images.build([path], workers=0)
    before = images.image(path)
    other = tmp_path / "other"
    write_images(other / "normal", 1, seed=9)
    pack(other, archive)
    images.build([path], workers=0)
    assert (images.image(path) != before).any()


def test_tables_can_refer_to_members_in_any_way(plain, tmp_path):
    pack(plain, tmp_path / "a.zip")
    ways = ("zip://{0}::a.zip", "a.zip::{0}", "a.zip/{0}", f"zip://{{0}}::{tmp_path}/a.zip")
    for way in ways:
        cells = [way.format(f"{label}/000{i}.png") for label in ("normal", "pneumonia") for i in range(4)]
        labels = table(tmp_path, "image,label\n" + "".join(f"{cell},{'ab'[i % 2]}\n" for i, cell in enumerate(cells)))
        found = opened(tmp_path, labels=labels)
        assert found.table["image"].tolist()[0] == "a.zip/normal/0000.png"
        assert read(found.table["path"][0]).pixels.tobytes() == read(plain / "normal/0000.png").pixels.tobytes()
    (tmp_path / "a.zip").unlink()
    labels = table(tmp_path, "image,label\n" + "".join(f"images/n{i}.png,{'ab'[i % 2]}\n" for i in range(4)))
    with pytest.raises(DataError, match="not found"):
        opened(tmp_path, labels=labels)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_compressed_table_in_an_archive(plain, tmp_path, suffix):
    plain = shutil.copytree(plain, tmp_path / "plain")
    text = "image,label\n" + "".join(f"normal/000{i}.png,{'ab'[i % 2]}\n" for i in range(4))
    (plain / "labels.csv.gz").write_bytes(gzip.compress(text.encode()))
    archive = pack(plain, tmp_path / f"a{suffix}")
    found = opened(archive, labels=archive / "labels.csv.gz")
    assert rows(found) == rows(opened(plain, labels=plain / "labels.csv.gz")) and len(found) == 4
    (plain / "labels.csv.gz").write_bytes(gzip.compress(text.encode())[:-20])
    with pytest.raises(DataError, match="found a damaged gzip file"):
        opened(pack(plain, tmp_path / f"cut{suffix}"), labels=tmp_path / f"cut{suffix}" / "labels.csv.gz")


def test_archives_as_nih_publishes_them_are_read_in_place(tmp_path):
    for part in (1, 2):
        write_images(tmp_path / f"part{part}", 4, seed=part)
        with tarfile.open(tmp_path / f"images_00{part}.tar.gz", "w:gz") as packed:
            for i in range(4):
                packed.add(tmp_path / f"part{part}" / f"000{i}.png", f"images/0000000{part}_00{i}.png")
        for file in (tmp_path / f"part{part}").iterdir():
            file.unlink()
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
    line = "0000000{}_00{}.png,{},0,{},50,M,PA\n"
    table(
        tmp_path,
        header + "".join(line.format(p, i, ("Mass", "Edema")[i % 2], p) for p in (1, 2) for i in range(4)),
        "Data_Entry_2017.csv",
    )
    found = opened(tmp_path)
    assert found.table["image"][0] == "images_001.tar.gz/images/00000001_000.png"
    assert len(found) == 8 and any("8 images read from archives" in note for note in found.notes)


LINK = tarfile.TarInfo("a.png")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc/passwd"
FIFO = tarfile.TarInfo("a.png")
FIFO.type = tarfile.FIFOTYPE
ZIP_LINK = zipfile.ZipInfo("a.png")
ZIP_LINK.external_attr = (stat.S_IFLNK | 0o777) << 16


def negative(path: Path) -> Path:
    """An archive whose member sizes lead back to the same member: CVE-2025-8194."""
    tar_of(path, ("a.png", b"x" * 512), ("b.png", b"y"))
    content = bytearray(path.read_bytes())
    content[1024 + 124 : 1024 + 136] = b"\xff" * 11 + b"\x00"
    header = bytes(content[1024:1536])
    total = sum(header[:148]) + 32 * 8 + sum(header[156:])
    content[1024 + 148 : 1024 + 156] = b"%06o\0 " % total
    path.write_bytes(bytes(content))
    return path


def encrypted(path: Path) -> Path:
    content = bytearray(zip_of(path, ("a.png", b"x")).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))
    return path


def long_header(path: Path) -> Path:
    """An archive with an extended header that claims to be two gigabytes long."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2**31
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    return path


def damaged_header(path: Path) -> Path:
    content = bytearray(tar_of(path, ("a.png", b"x"), ("b.png", b"y"), ("c.png", b"z")).read_bytes())
    content[1024 + 150] ^= 1
    path.write_bytes(bytes(content))
    return path


HOSTILE = {
    "leads out": (".tar", lambda p: tar_of(p, ("../a.png", b"x")), "is outside the archive"),
    "absolute": (".tar", lambda p: tar_of(p, ("/etc/a.png", b"x")), "is outside the archive"),
    "drive": (".zip", lambda p: zip_of(p, ("C:\\a.png", b"x")), "is outside the archive"),
    "backslashes": (".zip", lambda p: zip_of(p, ("..\\a.png", b"x")), "is outside the archive"),
    "link": (".tar", lambda p: tar_of(p, (LINK, b"")), "is a link"),
    "zip link": (".zip", lambda p: zip_of(p, (ZIP_LINK, b"/etc/passwd")), "is a link"),
    "pipe": (".tar", lambda p: tar_of(p, (FIFO, b"")), "not a regular file"),
    "twice": (".tar", lambda p: tar_of(p, ("a.png", b"x"), ("./a.png", b"y")), "two files named a.png"),
    "file and folder": (".tar", lambda p: tar_of(p, ("a", b"x"), ("a/b.png", b"y")), "as a file and as a folder"),
    "negative size": (".tar", negative, "overlap|can't be read as an archive"),
    "encrypted": (".zip", encrypted, "encrypted"),
    "long header": (".tar", long_header, "header of 2,147,483,648 bytes"),
    "damaged header": (".tar", damaged_header, "a header in it is damaged"),
    "no end": (
        ".tar",
        lambda p: tar_of(p, ("a.png", b"x" * 512), end=False),
        "the end of the tar is missing|can't be read as an archive",
    ),
    "empty": (".tar", lambda p: (p.write_bytes(b""), p)[1], "can't be read as an archive"),
    "no archive": (".zip", lambda p: p.write_bytes(b"x" * 999) and p, "can't be read as an archive"),
    "no gzip": (".tgz", lambda p: p.write_bytes(b"x" * 999) and p, "can't be read as an archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_archive_is_refused_by_name(tmp_path, name):
    suffix, make, message = HOSTILE[name]
    path = make(tmp_path / f"hostile{suffix}")
    with pytest.raises(ReadError, match=message) as error:
        open_archive(str(path))
    assert str(error.value).startswith(str(path))
    with pytest.raises(DataError):
        opened(path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file != path]


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(indexes, "MIN_UNPACKED", 2**22)
    monkeypatch.setattr(indexes, "MAX_RATIO", 20)
    path = tmp_path / "bomb.tgz"
    info = tarfile.TarInfo("a.png")
    info.size = 2**31
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf() + bytes(2**24))
    with pytest.raises(ReadError, match="4,194,304 bytes when decompressed"):
        open_archive(str(path))


def test_more_members_than_allowed_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(indexes, "MAX_MEMBERS", 3)
    members = [(f"{i}.png", b"x") for i in range(4)]
    for path in (tar_of(tmp_path / "a.tar", *members), zip_of(tmp_path / "a.zip", *members)):
        with pytest.raises(ReadError, match="more than 3 files"):
            open_archive(str(path))


def test_a_member_is_held_to_the_limits_of_files(tmp_path, monkeypatch):
    path = zip_of(tmp_path / "a.zip", ("a.png", bytes(2**20)), ("b.png", b""))
    monkeypatch.setattr(archives, "MAX_MEMBER", 2**19)
    with pytest.raises(ReadError, match="1,048,576 bytes"):
        open_binary(f"{path}/a.png")
    with pytest.raises(ReadError, match="empty file"):
        read(f"{path}/b.png")
    with pytest.raises(ReadError, match="no such file"):
        read(f"{path}/c.png")


def test_a_zip_member_that_is_longer_than_declared_or_fails_its_checksum_is_refused(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("a.png", b"x" * 1000))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 10)
    path.write_bytes(bytes(content))
    with pytest.raises(ReadError, match=r"checksum|expected 10"):
        open_binary(f"{path}/a.png")


def test_a_byte_that_changed_in_a_zip_is_noticed(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("a.png", b"x" * 1000)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"xxx")] ^= 1
    (tmp_path / "a.zip").write_bytes(bytes(content))
    with pytest.raises(ReadError, match="don't match their checksum"):
        open_binary(f"{tmp_path}/a.zip/a.png")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_an_archive_truncated_anywhere_gives_a_named_error_or_the_whole_content(plain, tmp_path, suffix):
    content = pack(plain / "normal", tmp_path / f"whole{suffix}").read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9, 0.97):
        path = tmp_path / f"cut{share}{suffix}"
        path.write_bytes(content[: int(share * len(content))])
        try:
            found = open_archive(str(path))
        except ReadError as error:
            assert str(error).startswith(str(path))
            continue
        for name in found.members:  # the end is padding
            assert found.read(name) == (plain / "normal" / name).read_bytes()
        assert share >= 0.9 and len(found.members) == 8


def test_folders_named_like_archives_are_folders(plain, tmp_path):
    folder = tmp_path / "unpacked.zip"
    (folder / "x").mkdir(parents=True)
    pack(plain, folder / "x" / "inner.tar")
    assert is_folder(str(folder)) and [entry.name for entry in list_folder(folder)] == ["x"]
    assert [entry.name for entry in list_folder(f"{folder}/x/inner.tar")] == ["normal", "pneumonia"]
    assert state_of(f"{folder}/x/inner.tar/normal/0000.png").size == (plain / "normal/0000.png").stat().st_size


def test_a_path_into_an_archive_is_a_path(plain, tmp_path):
    path = to_path(pack(plain, tmp_path / "a.zip"))
    assert isinstance(path, VirtualPath) and path.is_dir() and path.is_file() and path.exists()
    assert sorted(child.name for child in path.iterdir()) == ["normal", "pneumonia"]
    inner = path / "normal" / "0000.png"
    assert inner.read_bytes() == (plain / "normal/0000.png").read_bytes() and not inner.is_dir()
    assert outer_file(str(inner)) == str(tmp_path / "a.zip") and outer_file("a/b.png") == "a/b.png"
    assert inner.parent.parent == path and not (path / "none").exists()
    with pytest.raises(OSError, match="written"):
        inner.open("w")


def test_a_damaged_index_is_built_again_and_clearing_the_cache_removes_it(plain, tmp_path):
    archive = str(pack(plain, tmp_path / "a.tar"))
    members = open_archive(archive).members
    (kept,) = (tmp_path / "cache" / "archives").iterdir()
    kept.write_text('{"members": [["a", "b"]')
    archives._archives.clear()
    assert open_archive(archive).members == members
    assert clear_cache() > 0 and not list((tmp_path / "cache" / "archives").iterdir())


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=8), st.binary(max_size=40)), max_size=6))
def test_any_tar_is_listed_as_it_was_packed_or_refused(tmp_path_factory, members):
    path = tar_of(tmp_path_factory.mktemp("any") / "a.tar", *members)
    try:
        found = open_archive(str(path))
    except ReadError:
        return
    assert len(found.members) == len(members)
    for name, content in zip(found.members, (data for _, data in members), strict=True):
        assert found.read(name) == content


def test_errors_name_an_image_by_its_member_name(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("a/x.png", b"not an image"))
    with pytest.raises(ReadError) as error:
        read(f"{path}/a/x.png")
    assert str(error.value).startswith(f"{path}/a/x.png")


MISSING = {
    "film.zip": "expected an archive, a folder in one, or shards .* Check the path. {folder} contains films.zip.$",
    "films.zip/nomal": "Check the path. {folder}/films.zip contains normal, pneumonia.$",
    "films.zip/elsewhere/deep": "Check the path. {folder}/films.zip contains normal, pneumonia.$",
    "data-{1,2}.tar": "shards such as data-{{000000..000099}}.tar. Check the path. {folder} contains data-1.tar.$",
    "dir": "dir: found no such folder. {folder} contains dirs. Expected one of",
}


@pytest.mark.parametrize("name", MISSING)
def test_errors_about_missing_members_name_those_that_exist(plain, tmp_path, name):
    pack(plain, tmp_path / "films.zip")
    (tmp_path / "dirs").mkdir()
    (tmp_path / "data-1.tar").touch()
    with pytest.raises(DataError, match=MISSING[name].format(folder=tmp_path)) as error:
        opened(to_path(tmp_path / name))
    assert ("synth" in str(error.value)) is (name == "dir")


def test_a_broken_archive_matters_only_if_it_is_needed(plain, tmp_path):
    """An archive within another archive is only a file there, broken or not."""
    data = tmp_path / "data"
    names = sorted(path.name for path in (plain / "normal").iterdir())
    shutil.copytree(plain / "normal", data / "films")
    for name in names[:4]:
        (data / "films" / name).unlink()
    (data / "other").mkdir()
    broken = data / "other" / "a.zip"
    broken.write_bytes(b"PK no archive")
    csv = table(data, "image,label\n" + "".join(f"{name},{'xy'[i % 2]}\n" for i, name in enumerate(names)))
    with pytest.raises(
        DataError, match=rf"4 of 8 rows have no file. Not looked into: {broken}: can't be read as an archive"
    ):
        opened(csv)
    found = opened(csv, missing="skip")
    assert len(found) == 4 and any(f"Not looked into: {broken}: can't be read" in note for note in found.notes)
    with zipfile.ZipFile(data / "rest.zip", "w") as packed:
        for name in names[:4]:
            packed.write(plain / "normal" / name, name)
        packed.writestr("inner.zip", b"no archive")
    found = opened(csv)
    assert len(found) == 8 and any(f"Not looked into: {broken}: can't be read" in note for note in found.notes)
    assert any("4 images read from archives (other/a.zip, rest.zip)" in note for note in found.notes)


def test_an_archive_with_few_images_of_a_table_is_named_if_others_are_missing(plain, tmp_path):
    """That archive may belong to another data set."""
    data = tmp_path / "data"
    names = sorted(path.name for path in (plain / "normal").iterdir())
    shutil.copytree(plain / "normal", data / "films")
    zip_of(data / "few.zip", (names[0], (data / "films" / names[0]).read_bytes()))
    (data / "films" / names[0]).unlink()
    csv = table(data, "image,label\n" + "".join(f"{name},{'xy'[i % 2]}\n" for i, name in enumerate(names)))
    said = rf"few\.zip/{names[0]} has the name of a missing image, but is in another folder or archive"
    with pytest.raises(DataError, match=rf"1 of 8 rows have no file\. {said}"):
        opened(csv)
    found = opened(csv, missing="skip")
    assert len(found) == 7 and any(re.match(said, note) for note in found.notes)


def test_paths_of_windows_lead_into_archives_and_buckets(tmp_path, monkeypatch):
    """There a path through a file is a FileNotFoundError, as here one with backslashes."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"1")
    pack(tmp_path, tmp_path / "images.zip")
    monkeypatch.setattr(access, "_BELOW_FILE", (NotADirectoryError, FileNotFoundError))
    member = f"{tmp_path}/images.zip\\a\\1.png"
    assert open_binary(member).read() == b"1" and state_of(member).size == 1
    assert [entry.name for entry in list_folder(f"{tmp_path}/images.zip\\a")] == ["1.png"]
    for path in (f"{tmp_path}/none.png", f"{tmp_path}/images.zip\\b"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            state_of(path)
    monkeypatch.setattr(os, "sep", "\\")
    assert canonical("s3:\\bucket\\a\\1.png") == "s3://bucket/a/1.png" and is_remote("s3:\\bucket")
    assert holds_credentials("https:\\me:secret@host\\a.zip")


def test_names_in_a_zip_that_are_utf8_without_saying_so(tmp_path):
    name = "Entz\u00fcndung/1.png"
    path = zip_of(tmp_path / "a.zip", ("Entz@@ndung/1.png", b"1"))
    path.write_bytes(path.read_bytes().replace(b"@@", "\u00fc".encode()))
    assert list(open_archive(str(path)).members) == [name]
    path = zip_of(tmp_path / "b.zip", ("Entz@ndung/1.png", b"1"))
    path.write_bytes(path.read_bytes().replace(b"@", "\u00fc".encode("cp437")))
    assert list(open_archive(str(path)).members) == [name]

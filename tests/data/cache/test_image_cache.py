from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.cache.image_files import SIDE, assert_true_to, count_cached, patched_reader, write_image, write_images
from xrayfast.config import DataConfig
from xrayfast.data.cache import decode_worker, file_keys, folders, image_cache, shards
from xrayfast.data.cache.image_cache import ImageCache, UncachedImages, open_images, require_readable
from xrayfast.data.cache.shards import Entry, ImageInfo, write_shard
from xrayfast.data.images import reader
from xrayfast.data.images.reader import fit_square, read
from xrayfast.errors import DataError, ReadError, WriteError
from xrayfast.errors.escapes import escape_hidden


@pytest.fixture
def root(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def undecodable(monkeypatch):
    """Return a function after whose call nothing can be decoded, so images must come from disk."""

    def refuse(path, window="auto"):
        raise ReadError(f"{path}: is not to be decoded again")

    def start():
        for module in (image_cache, decode_worker):
            monkeypatch.setattr(module, "read", refuse)

    return start


def of_every_kind(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    gray = Image.fromarray(rng.integers(0, 256, (50, 31), np.uint8))
    deep = Image.fromarray(rng.integers(0, 4096, (31, 50), np.uint16))
    square = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), np.uint8))
    turned = Image.Exif()
    turned[274] = 6
    images = {
        "a.png": gray,
        "b.jpg": gray,
        "c.bmp": gray,
        "d.tif": gray,
        "e.webp": gray,
        "16.png": deep,
        "16.tif": deep,
        "p.png": gray.convert("P"),
        "rgba.png": gray.convert("RGBA"),
        "cmyk.jpg": gray.convert("CMYK"),
        "square.png": square,
        "a b,ä\n.png": gray,
    }
    folder.mkdir()
    for name, image in images.items():
        image.save(folder / name)
    gray.save(folder / "turned.jpg", exif=turned)
    return sorted(folder.iterdir())


# An image from the cache equals one from the reader.


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [ImageCache, UncachedImages])
def test_images_and_infos_equal_the_readers(tmp_path, root, kind, workers):
    paths = of_every_kind(tmp_path / "images")
    images = kind(SIDE, root=root) if kind is ImageCache else kind(SIDE)
    assert images.build(paths, workers=workers) == {}
    assert_true_to(images, paths)
    if kind is ImageCache:
        assert_true_to(ImageCache(SIDE, root=root), paths)


def test_dicom_images_and_infos_equal_the_readers(shared, root):
    paths = sorted((shared / "data" / "dicom" / "derived").glob("*.dcm"))
    images = ImageCache(SIDE, root=root)
    assert images.build(paths, workers=1) == {}
    assert_true_to(images, paths)


def test_cached_images_come_from_the_disk(tmp_path, root, undecodable):
    paths = write_images(tmp_path / "images", 30)
    squares = [fit_square(read(path).pixels, SIDE) for path in paths]
    ImageCache(SIDE, root=root).build(paths, workers=0)
    undecodable()
    kept = ImageCache(SIDE, root=root)
    assert kept.build(paths, workers=0) == {}
    assert all(np.array_equal(kept.image(path), square) for path, square in zip(paths, squares, strict=True))
    assert [kept.info(Path(path)).format for path in paths] == ["PNG"] * 30
    with pytest.raises(ReadError, match="is not to be decoded"):
        ImageCache(SIDE + 1, root=root).image(paths[0])


def test_without_caching_only_infos_are_kept(tmp_path, undecodable):
    paths = write_images(tmp_path / "images", 3)
    images = UncachedImages(SIDE)
    images.build(paths, workers=0)
    undecodable()
    assert [images.info(path).bits for path in paths] == [8] * 3
    assert images.build(paths, workers=0) == {}
    with pytest.raises(ReadError):
        images.image(paths[0])


def test_images_that_are_not_cached_are_read(tmp_path, root):
    paths = write_images(tmp_path / "images", 2)
    assert_true_to(ImageCache(SIDE, root=root), paths)
    assert_true_to(UncachedImages(SIDE), paths)
    assert not root.exists()


def test_the_digest_is_of_the_image_not_of_the_file(tmp_path, root):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20), np.uint8)
    for name in ("a.png", "b.bmp", "c.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
    Image.fromarray(pixels.reshape(20, 30)).save(tmp_path / "shape.png")
    Image.fromarray(pixels ^ (np.arange(600).reshape(30, 20) == 7)).save(tmp_path / "value.png")
    images = ImageCache(SIDE, root=root)
    images.build(tmp_path.glob("*.*"), workers=0)
    digests = {path.name: images.info(path).digest for path in tmp_path.glob("*.*")}
    assert digests["a.png"] == digests["b.bmp"] == digests["c.tif"]
    assert len(set(digests.values())) == 3
    expected = hashlib.blake2b(b"30 20 " + pixels.tobytes(), digest_size=16).hexdigest()
    assert digests["a.png"] == expected


def test_relative_and_absolute_paths_are_the_same_file(tmp_path, root, undecodable, monkeypatch):
    write_images(tmp_path / "images", 1)
    monkeypatch.chdir(tmp_path)
    images = ImageCache(SIDE, root=root)
    images.build(["images/0000.png"], workers=0)
    undecodable()
    monkeypatch.chdir("images")
    for path in ("0000.png", Path("../images/0000.png"), tmp_path / "images" / "0000.png"):
        assert images.image(path).any()


def test_pillow_accepts_the_image(tmp_path, root):
    [path] = write_images(tmp_path / "images", 1)
    images = ImageCache(SIDE, root=root)
    images.build([path], workers=0)
    square = images.image(path)
    assert square.flags.writeable
    assert np.array_equal(np.asarray(Image.fromarray(square)), square)


# No outdated image, and no image of another file.


def changed_by_size(path: str) -> None:
    Image.new("L", (100, 100), 7).save(path, "BMP")


def changed_by_time_alone(path: str) -> None:
    raw, status = Path(path).read_bytes(), Path(path).stat()
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path[:-4] + ".bmp")
    new = Path(path[:-4] + ".bmp").read_bytes()
    assert len(new) == len(raw) == status.st_size
    Path(path).write_bytes(new)


def with_its_old_time_set_back(path: str) -> None:
    status = Path(path).stat()
    changed_by_time_alone(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("kind", [ImageCache, UncachedImages])
@pytest.mark.parametrize("change", [changed_by_size, changed_by_time_alone, with_its_old_time_set_back])
def test_a_changed_file_is_decoded_again(tmp_path, root, change, kind):
    path = str(tmp_path / "x.tmp")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)).save(path, "BMP")
    images = kind(SIDE, root=root) if kind is ImageCache else kind(SIDE)
    images.build([path], workers=0)
    before, digest = images.image(path), images.info(path).digest
    change(path)
    assert not np.array_equal(images.image(path), before)
    assert images.info(path).digest != digest
    assert_true_to(images, [path])
    assert images.build([path], workers=0) == {}
    assert_true_to(images, [path])
    if kind is ImageCache:
        assert count_cached(images) == 2
        assert_true_to(ImageCache(SIDE, root=root), [path])


def test_files_that_swap_names_swap_images(tmp_path, root):
    """Both files have the same size and time stamp, as files from an archive can."""
    a, b = (str(tmp_path / name) for name in ("a.bmp", "b.bmp"))
    for path, gray in ((a, 10), (b, 200)):
        Image.new("L", (30, 30), gray).save(path)
        os.utime(path, (1e9, 1e9))
    images = ImageCache(SIDE, root=root)
    images.build([a, b], workers=0)
    time.sleep(0.02)  # the file system clock of a rename is coarse
    Path(a).rename(tmp_path / "c")
    Path(b).rename(a)
    (tmp_path / "c").rename(b)
    assert (images.image(a).max(), images.image(b).max()) == (200, 10)


def test_a_file_that_is_rewritten_at_once_has_another_key(tmp_path):
    path = tmp_path / "x.bmp"
    for _ in range(20):
        Image.new("L", (2, 2), 10).save(path)
        entry = decode_worker.decode_entry(path, 4, "auto")
        Image.new("L", (2, 2), 20).save(path)
        assert entry.key != decode_worker.file_key(path)


def test_a_file_is_read_only_once_a_later_change_would_alter_its_time_stamp(tmp_path, monkeypatch):
    """File system clocks are coarse: a second change within a tick would keep the time stamp."""
    slept = []
    monkeypatch.setattr(decode_worker.time, "sleep", slept.append)
    [path] = write_images(tmp_path / "images", 1)
    later = (int(time.time()) + 1000) * 10**9
    for stamp, now in ((later, later + 5 * 10**8), (later + 1, later + 10**7), (later + 1, later + 10**8), (later, 0)):
        os.utime(path, ns=(stamp, stamp))
        monkeypatch.setattr(decode_worker.time, "time_ns", lambda now=now: now)
        decode_worker.decode_entry(path, 4, "auto")
    assert slept == pytest.approx([1.5, 0.010000001])


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path, root, monkeypatch):
    path = tmp_path / "x.png"
    grays = iter([50, 60])

    def restless(source, window="auto"):
        image = read(source, window)
        for gray in grays:
            Image.new("L", (30, 30), gray).save(path)
            break
        return image

    Image.new("L", (30, 30), 40).save(path)
    monkeypatch.setattr(decode_worker, "read", restless)
    images = ImageCache(SIDE, root=root)
    assert images.build([path], workers=0) == {}
    monkeypatch.undo()
    assert images.image(path).max() == 60
    grays = iter(range(10, 30))
    monkeypatch.setattr(decode_worker, "read", restless)
    os.utime(path)
    assert "changed 3 times while it was read" in images.build([path], workers=0)[str(path)]


def test_sides_windows_and_versions_are_never_mixed(tmp_path, root, monkeypatch):
    [path] = write_images(tmp_path / "images", 1)
    caches = [ImageCache(SIDE, root=root), ImageCache(SIDE + 1, root=root), ImageCache(SIDE, "full", root=root)]
    monkeypatch.setattr(folders, "READER_VERSION", reader.READER_VERSION + 1)
    caches.append(ImageCache(SIDE, root=root))
    for images in caches:
        assert count_cached(images) == 0
        images.build([path], workers=0)
        assert count_cached(images) == 1
    assert len({images.folder for images in caches}) == 4


def test_the_window_reaches_the_reader(tmp_path, root, monkeypatch):
    [path] = write_images(tmp_path / "images", 1)
    asked = []

    def noting(source, window="auto"):
        asked.append(window)
        return read(source)

    for module in (image_cache, decode_worker):
        monkeypatch.setattr(module, "read", noting)
    for images in (ImageCache(SIDE, "full", root), UncachedImages(SIDE, "full")):
        images.image(path)
        images.info(path)
        images.build([path], workers=0)
    assert asked == ["full"] * 6


# Unreadable files.


@pytest.mark.parametrize(("kind", "workers"), [(ImageCache, 2), (ImageCache, 0), (UncachedImages, 0)])
def test_unreadable_files_are_named_and_the_others_built(tmp_path, root, kind, workers):
    paths = write_images(tmp_path / "images", 20)
    folder = tmp_path / "images"
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes(Path(paths[0]).read_bytes()[:200])
    (folder / "page.png").write_text("<html>")
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    bad = [str(folder / f"{name}.png") for name in ("cut", "empty", "folder", "link", "missing", "page", "pipe")]
    bad.append(str(folder / "zero\0byte.png"))
    images = kind(SIDE, root=root) if kind is ImageCache else kind(SIDE)
    steps = []
    problems = images.build([*paths, *bad], lambda *n: steps.append(n), workers=workers)
    assert list(problems) == bad
    assert all(problem.startswith(f"{escape_hidden(path)}: ") for path, problem in problems.items())
    assert steps[-1] == (28, 28) and steps == sorted(steps)
    assert_true_to(images, paths)
    with pytest.raises(ReadError, match="no such file"):
        images.image(bad[4])
    assert list(images.build([*paths, *bad], workers=0)) == bad


def test_an_error_names_the_unreadable_file(tmp_path, root):
    require_readable([], 3)
    paths = write_images(tmp_path / "images", 3)
    bad = [str(tmp_path / f"{i:02d}.png") for i in range(25)]
    problems = open_images(DataConfig(cache_dir=root), SIDE).build(paths + bad)
    with pytest.raises(DataError, match="25 of 28 images") as caught:
        require_readable(list(problems.values()), 28)
    assert all(path in str(caught.value) for path in bad[:20])
    assert str(caught.value).endswith("and 5 more. xf.check lists all.")


def test_the_config_chooses_the_cache(tmp_path):
    opened = open_images(DataConfig(cache_dir=tmp_path, window="full"), 64)
    assert isinstance(opened, ImageCache) and (opened.side, opened.window) == (64, "full")
    assert tmp_path in opened.folder.parents
    opened = open_images(DataConfig(cache=False, window="full"), 64)
    assert isinstance(opened, UncachedImages) and (opened.side, opened.window) == (64, "full")


def test_an_unknown_window_is_a_config_error(tmp_path, root):
    paths = write_images(tmp_path / "images", 3)
    shutil.copy(paths[0], tmp_path / "images" / "unknown.png")
    environment = patched_reader(tmp_path / "patch")
    code = (
        "import sys; from xrayfast.data.cache.image_cache import ImageCache; from xrayfast.errors import ConfigError\n"
        "from pathlib import Path\n"
        "for workers in (0, 1):\n"
        "    try: ImageCache(24, root=Path(sys.argv[1])).build(sys.argv[2:], workers=workers)\n"
        "    except ConfigError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(root), *paths, str(tmp_path / "images" / "unknown.png")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == "hello\n" + "no such window\n" * 2
    assert count_cached(ImageCache(SIDE, root=root)) == 3


# A batch has the images of its paths.


@pytest.mark.parametrize("kind", [ImageCache, UncachedImages])
def test_a_batch_is_the_images_of_its_paths_in_their_order(tmp_path, root, kind):
    paths = write_images(tmp_path / "images", 40)
    images = kind(SIDE, root=root) if kind is ImageCache else kind(SIDE)
    images.build(paths[:30], workers=0)  # the others are read from their files
    wanted = [*paths[::-3], Path(paths[4]), paths[4], *paths[::7]]
    batch = images.batch(wanted)
    assert batch.shape == (len(wanted), SIDE, SIDE) and batch.dtype == np.uint8 and batch.flags.writeable
    assert np.array_equal(batch, np.stack([fit_square(read(path).pixels, SIDE) for path in wanted]))
    assert images.batch([]).shape == (0, SIDE, SIDE)
    with pytest.raises(ReadError, match=r"none\.png"):
        images.batch([*paths[:3], tmp_path / "none.png"])


def test_a_batch_comes_from_the_disk_and_opens_a_shard_once(tmp_path, root, undecodable, monkeypatch):
    paths = write_images(tmp_path / "images", 30)
    images = ImageCache(SIDE, root=root)
    images.build(paths, workers=0)
    expected = np.stack([images.image(path) for path in paths])
    opened = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self.name) or real(self, *a, **k))
    undecodable()
    order = random.Random(0).sample(range(30), 30)
    assert np.array_equal(images.batch([paths[i] for i in order]), expected[order])
    assert sorted(opened) == sorted(path.name for path in images.folder.glob("*.pictures"))


@pytest.mark.parametrize("harm", ["damaged", "cut", "gone", "changed"])
def test_a_batch_is_correct_although_the_cache_is_damaged(tmp_path, root, harm):
    paths = write_images(tmp_path / "images", 30)
    images = ImageCache(SIDE, root=root)
    images.build(paths, workers=0)
    before = images.batch(paths)
    [first, *_] = sorted(images.folder.glob("*.pictures"))
    if harm == "damaged":
        first.write_bytes(first.read_bytes()[:-1] + b"?")
    elif harm == "cut":
        os.truncate(first, first.stat().st_size - 1)
    elif harm == "gone":
        first.unlink()
    else:
        Image.new("L", (30, 30), 77).save(paths[3])
        before[3] = fit_square(read(paths[3]).pixels, SIDE)
    assert np.array_equal(images.batch(paths), before)
    assert first.exists() == (harm == "changed")


# The files on disk may have any content.


def test_a_damaged_image_is_decoded_and_the_next_build_repairs_it(tmp_path, root, undecodable):
    paths = write_images(tmp_path / "images", 3)
    images = ImageCache(SIDE, root=root)
    images.build(paths, workers=0)
    [shard] = images.folder.glob("*.pictures")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert_true_to(images, paths)
    assert not shard.exists()
    assert images.build(paths, workers=0) == {}
    undecodable()
    assert all(images.image(path).any() for path in paths)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_caches_are_noticed_and_rebuilt(tmp_path, root, undecodable, seed):
    paths = write_images(tmp_path / "images", 20)
    ImageCache(SIDE, root=root).build(paths, workers=0)
    rng = random.Random(seed)
    for _ in range(12):
        written = ImageCache(SIDE, root=root).folder.glob("*.pictures")
        for shard in rng.sample(sorted(written, key=lambda path: path.stat().st_mtime_ns), 2):
            damage(shard, rng)
        images = ImageCache(SIDE, root=root)
        assert_true_to(images, paths)
        assert images.build(paths, workers=0) == {}
        assert_true_to(images, paths)
    squares = [fit_square(read(path).pixels, SIDE) for path in paths]
    undecodable()
    images = ImageCache(SIDE, root=root)
    assert all(np.array_equal(images.image(path), square) for path, square in zip(paths, squares, strict=True))


def damage(path: Path, rng: random.Random) -> None:
    raw = path.read_bytes()
    at = rng.randrange(len(raw))
    kinds = [
        raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :],
        raw[:at],
        b"",
        rng.randbytes(len(raw)),
        raw + b"x",
        raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2),
    ]
    path.write_bytes(rng.choice(kinds))


def test_damage_after_opening_is_noticed(tmp_path, root):
    paths = write_images(tmp_path / "images", 20)
    images = ImageCache(SIDE, root=root)
    images.build(paths, workers=0)
    images.image(paths[0])
    rng = random.Random(0)
    files = sorted(images.folder.glob("*.pictures"))
    assert len(files) >= 2
    damage(files[0], rng)
    os.truncate(files[1], 10)
    assert_true_to(images, paths)
    assert images.build(paths, workers=0) == {}
    assert_true_to(ImageCache(SIDE, root=root), paths)


def test_images_of_removed_shards_are_decoded(tmp_path, root):
    paths = write_images(tmp_path / "images", 10)
    images = ImageCache(SIDE, root=root)
    images.build(paths, workers=0)
    folders.clear_cache(root)
    assert_true_to(images, paths)
    assert images.build(paths, workers=0) == {}
    assert count_cached(images) == 10


def test_foreign_files_are_left_alone(tmp_path, root):
    paths = write_images(tmp_path / "images", 3)
    images = ImageCache(SIDE, root=root)
    images.folder.mkdir(parents=True)
    for name in ("notes.txt", "x.pictures", ".x.tmp", "0123456789abcdef.lock"):
        (images.folder / name).write_text("x")
    assert images.build(paths, workers=0) == {}
    assert len(list(images.folder.iterdir())) == 5
    for path in images.folder.iterdir():
        os.utime(path, (1, 1))
    os.utime(paths[0])
    images.build(paths, workers=0)
    assert {path.name for path in images.folder.iterdir() if len(path.name) < 20} == {"notes.txt", "x.pictures"}


# Disk space.


def test_too_little_disk_space_is_an_error_before_anything_is_decoded(tmp_path, root, undecodable, monkeypatch):
    paths = write_images(tmp_path / "images", 3)
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    undecodable()
    images = ImageCache(1000, root=root)
    with pytest.raises(WriteError) as caught:
        images.build(paths, workers=0)
    expected = f"{images.folder}: found 0.0 MB free. 3 images of 1000 px need 3.0 MB there."
    assert str(caught.value).startswith(expected)
    assert "cache_dir=" in str(caught.value) and "cache=False" in str(caught.value)


def test_a_disk_that_fills_up_keeps_the_shards_already_written(tmp_path, root, monkeypatch):
    paths = write_images(tmp_path / "images", 20)
    synced = []

    def full(file: int) -> None:
        synced.append(file)
        if len(synced) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards.os, "fsync", full)
    images = ImageCache(SIDE, root=root)
    with pytest.raises(WriteError, match=r"No space left on device.*20 images of 24 px.*cache_dir="):
        images.build(paths, workers=0)
    assert count_cached(images) == 8
    assert {path.suffix for path in images.folder.iterdir()} == {".pictures"}
    monkeypatch.undo()
    assert images.build(paths, workers=0) == {}
    assert count_cached(images) == 20
    assert_true_to(images, paths)


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_process_that_cannot_write_ends_the_build(tmp_path, root):
    paths = write_images(tmp_path / "images", 20)
    code = (
        "import sys; from xrayfast.data.cache.image_cache import ImageCache; from xrayfast.errors import WriteError\n"
        "from pathlib import Path\n"
        "try: ImageCache(24, root=Path(sys.argv[1])).build(sys.argv[2:], workers=2)\n"
        "except WriteError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(root), *paths]
    # Space for the last chunk, of four images, but not for those of eight.
    ended = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=lambda: limit_files(3500))
    assert "can't be written (File too large)" in ended.stdout and "cache=False" in ended.stdout
    assert ended.stderr == ""
    assert not list(root.rglob("*.tmp"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_real_full_disk_is_a_named_error(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True).returncode:
        pytest.skip("no mounts here")
    try:
        paths = write_images(tmp_path / "images", 200)
        monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 10**9))
        images = ImageCache(SIDE, root=disk)
        with pytest.raises(WriteError, match="No space left on device"):
            images.build(paths, workers=2)
        assert 16 <= count_cached(images) < 130
        assert not list(disk.rglob("*.tmp"))
        assert_true_to(images, paths)
        monkeypatch.undo()
        with pytest.raises(WriteError, match="MB free"):
            images.build(paths, workers=2)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_cache_that_cannot_be_created_is_an_error(tmp_path):
    paths = write_images(tmp_path / "images", 1)
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"can't be created.*cache_dir="):
        ImageCache(SIDE, root=tmp_path / "file" / "cache").build(paths)


def test_reading_from_a_closed_cache_is_an_error(tmp_path, root, monkeypatch):
    paths = write_images(tmp_path / "images", 1)
    monkeypatch.setattr(image_cache.os, "access", lambda *_: False)
    with pytest.raises(WriteError, match=r"no permission.*cache_dir="):
        ImageCache(SIDE, root=root).build(paths)


def test_other_users_cannot_read_a_new_cache(tmp_path, root):
    ImageCache(SIDE, root=root).build(write_images(tmp_path / "images", 1), workers=0)
    assert root.stat().st_mode & 0o077 == 0


# Other processes.


def test_a_pickled_cache_reads_the_same(tmp_path, root, undecodable):
    paths = write_images(tmp_path / "images", 3)
    images = ImageCache(SIDE, root=root)
    images.build(paths, workers=0)
    copy = pickle.loads(pickle.dumps(images))
    assert_true_to(copy, paths)
    undecodable()
    assert copy.image(paths[0]).tobytes() == images.image(paths[0]).tobytes()
    assert len(pickle.dumps(images)) < 500


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_worker_processes_of_a_loader_read_the_same(tmp_path, root, method):
    paths = write_images(tmp_path / "images", 40)
    images = ImageCache(SIDE, root=root)
    images.build(paths, workers=0)
    with multiprocessing.get_context(method).Pool(2) as pool:
        squares = pool.map(images.image, paths * 5, chunksize=7)
    assert all(np.array_equal(a, images.image(b)) for a, b in zip(squares, paths * 5, strict=True))


# Scale.


def test_an_index_takes_little_memory(tmp_path, root):
    """Less than 40 MB for 100,000 images; this test has a fifth of them."""
    big = ImageCache(4, root=root)
    square, rng = np.zeros((4, 4), np.uint8), np.random.default_rng(0)
    infos = [ImageInfo(1024, 1024 + i, 16, "I;16", "PNG", rng.bytes(16).hex(), (f"scaled {i}",)) for i in range(512)]
    for _ in range(40):
        write_shard(big.folder, 4, [Entry(rng.bytes(16), info, square) for info in infos])
    [path] = write_images(tmp_path / "images", 1)
    tracemalloc.start()
    big.image(path)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(big._index) == 40 * 512
    assert used < 8e6


@pytest.mark.parametrize("kind", [ImageCache, UncachedImages])
def test_infos_of_many_images_come_from_the_last_build_without_opening_files(tmp_path, root, kind, monkeypatch):
    paths = write_images(tmp_path, 12)
    images = ImageCache(SIDE, root=root) if kind is ImageCache else kind(SIDE)
    images.build(paths)
    infos, state = images.infos(paths), images.state(paths)
    assert infos == [images.info(path) for path in paths]
    write_image(paths[3], np.random.default_rng(99))
    for module in (image_cache, file_keys):
        monkeypatch.setattr(module, "key_or_none", None)
    assert (images.infos(paths), images.state(paths)) == (infos, state)
    monkeypatch.undo()
    images.build(paths)
    changed = [info != before for info, before in zip(images.infos(paths), infos, strict=True)]
    assert changed == [place == 3 for place in range(12)]
    assert images.state(paths) != state


def test_infos_of_images_that_are_not_cached_are_read(tmp_path, root):
    paths, images = write_images(tmp_path, 3), ImageCache(SIDE, root=root)
    images.build(paths[:1])
    assert images.infos(paths) == [images.info(path) for path in paths]
    with pytest.raises(ReadError, match="gone"):
        images.infos([str(tmp_path / "gone.png")])

"""Small image files, and processes that build a cache of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from xrayfast.data.cache.image_cache import DecodedImages, ImageCache
from xrayfast.data.images.reader import fit_square, read

SIDE = 24


def write_images(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Write gray PNGs of different content and shape."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{i:04d}.png" for i in range(count)]
    for path in paths:
        write_image(path, rng)
    return [str(path) for path in paths]


def write_image(path: Path | str, rng: np.random.Generator) -> None:
    shape = rng.integers(20, 40, 2)
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path, compress_level=1)


def assert_true_to(images: DecodedImages, paths: Iterable[Path | str]) -> None:
    """Check that images and infos equal those of the reader."""
    for path in paths:
        image = read(path)
        square = images.image(path)
        assert square.shape == (images.side,) * 2 and square.dtype == np.uint8
        assert np.array_equal(square, fit_square(image.pixels, images.side))
        info = images.info(path)
        assert (info.height, info.width) == image.pixels.shape
        assert (info.bits, info.mode, info.format, info.notes) == (
            image.bits,
            image.mode,
            image.format,
            image.notes,
        )


def count_cached(cache: ImageCache) -> int:
    """Return the number of images on disk, counting duplicates."""
    from xrayfast.data.cache.folders import cache_info

    return sum(folder.images for folder in cache_info(cache._root) if folder.path == cache.folder)


PATCH = """
import json, os, signal, sys, time
from pathlib import Path
from xrayfast.data.images import reader
from xrayfast.errors import ConfigError

def read(path, window="auto", real=reader.read):
    name = Path(path).stem
    if name.startswith("slow"):
        time.sleep(0.01)
    if name.startswith("noisy"):
        print("a decoder that prints", flush=True)
        os.write(1, b"and one that writes" * 10)
    if name.startswith("unknown"):
        raise ConfigError("no such window")
    if name.startswith("defect"):
        raise KeyError("Doe^Jane")
    if name.startswith("once") and not Path(path + ".seen").exists():
        Path(path + ".seen").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("lethal"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return real(path, window)

reader.read = read


def strike(event, arguments):
    if event in ("open", "os.mkdir", "os.rename", "os.remove") and str(arguments[0]).startswith(FOLDERS):
        with open(COUNTER, "ab") as moments:
            moments.write(b".")
            moments.flush()
            if moments.tell() == LAST:  # the end of its own byte, whoever has written since
                (os.killpg if WHOLE else os.kill)(os.getpgid(0), signal.SIGKILL)


if "DEATH" in os.environ:
    COUNTER, LAST, WHOLE, *FOLDERS = json.loads(os.environ["DEATH"])
    FOLDERS = tuple(FOLDERS)
    sys.addaudithook(strike)
if "-c" in sys.orig_argv:
    print("hello", flush=True)
"""


def patched_reader(folder: Path) -> dict[str, str]:
    """Return an environment whose processes have a reader that is slow, noisy or lethal for files of such names."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(PATCH)
    # Before existing entries, such as the package under test.
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def death(counter: Path, last: int, whole: bool, *folders: Path) -> dict[str, str]:
    """Return the addition to the environment of `patched_reader` that kills a build.

    The main process, or all if `whole`, is killed when its processes are about to open, create, move or remove a file
    in `folders` for the `last`-th time, so the moment does not depend on the load of the machine.
    """
    counter.unlink(missing_ok=True)
    return {"DEATH": json.dumps([str(counter), last, whole, *map(str, folders)])}


BUILD = f"""
import signal, sys
from pathlib import Path
from xrayfast.data.cache.image_cache import ImageCache

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background jobs ignore it
root, folder, workers = sys.argv[1:]
cache = ImageCache({SIDE}, root=Path(root))
print("ready", flush=True)
input()
try:
    problems = cache.build(sorted(Path(folder).glob("*.png")), lambda *n: print(*n, flush=True), int(workers))
    print("problems", len(problems), flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
"""A script without a `__main__` guard, as users write them."""


def start_build(root: Path, folder: Path, environment: dict[str, str], workers: int = 2) -> subprocess.Popen[str]:
    """Start a process, in its own group, that builds the cache of the images in a folder once `go` is called."""
    script = root.parent / "build.py"
    script.write_text(BUILD)
    build = subprocess.Popen(
        [sys.executable, str(script), str(root), str(folder), str(workers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert build.stdout and build.stdout.readline() == "ready\n"
    return build


def go(build: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert build.stdin
    build.stdin.write("\n")
    build.stdin.flush()
    return build

"""The images that all contestants train on. Each image set is made once, with one split for all contestants."""

import os
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import cores
from xrayfast.data.images.reader import is_image
from xrayfast.synthetic import CONDITIONS, phantom


@dataclass(frozen=True)
class ImageSet:
    """A data set for the benchmarks.

    Attributes:
        kind: "originals" (the images of --data, scaled to `px`; phantoms without --data), "phantoms", or
            "phantoms16" (16 bits).
        images: number of training and validation images together.
        px: shorter side of the images.
        valid: share of the images to validate on.
    """

    kind: str
    images: int
    px: int
    valid: float = 0.2

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.px}px-{self.images}" + (f"-{self.valid:g}" if self.valid != 0.2 else "")

    def folder(self, work: Path) -> Path:
        return work / "data" / self.name

    def split_file(self, work: Path) -> Path:
        return work / "data" / f"{self.name}.csv"


def make(image_set: ImageSet, source: Path | None, work: Path) -> None:
    """Write the images and their split, unless they exist.

    An image is made once and linked into each set that contains it. xrayfast draws the split, by patient, for all
    contestants.
    """
    folder, split = image_set.folder(work), image_set.split_file(work)
    if split.exists():
        return
    print(f"  makes {image_set.name} ...", flush=True)
    pool = work / "data" / f"{image_set.kind}-{image_set.px}px"
    plan = _plan(image_set, source)
    tasks = [(origin, str(pool / name), image_set) for name, origin in plan.items() if not (pool / name).exists()]
    for name in plan:
        (pool / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(cores()) as processes:
        list(processes.map(_write, tasks, chunksize=4))
    for name in plan:
        (folder / name).unlink(missing_ok=True)
        os.link(pool / name, folder / name)
    command = [sys.executable, "-m", "xrayfast", "split", str(folder), "-o", str(split)]
    command += ["--valid-fraction", str(image_set.valid), "--cache-dir", str(work / "cache")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def _plan(image_set: ImageSet, source: Path | None) -> dict[str, str | int]:
    """Return the file names with their class folders, each with its origin: a file, or the patient of a phantom."""
    if image_set.kind == "originals" and source is not None:
        classes = {folder.name: _shuffled(folder) for folder in sorted(source.iterdir()) if folder.is_dir()}
        classes = {label: files for label, files in classes.items() if files}
        # Classes take turns, so that they are as equal as possible and a smaller set is a subset of a larger one.
        most = max(map(len, classes.values()), default=0)
        turns = (files[k] for k in range(most) for files in classes.values() if k < len(files))
        chosen = [file for _, file in zip(range(image_set.images), turns, strict=False)]
        if len(chosen) < image_set.images:
            sys.exit(f"{source}: holds {len(chosen)} images, and {image_set.images} are asked for. Lower --images.")
        return {f"{file.parent.name}/{file.stem}.png": str(file) for file in chosen}
    names = {}
    for patient in range(image_set.images):
        names[f"{CONDITIONS[patient % len(CONDITIONS)]}/film{patient:04d}.png"] = patient
    return names


def _shuffled(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if is_image(file.name))
    random.Random(0).shuffle(files)
    return files


def _write(task: tuple[str | int, str, ImageSet]) -> None:
    origin, target, image_set = task
    if isinstance(origin, int):
        image = _phantom(origin, Path(target).parent.name, image_set)
    else:
        with Image.open(origin) as image:
            gray = image.convert("L")
        scale = image_set.px / min(gray.size)
        image = gray.resize((round(gray.width * scale), round(gray.height * scale)), Image.Resampling.LANCZOS)
    temporary = Path(f"{target}.tmp")
    image.save(temporary, "PNG", compress_level=1)
    temporary.replace(target)


def _phantom(patient: int, condition: str, image_set: ImageSet) -> Image.Image:
    pixels = phantom(condition, patient=patient, size=image_set.px)
    if image_set.kind == "phantoms16":  # uses 12 bits, like digital detectors
        grain = np.random.default_rng(patient).integers(0, 16, pixels.shape, dtype=np.uint16)
        return Image.fromarray(pixels.astype(np.uint16) * 16 + grain)
    return Image.fromarray(pixels)

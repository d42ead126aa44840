"""The films that all contestants train on, made once, each set with one split for all."""

import os
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import ROOT, cores
from xrayfast.data.images.reader import is_image
from xrayfast.synthetic import CONDITIONS, phantom

REAL = ROOT.parent / "shared" / "data" / "darkcovid"


@dataclass(frozen=True)
class Films:
    """A set of films.

    Attributes:
        kind: "films" (of --data, scaled to `px`; phantoms where there are none), "phantoms", or "phantoms16" (16 bits).
        images: training and validation images together.
        px: their shorter side.
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


def make(films: Films, source: Path | None, work: Path) -> None:
    """Write the films and their split, where they are not there yet.

    A film is made once and linked into each set that takes it; xrayfast draws the split, by patient, for everybody.
    """
    folder, split = films.folder(work), films.split_file(work)
    if split.exists():
        return
    print(f"  makes {films.name} ...", flush=True)
    pool = work / "data" / f"{films.kind}-{films.px}px"
    plan = _plan(films, source)
    tasks = [(origin, str(pool / name), films) for name, origin in plan.items() if not (pool / name).exists()]
    for name in plan:
        (pool / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(cores()) as processes:
        list(processes.map(_write, tasks, chunksize=4))
    for name in plan:
        (folder / name).unlink(missing_ok=True)
        os.link(pool / name, folder / name)
    command = [sys.executable, "-m", "xrayfast", "split", str(folder), "-o", str(split)]
    command += ["--valid-fraction", str(films.valid), "--cache-dir", str(work / "cache")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def _plan(films: Films, source: Path | None) -> dict[str, str | int]:
    """File names by class folder, and what each is made of: a file, or a phantom's patient."""
    if films.kind == "films" and source is not None:
        classes = {folder.name: _shuffled(folder) for folder in sorted(source.iterdir()) if folder.is_dir()}
        classes = {label: files for label, files in classes.items() if files}
        # In turn, so that classes are as equal as they can be, and a smaller set is part of a larger one.
        most = max(map(len, classes.values()), default=0)
        turns = (files[k] for k in range(most) for files in classes.values() if k < len(files))
        chosen = [file for _, file in zip(range(films.images), turns, strict=False)]
        if len(chosen) < films.images:
            sys.exit(f"{source}: holds {len(chosen)} images, and {films.images} are asked for. Lower --images.")
        return {f"{file.parent.name}/{file.stem}.png": str(file) for file in chosen}
    names = {}
    for patient in range(films.images):
        names[f"{CONDITIONS[patient % len(CONDITIONS)]}/film{patient:04d}.png"] = patient
    return names


def _shuffled(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if is_image(file.name))
    random.Random(0).shuffle(files)
    return files


def _write(task: tuple[str | int, str, Films]) -> None:
    origin, target, films = task
    if isinstance(origin, int):
        image = _phantom(origin, Path(target).parent.name, films)
    else:
        with Image.open(origin) as film:
            gray = film.convert("L")
        scale = films.px / min(gray.size)
        image = gray.resize((round(gray.width * scale), round(gray.height * scale)), Image.Resampling.LANCZOS)
    temporary = Path(f"{target}.tmp")
    image.save(temporary, "PNG", compress_level=1)
    temporary.replace(target)


def _phantom(patient: int, condition: str, films: Films) -> Image.Image:
    pixels = phantom(condition, patient=patient, size=films.px)
    if films.kind == "phantoms16":  # 12 bits used, as digital detectors give them
        grain = np.random.default_rng(patient).integers(0, 16, pixels.shape, dtype=np.uint16)
        return Image.fromarray(pixels.astype(np.uint16) * 16 + grain)
    return Image.fromarray(pixels)

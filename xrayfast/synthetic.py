"""Synthetic frontal chest radiographs, for demonstrations and tests without patient data.

A film is computed the way a real one is made. The tissue that each ray crosses is summed in a plane of canonical body
coordinates: x to the viewer's right, which is the patient's left, and y downwards, both about -1 to 1 on the film. Air
is subtracted, and a film curve is applied to the sum. The patient's seed determines the anatomy. The image's seed
determines positioning, breathing, exposure and noise, so that the films of one patient are similar but never equal. The
films resemble real ones at a glance and have no diagnostic meaning.
"""

from __future__ import annotations

import csv
import math
import shutil
import tempfile
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from pydantic import Field as Bounds

from xrayfast.config import SYNTHETIC_IMAGES
from xrayfast.errors import DataError, did_you_mean, shorten
from xrayfast.errors.arguments import check_arguments

CONDITIONS = ("normal", "pneumonia", "covid-19")

Field: TypeAlias = npt.NDArray[np.floating[Any]]
"""float32 (n, n), one value per point of the canonical plane; or (1, n), (n, 1) or (n, n / 2) for a part of it."""

_KNOTS = 5  # along each edge of the mesh that places and warps the plane on the film
_REACH = 1.12  # the plane is larger than the film, so that a rotated or shifted film has no empty corners
_MIN_SIZE = 128  # smaller films are rendered at this size and downscaled, so that ribs and vessels don't alias


@dataclass(frozen=True)
class _Anatomy:
    """The anatomy that all films of a patient share: lengths in canonical units, strengths without unit."""

    width: float  # half the inner width of the rib cage
    apex: float  # y of the lung tips
    dome: float  # y of the right half of the diaphragm
    lift: float  # by how much the left half is lower
    heart: float  # half the width of the heart
    tilt: float  # angle of the heart's long axis, in radians
    spacing: float  # distance between ribs
    drop: float  # by how much a rib descends from the spine to the chest wall
    bone: float
    body: float  # how far the body extends beyond the rib cage
    fat: float
    breast: float  # 0 for about half of the patients
    shoulder: float  # height of the shoulders relative to the lung tips
    bend: float  # sideways curve of the spine
    vessels: float
    bubble: float  # gas in the stomach


def _draw_anatomy(rng: np.random.Generator, breath: float) -> _Anatomy:
    u = rng.uniform
    return _Anatomy(
        width=u(0.64, 0.76), apex=u(-0.80, -0.70), dome=u(0.36, 0.50) + breath, lift=u(0.01, 0.08),
        heart=u(0.25, 0.34) * (1 - 0.3 * breath), tilt=u(0.45, 0.8), spacing=u(0.112, 0.135),
        drop=u(0.2, 0.3), bone=u(0.75, 1.2), body=u(0.10, 0.26), fat=u(0.0, 1.0),
        breast=max(0.0, u(-1.0, 1.0)), shoulder=u(-0.22, -0.10), bend=u(-0.03, 0.03),
        vessels=u(0.7, 1.25), bubble=max(0.0, u(-0.5, 1.0)),
    )  # fmt: skip


@lru_cache(maxsize=4)
def _axes(n: int) -> tuple[Field, Field]:
    """Return the coordinates of n x n points: x (1, n) and y (n, 1), which broadcast."""
    line = np.linspace(-_REACH, _REACH, n, dtype=np.float32)
    line.flags.writeable = False  # shared between calls
    return line[None, :], line[:, None]


def _mirror(half: Field) -> Field:
    """Return the whole plane, given its right half, at half the cost; a warp makes the sides differ later."""
    return np.concatenate([half[:, ::-1], half], axis=1)


def _cloud(rng: np.random.Generator, cells: int, n: int) -> Field:
    """Return smooth noise with about ``cells`` blots per side: float32 (n, n), mean 0, mostly within -1..1."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32) * np.float32(0.6)
    return np.asarray(Image.fromarray(coarse).resize((n, n), Image.Resampling.BICUBIC))


def _round(depth: Field) -> Field:
    """Return the thickness, 0..1, of a round body at ``depth`` (0 at its edge, 1 at its middle): steep, then flat."""
    z = np.clip(depth, 0, 1)
    thick = 2 - z
    thick *= z
    return np.sqrt(thick, out=thick)


def _step(z: Field) -> Field:
    """Return a smooth step from 0 (z < -1) to 1 (z > 1)."""
    z = np.clip(z, -1, 1)
    cubic = z * z
    cubic *= -0.25
    cubic += 0.75
    cubic *= z
    cubic += 0.5
    return cubic


def _bump(z: Field) -> Field:
    """Return a smooth bump: 1 at z = 0, near 0 beyond 2."""
    return np.exp(-z * z)


def _cage(a: _Anatomy, y: Field) -> Field:
    """Return half the width of the rib cage at height y: a pointed arch that hardly narrows further down."""
    t = np.clip((y - a.apex + 0.1) / (0.95 * (a.dome - a.apex)), 0.02, 1.6)
    arch: Field = np.sqrt(1 - np.abs(1 - np.minimum(t, 1)) ** 2.6)
    return a.width * arch * (1 - 0.05 * np.maximum(t - 0.9, 0))


def _body(a: _Anatomy, ax: Field, y: Field) -> Field:
    """Return the soft tissue of trunk, shoulders, arms and neck; 0 outside the body, where the film stays black."""
    side = a.width + a.body + 0.03 * np.cos(3.5 * (y - 0.1))
    axilla = a.apex + 0.62
    trunk = np.minimum((side - ax) / 0.35, 1 - 0.25 * np.abs(y - 0.1))
    arm = (ax - side - 0.45 * (y - axilla)) / 0.35 + 0.12
    neck = 0.5 * np.exp(-((ax / 0.27) ** 4))
    top = a.apex + a.shoulder + 0.14 * ax + 0.9 * np.maximum(ax - 0.7, 0) ** 2 - neck
    return _round(np.minimum(np.maximum(trunk, arm), (y - top) / (0.42 + 0.5 * neck)))


def _diaphragm(a: _Anatomy, x: Field) -> Field:
    """Return the height of the diaphragm at x: a dome on each side, the left one lower, steep at the chest wall."""
    s = (np.abs(x) - 0.42 * a.width) / (0.62 * a.width)
    return a.dome + a.lift * _step(x / 0.2) + 0.12 * s * s + 0.12 * np.maximum(s, 0) ** 3


def _lungs(a: _Anatomy, x: Field, y: Field) -> Field:
    """Return the air that a ray crosses in the lungs, 0..1, without heart and vessels."""
    ax = np.abs(x[:, x.shape[1] // 2 :])
    wall = _cage(a, y) - ax
    middle = ax - 0.10 - 0.03 * _bump((y - a.dome) / 0.3) - 0.05 * _bump((y - a.apex) / 0.25)
    top = y - a.apex - 1.3 * (ax - 0.43 * a.width) ** 2
    half = _round(wall / 0.34) * _round(middle / 0.22) * _round(top / 0.30)
    return _mirror(half) * _round((_diaphragm(a, x) - y) / 0.16)


def _heart(a: _Anatomy, x: Field, y: Field) -> Field:
    """Return heart and great vessels, 0..1. The heart is on the viewer's right, with its tip on the diaphragm."""
    cx, cy = 0.30 * a.heart, a.dome - 0.13
    c, s = math.cos(a.tilt), math.sin(a.tilt)
    p, q = (x - cx) * c + (y - cy) * s, (y - cy) * c - (x - cx) * s
    ventricle = _round(1.7 - 1.7 * np.hypot(p / (1.2 * a.heart), q / (0.88 * a.heart)))
    arch = _round(1.6 - 13 * np.hypot(x - 0.085, 0.7 * (y - a.apex - 0.46)))
    low = np.clip((y - a.apex - 0.45) / 0.4, 0, 1)
    stem = _step((0.125 + 0.06 * low - np.abs(x - 0.02 - 0.03 * low)) / 0.03)
    stem *= _step((y - a.apex - 0.1) / 0.2)
    return np.maximum(np.maximum(ventricle, 0.8 * arch), 0.7 * stem)


def _spine(a: _Anatomy, x: Field, y: Field) -> tuple[Field, Field]:
    """Return the vertebrae with their discs, and the air in the windpipe in front of them, both 0..1."""
    off = np.abs(x - a.bend * np.sin(2.2 * y))
    disc = 0.5 + 0.5 * np.cos((2 * math.pi / (1.02 * a.spacing)) * y)
    column = _step((0.085 + 0.012 * disc - off) / 0.03) * (0.75 + 0.25 * _step((disc - 0.3) / 0.3))
    column += 0.3 * _bump((off - 0.05) / 0.018) * _step((disc - 0.75) / 0.2)  # pedicles
    tube = _bump((x - a.bend * np.sin(2.2 * y) - 0.01) / 0.04) * _step((a.apex + 0.5 - y) / 0.1)
    return column, tube


def _band(z: Field, half: float) -> Field:
    """Return the cross-section of a bone at distance z from its axis: a soft band with denser rims."""
    r = np.abs(z) / half
    return _step((1 - r) / 0.35) * (0.55 + 0.45 * np.minimum(r, 1) ** 3)


def _ribs(a: _Anatomy, ax: Field, y: Field) -> Field:
    """Return the ribs, which are tilted half hoops seen from the front.

    The back of a hoop leaves the spine almost level and descends to the chest wall. There the hoop turns, and its front
    comes back towards the middle, still descending; it is wider and fainter, and ends where the cartilage begins. A
    periodic function of the height above a hoop draws all ribs at once.
    """
    u = ax / (_cage(a, y) + 0.03)
    w = np.sqrt(np.maximum(1 - np.minimum(u, 1) ** 2, 0.003))
    drop = a.drop * np.clip((y - a.apex) / 0.7, 0.25, 1)
    steep = 1 / np.sqrt(1 + (a.drop * u / (a.width * w)) ** 2)  # keeps the width of the band at the turn

    def hoops(fall: Field, half: float) -> Field:
        phase = (y - a.apex - fall) / a.spacing
        return _band((phase - np.round(phase)) * steep, half)

    back = hoops(drop * (1 - w), 0.27) * _step((ax - 0.1) / 0.05)
    front = hoops(drop * (1 + w) - 0.02, 0.33) * _step((u - 0.5) / 0.1)
    shell = np.minimum(0.3 / w, 0.8)  # at the edge, rays cross the wall lengthwise
    ribs: Field = back * (0.8 + 0.4 * shell) + 0.6 * front + 0.15 * shell
    return ribs * _step((1 - u) / 0.03) * _step((y - a.apex - 0.02) / 0.06)


def _girdle(a: _Anatomy, ax: Field, y: Field) -> Field:
    """Return clavicles, shoulder blades and heads of the arm bones, about 0..1."""
    run = (ax - 0.08) / 0.66
    axis = a.apex + 0.24 - 0.17 * run - 0.035 * np.sin(5.2 * run)
    clavicle = _band(y - axis, 0.034) * _step((ax - 0.07) / 0.025) * _step((0.76 - ax) / 0.05)
    edge = a.width - 0.06 + 0.10 * (y - a.apex - 0.3)
    blade = _step((ax - edge) / 0.03) * _step((edge + 0.2 - ax) / 0.15)
    blade *= _step((a.apex + 0.75 - y - 1.2 * (ax - edge)) / 0.08) * _step((y - a.apex - 0.12) / 0.08)
    head = _round(1.5 - 12 * np.hypot(ax - a.width - 0.23, y - a.apex - 0.25))
    return clavicle + 0.4 * blade + 0.6 * head


def _vessels(a: _Anatomy, rng: np.random.Generator, n: int) -> Field:
    """Return vessels that branch outwards from each hilum and get thinner, 0..1; the longest are in the bases."""
    image = Image.new("L", (n, n))
    pen = ImageDraw.Draw(image)
    stems, steps = 11, 7
    for side in (-1, 1):
        aim = np.linspace(-1.45, 1.5, stems) + rng.normal(0, 0.15, stems)
        aim = np.concatenate([aim, aim + rng.choice([-0.6, 0.6], stems)])[:, None]
        aim = aim + rng.normal(0, 0.22, (2 * stems, steps)).cumsum(axis=1)
        length = (0.07 + 0.02 * (aim[:, :1] > 0.6)) * rng.uniform(0.7, 1.2, aim.shape)
        path = np.stack([side * length * np.cos(aim), length * np.sin(aim)], axis=-1).cumsum(axis=1)
        path += np.array([side * 0.13, a.dome - 0.47])
        path[stems:] += (path[:stems, 1] - path[stems:, 0])[:, None]  # branches start at the second knot
        pixels = (path / _REACH + 1) * (n - 1) / 2
        wide = n / 256 * rng.uniform(2.0, 4.2, 2 * stems)
        for line, width in zip(pixels.reshape(2 * stems, -1).tolist(), wide, strict=True):
            pen.line(line[4:], fill=90, width=max(1, int(0.6 * width)))
            pen.line(line[:6], fill=170, width=max(1, int(width)))
    x, y = _axes(n)
    hilum = _bump((np.abs(x) - 0.14) / 0.07) * _bump((y - a.dome + 0.48) / 0.14)
    blurred = image.filter(ImageFilter.GaussianBlur(n / 300))
    return np.asarray(blurred, dtype=np.float32) / 255 + 0.35 * hilum


def _consolidation(a: _Anatomy, rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Return one filled lobe, 0..1: dense in the middle, bounded by a fissure on one edge, ragged elsewhere."""
    side, lobe = -1 if rng.random() < 0.5 else 1, int(rng.choice(3, p=[0.3, 0.25, 0.45]))
    height = a.dome - a.apex
    at, tall, out = ((0.34, 0.26, 0.55), (0.68, 0.2, 0.48), (0.84, 0.24, 0.55))[lobe]  # upper, middle, lower
    cy, cx = a.apex + height * (at + rng.normal(0, 0.03)), side * a.width * (out + rng.normal(0, 0.05))
    reach = rng.uniform(1.1, 1.4)
    r2 = ((x - cx) / (0.42 * a.width * reach)) ** 2 + ((y - cy) / (tall * height * reach)) ** 2
    fissure = cy + (0.5 if lobe == 0 else -0.6) * tall * height + rng.normal(0, 0.15) * (x - cx)
    edge = (fissure - y if lobe == 0 else y - fissure) / (0.03 if rng.random() < 0.5 else 0.12)
    mass = _step((0.8 - r2 + 0.5 * _cloud(rng, 12, len(y))) / 0.8)
    return rng.uniform(0.7, 1.0) * mass * _step(edge) * _step(side * x / 0.05)


def _patches(a: _Anatomy, rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Return ground-glass patches, 0..1: several on each side, most of them low and near the chest wall."""
    mass = np.zeros((len(y), x.size), dtype=np.float32)
    for side in (-1, 1):
        for _ in range(int(rng.integers(2, 6))):
            cy = a.apex + (a.dome - a.apex) * min(rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.1))
            cx = side * a.width * rng.uniform(0.62, 0.92)
            wide, tall = rng.uniform(0.11, 0.19), rng.uniform(0.13, 0.23)
            mass += rng.uniform(0.5, 1.0) * _bump((x - cx) / wide) * _bump((y - cy) / tall)
    return rng.uniform(0.6, 0.95) * _step((mass - 0.55 + 0.5 * _cloud(rng, 18, len(y))) / 0.6)


@check_arguments()
def phantom(condition: str, *, patient: int, image: int = 0, seed: int = 0, size: int = 256) -> npt.NDArray[np.uint8]:
    """Return a synthetic frontal chest radiograph (posteroanterior, heart on the viewer's right).

    Args:
        condition: "normal", "pneumonia" or "covid-19".
        patient: number of the patient, 0 or greater, which determines the anatomy and the places of the opacities.
        image: number of the patient's image, 0 or greater, which determines positioning, breath, exposure and noise.
        seed: 0 or greater; another seed gives other patients.
        size: side of the square image in pixels, 16 to 4096.

    Returns:
        (size, size) uint8, 0 (black, air) to 255 (white, bone). The same arguments give the same image.

    Raises:
        DataError: unknown condition, negative number, or size out of range.
    """
    if condition not in CONDITIONS:
        choices = f"{', '.join(CONDITIONS)}.{did_you_mean(condition, CONDITIONS)}"
        raise DataError(f"unknown condition {condition!r}; choose one of {choices}")
    _check_ranges(patient, image, seed, size)
    patient_rng = np.random.default_rng([seed, patient, 0])
    image_rng = np.random.default_rng([seed, patient, 1, image])
    finding_rng = np.random.default_rng([seed, patient, 2])
    n = 2 * min(max(13 * size // 32, 78), 208)  # soft shadows need fewer points than the grain
    breath, density = image_rng.normal(0, 0.03), image_rng.uniform(0.85, 1.0)
    a = _draw_anatomy(patient_rng, breath)
    x, y = _axes(n)
    ax = x[:, n // 2 :]
    body, heart, air = _mirror(_body(a, ax, y)), _heart(a, x, y), _lungs(a, x, y)
    bones = _mirror(0.10 * _ribs(a, ax, y) + 0.15 * _girdle(a, ax, y))
    spine, tube = _spine(a, x, y)
    air *= 1 - 0.85 * heart
    below = _step((y - _diaphragm(a, x)) / 0.05)
    solid = 0.52 + 0.06 * a.fat + (0.17 - 0.12 * below) * heart + 0.17 * below - 0.05 * tube
    solid += a.bone * (bones + 0.09 * spine) * (1 - 0.7 * below)
    if a.breast:
        r = np.hypot((np.abs(x) - 0.52 * a.width / 0.7) / 0.3, (y - a.dome + 0.12) / 0.3)
        solid += 0.07 * a.breast * _round(1.4 - 1.4 * r)
    if a.bubble > 0.3:
        gas = np.hypot((x - 0.33) / 0.14, (y - a.dome - a.lift - 0.13) / 0.07)
        solid -= 0.18 * a.bubble * _round(1.5 - 1.5 * gas)
    air *= 0.40 - 0.20 * a.vessels * _vessels(a, patient_rng, n) + 0.02 * _cloud(patient_rng, 40, n)
    if condition != "normal":
        finding = (_consolidation if condition == "pneumonia" else _patches)(a, finding_rng, x, y)
        air *= 1 - density * finding
    warp = patient_rng.normal(0, 0.018, (_KNOTS, _KNOTS, 2))
    film = _expose(solid * body - air, warp, image_rng, max(size, _MIN_SIZE))
    if size < _MIN_SIZE:
        film = film.resize((size, size), Image.Resampling.LANCZOS)
    return np.array(film)


def _check_ranges(patient: int, image: int, seed: int, size: int) -> None:
    if min(patient, image, seed) < 0:
        raise DataError(f"patient, image and seed must be 0 or greater, got {patient}, {image} and {seed}")
    if not 16 <= size <= 4096:
        raise DataError(f"size must be 16 to 4096 pixels, got {size}")


def _expose(tissue: Field, warp: npt.NDArray[np.float64], image_rng: np.random.Generator, size: int) -> Image.Image:
    """Return the film of one exposure, 8-bit gray, with positioning, scatter, film curve and grain.

    ``warp`` (_KNOTS, _KNOTS, 2) shifts the knots of the mesh, so that the patient's two sides differ.
    """
    turn, zoom, shift = image_rng.normal(0, 0.03), image_rng.uniform(0.86, 1.01), image_rng.normal(0, 0.025, 2)
    knots = np.linspace(-1, 1, _KNOTS)
    rotation = [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
    turned = np.stack(np.meshgrid(knots, knots), axis=-1) @ rotation
    grid = ((turned * zoom + shift + warp) / _REACH + 1) * len(tissue) / 2
    at = np.linspace(0, size, _KNOTS).round().astype(int).tolist()
    mesh = []
    for j, i in np.ndindex(_KNOTS - 1, _KNOTS - 1):
        corners = grid[[j, j + 1, j + 1, j], [i, i, i + 1, i + 1]]
        mesh.append(((at[i], at[j], at[i + 1], at[j + 1]), tuple(corners.ravel().tolist())))
    plane = Image.fromarray(tissue)
    t = np.asarray(plane.transform((size, size), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR))
    scatter = image_rng.uniform(0.0, 0.2)
    dots = image_rng.integers(0, 256, (size + 1, size + 1), dtype=np.uint8).astype(np.float32)
    grain = dots[1:, 1:] + dots[:-1, :-1] + dots[1:, :-1] - 382.5  # neighboring pixels share dots, so that grains touch
    t = (1 - scatter) * t + scatter * 0.5 * float(t.mean()) + image_rng.uniform(4e-5, 15e-5) * grain
    level = image_rng.uniform(1.0, 1.35) * np.linspace(0, 2, 2048) ** image_rng.uniform(0.8, 1.25)
    curve = (255 * level / (1 + level**4) ** 0.25).astype(np.uint8)  # the shoulder of the film curve
    film = Image.fromarray(curve[np.clip(t * 1024, 0, 2047).astype(np.int32)])
    if image_rng.random() < 0.6:  # the side marker, L for the patient's left
        mx, my, h = image_rng.uniform(0.88, 0.94) * size, image_rng.uniform(0.03, 0.2) * size, 0.03 * size
        corner = [mx, my, mx, my + h, mx + 0.6 * h, my + h]
        ImageDraw.Draw(film).line(corner, fill=230, width=max(1, size // 128))
    return film


@dataclass(frozen=True)
class DatasetSummary:
    """A summary of the data set that `write_dataset` wrote.

    Attributes:
        counts: number of images per class folder, as relative paths with forward slashes: ``"train/normal"``.
    """

    folder: Path
    images: int
    patients: int
    counts: dict[str, int]


def _draw_patients(images: int, max_images: int, rng: np.random.Generator, split: bool) -> list[tuple[str, str, int]]:
    """Draw the patients in order of number: condition, folder of the split ("" without one), number of images."""
    patients = []
    for at, condition in enumerate(CONDITIONS):
        left, sizes = (images + len(CONDITIONS) - 1 - at) // len(CONDITIONS), list[int]()
        while left:
            # With a split, the first patient leaves an image for a second patient, who is in the other split.
            limit = max(1, left - 1) if split and not sizes else left
            sizes.append(min(int(rng.integers(1, max_images + 1)), limit))
            left -= sizes[-1]
        valid = max(1, round(0.2 * len(sizes))) if split else 0
        patients += [
            (condition, ("valid/" if k < valid else "train/") if split else "", count) for k, count in enumerate(sizes)
        ]
    return [patients[k] for k in rng.permutation(len(patients))]


@check_arguments()
def write_dataset(
    folder: Path | str,
    *,
    images: Annotated[int, Bounds(le=1_000_000)] = SYNTHETIC_IMAGES,
    images_per_patient: Annotated[int, Bounds(le=1000)] = 3,
    size: int = 256,
    seed: int = 0,
    multi_label: bool = False,
    split: bool = False,
) -> DatasetSummary:
    """Write phantoms as 8-bit gray PNG files in class folders, with a table of labels.

    The files are ``CLASS/pNNNN_II.png`` (patient and image number) and ``labels.csv`` with the columns
    ``image`` (path relative to ``folder``, forward slashes), ``labels`` (joined with ``|``) and ``patient``
    (``p0001``). Every patient has one condition; the numbers of images per condition differ by at most one. The data
    set is written to a temporary folder beside ``folder`` and moved at the end, so that an interrupted call leaves
    nothing behind.

    Args:
        folder: folder to write; it may exist if it is empty.
        images: number of images in total, at least one per condition, or two with ``split``.
        images_per_patient: largest number of images per patient; each patient gets between 1 and this many.
        size: side of the images in pixels.
        seed: another seed gives other patients and images.
        multi_label: name the COVID-19 class ``covid-19+pneumonia``, which is two labels.
        split: put the class folders into ``train/`` and ``valid/``, about 80% and 20% of the patients of
            each condition; no patient is in both.

    Returns:
        Counts of what was written.

    Raises:
        DataError: ``folder`` is a file, is not empty or can't be written, or a number is out of range.
    """
    folder = Path(folder)
    least = len(CONDITIONS) * (2 if split else 1)
    if images < least:
        raise DataError(f"images must be at least {least}, for every condition in every split; got {images}")
    if images_per_patient < 1:
        raise DataError(f"images_per_patient must be at least 1, got {images_per_patient}")
    _check_ranges(0, 0, seed, size)
    try:
        if folder.exists() and (found := sorted(item.name for item in folder.iterdir())):
            raise DataError(
                f"{folder} is not empty: it contains {shorten(found, 3)}. Choose a new or empty folder; nothing was "
                "written or removed."
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        target = folder.resolve()
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            plan = _draw_patients(images, images_per_patient, np.random.default_rng([seed, images]), split)
            counts = _write(staging / "data", plan, size, seed, multi_label)
            if target.exists():
                target.rmdir()
            (staging / "data").replace(target)
        finally:  # also on Ctrl-C
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        problem = f"can't write phantoms to {folder}: {error.strerror or error} ({error.filename or folder})"
        raise DataError(f"{problem}. Choose a folder that you may write to, with enough space.") from error
    return DatasetSummary(folder, images, len(plan), counts)


def _write(into: Path, plan: list[tuple[str, str, int]], size: int, seed: int, multi_label: bool) -> dict[str, int]:
    into.mkdir()
    counts: Counter[str] = Counter()
    rows = []
    for number, (condition, split_folder, count) in enumerate(plan, start=1):
        labels = ["covid-19", "pneumonia"] if multi_label and condition == "covid-19" else [condition]
        class_folder = split_folder + "+".join(labels)
        (into / class_folder).mkdir(parents=True, exist_ok=True)
        for image in range(count):
            name = f"{class_folder}/p{number:04d}_{image:02d}.png"
            film = phantom(condition, patient=number, image=image, seed=seed, size=size)
            # Run lengths only: grain has no repeated patterns, and searching for them costs time and bytes.
            Image.fromarray(film).save(into / name, compress_type=zlib.Z_RLE)
            rows.append((name, "|".join(labels), f"p{number:04d}"))
        counts[class_folder] += count
    with (into / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("image", "labels", "patient"), *sorted(rows)])
    return dict(sorted(counts.items()))

"""Small in-memory data sets: images by path and their manifest."""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from xrayfast.config import DataConfig
from xrayfast.data.cache.shards import ImageInfo
from xrayfast.data.images.contents import describe_contents
from xrayfast.data.images.reader import fit_square
from xrayfast.data.labels.targets import join_labels
from xrayfast.data.manifest import Manifest
from xrayfast.errors import ReadError
from xrayfast.synthetic import CONDITIONS, phantom

SIDE = 128


class Shown:
    """A `DecodedImages` of arrays; a string instead of an array is an unreadable file and the reason."""

    def __init__(self, originals, side=SIDE, facts=None):
        self.originals, self.side, self.looked = dict(originals), side, []
        self.changes = facts or {}

    def build(self, paths, progress=None, workers=None):
        paths = list(paths)
        if progress is not None:
            progress(len(paths), len(paths))
        return {path: self.originals[path] for path in paths if isinstance(self.originals[path], str)}

    def image(self, path):
        self.looked.append(path)
        return fit_square(self._original(path), self.side)

    def batch(self, paths):
        return np.stack([self.image(path) for path in paths])

    def info(self, path):
        pixels = self._original(path)
        height, width = pixels.shape
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32]
        facts = {
            "bits": 8,
            "mode": "L",
            "format": "PNG",
            "notes": tuple(describe_contents(pixels)),
            **self.changes.get(path, {}),
        }
        return ImageInfo(width=width, height=height, digest=digest, **facts)

    def infos(self, paths):
        return [self.info(path) for path in paths]

    def state(self, paths):
        return b""

    def computed(self, key, layout, compute):
        return compute()

    def _original(self, path):
        if isinstance(self.originals[path], str):
            raise ReadError(self.originals[path])
        return self.originals[path]


def manifest(truth, labels=None, *, split=None, patients=None, task="multi", drawn=True, views=None):
    """Return a manifest of the images i0000.png, ... with an (N, L) truth of 1, 0 or NaN (masked)."""
    targets = np.asarray(truth, np.float32)
    count = len(targets)
    labels = tuple(labels or "abcdefgh"[: targets.shape[1]])
    names = [f"i{i:04d}.png" for i in range(count)]
    table = pd.DataFrame(
        {
            "image": names,
            "path": [f"/films/{name}" for name in names],
            "patient": pd.Series(patients if patients is not None else [None] * count, dtype=object),
            "split": split if split is not None else ["train"] * count,
            "labels": join_labels(targets == 1, labels),
        }
    )
    if views is not None:
        table["view"] = pd.Series(views, dtype=object)
    return Manifest(table, labels, targets, task, DataConfig(), (), np.full(count, drawn))


def shown(data, data_dir, **options):
    """Return the images of the rows of a manifest."""
    return Shown(dict(zip(data.table["path"], data_dir, strict=True)), **options)


@lru_cache(maxsize=512)
def film(patient, image=0, size=SIDE):
    """Return the film of a phantom, (size, size)."""
    pixels = phantom(CONDITIONS[patient % 3], patient=patient, image=image, size=size)
    pixels.flags.writeable = False
    return pixels


def jpeg(x, quality):
    stream = io.BytesIO()
    Image.fromarray(x).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(stream.getvalue())))


def resized(x, factor_x, factor_y=None):
    height, width = x.shape
    size = round(width * factor_x), round(height * (factor_y or factor_x))
    return np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BICUBIC))


def cropped(x, left=0.0, right=0.0, top=0.0, bottom=0.0):
    height, width = x.shape
    return x[round(top * height) : height - round(bottom * height), round(left * width) : width - round(right * width)]


def brighter(x, by):
    return np.clip(x.astype(int) + by, 0, 255).astype(np.uint8)


def contrasted(x, factor):
    return np.clip((x - x.mean()) * factor + x.mean(), 0, 255).astype(np.uint8)


def gamma(x, power):
    return (255 * (x / 255) ** power + 0.5).astype(np.uint8)


def normalized_locally(x):
    """Return the image with equal contrast everywhere, much like after CLAHE."""
    difference = x - gaussian_filter(x.astype(float), 16)
    return np.clip(128 + 50 * difference / (np.sqrt(gaussian_filter(difference**2, 16)) + 5), 0, 255).astype(np.uint8)


def marked(x):
    """Return the image with a white stroke of a hundredth of its area."""
    x, (height, width) = x.copy(), x.shape
    x[height // 3 : height * 2 // 5, width // 5 : width * 9 // 25] = 255
    return x

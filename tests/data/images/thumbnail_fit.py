"""Fits the weights in `xrayfast.data.images.thumbnail` to upright radiographs.

    python -m tests.data.images.thumbnail_fit ../shared/data

prints them, and how well the weights from each collection work on the other.
"""

import sys
from pathlib import Path

import numpy as np

from xrayfast.data.images import thumbnail
from xrayfast.data.images.reader import read

TURNED = {
    "00003122_004", "00002898_001", "00003490_011", "00002868_008", "00003220_004", "00001491_000", "00002180_000",
    "00002815_003", "00001814_001",
}  # fmt: skip
"""Radiographs of the collections that are upside down or on their side, found by viewing those with the lowest sums."""

RIDGE = 0.1


def sample(pixels):
    rows, columns = (np.linspace(1, side - 2, 64).round().astype(int) for side in pixels.shape)
    return pixels[np.ix_(rows, columns)].astype(np.int16)


def differences(samples):
    """Return the differences of (N, 64, 64) samples from their upside-down images, (N, 16), and transposes, (N, 6)."""
    spread = samples.reshape(-1, 16, 4, 16, 4).mean(axis=(2, 4)).std(axis=(1, 2)) + 5
    means = samples.reshape(-1, 8, 8, 8, 8).mean(axis=(2, 4)) / spread[:, None, None]
    means = (means + means[:, :, ::-1]) / 2
    both = (means + means[:, ::-1]) / 2
    rows, columns = np.triu_indices(4, 1)
    across = (both - both.transpose(0, 2, 1))[:, rows, columns]
    return (means - means[:, ::-1])[:, :4, :4].reshape(-1, 16) * 2, across * 4


def fit(samples, weights):
    """Return the weights of both sums, scaled so that the weighted mean of each sum is 1."""
    found = []
    for x in differences(samples):
        square = (x * weights[:, None]).T @ x
        square += RIDGE * np.trace(square) / len(square) * np.eye(len(square))
        solved = np.linalg.solve(square, weights @ x)
        found.append(solved / (weights @ (x @ solved) / weights.sum()))
    return found


def compose(samples, count):
    """Return `count` samples side by side, (N, 64, 64), scaled to the width of one sample."""
    order, columns = (
        np.random.default_rng(0).permutation(len(samples)),
        np.linspace(0, 63, 64 // count).round().astype(int),
    )
    found = np.concatenate([samples[np.roll(order, i)][:, :, columns] for i in range(count)], axis=2)
    return np.pad(found, ((0, 0), (0, 0), (0, 64 - found.shape[2])), mode="edge")


def columns_of(samples):
    """Return (N, 16) means: the upper and the lower half, in 8 columns from the sides to the middle."""
    spread = samples.reshape(-1, 16, 4, 16, 4).mean(axis=(2, 4)).std(axis=(1, 2)) + 5
    means = samples.reshape(-1, 2, 32, 16, 4).mean(axis=(2, 4))
    means = (means - means.mean(axis=(1, 2), keepdims=True)) / spread[:, None, None]
    return ((means + means[:, :, ::-1]) / 2)[:, :, :8].reshape(-1, 16)


def discriminate(samples, of_many, count):
    """Return weights and offset of a discriminant, 1 for one radiograph, -1 for several; collections count equally."""
    groups = [samples[of] for of in (of_many, ~of_many) if of.any()]
    pairs = [(columns_of(group), columns_of(compose(group, count))) for group in groups]
    one, several = (np.mean([pair[i].mean(axis=0) for pair in pairs], axis=0) for i in (0, 1))
    within = np.mean([np.cov(x.T) + np.cov(y.T) for x, y in pairs], axis=0) / 2
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    weights = np.linalg.solve(within, one - several)
    scale = (one - several) @ weights / 2
    return weights / scale, -(one + several) @ weights / 2 / scale


def sums(samples, fitted):
    """Return (N, 2) sums, the larger of those with and without margins, as for the note."""
    inside = np.stack([thumbnail._without_margins(one) for one in samples])
    found = [np.stack([x @ w for x, w in zip(differences(some), fitted, strict=True)]) for some in (samples, inside)]
    return np.maximum(*found).T


def load(folder):
    """Return samples of the radiographs under a folder, and whether the collection of each is from many hospitals."""
    files = [file for file in sorted(Path(folder).rglob("*.jpg")) if file.stem not in TURNED]
    samples = np.stack([sample(read(file).pixels) for file in files])
    return samples, np.array(["covid-19" in file.parts for file in files])


def weigh(of_many):
    """Return weights of samples that give both collections the same total."""
    return np.where(of_many, 1 / max(1, of_many.sum()), 1 / max(1, (~of_many).sum()))


def main(folder):
    samples, of_many = load(folder)
    inside = np.stack([thumbnail._without_margins(one) for one in samples])
    for name, learned in (("many hospitals", of_many), ("one", ~of_many)):
        found = sums(samples[~learned], fit(inside[learned], weigh(of_many[learned])))
        turned = (found > -thumbnail._LEAST).mean(axis=0)
        print(f"{learned.sum()} of {name}: the lowest of {len(found)} others", np.sort(found, axis=0)[:3].T.round(2))
        print("   shares over 0.6, which are noted where they are turned:", turned.round(3))
    for count in (2, 3):
        for learned in (of_many, ~of_many):
            weights, offset = discriminate(samples[learned], of_many[learned], count)
            alone, several = (
                columns_of(some) @ weights + offset for some in (samples[~learned], compose(samples[~learned], count))
            )
            print(f"{count} side by side: the lowest of {len(alone)} others", np.sort(alone)[:3].round(2))
            print("   share of those put together under -0.6:", (several < thumbnail._LEAST).mean().round(3))
    for weights in fit(inside, weigh(of_many)):
        print(np.round(1000 * weights).astype(int).tolist())
    for count in (2, 3):
        weights, offset = discriminate(samples, of_many, count)
        print(np.round(100 * weights).astype(int).tolist(), round(float(offset), 2))


if __name__ == "__main__":
    main(sys.argv[1])

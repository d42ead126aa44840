"""Versions of thumbnails: without margins, upright, not inverted, or mirrored, so that changed copies look alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from xrayfast.data.arrays import Bools, Integers, Places
from xrayfast.data.images.reader import Pixels
from xrayfast.data.images.thumbnail import upright_weights

MIRRORED, TURNED_ONCE, TURNED_TWICE, INVERTED, BARE, PROCESSED = 1, 2, 4, 8, 16, 32
"""Bits of a change: left and right exchanged, one and two quarter turns, inverted, without margins, and with a mark or
other local contrast, such as after CLAHE."""

CHANGES = {
    MIRRORED: "mirrored",
    TURNED_ONCE: "rotated by 90°",
    TURNED_TWICE: "rotated by 180°",
    INVERTED: "inverted",
    BARE: "with other margins",
    PROCESSED: "processed or marked",
}

_TURN, _TURNS = TURNED_ONCE, TURNED_ONCE | TURNED_TWICE
_BLOCK = 4096  # thumbnails at a time, to save the memory of a copy


@dataclass(frozen=True, eq=False)
class Versions:
    """V versions of the thumbnails of images; the first are the images as they are."""

    thumbs: Pixels  # (M, n, n)
    rows: Integers  # (V,) index of the thumbnail that each version is made of
    changes: Integers  # (V,) bits of what is changed: those in `rows` have no margins if `BARE`; mirroring is never set
    members: Places  # (V,) number of the image

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, places: Integers) -> Versions:
        """Return some of the versions."""
        return replace(self, rows=self.rows[places], changes=self.changes[places], members=self.members[places])

    def pixels(
        self, places: Integers, mirrored: Bools | bool = False, load: Callable[[Integers], Pixels] | None = None
    ) -> Pixels:
        """Return some versions, (P, n, n), or their mirror images; of other thumbnails if `load` returns these."""
        rows = self.rows[places]
        shown = self.thumbs[rows] if load is None else load(rows)
        changes = self.changes[places] & ~BARE | np.where(mirrored, MIRRORED, 0)
        for change in np.unique(changes[changes > 0]).tolist():
            some = changes == change
            one = np.rot90(shown[some], (change & _TURNS) // _TURN, (1, 2))
            one = 255 - one if change & INVERTED else one
            shown[some] = one[:, :, ::-1] if change & MIRRORED else one
        return shown

    def differences(self, pairs: Integers, mirrored: Bools) -> Integers:
        """Return the bits of what differs between the images of each pair (P, 2) if these versions of them are equal.

        `mirrored` says of which pairs the second version is mirrored. A turn by 270 degrees counts as one by 90.
        """
        first, second = self.changes[pairs].T
        sign = np.where(mirrored, 1, -1)  # mirroring reverses the direction of turns
        turns = ((second & _TURNS) + sign * (first & _TURNS)) & _TURNS
        turns = np.where(turns == _TURNS, TURNED_ONCE, turns)
        found: Integers = turns | (first ^ second) & INVERTED | (first | second) & BARE
        return found | np.where(mirrored, MIRRORED, 0)


def find_versions(thumbs: Pixels, rows: Integers) -> Versions:
    """Return the versions of N images to compare: each image; that without margins; and those upright, if not so.

    Args:
        thumbs: (M, n, n), where n is a multiple of 8.
        rows: (N, 2) indices of the thumbnails of an image and of the image without margins; equal if it has none.
    """
    members = np.arange(len(rows))
    bare = np.flatnonzero(rows[:, 0] != rows[:, 1])
    given = np.concatenate([rows[:, 0], rows[bare, 1]])
    changes = np.repeat([0, BARE], [len(rows), len(bare)])
    members = np.concatenate([members, bare])
    to_upright = _changes_to_upright(thumbs, given)
    others = np.flatnonzero(to_upright)
    return Versions(
        thumbs,
        np.concatenate([given, given[others]]),
        np.concatenate([changes, changes[others] | to_upright[others]]),
        np.concatenate([members, members[others]]),
    )


def _changes_to_upright(thumbs: Pixels, rows: Integers) -> Integers:
    """Return (N,) the changes, of turns and inversion, after which each thumbnail looks most like a radiograph."""
    weights = upright_weights(thumbs.shape[-1])
    turned = np.stack([np.rot90(weights, -turns).ravel() for turns in range(4)], 1)  # instead of turning thumbnails
    best = np.zeros(len(rows), np.int64)
    for start in range(0, len(rows), _BLOCK):
        some = thumbs[rows[start : start + _BLOCK]]
        sums = some.reshape(len(some), -1).astype(np.float32) @ turned
        # The weights add up to 0, so that inversion changes the sign of a sum.
        most = np.concatenate([sums, -sums], 1).argmax(1)
        best[start : start + _BLOCK] = most % 4 * _TURN + most // 4 * INVERTED
    return best

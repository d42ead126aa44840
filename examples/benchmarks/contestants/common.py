"""Code that the contestants share: their orders, the split, and the timing of epochs."""

import csv
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Orders:
    """The job, as the parent process passes it to a contestant.

    Attributes:
        task: as in `Job`.
        settings: as in `Job`.
        seed: seed of everything random.
        folder: folder of the images.
        split_file: table of image, split and labels.
        scratch: an empty folder.
        model: a completed xrayfast run, for tasks that need one.
    """

    task: str
    settings: dict[str, Any]
    seed: int
    folder: str
    split_file: str
    scratch: str
    model: str = ""

    def subset(self, name: str) -> list[tuple[str, str]]:
        """Return the path and label of each image of a split."""
        with Path(self.split_file).open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == name]
        return [(str(Path(self.folder) / row["image"]), row["labels"]) for row in rows]

    @property
    def labels(self) -> list[str]:
        return sorted({label for split in ("train", "valid") for _, label in self.subset(split)})


def read_orders() -> Orders:
    """Parse the command line's one argument, a JSON object."""
    return Orders(**json.loads(sys.argv[1]))


def answer(**found: Any) -> None:
    """Print the line that the parent process reads."""
    print("\n" + json.dumps(found), flush=True)


class EpochClock:
    """Collects one row per epoch, in the format of xrayfast's `history.csv`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def start(self) -> None:
        self.began = time.perf_counter()

    def stop(self, phase: str, accuracy: float, valid_loss: float) -> None:
        seconds = time.perf_counter() - self.began
        self.rows.append({"phase": phase, "seconds": seconds, "accuracy": accuracy, "valid_loss": valid_loss})

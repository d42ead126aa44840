"""What the contestants share: their orders, the split, and the clock of an epoch."""

import csv
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Orders:
    """What the parent process tells a contestant.

    Attributes:
        task: as in `Job`.
        settings: as in `Job`.
        seed: of everything random.
        folder: of the films.
        split_file: image, split and labels.
        scratch: an empty folder.
        model: a finished run of xrayfast, for tasks that need one.
    """

    task: str
    settings: dict[str, Any]
    seed: int
    folder: str
    split_file: str
    scratch: str
    model: str = ""

    def subset(self, name: str) -> list[tuple[str, str]]:
        """Path and label of the images of a part."""
        with Path(self.split_file).open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == name]
        return [(str(Path(self.folder) / row["image"]), row["labels"]) for row in rows]

    @property
    def labels(self) -> list[str]:
        return sorted({label for split in ("train", "valid") for _, label in self.subset(split)})


def orders() -> Orders:
    """From the command line's one argument, a JSON object."""
    return Orders(**json.loads(sys.argv[1]))


def answer(**found: Any) -> None:
    """The one line that the parent reads."""
    print("\n" + json.dumps(found), flush=True)


class EpochClock:
    """Rows of epochs, as `history.csv` of xrayfast has them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def start(self) -> None:
        self.began = time.perf_counter()

    def stop(self, phase: str, accuracy: float, valid_loss: float) -> None:
        seconds = time.perf_counter() - self.began
        self.rows.append({"phase": phase, "seconds": seconds, "accuracy": accuracy, "valid_loss": valid_loss})

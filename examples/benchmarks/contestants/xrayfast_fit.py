"""xrayfast as a user runs it: the command, and the results in the run's folder."""

import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks.contestants.common import Orders


def command(orders: Orders) -> list[str]:
    """Return the command line of `xrayfast fit` with an empty cache, in several processes if the settings say so."""
    settings = orders.settings
    start = [sys.executable, "-m", "xrayfast"]
    if settings.get("processes", 1) > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(settings["processes"])]
        start += ["--master-port", "29517", "-m", "xrayfast"]
    words = {name: settings[name] for name in ("arch", "weights", "size", "batch_size", "epochs", "lr", "precision")}
    words |= {"split_file": orders.split_file, "seed": orders.seed}
    words |= {"cache_dir": f"{orders.scratch}/cache", "runs": orders.scratch, "name": "run"}
    if settings["unfreeze"] != "none":
        words["freeze_epochs"] = settings["freeze_epochs"]
    given = [word for name, value in words.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    given += {"none": [], "all": ["--unfreeze"], "last block": ["--unfreeze-blocks", "1"]}[settings["unfreeze"]]
    return [*start, "fit", orders.folder, *given, *shlex.split(settings.get("options", "")), "--json"]


def found(orders: Orders) -> dict[str, Any]:
    """Return seconds and metrics from `run.json` and `history.csv`."""
    run = Path(orders.scratch) / "run"
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    with (run / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = ("seconds", "train_loss", "valid_loss")
    columns = {name: name for name in numbers} | {name: f"valid_{name}" for name in ("accuracy", "auroc_macro")}
    epochs = [
        {"phase": "head" if row["phase"] == "head" else "all"}
        | {name: float(row[column]) for name, column in columns.items() if row.get(column)}
        for row in rows
    ]
    counts = {split: len(orders.subset(split)) for split in ("train", "valid")}
    return {
        "epochs": epochs,
        "train_images": counts["train"],
        "valid_images": counts["valid"],
        "run_seconds": info["seconds"],
        "best_epoch": info["best_epoch"],
        "precision": info["precision"],
    }

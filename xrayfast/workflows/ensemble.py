"""Combine several runs into one that averages their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from xrayfast._version import __version__
from xrayfast.data.corrections import read_corrections
from xrayfast.data.splits.words import SPLITS
from xrayfast.errors.arguments import check_arguments
from xrayfast.files.csv_tables import read_csv
from xrayfast.files.file_names import relative_path
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.runs.run import Run, now
from xrayfast.workflows.steps.predictions.ensembles import average_splits, name_apart, require_alike
from xrayfast.workflows.steps.results import finalize_results


@check_arguments()
def ensemble(
    runs: Sequence[Run | Path | str] | Run | Path | str,
    *,
    name: str | None = None,
    folder: Path | str = "runs",
    command: str = "",
) -> Run:
    """Combine several runs into one that averages their probabilities.

    Calibration and thresholds are chosen on the members' validation predictions, using for each image only networks
    that were not trained on it. The new folder holds no weights and refers to its members, which must stay where they
    are.

    Args:
        runs: the members or their folders, with the same labels, image size and DICOM window. A cross-validation is an
            ensemble already and is returned as it is.
        name: name of the new folder; by default "ensemble" and a number that counts up.
        folder: the folder to create it in.
        command: the command line, recorded in `run.json`.

    Returns:
        A Run for `predict`, `evaluate` and `compare`.

    Raises:
        ConfigError: there are fewer than two runs, one is named twice, or they differ in labels, task, size or window.
        RunError: a run is not complete, an image has different labels or pixels in two runs, or the name is taken.
    """
    items = [runs] if isinstance(runs, (Run, Path, str)) else list(runs)
    members = [Run.of(item) for item in items]
    if len(members) == 1 and members[0].info.members:
        members[0].predictions("valid")  # raises unless the run is complete
        return members[0]
    members = [inner for run in members for inner in (run.members or [run])]
    require_alike(members)
    tables = [read_csv(run.split_path, ["image", "split"], dtype=str, keep_default_na=False) for run in members]
    averaged = average_splits(members, tables)
    first, root = members[0], Path(folder)
    config, labels, task = first.config, first.labels, first.task
    place = root / (name or "ensemble")  # the new folder or a sibling of it: relative paths are the same
    infos = [run.info for run in members]
    images, *others = (table[["image", "split"]] for table in tables)
    same = all(table.equals(images) for table in others)
    counts = {
        split: {
            **{label: int((one.truth[:, i] == 1).sum()) for i, label in enumerate(labels)},
            "images": len(one),
            **({"patients": len(set(one.patients) - {""})} if one.groups is not None else {}),
        }
        for split, one in averaged.items()
    }
    info: dict[str, Any] = {
        "status": "completed",
        "started": now(),
        "finished": now(),
        "command": command,
        "xrayfast": __version__,
        "arch": infos[0].arch,
        "parameters": sum(info.parameters or 0 for info in infos),
        "loss": infos[0].loss,
        "counts": counts,
        "fingerprint": infos[0].fingerprint if same else "",
        "shortcuts": infos[0].shortcuts,
        "remarks": list(dict.fromkeys(remark for info in infos for remark in info.remarks)),
        "members": [relative_path(run.path, place) for run in members],
        "seconds": round(sum(info.seconds or 0 for info in infos), 1),
    }

    def write(run: Run) -> None:
        run.write_decision(Decision(task, labels))
        run.write_split(tables[0] if same else _join_splits(tables))
        if (corrections := first.corrections_path) is not None:
            run.write_corrections(read_corrections(corrections)[0])
        finalize_results(run, averaged, config.results, config.train.seed)

    return Run(Run.create(root, name, "ensemble", config, info, write).path)


def _join_splits(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return each image with the first of train, valid and test that it is in for any member."""
    if all("patient" in table for table in tables):
        pairs = [zip(table["image"], table["patient"], strict=True) for table in tables]
        tables = [
            table.assign(patient=table["patient"].map(names))
            for table, names in zip(tables, name_apart(pairs), strict=True)
        ]
    every = pd.concat(tables, ignore_index=True)
    every["rank"] = every["split"].map(SPLITS.index)
    first = every.sort_values("rank", kind="stable").drop_duplicates("image").sort_index(kind="stable")
    return first.drop(columns="rank")

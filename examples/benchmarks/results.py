"""The file of measurements, one JSON line each."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RENAMED = {"thawed": "unfrozen", "store": "cache"}
"""Names of scenarios in older lines of the file, and their current names."""

RENAMED_SETTINGS = {"films": "images", "thaw": "unfreeze"}
"""Keys of a job's settings in older lines, and their current names; the first images were of the kind "films"."""


@dataclass(frozen=True)
class Job:
    """One measurement: contestant, task, settings and seed.

    Equal jobs are measured once, even if several scenarios have them.

    Attributes:
        contestant: "xrayfast", "fastai", "torchvision", "timm", "limit".
        task: what the contestant measures, such as "fit", "loader" or "predict"; see the contestants' modules.
        settings: JSON values only.
        seed: also the index of the round.
    """

    contestant: str
    task: str
    settings: dict[str, Any] = field(hash=False)
    seed: int = 0

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class Results:
    """Appends measurements to a file and finds them again.

    Args:
        path: the file, which need not exist.

    Attributes:
        rows: the last measurement of each job, by the job's key.
        failed: the errors of jobs that have not succeeded since, by the job's key.
        begun: the options and command line of the last request of each scenario.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.begun: dict[str, dict[str, Any]] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole, _, cut = text.rpartition("\n")
        if cut:  # the command was killed while writing its last line
            path.write_text(whole + "\n" if whole else "", encoding="utf-8")
        for line in whole.splitlines():
            self._take(json.loads(line))

    def add(self, job: Job, row: dict[str, Any]) -> None:
        self._write({**asdict(job), **row})

    def begin(self, scenario: str, options: dict[str, Any], command: str) -> None:
        """Record the options of a scenario's last request, whose measurements the page shows."""
        self._write({"scenario": scenario, "options": options, "command": command})

    def get(self, job: Job) -> dict[str, Any] | None:
        return self.rows.get(job.key)

    def of(self, jobs: list[Job]) -> list[dict[str, Any]]:
        """Return the existing rows of these jobs, in the order of the jobs."""
        return [row for job in jobs if (row := self.get(job)) is not None]

    def _write(self, row: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._take(row)

    def _take(self, row: dict[str, Any]) -> None:
        if "scenario" in row:
            words = [RENAMED.get(word, word) for word in row["command"].split(" ")]
            self.begun[RENAMED.get(row["scenario"], row["scenario"])] = row | {"command": " ".join(words)}
            return
        row = row | {"settings": _rename_settings(row["settings"])}
        key = Job(row["contestant"], row["task"], row["settings"], row["seed"]).key
        if "error" in row:
            self.failed[key] = row["error"]
        else:
            self.rows[key] = row
            self.failed.pop(key, None)


def _rename_settings(settings: dict[str, Any]) -> dict[str, Any]:
    renamed = {RENAMED_SETTINGS.get(name, name): value for name, value in settings.items()}
    if "model" in renamed:
        renamed["model"] = _rename_settings(renamed["model"])
    if "films" in renamed.get("images", ())[:1]:
        renamed["images"] = ["originals", *renamed["images"][1:]]
    return renamed

"""Publish a run on the Hugging Face Hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xrayfast._version import __version__
from xrayfast.config import NAMED_WEIGHTS, Config, DataConfig
from xrayfast.data.splits.words import SPLITS
from xrayfast.errors import ConfigError, RunError, plural
from xrayfast.errors.arguments import check_arguments
from xrayfast.errors.escapes import warn
from xrayfast.files.atomic import link_or_copy, replace_atomically, write_text
from xrayfast.files.csv_tables import read_csv, write_csv
from xrayfast.files.intact import known_digests
from xrayfast.hub.download import ALLOWED, CARD, PREFIX, named_errors, require_hub, require_token
from xrayfast.hub.identifying import LEAST_CHARACTERS, Identifiers
from xrayfast.reporting.markdown.model_card import render_published_card
from xrayfast.reporting.markdown.run_facts import RunFacts, read_cross_validation_facts, read_run_facts
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.info_types import RunInfo
from xrayfast.runs.names import HISTORY_FILE, SPLIT_FILE, member_names
from xrayfast.runs.predictions import ATTRIBUTES
from xrayfast.runs.run import Run

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

_DATA_SETTINGS = (
    "uncertain", "blank", "exact_labels", "keep_no_finding", "imply", "task", "valid_fraction", "test_fraction",
    "split_seed", "views", "window",
)  # fmt: skip
"""Settings of the data that are published: how images and labels are read, without names of files or columns."""

_INFO = (
    "status", "started", "finished", "xrayfast", "versions", "device", "device_name", "precision", "threads", "arch",
    "weights_sha256", "parameters", "loss", "counts", "fingerprint", "shortcuts", "global_batch", "world_size",
    "frozen_feature_groups", "frozen_feature_views", "lr", "phases", "ended_phases", "own_code", "dataloaders",
    "chosen_inside", "seconds", "history_unit", "best_epoch",
)  # fmt: skip
"""Fields of `run.json` that are published unchanged; its sentences are published only if they contain no identifier."""

_SUMMARY = (
    "images", "positive", "patients", "scored", "masked", "overall", "per_label", "reliability", "most_confused",
    "prevalence", "intervals", "confusion", "most_common", "confusion_per_label", "cooccurrence", "at_thresholds",
    "calibration", "fixed_rates", "net_benefit", "population", "subgroups", "notes", "warnings",
    "unit",
)  # fmt: skip
"""Fields of a split's metrics that are published."""


@dataclass(frozen=True)
class Pushed:
    """A published run.

    Attributes:
        files: the size in bytes of each uploaded file, keyed by name.
        commit: the repository's new commit; "" for a dry run, which uploads nothing.
        url: the repository's URL; "" for a dry run.
    """

    repository: str
    files: Mapping[str, int]
    commit: str = ""
    url: str = ""
    private: bool = True

    @property
    def name(self) -> str:
        """The name with which `predict` finds exactly this commit."""
        return f"{PREFIX}{self.repository}@{self.commit}"


@check_arguments()
def push(
    run: Run | Path | str,
    repository: str,
    *,
    public: bool = False,
    with_predictions: bool = False,
    with_split: bool = False,
    dry_run: bool = False,
    note: Callable[[str], None] = warn,
) -> Pushed:
    """Publish a run, an ensemble or a cross-validation in a repository of the Hugging Face Hub.

    `predict("hf:ORG/NAME")` downloads it from there. Needs `pip install 'xrayfast[hub]'` and a login.

    The upload has weights (safetensors), settings, labels with calibration and thresholds, history, metrics and a model
    card. It has no file names, pseudonyms of patients, paths, images or command lines; sentences that contain one are
    left out, and all texts are searched for them before anything is sent. Patients' original identifiers are in no file
    of a run, unless names of images contain them.

    Args:
        run: the run or its folder.
        repository: "ORG/NAME"; created if it does not exist.
        public: make the repository public; otherwise it is private.
        with_predictions: upload the predictions too, which have names of images, pseudonyms, sex and age.
        with_split: upload `split.csv` too, which has names of images, pseudonyms and labels.
        dry_run: only determine what would be uploaded.
        note: function to call with each note on what is left out.

    Returns:
        The uploaded files and the commit.

    Raises:
        ConfigError: the repository name is invalid, huggingface_hub is missing, or there is no login.
        RunError: the run is not complete, or the server refuses; or the repository is public, and `public` is False.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"repository is '{repository}'; expected ORG/NAME, such as my-group/chest-1.")
    run = Run.of(run)
    run.require_known_transforms("it can't predict on another machine")
    if run.info.status != "completed":
        raise RunError(f"{run.path}: its status is '{run.info.status}'; expected a complete run.")
    hub = require_hub()
    if not dry_run:
        require_token()
    with tempfile.TemporaryDirectory(prefix="xrayfast-") as folder:
        staged = _stage(run, Path(folder), repository, with_predictions, with_split, note)
        files = {
            path.relative_to(staged).as_posix(): path.stat().st_size
            for path in sorted(staged.rglob("*"))
            if path.is_file()
        }
        if dry_run:
            return Pushed(repository, files, private=not public)
        api = hub.HfApi(library_name="xrayfast", library_version=__version__)
        with named_errors(f"{PREFIX}{repository}", "main"):
            url = api.create_repo(repository, private=not public, exist_ok=True)
            if not public and not api.model_info(repository).private:
                raise RunError(
                    f"{PREFIX}{repository}: already exists and is public, but --public was not given. Nothing was "
                    "uploaded. Give --public, or use another name."
                )
            done = api.upload_folder(
                repo_id=repository,
                folder_path=staged,
                commit_message=f"xrayfast {__version__}: {run.path.absolute().name}",
                delete_patterns=[*ALLOWED],  # files of an earlier push
            )
    return Pushed(repository, files, done.oid, str(url), not public)


def _stage(
    run: Run, folder: Path, repository: str, with_predictions: bool, with_split: bool, note: Callable[[str], None]
) -> Path:
    """Write the files to upload to a new folder."""
    members = run.members
    identifiers = _identifiers([run, *members])
    publication = _Publication(identifiers, with_predictions, with_split)
    staged = publication.copy(run, folder, repository.partition("/")[2], len(members))
    for name, member in zip(member_names(len(members)), members, strict=True):
        publication.copy(member, staged, name)
    write_text(staged / CARD, render_published_card(publication.facts(run), repository))
    if left_out := set(publication.left_out):
        note(f"Left out of the published run: {plural(len(left_out), 'sentence')} that may name files or patients.")
    if identifiers.short:
        note(
            f"Texts were not searched for {plural(identifiers.short, 'patient name')} with fewer than "
            f"{LEAST_CHARACTERS} characters, because any text may contain them by chance."
        )
    _require_clean(staged, identifiers)
    return staged


def _identifiers(runs: Sequence[Run]) -> Identifiers:
    """Collect the names of all images, patients, studies and tables of runs, and the folders in their settings."""
    images, patients, folders = set[str](), set[str](), set[Path | str]({Path.home()})
    tables = {path.name for run in runs for path in (run.config.data.labels, run.config.data.label_map) if path}
    for run in runs:
        if (run.path / SPLIT_FILE).is_file():
            table = read_csv(run.split_path, ["image"], dtype=str, keep_default_na=False)
            images |= set(table["image"])
            patients |= set(table["patient"]) if "patient" in table else set()
        for split in run.predicted_splits:
            predictions = run.predictions(split)
            images |= set(predictions.images)
            patients |= set(predictions.patients)
            patients |= set() if predictions.studies is None else set(predictions.studies)
        images |= run.read_left_out().keys()
        data, above = run.config.data, run.path.absolute().parent
        folders |= {above, *(value for value in dict(data).values() if isinstance(value, Path) and value.is_absolute())}
    return Identifiers(images, patients - {""}, folders, tables)


@dataclass(frozen=True, eq=False)
class _Publication:
    """What of a run is published.

    Attributes:
        left_out: sentences that were left out, since they contain an identifier.
    """

    identifiers: Identifiers
    with_predictions: bool
    with_split: bool
    left_out: list[str] = field(default_factory=list)

    def copy(self, run: Run, root: Path, name: str, members: int = 0) -> Path:
        """Copy the publishable content of a run to a new run's folder."""
        info = {field: getattr(run.info, field) for field in _INFO} | self._sentences(run.info)
        info["phases"] = None if run.info.phases is None else [phase.model_dump() for phase in run.info.phases]
        info["members"] = member_names(members)

        def write(copy: Run) -> None:
            copy.write_decision(run.decision)
            copy.write_metrics(self._metrics(run.metrics))
            if not members:
                write_csv(copy.path / HISTORY_FILE, run.history)
                with replace_atomically(copy.new_model_path, *known_digests(run.model_path)[-1:]) as temporary:
                    link_or_copy(run.model_path, temporary)
            if self.with_split:
                write_csv(copy.path / SPLIT_FILE, read_csv(run.split_path, dtype=str, keep_default_na=False))
            for split in run.predicted_splits if self.with_predictions else ():
                copy.write_predictions(split, run.predictions(split))

        return Run.create(root, name, name, _public_settings(run.config), info, write).path

    def facts(self, run: Run) -> RunFacts:
        """Return the facts of the run's model card without names of files, saliency and evaluations on other data."""
        is_cv = CrossValidation.is_there(run.path)
        facts = read_cross_validation_facts(CrossValidation(run.path)) if is_cv else read_run_facts(run)
        return replace(
            facts,
            name=run.path.absolute().name,
            config=_public_settings(facts.config),
            info=facts.info.model_copy(update={**self._sentences(facts.info), "platform": "", "command": ""}),
            results={split: self._summary(summary) for split, summary in facts.results.items()},
            saliency=None,
            evaluations=(),
            damaged=(),
        )

    def _is_clean(self, text: str) -> bool:
        """Whether a sentence may be published; if not, add it to `left_out`."""
        clean = self.identifiers.is_clean(text)
        if not clean:
            self.left_out.append(text)
        return clean

    def _sentences(self, info: RunInfo) -> dict[str, Any]:
        """Return the fields of `run.json` that are sentences, without those that contain an identifier."""
        lists = {name: list(filter(self._is_clean, info[name])) for name in ("audit", "data_notes", "remarks")}
        flow = [step for step in info.flow if self._is_clean(step[0])]
        start = info.starting_weights if self._is_clean(info.starting_weights) else ""
        return {**lists, "flow": flow, "starting_weights": start}

    def _metrics(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return `metrics.json` without single images, and without sentences and subgroups that may identify one."""
        found: dict[str, Any] = {name: metrics[name] for name in ("loss", "decision") if name in metrics}
        return found | {split: self._summary(metrics[split]) for split in SPLITS if split in metrics}

    def _summary(self, metrics: Mapping[str, Any]) -> Any:
        """Return the metrics of one split, likewise."""
        summary = {name: metrics[name] for name in _SUMMARY if name in metrics}
        if "notes" in summary:
            summary["notes"] = list(filter(self._is_clean, summary["notes"]))
        if "warnings" in summary:
            summary["warnings"] = [one for one in summary["warnings"] if self._is_clean(one["text"])]
        if "subgroups" in summary:  # other columns may name hospitals
            summary["subgroups"] = [one for one in summary["subgroups"] if one["by"] in ATTRIBUTES]
        return summary


def _public_settings(config: Config) -> Config:
    """Return the settings without those that name files, folders or columns."""
    data = DataConfig().model_copy(update={name: getattr(config.data, name) for name in _DATA_SETTINGS})
    weights = config.model.weights
    model = config.model.model_copy(update={"weights": weights if weights in NAMED_WEIGHTS else Path(weights).name})
    train = config.train.model_copy(update={"track": ()})
    return config.model_copy(update={"data": data, "model": model, "train": train})


def _texts(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".yaml", ".md") or path.name == "history.csv":
            yield path, path.read_text(encoding="utf-8")


def _require_clean(folder: Path, identifiers: Identifiers) -> None:
    """Search all texts once more before they are sent."""
    for path, text in _texts(folder):
        if found := identifiers.find(text):
            raise RunError(
                f"{path.relative_to(folder)}: contains '{found}', which is the name of an image, a patient or a "
                "folder on this machine. Nothing was uploaded. Rename the label or run that has this name."
            )

"""Open the data that a run was trained on again."""

from __future__ import annotations

import re
from dataclasses import replace

from xrayfast.config import DataConfig
from xrayfast.data.cache.folders import holds_cache
from xrayfast.data.manifest import Manifest
from xrayfast.data.open_manifest import open_manifest
from xrayfast.errors import DataError, RunError, shorten
from xrayfast.errors.escapes import warn
from xrayfast.files.cache_folder import cache_root
from xrayfast.files.virtual.addresses import is_remote
from xrayfast.runs.run import Run


def reopen_data(run: Run) -> Manifest:
    """Open the data that a run was trained on, with its split, and check that it is unchanged.

    Raises:
        RunError: the data are gone, or images, labels or the split have changed; or the run's folder is incomplete.
    """
    try:
        return _reopen(run)
    except DataError as error:
        source = str(run.config.data.source)
        # Without the advice, which is on options: those of a run are kept. A path may contain ". ".
        found = re.split(r"[.;] ", str(error).replace(source, "\0"))[0].rstrip(".").replace("\0", source)
        raise RunError(
            f"{run.path}: the data in {source} are not the same as when the run began: {found}. Put them back as they "
            "were, or start a new run."
        ) from error


def find_data(run: Run) -> Manifest | None:
    """Open the data that a run was trained on; None if it is gone, has changed or came in the user's own DataLoaders.

    Raises:
        RunError: the run's folder is incomplete, or its labels are not those of the data.
    """
    if run.downloaded or run.info.dataloaders != "xrayfast":
        return None  # don't look into folders that a stranger's run names
    try:
        return _reopen(run)
    except DataError:
        return None


def _reopen(run: Run) -> Manifest:
    fingerprint, config = run.info.fingerprint, run.config.data
    # The author of a run could make us send requests to any server.
    if remote := [path for path in (config.source, config.labels, config.label_map) if path and is_remote(path)]:
        warn(f"{run.path}: the data in its config.yaml are read over the network: {shorten(remote)}.")
    # `leave_out` leaves out the masks that the run left out; runs of older versions left out none.
    replayed = {"split_file": run.split_path, "split_col": None, "ignore_split": False, "keep_masks": True}
    replayed |= {"folds": None, "fold": None}
    replayed |= {"corrections": run.corrections_path, "corrections_sha256": None}
    found = open_manifest(config.model_copy(update=replayed), known_labels=run.labels, leave_out=run.read_left_out())
    data = replace(found, config=with_known_cache(config))
    if data.fingerprint() != fingerprint:
        raise DataError("labels, splits or sizes of files differ")
    if (data.labels, data.task) != (run.labels, run.task):
        raise RunError(
            f"{run.path}: labels.json has other labels than the data that the run was trained on. The folder is "
            "damaged: copy it again from where the run was made."
        )
    return data


def with_known_cache(config: DataConfig) -> DataConfig:
    """Return the data settings of a run, without its `cache_dir` if that folder holds no cache.

    Otherwise, the author of a run could make us write to any folder.
    """
    if config.cache_dir is None or not config.cache or holds_cache(config.cache_dir):
        return config
    warn(
        f"{config.cache_dir}: is the cache_dir in the run's config.yaml, but does not contain a cache of images. "
        f"Nothing is written there; the cache in {cache_root()} is used. If the folder is yours, training with "
        "--cache-dir creates the cache there."
    )
    return config.model_copy(update={"cache_dir": None})

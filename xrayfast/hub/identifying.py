"""What in texts could identify patients, files or whoever trained a run."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

LEAST_CHARACTERS = 4
"""Of the number of a patient: shorter ones are in every text."""

_TOKEN = re.compile(r"[^\s'\"`|,;:()\[\]<>*]+")

_IMAGE_FILE = re.compile(r"\S+\.(png|jpe?g|jpe|jfif|tiff?|bmp|webp|dcm|dicom|dic|gif|jp2|nii|gz)")
"""Also of images that are not the run's, such as those in no row of its table."""

_FILE = re.compile(r"\S+\.[a-z][a-z0-9]{1,8}")

_NUMBERED = re.compile(r"(?=.*[a-z])\S+/\S*\d\S*")
"""A relative path such as images/IM0001, of a file without a suffix."""

_FILES_OF_RUNS = frozenset((
    "config.yaml", "history.csv", "labels.json", "metrics.json", "model.safetensors", "report.html", "run.json",
    "split.csv",
))  # fmt: skip
"""File names that tell nothing of the data."""


class Identifiers:
    """Names that must not be in what is published.

    Args:
        images: names of images, relative paths.
        patients: their names or pseudonyms; those that are too short to be searched for are counted in `short`.
        folders: absolute paths.
        tables: names of the files, or folders of parts, that labels came from; of no sentence, since it names columns
            too. In other texts they may be plain words.
    """

    def __init__(
        self,
        images: Iterable[str],
        patients: Iterable[str],
        folders: Iterable[Path | str],
        tables: Iterable[str] = (),
    ) -> None:
        images = set(images)
        names = images | {PurePosixPath(image).name for image in images}
        every = {*filter(None, patients)}
        patients = {name for name in every if len(name) >= LEAST_CHARACTERS}
        self.short = len(every - patients)
        self._names = {name.casefold() for name in names | patients if name}
        # Those that a token of a text can't be.
        self._phrases = [name for name in self._names if not _TOKEN.fullmatch(name)]
        self._folders = [str(folder).casefold() for folder in folders if len(str(folder)) > 1]
        self._tables = [f" {name.casefold()}" for name in tables if name]
        self._people = {name.casefold() for name in _whoever_runs_this()}

    def find(self, text: str) -> str | None:
        """The first name of an image or patient, or folder, that a text holds; None where it holds none."""
        folded: str = text.casefold()
        for folder in self._folders:
            if folder in folded:
                return folder
        tokens: list[str] = _TOKEN.findall(folded)
        for token in tokens:
            stripped = token.rstrip(".")
            for one in (token, stripped, stripped.rpartition("/")[2]):
                if one in self._names or _IMAGE_FILE.fullmatch(one):
                    return one
        return next((phrase for phrase in self._phrases if phrase in folded), None)

    def is_clean(self, text: str) -> bool:
        """Whether a sentence names no file, patient, folder, user or machine."""
        tokens = {token.rstrip(".") for token in _TOKEN.findall(text.casefold())}
        is_path = any(token.startswith(("/", "~", "\\")) or re.match(r"[a-z]:[\\/]", token) for token in tokens)
        names_table = any(name in f" {text.casefold()}" for name in self._tables)
        is_file = names_table or any(
            _NUMBERED.fullmatch(token) or (_FILE.fullmatch(token) and token not in _FILES_OF_RUNS) for token in tokens
        )
        return self.find(text) is None and not is_path and not is_file and not tokens & self._people


def _whoever_runs_this() -> Iterable[str]:
    """Names of the user and of the machine."""
    with suppress(Exception):  # a container may have no name for its user
        yield getpass.getuser()
    yield socket.gethostname()
    with suppress(RuntimeError):
        yield Path.home().name

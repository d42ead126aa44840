"""Finds text that could identify patients, files or the person who trained a run."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

LEAST_CHARACTERS = 4
"""Shortest patient name to search for; shorter ones occur in any text."""

_TOKEN = re.compile(r"[^\s'\"`|,;:()\[\]<>*]+")

_IMAGE_FILE = re.compile(r"\S+\.(png|jpe?g|jpe|jfif|tiff?|bmp|webp|dcm|dicom|dic|gif|jp2|nii|gz)")
"""Names of image files, including files that are not in the run, such as those in no row of its table."""

_FILE = re.compile(r"\S+\.[a-z][a-z0-9]{1,8}")

_NUMBERED = re.compile(r"(?=.*[a-z])\S+/\S*\d\S*")
"""A relative path of a file without a suffix, such as images/IM0001."""

_FILES_OF_RUNS = frozenset((
    "config.yaml", "history.csv", "labels.json", "metrics.json", "model.safetensors", "report.html", "run.json",
    "split.csv",
))  # fmt: skip
"""Names of files that reveal nothing about the data."""


class Identifiers:
    """Names that must not be published.

    Args:
        images: names of images, as relative paths.
        patients: names or pseudonyms of patients. Names that are too short to search for are counted in `short`.
        folders: absolute paths.
        tables: names of the files or folders that labels were read from. Only `is_clean` looks for them, because such a
            sentence may also name columns; in other text they may be ordinary words.
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
        # Names that are not a single token.
        self._phrases = [name for name in self._names if not _TOKEN.fullmatch(name)]
        self._folders = [str(folder).casefold() for folder in folders if len(str(folder)) > 1]
        self._tables = [f" {name.casefold()}" for name in tables if name]
        self._people = {name.casefold() for name in _whoever_runs_this()}

    def find(self, text: str) -> str | None:
        """Return the first name of an image, patient or folder in a text; None if there is none."""
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
        """Whether a sentence contains no name of a file, patient, folder, user or machine."""
        tokens = {token.rstrip(".") for token in _TOKEN.findall(text.casefold())}
        is_path = any(token.startswith(("/", "~", "\\")) or re.match(r"[a-z]:[\\/]", token) for token in tokens)
        names_table = any(name in f" {text.casefold()}" for name in self._tables)
        is_file = names_table or any(
            _NUMBERED.fullmatch(token) or (_FILE.fullmatch(token) and token not in _FILES_OF_RUNS) for token in tokens
        )
        return self.find(text) is None and not is_path and not is_file and not tokens & self._people


def _whoever_runs_this() -> Iterable[str]:
    """Yield the names of the user and the machine."""
    with suppress(Exception):  # the user may have no name in a container
        yield getpass.getuser()
    yield socket.gethostname()
    with suppress(RuntimeError):
        yield Path.home().name

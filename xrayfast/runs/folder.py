"""What runs and evaluations have in common: a folder, which is found from any working folder."""

from __future__ import annotations

from pathlib import Path

from xrayfast.display.overview import HasOverview


class Folder(HasOverview):
    """A folder of files that are read when they are needed."""

    def __init__(self, path: Path) -> None:
        self._given = path
        self._working_folder = None if path.is_absolute() else Path.cwd()

    @property
    def path(self) -> Path:
        """The folder, as it was given; an absolute path if the working folder has changed since."""
        started = self._working_folder
        return self._given if started is None or started == Path.cwd() else started / self._given


class PathInFolder:
    """The path of a file or folder in a Folder, as an attribute of its class."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: Folder, kind: object = None) -> Path:
        """Return the path."""
        return folder.path / self.name

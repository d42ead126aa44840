"""Find the image files that a user names: files, folders, archives, shards, addresses and patterns."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from xrayfast.data.images.reader import IMAGE_SUFFIXES, is_image
from xrayfast.data.sources.datasets.webdataset import expand_shards, is_shard_pattern
from xrayfast.data.sources.folder_tree import hidden_images, is_hidden, walk
from xrayfast.data.sources.tables import is_table
from xrayfast.errors import DataError
from xrayfast.files.file_names import require_utf8
from xrayfast.files.virtual.addresses import identity, split_archive
from xrayfast.files.virtual.near_names import near_names
from xrayfast.files.virtual.paths import VirtualPath, to_path

_NOT_IN_ARCHIVES = " Patterns match only files on disk: give an archive, or a folder or file in it."


def find_images(sources: Sequence[Path | str]) -> tuple[list[str], list[str], list[str]]:
    """Find the files to predict on, in input order and without duplicates; files of a folder are sorted by name.

    A file that is named or matches a pattern is used whatever its suffix, unless that of a table. In folders and
    archives only files that satisfy `is_image` are used.

    Returns:
        The files; the files that are left out because they are hidden images or not images; and files that are given
        more than once, possibly with different spellings of the path.

    Raises:
        DataError: a source matches nothing, or a name is not UTF-8.
    """
    found, left_out, repeated, tables = dict[str, str](), dict[str, None](), dict[str, None](), dict[str, None]()
    for source in map(str, sources):
        inside, listed = dict[str, str](), len(tables)
        for text in _expand(source):
            if (path := to_path(text)).is_dir():
                files, hidden = _files_in(path)
                inside |= {identity(file): file for file in files if is_image(file)}
                left_out.update(dict.fromkeys(file for file in files if not is_image(file)))
                left_out.update(dict.fromkeys(hidden_images(hidden)))
            elif is_table(text) and not is_image(text):
                tables[text] = None
            else:
                inside.setdefault(identity(text), text)
        if not inside and len(tables) == listed:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"{source}: contains no images; expected files that end in {suffixes}.")
        for key, file in inside.items():
            if key in found:
                repeated[file] = None
            found.setdefault(key, file)
    require_utf8(found.values())
    if tables and not found:
        table, *_ = tables
        raise DataError(
            f"{table}: is a table, judging from its name; expected images, or folders of images. "
            f"'xrayfast evaluate RUN {table}' predicts the images that a table of labels lists."
        )
    left_out.update(tables)
    if not found:
        raise DataError("No files to predict on: expected image files, folders or patterns.")
    others = [file for file in left_out if identity(file) not in found]
    return list(found.values()), others, list(repeated)


def _expand(source: str) -> list[str]:
    """Expand a source: itself if it exists, the shards of a brace pattern, or the matches of a glob pattern."""
    paths = list(expand_shards(Path(source))) if is_shard_pattern(source) else [to_path(source)]
    missing = [path for path in paths if not (path.exists() or path.is_symlink())]
    if not missing:
        return [str(path) if isinstance(path, VirtualPath) else source for path in paths]
    is_pattern = bool(set("*?[") & set(source))
    if matches := sorted(glob.glob(source, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute patterns
        return matches
    hint = near_names(missing[0]) if not is_pattern else _NOT_IN_ARCHIVES if split_archive(source) else ""
    hint += "" if missing[0].suffix or hint else " It is not a run's folder either, which would contain run.json."
    what = "no file matches this pattern" if is_pattern else "no such file or folder"
    raise DataError(f"{missing[0]}: {what}.{hint}")


def _files_in(folder: Path) -> tuple[list[str], list[str]]:
    """Return all files of a folder, an archive or a bucket, sorted by name, and its hidden files or folders."""
    if isinstance(folder, VirtualPath):
        hidden: list[str] = []
        return [entry.path for entry in walk(folder, hidden=hidden)], hidden
    files = sorted(str(path) for path in folder.rglob("*") if not path.is_dir())
    shown = [file for file in files if not any(map(is_hidden, Path(file).relative_to(folder).parts))]
    return shown, sorted({*files} - {*shown})

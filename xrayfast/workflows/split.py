"""Split a data set once, for many runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xrayfast.config import Config
from xrayfast.data.manifest import Manifest, open_manifest
from xrayfast.errors import DataError
from xrayfast.files import write_csv
from xrayfast.workflows.data import decode
from xrayfast.workflows.leaks import sound


def split(
    data: Manifest | None = None,
    *,
    config: Config | None = None,
    output: Path | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Manifest:
    """Settle which image stands in which part, as `fit` does: patients and duplicates are never divided.

    Args:
        data: a Manifest from `open_data`; by default what `config` says.
        config: settings; its `size` is that of the pictures compared.
        output: a CSV file to write, with the columns image, patient, split and labels; `split_file` replays it.
        progress: called with what is being done, the images done and the images in all.

    Returns:
        The manifest with its final parts.

    Raises:
        DataError: the data can't be used, images can't be read, or a given split has leaks.
        WriteError: the file can't be written.
    """
    config = config or Config()
    if output is not None and not Path(output).absolute().parent.is_dir():
        raise DataError(f"{output}: there is no folder {Path(output).absolute().parent} to write it to.")
    data = data if data is not None else open_manifest(config.data)
    pictures = decode(data, config.model.size, progress)
    data, _ = sound(data, pictures, allow_leaks=False, progress=progress)
    if output is not None:
        write_csv(Path(output), data.split_table())
    return data

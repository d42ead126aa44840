"""Nothing is written where it was not meant to be."""

import sys

import pytest

from xrayfast.errors import RunError
from xrayfast.files.writable import ensure_folder


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions and symbolic links")
@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_folder_that_is_a_link_is_refused(tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "figures").symlink_to(tmp_path / target)
    with pytest.raises(RunError, match=rf"figures: is a symbolic link, to .*{target}; expected a folder within"):
        ensure_folder(tmp_path / "figures")
    assert ensure_folder(tmp_path / "tables").is_dir() and ensure_folder(tmp_path / "tables")

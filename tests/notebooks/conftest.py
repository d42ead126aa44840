"""A real kernel, begun as tests/forking.py says."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from tests.forking import popen

SECONDS = 300
"""That a cell may take: a busy machine is no failure."""


QUICKLY = f"""
%matplotlib inline
import os, pytest, sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})  # before a package "tests" of others
import xrayfast.learning.fastai_api
from fastai.callback import progress
from fastprogress.fastprogress import NBMasterBar, NBProgressBar
progress.master_bar, progress.progress_bar = NBMasterBar, NBProgressBar
from tests.conftest import add_tiny_resnet, draw_one_pixel
add_tiny_resnet()
draw_one_pixel(pytest.MonkeyPatch())
os.fsync = lambda descriptor: None
"""
"""A cell before all others: matplotlib and fastprogress, where they were imported before the kernel began, show what
they do in one; "tiny_resnet" is a backbone, figures of files are of one pixel, and no file waits for the disk.
"""


@contextlib.contextmanager
def forked_kernels():
    """Kernels that Jupyter starts meanwhile are copies of this process, which has imported fastai."""
    import xrayfast.learning.fastai_api  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jupyter_client.launcher.Popen", popen)
        yield


def environment(folder):
    """That of a kernel which reads and leaves nothing outside of a folder, and chooses matplotlib's backend itself."""
    own = {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    return {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | own


class Kernel:
    """Runs cells in one kernel.

    Attributes:
        client: nbclient's, of a notebook with all cells so far.
        folder: the kernel's working folder.
    """

    def __init__(self, client, folder):
        self.client, self.folder = client, folder

    def run(self, source):
        """The outputs of a cell."""
        return asyncio.run(self._run(source))

    def interrupt(self, source, ready):
        """The outputs of a cell that is interrupted, as by the stop button, once `ready` returns True."""

        async def both():
            running = asyncio.ensure_future(self._run(source))
            while not ready() and not running.done():
                await asyncio.sleep(0.02)
            await self.client.km.interrupt_kernel()
            return await running

        return asyncio.run(both())

    async def _run(self, source):
        from nbformat.v4 import new_code_cell

        cells = self.client.nb.cells
        cells.append(new_code_cell(source))
        await self.client.async_execute_cell(cells[-1], len(cells) - 1)
        return cells[-1].outputs


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A fresh Kernel; errors are outputs of cells, as a person sees them."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_notebook

    folder = tmp_path_factory.mktemp("notebook")
    client = NotebookClient(
        new_notebook(), timeout=SECONDS, allow_errors=True, resources={"metadata": {"path": str(folder)}}
    )
    with forked_kernels(), client.setup_kernel(env=environment(folder)):
        yield Kernel(client, folder)

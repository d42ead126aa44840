"""A real kernel, started as tests/forking.py describes."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from tests.forking import popen

SECONDS = 300
"""Limit per cell, and for the start of a kernel; long enough for a busy machine."""


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
"""A cell that runs before all others.

matplotlib and fastprogress behave as in a notebook although they were imported before the kernel started;
"tiny_resnet" is a backbone, figure files have one pixel, and fsync does nothing.
"""


@contextlib.contextmanager
def forked_kernels():
    """Within the block, Jupyter's kernels are forks of this process, which has imported fastai."""
    import xrayfast.learning.fastai_api  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jupyter_client.launcher.Popen", popen)
        yield


def environment(folder):
    """Return the environment of a kernel that keeps its files in `folder` and chooses matplotlib's backend itself."""
    own = {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    return {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | own


class Kernel:
    """Runs cells in one kernel.

    Attributes:
        client: the nbclient of a notebook with all cells so far.
        folder: the working folder of the kernel.
    """

    def __init__(self, client, folder):
        self.client, self.folder = client, folder

    def run(self, source):
        """Run a cell and return its outputs."""
        return asyncio.run(self._run(source))

    def interrupt(self, source, ready):
        """Run a cell, interrupt it as by the stop button once `ready` returns True, and return its outputs."""

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
    """A new Kernel; errors are outputs of cells, as a user sees them."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_notebook

    folder = tmp_path_factory.mktemp("notebook")
    client = NotebookClient(
        new_notebook(),
        timeout=SECONDS,
        startup_timeout=SECONDS,
        allow_errors=True,
        resources={"metadata": {"path": str(folder)}},
    )
    with forked_kernels(), client.setup_kernel(env=environment(folder)):
        yield Kernel(client, folder)

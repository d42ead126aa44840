import io

import pytest
from PIL import Image


@pytest.fixture
def quick(monkeypatch):
    """Figures of one pixel, for tests of everything else."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    monkeypatch.setattr("xrayfast.report.blocks.png_bytes", lambda figure, transparent: buffer.getvalue())

"""Decode images in separate processes in these tests, as in real use."""

import pytest

from xrayfast.data.cache.decode_pool import _Pool


@pytest.fixture(scope="module", autouse=True)
def _decoding_in_processes(decoding_in_this_process):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Pool, "_start_process", decoding_in_this_process)
        yield

import pytest

from tests.hub.server import TOKEN, serving


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local Hub to which huggingface_hub is logged in, with its own cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with serving() as (server, address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server

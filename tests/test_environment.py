"""Environment variables that are misspelled, or that other packages refuse on import."""

import pytest
from typer.testing import CliRunner

import xrayfast as xf
from xrayfast.cli import app
from xrayfast.cli.commands import models
from xrayfast.errors import environment


@pytest.fixture
def unwarned():
    environment.warn_of_unread_variables.cache_clear()
    yield
    environment.warn_of_unread_variables.cache_clear()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("XRAYFAST_CACH", "Did you mean XRAYFAST_CACHE?"),
        ("XRAYFAST_PASWORD", "Did you mean XRAYFAST_PASSWORD?"),
        ("XRAYFAST_DATA_DIR", "xrayfast reads XRAYFAST_CACHE and XRAYFAST_PASSWORD."),
    ],
)
def test_an_unknown_variable_is_named_once_with_the_nearest_known_one(monkeypatch, unwarned, name, expected):
    monkeypatch.setenv(name, "x")
    monkeypatch.setenv("XRAYFAST_FAULTS_SEED", "1")
    with pytest.warns(UserWarning, match=name) as warned:
        assert xf.Config() and environment.warn_of_unread_variables() is None
        environment.warn_of_unread_variables()
    assert [str(one.message) for one in warned] == [f"The environment variable {name} has no effect. {expected}"]


def test_the_command_line_names_it_too(monkeypatch, unwarned, tmp_path):
    monkeypatch.setenv("XRAYFAST_CACH", str(tmp_path))
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0 and done.stderr.count("XRAYFAST_CACH has no effect") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_only_rank_zero_names_it(monkeypatch, unwarned, rank):
    for name, value in (("RANK", rank), ("WORLD_SIZE", 2), ("MASTER_ADDR", "a"), ("MASTER_PORT", 29500)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("XRAYFAST_CACH", "x")
    assert CliRunner().invoke(app, ["models"]).stderr.count("no effect") == 1 - rank


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TORCH_LOGS", "nonsense", "Invalid log settings: nonsense, must be a comma separated list"),
        ("TORCH_COMPILE_DEBUG", "x", "invalid literal for int() with base 10: 'x'"),
        ("PYTORCH_JIT", "2", "Unknown setting of PYTORCH_JIT. Try using 0 or 1."),
    ],
)
def test_an_error_on_import_names_the_environment_variable_behind_it(monkeypatch, tmp_path, name, value, said):
    package = tmp_path / "site-packages" / "torchlike"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise ValueError({said!r})")
    (package.parent / "importer.py").write_text("import torchlike")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(models, "Output", lambda *args: __import__("importer"))
    alone = CliRunner().invoke(app, ["models"])
    assert "bug in xrayfast" in alone.stderr
    monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 1 and "bug" not in done.stderr
    assert "torchlike can't be imported" in done.stderr and f"{name}={value}." in done.stderr


def test_a_missing_package_is_not_blamed_on_an_environment_of_its_name(monkeypatch, tmp_path):
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "importer.py").write_text("import torchless")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    monkeypatch.setenv("CONDA_DEFAULT_ENV", "torchless")
    with pytest.raises(ModuleNotFoundError, match="torchless") as raised:
        __import__("importer")
    assert environment.blame_environment(raised.value) == ""

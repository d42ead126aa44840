"""`fit --resume auto` resumes the run of the given name, or starts it if there is none."""

import shutil

import pytest
from typer.testing import CliRunner

from tests.conftest import INTERVALS, SMALL
from xrayfast.cli.app import app
from xrayfast.errors import ConfigError, RunError
from xrayfast.workflows.begun import find_begun


@pytest.fixture
def begun(tiny_run, tmp_path):
    shutil.copytree(tiny_run.path, tmp_path / "a")
    return tmp_path


def test_a_run_with_the_same_settings_is_found_by_name(tiny_run, begun):
    config = tiny_run.config
    assert find_begun(begun, "b", config) is None
    assert find_begun(begun, "a", config).path == begun / "a"
    for change, message in (
        ({"epochs": 9}, "epochs is 9, but .*a was started with 1, and a run keeps its settings"),
        ({"arch": "resnet34"}, "arch is resnet34, but"),
        ({"resamples": 7}, "resamples is 7"),
        ({"test_fraction": 0.5}, "test_fraction is 0.5, but .* started with 0.2"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_begun(begun, "a", config.updated(change))
    (begun / "c").mkdir()
    with pytest.raises(RunError):
        find_begun(begun, "c", config)


def test_resume_auto_says_that_a_run_is_complete_and_names_wrong_options(data_dir, begun):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in (SMALL | INTERVALS).items()]
    words += ["fit", str(data_dir), "--runs", str(begun), "--resume", "auto", "--unfreeze", "--test-fraction", "0.2"]
    words = [*words[len(SMALL) :], *words[: len(SMALL)], "--epochs", "1"]
    done = CliRunner().invoke(app, [*words, "--name", "a"])
    assert done.exit_code == 0 and "a is complete: there is nothing to resume" in done.output, done.output
    done = CliRunner().invoke(app, [*words, "--name", "a", "--lr", "1"])
    assert done.exit_code == 2 and "was started with 0.002, and a run keeps its settings" in done.output.replace(
        "\n", " "
    )
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "auto resumes the run of --name" in done.output.replace("\n", " ")

"""A cross-validation that is killed at random moments resumes to the same bytes."""

import signal

import numpy as np
import pytest

import xrayfast as xf
from tests.faults.campaign import SEED, conclude, rounds, size_of
from tests.faults.test_kills import TINY
from tests.faults.victims import Victims, timed
from tests.workflows.test_cross_validate import bytes_of

KILLS = size_of("fold_kills", 10)
OPTIONS = "--folds 3 --test-fraction 0.2 --epochs 2"
SHARED = {1: ["--unfreeze", "--freeze-epochs", "1", "--members", "2"], 2: ["--augment", "off"]}
"""Per number of jobs: each fold trains all layers of two networks (1), or they share features of frozen layers (2)."""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cross_validation_killed_at_any_moments_resumes_to_the_same_bytes(data_dir, tmp_path, jobs):
    """Each run is killed once or several times in a row, also while it resumes.

    With two jobs, every second kill is of all processes; the others are of the main process alone, after which the
    processes of the folds end by themselves.
    """
    victims = Victims(tmp_path)
    victims.run("warm", "--version")
    at_once = [] if jobs == 1 else ["--jobs", jobs]
    words = ["cross-validate", data_dir, *TINY.split(), *OPTIONS.split(), *SHARED[jobs], *at_once, "--runs", "runs"]
    seconds = timed(victims, "whole", *words, "--name", "whole")
    whole = xf.CrossValidation(tmp_path / "runs" / "whole")
    expected, files = bytes_of(whole), {path.relative_to(whole.path) for path in whole.path.rglob("*")}
    rng, wrong, moments, kills = np.random.default_rng(SEED), [], [], 0
    for _ in rounds(KILLS):
        if kills >= KILLS:
            break
        name = f"kill{kills}"
        folder = tmp_path / "runs" / name
        for _ in range(int(rng.integers(1, 4))):
            begun = (folder / "cross_validation.json").exists()
            command = ["cross-validate", "--resume", folder, *at_once] if begun else [*words, "--name", name]
            after = float(rng.uniform(0, seconds))
            *_, running = victims.strike(name, signal.SIGKILL, after, *command, children=jobs > 1 and kills % 2 == 1)
            moments.append(len(list(folder.glob("fold*"))) if running else "ended")
            kills += 1
        begun = (folder / "cross_validation.json").exists()
        command = ["cross-validate", "--resume", folder, *at_once] if begun else [*words, "--name", name]
        code, output = victims.run(name, *command)
        if code and "there is nothing to resume" not in output:
            wrong.append(f"{name}: exit {code}: {output[-600:]}")
            continue
        found = bytes_of(xf.CrossValidation(folder))
        wrong += [f"{name}: {file} differs" for file in expected if found.get(file) != expected[file]]
        there = {path.relative_to(folder) for path in folder.rglob("*")}
        wrong += [f"{name}: {file} is left over or missing" for file in there ^ files]
    conclude(kills, max(KILLS, kills), f"kills of {jobs} folds at once (begun at each: {moments})", wrong)
    assert len(set(moments)) > min(3 - jobs, len(moments) - 1)  # with two jobs both folds begin at once

"""Training that is killed or stopped at random moments resumes to the same bytes, with any options."""

import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import xrayfast as xf
from tests.faults.campaign import SEED, conclude, rounds, size_of
from tests.faults.victims import Victims, timed
from xrayfast.workflows.steps import training

KILLS, SIGNALS = size_of("kills", 50), size_of("signals", 14)
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

TINY = "--size 40 --arch resnet18 --weights none --batch-size 8 --device cpu --precision fp32 --resamples 100 --seed 7"
OPTIONS = [
    "--epochs 3",
    "--epochs 2 --unfreeze --freeze-epochs 1",
    "--epochs 2 --unfreeze --freeze-epochs 0 --optimizer sgd --lr 0.01",
    "--epochs 2 --unfreeze-layers 3 --train-metrics final",
    "--epochs 2 --unfreeze --gradual-unfreeze 1",
    "--epochs 3 --unfreeze --freeze-epochs 0 --progressive 32,40",
    "--epochs 3 --reuse-frozen off --tta",
    "--epochs 3 --frozen-views 2 --head mlp",
    "--epochs 6 --unfreeze --early-stop 1 --loss focal",
    "--epochs 2 --no-cache --test-fraction 0.2",
    "--epochs 1 --unfreeze --members 2",
]
OTHER = {"run.json", "checksums.txt", "model_card.md", "claim.md"}
"""Files with times, or with checksums of such files."""


def bytes_of(run: Path) -> dict[str, bytes]:
    """Return the files that must be equal, without the times in history and metrics; and the notes on the data."""
    runs = [xf.Run(file.parent) for file in sorted(run.rglob("run.json"))]
    found = {"data_notes": repr([one.info.data_notes for one in runs]).encode()}
    for path in (path for path in run.rglob("*") if path.is_file() and path.name not in OTHER):
        lines = path.read_bytes().splitlines()
        if path.name == "history.csv":
            lines = [line.rsplit(b",", 1)[0] for line in lines]
        elif path.name == "metrics.json":
            lines = [line for line in lines if b'"seconds"' not in line]
        found[path.relative_to(run).as_posix()] = b"\n".join(lines)
    return found


@pytest.fixture(scope="module")
def campaign(data_dir, tmp_path_factory):
    """A process starter and, per set of options, the command, its seconds and the files of an undisturbed run."""
    victims = Victims(tmp_path_factory.mktemp("kills"))
    victims.run("warm", "--version")
    whole = {}
    for i, options in enumerate(OPTIONS):
        words = ["fit", data_dir, *TINY.split(), *options.split(), "--runs", "runs"]
        seconds = timed(victims, f"whole{i}", *words, "--name", f"whole{i}")
        whole[i] = words, seconds, bytes_of(victims.folder / "runs" / f"whole{i}")
    return victims, whole


def go_on(victims: Victims, name: str, words: list[object]) -> tuple[int, str]:
    """Resume a run, or start it again if it had not begun."""
    run = victims.folder / "runs" / name
    if not (run / "split.csv").exists():
        return victims.run(name, *words, "--name", name)
    code, output = victims.run(name, "fit", "--resume", run)
    return (0, "") if "there is nothing to resume" in output else (code, output)


def harm(victims: Victims, name: str, expected: dict[str, bytes]) -> list[str]:
    """Return the differences from the undisturbed run: changed, missing and leftover files."""
    run = victims.folder / "runs" / name
    found = bytes_of(run)
    wrong = [f"{file} differs or is missing" for file, content in expected.items() if found.get(file) != content]
    wrong += [f"{path} is missing" for path in OTHER if not (run / path).is_file()]
    return wrong + [f"{file} is left over" for file in found.keys() - expected.keys()]


def write_in_thread():
    """Write checkpoints while the next epoch trains, as on CUDA."""
    training.writes_in_thread = lambda device: True


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [None, write_in_thread])
def test_training_killed_at_any_moment_resumes_to_the_same_bytes(campaign, prepare, monkeypatch):
    victims, whole = campaign
    monkeypatch.setattr(victims, "prepare", prepare)
    rng, wrong, moments = np.random.default_rng([SEED, prepare is None]), [], Counter()
    for kill in rounds(KILLS):
        words, seconds, expected = whole[kill % len(OPTIONS)]
        name, after = f"{'thread' if prepare else 'kill'}{kill}", float(rng.uniform(0, seconds * 1.05))
        _code, _output, running = victims.strike(name, signal.SIGKILL, after, *words, "--name", name)
        run = victims.folder / "runs" / name
        moments["ended" if not running else "training" if [*run.rglob("history.csv")] else "before"] += 1
        where = f"{name} after {after:.2f} s of {seconds:.2f}, {OPTIONS[kill % len(OPTIONS)]}"
        code, output = go_on(victims, name, words)
        if code or "Traceback" in output or "defect" in output:
            wrong.append(f"{where}: exit {code}: {output[-600:]}")
        else:
            wrong += [f"{where}: {what}" for what in harm(victims, name, expected)]
    done = moments.total()
    conclude(done, KILLS, f"kills ({dict(moments)})", wrong)
    assert moments["training"] > done / 10


@pytest.mark.slow
def test_training_stopped_by_a_signal_says_how_to_resume_and_resumes(campaign):
    victims, whole = campaign
    rng, wrong, ended = np.random.default_rng([SEED, 1]), [], Counter()
    for i in rounds(SIGNALS):
        number = list(CODES)[i % len(CODES)]
        words, seconds, expected = whole[i % len(OPTIONS)]
        name, after = f"signal{i}", float(rng.uniform(0, seconds))
        code, output, running = victims.strike(name, number, after, *words, "--name", name)
        what, options = signal.Signals(number).name, OPTIONS[i % len(OPTIONS)]
        where = f"{name}: {what} after {after:.2f} s of {seconds:.2f}, {options}"
        run = victims.folder / "runs" / name
        ended[code] += 1
        completed = code == 0 and (not running or "Run:" in output)
        unborn = code == -number and not output  # killed before the command line started
        if (code != CODES[number] and not completed and not unborn) or "Traceback" in output:
            wrong.append(f"{where}: exit {code}: {output[-600:]}")
            continue
        if code and (run / "split.csv").exists() and (status := xf.Run(run).info.status) != "completed":
            if status != "interrupted":
                wrong.append(f"{where}: status {status}")
            if "fit --resume" not in output:
                wrong.append(f"{where}: no line says how to resume: {output[-300:]}")
        code, output = go_on(victims, name, words)
        if code:
            wrong.append(f"{where}: exit {code} of the second command: {output[-600:]}")
        else:
            wrong += [f"{where}: {what}" for what in harm(victims, name, expected)]
    conclude(ended.total(), SIGNALS, f"signals (exit codes {dict(ended)})", wrong)

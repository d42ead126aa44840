"""The examples of the contributing page work when applied to a copy of the package."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

import xrayfast as xf
from tests import forking

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "examples" / "guide" / "contributing.md"
COMMANDS = (
    "xrayfast fit --arch mobilenet_v3_small --unfreeze-blocks 2",
    "xrayfast fit --task multi --loss poly",
    "xrayfast compare runs/ --order informedness_macro",
    "xrayfast split lakeside/ -o split.csv",
)
TESTS = (
    "tests/learning/model/test_losses.py",
    "tests/metrics/test_registry.py",
    "tests/metrics/intervals/test_resampled_metrics.py",
    "tests/test_guide.py::test_the_pages_list_every_backbone_loss_and_dataset",
)

SCRIPT = """
import json, os, sys
# What is here before, where the process is a copy of this one: see forking.py.
for name in [name for name in sys.modules if name.partition(".")[0] in ("xrayfast", "tests")]:
    del sys.modules[name]
import pytest
import torch
from torch.nn import functional as F
import xrayfast as xf
from xrayfast.cli import app
from xrayfast.learning.model.losses import make_loss
assert xf.__file__.startswith(os.getcwd()), xf.__file__

def run(line):
    try:
        app(line.split()[1:], prog_name="xrayfast")
    except SystemExit as end:
        assert not end.code, line

small = " --weights none --size 32 --batch-size 8 --epochs 1 --workers 0 --device cpu --precision fp32 --resamples 50"
commands = json.loads(sys.argv[1])
run(commands[0] + small + " --labels data/labels.csv")
run(commands[1] + small + " --labels data/labels.csv --name poly")
run(commands[2] + " --json --resamples 20")
run("xrayfast models --json")
tests = [name for name in sys.argv[2:] if not pytest.main([name, "-q", "-p", "no:cacheprovider"])]
data = xf.open_data("lakeside")
logits, target = torch.randn(6, 2), torch.randint(2, (6, 2)).float()
target[0, 0] = torch.nan
x, y = logits[~target.isnan()], target[~target.isnan()]
expected = F.binary_cross_entropy_with_logits(x, y) + F.l1_loss(x.sigmoid(), y)
assert torch.allclose(make_loss("poly", "multi")(logits, target), expected)
run(commands[3])
print(json.dumps({"labels": data.labels, "task": data.task, "notes": data.notes, "passed": tests,
                  "patients": int(data.table["patient"].nunique())}), file=sys.stderr)
"""


def apply(page, root):
    """Apply the diff blocks of the page, each to the file named last before the block."""
    file = None
    files = r"`((?:xrayfast|tests|examples)/[\w/]+\.(?:py|md))`"
    for name, block in re.findall(rf"{files}|^```diff\n(.*?)^```", page, flags=re.S | re.M):
        if name:
            file = root / name
            continue
        lines = block.splitlines()
        assert not re.search("^-", block, flags=re.M), f"{file}: would conflict with any other addition\n{block}"
        if all(line.startswith("+") for line in lines):
            assert not file.exists(), file
            file.write_text("".join(f"{line[1:]}\n" for line in lines), encoding="utf-8")
            continue
        # Lines of a list may be one line in the file, such as the values of a Literal.
        there = [line for line in lines if not line.startswith("+")]
        pattern = "".join(rf"(\s*(?<!\w){re.escape(line.strip())})" for line in there)
        text = file.read_text(encoding="utf-8")
        places = list(re.finditer(pattern, text))
        assert len(places) == 1, f"{file}: expected once\n{block}"
        found, groups = places[0], iter(places[0].groups())
        added = "".join(f"\n{line[1:]}" if line.startswith("+") else next(groups) for line in lines)
        file.write_text(text[: found.start()] + added + text[found.end() :], encoding="utf-8")


def copy(root):
    """Copy the files that the page changes and the tests that it names, with their bytecode."""
    for name in ("xrayfast", "tests", "examples/guide"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("old_runs"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root)


def test_the_examples_apply_beside_others_that_were_added_at_the_same_places(tmp_path):
    copy(tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    apply(re.sub(r"mobilenet_v3|[pP]oly|nformedness|akeside", r"\g<0>_other", page), tmp_path)
    apply(page, tmp_path)
    for path in tmp_path.rglob("*.py"):
        before, text = ROOT / path.relative_to(tmp_path), path.read_text(encoding="utf-8")
        if not before.is_file() or text != before.read_text(encoding="utf-8"):
            compile(text, path, "exec")


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A folder with the changed package and data, and the output of a script that ran in it."""
    root = tmp_path_factory.mktemp("changed")
    copy(root)
    apply(PAGE.read_text(encoding="utf-8"), root)
    xf.synth(root / "data", images=36, size=64, seed=3, multi_label=True)
    xf.synth(root / "made", images=12, size=64, seed=4)
    (root / "lakeside" / "scans").mkdir(parents=True)
    scans = [f"P{i // 2}_{i % 2}" for i in range(12)]
    for scan, file in zip(scans, sorted(root.glob("made/*/*.png")), strict=True):
        file.rename(root / "lakeside" / "scans" / f"{scan}.png")
    flags = {"Eff": [1, None, 0] * 4, "Cardio": [0, 1] * 6}
    pd.DataFrame({"ScanID": scans, **flags}).to_csv(root / "lakeside" / "lakeside.csv", index=False)
    words = [sys.executable, "-c", SCRIPT, json.dumps(COMMANDS), *TESTS]
    done = forking.run(words, cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root, done.stdout, done.stderr


def test_the_page_shows_the_commands_that_are_run_here():
    page = PAGE.read_text(encoding="utf-8")
    assert all(command in page for command in COMMANDS)


def test_the_new_backbone_is_listed_and_trains_block_by_block(changed):
    root, out, _ = changed
    row = re.search(r'\{[^{}]*"mobilenet_v3_small"[^{}]*\}', out)
    assert json.loads(row[0])["blocks"] == ["stem", "stage1", "stage2", "stage3", "stage4"]
    run = xf.Run(root / "runs" / "mobilenet_v3_small-1")
    assert run.info["status"] == "completed"
    assert run.config.train.unfreeze_blocks == 2


def test_the_new_loss_trains(changed):
    run = xf.Run(changed[0] / "runs" / "poly")
    assert run.info["status"] == "completed"
    assert "loss: poly" in (run.path / "config.yaml").read_text()


def test_the_new_metric_is_in_metrics_json_with_its_interval_and_in_compare(changed):
    root, out, _ = changed
    metrics = json.loads((root / "runs" / "poly" / "metrics.json").read_text())["valid"]
    for label in metrics["per_label"]:
        if label["recall"] is not None and label["specificity"] is not None:
            assert label["informedness"] == pytest.approx(label["recall"] + label["specificity"] - 1)
    assert "informedness_macro" in metrics["overall"]
    assert "informedness_macro" in metrics["intervals"]["overall"]
    assert '"informedness_macro"' in out  # compare --json


def test_the_tests_that_the_page_names_pass(changed):
    assert json.loads(changed[2].strip().splitlines()[-1])["passed"] == list(TESTS)


def test_the_new_data_set_is_recognized(changed):
    root, _, err = changed
    found = json.loads(err.strip().splitlines()[-1])
    assert sorted(found["labels"]) == ["Cardiomegaly", "Effusion"]
    assert found["task"] == "multi"
    assert found["patients"] == 6
    assert any("Lakeside" in note for note in found["notes"])
    split = pd.read_csv(root / "split.csv")
    assert len(split) == 12
    assert (split.groupby("patient")["split"].nunique() == 1).all()

"""The script that compares recipes trains missing runs only; its table pairs runs by fold and seed."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

RECIPES = Path(__file__).resolve().parents[1] / "examples" / "recipes"


@pytest.fixture
def script(monkeypatch):
    """Run a script of examples/recipes and return its globals."""
    monkeypatch.syspath_prepend(RECIPES)  # as Python does for a script
    return lambda name: runpy.run_path(str(RECIPES / f"{name}.py"))


def test_each_recipe_can_be_named_on_the_command_line(script):
    names = list(script("recipes")["RECIPES"])
    assert script("run")["options"](["DATA", "--recipes", ",".join(names)]).recipes == names


@pytest.mark.slow
def test_each_recipe_is_trained_once(script, data_dir, tmp_path, monkeypatch, capsys):
    run = script("run")["main"]
    out = tmp_path / "recipes.jsonl"
    words = [
        str(data_dir),
        "--weights",
        "none",
        "--size",
        "32",
        "--epochs",
        "1",
        "--fold",
        "2",
        "--patient-col",
        "none",
    ]
    words += ["--device", "cpu", "--batch-size", "8", "--out", str(out), "--scratch", str(tmp_path)]
    run([*words, "--recipes", "0.6 + bn inference,fastai"])
    first = out.read_text()
    ours, theirs = map(json.loads, first.splitlines())
    assert [ours["recipe"], theirs["recipe"]] == ["0.6 + bn inference", "fastai"]
    assert len(ours["valid"]["right"]) == len(theirs["valid"]["right"]) == 7  # both are of the same fold
    for row in (ours, theirs):
        phases, accuracies = ([epoch[name] for epoch in row["history"]] for name in ("phase", "accuracy"))
        assert phases == ["head", "all"]
        assert [row["last_head"], row["first_unfrozen"]] == accuracies
        kept = row["history"][row["best_epoch"] - 1]
        assert (
            row["valid"]["accuracy"]
            == pytest.approx(np.mean(row["valid"]["right"]))
            == pytest.approx(kept["accuracy"], abs=1e-4)
        )
        assert row["valid"]["auroc"] == pytest.approx(kept["auroc"], abs=1e-4)
    assert not [path for path in tmp_path.iterdir() if path != out]  # runs are removed
    capsys.readouterr()
    run([*words, "--recipes", "0.6 + bn inference,fastai"])
    assert (out.read_text(), capsys.readouterr().out) == (first, "")
    script("table")["main"]([str(out), "--reference", "fastai"])
    assert "| 0.6 + bn inference | 1 |" in capsys.readouterr().out


def row(recipe, fold, seed, right, fall=0.0):
    valid = {"accuracy": float(np.mean(right)), "auroc": 0.9, "right": right}
    return {"recipe": recipe, "fold": fold, "seed": seed, "size": 64, "valid": valid, "seconds": 3,
            "last_head": 0.5, "first_unfrozen": 0.5 + fall}  # fmt: skip


def test_the_table_pairs_runs_by_fold_and_seed(script, tmp_path, capsys):
    rows = [row("default", 1, 0, [1, 0, 0, 1]), row("default", 2, 0, [0, 0, 1, 1])]
    rows += [row("a", 1, 0, [1, 1, 0, 1], -0.1), row("a", 2, 0, [1, 0, 1, 1], 0.2), row("a", 3, 0, [0, 0, 0, 0])]
    out = tmp_path / "recipes.jsonl"
    out.write_text("".join(json.dumps(line) + "\n" for line in rows))
    main = script("table")["main"]
    main([str(out)])
    table = capsys.readouterr().out.splitlines()
    # Fold 3 counts for the mean but has no pair. 2 of the 8 paired images differ by 1, so resamples are binomial.
    low, high = binom.ppf([0.025, 0.975], 8, 2 / 8) / 8
    pairs = f"+0.250 ({low:+.3f} to {high:+.3f}) | -0.100 to +0.200"
    assert table[3].startswith(f"| a | 3 | 0.750 0.750 0.000 | 0.500 | 0.900 | {pairs} |")
    assert table[2].startswith("| default | 2 | 0.500 0.500 | 0.500 | 0.900 |  | +0.000 to +0.000 |")
    main([str(out), "--fold", "1,2"])
    assert "| a | 2 | 0.750 0.750 | 0.750 |" in capsys.readouterr().out
    out.write_text(json.dumps(rows[0] | {"first_unfrozen": None}))  # of a run that trained only the head
    main([str(out)])
    assert capsys.readouterr().out.splitlines()[2].startswith("| default | 1 | 0.500 | 0.500 | 0.900 |  |  |")
    with pytest.raises(SystemExit, match="no such runs of b; it has default"):
        main([str(out), "--reference", "b"])
    with pytest.raises(SystemExit, match="no such file"):
        main([str(tmp_path / "absent.jsonl")])


def test_the_table_is_of_one_size_and_split(script, tmp_path, capsys):
    rows = [row("default", 1, 0, [1, 0]) | {"size": size, "split": split} for size in (64, 128) for split in "ab"]
    out = tmp_path / "recipes.jsonl"
    out.write_text("".join(json.dumps(line) + "\n" for line in rows))
    main = script("table")["main"]
    with pytest.raises(SystemExit, match=r"differ in split; .* add --only 'split=a' or --only 'split=b'"):
        main([str(out)])
    with pytest.raises(SystemExit, match="differ in size"):
        main([str(out), "--only", "split=a"])
    main([str(out), "--only", "split=a", "--only", "size=64"])
    assert "| default | 1 |" in capsys.readouterr().out
    for wrong in ("size", "color=1"):
        with pytest.raises(SystemExit):
            main([str(out), "--only", wrong])
        assert "expected one of data, split, size" in capsys.readouterr().err


def test_metrics_are_scikit_learn_s(script):
    metrics = script("run")["metrics"]
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 2, (50, 3)), rng.random((50, 3))
    truth[:9, 0] = -1  # masked
    known = [truth[:, i] >= 0 for i in range(3)]
    expected = np.mean([roc_auc_score(truth[k, i], scores[k, i]) for i, k in enumerate(known)])
    assert metrics(truth, scores, "multi")["auroc"] == pytest.approx(expected)
    classes = rng.integers(0, 3, 50)
    found = metrics(classes, scores, "single")  # as fastai gives them
    assert found["auroc"] == pytest.approx(roc_auc_score(np.eye(3)[classes], scores))
    assert found["accuracy"] == pytest.approx((scores.argmax(1) == classes).mean())


def test_an_unknown_recipe_is_a_usage_error(script, capsys):
    with pytest.raises(SystemExit) as caught:
        script("run")["main"](["data", "--recipes", "default,bset"])
    assert caught.value.code == 2
    assert "no such recipe: bset" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script("run")["main"](["data", "--processes", "0"])
    assert "--processes is 0; expected 1 or more" in capsys.readouterr().err

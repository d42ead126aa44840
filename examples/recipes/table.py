"""Make the table of recipes from the results of `run.py`, with differences paired by fold and seed.

    python examples/recipes/table.py recipes.jsonl --reference default --fold 1,2,3 --only size=224 --only batch_size=32

Means are over runs. Intervals are 95% bootstrap intervals over images, with the same resamples for both recipes; if a
recipe has several seeds, the mean over them counts for each image. An interval describes these training runs only:
the variation between seeds is in the spread of the runs, not in the interval. All runs of a table have the same data
set, split, size, batch size and number of epochs.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]

ALIKE = ("data", "split", "size", "batch_size", "epochs")
"""Fields that all runs of a table must share, so that fold 1 has the same images in each of them."""


def main(words: list[str] | None = None) -> None:
    args = options(words)
    if not args.results.is_file():
        raise SystemExit(f"{args.results}: no such file; expected the lines that run.py writes.")
    lines = [json.loads(line) for line in args.results.read_text(encoding="utf-8").splitlines()]
    lines = [row for row in lines if not args.fold or row["fold"] in args.fold]
    lines = [row for row in lines if all(str(row.get(key)) == value for key, value in args.only)]
    for key in ALIKE:
        if len(found := sorted({str(row.get(key)) for row in lines})) > 1:
            chosen = " or ".join(f"--only '{key}={value}'" for value in found)
            raise SystemExit(f"{args.results} has runs that differ in {key}; expected one table's: add {chosen}.")
    rows: dict[str, Rows] = defaultdict(list)
    for row in lines:
        rows[row["recipe"]].append(row)
    if args.reference not in rows:
        raise SystemExit(f"{args.results} has no such runs of {args.reference}; it has {', '.join(rows) or 'none'}.")
    print(table(rows, args.reference, args.split))


def table(rows: dict[str, Rows], reference: str, split: str) -> str:
    """Return the table as Markdown, the best mean accuracy first."""
    head = "| recipe | runs | accuracy by fold | mean | AUROC | less {} | after unfreezing less head | seconds |"
    lines = [head.format(reference), "|---|---|---|---|---|---|---|---|"]
    for name in sorted(rows, key=lambda name: -mean(rows[name], split, "accuracy")):
        of_recipe = rows[name]
        by_fold = defaultdict(list)
        for row in sorted(of_recipe, key=lambda row: row["fold"]):
            by_fold[row["fold"]].append(row[split]["accuracy"])
        folds = " ".join(f"{np.mean(values):.3f}" for values in by_fold.values())
        around = [(row["last_head"], row["first_unfrozen"]) for row in of_recipe]
        falls = [after - head for head, after in around if None not in (head, after)]
        lines.append(
            f"| {name} | {len(of_recipe)} | {folds} | {mean(of_recipe, split, 'accuracy'):.3f} "
            f"| {mean(of_recipe, split, 'auroc'):.3f} | {difference(of_recipe, rows[reference], split)} "
            f"| {f'{min(falls):+.3f} to {max(falls):+.3f}' if falls else ''} "
            f"| {np.mean([row['seconds'] for row in of_recipe]):.0f} |"
        )
    return "\n".join(lines)


def mean(rows: Rows, split: str, metric: str) -> float:
    return float(np.mean([row[split][metric] for row in rows]))


def difference(rows: Rows, reference: Rows, split: str, resamples: int = 2000) -> str:
    """Return the mean difference of accuracy over the folds and seeds that both have, with its interval, as text."""
    ours, theirs = ({(row["fold"], row["seed"]): row[split]["right"] for row in side} for side in (rows, reference))
    pairs = sorted(ours.keys() & theirs.keys())
    if rows is reference or not pairs:
        return ""
    by_fold = defaultdict(list)
    for pair in pairs:
        by_fold[pair[0]].append(np.subtract(ours[pair], theirs[pair]))
    images = np.concatenate([np.mean(seeds, axis=0) for seeds in by_fold.values()])
    rng = np.random.default_rng(0)
    drawn = images[rng.integers(len(images), size=(resamples, len(images)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{images.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=Path("recipes.jsonl"), metavar="FILE")
    parser.add_argument("--reference", default="default", help="recipe that the others are compared with (default)")
    parser.add_argument("--fold", type=lambda text: [int(fold) for fold in text.split(",")], help="of these folds only")
    parser.add_argument(
        "--only", type=pair, action="append", default=[], metavar="KEY=VALUE",
        help=f"runs that have this, such as size=224; of: {', '.join(ALIKE)}",
    )  # fmt: skip
    parser.add_argument("--split", choices=["valid", "test"], default="valid")
    return parser.parse_args(words)


def pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if key not in ALIKE or not value:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected one of {', '.join(ALIKE)}, '=' and its value")
    return key, value


if __name__ == "__main__":
    main()

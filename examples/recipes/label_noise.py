"""Measure how many of the labels that `review` ranks first are wrong, after making some wrong on purpose.

    python examples/recipes/label_noise.py DATA --arch resnet18,vgg16 --weights imagenet,vgg16.pth --seed 0,1,2

The images of DATA have one class each. A share of the labels is replaced by another class, drawn with equal
probability. A cross-validation by patient is trained on them for each architecture, and all are reviewed together.
Labels that were wrong before count as right, so the precision is a lower bound.

For comparison, the output has the precision of single architectures and of cleanlab's other scores. It also has the
share of the correct labels ranked first that the networks confuse with another class of `--alike`: these are confusions
of the networks, not errors of the ranking.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd
from cleanlab.rank import get_label_quality_scores

import xrayfast as xf

SCORES = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")


def main() -> None:
    args = options()
    rows = [measure(args, seed) for seed in args.seed]
    table = pd.DataFrame(rows)
    print(table.set_index("seed").T.assign(mean=table.drop(columns="seed").mean()).to_string(float_format="%.3f"))


def measure(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Replace labels, train, review, and return the results as one row."""
    data = xf.open_data(args.data, labels=args.labels, patient_col=args.patient_col)
    rng, table = np.random.default_rng(seed), data.table[["image", "patient", "labels"]].copy()
    if args.classes:
        table = table[table["labels"].isin(args.classes)].reset_index(drop=True)
    classes = sorted(set(table["labels"]))
    wrong = rng.choice(len(table), round(args.share * len(table)), replace=False)
    for row in wrong:
        near = args.alike if args.apart and table.loc[row, "labels"] in args.alike else [table.loc[row, "labels"]]
        table.loc[row, "labels"] = rng.choice([name for name in classes if name not in near])
    args.runs.mkdir(parents=True, exist_ok=True)
    file = args.runs / f"flipped{seed}.csv"
    table.rename(columns={"labels": "label"}).to_csv(file, index=False)
    flipped = xf.open_data(
        args.data.absolute(), labels=file.absolute(), label_col="label",
        patient_col="patient" if table["patient"].notna().any() else "none",
    )  # fmt: skip
    settings = {"size": args.size, "epochs": args.epochs, "augment": args.augment, "unfreeze": args.unfreeze}
    settings |= {"folds": args.folds, "repeats": args.repeats, "resamples": 0, "seed": seed, "runs": args.runs}
    weights = args.weights * (len(args.arch) if len(args.weights) == 1 else 1)
    pairs = list(zip(args.arch, weights, strict=True))
    cvs = [xf.cross_validate(flipped, arch=arch, weights=path, **settings) for arch, path in pairs]
    found = xf.review(cvs)
    is_wrong = found.ranked["image"].isin(set(table["image"].iloc[wrong]))
    first, proposed = math.ceil(args.share * len(table)), found.ranked["is_proposed"]
    predictions = [cv.out_of_fold for cv in cvs]
    images, truth = predictions[0].images, predictions[0].truth.argmax(1)
    mean = np.mean([one.probability for one in predictions], axis=0)  # all have the same folds, so the same order
    wrong_there = np.isin(images, table["image"].iloc[wrong])
    others = {}
    for arch, cv in zip(args.arch, cvs, strict=True) if len(cvs) > 1 else ():
        alone = xf.review(cv).ranked["image"][:first]
        others[f"{arch} alone"] = alone.isin(set(table["image"].iloc[wrong])).mean()
    for score, adjust in [(score, adjust) for score in SCORES for adjust in (False, True)]:
        if not (adjust and score == "confidence_weighted_entropy"):  # cleanlab does not support this combination
            p = mean / mean.sum(1, keepdims=True)
            quality = get_label_quality_scores(truth, p, method=score, adjust_pred_probs=adjust)
            order = np.argsort(quality, kind="stable")[:first]
            others[f"{score}{', adjusted' if adjust else ''}"] = wrong_there[order].mean()
    right = found.ranked[:first][~is_wrong[:first]]
    return {
        "seed": seed,
        "accuracy": (mean.argmax(1) == truth).mean(),
        "first": first,
        "precision of the first": is_wrong[:first].mean(),
        **others,
        "alike among others": (right["given"].isin(args.alike) & right["proposed"].isin(args.alike)).mean(),
        "proposals": proposed.sum(),
        "precision of proposals": is_wrong[proposed].mean(),
        "recall of proposals": proposed[is_wrong].mean(),
    }


def names(text: str) -> list[str]:
    """Split a comma-separated list."""
    return text.split(",")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--labels", type=Path, help="table (CSV) of image paths and labels")
    parser.add_argument("--patient-col", metavar="COLUMN", help="of patients in the table")
    parser.add_argument("--classes", type=names, help="use images of these classes alone")
    parser.add_argument("--alike", type=names, default=[], help="classes that are confused without wrong labels")
    parser.add_argument("--apart", action="store_true", help="labels of --alike are not replaced by one another")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are made wrong (0.05)")
    parser.add_argument("--seed", type=lambda text: list(map(int, text.split(","))), default=[0], help="(0)")
    parser.add_argument("--folds", type=int, default=5, help="(5)")
    parser.add_argument("--repeats", type=int, default=1, help="(1)")
    parser.add_argument("--arch", type=names, default=["resnet18"], help="one, or several with commas (resnet18)")
    parser.add_argument("--weights", type=names, default=["imagenet"], help="of all, or of each (imagenet)")
    parser.add_argument("--size", type=int, default=64, help="(64)")
    parser.add_argument("--epochs", type=int, default=10, help="(10)")
    parser.add_argument("--augment", default="off", help="(off)")
    parser.add_argument("--unfreeze", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs/label_noise"), help="folder of the runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()

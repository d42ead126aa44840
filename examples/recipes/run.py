"""Train recipes on the same folds, one line of JSON per run.

    python examples/recipes/run.py DATA --recipes default,fastai --fold 1,2,3 --seed 0 --size 128
    python examples/recipes/run.py DATA --patient-col none ...    # folds drawn by image, as most papers do
    python examples/recipes/table.py recipes.jsonl                # the table

Started again, it trains only the runs that are missing in the file. Each run validates on one of --folds; with
--test-fraction it is also tested on images that are in no fold. Choose recipes on some folds, and report on others.
"""

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from fastai.vision import all as fv
from recipes import BASE, FASTAI, RECIPES, settings
from sklearn.metrics import roc_auc_score
from torchvision import models

import xrayfast as xf


def main(words: list[str] | None = None) -> None:
    args = options(words)
    done = {key(line) for line in read(args.out)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    jobs = [
        (args, job)
        for seed in args.seed
        for name in args.recipes
        for fold in args.fold
        if key(job := job_of(args, name, fold, seed)) not in done
    ]
    if args.processes == 1:
        keep(map(train, jobs), args.out)
        return
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        keep((task.result() for task in as_completed([pool.submit(train, job) for job in jobs])), args.out)


def job_of(args: argparse.Namespace, name: str, fold: int, seed: int) -> dict[str, Any]:
    """Return the fields that identify a run."""
    job = {"recipe": name, "data": args.data.name, "split": split_name(args), "fold": fold, "seed": seed}
    return job | {"size": args.size, "batch_size": args.batch_size, "epochs": args.epochs}


def train(job: tuple[argparse.Namespace, dict[str, Any]]) -> dict[str, Any]:
    """Train one recipe on one fold, and return its row."""
    args, row = job
    began = time.perf_counter()
    way = fit_fastai if row["recipe"] == FASTAI else fit
    row = row | way(args, open_fold(args, row["fold"]), row["recipe"], row["seed"])
    return row | {"seconds": round(time.perf_counter() - began)}


def keep(rows: Iterable[dict[str, Any]], out: Path) -> None:
    """Append each result to `out` and print it as soon as it is there."""
    for row in rows:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        after, head = row["first_unfrozen"], row["last_head"]
        print(f"{row['recipe']}, fold {row['fold']}, seed {row['seed']}: {show(row['valid'])}, {row['seconds']} s; "
              f"accuracy after the head {head}, after unfreezing {after}", flush=True)  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("recipe", "data", "split", "fold", "seed", "size", "batch_size", "epochs")
    return tuple(row[name] for name in names)


def split_name(args: argparse.Namespace) -> str:
    by = "image" if args.patient_col == "none" else "patient"
    return f"{args.folds} folds by {by}" + (f", test {args.test_fraction:g}" if args.test_fraction else "")


def show(metrics: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items() if isinstance(value, float))


def open_fold(args: argparse.Namespace, fold: int) -> xf.Manifest:
    return xf.open_data(
        args.data.absolute(),
        labels=args.labels and args.labels.absolute(),
        patient_col=args.patient_col,
        test_fraction=args.test_fraction,
        folds=args.folds,
        fold=fold,
    )


def fit(args: argparse.Namespace, data: xf.Manifest, name: str, seed: int) -> dict[str, Any]:
    """Train with xrayfast; return the results of the epoch that the run keeps."""
    chosen, callback = settings(name)
    chosen = {"size": args.size, "seed": seed, "weights": args.weights, "allow_leaks": True} | given(args) | chosen
    folder = Path(tempfile.mkdtemp(dir=args.scratch))
    try:
        run = xf.fit(data, runs=folder, resamples=0, cbs=callback() if callback else (), progress=False, **chosen)
        of_task = "accuracy" if run.task == "single" else "subset_accuracy"
        columns = {"phase": "phase", "valid_loss": "valid_loss", "auroc": "valid_auroc_macro",
                   "accuracy": f"valid_{of_task}", "seconds": "seconds"}  # fmt: skip
        history = [{name: row[column] for name, column in columns.items()} for row in run.history.to_dict("records")]
        splits = {split: run.predictions(split) for split in run.predicted_splits}
        found = {split: metrics(p.truth, p.raw, run.task) for split, p in splits.items()}
        return found | {"best_epoch": run.info.best_epoch} | epochs(history)
    finally:
        shutil.rmtree(folder)


def fit_fastai(args: argparse.Namespace, data: xf.Manifest, name: str, seed: int) -> dict[str, Any]:
    """Train with fastai's documented recipe; return the results of the last epoch, which fastai keeps."""
    fv.set_seed(seed, reproducible=True)
    table, single = data.table, data.task == "single"
    table = table.assign(labels=table["labels"].str.replace("|", "\t")).query("split != 'test'")
    table = table.assign(is_valid=table["split"] == "valid")
    dls = fv.ImageDataLoaders.from_df(
        table[["path", "labels", "is_valid"]], path="/", label_col="labels", valid_col="is_valid",
        label_delim=None if single else "\t", item_tfms=fv.Resize(args.size), batch_tfms=fv.aug_transforms(),
        bs=args.batch_size or 32, num_workers=0, device=args.device,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    metric = fv.accuracy if single else fv.accuracy_multi
    auroc = fv.RocAuc() if single else fv.RocAucMulti()
    learn = fv.vision_learner(
        dls, getattr(models, BASE["arch"]), pretrained=args.weights == "imagenet", metrics=[metric, auroc]
    )  # fmt: skip
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(args.epochs or BASE["epochs"], cbs=Epochs(rows))
        found = {"valid": metrics(*reversed(learn.get_preds()), data.task)}
        test = data.table.query("split == 'test'")
        if len(test):
            truth = data.truth[(data.table["split"] == "test").to_numpy()]
            order = [data.labels.index(label) for label in dls.vocab]
            raw, _ = learn.get_preds(dl=dls.test_dl(test["path"].tolist()))
            found["test"] = metrics(truth[:, order], raw, data.task)
    return found | {"best_epoch": len(rows)} | epochs(rows)


class Epochs(fv.Callback):
    """Collects the results of each epoch. It runs after Recorder, which has the metrics."""

    order = 60

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def before_epoch(self):
        self.began = time.perf_counter()

    def after_epoch(self):
        _, valid_loss, accuracy, auroc = self.recorder.values[-1]
        row = {"phase": "head" if self.opt.frozen_idx else "all", "valid_loss": valid_loss, "auroc": auroc}
        self.rows.append(row | {"accuracy": accuracy, "seconds": time.perf_counter() - self.began})


def metrics(truth: Any, scores: Any, task: str) -> dict[str, Any]:
    """Return accuracy, whether each image is right, and macro AUROC over the labels with positives and negatives."""
    truth, scores = np.asarray(truth), np.asarray(scores)
    if truth.ndim == 1:  # class indices, from fastai
        truth = np.eye(scores.shape[1], dtype=int)[truth]
    right = scores.argmax(1) == truth.argmax(1) if task == "single" else ((scores > 0.5) == (truth == 1)).all(1)
    labels = [i for i in range(truth.shape[1]) if len(set(truth[truth[:, i] >= 0, i])) == 2]
    known = truth >= 0
    aurocs = [roc_auc_score(truth[known[:, i], i], scores[known[:, i], i]) for i in labels]
    return {"accuracy": float(right.mean()), "auroc": float(np.mean(aurocs)), "right": right.astype(int).tolist()}


def epochs(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the history, and the accuracy before and after layers are unfrozen."""
    rounded = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in history]
    head = [row["accuracy"] for row in rounded if row["phase"] == "head"]
    after = [row["accuracy"] for row in rounded if row["phase"] != "head"]
    return {"last_head": head[-1] if head else None, "first_unfrozen": (after or [None])[0], "history": rounded}


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Return the command line's settings, which recipes may override."""
    found = {name: getattr(args, name) for name in ("epochs", "batch_size", "device") if getattr(args, name)}
    return BASE | found


def options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--labels", type=Path, help="table (CSV) of image paths and labels")
    parser.add_argument("--patient-col", metavar="COLUMN", help="of patients; none: folds are drawn by image")
    parser.add_argument("--test-fraction", type=float, default=0.0, help="of images in no fold, to test on (0)")
    parser.add_argument("--recipes", type=names, default=[*RECIPES, FASTAI], help=f"of: {', '.join(RECIPES)}, {FASTAI}")
    parser.add_argument("--folds", type=int, default=5, help="number of folds (5)")
    parser.add_argument("--fold", type=numbers, default=[1, 2, 3], help="which of them, as 1,2,3")
    parser.add_argument("--seed", type=numbers, default=[0], help="seeds, as 0,1,2")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, help="of recipes that set none")
    parser.add_argument("--epochs", type=int, help="of recipes that set none, after one of the head")
    parser.add_argument("--weights", default="imagenet", help="imagenet or none")
    parser.add_argument("--device", help="cpu or cuda")
    parser.add_argument("--processes", type=int, default=1, help="that train at a time, such as on one GPU (1)")
    parser.add_argument("--out", type=Path, default=Path("recipes.jsonl"))
    parser.add_argument("--scratch", type=Path, help="folder for the runs, which are removed once measured")
    args = parser.parse_args(words)
    if args.scratch:
        args.scratch.mkdir(parents=True, exist_ok=True)
    if args.processes < 1:
        parser.error(f"--processes is {args.processes}; expected 1 or more")
    unknown = set(args.recipes) - {*RECIPES, FASTAI}
    if unknown:
        parser.error(f"no such recipe: {', '.join(sorted(unknown))}")
    return args


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    try:
        main()
    except xf.XrayfastError as error:
        raise SystemExit(f"Error: {error}") from None

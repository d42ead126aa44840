"""The published experiments on your own data, as one command.

The student reports train ImageNet networks on chest radiographs that are not public, and vary which layers are trained,
the head, the optimizer and the loss. This script trains the same grid on DATA, prints the published tables with your
results and their intervals next to the published values, and writes one page with all curves and confusion matrices:

    python examples/published_grid.py DATA --two-classes                # normal against all other classes (infected)
    python examples/published_grid.py DATA --imply covid-19=pneumonia   # three labels
    python examples/published_grid.py DATA --optimizer all --list       # list all experiments, without training
    python examples/published_grid.py phantom --quick                   # minutes on a CPU; makes the data if missing
    python examples/published_grid.py DATA --cross-validate 5           # each experiment in five folds

It can be stopped or killed at any time. Run it again to keep what is done, continue what was interrupted, and train the
rest. For research and teaching, not for diagnosis.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from published.experiments import (
    DATA_NOT_THE_SAME,
    HEADS,
    LAYERS,
    LOSSES,
    OPTIMIZERS,
    PROTOCOL,
    PROTOCOLS,
    Experiment,
    experiments,
)
from published.page import page
from published.tables import cross_validation_table, fold_result, published_tables, result, test_predictions

import xrayfast as xf

ALL_LAYERS = list(dict.fromkeys(layers for of_head in LAYERS.values() for layers in of_head))


def main(words: list[str] | None = None) -> None:
    args = options(words)
    grid = experiments(args.arch, args.head, args.layers, args.optimizer, args.loss)
    if args.list or not grid:
        print(*(experiment.name for experiment in grid), f"{len(grid)} experiments", sep="\n")
        return
    try:
        if args.quick and not args.data.exists():
            xf.synth(args.data, images=120, size=64, seed=0)
        if args.quick and (args.data / "labels.csv").exists():  # this table has the patients
            args.labels = args.labels or args.data / "labels.csv"
        data = open_data(args)
        print(data.counts(), *data.notes, sep="\n")
        runs, skipped = {}, {}
        for i, experiment in enumerate(grid, 1):
            place = f"{i} of {len(grid)}: {experiment.name}"
            try:
                runs[experiment] = trained(args, data, experiment, place)
            except xf.XrayfastError as error:
                folder = args.runs / experiment.name
                if (folder / "run.json").exists() and xf.Run(folder).info.status == "interrupted":
                    raise
                skipped.setdefault(str(error), []).append(experiment.name)
                print(f"{place} is skipped. {error}", flush=True)
        if not runs:
            sys.exit("No experiment could be trained; the reasons are above.")
        (report_folds if args.cross_validate else report)(args, data, runs, skipped)
    except xf.XrayfastError as error:
        sys.exit(f"{error}\nStarted again, this goes on where it stopped.")


def open_data(args: argparse.Namespace) -> xf.Manifest:
    fraction = 0.2 if args.quick else 0.1  # the published split is 80/10/10
    options = {"labels": args.labels and args.labels.absolute(), "label_col": args.label_col, "imply": args.imply}
    options |= {"patient_col": args.patient_col, "valid_fraction": fraction, "test_fraction": fraction}
    if args.cross_validate:
        options |= {"valid_fraction": 0.2, "test_fraction": 0.0, "folds": args.cross_validate}
    data = xf.open_data(args.data.absolute(), **options)
    if not args.two_classes:
        return data
    if "normal" not in data.labels or len(data.labels) < 2:
        sys.exit(f"--two-classes merges all classes but 'normal'; found {', '.join(data.labels)}.")
    args.runs.mkdir(parents=True, exist_ok=True)
    merged = args.runs.absolute() / "two_classes.txt"
    merged.write_text("".join(f"infected = {label}\n" for label in data.labels if label != "normal"), encoding="utf-8")
    return xf.open_data(args.data.absolute(), label_map=merged, **options)


def trained(args: argparse.Namespace, data: xf.Manifest, experiment: Experiment, place: str) -> xf.Run:
    """Return the run of an experiment: train it, resume it, or take it as it is if complete."""
    settings = experiment.settings | {"arch": experiment.network, "size": args.size}
    settings["weights"] = args.weights.get(experiment.network, args.weights[""])
    if args.epochs:
        settings["epochs"] = args.epochs
    folder = args.runs / experiment.name
    if (folder / "split.csv").exists():
        run = (xf.CrossValidation if args.cross_validate else xf.Run)(folder)
        if run.config.updated(settings) != run.config or run.config.data != data.config:
            sys.exit(f"{folder}: was trained with other settings or on other data. Choose another folder with --runs.")
        if run.info.status == "completed":
            print(f"{place} is done")
            return run
        print(f"{place} goes on", flush=True)
        return (xf.resume_cross_validation if args.cross_validate else xf.resume)(run)
    if folder.exists():  # killed before training began: the folder contains only these files
        first = ("checksums.txt", "config.yaml", "run.json", "labels.json")
        for file in (*folder.glob(".*.tmp"), *(folder / known for known in first)):
            file.unlink(missing_ok=True)
        folder.rmdir()
    print(f"{place} is trained", flush=True)
    if args.cross_validate:
        folds = {"random_folds": args.random_folds, "name": experiment.name, "runs": args.runs}
        return xf.cross_validate(data, **folds, **settings)
    return xf.fit(data, name=experiment.name, runs=args.runs, **settings)


def report(
    args: argparse.Namespace, data: xf.Manifest, runs: dict[Experiment, xf.Run], skipped: dict[str, list[str]]
) -> None:
    """Print the tables; write the tables, the page and the test predictions."""
    results = pd.DataFrame([result(experiment, run) for experiment, run in runs.items()])
    completed = list(runs.values())
    tables = published_tables(results, completed)
    notes = notes_of(args, data, skipped)
    text = "\n\n".join([*(table.markdown() for table in tables), *notes])
    print(f"\n{text}\n")
    results.to_csv(args.runs / "published.csv", index=False)
    test_predictions(completed).to_csv(args.runs / "test_predictions.csv", index=False)
    (args.runs / "published.md").write_text(text + "\n", encoding="utf-8")
    title = f"The published experiments on {data.config.source.name}"
    (args.runs / "published.html").write_text(page(title, tables, notes, runs, data), encoding="utf-8")
    print(f"Written to {args.runs}: published.html, published.md, published.csv, test_predictions.csv")
    print(f"Paired differences: xrayfast compare {args.runs}; one experiment: xrayfast interpret {completed[0].path}")


def report_folds(
    args: argparse.Namespace,
    data: xf.Manifest,
    runs: dict[Experiment, xf.CrossValidation],
    skipped: dict[str, list[str]],
) -> None:
    """Print and write the table of cross-validations; each of them has its own page."""
    results = pd.DataFrame([fold_result(experiment, cv) for experiment, cv in runs.items()])
    table = cross_validation_table(results, data.task, by_image=args.random_folds)
    text = "\n\n".join([table.markdown(), *notes_of(args, data, skipped)])
    print(f"\n{text}\n")
    results.to_csv(args.runs / "cross_validated.csv", index=False)
    (args.runs / "cross_validated.md").write_text(text + "\n", encoding="utf-8")
    print(f"Written to {args.runs}: cross_validated.md, cross_validated.csv, and report.html of each experiment")


def notes_of(args: argparse.Namespace, data: xf.Manifest, skipped: dict[str, list[str]]) -> list[str]:
    """Return notes: the protocols of the published and of the new values, and what was not trained."""
    protocols = PROTOCOLS.get((data.task, len(data.labels)), ())
    notes = [f"[{protocol.mark}] {protocol.text}" for protocol in protocols]
    notes += [PROTOCOL.format(size=args.size), DATA_NOT_THE_SAME]
    return notes + [f"Not trained: {', '.join(names)}. {reason}" for reason, names in skipped.items()]


def options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("data"), metavar="DATA")
    parser.add_argument("--labels", type=Path, help="table (CSV) of image paths and labels")
    parser.add_argument("--label-col", default=(), metavar="COLUMN", help="of labels in the table")
    parser.add_argument("--patient-col", metavar="COLUMN", help="of patients in the table")
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument("--two-classes", action="store_true", help="normal, and all other classes as infected")
    classes.add_argument("--imply", action="append", default=[], metavar="A=B", help="as covid-19=pneumonia")
    parser.add_argument("--runs", type=Path, default=Path("runs/published"), help="folder of the runs and tables")
    parser.add_argument(
        "--quick", action="store_true", help="to try it: 64 px, random weights, 2 epochs, no own classifier"
    )
    parser.add_argument("--cross-validate", type=int, metavar="K", help="train each experiment in K folds")
    parser.add_argument("--random-folds", action="store_true", help="deal images and not patients into them")
    parser.add_argument("--list", action="store_true", help="print the experiments, and train nothing")
    several = {"action": "append", "default": []}
    parser.add_argument("--arch", **several, help="may be repeated, as all that follow (resnet18 and vgg16)")
    parser.add_argument("--head", **several, choices=sorted({head for _, head in HEADS}), help="(all)")
    parser.add_argument("--layers", **several, choices=ALL_LAYERS, help="the layers trained (all)")
    parser.add_argument("--optimizer", **several, choices=[*OPTIMIZERS, "all"], help="with rate and epochs (adam)")
    parser.add_argument("--loss", **several, choices=LOSSES, help="(both)")
    parser.add_argument(
        "--weights", **several, metavar="W", help="imagenet, none or a file; vgg16=FILE for one network"
    )
    parser.add_argument("--epochs", type=int, help="(6 with adam, 10 or 20 with sgd)")
    parser.add_argument("--size", type=int, help="side of the images in pixels (224)")
    args = parser.parse_args(words)
    if args.random_folds and not args.cross_validate:
        parser.error("--random-folds is for --cross-validate.")
    args.arch = args.arch or ["resnet18", "vgg16"]
    # The network's own classifier has 120 million weights: too many for a quick try.
    args.head = args.head or (["mlp"] if args.quick else sorted({head for _, head in HEADS}, reverse=True))
    args.optimizer = args.optimizer or ["adam"]
    args.optimizer = list(OPTIMIZERS) if "all" in args.optimizer else args.optimizer
    args.loss = args.loss or list(LOSSES)
    args.epochs = args.epochs or (2 if args.quick else None)
    args.two_classes |= args.quick and not args.imply
    args.size = args.size or (64 if args.quick else 224)
    named = [item.partition("=") if item.partition("=")[0] in args.arch else ("", "", item) for item in args.weights]
    args.weights = {"": "none" if args.quick else "imagenet"} | {network: found for network, _, found in named}
    return args


if __name__ == "__main__":
    main()

"""The published experiments on your own data, as one command.

Student reports train ImageNet networks on sets of chest radiographs that are not public, and vary which layers are
trained and the loss. This script trains the same grid on DATA and prints the published tables with your numbers and
their intervals beside the published ones:

    python examples/published_grid.py DATA                              # single-label
    python examples/published_grid.py DATA --imply covid-19=pneumonia   # multi-label
    python examples/published_grid.py phantom --quick                   # minutes on a CPU; made where missing

It can be stopped, or killed, at any time: started again it leaves what is done, goes on with what was interrupted and
trains the rest. For research and teaching, not for diagnosis.
"""

import argparse
import sys
from pathlib import Path

import xrayfast as xf

DEPTHS = {
    "head": {},
    "last block": {"unfreeze_blocks": 1},
    "last blocks": {"unfreeze_blocks": 2},  # of vgg16 the later half of its convolutions
    "all": {"unfreeze": True},
}
# The papers' focal loss has alpha = 1, which is no balancing: here alpha is left out.
LOSSES = {"plain": {"loss": "auto"}, "focal": {"loss": "focal", "gamma": 2.0}}
HEADS = {"resnet": (100,), "vgg": (500, 100)}
"""Hidden layers of the three-label experiments; the others have one linear layer."""

PUBLISHED_ACCURACY = {
    ("resnet18", "head"): 0.930, ("resnet18", "all"): 0.945,
    ("vgg16", "head"): 0.9306, ("vgg16", "last block"): 0.944, ("vgg16", "last blocks"): 0.9693,
    ("vgg16", "all"): 0.9493,
}  # fmt: skip
PUBLISHED_THREE_LABELS = {"subset_accuracy": "0.935 to 0.957", "f1_macro": "0.882 to 0.920"}
ABOUT_TWO_CLASSES = (
    "Published: accuracy on 1,500 radiographs of a set of 15,000 with two classes (infected, normal) that is not "
    "public; no intervals were given. A second report on such a set gives accuracy/F1 of 0.953/0.961, 0.973/0.978, "
    "0.925/0.938 and 0.968/0.973 for four networks. DarkCovidNet (Ozturk et al. 2020): accuracy 0.870 with three "
    "classes, 0.981 with two, on a set that is public."
)
ABOUT_THREE_LABELS = (
    "Published: the range of four experiments (resnet18 and vgg16, BCE and focal loss) on 628 radiographs of a set of "
    "7,457 with three labels, covid-19 implying pneumonia, that is not public; no intervals were given."
)
NOT_THE_SAME = (
    "These are other images than the published ones: the protocol is the same, and agreement or disagreement says as "
    "much about the data as about the networks."
)


def main(words: list[str] | None = None) -> None:
    args = options(words)
    try:
        if args.quick and not args.data.exists():
            xf.synth(args.data, images=120, size=64, seed=0)
        fraction = 0.2 if args.quick else 0.1  # the published split is 80/10/10
        data = xf.open_data(
            args.data.absolute(), labels=args.labels and args.labels.absolute(), imply=args.imply,
            valid_fraction=fraction, test_fraction=fraction,
        )  # fmt: skip
        print(data.counts(), *data.notes, sep="\n")
        grid = [(arch, depth, loss) for arch in args.arch for depth in args.depth for loss in args.loss]
        runs = [trained(args, data, *cell, f"{i} of {len(grid)}") for i, cell in enumerate(grid, 1)]
        comparison = xf.compare(runs, order="accuracy" if data.task == "single" else "subset_accuracy")
    except xf.XrayfastError as error:
        sys.exit(f"{error}\nStarted again, this goes on where it stopped.")
    report(args.runs, comparison, {run.path.name: cell for run, cell in zip(runs, grid, strict=True)})


def trained(args: argparse.Namespace, data: xf.Manifest, arch: str, depth: str, loss: str, place: str) -> xf.Run:
    """The run of one experiment: as it is where it is complete, else trained or resumed."""
    name = f"{arch}-{depth}-{loss}".replace(" ", "-")
    settings = {"arch": arch, "size": args.size, "epochs": args.epochs, "weights": args.weights, "seed": 0}
    settings |= {"optimizer": args.optimizer, "lr": args.lr, "batch_size": 8 if args.quick else 32}
    settings |= DEPTHS[depth] | LOSSES[loss]
    if data.task == "multi":
        settings["head_width"] = next((width for start, width in HEADS.items() if arch.startswith(start)), (100,))
    folder = args.runs / name
    if (folder / "split.csv").exists():
        run = xf.Run(folder)
        if run.config.updated(settings) != run.config or run.config.data != data.config:
            sys.exit(f"{folder}: was trained with other settings or on other data. Choose another folder with --runs.")
        if run.info["status"] == "completed":
            print(f"{place}: {name} is done")
            return run
        print(f"{place}: {name} goes on")
        return xf.resume(run)
    if folder.exists():  # killed before training began: it holds nothing but these
        for file in (*folder.glob(".*.tmp"), *(folder / known for known in ("config.yaml", "run.json", "labels.json"))):
            file.unlink(missing_ok=True)
        folder.rmdir()
    print(f"{place}: {name} is trained", flush=True)
    return xf.fit(data, name=name, runs=args.runs, **settings)


def report(folder: Path, comparison, cells: dict[str, tuple[str, str, str]]) -> None:
    """Print the table, and write it as published.csv and published.md, with the comparison of the runs beside it."""
    exact = "accuracy" if comparison.task == "single" else "subset_accuracy"
    table = comparison.table.set_index("run").loc[list(cells)].reset_index()
    published = [beside(comparison.task, *cells[run]) for run in table["run"]]
    for column, place in (("network", 0), ("trained", 1), ("loss", 2)):
        table[column] = [cells[run][place] for run in table["run"]]
    names = ["run", "network", "trained", "loss", "images", "patients"]
    columns = [name + end for name in (exact, "f1_macro") for end in ("", "_low", "_high")]
    table = table[names + columns]
    for name in (exact, "f1_macro"):
        table[f"{name}_published"] = [row[name] for row in published]
    table.to_csv(folder / "published.csv", index=False)
    lines = [["network", "trained", "loss", exact.replace("_", " "), "published", "F1, macro", "published"]]
    for row in table.to_dict("records"):
        shown = [f"{row[m]:.3f} ({row[m + '_low']:.3f} to {row[m + '_high']:.3f})" for m in (exact, "f1_macro")]
        other = [str(row[f"{m}_published"]) for m in (exact, "f1_macro")]
        lines.append([row["network"], row["trained"], row["loss"], shown[0], other[0], shown[1], other[1]])
    images = table["images"].iloc[0]
    title = f"{comparison.split} split, {images} images; 95 % intervals in brackets"
    about = ABOUT_TWO_CLASSES if comparison.task == "single" else ABOUT_THREE_LABELS
    text = "\n\n".join([title, markdown(lines), about, NOT_THE_SAME, *comparison.notes])
    (folder / "published.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")
    comparison.table.to_csv(folder / "comparison.csv", index=False)
    comparison.differences.to_csv(folder / "comparison-differences.csv", index=False)
    print(f"\nWritten to {folder}: published.md, published.csv, comparison.csv, comparison-differences.csv")
    print(f"All differences: xrayfast compare {folder}")


def beside(task: str, arch: str, depth: str, loss: str) -> dict[str, object]:
    """What was published for an experiment: the accuracy of single-label ones, ranges of multi-label ones."""
    if task == "multi":
        return PUBLISHED_THREE_LABELS
    known = PUBLISHED_ACCURACY.get((arch.removesuffix("_bn"), depth)) if loss == "plain" else None
    return {"accuracy": "–" if known is None else f"{known:.3f}", "f1_macro": "–"}


def markdown(lines: list[list[str]]) -> str:
    """A Markdown table, its columns aligned so that it reads as plain text too."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    rows = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in lines]
    return "\n".join(f"| {row} |" for row in rows)


def options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("data"), metavar="DATA")
    parser.add_argument("--labels", type=Path, help="table (CSV) of image paths and labels")
    parser.add_argument("--imply", action="append", default=[], metavar="A=B", help="as covid-19=pneumonia")
    parser.add_argument("--runs", type=Path, default=Path("runs/published"), help="folder of the runs and tables")
    parser.add_argument("--quick", action="store_true", help="to try it: 64 px, small networks from random weights")
    parser.add_argument("--arch", action="append", help="a network; may be repeated (resnet18 and vgg16)")
    parser.add_argument("--depth", action="append", choices=DEPTHS, help="what is trained; may be repeated (all four)")
    parser.add_argument("--loss", action="append", choices=LOSSES, help="may be repeated (both)")
    parser.add_argument("--epochs", type=int, help="after the first, of the head (6)")
    parser.add_argument("--size", type=int, help="side of the images in pixels (224)")
    parser.add_argument("--weights", choices=["imagenet", "none"])
    parser.add_argument("--optimizer", choices=["adam", "sgd"], default="adam", help="sgd has momentum 0.9")
    parser.add_argument("--lr", type=float, default=1e-3, help="the papers have 1e-3 and, with sgd, 1e-4")
    args = parser.parse_args(words)
    args.arch = args.arch or (["resnet18", "mobilenet_v2"] if args.quick else ["resnet18", "vgg16"])
    args.depth, args.loss = args.depth or list(DEPTHS), args.loss or list(LOSSES)
    args.epochs, args.size = args.epochs or 6, args.size or (64 if args.quick else 224)
    args.weights = args.weights or ("none" if args.quick else "imagenet")
    return args


if __name__ == "__main__":
    main()

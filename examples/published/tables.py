"""The published tables with your results and intervals added, as text, Markdown and HTML."""

from dataclasses import dataclass
from html import escape

import pandas as pd

import xrayfast as xf
from published.experiments import Experiment

HEADINGS = {
    "network": "network", "head": "head", "layers": "layers trained", "optimizer": "optimizer", "loss": "loss",
    "accuracy": "accuracy", "subset_accuracy": "subset accuracy", "f1_macro": "macro F1",
}  # fmt: skip
CONFUSION = {
    "single": "Rows of a matrix, separated by '/', are actual classes, columns predicted ones, in the order: {labels}.",
    "multi": "Of each label: images without it, predicted without and with it / images with it, in the same order.",
}


@dataclass(frozen=True)
class Table:
    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        """Return Markdown with aligned columns, which is also readable as plain text."""
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in lines]
        text = "\n".join(f"| {' | '.join(row)} |" for row in cells)
        return "\n\n".join(filter(None, (self.title, text, self.note)))

    def html(self) -> str:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.header)
        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        note = f"<p class=note>{escape(self.note)}</p>" if self.note else ""
        return f"<h2>{escape(self.title)}</h2><div class=wide><table><tr>{head}</tr>{rows}</table></div>{note}"


def exact_metric(task: str) -> str:
    """Return the name of the metric that counts images with every label right."""
    return "accuracy" if task == "single" else "subset_accuracy"


def result(experiment: Experiment, run: xf.Run) -> dict[str, object]:
    """Return the row of published.csv for an experiment."""
    exact = exact_metric(run.task)
    kept = run.history.set_index("epoch").loc[run.info.best_epoch]
    row = {"run": run.path.name} | vars(experiment) | {"epoch": run.info.best_epoch, "epochs": len(run.history)}
    row |= {
        f"train_{exact}": kept.get(f"train_{exact}"),
        "train_loss": kept["train_loss"],
        "valid_loss": kept["valid_loss"],
    }
    for split in run.predicted_splits:
        found = run.metrics[split]
        row |= {f"{split}_images": found["images"], f"{split}_patients": found.get("patients")}
        for metric in (exact, "f1_macro"):
            ends = found["intervals"]["overall"][metric]
            row |= {f"{split}_{metric}": found["overall"][metric]}
            row |= {f"{split}_{metric}_{end}": ends[end] for end in ("low", "high")}
    row |= {f"published_{metric}": value for metric, value in experiment.published(run.task, len(run.labels)).items()}
    return row | {"seconds": run.info.seconds}


def published_tables(results: pd.DataFrame, runs: list[xf.Run]) -> list[Table]:
    """Return the tables of training and validation, of the test split, and of the confusion matrices."""
    task, labels = runs[0].task, runs[0].labels
    exact = exact_metric(task)
    what, rows = HEADINGS[exact], results.to_dict("records")
    of = ["network", "head", "layers", "optimizer", "loss"]
    keys, names = [[str(row[name]) for name in of] for row in rows], [HEADINGS[name] for name in of]

    def images(split: str) -> str:
        people = rows[0][f"{split}_patients"]
        known = "patients not known" if people is None or pd.isna(people) else f"{people:.0f} patients"
        return f"{rows[0][f'{split}_images']:.0f} images, {known}"

    training = [
        [f"{row['epoch']} of {row['epochs']}", number(row[f"train_{exact}"]), number(row["train_loss"]),
         estimate(row, f"valid_{exact}"), number(row["valid_loss"]), row[f"published_{exact}"]]
        for row in rows
    ]  # fmt: skip
    header = ["epoch", f"train {what}", "train loss", f"validation {what}", "validation loss", "published"]
    tables = [Table(f"Training and validation ({images('valid')})", names + header, joined(keys, training))]
    test = [
        [
            cell
            for metric in (exact, "f1_macro")
            for cell in (estimate(row, f"test_{metric}"), row[f"published_{metric}"])
        ]
        for row in rows
    ]
    header = [what, "published", HEADINGS["f1_macro"], "published"]
    tables.append(Table(f"Test ({images('test')})", names + header, joined(keys, test)))
    matrices = [["; ".join(matrices_of(run, split)) for split in ("valid", "test")] for run in runs]
    note = CONFUSION[task].format(labels=", ".join(labels))
    tables.append(Table("Confusion matrices", [*names, "validation", "test"], joined(keys, matrices), note))
    return tables


def fold_result(experiment: Experiment, cv: xf.CrossValidation) -> dict[str, object]:
    """Return the row of cross_validated.csv for an experiment."""
    row = {"run": cv.path.name} | vars(experiment) | {"folds": cv.folds.folds}
    found = cv.metrics["valid"]
    row |= {"images": found["images"], "patients": found.get("patients")}
    for metric in (exact_metric(cv.task), "f1_macro"):
        ends, over_folds = found["intervals"]["overall"][metric], cv.metrics["spread"][metric]
        row |= {metric: found["overall"][metric], f"{metric}_low": ends["low"], f"{metric}_high": ends["high"]}
        row |= {f"{metric}_mean": over_folds["mean"], f"{metric}_sd": over_folds["sd"]}
    return row | {f"published_{name}": text for name, text in experiment.published(cv.task, len(cv.labels)).items()}


def cross_validation_table(results: pd.DataFrame, task: str, *, by_image: bool) -> Table:
    """Return a table with a row per experiment: out-of-fold metrics over all images, mean and standard deviation over
    folds, and the published value.
    """
    rows, exact = results.to_dict("records"), exact_metric(task)
    of = ["network", "head", "layers", "optimizer", "loss"]
    cells = [
        [
            cell
            for metric in (exact, "f1_macro")
            for cell in (estimate(row, metric), f"{number(row[f'{metric}_mean'])} ± {number(row[f'{metric}_sd'])}",
                         row[f"published_{metric}"])
        ]
        for row in rows
    ]  # fmt: skip
    header = [text for metric in (exact, "f1_macro") for text in (HEADINGS[metric], "mean of folds ± sd", "published")]
    note = (
        "Each image is predicted by a network that was not trained on it. The epoch of each network was chosen on the "
        "fold that it predicts, as in papers whose folds are validation folds, so the values are optimistic."
    )
    title = f"{rows[0]['folds']} folds by {'image' if by_image else 'patient, where patients are known'}"
    return Table(f"{title} ({rows[0]['images']} images)", [*(HEADINGS[name] for name in of), *header],
                 joined([[str(row[name]) for name in of] for row in rows], cells), note)  # fmt: skip


def joined(keys: list[list[str]], cells: list[list[str]]) -> list[list[str]]:
    return [[*key, *more] for key, more in zip(keys, cells, strict=True)]


def matrices_of(run: xf.Run, split: str) -> list[str]:
    """Return the confusion matrix of a split in one line; in a multi-label task one line per label."""
    found = run.metrics[split]
    if run.task == "single":
        return [in_one_line(found["confusion"])]
    return [f"{label} {in_one_line(counts)}" for label, counts in found["confusion_per_label"].items()]


def in_one_line(matrix: list[list[int]]) -> str:
    return " / ".join(" ".join(map(str, row)) for row in matrix)


def number(value: object) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.3f}"


def estimate(row: dict, name: str) -> str:
    return f"{number(row[name])} ({number(row[f'{name}_low'])} to {number(row[f'{name}_high'])})"


def test_predictions(runs: list[xf.Run]) -> pd.DataFrame:
    """Return a row per run and test image: actual and predicted labels, loss and probabilities."""
    tables = []
    for run in runs:
        table = interpretation(run, "test").top_losses_table().sort_values("image")
        table.insert(0, "run", run.path.name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def interpretation(run: xf.Run, split: str, paths=None) -> xf.RadiographInterpretation:
    """Return an interpretation of a split's saved predictions; with `paths` it can also show the images."""
    return xf.RadiographInterpretation(
        run.predictions(split), run.task, paths or {}, decision=run.decision, summary=run.metrics[split]
    )

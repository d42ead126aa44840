"""The HTML page of all experiments, a single self-contained file."""

import base64
import io
from collections import defaultdict
from html import escape
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import xrayfast as xf
from published.experiments import Experiment
from published.tables import Table, interpretation

SHOWN = 8
"""Number of test images shown per run, from the largest loss to the smallest."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
STYLE = """
:root { color-scheme: light }
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2430; background: #fff; max-width: 1180px; margin: 2em auto;
  padding: 0 1em }
h1 { margin-bottom: .2em } h2 { margin: 1.8em 0 .5em } .note { color: #5b6673; max-width: 60em }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
th, td { text-align: left; padding: .3em .7em; border-bottom: 1px solid #e3e7eb; white-space: nowrap }
th, figcaption { color: #5b6673 } img { max-width: 100%; height: auto; vertical-align: top } figure { margin: 1em 0 }
details { border-top: 1px solid #e3e7eb; padding: .5em 0 } summary { cursor: pointer; font-weight: 600 }
.side { display: flex; flex-wrap: wrap; gap: 1em } .side figure { flex: 0 1 auto; max-width: 48% }
"""


def page(title: str, tables: list[Table], notes: list[str], runs: dict[Experiment, xf.Run], data: xf.Manifest) -> str:
    """Return the page of the completed `runs`."""
    paths = dict(zip(data.table["image"], data.table["path"], strict=True))
    kinds = defaultdict(dict)
    for experiment, run in runs.items():
        kinds[experiment.network, experiment.head, experiment.optimizer, experiment.loss][experiment.layers] = run
    body = [
        f"<h1>{escape(title)}</h1><p class=note>For research and teaching, not for diagnosis.</p>",
        *(table.html() for table in tables),
        *(f"<p class=note>{escape(note)}</p>" for note in notes),
        "<p>Every test image by every experiment: <a href=test_predictions.csv>test_predictions.csv</a></p>",
        "<h2>Losses</h2><p class=note>Left the training loss of every batch, thin, and smoothed, thick; right the mean "
        "of each epoch, training dashed, validation solid. A ring is around the epoch that was kept.</p>",
        *(embedded(losses_figure(of_kind), ", ".join(kind)) for kind, of_kind in kinds.items()),
        "<h2>Each experiment</h2><p class=note>The loss of every batch, the confusion matrices, and predicted against "
        f"actual labels of {SHOWN} test images, evenly spaced from the largest loss to the smallest.</p>",
        *(run_section(experiment, run, paths) for experiment, run in runs.items()),
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def losses_figure(runs: dict[str, xf.Run]) -> Figure:
    """Plot the losses, by batch and by epoch, of runs that differ in the layers trained."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    by_batch, by_epoch = figure.subplots(1, 2)
    highest = 0.0
    for (layers, run), color in zip(runs.items(), cycle(COLORS), strict=False):
        batches, history = run.batches, run.history
        x = batches["epoch"] - 1 + batches["batch"] / batches.groupby("epoch")["batch"].transform("max")
        smoothed = batches["loss"].ewm(span=max(5, len(batches) / 30)).mean()
        highest = max(highest, 1.1 * smoothed.max())
        by_batch.plot(x, batches["loss"], color=color, linewidth=0.5, alpha=0.35)
        by_batch.plot(x, smoothed, color=color, linewidth=1.6, label=layers)
        for name, style in (("train_loss", "x--"), ("valid_loss", "o-")):
            by_epoch.plot(history["epoch"], history[name], style, color=color, linewidth=1.4, markersize=4)
        kept = history[history["epoch"] == run.info.best_epoch]
        by_epoch.plot(kept["epoch"], kept["valid_loss"], "o", markersize=10, markerfacecolor="none", color="#1c2430")
    for axes, name in ((by_batch, "training loss of each batch"), (by_epoch, "loss by epoch")):
        axes.set(xlabel="epoch", title=name)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e3e7eb")
    by_batch.set_ylim(0, highest)  # from the smoothed losses, because a single batch may be far above
    by_epoch.set_ylim(0, 1.05 * by_epoch.get_ylim()[1])
    by_batch.legend(frameon=False, fontsize=8, title="layers trained", title_fontsize=8)
    by_epoch.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def run_section(experiment: Experiment, run: xf.Run, paths: dict[str, str]) -> str:
    valid, test = interpretation(run, "valid"), interpretation(run, "test", paths)
    ranks = np.unique(np.linspace(0, len(test.predictions) - 1, SHOWN).round().astype(int)).tolist()
    matrices = "".join(
        embedded(found.plot_confusion_matrix(), f"{split} split, {len(found.predictions)} images")
        for split, found in (("validation", valid), ("test", test))
    )
    name = ", ".join((experiment.network, experiment.head, experiment.layers, experiment.optimizer, experiment.loss))
    return (
        f"<details><summary>{escape(name)}</summary><p class=note>Run {escape(run.path.name)}</p>"
        f"{embedded(run.plot_batches(), 'loss and learning rate of every batch')}<div class=side>{matrices}</div>"
        f"{embedded(test.plot_top_losses(ranks), 'test images')}</details>"
    )


def embedded(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    alt = escape(caption, quote=True)
    return f'<figure><figcaption>{alt}</figcaption><img alt="{alt}" src="data:image/png;base64,{data}"></figure>'

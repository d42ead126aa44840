"""Generate BENCHMARKS.md and its chart from the file of results."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import gpu, scenarios
from benchmarks.chart import bars
from benchmarks.explanations import EXPLANATIONS, OLDER_DATA
from benchmarks.results import Results
from benchmarks.scenarios import SCENARIOS, Options
from benchmarks.targets import TARGETS, Outcome, Row, Target, accuracies, epoch_seconds, spread

FIRST = 10
"""Number of targets in the first table of the page."""

INTRO = """This page compares xrayfast with fastai's documented recipe, torchvision's training loop, timm and the
compute-only limit of the machine, on the same images, split, network, weights, image size, batch size, epochs, threads
and seeds. `python examples/benchmarks` generates the page and its chart; do not edit them."""

CHART = """![Seconds of fastai and xrayfast for eight jobs](examples/images/benchmarks.svg)

The times run from the start of the process to its end and include imports, decoding (with an empty cache) and
validation. Bars are medians over rounds, and the lines on them range from the lowest to the highest value. The ratio of
the medians is in brackets."""

GPU = """Measured by `python examples/benchmarks --gpu` on phantoms, with resnet18 at 224 px and random weights; one
image in five is for validation. The time of an epoch is the median of all epochs but the first, and includes
validation. The limit is the faster of eager steps and CUDA graphs."""

METHOD = """Each measurement runs in its own process, in turn with the others on the same machine. It is timed from the
start of the process to its end and includes imports, decoding (with an empty cache) and the validation of every epoch.
The seed of a round is its index. fastai is used as its documentation shows (`Resize`, `aug_transforms()`,
`vision_learner`, `fine_tune` or `fit_one_cycle`, its default number of workers); torchvision and timm are training
loops like those in their references. Values are medians over rounds, with the lowest and highest in brackets. "PNG
originals" are the radiographs of `--data`, scaled to the given shorter side; phantoms are the images of `xrayfast
synth`. The last column of the tables gives time and commit, because some measurements were repeated later. A command
reuses what has been measured, and an interrupted one continues where it stopped."""

QUICK = (
    "**Made with --quick, which only tests that everything runs, on a few small images: no value on this page means "
    "anything.**"
)

DETAILS = """Accuracy is measured on the validation images after the last epoch, as the mean over rounds. Augmentations
and schedules are those of each tool, so the accuracies show that all of them learn, not which learns best. The limit is
xrayfast's network alone: forward, backward, optimizer and validation on batches held in memory, in the precision that
`--precision auto` chooses on this machine and in fp32. Its seconds are those of the steps, without imports. It computes
frozen layers in every epoch, so a contestant that caches their output can be faster. The seconds per epoch are the
median of the last phase without the run's first epoch, and include validation. Memory is the peak of what the process
and its workers hold together (sum of PSS, sampled up to four times per second)."""


def write(results: Results, path: Path, images: Path) -> None:
    """Write the page to `path`, and its chart into the folder `images`."""
    path.write_text(page(results), encoding="utf-8")
    images.mkdir(parents=True, exist_ok=True)
    (images / "benchmarks.svg").write_text(chart(results), encoding="utf-8")


def page(results: Results) -> str:
    """Return the page, which depends only on the results: it is the same on every machine."""
    quick = [QUICK] if any(begun["options"]["quick"] for begun in results.begun.values()) else []
    parts = ["# Benchmarks", *quick, INTRO]
    if not results.rows:
        parts.append("Nothing is measured yet.")
    parts += ["## The ten rows that matter first", _targets(results, TARGETS[:FIRST]), _summary(results), CHART]
    parts += ["## Further rows", _targets(results, TARGETS[FIRST:]), "## One GPU", GPU]
    parts += [
        gpu.published(),
        "## How it was measured",
        METHOD,
    ]
    parts += [*_where(results), "## Remarks on the rows", *_remarks(results), "## All measurements", DETAILS]
    for name, scenario in SCENARIOS.items():
        text = _details(results, name)
        if text:
            parts += [f"### {name}: {scenario.about}", text]
    return "\n\n".join(parts) + "\n"


def table(lines: list[list[str]]) -> str:
    """Return a Markdown table; the first line is the header."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _given(results: Results, scenario: str) -> Options:
    begun = results.begun.get(scenario)
    return Options(**begun["options"]) if begun else Options()


def _where(results: Results) -> list[str]:
    rows = list(results.rows.values())
    if not rows:
        return []
    lines = [["", ""]]
    for computer in _each(row["machine"] for row in rows):
        lines.append(["machine", ", ".join(f"{name} {value}" for name, value in computer.items())])
    for versions in _each(row["versions"] for row in rows):
        lines.append(["versions", ", ".join(f"{name} {value}" for name, value in versions.items())])
    when = sorted(row["when"] for row in rows)
    lines.append(["measured", _span_of_time(when)])
    commits = ", ".join(_each(row["commit"] or "none" for row in rows))
    lines.append(["commit", commits + (" (+: files changed since)" if "+" in commits else "")])
    lines.append(["images", ", ".join(_each(row.get("data", OLDER_DATA) for row in rows))])
    for command in _each(begun["command"] for begun in results.begun.values()):
        lines.append(["command", f"`{command}`"])
    return [table(lines)]


def _each(values: Any) -> list[Any]:
    """Return each distinct value once, in order of appearance."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _targets(results: Results, targets: Sequence[Target]) -> str:
    lines = [["what", "measured", "target", "met", "remarks under"]]
    for target in targets:
        outcome, met = _outcome(results, target)
        measured = "not measured" if outcome is None else shown(target, outcome)
        lines.append(
            [target.what, measured, _bound(target), {None: "–", True: "yes", False: "**no**"}[met], target.key]
        )
    return table(lines)


def _outcome(results: Results, target: Target) -> tuple[Outcome | None, bool | None]:
    """Return the outcome, and whether it meets the target (None without a bound or an outcome)."""
    outcome = target.measure(results, _given(results, target.scenario))
    return outcome, None if outcome is None else target.met(outcome)


def _summary(results: Results) -> str:
    """Return a sentence: how many of all targets are met, and which are not."""
    met = {target.key: _outcome(results, target)[1] for target in TARGETS}
    missed = [key for key, reached in met.items() if reached is False]
    count = sum(reached is not None for reached in met.values())
    text = f"Of {count} measured targets on this page {count - len(missed)} are met"
    return f"{text}; not met: {', '.join(missed)}." if missed else f"{text}."


def _bound(target: Target) -> str:
    if target.bound is None:
        return "–" if target.at_least else "equal"
    return f"at {'least' if target.at_least else 'most'} {target.bound:g}{target.unit}"


def shown(target: Target, outcome: Outcome) -> str:
    """Return median, lowest and highest value, as in "11.2 (10.8 to 11.5, n = 2)"."""
    form = ".1e" if target.digits == "e" else f".{target.digits}f"
    values = sorted(outcome.values)
    text = f"{outcome.median:{form}}{target.unit}"
    if len(values) > 1:
        text += f" ({values[0]:{form}} to {values[-1]:{form}}, n = {len(values)})"
    else:
        text += " (n = 1)"
    return text


def _remarks(results: Results) -> list[str]:
    """Return the remarks on the targets: further results and explanations, once for targets that share them."""
    keys: dict[str, list[str]] = {}
    for target in TARGETS:
        outcome, _ = _outcome(results, target)
        known = outcome.text.rstrip(".") + "." if outcome and outcome.text else ""
        known = (known[:1].upper() + known[1:] + " " + EXPLANATIONS.get(target.key, "")).strip()
        keys.setdefault(known, []).append(target.key)
    lines = [f"- **{', '.join(of)}**: {known}" for known, of in keys.items() if known]
    lines += [f"- **failed**: {key} – {error.splitlines()[-1]}" for key, error in _failures(results)]
    return ["\n".join(lines)] if lines else []


def _failures(results: Results) -> list[tuple[str, str]]:
    asked: dict[str, str] = {}
    for name, scenario in SCENARIOS.items():
        if name in results.begun:
            for job in scenario.jobs(_given(results, name)):
                asked.setdefault(job.key, f"{name}, {label(vars(job))}, seed {job.seed}")
    return [(asked[key], error) for key, error in results.failed.items() if key in asked]


def label(row: Row) -> str:
    """Return the contestant's name, with the settings that distinguish it from others of that name."""
    settings = row["settings"]
    words = [row["contestant"], settings.get("options", "")]
    if row["contestant"] == "limit" or settings.get("precision", "auto") != "auto":
        words.append(settings["precision"])
    if settings.get("processes", 1) > 1:
        words.append(f"{settings['processes']} processes")
    return " ".join(word for word in words if word)


def _details(results: Results, name: str) -> str:
    """Return the table of one scenario; "" if nothing is measured."""
    rows = results.of(list({job.key: job for job in SCENARIOS[name].jobs(_given(results, name))}.values()))
    if not rows:
        return ""
    if rows[0]["task"] not in ("fit", "distributed"):
        return _step_details(rows)
    texts = []
    for common in _each(_common(row) for row in rows):
        of = [row for row in rows if _common(row) == common]
        texts += [_heading(of[0]), _fit_table(of)]
    return "\n\n".join(texts)


def _common(row: Row) -> Any:
    """Return the settings that the rows of one table share."""
    return {k: v for k, v in row["settings"].items() if k not in ("options", "precision", "processes", "batch_size")}


def _heading(row: Row) -> str:
    settings, result = row["settings"], row["result"]
    kind, _, px, _ = settings["images"]
    made = {"originals": "PNG originals", "phantoms": "PNG phantoms", "phantoms16": "16-bit PNG phantoms"}[kind]
    head = f"{settings['freeze_epochs']} + " if settings["unfreeze"] == "all" else ""
    return (
        f"{result['train_images']} training and {result['valid_images']} validation images, {px} px {made}; "
        f"{settings['arch']}, weights {settings['weights']}, {settings['size']} px, batch {settings['batch_size']}, "
        f"{head}{settings['epochs']} epochs, trained: {_TRAINED[settings['unfreeze']]}."
    )


_TRAINED = {"none": "the head", "last block": "head and last block", "all": "all layers"}


def _fit_table(rows: list[Row]) -> str:
    groups = [[row for row in rows if label(row) == name] for name in _each(label(row) for row in rows)]
    ours = next((group for group in groups if label(group[0]) == "xrayfast"), None)
    limit_auto = next((group for group in groups if label(group[0]) == "limit auto"), None)
    head = ["contestant", "n", "seconds in all", "seconds per epoch", "CPU seconds", "peak MB", "accuracy, last",
            "accuracy, best", "in all / xrayfast", "in all / limit", "epoch / limit", "measured"]  # fmt: skip
    lines = [head]
    for group in groups:
        limit = group[0]["contestant"] == "limit"
        lines.append([
            label(group[0]), str(len(group)), span(group, in_all), span(group, an_epoch),
            "–" if limit else span(group, lambda row: row["cpu_seconds"]),
            "–" if limit else span(group, lambda row: row["peak_mb"], 0),
            accuracy(group, last=True), accuracy(group, last=False),
            over(group, ours, in_all), over(group, limit_auto, in_all), over(group, limit_auto, an_epoch),
            measured(group),
        ])  # fmt: skip
    return table(lines)


CHARTED = {
    "frozen10": "frozen backbone, 10 epochs",
    "last-block": "last block, 6 epochs",
    "unfrozen": "all layers, 1 + 5 epochs",
    "progressive": "the same, --progressive",
    "16bit": "16-bit PNG, 3 epochs",
    "vgg16_bn": "vgg16_bn, 10 epochs",
    "densenet121": "densenet121, 10 epochs",
    "predict": "predict, 500 images",
}


def chart(results: Results) -> str:
    """Return an SVG image of the seconds of fastai and xrayfast in the scenarios of `CHARTED`."""
    groups = []
    for name, title in CHARTED.items():
        jobs = scenarios.progressive_times if name == "progressive" else SCENARIOS[name].jobs
        rows = results.of(jobs(_given(results, name)))
        ours, fastai = (
            [float(row["seconds"]) for row in rows if row["contestant"] == who] for who in ("xrayfast", "fastai")
        )
        if ours and fastai:
            groups.append((title, {"fastai": fastai, "xrayfast": ours}))
    return bars(groups, "seconds")


def in_all(row: Row) -> float:
    """Return the seconds of the process; for the limit, those of its steps."""
    if row["contestant"] == "limit":
        return sum(epoch["seconds"] for epoch in row["result"]["epochs"])
    return float(row["seconds"])


def an_epoch(row: Row) -> float:
    """Return the median seconds per epoch of the last phase, without the run's first epoch if there are more."""
    phase = row["result"]["epochs"][-1]["phase"]
    return statistics.median(epoch_seconds(row, phase) or epoch_seconds(row, phase, skip=0))


def span(rows: list[Row], value: Callable[[Row], Any], digits: int = 1) -> str:
    """Return median, lowest and highest value as text."""
    values = sorted(found for row in rows if (found := value(row)) is not None)
    if not values:
        return "–"
    text = f"{statistics.median(values):.{digits}f}"
    return text + (f" ({values[0]:.{digits}f} to {values[-1]:.{digits}f})" if len(values) > 1 else "")


def accuracy(rows: list[Row], *, last: bool) -> str:
    if "accuracy" not in rows[0]["result"]["epochs"][-1]:
        return "–"
    best = [max(epoch["accuracy"] for epoch in row["result"]["epochs"]) for row in rows]
    values = accuracies(rows) if last else best
    return spread(values) if len(values) > 1 else f"{values[0]:.3f}"


def over(rows: list[Row], base: list[Row] | None, value: Callable[[Row], float]) -> str:
    """Return the ratio of two medians as text."""
    if base is None:
        return "–"
    return f"{statistics.median(map(value, rows)) / statistics.median(map(value, base)):.2f}"


def measured(rows: list[Row]) -> str:
    """Return the time and the commits of the measurements as text."""
    commits = ", ".join(_each(row["commit"] or "none" for row in rows))
    return f"{_span_of_time(sorted(row['when'] for row in rows))}, {commits}"


def _span_of_time(times: list[str]) -> str:
    """Return the span from the first to the last of sorted times, with the date only once."""
    first, last = times[0], times[-1]
    return first if first == last else f"{first} to {last.removeprefix(first[:11])}"


def _step_details(rows: list[Row]) -> str:
    """Return the table of a loader, prediction, report or start scenario: each contestant's values."""
    lines = [["contestant", "round", "result", "process, seconds", "peak MB", "measured"]]
    for row in rows:
        result = row["result"]
        if "passes" in result:
            rates = [f"{p['images'] / p['seconds']:.0f}" for p in result["passes"]]
            found = f"images per second, by pass: {', '.join(rates)}"
        else:
            found = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in result.items())
        peak = f"{row['peak_mb']:.0f}" if row["peak_mb"] else "–"
        lines.append([label(row), str(row["seed"]), found, f"{row['seconds']:.1f}", peak, measured([row])])
    return table(lines)


def _plain(value: float | str) -> str:
    return str(value) if isinstance(value, int | str) else f"{value:.2f}"

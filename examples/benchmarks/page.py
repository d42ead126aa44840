"""BENCHMARKS.md, from the file of results."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.explanations import EXPLANATIONS
from benchmarks.machine import installed, machine
from benchmarks.results import Results
from benchmarks.scenarios import SCENARIOS, Options
from benchmarks.targets import TARGETS, Outcome, Row, Target, accuracies, epoch_seconds, spread

ABOUT = """Written by `python examples/benchmarks`, which also says what each contestant does; do not edit. Each
measurement is a process of its own, in turn with the others on the same machine: from its start to its end, imports,
decoding and validation of every epoch included, with an empty cache. All have the same films, split, network, weights,
size, batch, epochs, threads and seeds; the seed of a round is its number. fastai is the documentation's recipe
(`Resize`, `aug_transforms()`, `vision_learner`, `fine_tune` or `fit_one_cycle`, its own number of workers), torchvision
and timm are loops as in their references. Numbers are medians over rounds, with the lowest and highest. The last column
of the tables says when and of which commit: some measurements were made again later."""

QUICK = (
    "**Made with --quick, to see that everything runs: a handful of small films, so no number here means anything.**"
)

SAME = """Accuracy is of the validation part after the last epoch, the mean over rounds; augmentations and schedules are
each tool's own, so it says that all of them learn, not which learns best. The limit is xrayfast's network, forward,
backward, optimiser and validation, on batches that lie in memory, in the precision that `--precision auto` takes here
and in fp32; its seconds are those steps alone, without imports. It computes frozen layers in every epoch, so what
reuses them can stay below it. An epoch's seconds are the median of the last phase, the run's first epoch left out, with
validation. Memory is the peak of what the process and its workers hold together
(sum of PSS, sampled up to four times a second)."""


def write(results: Results, path: Path) -> None:
    """Write the page whole."""
    path.write_text(page(results), encoding="utf-8")


def page(results: Results) -> str:
    quick = [QUICK] if any(begun["options"]["quick"] for begun in results.begun.values()) else []
    parts = ["# Benchmarks", *quick, ABOUT, *_where(results), "## Targets", _targets(results), *_remarks(results)]
    parts += ["## All numbers", SAME if installed("timm") else f"{SAME} timm is not installed here, and left out."]
    for name, scenario in SCENARIOS.items():
        text = _details(results, name)
        if text:
            parts += [f"### {name}: {scenario.about}", text]
    return "\n\n".join(parts) + "\n"


def table(lines: list[list[str]]) -> str:
    """A Markdown table; its first line is the head."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _given(results: Results, scenario: str) -> Options:
    begun = results.begun.get(scenario)
    return Options(**begun["options"]) if begun else Options()


def _where(results: Results) -> list[str]:
    rows = list(results.rows.values())
    if not rows:
        return ["Nothing is measured yet."]
    lines = [["", ""]]
    for computer in _each(row["machine"] for row in rows):
        lines.append(["machine", ", ".join(f"{name} {value}" for name, value in computer.items())])
    for versions in _each(row["versions"] for row in rows):
        lines.append(["versions", ", ".join(f"{name} {value}" for name, value in versions.items())])
    when = sorted(row["when"] for row in rows)
    lines.append(["measured", _span_of_time(when)])
    commits = ", ".join(_each(row["commit"] or "none" for row in rows))
    lines.append(["commit", commits + (" (+: files changed since)" if "+" in commits else "")])
    for command in _each(begun["command"] for begun in results.begun.values()):
        lines.append(["command", f"`{command}`"])
    return [table(lines)]


def _each(values: Any) -> list[Any]:
    """Each value once, in order of appearance."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _targets(results: Results) -> str:
    lines = [["what", "measured", "target", "met"]]
    for target in TARGETS:
        outcome = target.measure(results, _given(results, target.scenario))
        measured = _missing(target) if outcome is None else shown(target, outcome)
        met = None if outcome is None else target.met(outcome)
        lines.append([target.what, measured, _bound(target), {None: "–", True: "yes", False: "**no**"}[met]])
    return table(lines)


def _missing(target: Target) -> str:
    lacks_gpu = target.scenario.startswith("cuda") and machine()["GPU"] == "none"
    return "not measured: no GPU here" if lacks_gpu else "not measured"


def _bound(target: Target) -> str:
    if target.bound is None:
        return "–" if target.least else "equal"
    return f"at {'least' if target.least else 'most'} {target.bound:g}{target.unit}"


def shown(target: Target, outcome: Outcome) -> str:
    """Median, lowest and highest, as in "11.2 (10.8 to 11.5; 2 rounds)"."""
    form = ".1e" if target.digits == "e" else f".{target.digits}f"
    values = sorted(outcome.values)
    text = f"{outcome.median:{form}}{target.unit}"
    if len(values) > 1:
        text += f" ({values[0]:{form}} to {values[-1]:{form}}, n = {len(values)})"
    else:
        text += " (n = 1)"
    return text


def _remarks(results: Results) -> list[str]:
    """What was found besides, and the explanations."""
    lines = []
    for target in TARGETS:
        outcome = target.measure(results, _given(results, target.scenario))
        known = outcome.text + "." if outcome and outcome.text else ""
        known = (known[:1].upper() + known[1:] + " " + EXPLANATIONS.get(target.key, "")).strip()
        if known:
            lines.append(f"- **{target.key}**: {known}")
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
    """Who it was: the contestant, with what makes it differ from others of its name."""
    settings = row["settings"]
    words = [row["contestant"], settings.get("options", "")]
    if row["contestant"] == "limit" or settings.get("precision", "auto") != "auto":
        words.append(settings["precision"])
    if settings.get("processes", 1) > 1:
        words.append(f"{settings['processes']} processes")
    return " ".join(word for word in words if word)


def _details(results: Results, name: str) -> str:
    """The table of one scenario, "" where nothing is measured."""
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
    """What the rows of one table share."""
    return {k: v for k, v in row["settings"].items() if k not in ("options", "precision", "processes", "batch_size")}


def _heading(row: Row) -> str:
    settings, result = row["settings"], row["result"]
    kind, _, px, _ = settings["films"]
    made = {"films": "PNG films", "phantoms": "PNG phantoms", "phantoms16": "16-bit PNG phantoms"}[kind]
    head = f"{settings['freeze_epochs']} + " if settings["thaw"] == "all" else ""
    return (
        f"{result['train_images']} training and {result['valid_images']} validation images, {px} px {made}; "
        f"{settings['arch']}, weights {settings['weights']}, {settings['size']} px, batch {settings['batch_size']}, "
        f"{head}{settings['epochs']} epochs, trained: {_THAWED[settings['thaw']]}."
    )


_THAWED = {"none": "the head", "last block": "head and last block", "all": "all layers"}


def _fit_table(rows: list[Row]) -> str:
    groups = [[row for row in rows if label(row) == name] for name in _each(label(row) for row in rows)]
    ours = next((group for group in groups if label(group[0]) == "xrayfast"), None)
    least = next((group for group in groups if label(group[0]) == "limit auto"), None)
    head = ["contestant", "n", "seconds in all", "seconds an epoch", "CPU seconds", "peak MB", "accuracy, last",
            "accuracy, best", "in all / xrayfast", "in all / limit", "epoch / limit", "measured"]  # fmt: skip
    lines = [head]
    for group in groups:
        limit = group[0]["contestant"] == "limit"
        lines.append([
            label(group[0]), str(len(group)), span(group, in_all), span(group, an_epoch),
            "–" if limit else span(group, lambda row: row["cpu_seconds"]),
            "–" if limit else span(group, lambda row: row["peak_mb"], 0),
            accuracy(group, last=True), accuracy(group, last=False),
            over(group, ours, in_all), over(group, least, in_all), over(group, least, an_epoch), measured(group),
        ])  # fmt: skip
    return table(lines)


def in_all(row: Row) -> float:
    """Seconds of the process; of the limit, of its steps."""
    if row["contestant"] == "limit":
        return sum(epoch["seconds"] for epoch in row["result"]["epochs"])
    return float(row["seconds"])


def an_epoch(row: Row) -> float:
    """Median seconds of an epoch of the last phase, the run's first epoch left out where there are more."""
    phase = row["result"]["epochs"][-1]["phase"]
    return statistics.median(epoch_seconds(row, phase) or epoch_seconds(row, phase, skip=0))


def span(rows: list[Row], number: Callable[[Row], Any], digits: int = 1) -> str:
    """Median, lowest and highest."""
    values = sorted(value for row in rows if (value := number(row)) is not None)
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


def over(rows: list[Row], base: list[Row] | None, number: Callable[[Row], float]) -> str:
    """The ratio of two medians."""
    if base is None:
        return "–"
    return f"{statistics.median(map(number, rows)) / statistics.median(map(number, base)):.2f}"


def measured(rows: list[Row]) -> str:
    """When, and of which commits."""
    commits = ", ".join(_each(row["commit"] or "none" for row in rows))
    return f"{_span_of_time(sorted(row['when'] for row in rows))}, {commits}"


def _span_of_time(times: list[str]) -> str:
    """From the first to the last, the day told once."""
    first, last = times[0], times[-1]
    return first if first == last else f"{first} to {last.removeprefix(first[:11])}"


def _step_details(rows: list[Row]) -> str:
    """Loader, prediction, report, start: each contestant's numbers as they are."""
    lines = [["contestant", "round", "found", "process, seconds", "peak MB", "measured"]]
    for row in rows:
        result = row["result"]
        if "passes" in result:
            rates = [f"{p['images'] / p['seconds']:.0f}" for p in result["passes"]]
            found = f"images a second by pass: {', '.join(rates)}"
        else:
            found = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in result.items())
        peak = f"{row['peak_mb']:.0f}" if row["peak_mb"] else "–"
        lines.append([label(row), str(row["seed"]), found, f"{row['seconds']:.1f}", peak, measured([row])])
    return table(lines)


def _plain(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"

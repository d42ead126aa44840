"""The targets: what each row measures, and how its value is computed from the results."""

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scipy.stats import ttest_rel

from benchmarks import scenarios
from benchmarks.results import Job, Results
from benchmarks.scenarios import SCENARIOS, Options

Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A measured value.

    Attributes:
        values: one per round.
        text: further results, as text.
        holds: whether the conditions other than the bound hold.
    """

    values: list[float]
    text: str = ""
    holds: bool = True

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Target:
    """A row of the page.

    Attributes:
        key: its key in `explanations.py`.
        scenario: the scenario that measures it.
        what: description for readers.
        bound: the value to reach, or None.
        at_least: whether the bound is a minimum. Without a bound: whether the row has no target at all.
        measure: computes the outcome, or None while its measurements are missing.
        digits: number of decimals shown; "e" for powers of ten.
        unit: unit shown after values.
    """

    key: str
    scenario: str
    what: str
    bound: float | None
    at_least: bool
    measure: Callable[[Results, Options], Outcome | None]
    digits: str = "2"
    unit: str = ""

    def met(self, outcome: Outcome) -> bool | None:
        if self.bound is None:
            return outcome.holds if not self.at_least else None
        reached = outcome.median >= self.bound if self.at_least else outcome.median <= self.bound
        return reached and outcome.holds


def total(row: Row) -> float:
    return float(row["seconds"])


def ratio(results: Results, jobs: list[Job], number: Callable[[Row], float] = total) -> list[float]:
    """Return fastai's value divided by xrayfast's, per round."""
    ours = {job.seed: row for job in jobs if job.contestant == "xrayfast" and (row := results.get(job))}
    theirs = {job.seed: row for job in jobs if job.contestant == "fastai" and (row := results.get(job))}
    return [number(theirs[seed]) / number(ours[seed]) for seed in sorted(ours.keys() & theirs.keys())]


def times(jobs: Callable[[Options], list[Job]]) -> Any:
    """Return a function that divides fastai's seconds by xrayfast's, per round."""

    def measure(results: Results, given: Options) -> Outcome | None:
        values = ratio(results, jobs(given), total)
        return Outcome(values) if values else None

    return measure


def accuracies(rows: list[Row], name: str = "accuracy") -> list[float]:
    """Return the accuracy, or another metric, of the last epoch of each run."""
    return [row["result"]["epochs"][-1][name] for row in rows if name in row["result"]["epochs"][-1]]


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def as_good(first: list[float], second: list[float]) -> bool:
    """Whether the mean of `first` is below that of `second` by no more than the larger spread of the two, and a paired
    t-test over seeds (one-sided, 0.025) does not find it lower.
    """
    reach = max(max(values) - min(values) for values in (first, second))
    within = statistics.mean(first) >= statistics.mean(second) - reach - 1e-9
    return within and not ttest_rel(first, second, alternative="less").pvalue < 0.025


def progressive(results: Results, given: Options) -> Outcome | None:
    """Compare the time with fastai's, and the accuracy with fastai's and with that without growing images."""
    jobs = scenarios.progressive_times(given)
    values = ratio(results, jobs)
    if not values:
        return None
    ours, fastai = (whole(results, [job for job in jobs if job.contestant == name]) for name in ("xrayfast", "fastai"))
    grown, plain = (whole(results, of(given)) for of in (scenarios.progressively, scenarios.plain))
    if not all((ours, fastai, grown, plain)):
        return Outcome(values, "accuracy not compared", False)
    timed, as_fastai = compared(f"timed on {images(ours)}, ours and fastai's", ours, fastai)
    texts, as_plain = compared(f"on {images(grown)}, with it and without", grown, plain)
    seconds = [statistics.mean(row["seconds"] for row in rows) for rows in (grown, plain)]
    return Outcome(values, "; ".join([*timed, *texts, "{:.0f} and {:.0f} s".format(*seconds)]), as_fastai and as_plain)


def images(rows: list[Row]) -> str:
    """Describe the training images in words."""
    settings = rows[0]["settings"]
    return f"{settings['images'][1]} images of {settings['size']} px"


def whole(results: Results, jobs: list[Job]) -> list[Row]:
    """Return the rows of all these jobs in order, or no rows if one is missing."""
    rows = results.of(jobs)
    return rows if len(rows) == len(jobs) else []


def compared(name: str, first: list[Row], second: list[Row]) -> tuple[list[str], bool]:
    """Return the last epochs' metrics of two variants in words, and whether the first is as good as the second."""
    texts, holds = [], True
    for metric in ("accuracy", "auroc_macro"):
        a, b = (accuracies(rows, metric) for rows in (first, second))
        if a and b:
            gaps = ", ".join(f"{x - y:+.3f}" for x, y in zip(a, b, strict=True))
            texts.append(f"{name}, {metric.replace('_', ' ')}: {spread(a)} against {spread(b)}, by seed {gaps}")
            holds = holds and as_good(a, b)
    return texts, holds


def epoch_seconds(row: Row, phase: str = "all", skip: int = 1) -> list[float]:
    """Return the seconds of the epochs of a phase, from the run's second epoch on."""
    return [epoch["seconds"] for epoch in row["result"]["epochs"][skip:] if epoch["phase"] == phase]


def against_limit(jobs: Callable[[Options], list[Job]]) -> Any:
    """Return a function that divides the limit's unfrozen epoch by xrayfast's: medians from epoch 2 on, per round."""

    def measure(results: Results, given: Options) -> Outcome | None:
        of = [job for job in jobs(given) if job.settings.get("precision", "auto") == "auto"]
        ours, bound = (
            {row["seed"]: statistics.median(epoch_seconds(row)) for row in results.of(of) if row["contestant"] == name}
            for name in ("xrayfast", "limit")
        )
        seeds = sorted(ours.keys() & bound.keys())
        if not seeds:
            return None
        shown = [statistics.median(seconds[seed] for seed in seeds) for seconds in (bound, ours)]
        text = "seconds per epoch with its validation: the limit {:.2f}, ours {:.2f}".format(*shown)
        return Outcome([bound[seed] / ours[seed] for seed in seeds], text)

    return measure


def loader(results: Results, given: Options) -> Outcome | None:
    def rate(row: Row) -> float:
        return statistics.median(p["images"] / p["seconds"] for p in row["result"]["passes"][1:])

    jobs = scenarios.loader(given)
    values = [1 / value for value in ratio(results, jobs, rate)]
    if not values:
        return None
    each = {name: [rate(row) for row in results.of([j for j in jobs if j.contestant == name])] for name in
            ("xrayfast", "fastai")}  # fmt: skip
    text = ", ".join(f"{name} {statistics.median(rates):.0f}" for name, rates in each.items())
    return Outcome(values, f"images per second: {text}")


def single(jobs: Callable[[Options], list[Job]], field: str) -> Any:
    """Return a function that reads a value of xrayfast."""

    def measure(results: Results, given: Options) -> Outcome | None:
        values = [row["result"][field] for row in results.of(jobs(given))]
        return Outcome(values) if values else None

    return measure


def interpret(results: Results, given: Options) -> Outcome | None:
    rows = results.of(scenarios.interpret(given))
    if not rows:
        return None
    text = (
        f"{rows[0]['result']['images']:,} images; {rows[0]['result']['first_seconds']:.1f} s with what it imports late"
    )
    return Outcome([row["result"]["interpret_seconds"] for row in rows], text)


_BESIDE_FASTAI = ("frozen10", "unfrozen", "last-block", "loader", "predict", "vgg16_bn", "densenet121", "16bit")


def memory(results: Results, given: Options) -> Outcome | None:
    """Divide xrayfast's peak memory by fastai's, in the scenario where the ratio is highest."""
    found = {}
    for name in _BESIDE_FASTAI:
        jobs = [job for job in SCENARIOS[name].jobs(given) if (row := results.get(job)) and row["peak_mb"]]
        values = [1 / value for value in ratio(results, jobs, lambda row: float(row["peak_mb"]))]
        if values:
            found[name] = values
    if not found:
        return None
    each = ", ".join(f"{name} {statistics.median(values):.2f}" for name, values in found.items())
    return Outcome(max(found.values(), key=statistics.median), f"the worst of: {each}")


def linear(results: Results, given: Options) -> Outcome | None:
    """Return how far the middle size is from the line through the others, in percent of its time after the start."""
    values, texts = [], []
    of = scenarios.linear_settings(given)
    for seed in given.seeds(1):
        rows = results.of([scenarios.xrayfast(settings, seed, given) for settings in of])
        if len(rows) == len(of):
            (small, middle, large), counts = [row["seconds"] for row in rows], [s["images"][1] for s in of]
            slope = (large - small) / (counts[2] - counts[0])
            start = small - slope * counts[0]
            values.append(100 * abs(middle - start - slope * counts[1]) / (slope * counts[1]))
            texts.append(f"{small:.1f}, {middle:.1f} and {large:.1f} s, of which {start:.0f} s at the start")
    return Outcome(values, f"{', '.join(str(n) for n in counts)} images: {'; '.join(texts)}") if values else None


_TRAINED = {"none": "frozen backbone", "last block": "last block unfrozen", "all": "all layers"}


def equality(jobs: Callable[[Options], list[Job]], field: str, ways: tuple[str, str]) -> Any:
    """Return a function that compares the accuracies of two variants per seed: their differences, and whether the first
    is as good as the second in every training setting.

    Args:
        jobs: the jobs of both variants.
        field: the setting that distinguishes the variants.
        ways: the text that this setting contains in the first and in the second variant.
    """

    def measure(results: Results, given: Options) -> Outcome | None:
        values, texts, holds = [], [], True
        for trained in dict.fromkeys(job.settings["unfreeze"] for job in jobs(given)):
            of = [job for job in jobs(given) if job.settings["unfreeze"] == trained]
            rows = [whole(results, [job for job in of if way in job.settings[field]]) for way in ways]
            if not all(rows):
                texts, holds = [*texts, f"{_TRAINED[trained]}: not measured"], False
                continue
            remarks, good = compared(f"{_TRAINED[trained]}, {images(rows[0])}", *rows)
            texts, holds = [*texts, *remarks], holds and good
            values += [a - b for a, b in zip(*(accuracies(one) for one in rows), strict=True)]
        return Outcome(values, "; ".join(texts), holds) if values else None

    return measure


def cache(results: Results, given: Options) -> Outcome | None:
    """Return the largest difference of loss curves per seed."""
    jobs = scenarios.cache(given)
    gaps = [gap(results, *pair) for pair in zip(jobs[::2], jobs[1::2], strict=True)]
    values = [value for value in gaps if value is not None]
    return Outcome(values, holds=len(values) == len(gaps) and not any(values)) if values else None


def gap(results: Results, first: Job, second: Job) -> float | None:
    """Return the largest difference between two runs in their training and validation losses."""
    rows = results.of([first, second])
    if len(rows) < 2:
        return None
    curves = [[row["result"]["epochs"][i][f"{split}_loss"] for i in range(len(row["result"]["epochs"]))
               for split in ("train", "valid")] for row in rows]  # fmt: skip
    return max(abs(a - b) for a, b in zip(*curves, strict=True))


def distributed(results: Results, given: Options) -> Outcome | None:
    """Return the difference between the loss curves of one and two processes, with the head trained."""
    found = gap(results, *(scenarios.distributed_job(given, processes, "none") for processes in (1, 2)))
    return None if found is None else Outcome([found])


def distributed_all(results: Results, given: Options) -> Outcome | None:
    """Return the difference between one and two processes, with all layers trained, over that of seeds."""
    one, two = (scenarios.distributed_job(given, processes, "all") for processes in (1, 2))
    found, own = gap(results, one, two), gap(results, one, scenarios.distributed_job(given, 2, "all", options=""))
    seeds = [scenarios.distributed_job(given, 1, "all", seed) for seed in given.seeds(3)]
    spread = [gap(results, *pair) for pair in itertools.combinations(seeds, 2)]
    if found is None or not spread or None in spread:
        return None
    widest = max(filter(None, spread))
    text = f"Two processes and one: {found:.1e}; seeds of one process: up to {widest:.1e}"
    text += "" if own is None else f"; two processes with batch norm and dropout of each, as by default: {own:.1e}"
    return Outcome([found / widest], text)


def rank_reads(results: Results, given: Options) -> Outcome | None:
    """Return the images read by the busiest of four ranks, divided by a quarter of all images."""
    rows = results.of(scenarios.rank_reads(given))
    if not rows:
        return None
    read = {ranks: rows[0]["result"][f"most_read_of_{ranks}"] for ranks in rows[0]["settings"]["ranks"]}
    text = "; ".join(f"of {ranks} ranks the busiest {count}" for ranks, count in read.items() if ranks > 1)
    return Outcome([4 * read[4] / read[1]], f"Of {read[1]:,} images of training and validation: {text}")


def table_memory(results: Results, given: Options) -> Outcome | None:
    """Return the bytes per additional row, from the two largest Parquet tables."""
    found = tables_of("parquet", results, given)
    if not found:
        return None
    more = found[-1]["open_mb"] - found[-2]["open_mb"]
    return Outcome([more * 2**20 / (found[-1]["rows"] - found[-2]["rows"])])


TITLES = {"parquet": "Parquet", "csv": "CSV"}


def table_time(results: Results, given: Options) -> Outcome | None:
    """Return the CPU seconds of the largest Parquet table, and those of the others as text."""
    found = {kind: tables_of(kind, results, given) for kind in ("parquet", "csv")}
    if not found["parquet"]:
        return None
    texts = [
        f"{TITLES[kind]} of {one['rows']:,} rows: {one['cpu_seconds']:.0f} s, {one['open_mb']:.0f} MB"
        for kind, of in found.items()
        for one in of
    ]
    return Outcome([found["parquet"][-1]["cpu_seconds"]], "; ".join(texts))


def tables_of(kind: str, results: Results, given: Options) -> list[Row]:
    """Return the results of all tables of a kind, in order of rows; nothing if one is missing."""
    rows = results.of([job for job in scenarios.tables(given) if job.settings["options"] == kind])
    return [row["result"] for row in rows] if len(rows) == len(scenarios.TABLE_ROWS) else []


def cache_index(results: Results, given: Options) -> Outcome | None:
    """Return the seconds to open the index of the largest cache, and the rate of builds as text."""
    *indexes, build = (results.get(job) for job in scenarios.cache_scale(given))
    if build is None or not all(indexes):
        return None
    found = [row["result"] for row in indexes if row]
    texts = [
        f"{one['images']:,} images: {one['seconds_with_its_file']:.2f} s, without its file "
        f"{one['seconds_without_its_file']:.1f} s, file {one['index_mb']:.0f} MB"
        for one in found
    ]
    rates = build["result"]
    texts.append(f"one process decodes {rates['decoded_per_second']:.0f} images per second, wall time")
    return Outcome([found[-1]["seconds_with_its_file"]], "; ".join(texts))


def duplicates(number: str) -> Any:
    """Return a function that reads a value of the largest set, and describes the results of each."""

    def measure(results: Results, given: Options) -> Outcome | None:
        rows = results.of(scenarios.duplicates(given))
        if len(rows) < len(scenarios.duplicates(given)):
            return None
        texts = [
            f"{one['images']:,} images: {one['seconds_of_cpu']:.0f} s of CPU, {one['open_mb']:.0f} MB, "
            f"{one['copies_found']:.1%} of the copies found"
            for one in (row["result"] for row in rows)
        ]
        return Outcome([rows[-1]["result"][number]], f"{'; '.join(texts)}. {rows[-1]['result']['search']}")

    return measure


def intervals_memory(results: Results, given: Options) -> Outcome | None:
    """Return the peak memory of the largest table, divided by that of its labels and probabilities."""
    rows = [row["result"] for row in results.of(scenarios.intervals(given))]
    if len(rows) < len(scenarios.INTERVALS):
        return None
    texts = [
        f"{one['images']:,} images, {one['resamples']:,} resamples: {one['cpu_seconds']:.0f} s of CPU, "
        f"{one['peak_mb']:.0f} MB with {one['input_mb']:.0f} MB of input"
        for one in rows
    ]
    return Outcome([(rows[-1]["peak_mb"] - rows[-1]["start_mb"]) / rows[-1]["input_mb"] + 1], "; ".join(texts))


RATIO = "fastai's time / ours"
TARGETS = (
    Target("frozen10", "frozen10", "10 epochs with a frozen backbone, resnet18, 224 px, from 1024 px originals, "
           f"whole process: {RATIO}", 10, True, times(scenarios.frozen10)),
    Target("unfrozen", "unfrozen", "1 frozen and 5 unfrozen epochs, resnet18, 224 px, validation in each epoch: "
           f"{RATIO}", 1.4, True, times(scenarios.unfrozen)),
    Target("progressive", "progressive", "1 frozen and 5 unfrozen epochs with `--progressive`, to the same accuracy "
           f"(within the spread of seeds): {RATIO}", 2, True, progressive),
    Target("last-block", "last-block", f"6 epochs with `--unfreeze-blocks 1`: {RATIO}", 4, True,
           times(scenarios.last_block)),
    Target("limit", "limit", "an unfrozen epoch, from the second one on: compute-only limit / ours", 0.93, True,
           against_limit(scenarios.beside_limit)),
    Target("loader", "loader", "the loader alone, with augmentation, from epoch 2 on, 1024 px originals: our images "
           "per second / fastai's", 10, True, loader),
    Target("predict", "predict", f"`predict` of originals, against `get_preds`: {RATIO}", 1.5, True,
           times(scenarios.predict)),
    Target("memory", "frozen10", "peak memory in the worst of eight scenarios: ours / fastai's", 1, False, memory),
    Target("reuse", "reuse", "accuracy with `--reuse-frozen on` minus `off`: within the spread of seeds", None,
           False, equality(scenarios.reuse, "options", scenarios.REUSE), "3"),
    Target("precision", "precision", "accuracy with `--precision auto` minus fp32: within the spread of seeds",
           None, False, equality(scenarios.precision, "precision", scenarios.PRECISIONS), "3"),
    Target("interpret", "interpret", "`interpret` after `fit`, 1,000 images, without imports", 10, False, interpret,
           "1", " s"),
    Target("help", "help", "`xrayfast --help`", 0.5, False, single(scenarios.start, "help_seconds"), "2", " s"),
    Target("start-predict", "start", "`xrayfast predict` of one file: time / that of `import torch` just before",
           1.4, False, single(scenarios.starts, "predict_ratio")),
    Target("start-interpret", "start", "`xrayfast interpret` of a run with 78 validation images: time / that of "
           "`import torch`", 1.6, False, single(scenarios.starts, "interpret_ratio")),
    Target("start-fit", "start", "`xrayfast fit`, one frozen epoch on 312 cached images of 64 px: time / that of "
           "`import torch`", 2.8, False, single(scenarios.starts, "fit_ratio")),
    Target("vgg16_bn", "vgg16_bn", f"10 epochs with a frozen backbone, vgg16_bn: {RATIO}", 6, True,
           times(scenarios.vgg16_bn)),
    Target("densenet121", "densenet121", f"10 epochs with a frozen backbone, densenet121: {RATIO}", 6, True,
           times(scenarios.densenet121)),
    Target("16bit", "16bit", f"3 epochs with a frozen backbone, from 2048 px 16-bit PNG phantoms: {RATIO}", None, True,
           times(scenarios.sixteen_bit)),
    Target("linear", "linear", "time for 1, 4 and 16 times the images (64 px phantoms), after the fixed start: "
           "deviation from a straight line", 15, False, linear, "1", "%"),
    Target("cache", "cache", "with the image cache and with `--no-cache`: largest difference between loss curves", 0,
           False, cache, "e"),
    Target("tables", "tables", "opening a Parquet table with 14 labels: memory per additional row", 600, False,
           table_memory, "0", " bytes"),
    Target("tables-time", "tables", "opening a Parquet table of 10,000,000 rows and 14 labels: CPU seconds", 180, False,
           table_time, "0", " s"),
    Target("cache-index", "cache-scale", "opening the index of a cache of 10,000,000 images", 2, False, cache_index,
           "2", " s"),
    Target("duplicates", "duplicates", "`check` of 1,000,000 decoded images, including near duplicates and the page: "
           "CPU seconds", 3600, False, duplicates("seconds_of_cpu"), "0", " s"),
    Target("duplicates-memory", "duplicates", "`check` of 1,000,000 decoded images: peak memory", 4096, False,
           duplicates("open_mb"), "0", " MB"),
    Target("intervals", "intervals", "metrics and intervals for 10,000,000 images and 14 labels: peak memory / that of "
           "labels and probabilities", 5, False, intervals_memory),
    Target("distributed", "distributed", "two processes (torchrun, gloo) with `--sync-bn --dropout 0`, and one process "
           "with twice the batch, head trained: largest difference between loss curves", 1e-4, False, distributed, "e"),
    Target("distributed-all", "distributed", "the same with all layers trained from the first step, divided by the "
           "largest difference between three seeds", 1, False, distributed_all),
    Target("rank-reads", "rank-reads", "loader work per rank: images that the busiest of N = 4 ranks reads per epoch, "
           "divided by images / N", 1.2, False, rank_reads, "3"),
)  # fmt: skip
"""The first ten matter most to users: time, memory, and the cost of the defaults in accuracy."""

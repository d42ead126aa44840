"""The scenarios: each is a list of jobs, in the order in which they run (A B A B)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.data import ImageSet
from benchmarks.results import Job

Jobs = list[Job]


@dataclass(frozen=True)
class Options:
    """The options of the command line that change scenarios.

    Attributes:
        quick: whether to use 64 px, a few images and one round, to check that everything runs.
        images: number of images of each set, instead of the scenario's own.
        rounds: number of rounds, instead of the scenario's own; the seed of a round is its index.
        weights: weights that all contestants start from.
        xrayfast: more options of `xrayfast fit`.
        threads: number of torch threads.
    """

    quick: bool = False
    images: int | None = None
    rounds: int | None = None
    weights: str = "imagenet"
    xrayfast: str = ""
    threads: int = 2

    def count(self, images: int) -> int:
        return self.images or (30 if self.quick else images)

    def seeds(self, rounds: int) -> range:
        return range(self.rounds or (1 if self.quick else rounds))

    @property
    def size(self) -> int:
        return 64 if self.quick else 224

    @property
    def batch(self) -> int:
        return 8 if self.quick else 32

    def px(self, side: int) -> int:
        return 96 if self.quick else side

    def epochs(self, epochs: int) -> int:
        return min(epochs, 2) if self.quick else epochs


def image_set(given: Options, images: int, px: int = 1024, kind: str = "originals", valid: float = 0.2) -> list[Any]:
    """Return the fields of an `ImageSet`, as they are in the settings of a job.

    The counts give complete training batches, because fastai drops an incomplete last one.
    """
    return [kind, given.count(images), given.px(px), valid]


def protocol(given: Options, of: list[Any], **changes: Any) -> dict[str, Any]:
    """Return the settings of a training run, the same for all contestants.

    These settings identify measurements in results.jsonl: "images" is the image set; "unfreeze" is what is trained in
    addition to the head: "none", "last block" or "all". `results.RENAMED_SETTINGS` has the names in older lines.
    """
    common = {
        "images": of, "arch": "resnet18", "weights": given.weights, "size": given.size, "batch_size": given.batch,
        "lr": 2e-3, "unfreeze": "none", "freeze_epochs": 0, "epochs": given.epochs(10), "threads": given.threads,
    }  # fmt: skip
    return common | changes


def xrayfast(settings: dict[str, Any], seed: int, given: Options, options: str = "", precision: str = "auto") -> Job:
    words = " ".join(word for word in (options, given.xrayfast) if word)
    return Job("xrayfast", "fit", {**settings, "options": words, "precision": precision}, seed)


def limit(settings: dict[str, Any], precision: str, seed: int = 0) -> Job:
    return Job("limit", "fit", {**settings, "precision": precision}, seed)


def others(settings: dict[str, Any], *names: str) -> Jobs:
    """Return the jobs of one round of other tools."""
    return [Job(name, "fit", settings, 0) for name in names]


def beside_fastai(settings: dict[str, Any], given: Options, rounds: int) -> Jobs:
    """Return the jobs of xrayfast and fastai in turn."""
    pairs = [(xrayfast(settings, n, given), Job("fastai", "fit", settings, n)) for n in given.seeds(rounds)]
    return [job for pair in pairs for job in pair]


def with_limit(settings: dict[str, Any], given: Options, rounds: int) -> Jobs:
    """Return the jobs of xrayfast, fastai and the limit in turn."""
    jobs, seeds = beside_fastai(settings, given, rounds), given.seeds(rounds)
    return [job for n in seeds for job in (*jobs[2 * n : 2 * n + 2], limit(settings, "auto", n))]


def frozen_settings(given: Options) -> dict[str, Any]:
    return protocol(given, image_set(given, 240))


def unfrozen_settings(given: Options) -> dict[str, Any]:
    return protocol(given, image_set(given, 128, valid=0.25), unfreeze="all", freeze_epochs=1, epochs=given.epochs(5))


def last_block_settings(given: Options) -> dict[str, Any]:
    return protocol(given, image_set(given, 240), unfreeze="last block", epochs=given.epochs(6))


def frozen10(given: Options) -> Jobs:
    settings = frozen_settings(given)
    return [
        *beside_fastai(settings, given, 2),
        *others(settings, "torchvision", "timm"),
        *(limit(settings, precision) for precision in ("auto", "fp32")),
    ]


def unfrozen(given: Options) -> Jobs:
    settings = unfrozen_settings(given)
    return [
        *with_limit(settings, given, 3),
        *others(settings, "torchvision"),
        limit(settings, "fp32"),
    ]


def beside_limit(given: Options) -> Jobs:
    """Return the jobs of xrayfast and the limit in turn. They are close and times vary, so there are more rounds."""
    settings = unfrozen_settings(given)
    return [job for n in given.seeds(6) for job in (xrayfast(settings, n, given), limit(settings, "auto", n))]


def comparable(given: Options, **changes: Any) -> dict[str, Any]:
    """Return settings for comparing accuracies: more images than for times, at a smaller size, so that three seeds of
    two variants take minutes.
    """
    return protocol(given, image_set(given, 500), size=64 if given.quick else 128) | changes


def plain(given: Options) -> Jobs:
    """Return unfrozen training with the defaults, one job per seed."""
    settings = comparable(given, unfreeze="all", freeze_epochs=1, epochs=given.epochs(5))
    return [xrayfast(settings, n, given) for n in given.seeds(6)]


def progressively(given: Options) -> Jobs:
    """Return the jobs of `plain` with growing image sizes."""
    steps = "--progressive " + ("32,48,64" if given.quick else "72,100,128")
    return [xrayfast(job.settings, job.seed, given, steps) for job in plain(given)]


def progressive_times(given: Options) -> Jobs:
    settings, steps = unfrozen_settings(given), "--progressive " + ("32,48,64" if given.quick else "128,176,224")
    pairs = [(xrayfast(settings, n, given, steps), Job("fastai", "fit", settings, n)) for n in given.seeds(3)]
    return [job for pair in pairs for job in pair]


def progressive(given: Options) -> Jobs:
    pairs = zip(plain(given), progressively(given), strict=True)
    return [*progressive_times(given), *(job for pair in pairs for job in pair)]


def last_block(given: Options) -> Jobs:
    settings = last_block_settings(given)
    return [*beside_fastai(settings, given, 2), limit(settings, "auto")]


def loader(given: Options) -> Jobs:
    settings = {
        "images": image_set(given, 240),
        "size": given.size,
        "batch_size": given.batch,
        "epochs": 3,
        "threads": given.threads,
    }
    return [Job(name, "loader", settings, n) for n in given.seeds(3) for name in ("xrayfast", "fastai")]


def predict(given: Options) -> Jobs:
    of = image_set(given, 500) if given.images is None else image_set(given, given.images)
    common = {"images": of, "arch": "resnet18", "weights": given.weights, "size": given.size, "batch_size": 32}
    common |= {"threads": given.threads}
    model = protocol(given, ["phantoms", 30, 64, 0.2], epochs=1) | {"precision": "fp32"}
    jobs = [
        (Job("xrayfast", "predict", {**common, "model": model}, n), Job("fastai", "predict", common, n))
        for n in given.seeds(3)
    ]
    return [job for pair in jobs for job in pair]


def interpret(given: Options) -> Jobs:
    of = ["phantoms", 60 if given.quick else 1250, 64, 0.8]
    model = protocol(given, of, epochs=1, weights="none", size=64) | {"precision": "fp32"}
    return [Job("xrayfast", "interpret", {"images": of, "model": model, "threads": given.threads}, 0)]


def start(given: Options) -> Jobs:
    return [Job("xrayfast", "help", {"times": 7}, 0)]


def starts(given: Options) -> Jobs:
    of = ["phantoms", 60 if given.quick else 390, 64, 0.2]
    model = protocol(given, of, epochs=1, weights="none", size=64) | {"precision": "fp32"}
    times = 1 if given.quick else 5
    return [Job("xrayfast", "start", {"images": of, "model": model, "threads": given.threads, "times": times}, 0)]


def vgg16_bn(given: Options) -> Jobs:
    settings = protocol(given, image_set(given, 40), arch="vgg16_bn", weights="none", batch_size=8)
    return beside_fastai(settings, given, 1)


def densenet121(given: Options) -> Jobs:
    settings = protocol(given, image_set(given, 60), arch="densenet121", weights="none", batch_size=8)
    return beside_fastai(settings, given, 1)


def sixteen_bit(given: Options) -> Jobs:
    settings = protocol(given, image_set(given, 60, 2048, "phantoms16"), epochs=given.epochs(3))
    return beside_fastai(settings, given, 1)


def linear_settings(given: Options) -> list[dict[str, Any]]:
    one = given.images or (15 if given.quick else 130)
    return [
        protocol(
            given, ["phantoms", one * times, 64, 0.2], unfreeze="all", epochs=given.epochs(3), weights="none", size=64
        )
        for times in (1, 4, 16)
    ]


def linear(given: Options) -> Jobs:
    return [xrayfast(settings, n, given) for n in given.seeds(1) for settings in linear_settings(given)]


REUSE = ("--reuse-frozen on", "--reuse-frozen off")


def reuse_settings(given: Options) -> list[dict[str, Any]]:
    return [comparable(given), comparable(given, unfreeze="last block", epochs=given.epochs(6))]


def reuse(given: Options) -> Jobs:
    return [
        xrayfast(settings, seed, given, words)
        for settings in reuse_settings(given)
        for seed in given.seeds(3)
        for words in REUSE
    ]


def cache(given: Options) -> Jobs:
    """Return pairs of jobs per seed: images from the cache, and decoded in each epoch."""
    settings = comparable(given, images=image_set(given, 120), unfreeze="all", freeze_epochs=1, epochs=given.epochs(2))
    return [xrayfast(settings, n, given, words) for n in given.seeds(3) for words in ("", "--no-cache")]


def cache_scale(given: Options) -> Jobs:
    """Return jobs for the index of caches of 1 and 10 million images, and for the rate of building a cache."""
    counts = (1000, 10_000) if given.quick else (1_000_000, 10_000_000)
    of = {"images": image_set(given, 500), "size": given.size, "threads": 1}
    return [
        *(Job("xrayfast", "index", {"count": n, "threads": 1}, 0) for n in counts),
        Job("xrayfast", "build", of, 0),
    ]


def duplicates(given: Options) -> Jobs:
    """Return jobs of `xrayfast.check` on already decoded images."""
    counts = (2500,) if given.quick else (10_000, 100_000, 1_000_000)
    return [Job("xrayfast", "duplicates", {"count": n, "threads": given.threads}, 0) for n in counts]


PRECISIONS = ("auto", "fp32")


def precision_settings(given: Options) -> list[dict[str, Any]]:
    """Return settings with small images and many validation images, because the expected difference is small."""
    frozen = protocol(given, image_set(given, 1100, valid=0.6), size=64 if given.quick else 96)
    return [frozen, frozen | {"unfreeze": "all", "freeze_epochs": 1, "epochs": given.epochs(5)}]


def precision(given: Options) -> Jobs:
    return [
        xrayfast(settings, seed, given, precision=kind)
        for settings in precision_settings(given)
        for seed in given.seeds(6)
        for kind in PRECISIONS
    ]


SAME_BATCH_NORM = "--sync-bn --dropout 0"
"""Options that make distributed training equal to one process: by default batch norm and dropout are per rank."""


def distributed_job(given: Options, processes: int, trained: str, seed: int = 0, options: str = SAME_BATCH_NORM) -> Job:
    settings = protocol(
        given, ["phantoms", given.images or (30 if given.quick else 160), 64, 0.2], unfreeze=trained, size=64,
        epochs=given.epochs(3), batch_size=16 // processes, processes=processes, threads=1,
    )  # fmt: skip
    words = " ".join(word for word in (options, given.xrayfast) if word)
    return Job("xrayfast", "distributed", settings | {"precision": "fp32", "options": words}, seed)


def distributed(given: Options) -> Jobs:
    """Return jobs in one and two processes, with the head trained and with all layers; with all layers also for other
    seeds, and in two processes with default options.
    """
    return [
        *(distributed_job(given, processes, trained) for trained in ("none", "all") for processes in (1, 2)),
        *(distributed_job(given, 1, "all", seed) for seed in given.seeds(3)[1:]),
        distributed_job(given, 2, "all", options=""),
    ]


def rank_reads(given: Options) -> Jobs:
    settings = {"images": ["phantoms", given.count(1000), 64, 0.2], "size": 64, "batch_size": 32, "ranks": [1, 2, 4, 8]}
    return [Job("xrayfast", "rank_reads", settings, 0)]


def table_job(rows: int, kind: str) -> Job:
    return Job("xrayfast", "table", {"rows": rows, "options": kind, "threads": 1}, 0)


TABLE_ROWS = (100_000, 1_000_000, 10_000_000)


def tables(given: Options) -> Jobs:
    return [table_job(rows // 100 if given.quick else rows, kind) for kind in ("csv", "parquet") for rows in TABLE_ROWS]


INTERVALS = {100_000: 1000, 1_000_000: 1000, 10_000_000: 5}
"""Numbers of resamples by number of images; memory does not depend on the resamples."""


def intervals(given: Options) -> Jobs:
    """Return jobs for metrics with intervals on made-up tables of 14 labels."""
    counts = {rows // 100: 5 for rows in INTERVALS} if given.quick else INTERVALS
    return [
        Job("xrayfast", "intervals", {"rows": rows, "resamples": resamples, "threads": 1}, 0)
        for rows, resamples in counts.items()
    ]


@dataclass(frozen=True)
class Scenario:
    """A named list of jobs.

    Attributes:
        about: description in one line.
        jobs: makes the jobs from the options.
    """

    about: str
    jobs: Callable[[Options], Jobs]


SCENARIOS = {
    "frozen10": Scenario("10 epochs with a frozen backbone, resnet18, 224 px, 1024 px originals", frozen10),
    "unfrozen": Scenario("1 frozen and 5 unfrozen epochs, the same settings", unfrozen),
    "limit": Scenario("the same beside the limit, more rounds", beside_limit),
    "progressive": Scenario("the same with --progressive 128,176,224", progressive),
    "last-block": Scenario("6 epochs of head and last block", last_block),
    "loader": Scenario("the loader alone, augmented", loader),
    "predict": Scenario("prediction on originals", predict),
    "interpret": Scenario("the report on 1,000 validation images", interpret),
    "help": Scenario("xrayfast --help", start),
    "start": Scenario("short commands beside the import of torch", starts),
    "vgg16_bn": Scenario("frozen10 with vgg16_bn, random weights", vgg16_bn),
    "densenet121": Scenario("frozen10 with densenet121, random weights", densenet121),
    "16bit": Scenario("3 frozen epochs from 2048 px 16-bit phantoms", sixteen_bit),
    "linear": Scenario("1x, 4x and 16x phantoms at 64 px, from scratch", linear),
    "reuse": Scenario("results with and without the frozen-feature cache", reuse),
    "cache": Scenario("results with and without the image cache", cache),
    "cache-scale": Scenario("the index of large caches, and the rate of building one", cache_scale),
    "duplicates": Scenario("xrayfast check of made-up decoded images, 2,000 of them phantoms and copies", duplicates),
    "precision": Scenario("results in precision auto and fp32", precision),
    "tables": Scenario("a table of 14 labels opened as a data set, by rows", tables),
    "intervals": Scenario("metrics and intervals of 14 labels, by images", intervals),
    "distributed": Scenario("two processes against one with twice the batch", distributed),
    "rank-reads": Scenario("images that each rank reads", rank_reads),
}


IMAGE_MS = {"xrayfast": 5, "fastai": 105, "torchvision": 75, "timm": 70, "limit": 15}
"""Expected milliseconds per training image with a frozen backbone: resnet18, 224 px, two cores with AMX."""
UNFROZEN_MS = {"xrayfast": 48, "fastai": 150, "torchvision": 130, "timm": 150, "limit": 46}
ARCH = {"vgg16_bn": 10.0, "densenet121": 3.0}
START = {"xrayfast": 8, "fastai": 8, "torchvision": 5, "timm": 8, "limit": 9}


def expected(job: Job) -> float:
    """Return the expected seconds of a job."""
    settings, name = job.settings, job.contestant
    if job.task in ("index", "duplicates"):
        return 10 + settings["count"] * (1e-5 if job.task == "index" else 1e-3)
    if job.task == "help":
        return 5.0
    if job.task == "intervals":
        return 5.0 + settings["rows"] * (settings["resamples"] * 3e-7 + 2e-5)
    if job.task == "table":
        return 3.0 + settings["rows"] * 3e-5
    if job.task == "interpret":
        return 35.0
    if job.task == "start":
        return 25.0 * (settings["times"] + 1)
    image_set = ImageSet(*settings["images"])
    images, scale = image_set.images, (settings["size"] / 224) ** 2
    if job.task == "build":
        return 5 + images * 0.03
    if job.task == "loader":
        return 10 + images * (0.08 if name == "fastai" else 0.02)
    if job.task == "rank_reads":
        return 15 + images * 0.01
    if job.task == "predict":
        return 8 + images * 0.055
    scale *= ARCH.get(settings["arch"], 1.0)
    slow = 2.5 if name == "limit" and settings["precision"] == "fp32" else 1.0
    if name == "xrayfast" and ("off" in settings["options"] or settings["precision"] == "fp32"):
        slow = 2.2 if settings["unfreeze"] == "all" else 4.0
    unfrozen_ms = UNFROZEN_MS[name] if settings["unfreeze"] == "all" else IMAGE_MS[name] * 1.2
    head, epochs = settings["freeze_epochs"], settings["epochs"]
    if name == "limit":  # a few epochs of each phase, and one before
        head, epochs = 2 * head, min(epochs, 2) + 1
    ms = IMAGE_MS[name] * head
    ms += epochs * (IMAGE_MS[name] if settings["unfreeze"] == "none" else unfrozen_ms)
    weight = 1 - image_set.valid / 2  # validation costs half
    return START[name] + images * (weight * ms * scale * slow / 1000 + (image_set.px / 1024) ** 2 * 0.03)

"""A sentence or two on a row of the page: why it falls short, or what to know when reading it. By the row's key."""

EXPLANATIONS: dict[str, str] = {
    "frozen10": "About 17 s of ours (by the row on cost) do not grow with the films: torch and fastai are imported, "
    "intervals are drawn. "
    "With 160 training films instead of 192 it was 9.4 (28 s against 268) and 8.9 (30 s against 266).",
    "last-block": "On 96 training films the fixed start is most of our 32 s. Two rounds before had 5.2 (28 s against "
    "146) and 1.8, the latter while tests ran on the same cores.",
    "thawed": "In bf16, which this CPU has units for; the limit in fp32 is in the tables below.",
    "progressive": "Accuracy was compared on the 32 validation films of these runs only, after 18 steps: 0.635 with "
    "it, 0.719 without. So equality is not shown, and it is no default.",
    "limit": "xrayfast's epoch is timed without the writing of its checkpoint, which the totals hold. Above 1 is "
    "noise, and validation in larger batches.",
    "help": "The median of seven.",
    "vgg16_bn": "Random weights, time only: ImageNet's were not on the machine.",
    "densenet121": "Random weights, time only; on 24 training films the fixed start is most of our 20 s.",
    "distributed": "In fp32 and at rates one would train with, rounding alone moves the losses of a run by as much: "
    "one process with other convolution kernels (oneDNN switched off) differs from itself by 2e-3 within three epochs "
    "on darkcovid at 128 px. Where one process repeats itself, two do: tests/learning/test_distributed.py holds 1e-4.",
    "reuse": "Trained with one thread, beside other work: only accuracies count.",
}

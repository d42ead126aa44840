"""Sample pages made of random numbers, and functions that read pages in tests."""

import dataclasses
import functools
import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
from matplotlib.text import Text

from tests.decisions import fit_decision
from xrayfast.errors.escapes import is_hidden
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.operating_points.decision_curve import net_benefits
from xrayfast.metrics.registry import train_metrics
from xrayfast.metrics.subgroups import subgroups
from xrayfast.metrics.summary import summarize
from xrayfast.reporting.case import Case
from xrayfast.reporting.figures.overlays import SaliencyCase
from xrayfast.reporting.html.pages.evaluation_page import EvaluationData
from xrayfast.reporting.html.pages.run_page import ReportData
from xrayfast.reporting.html.plots import history_plot
from xrayfast.reporting.html.split_section import SplitReport
from xrayfast.reporting.overfitting import overfitting_in_history
from xrayfast.runs.info_types import RunInfo
from xrayfast.runs.predictions import Predictions

HOSTILE = "<script>alert('x')</script>\"'&{{ 7*7 }}$\\frac{$"
LABELS = {
    "single": ("covid-19", HOSTILE, "pneumonia"),
    "multi": ("Effusion", "Hernia", "images", HOSTILE),
}
MANY = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
FLOW = (("Image files", 60), (f"Left out: {HOSTILE}", 3), ("Images used", 57), ("Split train", 17), ("Split valid", 40))


def predictions(task, labels, n, seed=0):
    """Return predictions of n images of about n / 2 patients: overconfident probabilities, masked cells, and for
    multi-label one label ("Hernia") that no image has."""
    random = np.random.default_rng(seed)
    shape = n, len(labels)
    if task == "single":
        truth = np.eye(len(labels), dtype=np.int64)[random.integers(0, len(labels), n)]
        scores = 2 * random.normal(size=shape) + 3 * truth
        raw = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    else:
        truth = (random.random(shape) < np.linspace(0.5, 0.15, len(labels))).astype(np.int64)
        truth[:, labels.index("Hernia")] = 0
        raw = 1 / (1 + np.exp(-2 * (random.normal(size=shape) + 1.5 * truth - 1)))
        truth[random.random(shape) < 0.04] = -1
    patients = np.array([f"P{i:05d}" for i in random.integers(0, n // 2, n)], dtype=object)
    images = np.array([f"{i}.png" for i in range(n)], dtype=object)
    return Predictions(tuple(labels), images, patients, truth, raw, random.random(n), raw)


@functools.cache
def split_report(task, labels, name="valid", n=40, cases=2, saliency=1, resamples=25, divided=True, seed=0):
    """Return a split with all optional content, and the decision that was fitted on it."""
    sample = predictions(task, labels, n, seed)
    rule, positive = "f1" if task == "multi" else "youden", labels[0] if task == "single" and len(labels) == 2 else None
    decision = fit_decision(sample.truth, sample.raw, labels, task, rule=rule, positive=positive)
    sample = sample.calibrated(decision)
    settings = {"positive": positive}
    settings |= {"threshold": decision.thresholds, "groups": sample.groups, "resamples": resamples, "prevalence": 0.05}
    summary = summarize(sample.truth, sample.probability, labels, task, raw=sample.raw, **settings)
    summary["net_benefit"] = net_benefits(sample.truth, sample.probability, labels)
    if divided:
        random = np.random.default_rng(seed)
        values = {"sex": random.choice(["F", "M", ""], n, p=[0.45, 0.45, 0.1]), "view": random.choice(["AP", "PA"], n)}
        summary["subgroups"] = subgroups(sample.truth, sample.probability, labels, task, values, **settings)
    split = SplitReport(
        name, summary, top_losses(cases), HOSTILE, sample, explained(saliency, labels), (HOSTILE,) if saliency else ()
    )
    return split, decision


def top_losses(n):
    """Return cases with an image and a hostile name, and one whose file is missing."""
    pixels = noise((700, 600))
    shown = [Case(f"{HOSTILE}{'w' * 200}{i}.png", HOSTILE, "", 0.9, 3.0, pixels) for i in range(n)]
    return (*shown, Case("gone.png", "covid-19", "pneumonia", float("nan"), float("nan"), None))


def explained(n, labels):
    """Return cases with a heat map; the first has no share outside, and its labels are unknown."""
    pixels, heat = noise((320, 320)), np.eye(7)
    return tuple(
        SaliencyCase(
            f"{HOSTILE}{i}.png",
            labels[i % len(labels)],
            0.8,
            HOSTILE if i else None,
            "",
            pixels,
            heat,
            i / 100 if i else float("nan"),
            (0.1, 0.1, 0.9, 0.9),
        )
        for i in range(n)
    )


def noise(shape):
    """Return noise on a gradient, which compresses less well than most radiographs."""
    random = np.random.default_rng(0)
    slope = np.linspace(0, 200, shape[1])
    return (slope + random.normal(20, 8, shape)).clip(0, 255).astype(np.uint8)


def report(task="single", splits=("valid",), epochs=3, patients=True, labels=None, **settings):
    """Return a report on `splits`, with hostile names wherever names come from strangers."""
    labels = labels or LABELS[task]
    made = [split_report(task, labels, name, seed=i, **settings) for i, name in enumerate(splits)]
    metrics = ("accuracy", "precision_macro", "f1_macro", "auroc_macro")
    if task == "multi":
        metrics = ("subset_accuracy", "f1_macro", "auroc_macro", "ap_macro")
    history = pd.DataFrame({"epoch": range(1, epochs + 1), "phase": "head", "train_loss": 1.0, "valid_loss": 1.0})
    history = history.assign(**{f"valid_{name}": 0.5 for name in metrics}, lr=1e-3, seconds=2.0)
    history = history.assign(**{f"train_{name}": 0.75 for name in train_metrics(task)})
    history["valid_auroc_macro"] = np.nan
    rows = [*labels, "images", *(["patients"] if patients else [])]
    info = RunInfo.model_construct(
        finished="2025-11-22T10:30:00",
        command=f"xrayfast fit --labels {HOSTILE}",
        data_notes=[HOSTILE],
        best_epoch=2,
        remarks=[HOSTILE],
        flow=FLOW,
        audit=[HOSTILE],
    )
    return ReportData(
        run_name=HOSTILE,
        info=info,
        model_facts={"Network": "resnet18", "Batch size": HOSTILE, "Seed": "0"},
        task=task,
        labels=labels,
        counts=pd.DataFrame({"train": 10.0, "valid": 40.0, "test": np.nan}, index=rows),
        history=history,
        splits=tuple(split for split, _ in made),
        decision=made[0][1] if made else Decision(task, tuple(labels)),
        source=HOSTILE,
        curves=history_plot(history, 2),
        overfitting=overfitting_in_history(history, 2, task),
    )


def with_info(data, **fields):
    """Return the report with other fields of `run.json`."""
    return dataclasses.replace(data, info=data.info.model_copy(update=fields))


def evaluation(task="single", name="external", labels=None, **settings):
    """Return an evaluation with hostile names like those of `report`."""
    labels = labels or LABELS[task]
    split, decision = split_report(task, labels, name, **settings)
    return EvaluationData(
        run_name=HOSTILE,
        created="2025-11-22T10:30:00",
        command=f"xrayfast evaluate {HOSTILE}",
        task=task,
        labels=labels,
        metrics={
            "source": HOSTILE,
            "split": None,
            "images": {"found": 50, "left_out": [["seen in training", 7], [HOSTILE, 3]], "evaluated": 40},
            "labels": {"used": labels[:-1], "unknown": [["Fracture", 1200], [HOSTILE, 2]], "lacking": labels[-1:]},
            "warnings": [HOSTILE],
            "notes": [HOSTILE],
        },
        split=split,
        decision=decision,
    )


class Outline(HTMLParser):
    """Parses the ids of sections, the levels of headings, open elements, and every element with its attributes."""

    VOID = frozenset(("meta", "link", "img", "br"))

    def __init__(self, text):
        super().__init__()
        self.sections, self.levels, self.elements, self.open, self.wrong = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self.sections.append(dict(attrs)["id"])
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def of(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def visible(text):
    """Return the text that a reader sees, without style, script and tags."""
    body = re.sub(r"(?s)<(style|script)\b.*?</\1>", "", text)
    return html.unescape(re.sub(r"<[^>]*>", " ", body))


def numbers(content):
    """Return every number in the content of `metrics.json`, as JSON returns it."""
    found, left = set(), [json.loads(json.dumps(content))]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
        elif isinstance(one, (int, float)) and not isinstance(one, bool):
            found.add(float(one))
    return found


def shows_all(figure):
    """Whether no text of a figure has hidden characters, except its own line breaks."""
    return not any(map(is_hidden, "".join(text.get_text() for text in figure.findobj(Text)).replace("\n", "")))


def texts(drawn):
    """Return the texts in Axes, or in all axes of a Figure."""
    every = drawn.axes if isinstance(drawn.axes, list) else [drawn]
    return [text.get_text() for axes in every for text in axes.texts]


def lines(axes, gid):
    return [line for line in axes.lines if line.get_gid() == gid]

"""A run as a model card in Hugging Face's form.

The metadata follow the Hub's `modelcard.md`, the sections `modelcard_template.md` of huggingface_hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from xrayfast.files import write_text
from xrayfast.metrics.registry import EXACT_MATCH, metric_title, overall_metrics
from xrayfast.report.markdown.facts import (
    GAP,
    PURPOSE,
    SPLIT_TITLES,
    UNRECORDED,
    Facts,
    Markdown,
    estimate,
    filled,
    interval_note,
    share,
    table,
)
from xrayfast.report.markdown.sentences import (
    arch,
    augmentation,
    counts_table,
    decision_blocks,
    disjoint,
    duration,
    examination,
    external,
    flow_table,
    hardware,
    limits,
    network,
    preparation,
    result_blocks,
    selection,
    settings,
    source_of,
    split_words,
    start,
    test_blocks,
    versions,
)
from xrayfast.run import Run

_HUB_SPLITS = {"valid": "validation", "test": "test"}


def write_model_card(run: Run) -> Path:
    """Write `model_card.md` into the run's folder.

    Raises:
        RunError: a file of the run is damaged.
        WriteError: the card can't be written.
    """
    write_text(run.model_card_path, render(run))
    return run.model_card_path


def render(run: Run) -> str:
    """The model card of a run: YAML metadata, then Markdown.

    Raises:
        RunError: a file of the run is damaged.
    """
    return filled(run, "model_card.md.j2", _view)


def _view(facts: Facts) -> dict[str, Any]:
    """What the template shows."""
    info = facts.info
    return {
        "metadata": Markdown(yaml.safe_dump(metadata(facts), sort_keys=False, allow_unicode=True, width=1000).rstrip()),
        "name": facts.name,
        "purpose": PURPOSE,
        "gap": GAP,
        "kind": "one of" if facts.task == "single" else "any of",
        "labels": ", ".join(facts.labels),
        "summary": glance(facts),
        "arch": arch(facts),
        "network": network(facts),
        "start": start(facts),
        "limits": limits(facts),
        "code": Markdown(json.dumps(f"runs/{facts.name}")),
        "source": facts.config.data.source.name,
        "counts": counts_table(facts) or UNRECORDED,
        "notes": info.data_notes,
        "flow": flow_table(facts),
        "audit": info.audit,
        "disjoint": disjoint(facts),
        "preparation": preparation(facts),
        "augmentation": augmentation(facts),
        "settings": table(("Setting", "Value"), settings(facts)),
        "selection": selection(facts),
        "results": [(SPLIT_TITLES[split], result_blocks(facts, summary)) for split, summary in facts.results.items()],
        "tests": [(name, test_blocks(facts, test)) for name, test in facts.tests],
        "decision": decision_blocks(facts),
        "examination": examination(facts),
        "hardware": hardware(facts),
        "time": duration(facts),
        "platform": info.platform or UNRECORDED,
        "versions": versions(facts),
        "fingerprint": info.fingerprint or UNRECORDED,
    }


def glance(facts: Facts) -> str:
    """The main result in a sentence."""
    if facts.main is None:
        return "No results are recorded."
    split, summary = facts.main
    names = ("auroc_macro", EXACT_MATCH[facts.task])
    values = "; ".join(f"{metric_title(name)}: {estimate(summary, name)}" for name in names)
    return f"{SPLIT_TITLES[split]} split, {share(summary)}. {values}. {interval_note(summary)}"


def metadata(facts: Facts) -> dict[str, Any]:
    """What the Hub reads: plain values only.

    No license, since that of the weights is their author's choice; no base model and no data set, since the Hub takes
    only identifiers of its own for these.
    """
    results = [
        *(_result(facts, split, summary) for split, summary in facts.results.items()),
        *(_result(facts, test.get("split") or "", test["result"], test, name) for name, test in external(facts)),
    ]
    results = [result for result in results if result["metrics"]]
    kinds = [metric["type"] for result in results for metric in result["metrics"]]
    return {
        "library_name": "xrayfast",
        "pipeline_tag": "image-classification",
        "tags": ["xrayfast", "fastai", "image-classification", "medical-imaging", "chest-x-ray", _line(arch(facts))],
        **({"metrics": list(dict.fromkeys(kinds)), "model-index": [_index(facts, results)]} if results else {}),
    }


def _index(facts: Facts, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": _line(facts.name), "results": results}


def _result(
    facts: Facts, split: str, summary: Mapping[str, Any], test: Mapping[str, Any] | None = None, name: str = ""
) -> dict[str, Any]:
    overall = summary["overall"]
    source, of = (facts.config.data.source.name, "") if test is None else (source_of(test), f" (evaluation {name})")
    dataset = {"name": _line(f"{source}, {split_words(split)}{of}"), "type": "custom"}
    return {
        "task": {"type": "image-classification", "name": f"Chest radiographs, {facts.task}-label"},
        "dataset": {**dataset, **({"split": _HUB_SPLITS[split]} if split in _HUB_SPLITS else {})},
        "metrics": [
            {"type": metric.hub, "name": metric.title, "value": round(float(overall[name]), 6)}
            for name, metric in overall_metrics(facts.task).items()
            if metric.hub and overall.get(name) is not None
        ],
    }


def _line(text: str) -> str:
    """One line without what YAML can't hold."""
    return "".join(c if c.isprintable() else " " for c in text).strip() or UNRECORDED

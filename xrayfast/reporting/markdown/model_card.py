"""The model card of a run, in the format of Hugging Face.

The metadata follow the Hub's `modelcard.md`; the sections follow `modelcard_template.md` of huggingface_hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from xrayfast.config import DEFAULT_METRIC
from xrayfast.metrics.registry import EXACT_MATCH, metric_title, overall_metrics
from xrayfast.reporting.markdown import descriptions as say
from xrayfast.reporting.markdown.markup import UNRECORDED, Markdown, markdown_table, render_markdown
from xrayfast.reporting.markdown.metric_blocks import estimate, interval_note
from xrayfast.reporting.markdown.run_facts import RunFacts, read_cross_validation_facts
from xrayfast.reporting.wording import SPLIT_TITLES, images_of_patients, warning_sentences
from xrayfast.runs.cross_validation import CrossValidation

_HUB_SPLITS = {"valid": "validation", "test": "test"}
_TAGS = ("xrayfast", "fastai", "image-classification", "medical-imaging", "chest-x-ray")


def render_model_card(facts: RunFacts) -> str:
    """Return the model card of a run: YAML metadata, then Markdown."""
    return render_markdown("model_card.md.j2", _context(facts))


def render_cross_validation_card(cv: CrossValidation) -> str:
    """Return the model card of a cross-validation, all of whose networks predict."""
    facts = read_cross_validation_facts(cv)
    own = {
        "disjoint": [say.folds(cv)],
        "selection": say.fold_epochs(cv, facts),
        "decision": say.decision_blocks(facts, cv.chosen_on),
    }
    return render_markdown("model_card.md.j2", _context(facts) | own)


def render_published_card(facts: RunFacts, repository: str) -> str:
    """Return the model card of a run published as "ORG/NAME", from the facts that may be published."""
    own = {"code": Markdown(json.dumps(f"hf:{repository}")), "published": True}
    return render_markdown("model_card.md.j2", _context(facts) | own)


def _context(facts: RunFacts) -> dict[str, Any]:
    """Return the variables of the template, which describes the rest with the functions of `descriptions`."""
    return {
        "facts": facts,
        "say": say,
        "titles": SPLIT_TITLES,
        "metadata": Markdown(yaml.safe_dump(metadata(facts), sort_keys=False, allow_unicode=True, width=1000).rstrip()),
        "published": False,
        "warnings": warning_sentences(facts.main_split[1]) if facts.main_split else [],
        "summary": main_result(facts),
        "code": Markdown(json.dumps(f"runs/{facts.name}")),
        "disjoint": say.split_overlap(facts),
        "settings": markdown_table(("Setting", "Value"), say.hyperparameters(facts)),
        "selection": say.epoch_selection(facts),
        "decision": say.decision_blocks(facts),
    }


def main_result(facts: RunFacts) -> str:
    """Describe the main result."""
    if facts.main_split is None:
        return "No results are recorded."
    split, summary = facts.main_split
    names = (DEFAULT_METRIC, EXACT_MATCH[facts.task])
    values = "; ".join(f"{metric_title(name)}: {estimate(summary, name)}" for name in names)
    where = "images" if split == "folds" else "split"
    return f"{SPLIT_TITLES[split]} {where}, {images_of_patients(summary)}. {values}. {interval_note(summary)}"


def metadata(facts: RunFacts) -> dict[str, Any]:
    """Return the metadata for the Hub, as plain values.

    They have no license, since the author of the weights chooses it, and no base model and no data set, since the Hub
    takes only its own identifiers for these.
    """
    source = facts.config.data.source.name
    results = [_result(facts, source, split, summary) for split, summary in facts.results.items()]
    for name, metrics in say.external_tests(facts):
        where = say.source_name(metrics), metrics.get("split") or "", metrics["result"], f" (evaluation {name})"
        results.append(_result(facts, *where))
    results = [result for result in results if result["metrics"]]
    data: dict[str, Any] = {
        "library_name": "xrayfast",
        "pipeline_tag": "image-classification",
        "tags": [*_TAGS, _line(say.arch(facts))],
    }
    if results:
        data["metrics"] = list(dict.fromkeys(metric["type"] for result in results for metric in result["metrics"]))
        data["model-index"] = [{"name": _line(facts.name), "results": results}]
    return data


def _result(facts: RunFacts, source: str, split: str, summary: Mapping[str, Any], note: str = "") -> dict[str, Any]:
    overall, name = summary["overall"], _line(f"{source}, {say.split_phrase(split)}{note}")
    in_hub = {"split": _HUB_SPLITS[split]} if split in _HUB_SPLITS else {}
    return {
        "task": {"type": "image-classification", "name": f"Chest radiographs, {facts.task}-label"},
        "dataset": {"name": name, "type": "custom", **in_hub},
        "metrics": [
            {"type": metric.hub_name, "name": metric.title, "value": round(float(overall[key]), 6)}
            for key, metric in overall_metrics(facts.task).items()
            if metric.hub_name and overall.get(key) is not None
        ],
    }


def _line(text: str) -> str:
    """Return the text as one line without characters that YAML can't hold."""
    return "".join(c if c.isprintable() else " " for c in text).strip() or UNRECORDED

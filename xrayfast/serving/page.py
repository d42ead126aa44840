"""The web page, on which images are sent, with the classifier's results."""

from __future__ import annotations

from typing import Any

from xrayfast.errors import RunError, format_estimate
from xrayfast.exported.metadata import INTENDED_USE, ModelMetadata
from xrayfast.metrics.operating_points.decision import MOST_LIKELY_STAYS
from xrayfast.reporting.html.decision_section import decision_section
from xrayfast.reporting.html.pages.run_page import task_text
from xrayfast.reporting.html.render import render_served
from xrayfast.reporting.html.split_section import SplitName, SplitReport, split_section
from xrayfast.runs.cross_validation import CrossValidation
from xrayfast.runs.run import Run
from xrayfast.serving.classifier import Classifier
from xrayfast.serving.uploads import MAX_REQUEST_BYTES

NO_METRICS = (
    "An ONNX file contains no metrics of its run, only the facts below. 'xrayfast serve RUN' shows the metrics."
)


def render_page(classifier: Classifier) -> tuple[str, str]:
    """Return the page as HTML, and its Content-Security-Policy."""
    decision = classifier.decision
    split, problem = _measured(classifier.run, decision.task) if classifier.run else (None, "")
    metadata = classifier.metadata
    view = {
        "name": classifier.name,
        "task_text": task_text(decision.task, decision.labels),
        "intended_use": INTENDED_USE,
        "side": classifier.size,
        "max_bytes": MAX_REQUEST_BYTES,
        "no_saliency": classifier.no_saliency,
        "how": _how(classifier),
        "split": split,
        "problem": problem,
        "facts": [] if metadata is None else _facts(metadata),
        "no_metrics": NO_METRICS if metadata is not None else "",
        "decision": decision_section(decision),
    }
    return render_served(view)


def _how(classifier: Classifier) -> str:
    """Describe in sentences how images are shown and labels decided."""
    decision, size = classifier.decision, classifier.size
    sentences = [f"The image is shown as the network sees it, {size} × {size} pixels."]
    if any(threshold is not None for threshold in classifier.thresholds):
        sentences.append("A mark on each bar is the label's threshold.")
    if decision.is_one_vs_rest:
        sentences.append(MOST_LIKELY_STAYS)
    elif decision.task == "single" and not decision.points:
        sentences.append("The most likely class is predicted.")
    if classifier.abstain_below is not None:
        sentences.append(f"There is no answer if it would be less certain than {classifier.abstain_below:g}.")
    return " ".join([*sentences, classifier.no_saliency]).strip()


def _measured(run: Run, task: Any) -> tuple[dict[str, Any] | None, str]:
    """Return the first section of results in the run's report, or None and the reason why there is none."""
    try:
        metrics = run.metrics
    except RunError as error:
        return None, str(error)
    own = "test" if "test" in metrics else "valid"
    name: SplitName = "folds" if own == "valid" and CrossValidation.is_there(run.path) else own  # type: ignore[assignment]
    if own not in metrics:
        return None, "No split of this run has been evaluated."
    return split_section(SplitReport(name, metrics[own], (), "", blocks=()), task), ""  # type: ignore[literal-required]


def _facts(metadata: ModelMetadata) -> list[tuple[str, str]]:
    """Return titles and values for the comparison of an exported model with its run."""
    parity, auroc = metadata.parity, metadata.auroc
    facts = [
        ("Run", metadata.run or "not known"),
        ("Exported", f"{metadata.created[:10]} by xrayfast {metadata.xrayfast}".strip()),
        ("Weights", metadata.precision),
        ("Compared with its run on", f"{parity.images:,} images"),
        ("Largest difference in probability", f"{parity.largest:.2g}"),
        ("Images with a different decision", f"{parity.decisions:,}"),
    ]
    if auroc is not None and auroc.difference is not None:
        facts.append(("Mean AUROC less the run's", format_estimate(auroc.difference, dict(auroc))))
    return facts

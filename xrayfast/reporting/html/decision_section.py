"""The section of a page on calibration and thresholds."""

from __future__ import annotations

from typing import Any

from xrayfast.metrics.claims.headline import VALIDATION_IMAGES, optimism
from xrayfast.metrics.operating_points.calibration import Temperature
from xrayfast.metrics.operating_points.decision import MOST_LIKELY_STAYS, Decision
from xrayfast.reporting.html.results_tables import scalings_table, thresholds_table
from xrayfast.reporting.wording import NOT_CALIBRATED


def decision_section(decision: Decision, chosen_on: str = VALIDATION_IMAGES) -> dict[str, Any]:
    """Return the template variables of a decision; `chosen_on` names the images that it was chosen on."""
    return {
        "calibrated": decision.calibration is not None,
        "chosen": bool(decision.points),
        "chosen_on": chosen_on,
        "calibration_text": _calibration_text(decision, chosen_on),
        "scalings": scalings_table(decision),
        "thresholds_text": _thresholds_text(decision, chosen_on),
        "thresholds": thresholds_table(decision) if decision.points else None,
    }


def _calibration_text(decision: Decision, chosen_on: str) -> str:
    fitted = decision.calibration
    if fitted is None:
        return NOT_CALIBRATED
    if isinstance(fitted, Temperature):
        if fitted.temperature == 1:
            return f"No temperature could be fitted ({fitted.reason}), so probabilities are not calibrated."
        effect = "less" if fitted.temperature > 1 else "more"
        largest = f", the largest allowed, since {fitted.reason}" if fitted.reason else ""
        return (
            f"Temperature scaling: the network's logits are divided by {fitted.temperature:.3g}{largest}. It was "
            f"fitted on {chosen_on} and makes probabilities {effect} extreme. The most likely class of an image does "
            "not change."
        )
    exceptions = " Where that could not be done in full the table says why." if decision.uncalibrated else ""
    logit = decision.whose_logit
    return (
        f"Platt scaling: {logit} is multiplied by a slope, and a bias is added; both were fitted on {chosen_on}. "
        "A slope below 1 makes probabilities less extreme; the order of images does not change."
        f"{exceptions}"
    )


def _thresholds_text(decision: Decision, chosen_on: str) -> str:
    if not decision.points:
        if decision.task == "single":
            return "The most likely class is predicted; no thresholds were chosen."
        return "A label is predicted at a probability of 0.5 or more; no thresholds were chosen."
    whose = "Each label's threshold" if decision.positive is None or decision.is_one_vs_rest else "The threshold"
    text = (
        f"{whose} was chosen on {chosen_on}, for {decision.purpose}. Sensitivity and specificity are "
        "those on the same images, with exact (Clopper-Pearson) intervals, which assume independent images. "
        f"{optimism(chosen_on)}"
    )
    return " ".join(filter(None, [text, decision.shortfall, MOST_LIKELY_STAYS * decision.is_one_vs_rest]))

"""Fit a decision as on a validation split."""

from xrayfast.metrics.operating_points.decision import fit_calibration, with_thresholds


def fit_decision(truth, raw, labels, task, *, rule, target=None, confidence=None, groups=None, **options):
    """Fit calibration and then thresholds on the same images."""
    decision = fit_calibration(truth, raw, labels, task, groups=groups, **options)
    return with_thresholds(decision, truth, decision.calibrated(raw), rule, target, confidence, groups=groups)

"""The names of every metric, and the words that people read."""

from __future__ import annotations

from xrayfast.config import Task

_AVERAGED = {
    f"{rate}_{average}": f"{text}, {average}"
    for rate, text in {
        "precision": "Precision",
        "recall": "Recall (sensitivity)",
        "specificity": "Specificity",
        "f1": "F1",
    }.items()
    for average in ("macro", "micro", "weighted")
}
_RANKED = {
    "auroc_macro": "AUROC, macro",
    "auroc_micro": "AUROC, micro",
    "ap_macro": "Mean average precision",
    "ap_micro": "Average precision, micro",
}

OVERALL_METRICS: dict[Task, dict[str, str]] = {
    "single": {
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        **_AVERAGED,
        **_RANKED,
        "kappa": "Cohen's kappa",
        "kappa_quadratic": "Kappa, quadratic weights",
        "matthews": "Matthews' correlation",
        "brier": "Brier score",
        "log_loss": "Log loss",
        "ece": "Calibration error",
        "ece_mass": "Calibration error, equal mass",
    },
    "multi": {
        "subset_accuracy": "Subset accuracy",
        "balanced_accuracy_macro": "Balanced accuracy, macro",
        **_AVERAGED,
        **_RANKED,
        "kappa_macro": "Cohen's kappa, macro",
        "matthews_macro": "Matthews' correlation, macro",
        "brier_macro": "Brier score, macro",
        "log_loss_macro": "Log loss, macro",
        "ece_macro": "Calibration error, macro",
        "ece_mass_macro": "Calibration error, equal mass, macro",
    },
}
"""The metrics of a split, with the names that people read, by task: those of `summary.OVERALL` and more."""

HEADLINE: dict[Task, tuple[str, ...]] = {
    "single": ("accuracy", "balanced_accuracy", "f1_macro", "auroc_macro", "ap_macro", "ece"),
    "multi": ("subset_accuracy", "f1_macro", "auroc_macro", "ap_macro", "ece_macro"),
}
"""Those that are read first, in this order."""

LABEL_METRICS = {
    "precision": "Precision",
    "recall": "Recall (sensitivity)",
    "specificity": "Specificity",
    "npv": "Negative predictive value",
    "f1": "F1",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "kappa": "Cohen's kappa",
    "matthews": "Matthews' correlation",
    "auroc": "AUROC",
    "ap": "Average precision",
    "brier": "Brier score",
    "log_loss": "Log loss",
    "ece": "Calibration error",
    "ece_mass": "Calibration error, equal mass",
}
"""The metrics of one label against the rest: those of `summary.PER_LABEL` and more, without its count of images."""

AT_PREVALENCE = {
    "ppv_at_prevalence": "PPV at the stated prevalence",
    "npv_at_prevalence": "NPV at the stated prevalence",
}
"""The metrics of one label that are there too where a prevalence is stated."""

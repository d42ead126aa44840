"""How probabilities become decisions: calibration and thresholds, chosen on the validation split."""

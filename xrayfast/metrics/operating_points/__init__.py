"""How probabilities become calls: calibration and thresholds, chosen on the validation split."""

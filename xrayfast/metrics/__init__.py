"""Metrics computed from predictions: pure functions of numpy arrays, without torch."""

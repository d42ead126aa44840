"""Numbers from predictions: pure functions on numpy arrays, no torch."""

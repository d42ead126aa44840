"""Prediction and saliency with a trained network."""

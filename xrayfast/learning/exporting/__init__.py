"""Trained classifiers as single files: ONNX and torch.export."""

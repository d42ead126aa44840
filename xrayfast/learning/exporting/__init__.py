"""Export of trained classifiers as single files: ONNX and torch.export."""

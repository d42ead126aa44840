"""Classifiers that were exported as ONNX files, run without torch.

- `onnx_model`: `OnnxModel`, which predicts.
- `metadata`: what such a file says of itself.
- `inspection`: what is refused before the runtime sees a file.
"""

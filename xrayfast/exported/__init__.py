"""Classifiers that were exported as ONNX files, run without torch.

- `onnx_model`: `OnnxModel`, which predicts.
- `metadata`: what such a file says of itself.
- `onnx_predict`: a script that is written beside a file, and imports nothing of xrayfast.
- `inspection`: what is refused before the runtime sees a file.
"""

"""Classifiers that were exported as ONNX files, run without torch.

- `onnx_model`: `OnnxModel`, which predicts.
- `metadata`: the metadata of such a file.
- `onnx_predict`: a script to be written beside such a file; it does not import xrayfast.
- `inspection`: checks of a file before the runtime reads it.
"""

"""Runs told to a tracker of experiments while they train, with `--track`.

- `session`: what is told of a run, and when.
- `worker`: the thread that talks to a tracker, so that none can stop or slow training.
- `trackers`: TensorBoard, Weights & Biases, MLflow and Trackio, each behind one interface.
"""

"""Reports of runs to experiment trackers during training, with `--track`.

- `session`: what is sent about a run, and when.
- `worker`: the thread that calls a tracker, so that no tracker can stop or slow down training.
- `trackers`: TensorBoard, Weights & Biases, MLflow and Trackio, behind one interface.
"""

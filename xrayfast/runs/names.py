"""The names of the files and folders in a run's folder."""

CONFIG_FILE = "config.yaml"
LABELS_FILE = "labels.json"
MODEL_FILE = "model.safetensors"
SPLIT_FILE = "split.csv"
LEFT_OUT = "left_out.csv"
CORRECTIONS = "corrections.csv"
HISTORY_FILE = "history.csv"
BATCHES_FILE = "batches.csv"
METRICS_FILE = "metrics.json"
TRAINING_IMAGES_FILE = "training_images.json"
CHECKPOINT = "checkpoint"
EVALUATIONS = "evaluations"
FOLDS_FILE = "cross_validation.json"


def member_names(members: int) -> list[str]:
    """Return the names of the folders of a run's networks.

    >>> member_names(2)
    ['member-1', 'member-2']
    """
    return [f"member-{number}" for number in range(1, members + 1)]

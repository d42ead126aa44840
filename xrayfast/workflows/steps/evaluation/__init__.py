"""What is evaluated besides a run in its folder, and the files of an evaluation."""

"""Steps of an evaluation: opening an exported file in place of a run, and writing the evaluation's files."""

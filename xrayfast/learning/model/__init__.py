"""Networks, losses, optimizers and precision.

A name that does not exist, and options that contradict each other or the task, are a ConfigError; weights that are
missing, damaged or of another network are a WeightsError.
"""

"""Steps of the use cases: code that several workflows share, or that is long enough for its own module.

`fit` calls `members.train_run`, which calls `network.train_network` once or for each of `members`. That calls
`preparing.prepare` for a learner, `training.Training.run_phases` and `finishing.finish`, which calls `results`.

They raise the errors of the workflows: ConfigError for options, DataError for images and labels, RunError for a run
that is not complete, lacks a file or has a damaged one, and WriteError for a folder that can't be written to.
"""

import xrayfast.learning  # noqa: F401 - chooses how torch's threads wait before a module here imports torch

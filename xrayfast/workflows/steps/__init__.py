"""Steps of the use cases: code that several workflows share, or that is long enough for its own module."""

import xrayfast.learning  # noqa: F401 - chooses how torch's threads wait before a module here imports torch

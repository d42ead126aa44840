"""Steps of the use cases: code that several workflows share, or that is long enough for its own module."""

"""Steps of the use cases: what several workflows share, or what is long enough to stand in a module of its own."""

"""Steps of the use cases: what several workflows share, or what is long enough for a module of its own."""

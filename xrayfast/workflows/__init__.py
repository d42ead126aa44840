"""One use case a module: each a plain function that takes settings and returns data, and prints nothing."""

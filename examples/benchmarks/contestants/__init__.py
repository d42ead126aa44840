"""One module a contestant; each runs as a process of its own and prints one JSON line."""

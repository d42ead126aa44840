"""One module per contestant; each runs as its own process and prints one JSON line."""

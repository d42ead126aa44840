"""The callbacks of every run, and the order of all callbacks."""

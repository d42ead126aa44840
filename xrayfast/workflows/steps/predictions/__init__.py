"""Predictions that results are made of: a run's own, a table of any tool, of several networks, of files by study."""

"""The modules of published_grid.py: the experiments, their tables and their page."""

"""What published_grid.py is made of: the experiments, their tables and their page."""

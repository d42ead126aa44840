"""How figures look, and what a notebook shows of a result."""

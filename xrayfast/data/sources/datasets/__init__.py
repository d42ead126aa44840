"""The public collections that are recognised, one module each."""

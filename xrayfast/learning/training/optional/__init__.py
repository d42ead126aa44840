"""Optional features of the training loop, one module each."""

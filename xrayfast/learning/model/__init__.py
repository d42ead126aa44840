"""Networks, losses, optimizers and precision."""

"""What options add to the training loop."""
